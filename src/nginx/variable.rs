//! Variables of nginx with values by this module.

use super::conf::Conf;
use super::request::Request;
use super::{guard, pool_string, sys};

/// Variable: its name without the `$`, and the function for its value. `None` means that a request has no value.
pub struct Variable {
    pub name: &'static str,
    pub value: fn(Request) -> Option<Vec<u8>>,
}

/// Registers `variables`. To be called in preconfiguration.
///
/// # Errors
/// If there is no memory, or the name is taken. nginx has logged the cause.
pub fn register(conf: &Conf, variables: impl IntoIterator<Item = &'static Variable>) -> Result<(), ()> {
    for variable in variables {
        // SAFETY: the state of the parser in preconfiguration. nginx copies the name.
        unsafe {
            let mut name = pool_string(conf.pool(), variable.name.as_bytes()).ok_or(())?;
            // The values change during a request.
            let flags = sys::NGX_HTTP_VAR_NOCACHEABLE as usize;
            let added = sys::ngx_http_add_variable(conf.as_ptr(), &mut name, flags);
            if added.is_null() {
                return Err(());
            }
            (*added).get_handler = Some(get);
            (*added).data = std::ptr::from_ref(variable).expose_provenance();
        }
    }
    Ok(())
}

unsafe extern "C" fn get(
    request: *mut sys::ngx_http_request_t,
    value: *mut sys::ngx_variable_value_t,
    data: usize,
) -> sys::ngx_int_t {
    guard(sys::NGX_ERROR as isize, || {
        // SAFETY: nginx passes a live request, a value to fill, and the data of `register`, which is a static Variable.
        unsafe {
            let variable = &*std::ptr::with_exposed_provenance::<Variable>(data);
            let Some(text) = Request::new(request).and_then(variable.value) else {
                (*value).set_not_found(1);
                return sys::NGX_OK as isize;
            };
            let Some(text) = pool_string((*request).pool, &text) else {
                return sys::NGX_ERROR as isize;
            };
            (*value).set_len(text.len as u32);
            (*value).data = text.data;
            (*value).set_valid(1);
            (*value).set_no_cacheable(0);
            (*value).set_not_found(0);
            sys::NGX_OK as isize
        }
    })
}
