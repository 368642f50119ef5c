//! The configuration of the `http` block: Python, and the applications that all its locations name.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::interpreters::{self, Interpreter, Registered};
use super::location::LocationConf;
use super::mounts::{self, Mounted};
use crate::app::source_files::Mechanism;
use crate::app::specification::Specification;
use crate::nginx::conf::Conf;
use crate::nginx::shared_memory::{AnonymousShm, ShmZone};
use crate::nginx::sys;
use crate::python::runtime::{self, Settings};

/// An nginx content handler.
pub type ContentHandler = unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> isize;

static CONTENT_HANDLER: OnceLock<ContentHandler> = OnceLock::new();

/// Names what makes the content of a location with `wsgi_pass`. The first call counts.
pub fn set_content_handler(handler: ContentHandler) {
    let _ = CONTENT_HANDLER.set(handler);
}

pub(super) fn content_handler() -> Option<ContentHandler> {
    CONTENT_HANDLER.get().copied()
}

/// `wsgi_max_requests`: calls that a worker serves before it retires; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxRequests {
    pub calls: u64,
    /// At most so many more, chosen at random for each worker.
    pub jitter: u64,
}

/// Shared words of the version commits, `words` for each application whose interpreter is replaced.
#[derive(Debug)]
struct VersionCommitShm {
    memory: AnonymousShm,
    words: usize,
}

/// The directives of the `http` level, and what merging the locations found.
#[derive(Debug, Default)]
pub struct MainConf {
    pub home: Option<std::path::PathBuf>,
    pub executable: Option<std::path::PathBuf>,
    pub path: Option<Vec<std::path::PathBuf>>,
    pub optimize: Option<u8>,
    /// File and line of each directive that sets one of these.
    pub python_places: BTreeMap<String, String>,
    pub shutdown_timeout: Option<Duration>,
    pub check: Option<bool>,
    pub check_timeout: Option<Duration>,
    pub max_requests: Option<MaxRequests>,
    pub max_memory: Option<u64>,

    recycle_lock: Option<ShmZone>,
    version_commits: Option<VersionCommitShm>,
    applications: Vec<Registered>,
    mounted: Vec<Mounted>,
}

impl MainConf {
    /// Notes the application of a location; locations that name the same one share it.
    pub(super) fn register(
        &mut self,
        specification: Specification,
        location: &LocationConf,
        place: &str,
    ) -> Arc<Specification> {
        let known = self.applications.iter().find(|known| *known.specification == specification);
        let specification = known.map_or_else(|| Arc::new(specification), |known| known.specification.clone());
        self.applications.push(Registered {
            specification: specification.clone(),
            preload: location.preload(),
            reloading: location.reloading(),
            threads: location.threads(),
            gil: location.interpreter_gil(),
            copies: location.interpreters(),
            idle_name: location.idle_interpreter().map(str::to_owned),
            request_buffering: location.request_buffering(),
            environment: location.environment.clone().unwrap_or_default(),
            place: place.to_owned(),
        });
        specification
    }

    /// Notes a location with an application, whose mount is found when all are known.
    pub(super) fn mount(&mut self, location: Mounted) {
        self.mounted.push(location);
    }

    /// Finds the mounts of all locations.
    pub fn settle_mounts(&mut self) {
        mounts::settle(&std::mem::take(&mut self.mounted));
    }

    /// Checks what can only be checked when all locations are known.
    ///
    /// # Errors
    /// One sentence that names the places in conflict.
    pub fn check(&self) -> Result<(), String> {
        if self.applications.is_empty() {
            return Ok(());
        }
        let library = runtime::library_version();
        if !runtime::is_build_version(&library) {
            return Err(format!(
                "the WSGI module is built for Python {}, but this nginx has loaded libpython {library}: a new module \
                 or Python needs a restart of nginx, not a reload",
                runtime::BUILD_VERSION
            ));
        }
        interpreters::check(&self.applications)
    }

    /// Allocates the memory that the workers share, if there are applications: the recycle lock, and
    /// `words_per_commit` words for each application whose interpreter is replaced.
    ///
    /// # Errors
    /// The cause has been logged.
    pub fn share(&mut self, conf: &Conf, words_per_commit: usize) -> Result<(), ()> {
        if !self.applications.is_empty() {
            self.recycle_lock = Some(ShmZone::add(conf, "ngx_http_wsgi_retirement", 1)?);
        }
        let count = interpreters::replaced(&self.applications) * words_per_commit;
        if count > 0 {
            let memory =
                AnonymousShm::new(count).map_err(|error| conf.emerg(&format!("no memory to share: {error}")))?;
            self.version_commits = Some(VersionCommitShm { memory, words: words_per_commit });
        }
        Ok(())
    }

    /// Returns the shared word of the recycle lock; `None` if there is no master that replaces a worker.
    pub fn recycle_lock(&self) -> Option<&'static AtomicU64> {
        self.recycle_lock.as_ref().and_then(ShmZone::get)?.first()
    }

    /// Returns the shared words of the version commits, one slice for each application whose interpreter is replaced.
    /// Called once, in a worker.
    pub fn version_commits(&self) -> Vec<&'static [AtomicU64]> {
        let shared = self.version_commits.as_ref();
        shared.map(|shared| shared.memory.keep().chunks(shared.words).collect()).unwrap_or_default()
    }

    /// What Python is started with.
    pub fn settings(&self) -> Settings {
        Settings {
            home: self.home.clone(),
            executable: self.executable.clone(),
            path: self.path.clone().unwrap_or_default(),
            optimize: self.optimize.unwrap_or(0),
            leave_no_byte_code: false,
        }
    }

    /// The interpreters of a worker; none when there is no application.
    pub fn interpreters(&self) -> Vec<Interpreter> {
        interpreters::of(&self.applications)
    }

    /// `wsgi_shutdown_timeout`.
    pub fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout.unwrap_or(Duration::from_secs(10))
    }

    /// `wsgi_check`.
    pub fn checks(&self) -> bool {
        self.check.unwrap_or(true)
    }

    /// `wsgi_check_timeout`.
    pub fn check_timeout(&self) -> Duration {
        self.check_timeout.unwrap_or(Duration::from_secs(30))
    }

    /// File and line of the first `wsgi_pass` of an application.
    pub fn place(&self, specification: &Specification) -> &str {
        let found = self.applications.iter().find(|application| *application.specification == *specification);
        found.map_or("the configuration", |application| &application.place)
    }

    /// File and line of the first application that is reloaded by this mechanism.
    pub fn place_with_mechanism(&self, mechanism: Mechanism) -> Option<&str> {
        let found = self.applications.iter().find(|application| application.has_mechanism(mechanism));
        found.map(|application| application.place.as_str())
    }

    /// `wsgi_max_requests`.
    pub fn max_requests(&self) -> MaxRequests {
        self.max_requests.unwrap_or(MaxRequests { calls: 0, jitter: 0 })
    }

    /// `wsgi_max_memory`: resident memory in bytes above which a worker retires; 0 is no limit.
    pub fn max_memory(&self) -> u64 {
        self.max_memory.unwrap_or(0)
    }
}
