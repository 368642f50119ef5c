//! The module under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The module, built from the same sources and with the same profile as these tests.
pub fn module() -> &'static Path {
    // A failure is kept too: it is the same for every test.
    static MODULE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    // TARGET/PROFILE
    let profile = profile_directory();
    let name = match profile.file_name().and_then(|n| n.to_str()).unwrap() {
        "debug" => "dev",
        name => name,
    };
    // With the tests, or the dependencies would be built a second time, without what dev-dependencies ask of them.
    let module = MODULE.get_or_init(|| build(&["--tests", "--profile", name], &profile)).as_ref();
    module.unwrap_or_else(|problem| panic!("{problem}"))
}

/// The module as it is released: `make build`, with whatever profile these tests have.
pub fn release_module() -> &'static Path {
    static MODULE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let profile = profile_directory().with_file_name("release");
    let module = MODULE.get_or_init(|| build(&["--release"], &profile)).as_ref();
    module.unwrap_or_else(|problem| panic!("{problem}"))
}

/// Returns TARGET/PROFILE of TARGET/PROFILE/deps/suite-HASH.
fn profile_directory() -> PathBuf {
    let executable = std::env::current_exe().expect("the test's own path");
    executable.parent().and_then(Path::parent).unwrap().to_owned()
}

/// cargo builds no cdylib for integration tests, as they cannot link to one, and a second crate type beside it would
/// switch link-time optimisation off. So cargo is asked here, once; it has let go of its lock by now.
fn build(arguments: &[&str], profile: &Path) -> Result<PathBuf, String> {
    let module = profile.join("libngx_http_wsgi_module.so");
    // Not set if the test executable is started by hand: then the module that is there is tested.
    if let Some(cargo) = std::env::var_os("CARGO") {
        let output = Command::new(cargo)
            .args(["build", "--lib"])
            .args(arguments)
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .env("CARGO_TARGET_DIR", profile.parent().unwrap())
            // That of this package is set here, and nginx-sys would be built again for it, here and by the next cargo.
            .env_remove("OUT_DIR")
            .output()
            .expect("run cargo build");
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(format!("the module does not build:\n{said}"));
        }
    }
    if module.exists() { Ok(module) } else { Err(format!("{module:?} is missing: run `cargo build`")) }
}
