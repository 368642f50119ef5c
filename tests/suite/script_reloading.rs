//! `wsgi_script_reloading`: every change of a file is noticed, and new code replaces the old
//! without a lost request, and code that cannot be loaded never does.

use crate::harness::{Engine, Load, Nginx, Site, wait_for};
use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Reload mechanism and engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Module(Engine),
    Interpreter,
}

impl Way {
    fn directives(self) -> String {
        let on = "wsgi_script_reloading on;";
        match self {
            Way::Module(engine) => format!("{} {on}", engine.directive()),
            Way::Interpreter => {
                format!("wsgi_threads 2; wsgi_enable_subinterpreters on; {on} wsgi_reload_mechanism interpreter;")
            }
        }
    }
}

/// Makes a test of each `fn name(way: Way)` for every way.
macro_rules! every_way {
    ($($name:ident),+ $(,)?) => {
        mod module_threads {
            $(#[test] fn $name() { super::$name(super::Way::Module(crate::harness::Engine::Threads)) })+
        }
        mod module_inline {
            $(#[test] fn $name() { super::$name(super::Way::Module(crate::harness::Engine::Inline)) })+
        }
        mod interpreter {
            $(#[test] fn $name() { super::$name(super::Way::Interpreter) })+
        }
    };
}

every_way!(
    an_edited_script,
    a_script_replaced_by_rename,
    a_switched_link,
    an_older_date,
    a_helper_that_is_not_watched,
    a_helper_that_is_watched,
    a_helper_imported_late,
    a_file_of_a_pattern,
    a_file_of_a_pattern_in_a_new_directory,
    a_helper_behind_links,
    strange_modules,
    a_module_instead_of_a_script,
    a_syntax_error_then_fixed,
    a_missing_helper_that_comes_later,
    a_file_removed_then_back,
    edits_within_a_second,
    many_files_copied_under_load,
    a_failing_factory,
    a_module_level_exit,
);

/// Responds with `version`, its own, that of `helper.py` and that of its interpreter's state.
fn app(version: &str) -> String {
    format!(
        "
import helper

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [f'{version} {{helper.VERSION}}'.encode()]
"
    )
}

fn helper(version: &str) -> String {
    format!("VERSION = {version:?}\n")
}

/// An application of version `a1` with a helper of version `h1`.
fn site(way: Way) -> Site {
    let site = Site::plain().http(&way.directives()).file("site/helper.py", &helper("h1"));
    site.file("site/app.py", &app("a1")).location("/", "wsgi_pass site/app.py;")
}

fn text(nginx: &Nginx) -> String {
    nginx.get("/").expect(200).text()
}

/// The response is `wanted`: at once with `module`, or soon, and until then one of `before`.
#[track_caller]
fn becomes(nginx: &Nginx, way: Way, before: &str, wanted: &str) {
    if let Way::Module(_) = way {
        assert_eq!(text(nginx), wanted);
    }
    becomes_soon(nginx, before, wanted);
}

/// The response is `wanted` in the end, and `before` until then. For files that only the watch looks at.
#[track_caller]
fn becomes_soon(nginx: &Nginx, before: &str, wanted: &str) {
    wait_for(wanted, || {
        let response = text(nginx);
        assert!(response == before || response == wanted, "{response} in place of {before} or {wanted}");
        (response == wanted).then_some(())
    });
}

/// The response is `wanted`, and stays so for longer than it takes to notice a change.
#[track_caller]
fn stays(nginx: &Nginx, wanted: &str) {
    for _ in 0..12 {
        assert_eq!(text(nginx), wanted);
        std::thread::sleep(Duration::from_millis(50));
    }
}

// ---- how files change -----------------------------------------------------------------------------------------------

fn an_edited_script(way: Way) {
    let nginx = site(way).start();
    assert_eq!(text(&nginx), "a1 h1");
    for version in 2..5 {
        write_in_place(&nginx.prefix().join("site/app.py"), &app(&format!("a{version}")));
        becomes(&nginx, way, &format!("a{} h1", version - 1), &format!("a{version} h1"));
    }
    assert!(nginx.logged("[error]").is_empty());
}

/// Overwrites a file with a text of the same length, in one write: a reader finds the old text or the new one.
fn write_in_place(path: &Path, text: &str) {
    let mut file = File::options().write(true).open(path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), text.len() as u64);
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn without_the_directive_nothing_is_reloaded() {
    let nginx = Site::plain()
        .file("site/helper.py", &helper("h1"))
        .file("site/app.py", &app("a1"))
        .location("/", "wsgi_pass site/app.py;")
        .start();
    assert_eq!(text(&nginx), "a1 h1");
    nginx.write("site/app.py", &app("a2"));
    stays(&nginx, "a1 h1");
}

fn a_script_replaced_by_rename(way: Way) {
    let nginx = site(way).start();
    assert_eq!(text(&nginx), "a1 h1");
    nginx.write("site/app.py", &app("a2"));
    becomes(&nginx, way, "a1 h1", "a2 h1");
}

fn a_switched_link(way: Way) {
    let site = Site::plain().http(&way.directives());
    for number in ["1", "2", "3"] {
        let directory = site.prefix().join(number);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("app.py"), app(&format!("a{number}"))).unwrap();
        fs::write(directory.join("helper.py"), helper("h1")).unwrap();
    }
    symlink("1", site.prefix().join("current")).unwrap();
    let nginx = site.location("/", "wsgi_pass current/app.py;").start();
    assert_eq!(text(&nginx), "a1 h1");
    for (before, now) in [("1", "2"), ("2", "3"), ("3", "1")] {
        symlink(now, nginx.prefix().join("next")).unwrap();
        fs::rename(nginx.prefix().join("next"), nginx.prefix().join("current")).unwrap();
        becomes(&nginx, way, &format!("a{before} h1"), &format!("a{now} h1"));
    }
    // The new target of the link is watched as well.
    nginx.write("1/app.py", &app("a4"));
    becomes(&nginx, way, "a1 h1", "a4 h1");
}

fn set_date(path: &Path, date: SystemTime) {
    File::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(date)).unwrap();
}

fn an_older_date(way: Way) {
    let nginx = site(way).start();
    assert_eq!(text(&nginx), "a1 h1");
    nginx.write("site/older", &app("a2"));
    set_date(&nginx.prefix().join("site/older"), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    fs::rename(nginx.prefix().join("site/older"), nginx.prefix().join("site/app.py")).unwrap();
    becomes(&nginx, way, "a1 h1", "a2 h1");
}

fn a_helper_that_is_not_watched(way: Way) {
    let nginx = site(way).start();
    assert_eq!(text(&nginx), "a1 h1");
    nginx.write("site/helper.py", &helper("h2"));
    stays(&nginx, "a1 h1");
    nginx.write("site/app.py", &app("a2"));
    // `module` loads the script alone; a new interpreter has nothing of the old one.
    let helper = if way == Way::Interpreter { "h2" } else { "h1" };
    becomes(&nginx, way, "a1 h1", &format!("a2 {helper}"));
}

fn a_helper_that_is_watched(way: Way) {
    for watched in ["modules", "site/*.py", "@prefix@/site/helper.py"] {
        let nginx = site(way).http(&format!("wsgi_reload_watch {watched};")).start();
        assert_eq!(text(&nginx), "a1 h1");
        for version in 2..4 {
            nginx.write("site/helper.py", &helper(&format!("h{version}")));
            becomes_soon(&nginx, &format!("a1 h{}", version - 1), &format!("a1 h{version}"));
        }
        nginx.write("site/app.py", &app("a2"));
        becomes(&nginx, way, "a1 h3", "a2 h3");
    }
}

fn a_helper_imported_late(way: Way) {
    let late =
        app("a1").replace("import helper\n", "").replace("    start_response", "    import helper\n    start_response");
    let nginx = site(way).file("site/app.py", &late).http("wsgi_reload_watch modules;").start();
    assert_eq!(text(&nginx), "a1 h1");
    nginx.write("site/helper.py", &helper("h2"));
    becomes_soon(&nginx, "a1 h1", "a1 h2");
}

fn a_file_of_a_pattern(way: Way) {
    let reads = app("a1")
        + "import glob, os\nhelper.VERSION = ' '.join(sorted(open(name).read() for name in glob.glob(os.path.dirname(__file__) + '/*.txt')))\n";
    let nginx = site(way).file("site/app.py", &reads).http("wsgi_reload_watch site/*.txt;").start();
    assert_eq!(text(&nginx), "a1 ");
    nginx.write("site/one.txt", "one");
    becomes_soon(&nginx, "a1 ", "a1 one");
    nginx.write("site/two.txt", "two");
    becomes_soon(&nginx, "a1 one", "a1 one two");
    fs::remove_file(nginx.prefix().join("site/one.txt")).unwrap();
    becomes_soon(&nginx, "a1 one two", "a1 two");
}

/// Below a directory that had no such file, some time after the directory.
fn a_file_of_a_pattern_in_a_new_directory(way: Way) {
    let reads = app("a1")
        + "import glob, os\nfiles = glob.glob(os.path.dirname(__file__) + '/pages/**/*.txt', recursive=True)\n"
        + "helper.VERSION = ' '.join(open(name).read() for name in sorted(files))\n";
    for pattern in ["pages/**/*.txt", "pages/*/*/*.txt"] {
        let site = site(way).file("site/app.py", &reads).file("site/pages/a/b/one.txt", "one");
        let nginx = site.http(&format!("wsgi_reload_watch site/{pattern};")).start();
        assert_eq!(text(&nginx), "a1 one");
        for (directory, file, before) in [("c/d", "two", "one"), ("e", "", ""), ("e/f", "three", "one two")] {
            fs::create_dir_all(nginx.prefix().join("site/pages").join(directory)).unwrap();
            std::thread::sleep(Duration::from_millis(500));
            if !file.is_empty() {
                nginx.write(&format!("site/pages/{directory}/{file}.txt"), file);
                becomes_soon(&nginx, &format!("a1 {before}"), &format!("a1 {before} {file}"));
            }
        }
    }
}

/// The watch is on where the links lead, not on the links alone.
fn a_helper_behind_links(way: Way) {
    let site = site(way).file("real/helper.py", &helper("h1")).http("wsgi_reload_watch modules;");
    fs::remove_file(site.prefix().join("site/helper.py")).unwrap();
    fs::create_dir(site.prefix().join("links")).unwrap();
    symlink("../real/helper.py", site.prefix().join("links/helper.py")).unwrap();
    symlink("../links/helper.py", site.prefix().join("site/helper.py")).unwrap();
    let nginx = site.start();
    // Nothing is looked at any more for the sake of what was before.
    stays(&nginx, "a1 h1");
    nginx.write("real/helper.py", &helper("h2"));
    becomes_soon(&nginx, "a1 h1", "a1 h2");
    stays(&nginx, "a1 h2");
    // The link in the middle.
    nginx.write("real/other.py", &helper("h3"));
    symlink("../real/other.py", nginx.prefix().join("links/next")).unwrap();
    fs::rename(nginx.prefix().join("links/next"), nginx.prefix().join("links/helper.py")).unwrap();
    becomes_soon(&nginx, "a1 h2", "a1 h3");
}

/// `sys.modules` may have anything, also what does not like to be looked at.
fn strange_modules(way: Way) {
    let strange = "
import sys, types

class Lazy:
    def __getattr__(self, name):
        raise ImportError('looked at')

class LazyModule(types.ModuleType):
    def __getattribute__(self, name):
        raise ImportError('looked at')

sys.modules.update(lazy=Lazy(), lazy_module=LazyModule('lazy_module'), nothing=None)
";
    let nginx = site(way).file("site/app.py", &(app("a1") + strange)).http("wsgi_reload_watch modules;").start();
    assert_eq!(text(&nginx), "a1 h1");
    nginx.write("site/helper.py", &helper("h2"));
    becomes_soon(&nginx, "a1 h1", "a1 h2");
}

/// An application in the same interpreter keeps what it has.
#[test]
fn modules_of_another_application_stay() {
    let another = "
import sys
import pickle
import another_helper

class State:
    pass

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    import another_helper as now
    pickle.dumps(State())
    return [str(now is another_helper).encode()]
";
    let nginx = site(Way::Module(Engine::Threads))
        .http("wsgi_reload_watch modules;")
        .file("another/another_helper.py", "")
        .file("another/another.py", another)
        .location("/another", "wsgi_pass another/another.py; wsgi_script_reloading off;")
        .start();
    assert_eq!(nginx.get("/another").expect(200).text(), "True");
    assert_eq!(text(&nginx), "a1 h1");
    nginx.write("site/app.py", &app("a2"));
    becomes(&nginx, Way::Module(Engine::Threads), "a1 h1", "a2 h1");
    assert_eq!(nginx.get("/another").expect(200).text(), "True");
}

/// Calls do not delay the look at the files.
#[test]
fn a_change_is_noticed_as_soon_under_load() {
    let nginx = site(Way::Interpreter).start();
    assert_eq!(text(&nginx), "a1 h1");
    let notice = |version: u32| {
        let start = Instant::now();
        nginx.write("site/app.py", &app(&format!("a{version}")));
        becomes_soon(&nginx, &format!("a{} h1", version - 1), &format!("a{version} h1"));
        start.elapsed()
    };
    let idle = (2..5).map(notice).min().unwrap();
    let load = Load::start(&nginx, "/", 1);
    let loaded = (5..8).map(notice).min().unwrap();
    load.stop().assert_good();
    // After two seconds files are looked at even though it is never quiet.
    assert!(loaded < idle + Duration::from_millis(1200), "{loaded:?} under load, {idle:?} without");
}

fn a_module_instead_of_a_script(way: Way) {
    let nginx = Site::plain()
        .http(&format!("{} wsgi_python_path @prefix@/site;", way.directives()))
        .file("site/helper.py", &helper("h1"))
        .file("site/package/__init__.py", "")
        .file("site/package/wsgi.py", &app("a1"))
        .location("/", "wsgi_pass package.wsgi;")
        .start();
    assert_eq!(text(&nginx), "a1 h1");
    for version in 2..4 {
        nginx.write("site/package/wsgi.py", &app(&format!("a{version}")));
        becomes(&nginx, way, &format!("a{} h1", version - 1), &format!("a{version} h1"));
    }
}

fn a_file_removed_then_back(way: Way) {
    let nginx = site(way).start();
    assert_eq!(text(&nginx), "a1 h1");
    fs::remove_file(nginx.prefix().join("site/app.py")).unwrap();
    stays(&nginx, "a1 h1");
    nginx.write("site/app.py", &app("a2"));
    becomes(&nginx, way, "a1 h1", "a2 h1");
    assert!(nginx.logged("[error]").is_empty());
}

fn edits_within_a_second(way: Way) {
    let nginx = site(way).http("wsgi_reload_watch modules;").start();
    assert_eq!(text(&nginx), "a1 h1");
    for round in 1..4 {
        // Of the same length, so that byte code of one would be taken for that of the other.
        for version in 1..6 {
            for (file, text) in
                [("helper", helper(&format!("h{}", version * round % 10))), ("app", app(&format!("a{version}")))]
            {
                nginx.write(&format!("site/{file}.py"), &text);
            }
            text(&nginx);
            std::thread::sleep(Duration::from_millis(30 * round));
        }
        let wanted = format!("a5 h{}", 5 * round % 10);
        wait_for(&wanted, || (text(&nginx) == wanted).then_some(()));
        stays(&nginx, &wanted);
    }
    assert!(nginx.logged("[error]").is_empty());
}

fn many_files_copied_under_load(way: Way) {
    const COUNT: usize = 200;
    let part = |number: usize, version: usize| (format!("site/part{number}.py"), format!("VERSION = {version}\n"));
    let script = |version: usize| {
        let imports: Vec<String> = (0..COUNT).map(|number| format!("import part{number}")).collect();
        let parts: Vec<String> = (0..COUNT).map(|number| format!("part{number}.VERSION")).collect();
        format!(
            "{}
VERSIONS = {{{version}, {}}}

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [' '.join(map(str, sorted(VERSIONS))).encode()]
",
            imports.join("\n"),
            parts.join(", ")
        )
    };
    let mut site = Site::plain().http(&format!("{} wsgi_reload_watch modules;", way.directives()));
    for (name, text) in (0..COUNT).map(|number| part(number, 1)) {
        site = site.file(&name, &text);
    }
    let nginx = site.file("site/app.py", &script(1)).location("/", "wsgi_pass site/app.py;").start();
    assert_eq!(text(&nginx), "1");
    let load = Load::start(&nginx, "/", 2);
    nginx.write("site/app.py", &script(2));
    for number in 0..COUNT {
        let (name, text) = part(number, 2);
        nginx.write(&name, &text);
        std::thread::sleep(Duration::from_millis(2));
    }
    wait_for("the new version of all files", || (text(&nginx) == "2").then_some(()));
    stays(&nginx, "2");
    load.stop().assert_good();
}

// ---- code that cannot be loaded -------------------------------------------------------------------------------------

fn a_syntax_error_then_fixed(way: Way) {
    let nginx = site(way).errors_expected().start();
    assert_eq!(text(&nginx), "a1 h1");
    nginx.write("site/app.py", "def application(:\n");
    text(&nginx);
    nginx.wait_log("SyntaxError");
    stays(&nginx, "a1 h1");
    let log = nginx.error_log();
    let said = "site/app.py\" reload failed, keeping the previous version: SyntaxError";
    // It is tried again after a second, which may have passed.
    assert!(log.contains(said) && log.contains("def application(:"), "{log}");
    nginx.write("site/app.py", &app("a2"));
    becomes(&nginx, way, "a1 h1", "a2 h1");
}

/// The loaded code and its imports stay whole, whatever the new code has done before it failed.
fn a_missing_helper_that_comes_later(way: Way) {
    let nginx = site(way).http("wsgi_reload_watch modules;").errors_expected().start();
    assert_eq!(text(&nginx), "a1 h1");
    nginx.write("site/app.py", &app("a2").replace("import helper", "import helper, another"));
    text(&nginx);
    nginx.wait_log("No module named 'another'");
    assert_eq!(text(&nginx), "a1 h1");
    // In no file that is looked at: it is tried again after a while.
    nginx.write("site/another.py", "");
    becomes_soon(&nginx, "a1 h1", "a2 h1");
}

fn a_failing_factory(way: Way) {
    let made = |text: &str| {
        format!("import helper\nfrom app_parts import application\ndef make():\n    {text}\n    return application\n")
    };
    let nginx = Site::plain()
        .http(&way.directives())
        .file("site/helper.py", &helper("h1"))
        .file("site/app_parts.py", &app("a1"))
        .file("site/app.py", &made("pass"))
        .location("/", "wsgi_pass site/app.py make();")
        .errors_expected()
        .start();
    assert_eq!(text(&nginx), "a1 h1");
    nginx.write("site/app.py", &made("raise LookupError('the reason')"));
    text(&nginx);
    nginx.wait_log("LookupError: the reason");
    stays(&nginx, "a1 h1");
    nginx.write("site/app.py", &made("helper.VERSION = 'h2'"));
    becomes(&nginx, way, "a1 h1", "a1 h2");
}

fn a_module_level_exit(way: Way) {
    let nginx = site(way).errors_expected().start();
    assert_eq!(text(&nginx), "a1 h1");
    let worker = nginx.workers();
    nginx.write("site/app.py", "import sys\nsys.exit('no')\n");
    text(&nginx);
    nginx.wait_log("SystemExit");
    stays(&nginx, "a1 h1");
    assert_eq!(nginx.workers(), worker);
}
