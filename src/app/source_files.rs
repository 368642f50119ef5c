//! The files that an application is reloaded for, and their state when they were last loaded.
//!
//! inotify is only a hint; the decision is always made from the files' stat data.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::file_watcher::Watcher;
use crate::sync::{Mutex, MutexGuard};

/// The stat data of a file. It differs after every change, also for a copy with an older date or an edit within the
/// same second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// The ctime in nanoseconds since 1970, the one time stamp that a process cannot set.
    changed: u64,
}

impl Fingerprint {
    /// Returns the state of a file, symbolic links followed; `None` if it does not exist.
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

/// The files watched beside an application's script (`wsgi_reload_watch`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns {
    /// Absolute shell patterns.
    pub globs: Vec<String>,
    /// `modules`: whether imported modules from outside the standard library and site-packages are watched.
    pub modules: bool,
}

/// The way in which changed code replaces loaded code (`wsgi_reload_mechanism`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mechanism {
    /// The module of the script is loaded again, in the same interpreter.
    #[default]
    Module,
    /// A new interpreter is created beside the old one.
    Interpreter,
    /// The worker process is replaced.
    Process,
}

/// The reload configuration of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloading {
    pub mechanism: Mechanism,
    pub patterns: Patterns,
}

/// The files of one application. All methods may be called on any thread.
#[derive(Default)]
pub struct Files {
    patterns: Patterns,
    /// Locked briefly: every call checks the script.
    script: Mutex<Script>,
    /// Locked while all files are checked, which may take long. Taken before `script`, if both are.
    others: Mutex<Others>,
    /// True if the files are known to have changed.
    is_stale: AtomicBool,
    /// True if a call was the first to see the change.
    is_discovered: AtomicBool,
    watcher: OnceLock<Arc<Watcher>>,
}

/// The script, and its state before it was last loaded.
#[derive(Default)]
struct Script {
    /// `None` for a module that has not been found yet.
    path: Option<PathBuf>,
    state: Option<Fingerprint>,
    /// The time when its state was recorded, before it was loaded.
    since: Option<SystemTime>,
    /// The number of failures in a row to load the application.
    failures: u32,
    /// The time of the next attempt if nothing changes until then.
    retry: Option<Instant>,
}

type States = BTreeMap<PathBuf, Option<Fingerprint>>;

/// The other files, and their states before they were last loaded.
#[derive(Default)]
struct Others {
    /// The files of modules.
    modules: BTreeSet<PathBuf>,
    states: States,
    /// The states that the last check has found.
    found: Option<States>,
}

/// The delay before another attempt to load code that could not be loaded, as a file may be there now that is not
/// watched. It doubles with each failure.
const RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(60);

/// The longest time by which the kernel's file times lag behind the clock.
const FILE_TIME_LAG: Duration = Duration::from_millis(10);

impl Files {
    /// Creates the files of an application with this script, if it has one.
    pub fn new(script: Option<&Path>, patterns: Patterns) -> Self {
        let script = Script { path: script.map(Path::to_owned), ..Script::default() };
        Self { patterns, script: Mutex::new(script), ..Self::default() }
    }

    /// Lets `watcher` watch the files from now on.
    pub fn watch_with(&self, watcher: Arc<Watcher>) {
        self.watcher.get_or_init(|| watcher);
        self.watch(&self.others());
    }

    /// Returns whether imported modules are watched. Pass those that calls import to [`Files::add`].
    pub fn has_modules(&self) -> bool {
        self.patterns.modules
    }

    /// Records the state of all files. Call it before they are loaded, so that a change meanwhile is noticed. Returns
    /// the ctime of the newest file, in nanoseconds since 1970.
    pub fn note(&self) -> u64 {
        let mut others = self.others();
        others.found = None;
        others.states = others.current(&self.patterns);
        let mut script = self.script();
        self.note_script_of(&mut script);
        newest(&others, &script)
    }

    /// Records the states that [`Files::needs_reload`] has found, which is quicker than [`Files::note`].
    pub fn note_found(&self) {
        let mut others = self.others();
        if let Some(found) = others.found.take() {
            others.states = found;
        }
        self.note_script_of(&mut self.script());
    }

    /// Returns the ctime of the newest file at the last [`Files::note`].
    pub fn noted(&self) -> u64 {
        newest(&self.others(), &self.script())
    }

    /// Records the state of the script alone. Changes of other files are found later.
    pub fn note_script(&self) {
        self.note_script_of(&mut self.script());
    }

    fn note_script_of(&self, script: &mut Script) {
        script.since = Some(SystemTime::now());
        script.state = script.current();
        script.retry = None;
        self.is_stale.store(false, Ordering::Relaxed);
        self.is_discovered.store(false, Ordering::Relaxed);
    }

    /// Returns true if the script has changed since it was loaded, or another attempt to load it is due. Costs one
    /// stat. A missing script is not a change: it may be mid-replacement.
    pub fn script_needs_reload(&self) -> bool {
        self.is_stale() || self.script().needs_reload()
    }

    /// Returns true if this check is the first to find a changed script; [`Files::needs_reload`] counts, too. Triggers
    /// a check of all files by the watcher then, and also when another attempt to load them is due.
    pub fn discover(&self) -> bool {
        let is_discovery = self.script_needs_reload() && !self.is_discovered.swap(true, Ordering::Relaxed);
        if is_discovery {
            self.hint();
        }
        is_discovery && self.script().has_changed()
    }

    /// Returns true if a file has changed, is new, or was removed since the files were loaded, or another attempt to
    /// load them is due.
    pub fn needs_reload(&self) -> bool {
        let mut others = self.others();
        self.watch(&others);
        let found = others.current(&self.patterns);
        let needs_reload = self.script().needs_reload() || found != others.states;
        others.found = Some(found);
        self.is_discovered.store(needs_reload, Ordering::Relaxed);
        needs_reload
    }

    /// Returns the changed files that [`Files::needs_reload`] has found.
    pub fn changed(&self) -> Vec<PathBuf> {
        let others = self.others();
        let script = self.script();
        let script = script.path.clone().filter(|_| script.has_changed());
        let found = others.found.as_ref().unwrap_or(&others.states);
        let paths: BTreeSet<&PathBuf> = found.keys().chain(others.states.keys()).collect();
        let changed = paths.into_iter().filter(|path| found.get(*path) != others.states.get(*path)).cloned();
        let changed: Vec<PathBuf> = changed.filter(|path| Some(path) != script.as_ref()).collect();
        script.into_iter().chain(changed).collect()
    }

    /// Makes the next [`Files::script_needs_reload`] true.
    pub fn make_stale(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }

    /// Returns whether [`Files::make_stale`] was called since the files were recorded.
    pub fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    /// Records that the application was loaded: from `script`, if it is a module, and with these `modules`.
    pub fn loaded(&self, script: Option<PathBuf>, modules: impl IntoIterator<Item = PathBuf>) {
        let mut others = self.others();
        let mut known = self.script();
        known.failures = 0;
        let since = known.since.unwrap_or(UNIX_EPOCH);
        if known.path.is_none() && script.is_some() {
            known.path = script;
            self.note_script_of(&mut known);
        }
        drop(known);
        self.add_to(&mut others, modules, since);
        drop(others);
        // Changes while it was loaded have not been acted on.
        self.hint();
    }

    /// Records that the application could not be loaded.
    pub fn failed(&self) {
        let mut script = self.script();
        if script.retry.is_some() {
            // The same attempt, in another copy of the interpreter.
            return;
        }
        let delay = RETRY_DELAY.saturating_mul(1 << script.failures.min(10)).min(MAX_RETRY_DELAY);
        script.failures += 1;
        script.retry = Some(Instant::now() + delay);
        drop(script);
        // Changes while it was loaded have not been acted on.
        self.hint();
    }

    /// Adds modules that were imported after `since`.
    pub fn add(&self, modules: impl IntoIterator<Item = PathBuf>, since: SystemTime) {
        if self.add_to(&mut self.others(), modules, since) {
            self.hint();
        }
    }

    /// Adds modules. Returns whether one of them may have changed after it was imported.
    fn add_to(&self, others: &mut Others, modules: impl IntoIterator<Item = PathBuf>, since: SystemTime) -> bool {
        let mut is_doubtful = false;
        if self.patterns.modules {
            let since = since.checked_sub(FILE_TIME_LAG).and_then(|since| since.duration_since(UNIX_EPOCH).ok());
            let since = since.map_or(0, |since| since.as_nanos() as u64);
            for file in modules {
                // The state of a known file is that before it was read.
                if !others.states.contains_key(&file) {
                    // A file that has changed since may have been read before or after the change.
                    let state = Fingerprint::of(&file).filter(|state| state.changed < since);
                    is_doubtful |= state.is_none();
                    others.states.insert(file.clone(), state);
                    if let Some(found) = &mut others.found {
                        found.entry(file.clone()).or_insert(state);
                    }
                }
                others.modules.insert(file);
            }
        }
        self.watch(others);
        is_doubtful
    }

    fn watch(&self, others: &Others) {
        let Some(watcher) = self.watcher.get() else { return };
        let script = self.script().path.clone();
        // A new file in the directory of a pattern may match it.
        let directories: Vec<PathBuf> =
            self.patterns.globs.iter().flat_map(|pattern| directories_of(pattern)).collect();
        watcher.watch(script.iter().chain(others.states.keys()).map(PathBuf::as_path), &directories);
    }

    /// Lets the watcher check the files soon.
    pub fn hint(&self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.hint();
        }
    }

    /// Returns all files but the script.
    pub fn but_script(&self) -> Vec<PathBuf> {
        self.others().states.keys().cloned().collect()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock()
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        self.others.lock()
    }
}

impl Script {
    fn current(&self) -> Option<Fingerprint> {
        self.path.as_deref().and_then(Fingerprint::of)
    }

    fn needs_reload(&self) -> bool {
        let now = self.current();
        now.is_some() && (now != self.state || self.retry.is_some_and(|retry| Instant::now() >= retry))
    }

    fn has_changed(&self) -> bool {
        let now = self.current();
        now.is_some() && now != self.state
    }
}

impl Others {
    /// Returns the current states.
    fn current(&self, patterns: &Patterns) -> States {
        let matching = patterns.globs.iter().flat_map(|pattern| paths_of(pattern));
        let modules = self.modules.iter().cloned();
        matching.chain(modules).map(|path| (path.clone(), Fingerprint::of(&path))).collect()
    }
}

fn newest(others: &Others, script: &Script) -> u64 {
    let states = others.states.values().chain([&script.state]);
    states.flatten().map(|state| state.changed).max().unwrap_or(0)
}

/// Returns the paths that match a pattern now.
fn paths_of(pattern: &str) -> impl Iterator<Item = PathBuf> {
    // An invalid pattern was refused when the configuration was read.
    glob::glob(pattern).into_iter().flatten().flatten()
}

/// Returns the directories in which a new file may match a pattern, or a new directory contain such a file.
fn directories_of(pattern: &str) -> BTreeSet<PathBuf> {
    let directories = Path::new(pattern).ancestors().skip(1).map(Path::to_string_lossy);
    let (patterns, plain): (Vec<_>, Vec<_>) = directories.partition(|directory| directory.contains(['*', '?', '[']));
    let mut all: BTreeSet<PathBuf> =
        patterns.iter().flat_map(|pattern| paths_of(pattern)).filter(|path| path.is_dir()).collect();
    all.extend(plain.first().map(|directory| PathBuf::from(&**directory)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};

    fn files(script: &Path) -> Files {
        let files = Files::new(Some(script), Patterns::default());
        files.note();
        files
    }

    #[test]
    fn every_way_to_change_a_script_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let (script, other) = (directory.path().join("app.py"), directory.path().join("other"));
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
            assert!(!files.script_needs_reload());
            step();
            assert!(files.script_needs_reload() && files.needs_reload(), "{name}");
            files.note_script();
            assert!(!files.script_needs_reload() && !files.needs_reload(), "{name}");
        }
        let files = files(&script);
        fs::remove_file(&script).unwrap();
        assert!(!files.script_needs_reload(), "it is missing for now");
        write(&script, "back");
        assert!(files.script_needs_reload());
    }

    #[test]
    fn other_files_count_by_pattern_and_by_module() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["app.py", "helper.py", "late.py"] {
            fs::write(path(name), "").unwrap();
        }
        let patterns = Patterns { globs: vec![path("*.html").display().to_string()], modules: true };
        let files = Files::new(Some(&path("app.py")), patterns);
        files.note();
        files.script().since = Some(SystemTime::now() + 2 * FILE_TIME_LAG);
        files.loaded(None, [path("helper.py")]);
        files.add([path("late.py")], SystemTime::now() + 2 * FILE_TIME_LAG);
        for name in ["a.html", "helper.py", "late.py"] {
            assert!(!files.needs_reload());
            fs::write(path(name), "new").unwrap();
            assert!(files.needs_reload() && !files.script_needs_reload(), "{name}");
            assert_eq!(files.changed(), [path(name)]);
            files.note_script();
            assert!(files.needs_reload(), "only the script was recorded");
            files.note();
        }
        assert_eq!(files.changed(), Vec::<PathBuf>::new());
        fs::write(path("app.py"), "new").unwrap();
        fs::remove_file(path("a.html")).unwrap();
        assert!(files.needs_reload());
        assert_eq!(files.changed(), [path("app.py"), path("a.html")]);
    }

    #[test]
    fn a_change_while_files_are_loaded_is_not_lost() {
        let directory = tempfile::tempdir().unwrap();
        let (script, helper) = (directory.path().join("app.py"), directory.path().join("helper.py"));
        fs::write(&script, "").unwrap();
        fs::write(&helper, "").unwrap();
        let files = Files::new(Some(&script), Patterns { modules: true, ..Patterns::default() });
        files.note();
        files.loaded(None, [helper.clone()]);
        files.note();
        fs::write(&helper, "new").unwrap();
        files.loaded(None, [helper]);
        assert!(files.needs_reload());
    }

    #[test]
    fn a_module_that_was_edited_around_its_import_is_loaded_again() {
        let directory = tempfile::tempdir().unwrap();
        let (script, late) = (directory.path().join("app.py"), directory.path().join("late.py"));
        let before = SystemTime::now();
        fs::write(&script, "").unwrap();
        fs::write(&late, "").unwrap();
        let files = Files::new(Some(&script), Patterns { modules: true, ..Patterns::default() });
        files.note();
        files.add([late], before);
        assert!(files.needs_reload());
        files.note();
        assert!(!files.needs_reload());
    }

    #[test]
    fn the_states_that_were_found_are_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let (script, other) = (directory.path().join("app.py"), directory.path().join("one.html"));
        fs::write(&script, "").unwrap();
        let globs = vec![directory.path().join("*.html").display().to_string()];
        let files = Files::new(Some(&script), Patterns { globs, modules: false });
        files.note();
        fs::write(&other, "1").unwrap();
        assert!(files.needs_reload());
        fs::write(&other, "22").unwrap();
        files.note_found();
        assert!(files.needs_reload(), "the second edit came after the check");
        files.note_found();
        assert!(!files.needs_reload());
    }

    #[test]
    fn all_directories_of_a_pattern_are_watched_for_new_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["a/b/c", "d"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("file"), "").unwrap();
        let directories = |pattern: &str| {
            let all = directories_of(&path(pattern).display().to_string());
            all.iter()
                .map(|found| found.strip_prefix(directory.path()).unwrap().display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(directories("a/*.html"), ["a"]);
        assert_eq!(directories("absent/*.html"), ["absent"]);
        assert_eq!(directories("*/*.html"), ["", "a", "d"]);
        assert_eq!(directories("**/*.html"), ["", "a", "a/b", "a/b/c", "d"]);
        assert_eq!(directories("*/b/*/*.html"), ["", "a", "a/b", "a/b/c", "d"]);
    }

    /// Thousands of other files may be checked meanwhile.
    #[test]
    fn a_check_of_the_script_does_not_wait_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("app.py");
        fs::write(&script, "").unwrap();
        let files = files(&script);
        let _others = files.others();
        std::thread::scope(|scope| {
            let check = scope.spawn(|| files.script_needs_reload());
            let start = Instant::now();
            while !check.is_finished() && start.elapsed() < Duration::from_secs(10) {
                std::thread::yield_now();
            }
            assert!(check.is_finished());
            drop(_others);
        });
    }

    #[test]
    fn one_call_is_the_first_to_see_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("app.py");
        fs::write(&script, "").unwrap();
        let files = files(&script);
        assert!(!files.discover());
        fs::write(&script, "new").unwrap();
        assert!(files.discover() && !files.discover());
        files.note();
        assert!(!files.discover());
        fs::write(&script, "newer").unwrap();
        assert!(files.needs_reload() && !files.discover(), "the watcher was first");
        files.note();
        files.failed();
        files.script().retry = Some(Instant::now());
        assert!(files.script_needs_reload() && !files.discover(), "nothing but another attempt");
    }

    #[test]
    fn the_delay_doubles_with_each_failure() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("app.py");
        fs::write(&script, "").unwrap();
        let files = files(&script);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            files.failed();
            assert!(!files.script_needs_reload());
            let left = files.script().retry.unwrap() - Instant::now();
            assert!(left.as_secs_f64() > f64::from(seconds) - 0.5 && left <= Duration::from_secs(seconds as u64));
            files.script().retry = Some(Instant::now());
            assert!(files.script_needs_reload());
            files.note();
        }
        files.loaded(None, []);
        files.failed();
        assert!(files.script().retry.unwrap() <= Instant::now() + RETRY_DELAY);
    }
}
