//! Rules of a location for the headers of its applications' responses.

use crate::nginx::upstream::{FOR_NGINX, MARK};
use crate::wsgi::headers::NameFilter;

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
        Self::hiding(allow_ranges, intercept_errors, names.filter(|name| !is_passed(name)))
    }

    /// Creates the rules of an instance of a process group, whose front evaluates the headers for nginx.
    pub fn of_instance(allow_ranges: bool, hide: &[String], pass: &[String]) -> Self {
        let is_one_of =
            |name: &str, mut names: std::slice::Iter<'_, String>| names.any(|one| one.eq_ignore_ascii_case(name));
        let is_for_nginx = |name: &str| FOR_NGINX.iter().any(|one| one.eq_ignore_ascii_case(name));
        let hide = hide.iter().map(String::as_str).filter(|name| !is_one_of(name, pass.iter()) && !is_for_nginx(name));
        // The application must not send what the module tells the front.
        Self::hiding(allow_ranges, false, hide.chain([MARK]))
    }

    fn hiding<'a>(allow_ranges: bool, intercept_errors: bool, names: impl Iterator<Item = &'a str>) -> Self {
        let hidden: Vec<&str> = names.collect();
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
    fn an_instance_passes_headers_for_nginx_to_its_front() {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let rules = HeaderRules::of_instance(false, &owned(&["X-A", "X-B", "X-Accel-Redirect"]), &owned(&["x-b"]));
        for name in FOR_NGINX {
            assert!(!rules.is_hidden(name.as_bytes()), "{name}");
        }
        assert!(rules.is_hidden(b"x-a") && !rules.is_hidden(b"X-B"));
        assert!(rules.is_hidden(b"wsgi-response"));
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
