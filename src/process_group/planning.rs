//! The plan of a cycle: what the supervisor is to run.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Gid, Group, geteuid};

use super::configuration::{self, Front};
use super::plan::{GroupLog, GroupPlan, Plan, ProcessPlan};
use crate::conf::main::MainConf;
use crate::conf::process_group::ProcessGroup;
use crate::conf::status_zone::StatusZone;
use crate::conf::values::Processes;
use crate::nginx::cycle::NewCycle;
use crate::nginx::module;
use crate::os::run_directory;
use crate::os::spawn::Identity;

/// Time after its calls that an instance has to end.
const TIME_TO_EXIT: Duration = Duration::from_secs(2);

/// Returns the plan for the process groups that have a location.
///
/// # Errors
/// If nginx's own program or this module cannot be found.
pub fn plan(main: &MainConf, cycle: NewCycle) -> io::Result<Plan> {
    let Some(directory) = main.claimed_directory() else { return Ok(Plan::default()) };
    let has_module = |name: &str| cycle.has_module(name);
    let used = main.process_groups().iter().filter(|group| !group.locations.is_empty());
    let groups = used.map(|group| {
        let socket = run_directory::socket(directory, &group.name);
        let temporary = run_directory::temporary(directory, &group.name);
        let processes = group.processes.unwrap_or(Processes::ONE);
        let process = process(group, cycle)?;
        let front = front(cycle, &process, &has_module)?;
        Ok(GroupPlan {
            name: group.name.clone(),
            configuration: configuration::text(main, group, &front, &socket, &temporary),
            process,
            min: processes.min,
            max: processes.max,
            idle_timeout: group.idle_timeout,
            stop_timeout: configuration::stop_timeout(main, group) + TIME_TO_EXIT,
            status_words: main.status_zone().map(StatusZone::words),
            logs: logs(group),
        })
    });
    Ok(Plan {
        directory: directory.to_owned(),
        front_group: cycle.worker_user().map(|(_, _, group)| group),
        groups: groups.collect::<io::Result<_>>()?,
    })
}

/// Returns the logs of a group's applications, each once.
fn logs(group: &ProcessGroup) -> Vec<GroupLog> {
    let mut logs: Vec<GroupLog> = Vec::new();
    for location in &group.locations {
        if let Some(log) = location.application.log.as_deref().and_then(GroupLog::of)
            && !logs.contains(&log)
        {
            logs.push(log);
        }
    }
    logs
}

/// Returns the facts about this nginx for a group with this process.
pub fn front<'a>(
    cycle: NewCycle,
    process: &ProcessPlan,
    has_module: &'a dyn Fn(&str) -> bool,
) -> io::Result<Front<'a>> {
    let root = process.user.as_ref().filter(|user| user.uid == 0);
    let group = |user: &Identity| Group::from_gid(Gid::from_raw(user.gid)).ok().flatten();
    Ok(Front {
        module: module::file().ok_or_else(|| io::Error::other("the file of the module is not found"))?,
        log_level: cycle.log_level(),
        worker_connections: cycle.worker_connections(),
        root_user: root.map(|user| match group(user) {
            Some(group) => format!("{} {}", user.name, group.name),
            None => user.name.clone(),
        }),
        header_size: cycle.header_size(),
        user: cycle.worker_user().map_or_else(|| geteuid().as_raw(), |(_, user, _)| user),
        has_module,
    })
}

/// Returns how the processes of a group are started.
pub fn process(group: &ProcessGroup, cycle: NewCycle) -> io::Result<ProcessPlan> {
    Ok(ProcessPlan {
        program: program()?,
        user: identity(group, cycle),
        umask: group.umask(),
        chdir: group.chdir.clone().unwrap_or_else(|| PathBuf::from("/")),
        environment: group.environment(),
        nofile: group.nofile,
        memory_limit: group.memory_limit,
        no_new_privs: group.no_new_privs(),
    })
}

/// Returns the user of a group, `None` if an ordinary user has started nginx.
fn identity(group: &ProcessGroup, cycle: NewCycle) -> Option<Identity> {
    group.user.clone().or_else(|| {
        let (name, uid, gid) = cycle.worker_user()?;
        Some(Identity { name, uid, gid: group.group.unwrap_or(gid) })
    })
}

/// Returns the file of the running nginx; after an update of its package, the new file at the same place.
fn program() -> io::Result<PathBuf> {
    const DELETED: &str = " (deleted)";
    let program = std::fs::read_link("/proc/self/exe")?;
    match program.to_string_lossy().strip_suffix(DELETED) {
        Some(replaced) if !program.exists() => Ok(Path::new(replaced).to_owned()),
        _ => Ok(program),
    }
}
