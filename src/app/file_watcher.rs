//! Reports that watched files may have changed, by inotify on their directories.
//!
//! A report is only a hint. Where inotify does not work (some network file systems), requests give the hints.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use inotify::{Inotify, WatchDescriptor, WatchMask, Watches};

use crate::sync::Mutex;

/// A set of directories that inotify watches, and a thread that checks the files after changes.
pub struct Watcher {
    directories: io::Result<Mutex<Directories>>,
    hints: Sender<()>,
}

struct Directories {
    watches: Watches,
    known: BTreeMap<PathBuf, WatchDescriptor>,
}

/// A deployment writes many files: they are checked once there was no change for this long.
const QUIET: Duration = Duration::from_millis(100);
/// The longest delay of a check while changes go on.
const MAX_DELAY: Duration = Duration::from_secs(2);

impl Watcher {
    /// Starts a thread that calls `check` after files may have changed.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(check: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (hints, hinted) = mpsc::channel();
        let settle = move || {
            while hinted.recv().is_ok() {
                let first = Instant::now();
                while first.elapsed() < MAX_DELAY && hinted.recv_timeout(QUIET).is_ok() {}
                check();
            }
        };
        thread::Builder::new().name("wsgi-files".to_owned()).spawn(settle)?;
        let directories = Inotify::init().and_then(|inotify| listen(inotify, hints.clone()));
        Ok(Self { directories, hints })
    }

    /// Returns the error that keeps inotify from working, if there is one: then only [`Watcher::hint`] triggers checks.
    pub fn problem(&self) -> Option<&io::Error> {
        self.directories.as_ref().err()
    }

    /// Triggers a check soon, as files may have changed. Never waits.
    pub fn hint(&self) {
        // The thread ends with this value only.
        let _ = self.hints.send(());
    }

    /// Watches the directories of these files, those of all symbolic links in their paths, and `others`. Call it again
    /// when a link may have been switched, which leads to other directories.
    pub fn watch<'a>(&self, files: impl Iterator<Item = &'a Path>, others: &[PathBuf]) {
        let Ok(directories) = &self.directories else { return };
        let Directories { watches, known } = &mut *directories.lock();
        // All files of a directory share the links in its path, except for files that are links themselves.
        let mut seen = BTreeSet::new();
        let of_files = files
            .filter(|file| {
                file.is_symlink() || file.parent().is_some_and(|directory| seen.insert(directory.to_owned()))
            })
            .flat_map(directories_of);
        for directory in of_files.chain(others.iter().cloned()).collect::<BTreeSet<_>>() {
            let Ok(watch) = watches.add(&directory, MASK) else { continue };
            let before = known.insert(directory, watch.clone());
            if let Some(before) =
                before.filter(|before| *before != watch && !known.values().any(|other| other == before))
            {
                // Fails if the directory was removed, which ends the watch as well.
                let _ = watches.remove(before);
            }
        }
    }
}

/// Starts the thread that sends a hint for each batch of inotify events.
fn listen(mut inotify: Inotify, hints: Sender<()>) -> io::Result<Mutex<Directories>> {
    let directories = Directories { watches: inotify.watches(), known: BTreeMap::new() };
    let listen = move || {
        let mut buffer = [0; 4096];
        while inotify.read_events_blocking(&mut buffer).is_ok() && hints.send(()).is_ok() {}
    };
    thread::Builder::new().name("wsgi-inotify".to_owned()).spawn(listen)?;
    Ok(Mutex::new(directories))
}

const MASK: WatchMask = WatchMask::from_bits_truncate(
    WatchMask::CLOSE_WRITE.bits()
        | WatchMask::ATTRIB.bits()
        | WatchMask::CREATE.bits()
        | WatchMask::DELETE.bits()
        | WatchMask::MOVED_FROM.bits()
        | WatchMask::MOVED_TO.bits(),
);

/// Returns the directory of a file, and those of the symbolic links in its path: a link that is switched changes the
/// file.
fn directories_of(file: &Path) -> Vec<PathBuf> {
    /// The kernel's limit.
    const MAX_LINKS: usize = 40;
    let mut directories: Vec<PathBuf> = file.parent().map(Path::to_owned).into_iter().collect();
    let mut path = file.to_owned();
    for _ in 0..MAX_LINKS {
        // Outermost first, as the kernel follows them.
        let links =
            path.ancestors().filter_map(|ancestor| Some((ancestor, ancestor.parent()?, ancestor.read_link().ok()?)));
        let link = links.last();
        let Some((link, directory, target)) = link else { break };
        let mut next = directory.join(target);
        // The rest is empty if the file itself is the link.
        next.extend(path.strip_prefix(link).unwrap_or(Path::new("")));
        directories.push(directory.to_owned());
        directories.extend(next.parent().map(Path::to_owned));
        path = next;
    }
    directories
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_directories_of_all_links_in_a_path_are_found() {
        use std::os::unix::fs::symlink;

        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let path = |name: &str| directory.join(name);
        for name in ["real/a", "links", "site"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("real/a/app.py"), "").unwrap();
        symlink("real", path("current")).unwrap();
        symlink("../current/a/app.py", path("links/app.py")).unwrap();
        symlink(path("links/app.py"), path("site/app.py")).unwrap();
        symlink("round", path("round")).unwrap();
        // A link behind a link.
        symlink(path("real/a/app.py"), path("real/linked.py")).unwrap();
        let known = |name: &str| -> BTreeSet<PathBuf> {
            directories_of(&path(name)).iter().map(|directory| directory.canonicalize().unwrap()).collect()
        };
        assert_eq!(known("real/a/app.py"), [path("real/a")].into());
        let links = ["", "links", "real/a", "site"].map(|name| path(name).canonicalize().unwrap());
        assert_eq!(known("site/app.py"), links.into());
        assert_eq!(known("round"), [directory.clone()].into());
        assert_eq!(known("current/linked.py"), [directory.clone(), path("real"), path("real/a")].into());
    }

    #[test]
    fn many_changes_are_checked_together_when_they_have_ceased() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("app.py");
        let (checked, checks) = mpsc::channel();
        let watcher = Watcher::start(move || checked.send(()).unwrap()).unwrap();
        watcher.watch([script.as_path()].into_iter(), &[]);
        for number in 0..200 {
            fs::write(directory.path().join(format!("{number}.py")), "x").unwrap();
        }
        checks.recv_timeout(Duration::from_secs(10)).unwrap();
        // A loaded machine may pause between two files for longer than QUIET.
        let more = std::iter::from_fn(|| checks.recv_timeout(3 * QUIET).ok()).count();
        assert!(more < 20, "{more} more checks");
        fs::write(&script, "x").unwrap();
        checks.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
