//! Common parts of all tests: `Site` describes an nginx, `Nginx` is a running one, `Response` a response of it.

mod browser;
mod callgrind;
mod client;
mod container;
mod counted;
mod curl;
mod debian;
mod group;
mod group_nginx;
mod http;
mod image;
mod load;
mod logs;
mod machine;
mod module;
mod nginx;
mod page;
mod process;
mod rng;
mod runner;
mod script;
mod shared;
mod site;
pub mod stress;
mod terminal;
mod user;

pub use browser::Browser;
pub use callgrind::{Callgrind, Profile, Source};
pub use client::Client;
pub use container::Container;
pub use counted::{COUNTED, CountedLoad, with_record};
pub use curl::{Curl, curl, make_certificate};
pub use debian::Debian;
pub use group::files_below;
pub use group_nginx::GroupNginx;
pub use http::{Conn, Framing, Response, latin1};
pub use image::Image;
pub use load::Load;
pub use machine::Machine;
pub use module::module;
pub use nginx::Nginx;
pub use page::{Block, Page};
pub use process::Process;
pub use rng::SeededRng;
pub use runner::{Ended, Project, Runner, Server, WAITS};
pub use script::{RunningScript, Script};
pub use shared::SharedNginx;
pub use site::{Check, Site, free_port, is_root, open_to_all};
pub use terminal::Terminal;
pub use user::{User, ids, two_users};

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time after which a test fails because something has not happened.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The two engines, as `wsgi_threads` names them. What holds for an application holds in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Threads,
    Inline,
}

impl Engine {
    pub fn directive(self) -> &'static str {
        match self {
            Engine::Threads => "wsgi_threads 4;",
            Engine::Inline => "wsgi_threads off;",
        }
    }
}

/// Makes two tests of each `fn name(engine: Engine)`: `threads::name` and `inline::name`.
macro_rules! both_engines {
    ($($name:ident),+ $(,)?) => {
        mod threads {
            $(#[test] fn $name() { super::$name($crate::harness::Engine::Threads) })+
        }
        mod inline {
            $(#[test] fn $name() { super::$name($crate::harness::Engine::Inline) })+
        }
    };
}
pub(crate) use both_engines;

/// Returns whether the applications of all sites run in a process group (`WSGI_TEST_PROCESS_GROUP=1`).
pub fn uses_process_group() -> bool {
    std::env::var_os("WSGI_TEST_PROCESS_GROUP").is_some()
}

/// Returns true, and says so, if a test does not apply to applications in a process group.
pub fn skip_in_process_group(reason: &str) -> bool {
    if uses_process_group() {
        eprintln!("skipped in a process group: {reason}");
    }
    uses_process_group()
}

/// Asks `condition` until it gives a value; panics with `what` when it does not within `PATIENCE`.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The virtual environment with the frameworks of `tests/requirements.txt`.
pub fn venv() -> PathBuf {
    let made = in_repository(concat!("target/venv/python", env!("WSGI_PYTHON_VERSION")));
    let path = std::env::var_os("WSGI_TEST_VENV").map_or(made, PathBuf::from);
    assert!(path.join("bin/python").exists(), "{} is not there: `make test` makes it", path.display());
    path
}

/// A file beside this crate's Cargo.toml.
pub fn in_repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The Python that the module is built for.
pub const PYTHON: &str = env!("WSGI_PYTHON_EXECUTABLE");

/// Returns whether workers of any user can read that Python, which may be in a home directory.
pub fn python_is_for_everybody() -> bool {
    is_for_everybody(PYTHON.as_ref())
}

/// Returns whether every user may enter each directory of the path, with links resolved.
pub fn is_for_everybody(path: &Path) -> bool {
    let open = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    path.ancestors().all(open) && path.canonicalize().is_ok_and(|path| path.ancestors().all(open))
}
