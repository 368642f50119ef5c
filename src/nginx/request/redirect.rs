//! Answers in place of an application's: another location of nginx, or the `error_page` of a status.

use super::{Request, Status};
use crate::nginx::{pool_string, sys};

impl Request {
    /// Lets another location answer: `@name`, or the one of a URI, perhaps with a query. Ends the request for this module.
    ///
    /// Follows `ngx_http_upstream_process_headers`: a URI that leads out of the tree is answered 404; too many redirects,
    /// or a name that no location has, are answered 500 by nginx.
    pub fn redirect(self, target: &[u8]) {
        self.withhold_streamed_body();
        let request = self.as_ptr();
        // SAFETY: live by the rule of the type; the handler that looks after a leaving client is taken away with the rest
        // of this module's part in the request, and the target is a copy in its pool. Both ways of redirecting take a
        // reference for what follows, so the last call gives back the one of this module and nothing is used after it.
        unsafe {
            (*request).read_event_handler = Some(sys::ngx_http_block_reading);
            let Some(mut uri) = pool_string((*request).pool, target) else {
                return self.finalize(Status::INTERNAL_SERVER_ERROR);
            };
            if target.first() == Some(&b'@') {
                sys::ngx_http_named_location(request, &mut uri);
            } else {
                let mut query = sys::ngx_str_t::empty();
                let mut flags = sys::NGX_HTTP_LOG_UNSAFE as usize;
                if sys::ngx_http_parse_unsafe_uri(request, &mut uri, &mut query, &mut flags) != Status::OK.0 {
                    return self.finalize(Status::NOT_FOUND);
                }
                if !self.is_head() {
                    let was_get = (*request).method == sys::NGX_HTTP_GET as usize;
                    if !was_get && let Err(no_memory) = self.drop_conditions() {
                        return self.finalize(no_memory.into());
                    }
                    (*request).method = sys::NGX_HTTP_GET as usize;
                    (*request).method_name = sys::ngx_http_core_get_method;
                }
                sys::ngx_http_internal_redirect(request, &mut uri, &mut query);
            }
        }
        self.finalize(Status::DONE);
    }

    /// Lets nginx answer with a status and its `error_page`. Ends the request for this module.
    pub fn show_error_page(self, status: u16) {
        // SAFETY: as in `redirect`.
        unsafe { (*self.as_ptr()).read_event_handler = Some(sys::ngx_http_block_reading) };
        self.finalize(Status(status as isize));
    }

    /// Whether the location has an `error_page` for a status.
    pub fn has_error_page(&self, status: u16) -> bool {
        let pages = self.core_location().error_pages;
        // SAFETY: null, or an array of these that lives as long as the configuration.
        let pages = unsafe { pages.as_ref().map(|pages| pages.as_slice::<sys::ngx_http_err_page_t>()) };
        pages.is_some_and(|pages| pages.iter().any(|page| page.status == status as isize))
    }
}
