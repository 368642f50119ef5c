//! Where the applications of a server are mounted: what `wsgi_script_name` says, or the prefix of a location, or that of
//! another location around it with the same application.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::app::specification::Specification;
use crate::nginx::conf::ComplexValue;

/// What SCRIPT_NAME is made of.
#[derive(Clone, Debug, Default)]
pub struct Mount {
    /// `wsgi_script_name`; without it the prefix counts.
    pub script_name: Option<ComplexValue>,
    pub prefix: Vec<u8>,
}

/// Of one location; known when all locations are.
pub type Slot = Rc<OnceCell<Mount>>;

/// Where a location stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// It has all paths with this prefix.
    Prefix(Vec<u8>),
    /// It has some paths below this one: the path of an exact location, the prefix around one by regular expression.
    Within(Vec<u8>),
    /// It is reached by its name.
    #[default]
    Named,
}

/// A location with an application.
#[derive(Debug)]
pub struct Mounted {
    /// Tells the servers of a configuration apart.
    pub server: usize,
    pub application: Arc<Specification>,
    pub place: Place,
    pub script_name: Option<ComplexValue>,
    pub slot: Slot,
}

impl Place {
    /// The mount of an application that is nowhere around it.
    fn prefix(&self) -> &[u8] {
        match self {
            Self::Prefix(prefix) => prefix,
            Self::Within(_) | Self::Named => &[],
        }
    }

    /// The length of the prefix of `other`, if that is around this.
    fn depth_within(&self, other: &Self) -> Option<usize> {
        let Self::Prefix(outer) = other else { return None };
        let (path, is_prefix) = match self {
            Self::Prefix(path) => (path, true),
            Self::Within(path) => (path, false),
            Self::Named => return None,
        };
        let rest = path.strip_prefix(outer.strip_suffix(b"/").unwrap_or(outer))?;
        let is_around = matches!(rest, [] | [b'/', ..]) && !(is_prefix && outer.len() >= path.len());
        is_around.then_some(outer.len())
    }
}

/// Finds the mount of each location.
pub fn settle(locations: &[Mounted]) {
    let mut same: HashMap<_, Vec<&Mounted>> = HashMap::new();
    for location in locations {
        same.entry((location.server, Arc::as_ptr(&location.application))).or_default().push(location);
    }
    for group in same.values_mut() {
        // The outer ones are known then when they are asked.
        group.sort_by_key(|location| (!matches!(location.place, Place::Prefix(_)), location.place.prefix().len()));
        for location in group.iter() {
            let own = || Mount { script_name: location.script_name, prefix: location.place.prefix().to_vec() };
            let around =
                |outer: &&Mounted| Some((location.place.depth_within(&outer.place)?, outer.slot.get()?.clone()));
            let outer =
                group.iter().filter_map(around).reduce(|longest, next| if next.0 > longest.0 { next } else { longest });
            let mount = match outer {
                Some((_, mount)) if location.script_name.is_none() => mount,
                _ => own(),
            };
            // An `if` without an application of its own has the slot of its location.
            let _ = location.slot.set(mount);
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

    fn at(server: usize, application: &Arc<Specification>, place: Place) -> Mounted {
        Mounted { server, application: application.clone(), place, script_name: None, slot: Slot::default() }
    }

    fn prefix(path: &str) -> Place {
        Place::Prefix(path.as_bytes().to_vec())
    }

    fn within(path: &str) -> Place {
        Place::Within(path.as_bytes().to_vec())
    }

    /// The mounts of one application in these places of a server.
    fn mounts(places: impl IntoIterator<Item = Place>) -> Vec<String> {
        let application = application("a");
        let locations: Vec<_> = places.into_iter().map(|place| at(1, &application, place)).collect();
        settle(&locations);
        let mounts = locations.iter().map(|location| location.slot.get().unwrap().prefix.clone());
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
    fn what_is_no_prefix_has_the_mount_around_it() {
        assert_eq!(mounts([within("/app"), prefix("/app/"), within("/app/x")]), ["/app/", "/app/", "/app/"]);
        assert_eq!(mounts([within("/other"), prefix("/app/"), Place::Named]), ["", "/app/", ""]);
        assert_eq!(mounts([within("/app/x")]), [""]);
        // By regular expression, at the level of the server.
        assert_eq!(mounts([within(""), prefix("/"), prefix("/app/")]), ["/", "/", "/"]);
        assert_eq!(mounts([within(""), prefix("/app/")]), ["", "/app/"]);
    }

    #[test]
    fn servers_and_applications_are_separate() {
        let (one, other) = (application("a"), application("b"));
        let locations = [at(1, &one, prefix("/")), at(2, &one, prefix("/admin")), at(1, &other, prefix("/other"))];
        settle(&locations);
        let mounts = locations.map(|location| location.slot.get().unwrap().prefix.clone());
        assert_eq!(mounts, [&b"/"[..], b"/admin", b"/other"]);
    }
}
