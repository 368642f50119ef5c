//! An nginx with process groups: their supervisor and processes, of which nothing may be left at the end.

use super::{Nginx, Process, Site, wait_for};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

/// An nginx whose applications are in process groups. At its end every process and file of the groups must have gone.
pub struct GroupNginx {
    /// Always there until it is dropped.
    nginx: Option<Nginx>,
    prefix: PathBuf,
}

impl Deref for GroupNginx {
    type Target = Nginx;

    fn deref(&self) -> &Nginx {
        self.nginx.as_ref().expect("it is not dropped")
    }
}

impl DerefMut for GroupNginx {
    fn deref_mut(&mut self) -> &mut Nginx {
        self.nginx.as_mut().expect("it is not dropped")
    }
}

impl GroupNginx {
    /// Runs the site, whose groups must have their processes in it: `chdir=@prefix@`.
    pub fn start(site: Site) -> GroupNginx {
        let prefix = site.prefix().to_owned();
        // Before nginx: if that fails, what it has started ends.
        let mut nginx = GroupNginx { nginx: None, prefix };
        nginx.nginx = Some(site.start());
        nginx
    }

    /// Supervisors of this nginx, in no order.
    pub fn supervisors(&self) -> Vec<i32> {
        let processes = self.processes().into_iter();
        processes.filter(|(_, title)| title == "nginx: wsgi supervisor").map(|(pid, _)| pid).collect()
    }

    /// The supervisor, if there is one alone.
    #[track_caller]
    pub fn supervisor(&self) -> i32 {
        wait_for("one supervisor", || match self.supervisors()[..] {
            [pid] => Some(pid),
            _ => None,
        })
    }

    /// Masters of a group's instances. A worker has that title too until it has its own.
    pub fn masters(&self, group: &str) -> Vec<i32> {
        let supervisors = self.supervisors();
        let mut masters = titled(self.processes(), &format!("nginx: wsgi {group} master"));
        masters.retain(|pid| Process(*pid).parent().is_some_and(|parent| supervisors.contains(&parent)));
        masters
    }

    /// Its master, once there is one alone.
    #[track_caller]
    pub fn group_master(&self, group: &str) -> i32 {
        wait_for(&format!("one master of {group}"), || match self.masters(group)[..] {
            [pid] => Some(pid),
            _ => None,
        })
    }

    /// Workers of a group that are not about to end.
    pub fn group_workers(&self, group: &str) -> Vec<i32> {
        titled(self.processes(), &format!("nginx: wsgi {group} worker"))
    }

    /// The same, once there are so many.
    #[track_caller]
    pub fn wait_group_workers(&self, group: &str, count: usize) -> Vec<i32> {
        wait_for(&format!("{count} workers of {group}"), || {
            Some(self.group_workers(group)).filter(|workers| workers.len() == count)
        })
    }

    /// Waits until a group has as many workers as before, all of them new.
    #[track_caller]
    pub fn wait_new_group_workers(&self, group: &str, old: &[i32]) -> Vec<i32> {
        wait_for(&format!("new workers of {group}"), || {
            let now = self.group_workers(group);
            (now.len() == old.len() && now.iter().all(|pid| !old.contains(pid))).then_some(now)
        })
    }

    /// The directory of the groups.
    pub fn run_directory(&self) -> PathBuf {
        self.prefix.join("wsgi_run")
    }

    /// All processes that have to do with it, with their titles.
    pub fn processes(&self) -> Vec<(i32, String)> {
        processes_of(&self.prefix)
    }

    /// Its processes without the front's master and workers.
    pub fn processes_of_groups(&self) -> Vec<(i32, String)> {
        self.processes().into_iter().filter(|(_, title)| title.starts_with("nginx: wsgi ")).collect()
    }

    /// Waits until all its processes and the files of its groups have gone, whatever has become of the master.
    #[track_caller]
    pub fn wait_nothing_left(&self) {
        wait_nothing_left(&self.prefix);
    }
}

impl Drop for GroupNginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- processes ----\n{:?}", self.processes());
            drop(self.nginx.take());
            kill_all(&self.prefix);
            return;
        }
        if let Some(mut nginx) = self.nginx.take() {
            nginx.end(libc::SIGQUIT);
            // While the files are still there.
            let left = std::panic::catch_unwind(|| wait_nothing_left(&self.prefix));
            if left.is_err() {
                eprintln!("---- error log ----\n{}", nginx.error_log());
                kill_all(&self.prefix);
            }
            drop(nginx);
            assert!(left.is_ok(), "something of the process groups is left");
        }
    }
}

fn titled(processes: Vec<(i32, String)>, wanted: &str) -> Vec<i32> {
    processes.into_iter().filter(|(_, title)| title == wanted).map(|(pid, _)| pid).collect()
}

/// Processes that are in `prefix` or have a file below it open, with their titles.
fn processes_of(prefix: &Path) -> Vec<(i32, String)> {
    let own = std::process::id() as i32;
    let is_below = |path: &str| Path::new(path).starts_with(prefix);
    let all = Process::all().into_iter().filter(|process| process.0 != own);
    let found = all.filter(|process| {
        let directory = process.directory();
        is_below(directory.trim_end_matches(" (deleted)")) || process.open_files().iter().any(|file| is_below(file))
    });
    let mut found: Vec<(i32, String)> = found.map(|process| (process.0, process.title())).collect();
    found.sort();
    found
}

#[track_caller]
fn wait_nothing_left(prefix: &Path) {
    let mut processes = Vec::new();
    let mut files = Vec::new();
    wait_for("the end of all processes and files of the groups", || {
        let now = (processes_of(prefix), files_below(&prefix.join("wsgi_run")));
        if (&now.0, &now.1) != (&processes, &files) && !(now.0.is_empty() && now.1.is_empty()) {
            eprintln!("left: {now:?}");
        }
        (processes, files) = now;
        (processes.is_empty() && files.is_empty()).then_some(())
    });
}

/// Files and directories below a directory that may be gone.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.flat_map(|path| [files_below(&path), vec![path]].concat()).collect()
}

/// Kills what is left of an nginx after a failure.
fn kill_all(prefix: &Path) {
    // A supervisor that lives would start others.
    for _ in 0..20 {
        let mut left = processes_of(prefix);
        left.sort_by_key(|(_, title)| title != "nginx: wsgi supervisor");
        for (pid, _) in &left {
            Process(*pid).signal(libc::SIGKILL);
        }
        if left.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
