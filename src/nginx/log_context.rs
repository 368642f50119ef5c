//! The request that a record of a log belongs to, as text.

use super::conf::Conf;
use super::request::Request;
use super::{bytes, pool_string, sys};

/// Size limit of nginx's text about a request, as of a whole record (NGX_MAX_ERROR_STR).
const MAX_CONTEXT: usize = 2048;

/// A variable of nginx whose value a request keeps.
#[derive(Clone, Copy, Debug)]
pub struct IndexedVariable(usize);

impl IndexedVariable {
    /// Finds a variable while a configuration is read.
    ///
    /// # Errors
    /// Without memory.
    pub fn find(conf: &Conf, name: &str) -> Result<Self, ()> {
        // SAFETY: the parser's state. nginx keeps the name, which is in the configuration's pool.
        let index = unsafe {
            let mut name = pool_string(conf.pool(), name.as_bytes()).ok_or(())?;
            sys::ngx_http_get_variable_index(conf.as_ptr(), &mut name)
        };
        usize::try_from(index).map(Self).map_err(|_| ())
    }
}

/// `$request_id` of a request in the front of a process group, attached to the request of the instance.
pub struct FrontRequestId(pub String);

impl Request {
    /// Returns the id of the request: that which the front of a process group has sent, or the value of `variable`.
    pub fn log_id(&self, variable: Option<IndexedVariable>) -> Option<String> {
        if let Some(FrontRequestId(id)) = self.attached() {
            return Some(id.clone());
        }
        Some(String::from_utf8_lossy(&self.indexed_variable(variable?)?).into_owned())
    }

    /// Returns the text with which nginx ends records of its error log: client, server, request, host.
    pub fn log_context(&self) -> String {
        // It names this request from now on.
        let _ = self.log();
        // SAFETY: the log of a live connection. nginx writes at most as many bytes as it is told, and returns their end.
        unsafe {
            let log = self.connection().log;
            let Some(handler) = (*log).handler else { return String::new() };
            let mut buffer = [0_u8; MAX_CONTEXT];
            // " while …" is about nginx, not about the application.
            let action = std::mem::replace(&mut (*log).action, std::ptr::null_mut());
            let end = handler(log, buffer.as_mut_ptr(), buffer.len());
            (*log).action = action;
            let length = usize::try_from(end.offset_from(buffer.as_ptr())).unwrap_or(0);
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        }
    }

    /// Returns the value of a variable.
    fn indexed_variable(&self, variable: IndexedVariable) -> Option<Vec<u8>> {
        // SAFETY: a live request, and an index of its configuration. The value lives as long as the request.
        unsafe {
            let value = sys::ngx_http_get_indexed_variable(self.as_ptr(), variable.0).as_ref()?;
            let text = sys::ngx_str_t { len: value.len() as usize, data: value.data };
            (value.not_found() == 0).then(|| bytes(text).to_vec())
        }
    }
}
