//! What `nginx -t` and a reload refuse of process groups and of files with variables.

use crate::check::{FINE, after, end_after_refusals};
use crate::directives::make_venv;
use crate::harness::{Check, Nginx, Site, is_root, open_to_all, two_users};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

/// A site with one group with these arguments, whose application is fine.
fn site(arguments: &str) -> Site {
    Site::plain()
        .http(&format!("wsgi_process_group blog {arguments};"))
        .file("app.py", FINE)
        .location("/", "wsgi_pass app.py process=blog;")
}

/// The same with `wsgi_check` as nginx has it by default.
fn checked(arguments: &str) -> Site {
    site(arguments).http("wsgi_check_timeout 20s;")
}

fn close(site: &Site, path: &str, mode: u32) {
    fs::set_permissions(site.prefix().join(path), Permissions::from_mode(mode)).unwrap();
}

/// Refused in nginx's way, with file and line of the last line with `at`; `@prefix@` stands for the prefix.
#[track_caller]
fn assert_refused(site: &Site, message: &str, at: &str) {
    let message = message.replace("@prefix@", site.prefix().to_str().unwrap());
    site.check_again().assert_refused(&message, at);
}

/// Refused with a line that begins with the location of the `wsgi_pass` of the last line with `at`.
#[track_caller]
fn assert_import_refused(site: &Site, check: &Check, at: &str, application: &str, why: &str) {
    let prefix = site.prefix().display();
    let line = 1 + check.conf_text.lines().collect::<Vec<_>>().iter().rposition(|line| line.contains(at)).unwrap();
    let start = format!("wsgi_pass \"{application}\" in {prefix}/conf/nginx.conf:{line}: {why}");
    let start = start.replace("@prefix@", &prefix.to_string());
    assert!(!check.ok, "accepted, though: {start}");
    let found = check.output.lines().any(|line| line.starts_with(&format!("nginx: [emerg] {start}")));
    assert!(found, "wanted: {start}\ngot: {}", check.output);
}

/// Nothing of a check is left: neither directory nor process.
#[track_caller]
fn assert_no_traces(site: &Site) {
    assert!(!site.prefix().join("wsgi_run").exists(), "a check claims no directory");
}

#[test]
fn a_limit_that_cannot_be_set_is_refused_with_one_message() {
    let output = checked("nofile=4294967295").check_again().output;
    assert!(output.contains("cannot set the limit of descriptors to 4294967295"), "{output}");
    assert!(!output.contains("fatal runtime error"), "{output}");
}

// ---- locations ------------------------------------------------------------------------------------------------------

#[test]
fn a_proxy_inside_a_location_of_a_group_is_refused() {
    for proxy in ["proxy_pass http://127.0.0.1:1;", "set $server 127.0.0.1:1; proxy_pass http://$server;"] {
        for block in ["location /inner", "if ($arg_a)"] {
            let site = Site::plain()
                .http("wsgi_process_group blog;")
                .file("app.py", FINE)
                .location("/", &format!("wsgi_pass app.py process=blog; {block} {{ {proxy} }}"));
            let check = site.check_again();
            assert!(
                !check.ok && check.output.contains("whose headers it would send: put it outside"),
                "{}",
                check.output
            );
        }
    }
}

// ---- arguments ------------------------------------------------------------------------------------------------------

#[test]
fn every_argument_is_accepted() {
    let site = checked(
        "processes=1:3 threads=8 home=venv path=lib path=@prefix@/lib chdir=inside umask=027 env=A=1 env=B=a=b \"env=C=\"
         env_file=secrets idle_timeout=10m max_requests=1000 max_memory=512m nofile=3000 memory_limit=4g stop_timeout=5s
         no_new_privs=off",
    )
    .http("wsgi_process_group second;")
    .http("wsgi_process_group Third-with_all4 processes=256 threads=off umask=0 no_new_privs=on;")
    .file("lib/x.py", "")
    .file("inside/x", "")
    .file("secrets", "X=1\n");
    make_venv(&site, "venv");
    let check = site.check_again();
    check.assert_ok();
    assert!(!check.output.contains('['), "{}", check.output);
    assert_no_traces(&site);
    if let Some([user, other]) = two_users() {
        for arguments in [
            format!("user={}", user.name),
            format!("user={} group={}", user.name, other.name),
            format!("group={}", other.name),
        ] {
            let site = checked(&arguments).user("nobody nogroup");
            site.check_again().assert_ok();
            assert_no_traces(&site);
        }
    }
}

#[test]
fn bad_values_are_refused_with_file_and_line() {
    let processes = "a number from 1 to 256, or two such numbers as in \"2:8\", the smaller first";
    let threads = "\"off\" or a number from 1 to 1024";
    let umask = "an octal number such as \"022\"";
    let time = "a time above 0 such as \"10s\"";
    let size = "a size such as \"512m\"";
    let switch = "\"on\" or \"off\"";
    for (name, values, must_be) in [
        (
            "processes",
            &["", "0", "257", "x", "-1", "+1", "1.5", "3:2", "0:2", "1:", ":2", "1:2:3", "1:300"][..],
            processes,
        ),
        ("threads", &["", "0", "x", "1025", "-1", "on"], threads),
        ("umask", &["", "8", "1000", "x", "-1", "+7", "0o22"], umask),
        ("idle_timeout", &["", "0", "x", "-1", "10q"], time),
        ("stop_timeout", &["", "0", "x", "-1", "10q"], time),
        ("max_requests", &["", "0", "x", "-1", "+1"], "a number"),
        ("max_memory", &["", "0", "x", "-1", "10q"], size),
        ("memory_limit", &["", "0", "x", "-1", "10q"], size),
        ("nofile", &["", "0", "x", "-1", "+1"], "a number above 0"),
        ("no_new_privs", &["", "yes", "1", "ON"], switch),
        ("home", &[""], "a path"),
        ("path", &[""], "a path"),
        ("chdir", &[""], "a path"),
        ("env_file", &[""], "a path"),
    ] {
        for value in values {
            let message = format!(
                "invalid value \"{value}\" of \"{name}\" in \"wsgi_process_group\" directive, it must be {must_be}"
            );
            assert_refused(&site(&format!("{name}={value}")), &message, "wsgi_process_group");
        }
    }
    for value in ["", "A", "=b"] {
        let message = "invalid value of \"env\" in \"wsgi_process_group\" directive, it must be NAME=value";
        assert_refused(&site(&format!("env={value}")), message, "wsgi_process_group");
    }
}

#[test]
fn unknown_and_repeated_arguments_are_refused() {
    for argument in ["unknown=1", "unknown", "User=root", "=1", "processes:2", "x"] {
        let message = format!(
            "invalid parameter \"{argument}\" in \"wsgi_process_group\" directive, it must be \"user\", \"group\", \"processes\", \
             \"threads\", \"home\", \"path\", \"chdir\", \"umask\", \"env\", \"env_file\", \"idle_timeout\", \"max_requests\", \
             \"max_memory\", \"nofile\", \"memory_limit\", \"stop_timeout\" or \"no_new_privs\" with \"=\" and a value"
        );
        assert_refused(&site(argument), &message, "wsgi_process_group");
    }
    for argument in [
        "processes=1",
        "threads=1",
        "chdir=/",
        "umask=0",
        "idle_timeout=1s",
        "max_requests=1",
        "max_memory=1g",
        "nofile=3000",
        "memory_limit=1g",
        "stop_timeout=1s",
        "no_new_privs=on",
    ] {
        let (name, _) = argument.split_once('=').unwrap();
        let message = format!("duplicate parameter \"{name}\" in \"wsgi_process_group\" directive");
        assert_refused(&site(&format!("{argument} {argument}")), &message, "wsgi_process_group");
    }
}

#[test]
fn names_of_groups_are_checked() {
    for name in ["1x", "-x", "_x", "a.b", "a/b", "../x", "ä", "a b", ""] {
        let site = Site::plain().http(&format!("wsgi_process_group \"{name}\";"));
        let message = format!(
            "invalid value \"{name}\" in \"wsgi_process_group\" directive, it must be a name that begins with a letter and has \
             letters, digits, \"_\" and \"-\""
        );
        assert_refused(&site, &message, "wsgi_process_group");
    }
    for name in ["sockets", "lock"] {
        let site = Site::plain().http(&format!("wsgi_process_group {name};"));
        assert_refused(&site, &format!("\"{name}\" cannot be the name of a process group"), "wsgi_process_group");
    }
    let twice = site("").http("wsgi_process_group other;").http("wsgi_process_group blog threads=2;");
    let first = 1 + conf_lines(&twice).iter().position(|line| line.contains("wsgi_process_group blog")).unwrap();
    let message = format!("duplicate process group \"blog\", the first is in @prefix@/conf/nginx.conf:{first}");
    assert_refused(&twice, &message, "wsgi_process_group");
}

fn conf_lines(site: &Site) -> Vec<String> {
    site.check_again().conf_text.lines().map(str::to_owned).collect()
}

#[test]
fn missing_files_are_refused() {
    for (argument, message) in [
        ("path=missing", "\"@prefix@/missing\" is not a directory in \"path\" of \"wsgi_process_group\" directive"),
        ("path=app.py", "\"@prefix@/app.py\" is not a directory in \"path\" of \"wsgi_process_group\" directive"),
        ("chdir=missing", "\"@prefix@/missing\" is not a directory in \"chdir\" of \"wsgi_process_group\" directive"),
        (
            "env_file=missing",
            "cannot read the environment file \"@prefix@/missing\": No such file or directory (os error 2)",
        ),
    ] {
        let site = site(argument);
        let prefix = site.prefix().display().to_string();
        let check = site.check_again();
        let wanted = message.replace("@prefix@", &prefix);
        assert!(!check.ok, "accepted, though: {wanted}");
        let line = check.output.lines().find(|line| line.contains(&wanted));
        let line = line.unwrap_or_else(|| panic!("wanted: {wanted}\ngot: {}", check.output));
        let place = 1 + check.conf_text.lines().position(|line| line.contains("wsgi_process_group")).unwrap();
        assert!(line.contains("[emerg]") && line.ends_with(&format!("/conf/nginx.conf:{place}")), "{line}");
    }
    let site = site("home=missing");
    let check = site.check_again();
    let place = 1 + check.conf_text.lines().position(|line| line.contains("wsgi_process_group")).unwrap();
    let wanted = format!("in \"home\" of \"wsgi_process_group\" directive in {}:{place}", check.conf().display());
    assert!(!check.ok && check.output.contains(&wanted) && check.output.contains("/missing"), "{}", check.output);
}

#[test]
fn a_group_must_be_known() {
    let message =
        "unknown process group \"other\" in \"wsgi_pass\" directive, define it with \"wsgi_process_group\" before";
    let other = "wsgi_pass app.py process=other;";
    assert_refused(&site("").location("/other", other), message, "/other");
    // It must stand before its use.
    let late = Site::plain()
        .file("app.py", FINE)
        .http(&format!("server {{ listen 127.0.0.1:@port@; location /other {{ {other} }} }}"))
        .http("wsgi_process_group other;");
    assert_refused(&late, message, "/other");
    let message = "\"wsgi_socket_path\" directive must stand before the first \"wsgi_process_group\", which is in @prefix@/conf/nginx.conf:";
    let late = site("").http("wsgi_socket_path run;");
    let first = 1 + conf_lines(&late).iter().position(|line| line.contains("wsgi_process_group")).unwrap();
    assert_refused(&late, &format!("{message}{first}"), "wsgi_socket_path");
    let twice = Site::plain().http("wsgi_socket_path run;").http("wsgi_socket_path run;");
    assert_refused(&twice, "\"wsgi_socket_path\" directive is duplicate", "wsgi_socket_path");
}

#[test]
fn parameters_of_wsgi_pass_are_checked() {
    for (pass, message) in [
        ("wsgi_pass app.py process=;", "unknown process group \"\""),
        ("wsgi_pass app.py source=x:1 process=blog;", "source"),
        ("wsgi_pass app.py process=blog process=blog;", "process"),
        ("wsgi_pass process=blog;", "process=blog"),
        ("wsgi_pass missing.py process=blog;", "missing.py"),
        ("wsgi_pass app.py process=blog; proxy_pass http://127.0.0.1;", "is duplicate"),
        ("wsgi_pass app.py process=blog; wsgi_pass app.py;", "is duplicate"),
    ] {
        let check = site("").location("/bad", pass).check();
        assert!(!check.ok, "accepted: {pass}");
        let line = 1 + check.conf_text.lines().position(|line| line.contains("/bad")).unwrap();
        let place = format!(" in {}:{line}", check.conf().display());
        let said = check
            .output
            .lines()
            .any(|line| line.contains("[emerg]") && line.contains(message) && line.ends_with(&place));
        assert!(said, "{pass}: {message} {place}\n{}", check.output);
    }
    // Those of generated configurations are of no use here.
    assert!(!site("").location("/bad", "wsgi_dispatch;").check().ok);
}

#[test]
fn the_path_of_a_socket_has_a_limit() {
    let long = "d".repeat(100);
    let site = Site::plain().http(&format!("wsgi_socket_path {long};")).http("wsgi_process_group blog;");
    let socket = site.prefix().join(&long).join("sockets/blog");
    let message = format!(
        "path of the socket of process group \"blog\" has {} bytes, 107 are possible: \"{}\"; set a shorter \
         \"wsgi_socket_path\" before",
        socket.as_os_str().len(),
        socket.display()
    );
    assert_refused(&site, &message, "wsgi_process_group");
    let name = "n".repeat(100);
    let check = Site::plain().http(&format!("wsgi_process_group {name};")).check();
    assert!(!check.ok && check.output.contains("107 are possible"), "{}", check.output);
}

// ---- users ----------------------------------------------------------------------------------------------------------

#[test]
fn users_and_groups_must_exist() {
    if !is_root() {
        eprintln!("skipped: only root can change the user");
        return;
    }
    for (arguments, message) in [
        (
            "user=nobody-knows",
            "invalid value \"nobody-knows\" of \"user\" in \"wsgi_process_group\" directive, it must be the name of a user of this system",
        ),
        (
            "user=",
            "invalid value \"\" of \"user\" in \"wsgi_process_group\" directive, it must be the name of a user of this system",
        ),
        (
            "user=65534",
            "invalid value \"65534\" of \"user\" in \"wsgi_process_group\" directive, it must be the name of a user of this system",
        ),
        (
            "user=root",
            "invalid value \"root\" of \"user\" in \"wsgi_process_group\" directive, it must be another user than root",
        ),
        (
            "user=nobody group=nobody-knows",
            "invalid value \"nobody-knows\" of \"group\" in \"wsgi_process_group\" directive, it must be the name of a group of users of this system",
        ),
        ("user=nobody user=nobody", "duplicate parameter \"user\" in \"wsgi_process_group\" directive"),
        ("group=nogroup group=nogroup", "duplicate parameter \"group\" in \"wsgi_process_group\" directive"),
    ] {
        assert_refused(&site(arguments), message, "wsgi_process_group");
    }
}

#[test]
fn a_user_needs_root() {
    for argument in ["user=nobody", "group=nogroup"] {
        let mut site = site(argument);
        if is_root() {
            for directory in ["logs", "tmp"] {
                open_to_all(&site.prefix().join(directory));
            }
            site = site.wrapped_in(&["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        }
        let message = format!(
            "\"{argument}\" in \"wsgi_process_group\" directive requires an nginx that is started by root: only root can change \
             the user"
        );
        assert_refused(&site, &message, "wsgi_process_group");
    }
}

// ---- applications ---------------------------------------------------------------------------------------------------

#[test]
fn an_application_that_cannot_be_imported_is_refused() {
    let site = checked("threads=2")
        .http("wsgi_process_group second;")
        .file("broken.py", "import not_there\n")
        .file("raises.py", "raise LookupError('as asked')\n")
        .file("nameless.py", "app = 1\n")
        .location("/broken", "wsgi_pass broken.py process=blog;")
        .location("/raises", "wsgi_pass raises.py process=second;")
        .location("/nameless", "wsgi_pass nameless.py process=second;")
        .location("/module", "wsgi_pass not_there.wsgi_app process=second;")
        .location("/late", "wsgi_pass broken.py process=second; wsgi_preload off;");
    let check = site.check_again();
    let missing = "ModuleNotFoundError: No module named 'not_there'";
    assert_import_refused(&site, &check, "/broken", "@prefix@/broken.py", missing);
    assert_import_refused(&site, &check, "/raises", "@prefix@/raises.py", "LookupError: as asked");
    assert_import_refused(&site, &check, "/nameless", "@prefix@/nameless.py", "AttributeError: ");
    assert_import_refused(&site, &check, "/module", "not_there.wsgi_app", "ModuleNotFoundError: ");
    assert_import_refused(&site, &check, "/late", "@prefix@/broken.py", missing);
    assert!(check.output.contains("Traceback (most recent call last):"), "{}", check.output);
    // The administrator has no such file.
    assert!(!check.output.contains("ngx-wsgi-check-"), "{}", check.output);
    assert_no_traces(&site);
}

#[test]
fn the_front_and_its_groups_are_checked_together() {
    let site = checked("")
        .file("broken.py", "import not_there\n")
        .location("/front", "wsgi_pass broken.py;")
        .location("/group", "wsgi_pass broken.py process=blog;");
    let check = site.check_again();
    assert_import_refused(&site, &check, "/front", "@prefix@/broken.py", "ModuleNotFoundError");
    // Without the check none is imported.
    let site =
        self::site("").file("broken.py", "import not_there\n").location("/broken", "wsgi_pass broken.py process=blog;");
    site.check_again().assert_ok();
}

#[test]
fn an_import_in_a_group_has_a_time_limit() {
    let site = site("")
        .http("wsgi_check_timeout 1500ms;")
        .file("slow.py", &after("import time; time.sleep(100)"))
        .location("/slow", "wsgi_pass slow.py process=blog;");
    let check = site.check_again();
    assert_import_refused(&site, &check, "/slow", "@prefix@/slow.py", "");
    assert!(check.output.contains("wsgi_check_timeout"), "{}", check.output);
}

#[test]
fn an_application_is_imported_as_in_its_group() {
    let Some([user, other]) = two_users() else { return };
    let app = "
import json, os, sys
FACTS = [os.getuid(), os.getgid(), os.getgroups(), os.getcwd(), os.environ.get('A'), os.environ.get('S'), sys.prefix, '@prefix@/lib' in sys.path]
import ngx_wsgi
if ngx_wsgi.checking:
    with open('@prefix@/inside/checked', 'w') as file:
        json.dump([*FACTS, oct(os.stat(file.fileno()).st_mode & 0o777)], file)
def application(environ, start_response):
    start_response('200 OK', [])
    return [json.dumps(FACTS).encode()]
";
    let arguments = format!(
        "user={} group={} chdir=inside umask=077 env=A=b env_file=secrets home=venv path=lib",
        user.name, other.name
    );
    let site = checked(&arguments)
        .user("nobody nogroup")
        .file("secrets", "S=secret\n")
        .file("lib/x.py", "")
        .file("inside/x", "")
        .file("facts.py", app)
        .location("/facts", "wsgi_pass facts.py process=blog;");
    make_venv(&site, "venv");
    close(&site, "secrets", 0o600);
    let work = site.prefix().join("inside");
    std::os::unix::fs::chown(&work, Some(user.uid), Some(other.gid)).unwrap();
    close(&site, "inside", 0o700);
    site.check_again().assert_ok();
    let checked: Vec<Value> = serde_json::from_str(&fs::read_to_string(work.join("checked")).unwrap()).unwrap();
    let prefix = site.prefix().display().to_string();
    let wanted = [
        json!(user.uid),
        json!(other.gid),
        json!([other.gid]),
        json!(format!("{prefix}/inside")),
        json!("b"),
        json!("secret"),
        json!(format!("{prefix}/venv")),
        json!(true),
        json!("0o600"),
    ];
    assert_eq!(checked, wanted);
    let nginx = site.start();
    assert_eq!(nginx.get("/facts").expect(200).json(), json!(wanted[..8]));
}

#[test]
fn an_application_must_be_readable_for_the_user_of_its_group() {
    let Some([user, _]) = two_users() else { return };
    let arguments = format!("user={}", user.name);
    let site = checked(&arguments)
        .user("nobody nogroup")
        .file("secret.py", FINE)
        .file("imports.py", "from secret import application\n")
        .file("closed/app.py", FINE)
        .location("/secret", "wsgi_pass secret.py process=blog;")
        .location("/imports", "wsgi_pass imports.py process=blog;")
        .location("/closed", "wsgi_pass closed/app.py process=blog;");
    close(&site, "secret.py", 0o600);
    close(&site, "closed", 0o700);
    let check = site.check_again();
    let unreadable = format!(
        "\"{}/secret.py\" cannot be read by user {} (mode 0600, owner root)",
        site.prefix().display(),
        user.name
    );
    assert!(check.output.contains(&unreadable), "{}", check.output);
    assert_import_refused(&site, &check, "/secret", "@prefix@/secret.py", "");
    assert_import_refused(&site, &check, "/imports", "@prefix@/imports.py", "PermissionError: ");
    assert_import_refused(&site, &check, "/closed", "@prefix@/closed/app.py", "");
    // It need not be readable for the workers of the front.
    let site = site.location("/other", "return 200;");
    for path in ["secret.py", "closed", "closed/app.py"] {
        std::os::unix::fs::chown(site.prefix().join(path), Some(user.uid), Some(user.gid)).unwrap();
    }
    close(&site, "closed/app.py", 0o600);
    fs::remove_file(site.prefix().join("logs/error.log")).unwrap();
    site.check_again().assert_ok();
    let nginx = site.start();
    for path in ["/secret", "/imports", "/closed"] {
        assert_eq!(nginx.get(path).expect(200).text(), "fine");
    }
}

#[test]
fn a_working_directory_must_be_open_for_the_user() {
    let Some([user, _]) = two_users() else { return };
    let site = checked(&format!("user={} chdir=inside", user.name)).user("nobody nogroup").file("inside/x", "");
    close(&site, "inside", 0o700);
    let check = site.check_again();
    let place = 1 + check.conf_text.lines().position(|line| line.contains("wsgi_process_group")).unwrap();
    let start = format!("wsgi_process_group \"blog\" in {}:{place}: ", check.conf().display());
    let line = check.output.lines().find(|line| line.contains(&start));
    assert!(!check.ok && line.is_some_and(|line| line.contains("/inside\"")), "{start}\n{}", check.output);
}

// ---- reload ---------------------------------------------------------------------------------------------------------

#[test]
fn a_refused_reload_changes_nothing() {
    let app = |version: &str| {
        format!(
            "import os\ndef application(environ, start_response):
    start_response('200 OK', [])
    return [f'{version} {{os.getpid()}}'.encode()]\n"
        )
    };
    let mut nginx = checked("processes=1")
        .file("app.py", &app("old"))
        .http("wsgi_process_group second;")
        .location("/second", "wsgi_pass app.py process=second;")
        .start();
    let all = |nginx: &Nginx| {
        let groups = ["blog", "second"].map(|name| nginx.group(name));
        (
            nginx.workers(),
            groups.each_ref().map(|group| group.master()),
            groups.each_ref().map(|group| group.wait_workers(1)),
            ["/", "/second"].map(|path| nginx.get(path).expect(200).text()),
        )
    };
    let before = all(&nginx);
    nginx.write("app.py", "import not_there\n");
    let line = nginx.reload_refused();
    assert!(line.contains("ModuleNotFoundError: No module named 'not_there'"), "{line}");
    assert!(line.contains(&format!("in {}/conf/nginx.conf:", nginx.prefix().display())), "{line}");
    assert_eq!(all(&nginx), before);

    nginx.write("app.py", &app("new"));
    nginx.reconfigure(|site| site.http("wsgi_process_group third user=nobody-knows;"));
    nginx.reload_refused();
    assert_eq!(all(&nginx), before);
    end_after_refusals(nginx);
}

#[test]
fn a_start_with_a_broken_application_goes_on() {
    let nginx = checked("")
        .file("broken.py", "import not_there\n")
        .location("/broken", "wsgi_pass broken.py process=blog;")
        .errors_expected()
        .start();
    nginx.get("/broken").expect(500);
    assert_eq!(nginx.get("/").expect(200).text(), "fine");
    nginx.wait_log("No module named 'not_there'");
    nginx.write("broken.py", FINE);
    assert_eq!(nginx.get("/broken").expect(200).text(), "fine");
}

// ---- files with variables -------------------------------------------------------------------------------------------

/// Responds with its variables whose names begin with `T_`.
const VARIABLES: &str = r#"
import json
import os

def application(environ, start_response):
    start_response("200 OK", [])
    return [json.dumps({name: value for name, value in os.environ.items() if name.startswith("T_")}).encode()]
"#;

fn with_variables(name: &str) -> Site {
    Site::plain().http("wsgi_enable_subinterpreters on;").file(name, VARIABLES)
}

#[test]
fn variables_are_read_from_a_file() {
    let text = "# A comment\n\n  \n  # another\nT_PLAIN=value\n T_SPACES = in the middle\nT_EMPTY=\nT_EQUALS=a=b=c\n\
                T_DOUBLE=\"two words # here\"\nT_SINGLE='it \"is\"'\nT_HALF=\"open\nT_UTF=k\u{e4}se\nT_TWICE=1\nT_TWICE=2\r\n\
                T_DOLLAR=$x ${y} `z`\nT_BACKSLASH=a\\nb\nT_LAST=without newline";
    // A name has no white space at its end.
    let text = text.replace(" T_SPACES = in the middle", " T_SPACES=in the middle ");
    let nginx = with_variables("app.py")
        .file("variables", &text)
        .http("wsgi_env_file variables;")
        .location("/", "wsgi_pass app.py;")
        .start();
    let wanted = json!({
        "T_PLAIN": "value",
        "T_SPACES": "in the middle",
        "T_EMPTY": "",
        "T_EQUALS": "a=b=c",
        "T_DOUBLE": "two words # here",
        "T_SINGLE": "it \"is\"",
        "T_HALF": "\"open",
        "T_UTF": "k\u{e4}se",
        "T_TWICE": "2",
        "T_DOLLAR": "$x ${y} `z`",
        "T_BACKSLASH": "a\\nb",
        "T_LAST": "without newline",
    });
    assert_eq!(nginx.get("/").expect(200).json(), wanted);
}

#[test]
fn files_with_variables_are_inherited_and_directives_win() {
    let mut site = with_variables("unused.py")
        .file("http", "T_A=http file\nT_B=http file\n")
        .file("server", "T_A=server file\nT_C=server file\n")
        .file("location", "T_A=location file\n")
        .file("more", "T_A=more\nT_D=more\n")
        .http("wsgi_env_file http;");
    for (name, directives) in [
        ("http", ""),
        ("location", "wsgi_env_file location;"),
        ("wins", "wsgi_env_file location; wsgi_env T_A directive; wsgi_env T_E directive;"),
        ("several", "wsgi_env_file location; wsgi_env_file more;"),
        ("directive", "wsgi_env T_B directive;"),
    ] {
        let pass = format!("wsgi_pass {name}.py; {directives}");
        site = site.file(&format!("{name}.py"), VARIABLES).location(&format!("/{name}"), &pass);
    }
    let server = "server { listen 127.0.0.2:@port@; wsgi_env_file server; location / { wsgi_pass server.py; } }";
    let nginx = site.file("server.py", VARIABLES).http(server).start();
    let found = |name: &str| nginx.get(&format!("/{name}")).expect(200).json();
    assert_eq!(found("http"), json!({ "T_A": "http file", "T_B": "http file" }));
    assert_eq!(found("location"), json!({ "T_A": "location file" }));
    assert_eq!(found("wins"), json!({ "T_A": "directive", "T_E": "directive" }));
    assert_eq!(found("several"), json!({ "T_A": "more", "T_D": "more" }));
    assert_eq!(found("directive")["T_B"], "directive");
    let server = crate::harness::curl(&[&format!("http://127.0.0.2:{}/", nginx.port())]).expect(200).json();
    assert_eq!(server, json!({ "T_A": "server file", "T_C": "server file" }));
}

#[test]
fn a_file_with_variables_may_be_readable_for_root_alone() {
    let Some([user, _]) = two_users() else { return };
    let site = with_variables("app.py")
        .user("nobody nogroup")
        .http(&format!("wsgi_process_group blog user={};", user.name))
        .http("wsgi_check_timeout 20s;")
        .file("secrets", "T_SECRET=top secret\n")
        .location("/", "wsgi_env_file secrets; wsgi_pass app.py;")
        .location("/group", "wsgi_env_file secrets; wsgi_pass app.py process=blog;");
    close(&site, "secrets", 0o600);
    site.check_again().assert_ok();
    let nginx = site.start();
    assert_eq!(nginx.get("/").expect(200).json(), json!({ "T_SECRET": "top secret" }));
    assert_eq!(nginx.get("/group").expect(200).json(), json!({ "T_SECRET": "top secret" }));
    // A reload reads it again.
    nginx.write("secrets", "T_SECRET=changed\n");
    fs::set_permissions(nginx.prefix().join("secrets"), Permissions::from_mode(0o600)).unwrap();
    nginx.reload();
    assert_eq!(nginx.get("/").expect(200).json(), json!({ "T_SECRET": "changed" }));
}

#[test]
fn a_bad_line_is_refused_and_not_shown() {
    for line in [
        "hidden",
        "export T_A=hidden",
        "T A=hidden",
        "=hidden",
        "1T=hidden",
        "T_A hidden",
        "T-A=hidden",
        "T_A=\0hidden",
    ] {
        let text = format!("# comment\nT_FIRST=hidden\n{line}\n");
        let http = site("env_file=bad").file("bad", &text);
        let server = Site::plain().file("bad", &text).server("wsgi_env_file bad;");
        let location = Site::plain().file("bad", &text).app(FINE).location("/x", "wsgi_env_file bad;");
        for (site, at) in [(http, "env_file=bad"), (server, "wsgi_env_file bad"), (location, "wsgi_env_file bad")] {
            let check = site.check_again();
            let wanted = format!("{}/bad:3 is not an assignment NAME=value", site.prefix().display());
            let place = 1 + check.conf_text.lines().position(|line| line.contains(at)).unwrap();
            let place = format!(" in {}:{place}", check.conf().display());
            let said = check.output.lines().any(|line| line.contains(&wanted) && line.ends_with(&place));
            assert!(!check.ok && said, "{wanted} {place}\n{}", check.output);
            assert!(!check.output.contains("hidden"), "{}", check.output);
            let log = fs::read_to_string(site.prefix().join("logs/error.log")).unwrap_or_default();
            assert!(!log.contains("hidden"), "{log}");
        }
    }
    let missing = Site::plain().server("wsgi_env_file missing;").check();
    assert!(!missing.ok && missing.output.contains("cannot read the environment file"), "{}", missing.output);
    let site = Site::plain().server("wsgi_env_file binary;").file("binary", "");
    fs::write(site.prefix().join("binary"), b"T_A=hidden\xff\n").unwrap();
    let check = site.check();
    assert!(!check.ok && check.output.contains("is not UTF-8") && !check.output.contains("hidden"), "{}", check.output);
}
