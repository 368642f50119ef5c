//! Access control of a location by nginx's own modules, and the peer of a request.

use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr};

use super::conf::Conf;
use super::request::Request;
use super::{bytes, sys};

/// Number of words at the start of a module's configuration that say which rules it has.
const WORDS: usize = 3;

/// Marks of a proxy in the headers of a request that it passes on.
const FORWARDED: [&str; 5] = ["x-forwarded-for", "x-forwarded-host", "x-real-ip", "forwarded", "via"];

/// First words of the configurations of `access`, `auth_basic` and `auth_request` at one level. They are compared, and never
/// dereferenced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessControl {
    /// Lists of `allow` and `deny`, for IPv4, IPv6 and Unix sockets.
    rules: [usize; WORDS],
    /// Realm of `auth_basic`, 0 for `off`.
    realm: usize,
    /// Length and address of the URI of `auth_request`.
    uri: [usize; 2],
}

/// Access control that stands in a location itself, and is not inherited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnAccess {
    /// `allow`, `deny` or `auth_request`.
    rules: bool,
    /// `auth_basic`. With variables it may be `off` for a request.
    password: bool,
}

impl AccessControl {
    /// Returns the access control here that `outer` has not.
    pub fn own(&self, outer: &Self) -> OwnAccess {
        let has_rules = self.rules != outer.rules && self.rules != [0; WORDS];
        let has_uri = self.uri != outer.uri && self.uri[0] != 0;
        OwnAccess { rules: has_rules || has_uri, password: self.realm != outer.realm && self.realm != 0 }
    }
}

impl OwnAccess {
    /// Returns the access control of both: a block in a location has that of the location.
    pub fn or(self, other: Self) -> Self {
        Self { rules: self.rules || other.rules, password: self.password || other.password }
    }
}

impl Conf {
    /// Returns the access control of the level that is being merged. It may be merged already, or not yet: a level without
    /// rules of its own has those of the outer level then, or none.
    pub fn access_control(&self) -> AccessControl {
        let mut control = AccessControl::default();
        // SAFETY: the structures are private, but these words are their first ones in all supported versions: three pointers
        // to arrays (`ngx_http_access_loc_conf_t`, with IPv6 and Unix sockets, as on any Linux), a pointer to a complex value
        // (`ngx_http_auth_basic_loc_conf_t`, unset as -1), and a string (`ngx_http_auth_request_conf_t`).
        unsafe {
            if let Some(conf) = self.location_conf_of(c"ngx_http_access_module") {
                control.rules = *conf.cast::<[usize; WORDS]>();
            }
            if let Some(conf) = self.location_conf_of(c"ngx_http_auth_basic_module") {
                let realm = *conf.cast::<*const sys::ngx_http_complex_value_t>();
                let is_set = !realm.is_null() && realm.addr() != usize::MAX;
                let is_off = is_set && (*realm).lengths.is_null() && bytes((*realm).value) == b"off";
                control.realm = if is_set && !is_off { realm.addr() } else { 0 };
            }
            if let Some(conf) = self.location_conf_of(c"ngx_http_auth_request_module") {
                control.uri = *conf.cast::<[usize; 2]>();
            }
        }
        control
    }

    /// Returns the configuration of another HTTP module for the location that is being read or merged.
    fn location_conf_of(&self, name: &CStr) -> Option<*const std::ffi::c_void> {
        // SAFETY: in an http block the context is of this type, and has a location configuration of each HTTP module that
        // makes one, of those in the cycle.
        unsafe {
            let conf = self.as_ptr();
            let cycle = (*conf).cycle;
            let modules = std::slice::from_raw_parts((*cycle).modules, (*cycle).modules_n);
            let module = modules.iter().find(|module| CStr::from_ptr((***module).name) == name)?;
            let context = (*conf).ctx.cast::<sys::ngx_http_conf_ctx_t>();
            let found = *(*context).loc_conf.add((**module).ctx_index);
            (!found.is_null()).then_some(found.cast_const())
        }
    }
}

impl Request {
    /// Returns whether access control of the location itself has let the request in.
    pub fn is_let_in_by(&self, own: OwnAccess) -> bool {
        // Subrequests skip the access phase.
        self.is_main() && (own.rules || own.password && self.has_auth_basic())
    }

    /// Returns whether the client is on this machine: its address is of the loopback network, or it uses a Unix socket.
    pub fn is_from_this_machine(&self) -> bool {
        // SAFETY: the connection of a client has an address of the family that it names.
        unsafe {
            let address = self.connection().sockaddr;
            match i32::from((*address).sa_family) {
                libc::AF_UNIX => true,
                libc::AF_INET => {
                    let address = (*address.cast::<libc::sockaddr_in>()).sin_addr.s_addr;
                    is_loopback(IpAddr::from(address.to_ne_bytes()))
                }
                libc::AF_INET6 => {
                    let address = (*address.cast::<libc::sockaddr_in6>()).sin6_addr.s6_addr;
                    is_loopback(IpAddr::from(address))
                }
                _ => false,
            }
        }
    }

    /// Returns whether the request is for a domain that is not one of its server. A browser on this machine sends such a
    /// request if that domain names the loopback network, so that a page of it can read the answer (DNS rebinding).
    pub fn is_for_other_domain(&self) -> bool {
        is_domain(self.host()) && !self.server_names().any(|name| is_name_of(name, self.host()))
    }

    /// Returns whether a proxy says that it has passed on the request.
    pub fn is_forwarded(&self) -> bool {
        let is_mark = |name: &[u8]| FORWARDED.iter().any(|mark| mark.as_bytes().eq_ignore_ascii_case(name));
        !self.connection().proxy_protocol.is_null()
            || self.has_replaced_address()
            || self.headers().any(|(name, _)| is_mark(name))
    }

    /// Returns whether the realip module has replaced the address of the client by one that a header names.
    fn has_replaced_address(&self) -> bool {
        // They have the address and port of the connection itself; without the module they do not exist.
        [("realip_remote_addr", "remote_addr"), ("realip_remote_port", "remote_port")].iter().any(
            |(of_connection, of_client)| {
                self.variable(of_connection).is_some_and(|value| Some(value) != self.variable(of_client))
            },
        )
    }
}

/// Returns whether a host is a name of the domain name system: no address, and no name that only this machine or its network
/// knows.
fn is_domain(host: &[u8]) -> bool {
    let is_address = host.starts_with(b"[") || str::from_utf8(host).is_ok_and(|host| host.parse::<Ipv4Addr>().is_ok());
    host.contains(&b'.') && !is_address && !host.ends_with(b".localhost")
}

/// Returns whether `name`, a name or wildcard of a server, is one of this host, which is in lower case.
fn is_name_of(name: &[u8], host: &[u8]) -> bool {
    match name {
        [b'*', suffix @ ..] => host.ends_with(&suffix.to_ascii_lowercase()),
        [b'.', domain @ ..] => host.ends_with(&name.to_ascii_lowercase()) || domain.eq_ignore_ascii_case(host),
        _ => name.eq_ignore_ascii_case(host),
    }
}

/// Returns whether an address is of the loopback network, also as an IPv6 address that stands for an IPv4 address.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inherited_rules_are_not_own_ones() {
        let outer = AccessControl { rules: [8, 0, 0], realm: 16, uri: [4, 24] };
        let none = OwnAccess::default();
        assert_eq!(outer.own(&outer), none);
        // Not merged yet, or switched off.
        assert_eq!(AccessControl::default().own(&outer), none);
        assert_eq!(AccessControl { uri: [0, 32], ..outer.clone() }.own(&outer), none);
        let (rules, password) = (OwnAccess { rules: true, ..none }, OwnAccess { password: true, ..none });
        for (own, expected) in [
            (AccessControl { rules: [8, 40, 0], ..outer.clone() }, rules),
            (AccessControl { realm: 48, ..outer.clone() }, password),
            (AccessControl { uri: [4, 56], ..outer.clone() }, rules),
        ] {
            assert_eq!(own.own(&outer), expected, "{own:?}");
        }
        assert_eq!(outer.own(&AccessControl::default()), rules.or(password));
    }

    #[test]
    fn domains_are_neither_addresses_nor_names_of_the_machine() {
        for host in ["", "localhost", "a.localhost", "web1", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"] {
            assert!(!is_domain(host.as_bytes()), "{host}");
        }
        for host in ["rebind.example", "127.0.0.1.example.com", "1.2.3"] {
            assert!(is_domain(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn a_server_has_exact_names_and_wildcards() {
        for (name, host, expected) in [
            ("Status.Example.com", "status.example.com", true),
            ("example.com", "status.example.com", false),
            ("*.example.com", "status.example.com", true),
            ("*.example.com", "example.com", false),
            (".example.com", "example.com", true),
            (".example.com", "a.example.com", true),
            (".example.com", "badexample.com", false),
            ("_", "example.com", false),
            ("", "example.com", false),
        ] {
            assert_eq!(is_name_of(name.as_bytes(), host.as_bytes()), expected, "{name} {host}");
        }
    }

    #[test]
    fn the_loopback_network_has_addresses_of_both_families() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("127.9.8.7", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("::ffff:10.0.0.1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_loopback(address.parse().unwrap()), expected, "{address}");
        }
    }
}
