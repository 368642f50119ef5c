//! EngineConfig of the `http` block, and the applications of all its locations.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::interpreters::{self, Interpreter, RegisteredApplication};
use super::mounts::{self, MountedLocation};
use super::setters;
use super::settings::settings;
use super::values::{Located, MaxRequests};
use crate::app::source_files::Mechanism;
use crate::app::specification::Specification;
use crate::nginx::conf::Conf;
use crate::nginx::directive::{HTTP, main};
use crate::nginx::shared_memory::{AnonymousShm, ShmZone};
use crate::nginx::sys::{
    NGX_CONF_1MORE as ONE_OR_MORE, NGX_CONF_FLAG as FLAG, NGX_CONF_TAKE1 as TAKE1, NGX_CONF_TAKE12 as TAKE12,
};
use crate::python::runtime::{self, PythonSettings};

settings! {
    /// Directives of the `http` block only.
    pub struct MainSettings of MainConf by main;

    /// Imports each application during `nginx -t` and before a reload.
    check: bool = true, HTTP | FLAG, setters::flag;
    /// Limits the time of all imports of `wsgi_check` together.
    check_timeout: Duration = Duration::from_secs(30), HTTP | TAKE1, setters::positive_time;
    /// Names the virtual environment or the installation prefix of Python.
    python_home: Located<PathBuf>, HTTP | TAKE1, setters::python_home;
    /// Names the Python interpreter whose packages are used.
    python_executable: Located<PathBuf>, HTTP | TAKE1, setters::python_executable;
    /// Adds directories to the front of `sys.path`.
    python_path: Located<Vec<PathBuf>>, HTTP | ONE_OR_MORE, setters::python_path;
    /// Sets the optimization level, like `python -O`.
    python_optimize: Located<u8> = 0.into(), HTTP | TAKE1, setters::python_optimize;
    /// Leaves new connections to workers with free threads.
    balance: bool = true, HTTP | FLAG, setters::flag;
    /// Recycles a worker process after this number of calls.
    max_requests: MaxRequests = MaxRequests { calls: 0, jitter: 0 }, HTTP | TAKE12, setters::max_requests;
    /// Recycles a worker process whose memory exceeds this size.
    max_memory: u64 = 0, HTTP | TAKE1, setters::size;
    /// Limits the time that an exiting worker process waits for its calls.
    shutdown_timeout: Duration = Duration::from_secs(10), HTTP | TAKE1, setters::time;
}

/// Shared words of the version commits, `words` for each application whose interpreter is replaced.
#[derive(Debug)]
struct VersionCommitShm {
    memory: AnonymousShm,
    words: usize,
}

/// EngineConfig of the `http` block: its own directives, and the applications of all locations.
#[derive(Debug, Default)]
pub struct MainConf {
    pub(super) settings: MainSettings,
    recycle_lock: Option<ShmZone>,
    version_commits: Option<VersionCommitShm>,
    balance_words: Option<AnonymousShm>,
    applications: Vec<RegisteredApplication>,
    locations: Vec<MountedLocation>,
}

impl MainConf {
    /// Registers the application of a location. Locations with equal specifications share one application.
    pub(super) fn register(&mut self, mut application: RegisteredApplication) -> Arc<Specification> {
        if let Some(known) = self.applications.iter().find(|known| known.specification == application.specification) {
            application.specification = known.specification.clone();
        }
        let specification = application.specification.clone();
        self.applications.push(application);
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
    /// If they do not fit; the message names file and line.
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

    /// Allocates the memory that the workers share, if there are applications: the recycle lock, `balance_words` words
    /// for `wsgi_balance`, and `words_per_commit` words for each application whose interpreter is replaced.
    ///
    /// # Errors
    /// The cause has been logged.
    pub fn share(&mut self, conf: &Conf, words_per_commit: usize, balance_words: usize) -> Result<(), ()> {
        let allocate = |count| {
            AnonymousShm::new(count).map_err(|error| conf.emerg(&format!("cannot allocate shared memory: {error}")))
        };
        if !self.applications.is_empty() {
            self.recycle_lock = Some(ShmZone::add(conf, "ngx_http_wsgi_recycle_lock", 1)?);
            self.balance_words = if self.balance() { Some(allocate(balance_words)?) } else { None };
        }
        let count = interpreters::count_replaced(&self.applications) * words_per_commit;
        if count > 0 {
            self.version_commits = Some(VersionCommitShm { memory: allocate(count)?, words: words_per_commit });
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

    /// Returns the shared words of `wsgi_balance`, `None` if it is off. Called once, in a worker.
    pub fn balance_words(&self) -> Option<&'static [AtomicU64]> {
        self.balance_words.as_ref().map(AnonymousShm::keep)
    }

    /// Returns the settings of the Python runtime.
    pub fn python_settings(&self) -> PythonSettings {
        PythonSettings {
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
