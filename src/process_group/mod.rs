//! Process groups: applications in private nginx instances, each with its own user, which a supervisor starts and watches.
//!
//! The supervisor is one process without threads, forked by the process that becomes the master. [`planning`],
//! [`configuration`] and [`check`] run while nginx reads its configuration, [`master`] in the master, the rest in the
//! supervisor.

pub mod check;
mod configuration;
mod control;
mod group;
mod group_logs;
mod instance;
mod log_relay;
pub mod master;
mod plan;
mod planning;
mod scaling;
mod status;
mod supervisor;

use std::io;

use crate::conf::main::MainConf;
use crate::nginx::cycle::NewCycle;
use crate::nginx::log::{Level, Log};
use crate::nginx::log_files::StartingCycle;
use crate::nginx::worker_process;
use crate::os::log_socket;
use crate::worker::balance::Rooms;
use crate::worker::scoreboard;

/// Failure to run the process groups, which has been logged.
pub struct NotApplied;

/// Has the supervisor run the process groups of a cycle. In an instance of a group, shows its name as the title of its
/// processes. To be called in `init_module`.
///
/// # Errors
/// If the groups cannot run.
pub fn apply(conf: &MainConf, cycle: NewCycle, starting: StartingCycle) -> Result<(), NotApplied> {
    if worker_process::is_testing() {
        return Ok(());
    }
    if let Some(name) = conf.instance() {
        worker_process::title_as_instance(name);
        let first_worker = std::env::var(instance::FIRST_WORKER).ok().and_then(|number| number.parse().ok());
        worker_process::set_first_number(first_worker.unwrap_or_default());
        log_socket::inherit();
        return Ok(());
    }
    let planned = planning::plan(conf, cycle).map_err(|error: io::Error| error.to_string());
    planned.and_then(|plan| master::apply(&plan, starting).map_err(|error| error.to_string())).map_err(|problem| {
        cycle.log().write(Level::Emerg, &format!("wsgi: {problem}"));
        NotApplied
    })
}

/// Prepares a worker that belongs to a process group, or to a front with process groups: it ends when its master is killed.
/// To be called in `init_process`.
pub fn init_worker(conf: &MainConf) {
    if conf.instance().is_some() {
        worker_process::title_worker();
    }
    if conf.instance().is_some() || !conf.process_groups().is_empty() {
        worker_process::exit_with_master();
    }
}

/// Has the supervisor see the calls of a worker of a process group, in which `capacity` of them can run at once. Returns the
/// words for the balance between the workers of all instances of the group. To be called in `init_process`, before the worker
/// starts a program.
pub fn count_calls(conf: &MainConf, capacity: usize) -> Option<Rooms> {
    conf.instance()?;
    match scoreboard::attach(capacity) {
        Ok(rooms) => Some(rooms),
        Err(error) => {
            // As in an instance that was started by hand. It works without.
            let message = format!("wsgi: calls are not counted for the process group: {error}");
            Log::cycle().write(Level::Notice, &message);
            None
        }
    }
}
