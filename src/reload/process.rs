//! `wsgi_reload_mechanism process`: workers are recycled one after another, and their replacements load the new code.
//!
//! A replacement has nothing but the code on disk. So a worker that holds the recycle lock first imports all applications
//! that it has loaded in a child process, and exits only if that succeeds. The child comes from a fork server, because the
//! worker has threads by then: a child of its own could not start Python.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use super::mechanism::ReloadMechanism;
use super::preflight::{self, Preflight};
use crate::app::application::Reload;
use crate::app::source_files::{Files, Mechanism};
use crate::app::specification::Specification;
use crate::conf::interpreters::Configured;
use crate::conf::main::MainConf;
use crate::nginx::cycle::{NewCycle, ReadReason};
use crate::nginx::log::{Level, Log};
use crate::nginx::worker_process::{self, Role, set_process_title};
use crate::os::child::ChildProcess;
use crate::os::fork_server::ForkServer;
use crate::os::reporter::Report;
use crate::python::log;
use crate::worker::config::WorkerConfig;
use crate::worker::event_loop::Message;
use crate::worker::recycle::PreflightResult;
use crate::worker::{Worker, WorkerApplication};

/// Fork server for the preflights of this worker; without one, the reason as it ends "cannot be recycled …".
pub type PreflightServer = Result<Arc<ForkServer>, String>;

/// Warns that the mechanism has no effect in a configuration without a master.
pub fn warn_without_master(conf: &MainConf, cycle: NewCycle) {
    if !cycle.has_master()
        && cycle.read_reason() != ReadReason::Signal
        && let Some(source_location) = conf.source_location_of_mechanism(Mechanism::Process)
    {
        let message = format!(
            "\"wsgi_reload_mechanism process\" has no effect with \"master_process off\", for the application in \
             {source_location}"
        );
        cycle.log().write(Level::Warn, &message);
    }
}

/// Starts the fork server, if an application is reloaded by this mechanism. Called before this process has another
/// thread.
pub fn start_preflight_server(config: &WorkerConfig) -> Option<PreflightServer> {
    let by_process = |application: &Configured| {
        application.reloading.as_ref().is_some_and(|reloading| reloading.mechanism == Mechanism::Process)
    };
    if !config.applications().any(by_process) {
        return None;
    }
    if worker_process::role() != Role::Worker {
        return Some(Err("with \"master_process off\"".to_owned()));
    }
    let server = ForkServer::start(set_title, |applications| import_in_child(config, applications));
    Some(server.map(Arc::new).map_err(|error| format!("without a preflight process ({error})")))
}

/// Application whose worker is recycled.
pub struct ProcessReload {
    worker: &'static Worker,
    application: WorkerApplication,
    server: PreflightServer,
}

impl ProcessReload {
    /// Makes the reload of an application of `worker`.
    pub fn new(worker: &'static Worker, application: WorkerApplication, server: PreflightServer) -> Self {
        Self { worker, application, server }
    }
}

impl ReloadMechanism for ProcessReload {
    fn before_call(&self, files: &Files) -> bool {
        self.server.is_ok()
            && files.script_needs_reload()
            && self.worker.is_loaded(&self.application)
            && files.discover()
    }

    fn check_files(&'static self, files: &'static Files) {
        // An application not yet loaded will read the current files on its first call.
        if !self.worker.is_loaded(&self.application) || !files.needs_reload() {
            return;
        }
        let name = self.application.application.name();
        let changed = describe_change(name, &files.changed());
        let task: Box<dyn FnOnce() + Send> = match &self.server {
            Ok(server) => Box::new(move || {
                let start_preflight = || start_preflight(self.worker, server.clone());
                self.worker.recycler.recycle_if_loadable(changed, Box::new(start_preflight));
            }),
            Err(reason) => {
                files.note();
                let message = format!("wsgi: worker cannot be recycled {reason}: {changed}");
                Box::new(move || Log::cycle().write(Level::Warn, &message))
            }
        };
        self.worker.event_loop.send(Message::Run(task));
    }
}

/// Describes the change of an application for the error log.
fn describe_change(application: &str, changed: &[PathBuf]) -> String {
    const NAMED: usize = 3;
    let names: Vec<String> = changed.iter().take(NAMED).map(|path| path.display().to_string()).collect();
    let names = names.join(", ");
    match changed.len() {
        // The failed version may find now what it lacked.
        0 => format!("retry of application \"{application}\""),
        count if count > NAMED => {
            format!("files of application \"{application}\" changed: {names} and {} more", count - NAMED)
        }
        _ => format!("files of application \"{application}\" changed: {names}"),
    }
}

/// Starts a preflight of the code on disk, whose result goes to the recycler. Never waits.
fn start_preflight(worker: &'static Worker, server: Arc<ForkServer>) {
    let send_result = move |result| {
        let task = Box::new(move || worker.recycler.on_preflight_result(result));
        worker.event_loop.send(Message::Run(task));
    };
    let run = move || {
        let (result, changed) = run_preflight(worker, &server);
        send_result(result);
        // After the result: changes in the meantime are found now, and start the next preflight.
        for application in changed {
            match application.application.reload() {
                Some(Reload { files, .. }) if result == PreflightResult::Failed => files.failed(),
                Some(Reload { files, .. }) => files.hint(),
                None => {}
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("wsgi-preflight".to_owned()).spawn(run) {
        Log::cycle().write(Level::Alert, &format!("wsgi: cannot start a thread for a preflight: {error}"));
        send_result(PreflightResult::Failed);
    }
}

/// Imports the code on disk. Returns the result, and the applications whose files have changed.
fn run_preflight(worker: &Worker, server: &ForkServer) -> (PreflightResult, Vec<WorkerApplication>) {
    let applications = worker.applications();
    let mut changed = applications.clone();
    changed.retain(has_changed);
    for application in &changed {
        if let Some(Reload { files, .. }) = application.application.reload() {
            files.note();
        }
    }
    // An application that is not loaded responds with 500 already, and may do so in the next worker.
    let numbered = applications.iter().zip(0u32..);
    let loaded: Vec<u32> =
        numbered.filter(|(application, _)| worker.is_loaded(application)).map(|(_, number)| number).collect();
    let result = match server.run(&loaded) {
        Ok(Report::Done) if changed.iter().any(has_changed) => PreflightResult::Outdated,
        Ok(Report::Done) => PreflightResult::Passed,
        Ok(Report::Failed(text) | Report::Fatal(text)) => {
            log::error(&text);
            PreflightResult::Failed
        }
        Err(error) => {
            log::error(&format!(
                "wsgi: preflight failed, keeping the previous version: preflight process has exited ({error}), a reload \
                 of nginx starts another"
            ));
            PreflightResult::Failed
        }
    };
    (result, changed)
}

fn has_changed(application: &WorkerApplication) -> bool {
    let reload = application.application.reload();
    reload.is_some_and(|Reload { files, mechanism }| *mechanism == Mechanism::Process && files.needs_reload())
}

/// Imports the applications with these numbers, one after another, in a child of the fork server. Reports the first failure
/// as a message for the error log.
fn import_in_child(config: &WorkerConfig, numbers: &[u32]) -> Report {
    let all: Vec<_> = config.applications().collect();
    let applications: Vec<Arc<Specification>> =
        numbers.iter().map(|number| all[*number as usize].specification.clone()).collect();
    let preflight = Preflight::new(applications.len(), config.check_timeout, |first, deadline| {
        ChildProcess::start(set_title, deadline, |reporter| {
            preflight::import_all(config.clone(), &applications[first..], deadline, reporter);
        })
    });
    let failure = applications.iter().zip(preflight).find_map(|(application, import)| {
        let (error, output) = (import.result.err()?, import.output);
        Some(format!("application \"{application}\" reload failed, keeping the previous version: {error}\n{output}"))
    });
    failure.map_or(Report::Done, Report::Failed)
}

/// Sets the title of the fork server and of its children.
fn set_title() {
    set_process_title(c"wsgi preflight process");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_changed_files_are_named() {
        let paths = ["/a", "/b", "/c", "/d", "/e"].map(PathBuf::from);
        assert_eq!(describe_change("x", &paths[..1]), "files of application \"x\" changed: /a");
        assert_eq!(describe_change("x", &paths), "files of application \"x\" changed: /a, /b, /c and 2 more");
        assert_eq!(describe_change("x", &[]), "retry of application \"x\"");
    }
}
