//! Mounts of the applications of a server: the value of `wsgi_script_name`, or the prefix of the location, or the mount
//! of an outer location with the same application.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::app::specification::Specification;
use crate::nginx::conf::ComplexValue;

/// Source of SCRIPT_NAME.
#[derive(Clone, Debug, Default)]
pub struct Mount {
    /// `wsgi_script_name`. Without it, SCRIPT_NAME is `prefix`.
    pub script_name: Option<ComplexValue>,
    pub prefix: Vec<u8>,
}

/// Mount of one location, which is set when all locations are known.
pub type MountCell = Rc<OnceCell<Mount>>;

/// Paths that a location serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocationPath {
    /// All paths with this prefix.
    Prefix(Vec<u8>),
    /// Some paths with this prefix: those of an exact or a regular expression location.
    Within(Vec<u8>),
    /// None: requests are redirected to the name of the location.
    #[default]
    Named,
}

/// A location with an application.
#[derive(Debug)]
pub struct MountedLocation {
    /// Identifies the `server` block.
    pub server: usize,
    pub application: Arc<Specification>,
    pub path: LocationPath,
    pub script_name: Option<ComplexValue>,
    pub mount: MountCell,
}

impl LocationPath {
    /// Returns the mount of an application that has no outer location.
    fn prefix(&self) -> &[u8] {
        match self {
            Self::Prefix(prefix) => prefix,
            Self::Within(_) | Self::Named => &[],
        }
    }

    /// Returns the length of the prefix of `other`, if `other` is an outer location.
    fn depth_within(&self, other: &Self) -> Option<usize> {
        let Self::Prefix(outer) = other else { return None };
        let (path, is_prefix) = match self {
            Self::Prefix(path) => (path, true),
            Self::Within(path) => (path, false),
            Self::Named => return None,
        };
        let rest = path.strip_prefix(outer.strip_suffix(b"/").unwrap_or(outer))?;
        let is_outer = matches!(rest, [] | [b'/', ..]) && !(is_prefix && outer.len() >= path.len());
        is_outer.then_some(outer.len())
    }
}

/// Sets the mount of each location.
pub fn resolve(locations: &[MountedLocation]) {
    let mut groups: HashMap<_, Vec<&MountedLocation>> = HashMap::new();
    for location in locations {
        groups.entry((location.server, Arc::as_ptr(&location.application))).or_default().push(location);
    }
    for group in groups.values_mut() {
        // Outer locations first: the mount of an inner one depends on theirs.
        group.sort_by_key(|location| (!matches!(location.path, LocationPath::Prefix(_)), location.path.prefix().len()));
        for location in group.iter() {
            let own = || Mount { script_name: location.script_name, prefix: location.path.prefix().to_vec() };
            let enclosing =
                |outer: &&MountedLocation| Some((location.path.depth_within(&outer.path)?, outer.mount.get()?.clone()));
            let outer = group
                .iter()
                .filter_map(enclosing)
                .reduce(|longest, next| if next.0 > longest.0 { next } else { longest });
            let mount = match outer {
                Some((_, mount)) if location.script_name.is_none() => mount,
                _ => own(),
            };
            // Each location has a cell of its own, which is not set before.
            let _ = location.mount.set(mount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::specification::{Callable, Placement, Target};

    fn application(name: &str) -> Arc<Specification> {
        Arc::new(Specification {
            target: Target::Module(name.to_owned()),
            callable: Callable { name: "application".to_owned(), is_factory: false },
            middleware: Vec::new(),
            placement: Placement::Main,
        })
    }

    fn at(server: usize, application: &Arc<Specification>, path: LocationPath) -> MountedLocation {
        MountedLocation {
            server,
            application: application.clone(),
            path,
            script_name: None,
            mount: MountCell::default(),
        }
    }

    fn prefix(path: &str) -> LocationPath {
        LocationPath::Prefix(path.as_bytes().to_vec())
    }

    fn within(path: &str) -> LocationPath {
        LocationPath::Within(path.as_bytes().to_vec())
    }

    /// Returns the mounts of one application in locations of one server.
    fn mounts(paths: impl IntoIterator<Item = LocationPath>) -> Vec<String> {
        let application = application("a");
        let locations: Vec<_> = paths.into_iter().map(|path| at(1, &application, path)).collect();
        resolve(&locations);
        let mounts = locations.iter().map(|location| location.mount.get().unwrap().prefix.clone());
        mounts.map(|prefix| String::from_utf8(prefix).unwrap()).collect()
    }

    #[test]
    fn an_inner_location_has_the_mount_of_the_outermost() {
        assert_eq!(mounts([prefix("/"), prefix("/admin/")]), ["/", "/"]);
        assert_eq!(mounts([prefix("/a/b/c"), prefix("/a/b/"), prefix("/a")]), ["/a", "/a", "/a"]);
        assert_eq!(mounts([prefix("/a"), prefix("/b/")]), ["/a", "/b/"]);
        assert_eq!(mounts([prefix("/app"), prefix("/apple"), prefix("/app/")]), ["/app", "/apple", "/app"]);
        assert_eq!(mounts([prefix("/app/"), prefix("/app")]), ["/app", "/app"]);
    }

    #[test]
    fn exact_and_regex_locations_have_the_mount_of_the_outer_location() {
        assert_eq!(mounts([within("/app"), prefix("/app/"), within("/app/x")]), ["/app/", "/app/", "/app/"]);
        assert_eq!(mounts([within("/other"), prefix("/app/"), LocationPath::Named]), ["", "/app/", ""]);
        assert_eq!(mounts([within("/app/x")]), [""]);
        // A regular expression location directly in the server.
        assert_eq!(mounts([within(""), prefix("/"), prefix("/app/")]), ["/", "/", "/"]);
        assert_eq!(mounts([within(""), prefix("/app/")]), ["", "/app/"]);
    }

    #[test]
    fn servers_and_applications_are_separate() {
        let (one, other) = (application("a"), application("b"));
        let locations = [at(1, &one, prefix("/")), at(2, &one, prefix("/admin")), at(1, &other, prefix("/other"))];
        resolve(&locations);
        let mounts = locations.map(|location| location.mount.get().unwrap().prefix.clone());
        assert_eq!(mounts, [&b"/"[..], b"/admin", b"/other"]);
    }
}
