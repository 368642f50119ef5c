//! Tells when to look whether files have changed: inotify on their folders.
//!
//! It is a hint and no more. Where inotify does not work (some network file systems) others give the hint.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use inotify::{Inotify, WatchDescriptor, WatchMask, Watches};

use crate::sync::Mutex;

/// Directories that inotify looks at, and a thread that is told when something has changed there.
pub struct Watcher {
    folders: io::Result<Mutex<Directories>>,
    hints: Sender<()>,
}

struct Directories {
    watches: Watches,
    known: BTreeMap<PathBuf, WatchDescriptor>,
}

/// A deployment writes many files; they are looked at when it has been quiet for this long, but not later than that.
const QUIET: Duration = Duration::from_millis(100);
const AT_LATEST: Duration = Duration::from_secs(2);

impl Watcher {
    /// Starts a thread that calls `look` after something may have changed.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(look: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (hints, hinted) = mpsc::channel();
        let settle = move || {
            while hinted.recv().is_ok() {
                let first = Instant::now();
                while first.elapsed() < AT_LATEST && hinted.recv_timeout(QUIET).is_ok() {}
                look();
            }
        };
        thread::Builder::new().name("wsgi-files".to_owned()).spawn(settle)?;
        let folders = Inotify::init().and_then(|inotify| listen(inotify, hints.clone()));
        Ok(Self { folders, hints })
    }

    /// Why there is no inotify, if that is so: then only hints of others count.
    pub fn problem(&self) -> Option<&io::Error> {
        self.folders.as_ref().err()
    }

    /// Something may have changed: `look` is called soon. Never waits.
    pub fn hint(&self) {
        // Without the thread there is nobody to look.
        let _ = self.hints.send(());
    }

    /// Looks at the folders of these files, and at those of the symbolic links on the way to them, as they are now: behind
    /// a link that was switched is another folder. And at `folders_too`.
    pub fn watch<'a>(&self, files: impl Iterator<Item = &'a Path>, folders_too: &[PathBuf]) {
        let Ok(folders) = &self.folders else { return };
        let Directories { watches, known } = &mut *folders.lock();
        // Files of one folder are reached by the same links, unless they are links themselves.
        let mut seen = BTreeSet::new();
        let of_files = files
            .filter(|file| file.is_symlink() || file.parent().is_some_and(|folder| seen.insert(folder.to_owned())))
            .flat_map(folders_of);
        for folder in of_files.chain(folders_too.iter().cloned()).collect::<BTreeSet<_>>() {
            let Ok(watch) = watches.add(&folder, MASK) else { continue };
            let before = known.insert(folder, watch.clone());
            if let Some(before) =
                before.filter(|before| *before != watch && !known.values().any(|other| other == before))
            {
                // It ends by itself where the folder is gone.
                let _ = watches.remove(before);
            }
        }
    }
}

/// Starts the thread that turns what inotify sees into hints.
fn listen(mut inotify: Inotify, hints: Sender<()>) -> io::Result<Mutex<Directories>> {
    let folders = Directories { watches: inotify.watches(), known: BTreeMap::new() };
    let listen = move || {
        let mut buffer = [0; 4096];
        while inotify.read_events_blocking(&mut buffer).is_ok() && hints.send(()).is_ok() {}
    };
    thread::Builder::new().name("wsgi-inotify".to_owned()).spawn(listen)?;
    Ok(Mutex::new(folders))
}

const MASK: WatchMask = WatchMask::from_bits_truncate(
    WatchMask::CLOSE_WRITE.bits()
        | WatchMask::ATTRIB.bits()
        | WatchMask::CREATE.bits()
        | WatchMask::DELETE.bits()
        | WatchMask::MOVED_FROM.bits()
        | WatchMask::MOVED_TO.bits(),
);

/// The folder of a file, and those of the links that lead to it: one that is switched changes the file.
fn folders_of(file: &Path) -> Vec<PathBuf> {
    /// As many as the kernel follows.
    const LINKS: usize = 40;
    let mut folders: Vec<PathBuf> = file.parent().map(Path::to_owned).into_iter().collect();
    let mut path = file.to_owned();
    for _ in 0..LINKS {
        // As the kernel follows them: the outermost first.
        let links =
            path.ancestors().filter_map(|ancestor| Some((ancestor, ancestor.parent()?, ancestor.read_link().ok()?)));
        let link = links.last();
        let Some((link, folder, target)) = link else { break };
        let mut next = folder.join(target);
        // Nothing is left where the file itself is the link.
        next.extend(path.strip_prefix(link).unwrap_or(Path::new("")));
        folders.push(folder.to_owned());
        folders.extend(next.parent().map(Path::to_owned));
        path = next;
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_folders_of_all_links_on_the_way_are_known() {
        use std::os::unix::fs::symlink;

        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let path = |name: &str| folder.join(name);
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
            folders_of(&path(name)).iter().map(|folder| folder.canonicalize().unwrap()).collect()
        };
        assert_eq!(known("real/a/app.py"), [path("real/a")].into());
        let links = ["", "links", "real/a", "site"].map(|name| path(name).canonicalize().unwrap());
        assert_eq!(known("site/app.py"), links.into());
        assert_eq!(known("round"), [folder.clone()].into());
        assert_eq!(known("current/linked.py"), [folder.clone(), path("real"), path("real/a")].into());
    }

    #[test]
    fn many_changes_are_one_look_when_it_is_quiet() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.py");
        let (looked, looks) = mpsc::channel();
        let watcher = Watcher::start(move || looked.send(()).unwrap()).unwrap();
        watcher.watch([script.as_path()].into_iter(), &[]);
        for number in 0..200 {
            fs::write(folder.path().join(format!("{number}.py")), "x").unwrap();
        }
        looks.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(looks.recv_timeout(3 * QUIET).is_err());
        fs::write(&script, "x").unwrap();
        looks.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
