//! `tools/symbols.sh`: a symbol that neither nginx nor a library provides is reported when the module is built.

use crate::harness::{Script, module};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Runs the check; returns whether it succeeded, and its output.
fn check(module: &Path) -> (bool, String) {
    Script::new("symbols.sh").argument(module.to_str().unwrap()).run()
}

/// Builds a shared object from C as nginx loads it: with undefined symbols, bound lazily.
fn shared_object(dir: &TempDir, source: &str) -> PathBuf {
    let (file, object) = (dir.path().join("object.c"), dir.path().join("object.so"));
    fs::write(&file, source).unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&object, &file]).status().expect("run cc");
    assert!(status.success());
    object
}

#[test]
fn nginx_and_libraries_provide_all_symbols_of_the_module() {
    let (succeeded, output) = check(module());
    assert!(succeeded, "{output}");
    assert_eq!(output, "");
}

#[test]
fn missing_function_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let object = shared_object(
        &dir,
        "void *ngx_palloc(void *, unsigned long); void *ngx_http_wsgi_missing_function(void);\n\
         void *use(void) { return ngx_palloc(ngx_http_wsgi_missing_function(), 1); }\n",
    );
    let (succeeded, output) = check(&object);
    assert!(!succeeded, "{output}");
    assert!(output.contains("provides:\nngx_http_wsgi_missing_function\n"), "{output}");
}

#[test]
fn missing_data_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let object = shared_object(
        &dir,
        "extern long ngx_http_core_module, ngx_http_wsgi_missing_module;\n\
         long *use(int i) { return i ? &ngx_http_core_module : &ngx_http_wsgi_missing_module; }\n",
    );
    let (succeeded, output) = check(&object);
    assert!(!succeeded, "{output}");
    assert!(output.contains("provides:\nngx_http_wsgi_missing_module\n"), "{output}");
}

#[test]
fn missing_symbol_of_a_library_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let object = shared_object(&dir, "void PyWsgi_Missing(void);\nvoid use(void) { PyWsgi_Missing(); }\n");
    let (succeeded, output) = check(&object);
    assert!(!succeeded, "{output}");
    assert!(output.contains("provides:\nPyWsgi_Missing\n"), "{output}");
}

#[test]
fn nginx_that_is_a_script_is_not_checked() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("nginx");
    fs::write(&script, "#!/bin/sh\nexec /usr/sbin/nginx \"$@\"\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (succeeded, output) = Script::new("symbols.sh").argument(module().to_str().unwrap()).set("NGINX", script).run();
    assert!(succeeded, "{output}");
    assert!(output.contains("not checked"), "{output}");
}
