//! EngineConfig that nginx is reading: arguments of directives, paths, values with variables, errors with file and line.

use std::borrow::Cow;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::cycle::NewCycle;
use super::log::{Level, Log};
use super::{bytes, pool_string, sys};

/// Type of this module's main configuration.
///
/// # Safety
/// It is the type that the module's `create_main_conf` makes.
pub unsafe trait MainConfiguration {}

/// State of nginx's configuration parser at a directive.
#[derive(Clone, Copy)]
pub struct Conf(*mut sys::ngx_conf_t);

impl Conf {
    /// # Safety
    /// `conf` is the argument of a configuration handler, and the value is not used after that returns.
    pub unsafe fn new(conf: *mut sys::ngx_conf_t) -> Self {
        Self(conf)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ngx_conf_t {
        self.0
    }

    pub(super) fn pool(&self) -> *mut sys::ngx_pool_t {
        // SAFETY: the parser has the pool of the new cycle.
        unsafe { (*self.0).pool }
    }

    /// Returns the directive's name and arguments.
    ///
    /// # Errors
    /// If one of them is not UTF-8.
    pub fn arguments(&self) -> Result<Vec<&str>, String> {
        // SAFETY: at a directive `args` has its name and arguments, which live as long as the configuration.
        let args = unsafe { (*(*self.0).args).as_slice::<sys::ngx_str_t>() };
        args.iter()
            .map(|arg| {
                // SAFETY: the text lives as long as the configuration.
                let arg = unsafe { bytes(*arg) };
                str::from_utf8(arg).map_err(|_| format!("invalid UTF-8 in \"{}\"", String::from_utf8_lossy(arg)))
            })
            .collect()
    }

    /// Returns the cycle whose configuration is being read.
    pub fn new_cycle(&self) -> NewCycle {
        // SAFETY: the parser has the new cycle, and the caller has this value for no longer.
        unsafe { NewCycle::new((*self.0).cycle) }
    }

    /// Returns file and line of the directive in nginx's format.
    pub fn source_location(&self) -> String {
        // SAFETY: conf_file is null or describes the file that is being read. For `-g` its name is empty.
        unsafe {
            let file = (*self.0).conf_file;
            if file.is_null() {
                return String::from("the configuration");
            }
            let name = String::from_utf8_lossy(bytes((*file).file.name));
            format!("{name}:{}", (*file).line)
        }
    }

    /// Returns the absolute path of `path`, which may be relative to nginx's prefix, or `None` without memory.
    pub fn full_path(&self, path: &str) -> Option<PathBuf> {
        // SAFETY: a copy in the configuration's pool, which the call replaces by the full path.
        unsafe {
            let mut text = pool_string((*self.0).pool, path.as_bytes())?;
            if sys::ngx_conf_full_name((*self.0).cycle, &mut text, 0) != sys::NGX_OK as isize {
                return None;
            }
            Some(PathBuf::from(OsStr::from_bytes(bytes(text))))
        }
    }

    /// Makes nginx create a directory for temporary files, with subdirectories of `levels`, as for its own directives.
    /// Returns the absolute path.
    ///
    /// # Errors
    /// If the directory is used with other levels, or without memory. nginx has logged the cause.
    pub fn add_path(&self, path: &str, levels: [usize; 3]) -> Result<PathBuf, ()> {
        let path = self.full_path(path).ok_or(())?;
        // SAFETY: the complete description is in the configuration's pool. The name of the configuration file lives as long as
        // the cycle.
        unsafe {
            let pool = (*self.0).pool;
            let name = pool_string(pool, path.as_os_str().as_bytes()).ok_or(())?;
            let mut slot = sys::ngx_pcalloc(pool, size_of::<sys::ngx_path_t>()).cast::<sys::ngx_path_t>();
            if slot.is_null() {
                return Err(());
            }
            (*slot).name = name;
            (*slot).level = levels;
            (*slot).len = levels.iter().filter(|level| **level > 0).map(|level| level + 1).sum();
            (*slot).conf_file = (*(*self.0).conf_file).file.name.data;
            (*slot).line = (*(*self.0).conf_file).line;
            if sys::ngx_add_path(self.0, &mut slot) != sys::NGX_OK as isize {
                return Err(());
            }
        }
        Ok(path)
    }

    /// Reads `text`, one or more directives without a newline, as if it stood in place of the directive that is being read.
    /// Directives of locations are accepted in `if` and `limit_except` blocks too. Errors name file and line of the directive
    /// that is being read.
    ///
    /// # Errors
    /// If the text is refused. nginx has logged the cause.
    pub fn parse(&self, text: &str) -> Result<(), ()> {
        // nginx refuses blocks in a text without a file. So this is the rest of a block that stands in a file, and nginx does
        // not read the file: its size is 0.
        let block = format!("{text}}}");
        // SAFETY: the state of the parser, with a buffer, a file and arguments of their own while nginx reads the text. Words
        // are copied to the configuration's pool, and names of files are those of the file that is being read, which live as
        // long as the cycle. nginx reads nothing of the descriptor, as the buffer ends with the block.
        unsafe {
            let conf = self.0;
            let pool = (*conf).pool;
            let text = pool_string(pool, block.as_bytes()).ok_or(())?;
            let args = sys::ngx_array_create(pool, 10, size_of::<sys::ngx_str_t>());
            if args.is_null() {
                return Err(());
            }
            let mut buffer: sys::ngx_buf_t = std::mem::zeroed();
            (buffer.start, buffer.pos) = (text.data, text.data);
            (buffer.last, buffer.end) = (text.data.add(text.len), text.data.add(text.len));
            buffer.set_temporary(1);
            let mut file: sys::ngx_conf_file_t = std::mem::zeroed();
            if let Some(outer) = (*conf).conf_file.as_ref() {
                file.file.name = outer.file.name;
                file.line = outer.line;
            }
            file.buffer = &mut buffer;
            let (outer_file, outer_args, outer_type) = ((*conf).conf_file, (*conf).args, (*conf).cmd_type);
            ((*conf).conf_file, (*conf).args) = (&mut file, args);
            if outer_type == sys::NGX_HTTP_LIF_CONF as usize || outer_type == sys::NGX_HTTP_LMT_CONF as usize {
                (*conf).cmd_type = sys::NGX_HTTP_LOC_CONF as usize;
            }
            let result = sys::ngx_conf_parse(conf, std::ptr::null_mut());
            ((*conf).conf_file, (*conf).args, (*conf).cmd_type) = (outer_file, outer_args, outer_type);
            if result.is_null() { Ok(()) } else { Err(()) }
        }
    }

    /// Returns whether this nginx has a module.
    pub fn has_module(&self, name: &CStr) -> bool {
        // SAFETY: the modules of the cycle are complete structures with static names.
        unsafe {
            let cycle = (*self.0).cycle;
            let modules = std::slice::from_raw_parts((*cycle).modules, (*cycle).modules_n);
            modules.iter().any(|module| CStr::from_ptr((**module).name) == name)
        }
    }

    /// Logs an error in the configuration.
    pub fn emerg(&self, message: &str) {
        // SAFETY: the parser has a log.
        unsafe { Log::new((*self.0).log) }.write(Level::Emerg, message);
    }

    /// Logs an error with file and line of the directive, in nginx's format.
    pub fn emerg_here(&self, message: &str) {
        self.emerg(&format!("{message} in {}", self.source_location()));
    }

    /// Returns the core module's configuration of the location that is being read or merged.
    pub fn core_location(&self) -> CoreLocation {
        // SAFETY: in an http block the context has a location configuration of the core module.
        unsafe {
            let context = (*self.0).ctx.cast::<sys::ngx_http_conf_ctx_t>();
            let index = sys::ngx_http_core_module.ctx_index;
            CoreLocation((*(*context).loc_conf.add(index)).cast())
        }
    }

    /// Returns a number for the server that is being read or merged, which no other server of the configuration has.
    pub fn server(&self) -> usize {
        // SAFETY: in an http block the context is of this type. The address of the server's configurations is not
        // dereferenced.
        unsafe { (*(*self.0).ctx.cast::<sys::ngx_http_conf_ctx_t>()).srv_conf as usize }
    }

    /// Returns this module's main configuration.
    ///
    /// # Safety
    /// `T` is the type that the module's `create_main_conf` makes, and no other reference to it is alive.
    pub unsafe fn main_conf<'a, T>(&self) -> &'a mut T {
        // SAFETY: in an http block the context is of this type. The rest is promised by the caller.
        unsafe {
            let context = (*self.0).ctx.cast::<sys::ngx_http_conf_ctx_t>();
            &mut *(*(*context).main_conf.add(crate::nginx::module::ctx_index())).cast::<T>()
        }
    }

    /// Passes this module's main configuration to `read`. To be called by directives of locations only: those of the main
    /// configuration have it.
    pub fn with_main_conf<T: MainConfiguration, R>(&self, read: impl FnOnce(&T) -> R) -> R {
        // SAFETY: in an http block the context is of this type, and T is the type of the configuration by the rule of the
        // trait. Directives of locations hold no reference to it.
        unsafe {
            let context = (*self.0).ctx.cast::<sys::ngx_http_conf_ctx_t>();
            read(&*(*(*context).main_conf.add(crate::nginx::module::ctx_index())).cast::<T>())
        }
    }

    /// Returns the names of the server that is being read or merged, in their order.
    pub fn server_names(&self) -> Vec<&[u8]> {
        // SAFETY: in an http block the context has a server configuration of the core module, with an array of this type.
        // The names live as long as the configuration.
        unsafe {
            let context = (*self.0).ctx.cast::<sys::ngx_http_conf_ctx_t>();
            let index = sys::ngx_http_core_module.ctx_index;
            let server = (*(*context).srv_conf.add(index)).cast::<sys::ngx_http_core_srv_conf_t>();
            let names = (*server).server_names.as_slice::<sys::ngx_http_server_name_t>();
            names.iter().map(|name| bytes(name.name)).collect()
        }
    }

    /// Compiles a parameter that may contain variables.
    ///
    /// # Errors
    /// If a variable is unknown, or without memory. nginx has logged the cause.
    pub fn complex_value(&self, text: &str) -> Result<ComplexValue, ()> {
        // SAFETY: text and value are in the configuration's pool and live as long as the configuration.
        unsafe {
            let mut text = pool_string((*self.0).pool, text.as_bytes()).ok_or(())?;
            let value = sys::ngx_palloc((*self.0).pool, size_of::<sys::ngx_http_complex_value_t>())
                .cast::<sys::ngx_http_complex_value_t>();
            if value.is_null() {
                return Err(());
            }
            value.write(std::mem::zeroed());
            let mut compile: sys::ngx_http_compile_complex_value_t = std::mem::zeroed();
            compile.cf = self.0;
            compile.value = &mut text;
            compile.complex_value = value;
            if sys::ngx_http_compile_complex_value(&mut compile) != sys::NGX_OK as isize {
                return Err(());
            }
            Ok(ComplexValue(value))
        }
    }
}

/// Parses a time in nginx's format (`10s`, `500ms`, `1m`). Returns milliseconds.
pub fn parse_time(text: &str) -> Option<u64> {
    let mut line = sys::ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
    // SAFETY: the parser of nginx does not write to the text.
    let time = unsafe { sys::ngx_parse_time(&mut line, 0) };
    u64::try_from(time).ok()
}

/// Parses a size in nginx's format (`64k`, `1m`, `2g`). Returns bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    // The parser of nginx reads the last byte without checking the length.
    if text.is_empty() {
        return None;
    }
    let mut line = sys::ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
    // SAFETY: the parser of nginx does not write to the text.
    let size = unsafe { sys::ngx_parse_offset(&mut line) };
    u64::try_from(size).ok()
}

/// Returns the size of a memory page, from which nginx derives defaults for buffers.
pub fn page_size() -> usize {
    // SAFETY: a plain variable that nginx sets before it reads a configuration.
    unsafe { sys::ngx_pagesize }
}

/// Location of a directive.
pub struct CoreLocation(*mut sys::ngx_http_core_loc_conf_t);

impl CoreLocation {
    fn get(&self) -> &sys::ngx_http_core_loc_conf_t {
        // SAFETY: the structure lives as long as the configuration.
        unsafe { &*self.0 }
    }

    /// Returns the prefix of a prefix location, and `None` for exact, regex and named locations.
    pub fn prefix(&self) -> Option<&[u8]> {
        let location = self.get();
        // SAFETY: the name lives as long as the configuration.
        let name = unsafe { bytes(location.name) };
        #[cfg(ngx_feature = "pcre")]
        if !location.regex.is_null() {
            return None;
        }
        (location.exact_match() == 0 && location.named() == 0).then_some(name)
    }

    /// Returns the path of an exact location.
    pub fn exact(&self) -> Option<&[u8]> {
        let location = self.get();
        // SAFETY: the name lives as long as the configuration.
        (location.exact_match() != 0).then(|| unsafe { bytes(location.name) })
    }

    /// Returns whether this is a named location.
    pub fn is_named(&self) -> bool {
        self.get().named() != 0
    }

    /// Returns the argument of `server_tokens`, which the core module has merged before.
    pub fn server_tokens(&self) -> &'static str {
        match self.get().server_tokens as u32 {
            sys::NGX_HTTP_SERVER_TOKENS_OFF => "off",
            sys::NGX_HTTP_SERVER_TOKENS_BUILD => "build",
            _ => "on",
        }
    }

    /// Returns `client_body_temp_path`, which the core module has merged before.
    pub fn client_body_temp_path(&self) -> PathBuf {
        // SAFETY: null, or a path that lives as long as the configuration.
        let name = unsafe { self.get().client_body_temp_path.as_ref().map(|path| bytes(path.name)) };
        name.map_or_else(std::env::temp_dir, |name| PathBuf::from(OsStr::from_bytes(name)))
    }

    /// Returns whether this is an `if` or `limit_except` block.
    pub fn is_unnamed(&self) -> bool {
        self.get().noname() != 0
    }

    /// Returns whether this is a `limit_except` block.
    pub fn is_limit_except(&self) -> bool {
        self.get().lmt_excpt() != 0
    }

    /// Returns the name: the path, the regular expression, or the name with its `@`.
    pub fn name(&self) -> &[u8] {
        // SAFETY: the name lives as long as the configuration.
        unsafe { bytes(self.get().name) }
    }

    /// Makes nginx pass a request for the location's prefix without its last slash to other locations, as for a location
    /// with a handler of this module. `proxy_pass` makes it redirect such a request.
    pub fn disable_slash_redirect(&self) {
        // SAFETY: only this thread uses the configuration while it is being read.
        unsafe { (*self.0).set_auto_redirect(0) };
    }

    /// Returns whether the location has a content handler.
    pub fn has_handler(&self) -> bool {
        self.get().handler.is_some()
    }

    /// Returns the content handler of the location.
    pub(super) fn handler(&self) -> sys::ngx_http_handler_pt {
        self.get().handler
    }

    /// Sets the content handler of the location.
    pub fn set_handler(&self, handler: unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> isize) {
        // SAFETY: only this thread uses the configuration while it is being read.
        unsafe { (*self.0).handler = Some(handler) };
    }
}

/// Compiled parameter that may contain variables, in the configuration's pool.
#[derive(Clone, Copy, Debug)]
pub struct ComplexValue(*mut sys::ngx_http_complex_value_t);

impl ComplexValue {
    /// Returns the value for a request, or `None` without memory.
    pub(super) fn evaluate(&self, request: *mut sys::ngx_http_request_t) -> Option<Cow<'_, [u8]>> {
        let mut value = sys::ngx_str_t::empty();
        // SAFETY: the value was compiled for the request's configuration. The result is in the pool of the configuration, or
        // in that of the request and copied.
        unsafe {
            if (*self.0).lengths.is_null() {
                return Some(Cow::Borrowed(bytes((*self.0).value)));
            }
            let result = sys::ngx_http_complex_value(request, self.0, &mut value);
            (result == sys::NGX_OK as isize).then(|| Cow::Owned(bytes(value).to_vec()))
        }
    }
}
