//! The processes and files of a process group of a running nginx.

use super::{Nginx, Process, wait_for};
use std::fs;
use std::path::{Path, PathBuf};

/// A process group.
pub struct Group {
    name: String,
    directory: PathBuf,
}

impl Nginx {
    /// The process group of this name, in the default directory.
    pub fn group(&self, name: &str) -> Group {
        self.group_in("wsgi_run", name)
    }

    /// The same in another directory below the prefix, such as that of a second slot.
    pub fn group_in(&self, directory: &str, name: &str) -> Group {
        Group { name: name.to_owned(), directory: self.prefix().join(directory) }
    }
}

impl Group {
    /// The directory with its configuration.
    pub fn directory(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("sockets").join(&self.name)
    }

    /// The master of its first instance; waits until it runs and has its title.
    #[track_caller]
    pub fn master(&self) -> Process {
        let title = self.title("master");
        wait_for(&title, || {
            let pid = fs::read_to_string(self.directory().join("tmp/nginx.pid")).ok()?;
            let process = Process(pid.trim().parse().ok()?);
            (process.is_alive() && process.title() == title).then_some(process)
        })
    }

    /// The workers of its first instance that take connections.
    pub fn workers(&self) -> Vec<Process> {
        let (master, title) = (self.master(), self.title("worker"));
        let is_worker = |process: &Process| process.parent() == Some(master.0) && process.title() == title;
        Process::all().into_iter().filter(is_worker).collect()
    }

    /// The same, once there are as many.
    #[track_caller]
    pub fn wait_workers(&self, count: usize) -> Vec<Process> {
        wait_for(&format!("{count} workers of the group {}", self.name), || {
            Some(self.workers()).filter(|workers| workers.len() == count)
        })
    }

    /// The supervisor, which has started the instance.
    #[track_caller]
    pub fn supervisor(&self) -> Process {
        let supervisor = Process(self.master().parent().expect("a parent"));
        assert_eq!(supervisor.title(), "nginx: wsgi supervisor");
        supervisor
    }

    fn title(&self, role: &str) -> String {
        format!("nginx: wsgi {} {role}", self.name)
    }
}

/// Everything below a directory, sorted.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_directory = fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
        found.push(path.clone());
        if is_directory {
            found.extend(files_below(&path));
        }
    }
    found.sort();
    found
}
