//! What a child of `os.fork` does before it runs on: give back what it inherited from the server.

use std::sync::OnceLock;

use super::class::{Arguments, Method};

static IN_CHILD: OnceLock<fn()> = OnceLock::new();

/// Names what runs in every child that the application forks, in the forking thread. The first call counts.
pub fn set_in_child(hook: fn()) {
    let _ = IN_CHILD.set(hook);
}

/// `_after_fork_in_child()` for the prelude, which registers it with `os.register_at_fork`.
pub static AFTER_FORK_IN_CHILD: Method =
    Method::function(c"_after_fork_in_child", |arguments: &Arguments<'_, '_, ()>| {
        if let Some(hook) = IN_CHILD.get() {
            hook();
        }
        Ok(arguments.py.None().into_bound(arguments.py))
    });
