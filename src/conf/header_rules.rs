//! Rules of a location for the headers of its applications' responses.

use crate::wsgi::headers::NameFilter;

/// Headers that nginx evaluates and hides from clients, as in ngx_http_uwsgi_module.
const FOR_NGINX: [&str; 5] =
    ["X-Accel-Expires", "X-Accel-Redirect", "X-Accel-Limit-Rate", "X-Accel-Buffering", "X-Accel-Charset"];

/// Header rules of one location, after merging.
#[derive(Debug, Default)]
pub struct HeaderRules {
    /// `wsgi_allow_ranges`.
    pub allow_ranges: bool,
    /// `wsgi_intercept_errors`.
    pub intercept_errors: bool,
    hidden: Vec<String>,
    hidden_filter: NameFilter,
}

impl HeaderRules {
    /// Creates the rules; `hide` and `pass` are the names of `wsgi_hide_header` and `wsgi_pass_header`.
    pub fn new(allow_ranges: bool, intercept_errors: bool, hide: &[String], pass: &[String]) -> Self {
        // As in ngx_http_upstream_hide_headers_hash, wsgi_pass_header overrides wsgi_hide_header.
        let is_passed = |name: &str| pass.iter().any(|passed| passed.eq_ignore_ascii_case(name));
        let names = FOR_NGINX.into_iter().chain(hide.iter().map(String::as_str));
        let hidden: Vec<&str> = names.filter(|name| !is_passed(name)).collect();
        let hidden_filter = NameFilter::of(&hidden);
        let hidden = hidden.into_iter().map(str::to_owned).collect();
        Self { allow_ranges, intercept_errors, hidden, hidden_filter }
    }

    /// Returns whether a header is removed from responses.
    pub fn is_hidden(&self, name: &[u8]) -> bool {
        self.hidden_filter.may_have(name)
            && self.hidden.iter().any(|hidden| hidden.as_bytes().eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(hide: &[&str], pass: &[&str]) -> HeaderRules {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        HeaderRules::new(false, false, &owned(hide), &owned(pass))
    }

    #[test]
    fn headers_for_nginx_are_hidden_and_no_others() {
        let rules = rules(&[], &[]);
        for name in FOR_NGINX {
            assert!(rules.is_hidden(name.to_lowercase().as_bytes()), "{name}");
        }
        for name in ["X-Accel", "X-Accel-Other", "Date", "Server", "X-Powered-By"] {
            assert!(!rules.is_hidden(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn passed_headers_are_not_hidden() {
        let rules = rules(&["Server", "X-A"], &["x-a", "x-accel-expires"]);
        assert!(rules.is_hidden(b"SERVER"));
        assert!(!rules.is_hidden(b"X-A"));
        assert!(!rules.is_hidden(b"X-Accel-Expires"));
        assert!(rules.is_hidden(b"X-Accel-Redirect"));
    }
}
