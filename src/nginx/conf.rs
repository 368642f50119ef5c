//! Reading the configuration: arguments of directives, paths, values with variables, messages with file and line.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::log::{Level, Log};
use super::{bytes, pool_string, sys};

/// The state of nginx's configuration parser at one directive.
#[derive(Clone, Copy)]
pub struct Conf(*mut sys::ngx_conf_t);

impl Conf {
    /// # Safety
    /// `conf` is what nginx passes to a handler of the configuration, and the value is not used after that returns.
    pub unsafe fn new(conf: *mut sys::ngx_conf_t) -> Self {
        Self(conf)
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ngx_conf_t {
        self.0
    }

    pub(super) fn pool(&self) -> *mut sys::ngx_pool_t {
        // SAFETY: the parser has the pool of the cycle that it reads.
        unsafe { (*self.0).pool }
    }

    /// The words of the directive: its name and its arguments.
    ///
    /// # Errors
    /// When an argument is no UTF-8 text.
    pub fn arguments(&self) -> Result<Vec<&str>, String> {
        // SAFETY: while a directive is handled, args holds its words, which live as long as the configuration.
        let words = unsafe { (*(*self.0).args).as_slice::<sys::ngx_str_t>() };
        words
            .iter()
            .map(|word| {
                // SAFETY: as above.
                let word = unsafe { bytes(*word) };
                str::from_utf8(word).map_err(|_| format!("invalid UTF-8 in \"{}\"", String::from_utf8_lossy(word)))
            })
            .collect()
    }

    /// File and line of the directive, as nginx prints them.
    pub fn place(&self) -> String {
        // SAFETY: while a file is read conf_file is set; directives of `-g` have an empty name.
        unsafe {
            let file = (*self.0).conf_file;
            if file.is_null() {
                return String::from("the configuration");
            }
            let name = String::from_utf8_lossy(bytes((*file).file.name));
            format!("{name}:{}", (*file).line)
        }
    }

    /// An absolute path, relative ones taken from nginx's prefix.
    pub fn full_path(&self, path: &str) -> Option<PathBuf> {
        // SAFETY: the string is a copy in the configuration's pool, replaced by the full one.
        unsafe {
            let mut text = pool_string((*self.0).pool, path.as_bytes())?;
            if sys::ngx_conf_full_name((*self.0).cycle, &mut text, 0) != sys::NGX_OK as isize {
                return None;
            }
            Some(PathBuf::from(OsStr::from_bytes(bytes(text))))
        }
    }

    /// Lets nginx make a folder for temporary files, as its own directives for them do: its path, and the `levels` of
    /// folders below it that are asked for. Returns the absolute path.
    ///
    /// # Errors
    /// nginx has logged what is wrong: the same folder with other levels.
    pub fn add_path(&self, path: &str, levels: [usize; 3]) -> Result<PathBuf, ()> {
        let path = self.full_path(path).ok_or(())?;
        // SAFETY: the description is in the configuration's pool and complete; the name of the file that is read lives as
        // long as its cycle.
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

    /// Logs a failure of the configuration.
    pub fn emerg(&self, message: &str) {
        // SAFETY: the parser has a log.
        unsafe { Log::new((*self.0).log) }.write(Level::Emerg, message);
    }

    /// Logs `message` with file and line of the directive at hand, in nginx's form.
    pub fn emerg_here(&self, message: &str) {
        self.emerg(&format!("{message} in {}", self.place()));
    }

    /// The core module's settings of the location that is being read or merged.
    pub fn core_location(&self) -> CoreLocation {
        // SAFETY: within an http block the context holds a location configuration of the core module.
        unsafe {
            let context = (*self.0).ctx.cast::<sys::ngx_http_conf_ctx_t>();
            let index = sys::ngx_http_core_module.ctx_index;
            CoreLocation((*(*context).loc_conf.add(index)).cast())
        }
    }

    /// A number that tells the server that is being read or merged from others of the configuration.
    pub fn server(&self) -> usize {
        // SAFETY: within an http block the context is of this type; the address of the server's configurations is only
        // compared.
        unsafe { (*(*self.0).ctx.cast::<sys::ngx_http_conf_ctx_t>()).srv_conf as usize }
    }

    /// This module's main configuration.
    ///
    /// # Safety
    /// `T` is the type that the module's `create_main_conf` makes, and no other reference to it is alive.
    pub unsafe fn main_conf<'a, T>(&self) -> &'a mut T {
        // SAFETY: as above, and by the caller's promise.
        unsafe {
            let context = (*self.0).ctx.cast::<sys::ngx_http_conf_ctx_t>();
            &mut *(*(*context).main_conf.add(crate::nginx::module::ctx_index())).cast::<T>()
        }
    }

    /// Compiles a parameter that may hold variables.
    ///
    /// # Errors
    /// nginx has logged what is wrong (an unknown variable).
    pub fn complex_value(&self, text: &str) -> Result<ComplexValue, ()> {
        // SAFETY: the text is a copy in the pool, which lives as long as the configuration; so does the value.
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

/// A time as nginx's directives take it (`10s`, `500ms`, `1m`), in milliseconds.
pub fn parse_time(text: &str) -> Option<u64> {
    let mut line = sys::ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
    // SAFETY: nginx's parser only reads the text.
    let time = unsafe { sys::ngx_parse_time(&mut line, 0) };
    u64::try_from(time).ok()
}

/// A size as nginx's directives take it (`64k`, `1m`, `2g`), in bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    // nginx looks at the last byte first, without asking for one.
    if text.is_empty() {
        return None;
    }
    let mut line = sys::ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
    // SAFETY: nginx's parser only reads the text.
    let size = unsafe { sys::ngx_parse_offset(&mut line) };
    u64::try_from(size).ok()
}

/// The size of a page of memory, on which nginx's defaults for buffers rest.
pub fn page_size() -> usize {
    // SAFETY: a variable that nginx sets before it reads the configuration.
    unsafe { sys::ngx_pagesize }
}

/// The location that a directive stands in.
pub struct CoreLocation(*mut sys::ngx_http_core_loc_conf_t);

impl CoreLocation {
    fn get(&self) -> &sys::ngx_http_core_loc_conf_t {
        // SAFETY: lives as long as the configuration.
        unsafe { &*self.0 }
    }

    /// The prefix of a prefix location; `None` for exact, regex and named ones.
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

    /// The path of an exact location.
    pub fn exact(&self) -> Option<&[u8]> {
        let location = self.get();
        // SAFETY: the name lives as long as the configuration.
        (location.exact_match() != 0).then(|| unsafe { bytes(location.name) })
    }

    /// Whether it is reached by its name.
    pub fn is_named(&self) -> bool {
        self.get().named() != 0
    }

    /// `client_body_temp_path`, once the core module has merged it.
    pub fn client_body_temp_path(&self) -> PathBuf {
        // SAFETY: a merged configuration has the path, which lives as long as the configuration.
        let name = unsafe { self.get().client_body_temp_path.as_ref().map(|path| bytes(path.name)) };
        name.map_or_else(std::env::temp_dir, |name| PathBuf::from(OsStr::from_bytes(name)))
    }

    /// Whether this is an `if` or `limit_except` block.
    pub fn is_unnamed(&self) -> bool {
        self.get().noname() != 0
    }

    /// Whether this is a `limit_except` block.
    pub fn is_limit_except(&self) -> bool {
        self.get().lmt_excpt() != 0
    }

    /// Whether some module has the content of this location.
    pub fn has_handler(&self) -> bool {
        self.get().handler.is_some()
    }

    /// Lets `handler` make the content of this location.
    pub fn set_handler(&self, handler: unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> isize) {
        // SAFETY: the configuration is being read, on one thread.
        unsafe { (*self.0).handler = Some(handler) };
    }
}

/// A parameter that may hold variables; it lives in the configuration's pool.
#[derive(Clone, Copy, Debug)]
pub struct ComplexValue(*mut sys::ngx_http_complex_value_t);

impl ComplexValue {
    /// Its value for a request, `None` without memory.
    pub(super) fn evaluate(&self, request: *mut sys::ngx_http_request_t) -> Option<Cow<'_, [u8]>> {
        let mut value = sys::ngx_str_t::empty();
        // SAFETY: the value was compiled for this configuration; the result stands in the configuration's or the
        // request's memory and is copied in the latter case.
        unsafe {
            if (*self.0).lengths.is_null() {
                return Some(Cow::Borrowed(bytes((*self.0).value)));
            }
            let result = sys::ngx_http_complex_value(request, self.0, &mut value);
            (result == sys::NGX_OK as isize).then(|| Cow::Owned(bytes(value).to_vec()))
        }
    }
}
