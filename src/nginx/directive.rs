//! Entries of nginx's directive table with safe functions as handlers.

use std::ffi::{c_char, c_void};
use std::ptr;

use super::conf::Conf;
use super::{guard, sys};

/// Error in a directive.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// The directive appears twice at one level.
    Duplicate,
    /// Any other error. File and line are added to the text.
    Message(String),
    /// Error that nginx has logged already.
    Logged,
}

impl Problem {
    /// Returns an error for an invalid value, in nginx's words.
    pub fn invalid_value(directive: &str, value: &str, must_be: &str) -> Self {
        Self::Message(format!("invalid value \"{value}\" in \"{directive}\" directive, it must be {must_be}"))
    }
}

impl From<String> for Problem {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}

/// Handler that applies a directive, given by its name and arguments, to the configuration of its level.
pub type Apply<T> = fn(&Conf, &[&str], &mut T) -> Result<(), Problem>;

/// `http`.
pub const HTTP: u32 = sys::NGX_HTTP_MAIN_CONF;
/// `http`, `server` and `location`.
pub const HTTP_SERVER_LOCATION: u32 = sys::NGX_HTTP_MAIN_CONF | sys::NGX_HTTP_SRV_CONF | sys::NGX_HTTP_LOC_CONF;
/// `location`.
pub const LOCATION: u32 = sys::NGX_HTTP_LOC_CONF;
/// `location`, `if` in a location, and `limit_except`.
pub const LOCATION_IF_LIMIT: u32 = sys::NGX_HTTP_LOC_CONF | sys::NGX_HTTP_LIF_CONF | sys::NGX_HTTP_LMT_CONF;

/// Returns the entry of a directive for location configurations. `T` is the type that `create_loc_conf` makes.
pub const fn location<T>(name: sys::ngx_str_t, contexts_and_arguments: u32, apply: Apply<T>) -> sys::ngx_command_t {
    let offset = std::mem::offset_of!(sys::ngx_http_conf_ctx_t, loc_conf);
    command(name, contexts_and_arguments, offset, apply)
}

/// Returns the entry of a directive for the main configuration. `T` is the type that `create_main_conf` makes.
pub const fn main<T>(name: sys::ngx_str_t, contexts_and_arguments: u32, apply: Apply<T>) -> sys::ngx_command_t {
    let offset = std::mem::offset_of!(sys::ngx_http_conf_ctx_t, main_conf);
    command(name, contexts_and_arguments, offset, apply)
}

const fn command<T>(name: sys::ngx_str_t, type_: u32, conf: usize, apply: Apply<T>) -> sys::ngx_command_t {
    sys::ngx_command_t { name, type_: type_ as usize, set: Some(set::<T>), conf, offset: 0, post: apply as *mut c_void }
}

unsafe extern "C" fn set<T>(
    cf: *mut sys::ngx_conf_t,
    command: *mut sys::ngx_command_t,
    level: *mut c_void,
) -> *mut c_char {
    // (char *) -1, as nginx's NGX_CONF_ERROR.
    let error = ptr::without_provenance_mut::<c_char>(usize::MAX);
    guard(error, || {
        // SAFETY: nginx passes the state of the parser, an entry of `command`, whose `post` is an Apply<T>, and the
        // configuration of the level, which is a T by the rule of `location` and `main`.
        let (conf, apply, level) = unsafe {
            let apply = std::mem::transmute::<*mut c_void, Apply<T>>((*command).post);
            (Conf::new(cf), apply, &mut *level.cast::<T>())
        };
        let applied = match conf.arguments() {
            Ok(args) => apply(&conf, &args, level),
            Err(message) => Err(message.into()),
        };
        match applied {
            Ok(()) => ptr::null_mut(),
            Err(Problem::Duplicate) => c"is duplicate".as_ptr().cast_mut(),
            Err(Problem::Message(message)) => {
                conf.emerg_here(&message);
                error
            }
            Err(Problem::Logged) => error,
        }
    })
}
