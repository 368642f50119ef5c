//! Interpreters of a worker process: which applications share one, and whether their settings agree.

use std::sync::Arc;

use super::log::ApplicationLog;
use super::values::Threads;
use crate::app::source_files::{Mechanism, Reloading};
use crate::app::specification::{Placement, Specification};
use crate::python::threads::Gil;

/// Settings that one location has for its application.
#[derive(Clone, Debug)]
pub struct RegisteredApplication {
    pub specification: Arc<Specification>,
    pub preload: bool,
    /// `None` without `wsgi_script_reloading`.
    pub reloading: Option<Reloading>,
    pub threads: Threads,
    pub gil: Gil,
    pub copies: usize,
    pub request_buffering: bool,
    pub environment: Vec<(String, String)>,
    /// Value of a `wsgi_interpreter` that has no effect, because sub-interpreters are not enabled.
    pub unused_interpreter: Option<String>,
    /// File and line of its `wsgi_pass`.
    pub source_location: String,
    /// `wsgi_log` of the location.
    pub log: Option<Arc<ApplicationLog>>,
}

impl RegisteredApplication {
    /// Returns whether the application is reloaded by `mechanism`.
    pub fn has_mechanism(&self, mechanism: Mechanism) -> bool {
        self.reloading.as_ref().is_some_and(|reloading| reloading.mechanism == mechanism)
    }
}

/// An interpreter of each worker process, with the settings that its applications share.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// Name in the log and in `$wsgi_interpreter`.
    pub name: String,
    pub is_main: bool,
    pub gil: Gil,
    pub copies: usize,
    pub threads: Threads,
    pub environment: Vec<(String, String)>,
    /// Applications without duplicates.
    pub applications: Vec<Configured>,
}

/// An application, with the settings that its locations share.
#[derive(Clone, Debug)]
pub struct Configured {
    pub specification: Arc<Specification>,
    /// File and line of its first `wsgi_pass`.
    pub source_location: String,
    /// True if it is loaded when the worker process starts.
    pub preload: bool,
    pub reloading: Option<Reloading>,
    /// Log for its text outside of requests: that of its first location which has one.
    pub log: Option<Arc<ApplicationLog>>,
}

impl Configured {
    /// Returns whether its interpreter is replaced when its files change.
    pub fn is_replaced(&self) -> bool {
        self.reloading.as_ref().is_some_and(|reloading| reloading.mechanism == Mechanism::Interpreter)
    }
}

impl Interpreter {
    /// Returns the main interpreter, without an application.
    pub fn main_alone(threads: Threads) -> Self {
        Self {
            name: Placement::MAIN.to_owned(),
            is_main: true,
            gil: Gil::Shared,
            copies: 1,
            threads,
            environment: Vec::new(),
            applications: Vec::new(),
        }
    }
}

/// Returns the interpreters of `applications`: the main interpreter first, the others in the order of their first
/// `wsgi_pass`.
pub fn of(applications: &[RegisteredApplication]) -> Vec<Interpreter> {
    let mut found: Vec<Interpreter> = Vec::new();
    for application in applications {
        let specification = &application.specification;
        let known =
            found.iter().position(|known| known.applications[0].specification.shares_interpreter(specification));
        let index = known.unwrap_or_else(|| {
            found.push(Interpreter {
                name: specification.interpreter(),
                is_main: specification.placement == Placement::Main,
                gil: application.gil,
                copies: application.copies,
                threads: application.threads,
                environment: Vec::new(),
                applications: Vec::new(),
            });
            found.len() - 1
        });
        let interpreter = &mut found[index];
        for variable in &application.environment {
            if !interpreter.environment.contains(variable) {
                interpreter.environment.push(variable.clone());
            }
        }
        match interpreter.applications.iter_mut().find(|known| Arc::ptr_eq(&known.specification, specification)) {
            Some(known) => {
                known.preload |= application.preload;
                known.log = known.log.take().or_else(|| application.log.clone());
            }
            None => interpreter.applications.push(Configured {
                specification: specification.clone(),
                source_location: application.source_location.clone(),
                preload: application.preload,
                reloading: application.reloading.clone(),
                log: application.log.clone(),
            }),
        }
    }
    found.sort_by_key(|interpreter| !interpreter.is_main);
    found
}

/// Returns the number of applications whose interpreter is replaced when their files change.
pub fn count_replaced(applications: &[RegisteredApplication]) -> usize {
    let interpreters = of(applications);
    let all = interpreters.iter().flat_map(|interpreter| &interpreter.applications);
    all.filter(|application| application.is_replaced()).count()
}

/// Checks the settings of each location, and those of all locations against each other.
///
/// # Errors
/// If they contradict each other; the message names file and line of each `wsgi_pass`.
pub fn check<'a>(applications: impl IntoIterator<Item = &'a RegisteredApplication>) -> Result<(), String> {
    let applications: Vec<_> = applications.into_iter().collect();
    for (index, application) in applications.iter().enumerate() {
        check_alone(application)?;
        for before in &applications[..index] {
            check_pair(before, application)?;
        }
    }
    Ok(())
}

fn check_alone(application: &RegisteredApplication) -> Result<(), String> {
    let source_location = &application.source_location;
    if let Some(name) = &application.unused_interpreter {
        return Err(format!(
            "\"wsgi_interpreter {name}\" requires \"wsgi_enable_subinterpreters on\" for the application in \
             {source_location}"
        ));
    }
    let is_main = application.specification.placement == Placement::Main;
    if is_main && application.gil == Gil::Own {
        return Err(format!(
            "\"wsgi_interpreter_gil own\" is not possible for the application in {source_location}: it runs in the main \
             interpreter, which has the shared GIL; use \"wsgi_enable_subinterpreters on\""
        ));
    }
    if is_main && application.copies > 1 {
        return Err(format!(
            "\"wsgi_interpreters {}\" is not possible for the application in {source_location}: it runs in the main \
             interpreter, which has no copies; use \"wsgi_enable_subinterpreters on\"",
            application.copies
        ));
    }
    if is_main && application.has_mechanism(Mechanism::Interpreter) {
        return Err(format!(
            "\"wsgi_reload_mechanism interpreter\" is not possible for the application in {source_location}: it runs in \
             the main interpreter, which cannot be replaced; use \"wsgi_enable_subinterpreters on\""
        ));
    }
    if !is_main && application.threads == Threads::Off {
        return Err(format!(
            "\"wsgi_threads off\" is not possible for the application in {source_location}: the event loop thread runs \
             the main interpreter only; use threads, or \"wsgi_use_main_interpreter on\""
        ));
    }
    // A call that waits for its body on the event loop thread would keep nginx from reading that body.
    if !application.request_buffering && application.threads == Threads::Off {
        return Err(format!(
            "\"wsgi_request_buffering off\" requires threads, but the application in {source_location} has \"wsgi_threads \
             off\": a call that waits for its client would block the worker process"
        ));
    }
    Ok(())
}

fn check_pair(one: &RegisteredApplication, other: &RegisteredApplication) -> Result<(), String> {
    let both = format!("the applications in {} and {}", one.source_location, other.source_location);
    if !one.specification.shares_interpreter(&other.specification) {
        if (one.threads == Threads::Off) != (other.threads == Threads::Off) {
            return Err(format!(
                "\"wsgi_threads off\" is set for only one of {both}: the event loop would wait for the GIL while the \
                 threads of the other hold it; use threads for both, or a separate nginx for each"
            ));
        }
        return Ok(());
    }
    let differs = |directive: &str| {
        Err(format!("\"{directive}\" differs between {both}, which share an interpreter; use the same value for both"))
    };
    if one.threads != other.threads {
        return differs("wsgi_threads");
    }
    if one.gil != other.gil {
        return differs("wsgi_interpreter_gil");
    }
    if one.copies != other.copies {
        return differs("wsgi_interpreters");
    }
    if Arc::ptr_eq(&one.specification, &other.specification) {
        if one.reloading != other.reloading {
            return Err(format!(
                "\"wsgi_script_reloading\", \"wsgi_reload_mechanism\" or \"wsgi_reload_watch\" differs between {both}, \
                 which are the same; use the same values for both"
            ));
        }
    } else if one.has_mechanism(Mechanism::Interpreter) || other.has_mechanism(Mechanism::Interpreter) {
        return Err(format!(
            "\"wsgi_reload_mechanism interpreter\" is not possible for {both}, which share an interpreter; use a separate \
             interpreter for each"
        ));
    }
    for (name, value) in &one.environment {
        if other.environment.iter().any(|(known, other)| known == name && other != value) {
            return differs(&format!("wsgi_env {name}"));
        }
    }
    Ok(())
}
