//! Build script: checks Python and nginx, and passes their properties to the sources and the linker.

use std::env;
use std::path::PathBuf;

fn main() {
    if env::var_os("CARGO_FEATURE_LOOM").is_some() {
        println!("cargo:rustc-cfg=loom");
    }
    python();
    nginx();
}

/// Checks the Python that pyo3 found and makes its version known to the sources.
fn python() {
    println!("cargo:rerun-if-env-changed=PYO3_PYTHON");
    pyo3_build_config::use_pyo3_cfgs();
    let python = pyo3_build_config::get();
    let (major, minor) = (python.target_abi().version().major, python.target_abi().version().minor);
    let executable = python.executable().unwrap_or_default();
    if !python.shared() {
        panic!(
            "\n\n{executable} (Python {major}.{minor}) has no shared libpython, which extension modules inside nginx \
             need.\nOn Debian and Ubuntu install libpython{major}.{minor}-dev; with pyenv build it with \
             PYTHON_CONFIGURE_OPTS=--enable-shared.\nTo build for another Python, run `make PYTHON=…` or set \
             PYO3_PYTHON.\n"
        );
    }
    missing_bindings(python);
    byte_code(python);
    println!("cargo:rustc-env=WSGI_PYTHON_VERSION={major}.{minor}");
    println!("cargo:rustc-env=WSGI_PYTHON_EXECUTABLE={executable}");
    // The module and the tests find a libpython outside the system's library directories by their rpath.
    let system = ["/usr/lib", "/lib"];
    let library = python.lib_dir().unwrap_or_default();
    if !system.iter().any(|directory| library.starts_with(directory)) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{library}");
    }
}

/// Compiles the module's own Python code, so that no worker has to, and makes the version of the byte code known.
fn byte_code(python: &pyo3_build_config::InterpreterConfig) {
    const FILES: [&str; 7] = [
        "src/app/callables.py",
        "src/app/conflicts.py",
        "src/app/loader.py",
        "src/app/scripts.py",
        "src/app/settings.py",
        "src/python/bootstrap.py",
        "src/python/isolation.py",
    ];
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let directory = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    // A list of texts is written alike in Rust and Python.
    let code = format!(
        r#"
import importlib.util, marshal, os
for path in {FILES:?}:
    name = os.path.basename(path)
    with open(path, encoding="utf-8") as file:
        code = compile(file.read(), "ngx_wsgi/" + name, "exec", dont_inherit=True, optimize=0)
    with open(os.path.join({directory:?}, name + "c"), "wb") as file:
        file.write(marshal.dumps(code))
print(int.from_bytes(importlib.util.MAGIC_NUMBER, "little"))
"#
    );
    let magic = python.run_python_script(&code).expect("Python compiles the module's own code");
    println!("cargo:rustc-env=WSGI_BYTE_CODE_MAGIC={}", magic.trim());
}

/// Generates declarations that pyo3-ffi lacks from the headers of this Python.
fn missing_bindings(python: &pyo3_build_config::InterpreterConfig) {
    println!("cargo:rerun-if-changed=src/python/missing.h");
    let include = python
        .run_python_script("import sysconfig; print(sysconfig.get_path('include'))")
        .expect("the Python that has just printed its version runs");
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("missing.rs");
    bindgen::builder()
        .header("src/python/missing.h")
        .clang_arg(format!("-I{}", include.trim()))
        .allowlist_function("_PyBytes_Resize|_PyObject_LookupAttr|PySys_AddAuditHook")
        .allowlist_type("Py_AuditHookFunction")
        .allowlist_recursively(false)
        .raw_line("use pyo3::ffi::{PyObject, Py_ssize_t};")
        .generate()
        .unwrap_or_else(|error| {
            panic!("cannot read the headers of Python in {include}: install python3-dev or its equivalent: {error}")
        })
        .write_to_file(output)
        .expect("OUT_DIR is writable");
}

/// Sets cfgs and linker arguments by the properties of the configured nginx that nginx-sys reports.
fn nginx() {
    let property = |name: &str| env::var(format!("DEP_NGINX_{name}")).unwrap_or_default();

    println!("cargo:rustc-env=WSGI_NGINX_PREFIX={}", prefix(&property("INCLUDE")).trim_end_matches('/'));

    println!("cargo:rustc-check-cfg=cfg(nginx_linked_headers)");
    let version: u64 = property("VERSION_NUMBER").parse().unwrap_or_default();
    // Since nginx 1.23.0 repeated headers are linked lists; before, some were arrays and the others had no link.
    if version >= 1_023_000 {
        println!("cargo:rustc-cfg=nginx_linked_headers");
    }

    // Some fields of nginx's structures depend on how it was configured.
    for feature in property("FEATURES").split(',').filter(|feature| !feature.is_empty()) {
        println!("cargo:rustc-cfg=ngx_feature=\"{feature}\"");
    }

    const C_FILES: [&str; 2] = ["src/nginx/request/flags.c", "src/nginx/upstream.c"];
    for file in C_FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    // nginx-sys 0.5 exports its definitions under a wrong name.
    let definitions = property("METADATA");
    cc::Build::new()
        .files(C_FILES)
        .includes(env::split_paths(&property("INCLUDE")))
        .flags(definitions.trim_start_matches("cflags=").split_whitespace())
        .warnings(false)
        .cargo_warnings(false)
        .compile("ngx_http_wsgi_flags");

    // libpython and this module are never unmapped: unloading them at a reload would leak thread-specific keys.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // nginx provides the ngx_* symbols, which tools/symbols.sh checks; the unit tests never call them.
    println!("cargo:rustc-link-arg=-Wl,--unresolved-symbols=ignore-all");
    println!("cargo:rustc-link-arg=-Wl,-z,lazy");
}

/// Returns the prefix that nginx was configured with, from the header that its `configure` writes.
fn prefix(includes: &str) -> String {
    let headers = env::split_paths(includes).map(|directory| directory.join("ngx_auto_config.h"));
    let text = headers.filter_map(|header| std::fs::read_to_string(header).ok()).next().unwrap_or_default();
    let prefix = text.lines().find_map(|line| line.strip_prefix("#define NGX_PREFIX"));
    // That of nginx without an option.
    prefix.map_or("/usr/local/nginx", |quoted| quoted.trim().trim_matches('"')).to_owned()
}
