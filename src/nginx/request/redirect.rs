//! Responses by nginx instead of the application: by another location, or by the `error_page` of a status.

use super::{Request, Status};
use crate::nginx::{pool_string, sys};

impl Request {
    /// Redirects internally to `@name` or to a URI, perhaps with a query, and finalizes the request for this module.
    ///
    /// Follows `ngx_http_upstream_process_headers`. A URI that leads out of the document tree has the response 404. After too
    /// many redirects, or for an unknown name, nginx sends 500.
    pub fn redirect(self, target: &[u8]) {
        self.withhold_streamed_body();
        let request = self.as_ptr();
        // SAFETY: live by the rule of the type. The handler that detects disconnects goes with the rest of this module's part
        // in the request, and the target is a copy in its pool. Both kinds of redirect take a reference for the next
        // location, so the last call releases this module's, and nothing is used after it.
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
                    if !self.is_get()
                        && let Err(no_memory) = self.drop_conditions()
                    {
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

    /// Finalizes the request with a status for which nginx sends the `error_page`.
    pub fn show_error_page(self, status: u16) {
        // SAFETY: live by the rule of the type. The handler that detects disconnects goes with the rest of this module's part
        // in the request.
        unsafe { (*self.as_ptr()).read_event_handler = Some(sys::ngx_http_block_reading) };
        self.finalize(Status(status as isize));
    }

    /// Returns whether the location has an `error_page` for a status.
    pub fn has_error_page(&self, status: u16) -> bool {
        self.error_pages().iter().any(|page| page.status == status as isize)
    }

    /// Returns the statuses for which the location has an `error_page`.
    pub fn error_page_statuses(&self) -> Vec<u16> {
        self.error_pages().iter().filter_map(|page| u16::try_from(page.status).ok()).collect()
    }

    fn error_pages(&self) -> &[sys::ngx_http_err_page_t] {
        let pages = self.core_location().error_pages;
        // SAFETY: null, or an array of this type that lives as long as the configuration.
        unsafe { pages.as_ref().map(|pages| pages.as_slice()).unwrap_or_default() }
    }
}
