//! The environments of a worker: of the process, which nginx leaves empty, and of its sub-interpreters.

use crate::python::interpreter::Environment;

/// Adds to the configured variables what programs expect and neither the configuration nor nginx's `env` set.
pub fn complete(mut variables: Vec<(String, String)>) -> Vec<(String, String)> {
    let missing = |variables: &[(String, String)], name: &str| {
        std::env::var_os(name).is_none() && !variables.iter().any(|(known, _)| known == name)
    };
    let mut defaults = vec![
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
    ];
    // A user without an entry in the password file has no home.
    if let Some((name, home)) = crate::nginx::worker_process::user() {
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

/// The environment of a sub-interpreter: what nginx's `env` gives the process, and the configured variables, completed.
///
/// To be called before those of the main interpreter are set in the process.
pub fn of_interpreter(variables: Vec<(String, String)>) -> Environment {
    let own = complete(variables).into_iter().map(|(name, value)| (name.into(), value.into()));
    // Later ones override.
    std::env::vars_os().chain(own).collect()
}
