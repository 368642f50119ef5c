//! Configuration of the `http` block, and the applications of all its locations.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use super::directives::MainSettings;
use super::interpreters::{self, Interpreter, RegisteredApplication};
use super::location::LocationConf;
use super::mounts::{self, MountedLocation};
use crate::app::source_files::Mechanism;
use crate::app::specification::Specification;
use crate::nginx::conf::Conf;
use crate::nginx::shared_memory::{AnonymousShm, ShmZone};
use crate::nginx::sys;
use crate::python::runtime::{self, Settings};

/// Content handler of a location, in nginx's form.
pub type ContentHandler = unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> isize;

static CONTENT_HANDLER: OnceLock<ContentHandler> = OnceLock::new();

/// Sets the content handler of locations with `wsgi_pass`. Only the first call has an effect.
pub fn set_content_handler(handler: ContentHandler) {
    let _ = CONTENT_HANDLER.set(handler);
}

pub(super) fn content_handler() -> Option<ContentHandler> {
    CONTENT_HANDLER.get().copied()
}

/// `wsgi_max_requests`: number of calls after which a worker process is recycled; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxRequests {
    pub calls: u64,
    /// Upper limit of the random number of calls that each worker process adds.
    pub jitter: u64,
}

/// Value of a directive that may stand once in the whole configuration.
#[derive(Clone, Debug)]
pub struct Located<T> {
    pub value: T,
    /// File and line of the directive; empty for a default.
    pub source_location: String,
}

impl<T> From<T> for Located<T> {
    fn from(value: T) -> Self {
        Self { value, source_location: String::new() }
    }
}

/// Shared words of the version commits, `words` for each application whose interpreter is replaced.
#[derive(Debug)]
struct VersionCommitShm {
    memory: AnonymousShm,
    words: usize,
}

/// Configuration of the `http` block: its own directives, and the applications of all locations.
#[derive(Debug, Default)]
pub struct MainConf {
    pub(super) settings: MainSettings,
    recycle_lock: Option<ShmZone>,
    version_commits: Option<VersionCommitShm>,
    applications: Vec<RegisteredApplication>,
    locations: Vec<MountedLocation>,
}

impl MainConf {
    /// Registers the application of a location. Locations with equal specifications share one application.
    pub(super) fn register(
        &mut self,
        specification: Specification,
        location: &LocationConf,
        source_location: &str,
    ) -> Arc<Specification> {
        let known = self.applications.iter().find(|known| *known.specification == specification);
        let specification = known.map_or_else(|| Arc::new(specification), |known| known.specification.clone());
        self.applications.push(RegisteredApplication {
            specification: specification.clone(),
            preload: location.preload(),
            reloading: location.reloading(),
            threads: location.threads(),
            gil: location.interpreter_gil(),
            copies: location.interpreters(),
            unused_interpreter: location.unused_interpreter().map(str::to_owned),
            request_buffering: location.request_buffering(),
            environment: location.env().cloned().unwrap_or_default(),
            source_location: source_location.to_owned(),
        });
        specification
    }

    /// Adds a location with an application.
    pub(super) fn mount(&mut self, location: MountedLocation) {
        self.locations.push(location);
    }

    /// Sets the mounts of all locations. Called when the whole configuration is read.
    pub fn resolve_mounts(&mut self) {
        mounts::resolve(&std::mem::take(&mut self.locations));
    }

    /// Checks the libpython that nginx has loaded, and the settings of all applications against each other.
    ///
    /// # Errors
    /// When they do not fit; the message names file and line.
    pub fn validate(&self) -> Result<(), String> {
        if self.applications.is_empty() {
            return Ok(());
        }
        let library = runtime::library_version();
        if !runtime::is_build_version(&library) {
            return Err(format!(
                "the WSGI module is built for Python {}, but this nginx has loaded libpython {library}: restart nginx \
                 instead of reloading it",
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
            self.recycle_lock = Some(ShmZone::add(conf, "ngx_http_wsgi_recycle_lock", 1)?);
        }
        let count = interpreters::count_replaced(&self.applications) * words_per_commit;
        if count > 0 {
            let memory = AnonymousShm::new(count)
                .map_err(|error| conf.emerg(&format!("cannot allocate shared memory: {error}")))?;
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

    /// Returns the settings of the Python runtime.
    pub fn python_settings(&self) -> Settings {
        Settings {
            home: self.python_home().map(|home| home.value.clone()),
            executable: self.python_executable().map(|executable| executable.value.clone()),
            path: self.python_path().map(|path| path.value.clone()).unwrap_or_default(),
            optimize: self.python_optimize().value,
            leave_no_byte_code: false,
        }
    }

    /// Returns the interpreters of each worker process; none without an application.
    pub fn interpreters(&self) -> Vec<Interpreter> {
        interpreters::of(&self.applications)
    }

    /// Returns file and line of the first `wsgi_pass` of an application.
    pub fn source_location(&self, specification: &Specification) -> &str {
        let found = self.applications.iter().find(|application| *application.specification == *specification);
        found.map_or("the configuration", |application| &application.source_location)
    }

    /// Returns file and line of the first application that is reloaded by a mechanism.
    pub fn source_location_of_mechanism(&self, mechanism: Mechanism) -> Option<&str> {
        let found = self.applications.iter().find(|application| application.has_mechanism(mechanism));
        found.map(|application| application.source_location.as_str())
    }
}
