//! The files of an application that is reloaded when they change, and how they were when they were last read.
//!
//! What tells is always the state of the files themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::watch::Watcher;

/// What tells one state of a file from another: also a copy with an older date, or an edit within the same second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// In nanoseconds since 1970: the one time that nobody can set.
    changed: u64,
}

impl Fingerprint {
    /// The state of a file, symbolic links followed; `None` when it is not there.
    pub fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: found.ctime().max(0) as u64 * 1_000_000_000 + found.ctime_nsec() as u64,
        })
    }
}

/// `wsgi_reload_watch`: which files beside its script count as an application's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    /// Absolute shell patterns.
    pub globs: Vec<String>,
    /// `modules`: what it has imported from outside the standard library and site-packages.
    pub modules: bool,
}

/// `wsgi_reload_mechanism`: how changed code takes the place of what is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mechanism {
    /// The script's module is loaded again, in the same interpreter.
    #[default]
    Module,
    /// A new interpreter is made beside the old one.
    Interpreter,
    /// The worker ends, and another comes.
    Process,
}

/// What the configuration says of an application that is reloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloading {
    pub mechanism: Mechanism,
    pub patterns: Patterns,
}

/// The files of one application. All methods may be called on any thread.
#[derive(Default)]
pub struct Files {
    patterns: Patterns,
    seen: Mutex<Seen>,
    /// Whether somebody has found that they have changed.
    is_stale: AtomicBool,
    /// Whether a call was told so.
    is_discovered: AtomicBool,
    watcher: OnceLock<Arc<Watcher>>,
}

/// The files as they were before they were last read.
#[derive(Default)]
struct Seen {
    /// `None` for a module, until it is found.
    script: Option<PathBuf>,
    script_state: Option<Fingerprint>,
    /// The files of modules.
    modules: BTreeSet<PathBuf>,
    others: BTreeMap<PathBuf, Option<Fingerprint>>,
    /// How often in a row they could not be loaded, and when to try again though nothing has changed.
    failures: u32,
    retry: Option<Instant>,
}

/// What could not be loaded is tried again after this long, then after twice as long each time, up to the second: a file
/// that it needs and that is not looked at may have come.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_AT_MOST: Duration = Duration::from_secs(60);

impl Files {
    /// The files of an application with this script, if it has one.
    pub fn new(script: Option<&Path>, patterns: Patterns) -> Self {
        let seen = Seen { script: script.map(Path::to_owned), ..Seen::default() };
        Self { patterns, seen: Mutex::new(seen), ..Self::default() }
    }

    /// Looks after the files with `watcher` from now on.
    pub fn watch_with(&self, watcher: Arc<Watcher>) {
        self.watcher.get_or_init(|| watcher);
        self.watch(&self.lock());
    }

    /// Whether modules count: those that are imported while it runs are to be [`Files::add`]ed.
    pub fn has_modules(&self) -> bool {
        self.patterns.modules
    }

    /// The files that are to be read now, all of them. To be called before that, so that what changes meanwhile is noticed.
    /// Returns when the newest of them was changed, in nanoseconds since 1970.
    pub fn note(&self) -> u64 {
        let mut seen = self.lock();
        seen.others = seen.state_of_others(&self.patterns);
        self.note_script_of(&mut seen);
        seen.newest()
    }

    /// What [`Files::note`] last returned.
    pub fn noted(&self) -> u64 {
        self.lock().newest()
    }

    /// As [`Files::note`], where only the script has been looked at: what else has changed is found later.
    pub fn note_script(&self) {
        self.note_script_of(&mut self.lock());
    }

    fn note_script_of(&self, seen: &mut Seen) {
        seen.script_state = seen.script.as_deref().and_then(Fingerprint::of);
        seen.retry = None;
        self.is_stale.store(false, Ordering::Relaxed);
        self.is_discovered.store(false, Ordering::Relaxed);
    }

    /// Whether the application is to be loaded anew, as far as one look at its script tells. One that is not there is no
    /// reason: it may be back in a moment, and until then the application that is loaded is all there is.
    pub fn is_script_new(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed) || self.lock().is_script_new()
    }

    /// Whether this is the first look since they were noted that finds another script, [`Files::are_new`] included. It lets
    /// the watcher look as well; so does one that only finds that it is time to try again.
    pub fn discover(&self) -> bool {
        let is_discovery = self.is_script_new() && !self.is_discovered.swap(true, Ordering::Relaxed);
        if is_discovery {
            self.hint();
        }
        is_discovery && self.lock().is_script_another()
    }

    /// Whether it is to be loaded anew, as far as all its files tell: one is another one, is new, or is gone.
    pub fn are_new(&self) -> bool {
        let seen = self.lock();
        self.watch(&seen);
        let are_new = seen.is_script_new() || seen.state_of_others(&self.patterns) != seen.others;
        self.is_discovered.store(are_new, Ordering::Relaxed);
        are_new
    }

    /// The next [`Files::is_script_new`] is true.
    pub fn make_stale(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }

    /// The application was loaded. What belongs to it is known now: `script` where it is a module, and its `modules`.
    pub fn loaded(&self, script: Option<PathBuf>, modules: impl IntoIterator<Item = PathBuf>) {
        let mut seen = self.lock();
        seen.failures = 0;
        if seen.script.is_none() && script.is_some() {
            seen.script = script;
            self.note_script_of(&mut seen);
        }
        self.add_to(&mut seen, modules);
        drop(seen);
        // What has changed while it was loaded has not been acted on.
        self.hint();
    }

    /// It could not be loaded.
    pub fn failed(&self) {
        let mut seen = self.lock();
        if seen.retry.is_some() {
            // The same attempt, in another copy.
            return;
        }
        let delay = RETRY.saturating_mul(1 << seen.failures.min(10)).min(RETRY_AT_MOST);
        seen.failures += 1;
        seen.retry = Some(Instant::now() + delay);
        drop(seen);
        // What has changed while it was loaded has not been acted on.
        self.hint();
    }

    /// More modules were imported.
    pub fn add(&self, modules: impl IntoIterator<Item = PathBuf>) {
        self.add_to(&mut self.lock(), modules);
    }

    fn add_to(&self, seen: &mut Seen, modules: impl IntoIterator<Item = PathBuf>) {
        if self.patterns.modules {
            for file in modules {
                // What was known is as it was before it was read.
                seen.others.entry(file.clone()).or_insert_with(|| Fingerprint::of(&file));
                seen.modules.insert(file);
            }
        }
        self.watch(seen);
    }

    fn watch(&self, seen: &Seen) {
        let Some(watcher) = self.watcher.get() else { return };
        // What is new in the folder of a pattern may match it.
        let patterns = self.patterns.globs.iter().map(Path::new);
        watcher.watch(seen.script.iter().chain(seen.others.keys()).map(PathBuf::as_path).chain(patterns));
    }

    /// Lets the watcher look at the files soon.
    pub fn hint(&self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.hint();
        }
    }

    /// All files but the script.
    pub fn others(&self) -> Vec<PathBuf> {
        self.lock().others.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn newest(&self) -> u64 {
        let states = self.others.values().chain([&self.script_state]);
        states.flatten().map(|state| state.changed).max().unwrap_or(0)
    }

    fn is_script_new(&self) -> bool {
        let now = self.script.as_deref().and_then(Fingerprint::of);
        now.is_some() && (now != self.script_state || self.retry.is_some_and(|retry| Instant::now() >= retry))
    }

    fn is_script_another(&self) -> bool {
        let now = self.script.as_deref().and_then(Fingerprint::of);
        now.is_some() && now != self.script_state
    }

    fn state_of_others(&self, patterns: &Patterns) -> BTreeMap<PathBuf, Option<Fingerprint>> {
        // An invalid pattern was refused when the configuration was read.
        let matching = patterns.globs.iter().flat_map(|pattern| glob::glob(pattern).into_iter().flatten().flatten());
        let modules = self.modules.iter().cloned();
        matching.chain(modules).map(|path| (path.clone(), Fingerprint::of(&path))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};
    use std::time::SystemTime;

    fn files(script: &Path) -> Files {
        let files = Files::new(Some(script), Patterns::default());
        files.note();
        files
    }

    #[test]
    fn every_way_to_change_a_script_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (script, other) = (folder.path().join("app.py"), folder.path().join("other"));
        let write = |path: &Path, text: &str| fs::write(path, text).unwrap();
        write(&script, "one");
        let steps: [(&str, &dyn Fn()); 4] = [
            ("edited within the same second, with the same size", &|| write(&script, "two")),
            ("replaced by rename", &|| {
                write(&other, "two");
                fs::rename(&other, &script).unwrap();
            }),
            ("an older date", &|| {
                let file = File::options().write(true).open(&script).unwrap();
                file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
            }),
            ("a link that is switched", &|| {
                write(&other, "two");
                fs::remove_file(&script).unwrap();
                std::os::unix::fs::symlink(&other, &script).unwrap();
            }),
        ];
        for (name, step) in steps {
            let files = files(&script);
            assert!(!files.is_script_new());
            step();
            assert!(files.is_script_new() && files.are_new(), "{name}");
            files.note_script();
            assert!(!files.is_script_new() && !files.are_new(), "{name}");
        }
        let files = files(&script);
        fs::remove_file(&script).unwrap();
        assert!(!files.is_script_new(), "one that is gone for now");
        write(&script, "back");
        assert!(files.is_script_new());
    }

    #[test]
    fn other_files_count_by_pattern_and_by_module() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["app.py", "helper.py", "late.py"] {
            fs::write(path(name), "").unwrap();
        }
        let patterns = Patterns { globs: vec![path("*.html").display().to_string()], modules: true };
        let files = Files::new(Some(&path("app.py")), patterns);
        files.note();
        files.loaded(None, [path("helper.py")]);
        files.add([path("late.py")]);
        for name in ["a.html", "helper.py", "late.py"] {
            assert!(!files.are_new());
            fs::write(path(name), "new").unwrap();
            assert!(files.are_new() && !files.is_script_new(), "{name}");
            files.note_script();
            assert!(files.are_new(), "only the script was noted");
            files.note();
        }
        fs::remove_file(path("a.html")).unwrap();
        assert!(files.are_new());
    }

    #[test]
    fn what_changes_while_it_is_loaded_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (script, helper) = (folder.path().join("app.py"), folder.path().join("helper.py"));
        fs::write(&script, "").unwrap();
        fs::write(&helper, "").unwrap();
        let files = Files::new(Some(&script), Patterns { modules: true, ..Patterns::default() });
        files.note();
        files.loaded(None, [helper.clone()]);
        files.note();
        fs::write(&helper, "new").unwrap();
        files.loaded(None, [helper]);
        assert!(files.are_new());
    }

    #[test]
    fn one_call_discovers_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.py");
        fs::write(&script, "").unwrap();
        let files = files(&script);
        assert!(!files.discover());
        fs::write(&script, "new").unwrap();
        assert!(files.discover() && !files.discover());
        files.note();
        assert!(!files.discover());
        fs::write(&script, "newer").unwrap();
        assert!(files.are_new() && !files.discover(), "the watcher was first");
        files.note();
        files.failed();
        files.lock().retry = Some(Instant::now());
        assert!(files.is_script_new() && !files.discover(), "nothing but another attempt");
    }

    #[test]
    fn a_failure_is_tried_again_later_and_later() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.py");
        fs::write(&script, "").unwrap();
        let files = files(&script);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            files.failed();
            assert!(!files.is_script_new());
            let left = files.lock().retry.unwrap() - Instant::now();
            assert!(left.as_secs_f64() > f64::from(seconds) - 0.5 && left <= Duration::from_secs(seconds as u64));
            files.lock().retry = Some(Instant::now());
            assert!(files.is_script_new());
            files.note();
        }
        files.loaded(None, []);
        files.failed();
        assert!(files.lock().retry.unwrap() <= Instant::now() + RETRY);
    }
}
