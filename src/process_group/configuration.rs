//! Configuration of an instance, as text: that of its process group, with the settings of the front where the group has none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::conf::main::MainConf;
use crate::conf::process_group::ProcessGroup;
use crate::conf::settings::quoted;
use crate::conf::values::Processes;

/// Facts about the front that the configuration of an instance depends on.
pub struct Front<'a> {
    /// File of this module.
    pub module: PathBuf,
    /// Level of the error log.
    pub log_level: &'static str,
    pub worker_connections: usize,
    /// User and group of the workers, if the instance is started as root, which changes to another user otherwise.
    pub root_user: Option<String>,
    /// Limit of all headers of a request, in bytes.
    pub header_size: usize,
    /// User of the front's workers.
    pub user: u32,
    /// Returns true if this nginx has an HTTP module of this name.
    pub has_module: &'a dyn Fn(&str) -> bool,
}

/// Directives of modules that make their directory at each start, if the module is there.
const TEMPORARY_PATHS: [(&str, &str); 4] = [
    ("ngx_http_proxy_module", "proxy"),
    ("ngx_http_fastcgi_module", "fastcgi"),
    ("ngx_http_uwsgi_module", "uwsgi"),
    ("ngx_http_scgi_module", "scgi"),
];

/// Memory for the environ of a request beside its headers: variables of the server and of `wsgi_var`.
const OTHER_VARIABLES: usize = 64 * 1024;

/// Returns the configuration of a group's instances without the number of workers and the pid file. `temporary` is a
/// directory that the group's user may write to.
pub fn text(main: &MainConf, group: &ProcessGroup, front: &Front, socket: &Path, temporary: &Path) -> String {
    let mut text = format!("# Made from the wsgi_process_group in {}. Changes are lost.\n", group.source_location);
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("load_module {};", path(&front.module)));
    line("daemon off;".to_owned());
    if let Some(user) = &front.root_user {
        line(format!("user {user};"));
    }
    line(format!("error_log stderr {};", front.log_level));
    for (name, _) in group.environment() {
        line(format!("env {};", quoted(&name)));
    }
    line(format!("events {{ worker_connections {}; }}", front.worker_connections));
    line("http {".to_owned());
    let processes = group.processes.unwrap_or(Processes::ONE);
    line(format!("    wsgi_instance {} {};", group.name, processes.max));
    if let Some(zone) = main.status_zone() {
        line(format!("    wsgi_instance_status {} query={};", front.user, on(zone.query)));
    }
    for setting in settings(main, group) {
        line(format!("    {setting}"));
    }
    for setting in server_settings(front, temporary) {
        line(format!("    {setting}"));
    }
    line("    server {".to_owned());
    line(format!("        listen {};", quoted(&format!("unix:{}", socket.display()))));
    // For lines of the log: `server: NAME`.
    line(format!("        server_name {};", group.name));
    line("        location / { wsgi_dispatch; }".to_owned());
    for location in &group.locations {
        line(format!("        # wsgi_pass in {}", location.application.source_location));
        line(location.text.trim_end().to_owned());
    }
    line("    }".to_owned());
    line("}".to_owned());
    text
}

/// Returns the directives of this module for the `http` block.
fn settings(main: &MainConf, group: &ProcessGroup) -> Vec<String> {
    let mut settings = vec![
        format!("wsgi_check {};", on(main.check())),
        format!("wsgi_check_timeout {};", time(main.check_timeout())),
        format!("wsgi_python_optimize {};", main.python_optimize().value),
        format!("wsgi_balance {};", on(main.balance())),
        format!("wsgi_max_memory {};", group.max_memory.unwrap_or(main.max_memory())),
        format!("wsgi_shutdown_timeout {};", time(stop_timeout(main, group))),
    ];
    let max_requests = group.max_requests.unwrap_or(main.max_requests());
    settings.push(format!("wsgi_max_requests {} {};", max_requests.calls, max_requests.jitter));
    // A group with an environment of its own has nothing of the front's.
    match (&group.home, main.python_home(), main.python_executable()) {
        (Some(home), ..) => settings.push(format!("wsgi_python_home {};", path(home))),
        (None, home, executable) => {
            settings.extend(home.map(|home| format!("wsgi_python_home {};", path(&home.value))));
            settings.extend(executable.map(|file| format!("wsgi_python_executable {};", path(&file.value))));
        }
    }
    let of_front = main.python_path().map(|path| path.value.as_slice()).unwrap_or_default();
    let directories = if group.path.is_empty() { of_front } else { &group.path };
    if !directories.is_empty() {
        let directories: Vec<String> = directories.iter().map(|directory| path(directory)).collect();
        settings.push(format!("wsgi_python_path {};", directories.join(" ")));
    }
    settings
}

/// Returns nginx's own directives. The front has applied limits of time and size to each request already.
fn server_settings(front: &Front, temporary: &Path) -> Vec<String> {
    let in_temporary = |name: &str| path(&temporary.join(name));
    let header_size = 2 * front.header_size + OTHER_VARIABLES;
    let mut settings = vec![
        "access_log off;".to_owned(),
        "client_max_body_size 0;".to_owned(),
        "client_header_timeout 1d;".to_owned(),
        "client_body_timeout 1d;".to_owned(),
        "send_timeout 1d;".to_owned(),
        "keepalive_timeout 1d;".to_owned(),
        "keepalive_requests 1000000000;".to_owned(),
        "client_header_buffer_size 8k;".to_owned(),
        format!("large_client_header_buffers 4 {header_size};"),
        format!("client_body_temp_path {};", in_temporary("body")),
    ];
    for (module, name) in TEMPORARY_PATHS {
        if (front.has_module)(module) {
            settings.push(format!("{name}_temp_path {};", in_temporary(name)));
        }
    }
    settings
}

/// Returns the time that an instance has to end.
pub fn stop_timeout(main: &MainConf, group: &ProcessGroup) -> Duration {
    group.stop_timeout.unwrap_or(main.shutdown_timeout())
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}

fn time(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}
