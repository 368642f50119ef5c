//! EngineConfig of the `http` block, and the applications of all its locations.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::group_location::{self, GroupLocation};
use super::interpreters::{self, Interpreter, RegisteredApplication};
use super::mounts::{self, MountedLocation};
use super::process_group::{self, ProcessGroup};
use super::setters;
use super::settings::settings;
use super::status_zone::{self, InstanceStatus, StatusZone};
use super::values::{Located, MaxRequests, Status, StatusKind, Threads};
use crate::app::source_files::Mechanism;
use crate::app::specification::Specification;
use crate::nginx::conf::Conf;
use crate::nginx::cycle::ReadReason;
use crate::nginx::directive::{HTTP, Problem, main};
use crate::nginx::shared_memory::{AnonymousShm, ShmZone};
use crate::nginx::sys::{
    NGX_CONF_1MORE as ONE_OR_MORE, NGX_CONF_FLAG as FLAG, NGX_CONF_TAKE1 as TAKE1, NGX_CONF_TAKE12 as TAKE12,
    NGX_CONF_TAKE23 as TAKE23,
};
use crate::os::run_directory;
use crate::python::runtime::{self, PythonSettings};

/// `wsgi_socket_path` by default, relative to the prefix.
const DEFAULT_SOCKET_PATH: &str = "wsgi_run";

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
    /// Defines a group of processes with a user and a Python of their own.
    process_group: Vec<ProcessGroup>, HTTP | ONE_OR_MORE, process_group::define, level;
    /// Sets the directory of the sockets and configurations of process groups.
    socket_path: PathBuf => "wsgi_run", HTTP | TAKE1, process_group::socket_path, level;
    /// Counts the calls of all worker processes in shared memory.
    status_zone: StatusZone, HTTP | TAKE23, status_zone::set, level;
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
    /// Memory of `wsgi_status_zone`.
    pub(super) status_memory: Option<ShmZone>,
    version_commits: Option<VersionCommitShm>,
    balance_words: Option<AnonymousShm>,
    applications: Vec<RegisteredApplication>,
    locations: Vec<MountedLocation>,
    /// Directory of the process groups, once one is defined.
    run_directory: Option<PathBuf>,
    /// Name of the process group that this nginx is an instance of.
    instance: Option<String>,
    /// Number of processes of that group at the most.
    instance_processes: Option<usize>,
    /// Locations with `wsgi_status`.
    status_locations: Vec<Status>,
    /// Status of that instance, if its front has a `wsgi_status_zone`.
    pub(super) instance_status: Option<InstanceStatus>,
    /// Number of locations of each server, kind and name.
    location_counts: HashMap<String, usize>,
}

impl MainConf {
    /// Returns whether this nginx is an instance of a process group.
    pub fn is_instance(&self) -> bool {
        self.instance.is_some()
    }

    /// Returns the name of the process group that this nginx is an instance of.
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }

    /// Returns the number of processes that run the applications at the most, given that of this nginx's workers.
    pub fn processes(&self, workers: usize) -> usize {
        self.instance_processes.unwrap_or(workers)
    }

    /// Makes this nginx an instance of a process group of so many processes at the most.
    pub(super) fn set_instance(&mut self, group: &str, processes: usize) {
        self.instance = Some(group.to_owned());
        self.instance_processes = Some(processes);
    }

    /// Returns the number of a location: the next one of its server, kind and name.
    pub(super) fn next_location_id(&mut self, server_names: &[&[u8]], kind: &str, name: &[u8]) -> String {
        let count = self.location_counts.entry(group_location::id(server_names, kind, name, 0)).or_default();
        *count += 1;
        group_location::id(server_names, kind, name, *count - 1)
    }

    /// Returns the process groups.
    pub fn process_groups(&self) -> &[ProcessGroup] {
        self.process_group().map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the directory of the process groups. The process that starts nginx claims it.
    ///
    /// # Errors
    /// If it cannot be created or claimed.
    pub(super) fn run_directory(&mut self, cf: &Conf) -> Result<&Path, Problem> {
        if self.run_directory.is_none() {
            let parent = match self.socket_path() {
                Some(path) => path.clone(),
                None => cf.full_path(DEFAULT_SOCKET_PATH).ok_or(Problem::Logged)?,
            };
            let directory = match cf.new_cycle().read_reason() {
                ReadReason::Signal | ReadReason::Test => parent,
                ReadReason::Start | ReadReason::Upgrade | ReadReason::Reload => {
                    run_directory::claim(&parent).map(|claimed| claimed.directory).map_err(|error| {
                        format!(
                            "cannot use \"{}\" for process groups (\"wsgi_socket_path\"): {error}",
                            parent.display()
                        )
                    })?
                }
            };
            self.run_directory = Some(directory);
        }
        self.run_directory.as_deref().ok_or(Problem::Logged)
    }

    /// Returns the directory of the process groups, once one is defined.
    pub fn claimed_directory(&self) -> Option<&Path> {
        self.run_directory.as_deref()
    }

    /// Returns true if a process group has this name.
    pub(super) fn has_process_group(&self, name: &str) -> bool {
        self.process_groups().iter().any(|group| group.name == name)
    }

    /// Returns the `threads=` of a process group.
    pub(super) fn threads_of_group(&self, name: &str) -> Option<Threads> {
        self.process_groups().iter().find(|group| group.name == name)?.threads
    }

    /// Registers a location of a process group. Locations of a group with equal specifications share one application.
    pub(super) fn register_in_group(&mut self, name: &str, mut location: GroupLocation) -> Arc<Specification> {
        let mut groups = self.settings.process_group.iter_mut().flatten();
        let Some(ProcessGroup { locations, .. }) = groups.find(|group| group.name == name) else {
            // The setter of wsgi_pass has refused it.
            return location.application.specification;
        };
        let mut all = locations.iter().map(|known| &known.application.specification);
        if let Some(known) = all.find(|known| **known == location.application.specification) {
            location.application.specification = known.clone();
        }
        let specification = location.application.specification.clone();
        // An `if` block with the settings of its location is the same location.
        if locations.iter().all(|known| known.id != location.id) {
            locations.push(location);
        }
        specification
    }

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

    /// Notes a location with `wsgi_status`.
    pub(super) fn add_status(&mut self, status: &Status) {
        self.status_locations.push(status.clone());
    }

    /// Returns true if a location has `wsgi_status`.
    pub fn has_status(&self) -> bool {
        !self.status_locations.is_empty()
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
        self.process_groups().iter().try_for_each(ProcessGroup::validate)?;
        let mut reports = self.status_locations.iter().filter(|status| status.kind == StatusKind::Report);
        if self.status_zone().is_none()
            && let Some(status) = reports.next()
        {
            return Err(format!(
                "\"wsgi_status\" in {} needs the counters of \"wsgi_status_zone\": add \"wsgi_status_zone wsgi 1m;\" to the \
                 http block",
                status.source_location
            ));
        }
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

    /// Returns the shared words of `wsgi_status_zone` in a worker, `None` without a master or without that directive.
    pub fn status_words(&self) -> Option<&'static [AtomicU64]> {
        self.status_memory.as_ref().and_then(ShmZone::get)
    }

    /// Returns the status of this instance of a process group, if its front has a `wsgi_status_zone`.
    pub fn instance_status(&self) -> Option<InstanceStatus> {
        self.instance_status
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
