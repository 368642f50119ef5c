//! The configuration of the `http` block: Python, and the applications that all its locations name.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::location::{LocationConf, Threads};
use crate::app::specification::Specification;
use crate::nginx::conf::Conf;
use crate::nginx::shared::SharedWord;
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

/// The directives of the `http` level, and what merging the locations found.
#[derive(Debug, Default)]
pub struct MainConf {
    pub home: Option<std::path::PathBuf>,
    pub executable: Option<std::path::PathBuf>,
    pub path: Option<Vec<std::path::PathBuf>>,
    pub optimize: Option<u8>,
    pub shutdown_timeout: Option<Duration>,
    pub check: Option<bool>,
    pub check_timeout: Option<Duration>,
    pub max_requests: Option<MaxRequests>,
    pub max_memory: Option<u64>,

    token: Option<SharedWord>,
    applications: Vec<Registered>,
}

/// An application with what its locations say of it.
#[derive(Debug)]
struct Registered {
    specification: Arc<Specification>,
    preload: bool,
    threads: Threads,
    request_buffering: bool,
    environment: Vec<(String, String)>,
    place: String,
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
            threads: location.threads(),
            request_buffering: location.request_buffering(),
            environment: location.environment.clone().unwrap_or_default(),
            place: place.to_owned(),
        });
        specification
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
        self.check_threads()?;
        self.check_request_buffering()?;
        self.environment().map(drop)
    }

    /// Asks nginx for the memory that the workers share, when there are applications.
    ///
    /// # Errors
    /// nginx has logged why.
    pub fn share(&mut self, conf: &Conf) -> Result<(), ()> {
        if !self.applications.is_empty() {
            self.token = Some(SharedWord::add(conf, "ngx_http_wsgi_retirement")?);
        }
        Ok(())
    }

    /// What the workers take turns with to retire. In a worker.
    pub fn token(&self) -> Option<&'static AtomicU64> {
        self.token.as_ref().and_then(SharedWord::get)
    }

    /// All applications share the main interpreter, and a pool belongs to an interpreter.
    fn check_threads(&self) -> Result<(), String> {
        let Some(first) = self.applications.first() else {
            return Ok(());
        };
        match self.applications.iter().find(|other| other.threads != first.threads) {
            None => Ok(()),
            Some(other) => Err(format!(
                "\"wsgi_threads\" differs between the applications of {} and {}, which share an interpreter and so its \
                 threads",
                first.place, other.place
            )),
        }
    }

    /// On the event loop thread nobody could read a body while the call waits for it.
    fn check_request_buffering(&self) -> Result<(), String> {
        let streams = |application: &&Registered| !application.request_buffering && application.threads == Threads::Off;
        match self.applications.iter().find(streams) {
            None => Ok(()),
            Some(application) => Err(format!(
                "\"wsgi_request_buffering off\" needs threads, but the application of {} has \"wsgi_threads off\": a \
                 call that waits for its client would stop the worker",
                application.place
            )),
        }
    }

    /// The variables of all `wsgi_env`.
    ///
    /// # Errors
    /// When two locations give one variable different values.
    pub fn environment(&self) -> Result<Vec<(String, String)>, String> {
        let mut all: Vec<(&str, &str, &str)> = Vec::new();
        for application in &self.applications {
            for (name, value) in &application.environment {
                match all.iter().find(|(known, _, _)| known == name) {
                    None => all.push((name, value, &application.place)),
                    Some((_, known, _)) if known == value => {}
                    Some((_, _, place)) => {
                        return Err(format!(
                            "\"wsgi_env {name}\" differs between the applications of {place} and {}, which share an \
                             interpreter and so its environment",
                            application.place
                        ));
                    }
                }
            }
        }
        Ok(all.into_iter().map(|(name, value, _)| (name.to_owned(), value.to_owned())).collect())
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

    /// Where calls run; `None` when there is no application.
    pub fn threads(&self) -> Option<Threads> {
        self.applications.first().map(|application| application.threads)
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

    /// `wsgi_max_requests`.
    pub fn max_requests(&self) -> MaxRequests {
        self.max_requests.unwrap_or(MaxRequests { calls: 0, jitter: 0 })
    }

    /// `wsgi_max_memory`: resident memory in bytes above which a worker retires; 0 is no limit.
    pub fn max_memory(&self) -> u64 {
        self.max_memory.unwrap_or(0)
    }

    /// Each application once, with whether it is to be loaded at the start.
    pub fn applications(&self) -> Vec<(Arc<Specification>, bool)> {
        let mut distinct: Vec<(Arc<Specification>, bool)> = Vec::new();
        for application in &self.applications {
            match distinct.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &application.specification)) {
                Some((_, preload)) => *preload |= application.preload,
                None => distinct.push((application.specification.clone(), application.preload)),
            }
        }
        distinct
    }
}
