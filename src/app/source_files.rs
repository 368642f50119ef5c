//! The files of an application that is reloaded when they change, and how they were when they were last read.
//!
//! What tells is always the state of the files themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::file_watcher::Watcher;

use crate::sync::{Mutex, MutexGuard};

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
    /// Locked for moments: each call looks at it.
    script: Mutex<Script>,
    /// Locked while all files are looked at, which may take long. Before the script, if both are.
    others: Mutex<Others>,
    /// Whether somebody has found that they have changed.
    is_stale: AtomicBool,
    /// Whether a call was told so.
    is_discovered: AtomicBool,
    watcher: OnceLock<Arc<Watcher>>,
}

/// The script as it was before it was last read.
#[derive(Default)]
struct Script {
    /// `None` for a module, until it is found.
    path: Option<PathBuf>,
    state: Option<Fingerprint>,
    /// When it was noted, to be read after that.
    since: Option<SystemTime>,
    /// How often in a row the application could not be loaded, and when to try again though nothing has changed.
    failures: u32,
    retry: Option<Instant>,
}

type States = BTreeMap<PathBuf, Option<Fingerprint>>;

/// The other files as they were before they were last read.
#[derive(Default)]
struct Others {
    /// The files of modules.
    modules: BTreeSet<PathBuf>,
    states: States,
    /// What the last look has found.
    found: Option<States>,
}

/// What could not be loaded is tried again after this long, then after twice as long each time, up to the second: a file
/// that it needs and that is not looked at may have come.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_AT_MOST: Duration = Duration::from_secs(60);

/// The kernel's times of files lag behind the clock by at most so much.
const TICK: Duration = Duration::from_millis(10);

impl Files {
    /// The files of an application with this script, if it has one.
    pub fn new(script: Option<&Path>, patterns: Patterns) -> Self {
        let script = Script { path: script.map(Path::to_owned), ..Script::default() };
        Self { patterns, script: Mutex::new(script), ..Self::default() }
    }

    /// Looks after the files with `watcher` from now on.
    pub fn watch_with(&self, watcher: Arc<Watcher>) {
        self.watcher.get_or_init(|| watcher);
        self.watch(&self.others());
    }

    /// Whether modules count: those that are imported while it runs are to be [`Files::add`]ed.
    pub fn has_modules(&self) -> bool {
        self.patterns.modules
    }

    /// The files that are to be read now, all of them. To be called before that, so that what changes meanwhile is noticed.
    /// Returns when the newest of them was changed, in nanoseconds since 1970.
    pub fn note(&self) -> u64 {
        let mut others = self.others();
        others.found = None;
        others.states = others.look(&self.patterns);
        let mut script = self.script();
        self.note_script_of(&mut script);
        newest(&others, &script)
    }

    /// As [`Files::note`], with what [`Files::are_new`] has found: takes but a moment.
    pub fn note_found(&self) {
        let mut others = self.others();
        if let Some(found) = others.found.take() {
            others.states = found;
        }
        self.note_script_of(&mut self.script());
    }

    /// What [`Files::note`] last returned.
    pub fn noted(&self) -> u64 {
        newest(&self.others(), &self.script())
    }

    /// As [`Files::note`], where only the script has been looked at: what else has changed is found later.
    pub fn note_script(&self) {
        self.note_script_of(&mut self.script());
    }

    fn note_script_of(&self, script: &mut Script) {
        script.since = Some(SystemTime::now());
        script.state = script.now();
        script.retry = None;
        self.is_stale.store(false, Ordering::Relaxed);
        self.is_discovered.store(false, Ordering::Relaxed);
    }

    /// Whether the application is to be loaded anew, as far as one look at its script tells. One that is not there is no
    /// reason: it may be back in a moment, and until then the application that is loaded is all there is.
    pub fn is_script_new(&self) -> bool {
        self.is_stale() || self.script().is_new()
    }

    /// Whether this is the first look since they were noted that finds another script, [`Files::are_new`] included. It lets
    /// the watcher look as well; so does one that only finds that it is time to try again.
    pub fn discover(&self) -> bool {
        let is_discovery = self.is_script_new() && !self.is_discovered.swap(true, Ordering::Relaxed);
        if is_discovery {
            self.hint();
        }
        is_discovery && self.script().is_another()
    }

    /// Whether it is to be loaded anew, as far as all its files tell: one is another one, is new, or is gone.
    pub fn are_new(&self) -> bool {
        let mut others = self.others();
        self.watch(&others);
        let found = others.look(&self.patterns);
        let are_new = self.script().is_new() || found != others.states;
        others.found = Some(found);
        self.is_discovered.store(are_new, Ordering::Relaxed);
        are_new
    }

    /// Which files are others than were noted, as [`Files::are_new`] has found them.
    pub fn changed(&self) -> Vec<PathBuf> {
        let others = self.others();
        let script = self.script();
        let script = script.path.clone().filter(|_| script.is_another());
        let found = others.found.as_ref().unwrap_or(&others.states);
        let paths: BTreeSet<&PathBuf> = found.keys().chain(others.states.keys()).collect();
        let changed = paths.into_iter().filter(|path| found.get(*path) != others.states.get(*path)).cloned();
        let changed: Vec<PathBuf> = changed.filter(|path| Some(path) != script.as_ref()).collect();
        script.into_iter().chain(changed).collect()
    }

    /// The next [`Files::is_script_new`] is true.
    pub fn make_stale(&self) {
        self.is_stale.store(true, Ordering::Relaxed);
    }

    /// Whether that is so, without a look at any file.
    pub fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    /// The application was loaded. What belongs to it is known now: `script` where it is a module, and its `modules`.
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
        // What has changed while it was loaded has not been acted on.
        self.hint();
    }

    /// It could not be loaded.
    pub fn failed(&self) {
        let mut script = self.script();
        if script.retry.is_some() {
            // The same attempt, in another copy.
            return;
        }
        let delay = RETRY.saturating_mul(1 << script.failures.min(10)).min(RETRY_AT_MOST);
        script.failures += 1;
        script.retry = Some(Instant::now() + delay);
        drop(script);
        // What has changed while it was loaded has not been acted on.
        self.hint();
    }

    /// More modules were imported, after `since`.
    pub fn add(&self, modules: impl IntoIterator<Item = PathBuf>, since: SystemTime) {
        if self.add_to(&mut self.others(), modules, since) {
            self.hint();
        }
    }

    /// Returns whether one of them may have changed after it was read.
    fn add_to(&self, others: &mut Others, modules: impl IntoIterator<Item = PathBuf>, since: SystemTime) -> bool {
        let mut is_doubtful = false;
        if self.patterns.modules {
            let since = since.checked_sub(TICK).and_then(|since| since.duration_since(UNIX_EPOCH).ok());
            let since = since.map_or(0, |since| since.as_nanos() as u64);
            for file in modules {
                // What was known is as it was before it was read.
                if !others.states.contains_key(&file) {
                    // Whether what has changed since then was read before or after that, nobody knows.
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
        // What is new in the folder of a pattern may match it.
        let folders: Vec<PathBuf> = self.patterns.globs.iter().flat_map(|pattern| folders_of(pattern)).collect();
        watcher.watch(script.iter().chain(others.states.keys()).map(PathBuf::as_path), &folders);
    }

    /// Lets the watcher look at the files soon.
    pub fn hint(&self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.hint();
        }
    }

    /// All files but the script.
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
    fn now(&self) -> Option<Fingerprint> {
        self.path.as_deref().and_then(Fingerprint::of)
    }

    fn is_new(&self) -> bool {
        let now = self.now();
        now.is_some() && (now != self.state || self.retry.is_some_and(|retry| Instant::now() >= retry))
    }

    fn is_another(&self) -> bool {
        let now = self.now();
        now.is_some() && now != self.state
    }
}

impl Others {
    /// How they are now.
    fn look(&self, patterns: &Patterns) -> States {
        let matching = patterns.globs.iter().flat_map(|pattern| paths_of(pattern));
        let modules = self.modules.iter().cloned();
        matching.chain(modules).map(|path| (path.clone(), Fingerprint::of(&path))).collect()
    }
}

fn newest(others: &Others, script: &Script) -> u64 {
    let states = others.states.values().chain([&script.state]);
    states.flatten().map(|state| state.changed).max().unwrap_or(0)
}

/// What matches a pattern now.
fn paths_of(pattern: &str) -> impl Iterator<Item = PathBuf> {
    // An invalid one was refused when the configuration was read.
    glob::glob(pattern).into_iter().flatten().flatten()
}

/// The folders in which something new may match a pattern, or be a folder in which something may.
fn folders_of(pattern: &str) -> BTreeSet<PathBuf> {
    let folders = Path::new(pattern).ancestors().skip(1).map(Path::to_string_lossy);
    let (patterns, plain): (Vec<_>, Vec<_>) = folders.partition(|folder| folder.contains(['*', '?', '[']));
    let mut all: BTreeSet<PathBuf> =
        patterns.iter().flat_map(|pattern| paths_of(pattern)).filter(|path| path.is_dir()).collect();
    all.extend(plain.first().map(|folder| PathBuf::from(&**folder)));
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
        files.script().since = Some(SystemTime::now() + 2 * TICK);
        files.loaded(None, [path("helper.py")]);
        files.add([path("late.py")], SystemTime::now() + 2 * TICK);
        for name in ["a.html", "helper.py", "late.py"] {
            assert!(!files.are_new());
            fs::write(path(name), "new").unwrap();
            assert!(files.are_new() && !files.is_script_new(), "{name}");
            assert_eq!(files.changed(), [path(name)]);
            files.note_script();
            assert!(files.are_new(), "only the script was noted");
            files.note();
        }
        assert_eq!(files.changed(), Vec::<PathBuf>::new());
        fs::write(path("app.py"), "new").unwrap();
        fs::remove_file(path("a.html")).unwrap();
        assert!(files.are_new());
        assert_eq!(files.changed(), [path("app.py"), path("a.html")]);
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
    fn a_module_that_was_edited_about_when_it_was_imported_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (script, late) = (folder.path().join("app.py"), folder.path().join("late.py"));
        let before = SystemTime::now();
        fs::write(&script, "").unwrap();
        fs::write(&late, "").unwrap();
        let files = Files::new(Some(&script), Patterns { modules: true, ..Patterns::default() });
        files.note();
        files.add([late], before);
        assert!(files.are_new());
        files.note();
        assert!(!files.are_new());
    }

    #[test]
    fn what_was_found_is_what_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let (script, other) = (folder.path().join("app.py"), folder.path().join("one.html"));
        fs::write(&script, "").unwrap();
        let globs = vec![folder.path().join("*.html").display().to_string()];
        let files = Files::new(Some(&script), Patterns { globs, modules: false });
        files.note();
        fs::write(&other, "1").unwrap();
        assert!(files.are_new());
        fs::write(&other, "22").unwrap();
        files.note_found();
        assert!(files.are_new(), "the second edit was not found when they were noted");
        files.note_found();
        assert!(!files.are_new());
    }

    #[test]
    fn new_files_are_expected_in_all_folders_of_a_pattern() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a/b/c", "d"] {
            fs::create_dir_all(path(name)).unwrap();
        }
        fs::write(path("file"), "").unwrap();
        let folders = |pattern: &str| {
            let all = folders_of(&path(pattern).display().to_string());
            all.iter().map(|found| found.strip_prefix(folder.path()).unwrap().display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(folders("a/*.html"), ["a"]);
        assert_eq!(folders("absent/*.html"), ["absent"]);
        assert_eq!(folders("*/*.html"), ["", "a", "d"]);
        assert_eq!(folders("**/*.html"), ["", "a", "a/b", "a/b/c", "d"]);
        assert_eq!(folders("*/b/*/*.html"), ["", "a", "a/b", "a/b/c", "d"]);
    }

    /// Thousands of other files may be looked at meanwhile.
    #[test]
    fn a_look_at_the_script_does_not_wait_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("app.py");
        fs::write(&script, "").unwrap();
        let files = files(&script);
        let _others = files.others();
        std::thread::scope(|scope| {
            let look = scope.spawn(|| files.is_script_new());
            let start = Instant::now();
            while !look.is_finished() && start.elapsed() < Duration::from_secs(10) {
                std::thread::yield_now();
            }
            assert!(look.is_finished());
            drop(_others);
        });
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
        files.script().retry = Some(Instant::now());
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
            let left = files.script().retry.unwrap() - Instant::now();
            assert!(left.as_secs_f64() > f64::from(seconds) - 0.5 && left <= Duration::from_secs(seconds as u64));
            files.script().retry = Some(Instant::now());
            assert!(files.is_script_new());
            files.note();
        }
        files.loaded(None, []);
        files.failed();
        assert!(files.script().retry.unwrap() <= Instant::now() + RETRY);
    }
}
