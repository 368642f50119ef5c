//! Environment variables of a worker: of the process, whose environment nginx has cleared, and of its sub-interpreters.

use crate::os::system;
use crate::python::interpreter::Environment;

/// Adds the variables that programs expect, unless the configuration or nginx's `env` sets them.
pub fn complete(mut variables: Vec<(String, String)>) -> Vec<(String, String)> {
    let missing = |variables: &[(String, String)], name: &str| {
        std::env::var_os(name).is_none() && !variables.iter().any(|(known, _)| known == name)
    };
    let mut defaults = vec![
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
    ];
    // Without an entry in the password file there is no home directory.
    if let Some((name, home)) = system::user() {
        defaults.push(("HOME", home));
        defaults.push(("USER", name.clone()));
        defaults.push(("LOGNAME", name));
    }
    for (name, value) in defaults {
        if missing(&variables, name) {
            variables.push((name.to_owned(), value));
        }
    }
    variables
}

/// Returns the environment of a sub-interpreter: that of the process, then the configured variables, completed.
///
/// Called before the variables of the main interpreter are set in the process.
pub fn of_interpreter(variables: Vec<(String, String)>) -> Environment {
    let own = complete(variables).into_iter().map(|(name, value)| (name.into(), value.into()));
    // Later variables override earlier ones.
    std::env::vars_os().chain(own).collect()
}
