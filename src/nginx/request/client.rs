//! In an instance of a process group: the client of the front, and what belongs to a request across its redirects.

use std::ffi::c_void;
use std::ptr;

use super::{Request, Status};
use crate::nginx::{guard, pool_string, sys};

/// The client of the front, for the records of nginx's error log.
pub struct Client<'a> {
    /// Its address as text.
    pub address: &'a [u8],
    /// Number of its connection in the log of the front.
    pub connection: u64,
    /// The host that it names; empty without one.
    pub host: &'a [u8],
    /// Its request line; that of the front's request if this is `None`.
    pub request_line: Option<Vec<u8>>,
}

/// What the connection to the front is called between requests.
struct ConnectionNames {
    connection: *mut sys::ngx_connection_t,
    address: sys::ngx_str_t,
    number: sys::ngx_atomic_uint_t,
}

// SAFETY: dropped by the clean-up of the request's pool, on the event loop thread, with the connection still there.
impl Drop for ConnectionNames {
    fn drop(&mut self) {
        // SAFETY: nginx destroys the pool of a request before it closes or reuses the connection.
        unsafe {
            (*self.connection).addr_text = self.address;
            (*self.connection).number = self.number;
            (*(*self.connection).log).connection = self.number;
        }
    }
}

impl Request {
    /// Names the client of the front in the log until this request ends.
    pub fn set_client(&self, client: &Client) -> Option<()> {
        // SAFETY: a live request and its connection. Texts are in the pool of the request, and replaced before it is freed.
        unsafe {
            let request = self.as_ptr();
            let (connection, pool) = ((*request).connection, (*request).pool);
            let address = pool_string(pool, client.address)?;
            let host = pool_string(pool, client.host)?;
            if let Some(line) = &client.request_line {
                // The log has it from here.
                (*request).request_line = pool_string(pool, line)?;
            }
            let names = ConnectionNames {
                connection,
                address: (*connection).addr_text,
                number: (*connection).number as sys::ngx_atomic_uint_t,
            };
            self.attach(names)?;
            (*connection).addr_text = address;
            (*connection).number = client.connection as sys::ngx_atomic_uint_t;
            (*(*connection).log).connection = client.connection as sys::ngx_atomic_uint_t;
            let headers = &mut (*request).headers_in;
            if host.len == 0 {
                headers.host = ptr::null_mut();
            } else if let Some(element) = headers.host.as_mut() {
                element.value = host;
            }
            Some(())
        }
    }

    /// Gives nginx's filters the headers of the client that select a 304, and with `ranges` those that select ranges of the
    /// response.
    pub fn set_conditions<'a>(&self, headers: impl Iterator<Item = (&'a [u8], &'a [u8])>, ranges: bool) -> Option<()> {
        for (name, value) in headers {
            // SAFETY: a live request. The element is in its pool and complete before it is used.
            unsafe {
                let request = self.as_ptr();
                let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
                let fields = &mut (*request).headers_in;
                let field = match name.len() {
                    5 if ranges && is("range") => &mut fields.range,
                    8 if ranges && is("if-range") => &mut fields.if_range,
                    13 if is("if-none-match") => &mut fields.if_none_match,
                    17 if is("if-modified-since") => &mut fields.if_modified_since,
                    _ => continue,
                };
                if !field.is_null() {
                    continue;
                }
                let size = size_of::<sys::ngx_table_elt_t>();
                let element = sys::ngx_pcalloc((*request).pool, size).cast::<sys::ngx_table_elt_t>();
                if element.is_null() {
                    return None;
                }
                (*element).hash = 1;
                (*element).key = pool_string((*request).pool, name)?;
                (*element).value = pool_string((*request).pool, value)?;
                *field = element;
            }
        }
        Some(())
    }

    /// Returns whether the request comes from the front of a process group.
    pub fn is_from_front(&self) -> bool {
        self.attached::<ConnectionNames>().is_some()
    }

    /// Keeps `value` until the request ends. `None` without memory.
    pub fn attach<T: 'static>(&self, value: T) -> Option<()> {
        // SAFETY: the pool of the live request, whose clean-up frees the value once.
        unsafe {
            let cleanup = sys::ngx_pool_cleanup_add((*self.as_ptr()).pool, 0);
            if cleanup.is_null() {
                return None;
            }
            (*cleanup).data = Box::into_raw(Box::new(value)).cast();
            (*cleanup).handler = Some(free::<T>);
            Some(())
        }
    }

    /// Returns the newest value of this type that [`Request::attach`] has added. (An internal redirect clears the context.)
    pub fn attached<T: 'static>(&self) -> Option<&T> {
        let free: unsafe extern "C" fn(*mut c_void) = free::<T>;
        // SAFETY: the clean-up handlers of a live pool are a null-terminated list. One with this handler was made by
        // `attach`, and its data is a `T` until the pool is destroyed.
        unsafe {
            let mut cleanup = (*self.get().pool).cleanup;
            while let Some(found) = cleanup.as_ref() {
                if found.handler.is_some_and(|handler| ptr::fn_addr_eq(handler, free)) {
                    return found.data.cast::<T>().as_ref();
                }
                cleanup = found.next;
            }
            None
        }
    }

    /// Continues the request in a named location, from the content handler, which returns the status.
    pub fn redirect_to_named(self, name: &[u8]) -> Status {
        // SAFETY: a live request; the name is in its pool.
        unsafe {
            match pool_string((*self.as_ptr()).pool, name) {
                Some(mut name) => Status(sys::ngx_http_named_location(self.as_ptr(), &mut name)),
                None => Status::INTERNAL_SERVER_ERROR,
            }
        }
    }
}

unsafe extern "C" fn free<T>(data: *mut c_void) {
    guard((), || {
        // SAFETY: nginx passes the value of `attach` once, when it destroys the pool.
        drop(unsafe { Box::from_raw(data.cast::<T>()) });
    });
}
