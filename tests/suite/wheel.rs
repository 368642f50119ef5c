//! The wheel, in a Debian without Rust and nginx (`WSGI_TEST_WHEEL`), and as it is installed in /srv/venv of the directory
//! `WSGI_TEST_ROOT`. `tools/test_packages.sh` makes both.

use crate::harness::{Debian, Process, curl, free_port, in_repository, make_certificate, wait_for};
use serde_json::Value;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// The nginx modules that the runner or its users need.
const MODULES: [&str; 9] = [
    "http_auth_request_module",
    "http_gunzip_module",
    "http_gzip_static_module",
    "http_realip_module",
    "http_slice_module",
    "http_ssl_module",
    "http_stub_status_module",
    "http_sub_module",
    "http_v2_module",
];

/// A directory of a Debian with the wheel in /srv/venv.
struct Installed {
    root: PathBuf,
}

impl Installed {
    /// `None`, with a message, where there is none.
    fn find() -> Option<Installed> {
        let root = std::env::var_os("WSGI_TEST_ROOT").filter(|_| std::env::var_os("WSGI_TEST_WHEEL").is_some());
        if root.is_none() {
            eprintln!("skipped: this needs WSGI_TEST_WHEEL and WSGI_TEST_ROOT, see tools/test_packages.sh");
        }
        root.map(|root| Installed { root: root.into() })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(in_repository("tools/in_debian.sh"));
        command.arg(&self.root).args(words).stdin(Stdio::null());
        command
    }

    /// Standard output and standard error of a command that succeeds.
    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("run tools/in_debian.sh");
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        assert!(output.status.success(), "{words:?}: {said}");
        said
    }

    fn python(&self, code: &str) -> String {
        self.run(&["/srv/venv/bin/python", "-c", code]).trim_end().to_owned()
    }

    /// The directory with the packages of the virtual environment, as seen inside.
    fn packages(&self) -> String {
        self.python("import sysconfig; print(sysconfig.get_path('platlib'))")
    }

    fn nginx(&self) -> String {
        format!("{}/ngx_wsgi/bin/nginx", self.packages())
    }

    fn module(&self) -> String {
        format!("{}/ngx_wsgi/lib/ngx_http_wsgi_module.so", self.packages())
    }

    /// Path outside of a path inside.
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

/// An nginx of the wheel, which is told to end with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let process = Process(self.0.id().cast_signed());
        process.signal(libc::SIGTERM);
        let ended = self.0.wait();
        if !std::thread::panicking() {
            assert!(ended.is_ok_and(|status| status.success()), "nginx did not end as it should");
        }
    }
}

/// Output of a program of this machine.
#[track_caller]
fn output(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(file).output().expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const HELLO: &str = "
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'hello\\n']
";

/// The version in Cargo.toml.
const VERSION: &str = env!("CARGO_PKG_VERSION");

// ---- a machine that has nothing --------------------------------------------------------------------------------------

#[test]
fn it_says_what_is_missing_then_serves_and_leaves_nothing() {
    let Some(debian) = Debian::with_package("WSGI_TEST_WHEEL") else { return };
    debian.paste("apt-get -q install -y --no-install-recommends python3-venv");
    assert!(!debian.run("command -v cargo || command -v nginx").0, "this Debian is not bare");
    debian.paste("python3 -m venv /srv/venv && cd /srv");
    let before = debian.paste("find venv -not -name '*.pyc' -not -name __pycache__ | sort");
    debian.paste(&format!("venv/bin/pip install --disable-pip-version-check ~/{}", debian.package()));
    debian.write("/srv/hello.py", HELLO);

    let library = debian.paste("python3 -c 'import sys; print(\"libpython%d.%d\" % sys.version_info[:2])'");
    let library = library.trim_end();
    let (succeeded, said) = debian.run("TMPDIR=/srv venv/bin/ngx-wsgi --check-config hello");
    assert!(!succeeded && said.contains(library) && !said.contains("Traceback"), "{said}");
    debian.paste(&format!("apt-get -q install -y --no-install-recommends {library}"));
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let words = ["TMPDIR=/srv", "/srv/venv/bin/ngx-wsgi", "hello", "--chdir", "/srv", "--bind", &address];
    let server = Server(debian.command(&words).spawn().expect("run tools/in_debian.sh"));
    wait_for("the server", || TcpStream::connect(("127.0.0.1", port)).ok());
    assert_eq!(curl(&[&format!("http://{address}/")]).expect(200).text(), "hello\n");
    drop(server);

    debian.paste("venv/bin/pip uninstall -y ngx-http-wsgi");
    assert_eq!(debian.paste("find venv -not -name '*.pyc' -not -name __pycache__ | sort"), before);
}

// ---- what is installed -----------------------------------------------------------------------------------------------

#[test]
fn commands_say_the_version() {
    let Some(installed) = Installed::find() else { return };
    for command in [&["/srv/venv/bin/ngx-wsgi"][..], &["/srv/venv/bin/python", "-m", "ngx_wsgi"]] {
        let said = installed.run(&[command, &["--version"]].concat());
        assert!(said.contains(VERSION), "{command:?}: {said}");
    }
    let said = installed.run(&["/srv/venv/bin/ngx-wsgi-top", "--version"]);
    assert_eq!(said, format!("ngx-wsgi-top {VERSION}\n"));
    let said = installed.run(&["/srv/venv/bin/ngx-wsgi-ctl", "--help"]);
    assert!(said.contains("ngx-wsgi-ctl"), "{said}");
    assert_eq!(
        installed.python("import ngx_wsgi; print(ngx_wsgi.version, ngx_wsgi.checking)"),
        format!("{VERSION} False")
    );
}

#[test]
fn nginx_has_its_modules_and_no_path_of_the_build() {
    let Some(installed) = Installed::find() else { return };
    let said = installed.run(&[&installed.nginx(), "-V"]);
    for module in MODULES {
        assert!(said.contains(&format!("--with-{module}")), "{module}: {said}");
    }
    for option in ["--with-compat", "--with-threads", "--with-file-aio", "--with-pcre-jit", "TLS SNI support"] {
        assert!(said.contains(option), "{option}: {said}");
    }
    let build = env!("CARGO_MANIFEST_DIR");
    let home = std::env::var("HOME").unwrap();
    assert!(!said.contains(build) && !said.contains(&home) && !said.contains("/src/"), "{said}");
    for file in [installed.nginx(), installed.module(), "/srv/venv/bin/ngx-wsgi-ctl".to_owned()] {
        let bytes = fs::read(installed.path(&file)).unwrap();
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!has(build) && !has(&format!("{home}/.cargo")), "{file} has a path of the build");
        let dynamic = output("readelf", &["--dynamic"], &installed.path(&file));
        assert!(!dynamic.contains("RPATH") && !dynamic.contains("RUNPATH"), "{file}: {dynamic}");
    }
}

/// Otherwise they would replace those of the libraries that Python uses in the same process.
#[test]
fn nginx_hides_the_symbols_of_its_libraries() {
    let Some(installed) = Installed::find() else { return };
    let nginx = installed.path(&installed.nginx());
    let symbols = output("nm", &["--dynamic", "--defined-only", "-P"], &nginx);
    let names: Vec<_> = symbols.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"ngx_palloc"), "{symbols}");
    let prefixes =
        ["SSL_", "OPENSSL_", "EVP_", "CRYPTO_", "X509_", "pcre2_", "inflate", "deflate", "crc32", "crypt", "ZSTD_"];
    let foreign: Vec<_> = names.iter().filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let dynamic = output("readelf", &["--dynamic"], &nginx);
    let needed: Vec<_> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(needed.len() == 1 && needed[0].contains("[libc.so.6]"), "{needed:?}");
}

#[test]
fn files_and_licences_are_there() {
    let Some(installed) = Installed::find() else { return };
    let packages = installed.path(&installed.packages());
    let info = packages.join(format!("ngx_http_wsgi-{VERSION}.dist-info"));
    assert!(fs::read_to_string(packages.join("ngx_wsgi/mime.types")).unwrap().contains("text/css"));
    let licences = ["LICENSE", "bundled/nginx.txt", "bundled/libssl-dev.txt", "bundled/libpcre2-dev.txt"];
    for name in licences.into_iter().chain(["bundled/zlib1g-dev.txt", "bundled/libcrypt-dev.txt", "bundled/LGPL-2.1"]) {
        let text =
            fs::read_to_string(info.join("licenses").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.len() > 1000, "{name}: {text}");
    }
    let crates = fs::read_to_string(info.join("licenses/bundled/crates.txt")).unwrap();
    for name in ["\nngx ", "\npyo3 ", "\nserde_json ", "\nclap "] {
        assert!(crates.contains(name), "{name} is not in {crates}");
    }
    let metadata = fs::read_to_string(info.join("METADATA")).unwrap();
    assert!(!metadata.contains("Requires-Dist:") && metadata.contains("\n# "), "{metadata}");
}

/// An application over TLS that itself is a client, with Python's own TLS, of the same server.
#[test]
fn python_uses_the_libraries_of_the_system_beside_those_of_nginx() {
    let Some(installed) = Installed::find() else { return };
    let (directory, port) = (TempDir::new_in("/tmp").unwrap(), free_port());
    let prefix = directory.path().to_str().unwrap();
    make_certificate(directory.path());
    let application = r#"
import hashlib, importlib, json, ssl, urllib.request, zlib
import ngx_wsgi

LIBRARIES = "libssl.", "libcrypto.", "libz."

def facts():
    with open("/proc/self/maps") as file:
        paths = {line.split()[-1] for line in file if "/lib" in line}
    loaded = [name for name in LIBRARIES if any("/" + name in path for path in paths)]
    return {
        "openssl": ssl.OPENSSL_VERSION,
        "loaded": loaded,
        "sha3": hashlib.sha3_256(b"x").hexdigest(),
        "zlib": zlib.decompress(zlib.compress(b"x" * 100000)) == b"x" * 100000,
        "nginx": ngx_wsgi.nginx_version,
        "submodule": importlib.import_module("ngx_wsgi.cli").__name__,
    }

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    if environ["PATH_INFO"] == "/inner":
        return [environ["wsgi.url_scheme"].encode()]
    context = ssl.create_default_context(cafile="@prefix@/certificate.pem")
    context.check_hostname = False
    with urllib.request.urlopen("https://127.0.0.1:@port@/inner", context=context) as response:
        inner = response.read().decode()
    return [json.dumps(facts() | {"inner": inner}).encode()]
"#;
    let configuration = r#"
load_module @module@;
user root;
daemon off;
pid nginx.pid;
error_log @prefix@/error.log;
events {}
http {
    access_log off;
    client_body_temp_path temporary;
    proxy_temp_path temporary;
    fastcgi_temp_path temporary;
    uwsgi_temp_path temporary;
    scgi_temp_path temporary;
    gzip on;
    gzip_types *;
    wsgi_python_home /srv/venv;
    server {
        listen 127.0.0.1:@port@ ssl;
        http2 on;
        ssl_certificate certificate.pem;
        ssl_certificate_key key.pem;
        location / { wsgi_pass @prefix@/app.py; }
    }
}
"#;
    let fill = |text: &str| {
        let text = text.replace("@prefix@", prefix).replace("@port@", &port.to_string());
        text.replace("@module@", &installed.module())
    };
    fs::write(directory.path().join("app.py"), fill(application)).unwrap();
    fs::write(directory.path().join("nginx.conf"), fill(configuration)).unwrap();
    let configuration = format!("{prefix}/nginx.conf");
    let log = directory.path().join("error.log");
    let words = [&installed.nginx(), "-p", prefix, "-c", &configuration, "-e", log.to_str().unwrap()];
    let _server = Server(installed.command(&words).spawn().expect("run tools/in_debian.sh"));
    wait_for("nginx", || TcpStream::connect(("127.0.0.1", port)).ok());

    let response = curl(&["--http2", "--compressed", &format!("https://127.0.0.1:{port}/")]);
    assert_eq!(response.version, "2");
    let response = response.expect(200);
    assert_eq!(response.header("content-encoding"), Some("gzip"));
    let facts: Value = response.json();
    assert_eq!(facts["inner"], "https");
    assert_eq!(facts["loaded"], serde_json::json!(["libssl.", "libcrypto.", "libz."]));
    assert_eq!(facts["openssl"], installed.python("import ssl; print(ssl.OPENSSL_VERSION)"));
    assert_eq!(facts["sha3"], installed.python("import hashlib; print(hashlib.sha3_256(b'x').hexdigest())"));
    assert_eq!(facts["zlib"], true);
    assert_eq!(facts["submodule"], "ngx_wsgi.cli");
    let said = installed.run(&[&installed.nginx(), "-v"]);
    assert_eq!(said.trim_end(), format!("nginx version: nginx/{}", facts["nginx"].as_str().unwrap()));
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains("[error]") && !log.contains("[alert]") && !log.contains("[emerg]"), "{log}");
}
