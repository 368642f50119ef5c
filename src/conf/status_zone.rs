//! `wsgi_status_zone`: shared memory for the counters of all workers.

use super::main::MainConf;
use crate::nginx::conf::{Conf, parse_size};
use crate::nginx::directive::Problem;
use crate::nginx::shared_memory::ShmZone;

/// Smallest size, in bytes. It has room for 16 workers, 8 applications and some 25 pairs of both.
pub const MIN_SIZE: u64 = 64 * 1024;

/// Larger sizes are taken for mistakes.
const MAX_SIZE: u64 = 1 << 30;

/// Prefix of the zones that this module makes itself.
const RESERVED_PREFIX: &str = "ngx_http_wsgi_";

/// A `wsgi_status_zone`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusZone {
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Paths of live calls have their query strings.
    pub query: bool,
}

/// Status of an instance of a process group: its board is made by the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceStatus {
    /// User of the front's workers, which read the status.
    pub front_user: u32,
    /// Paths of live calls have their query strings.
    pub query: bool,
}

impl StatusZone {
    /// Returns the number of words of the board of each process group.
    pub fn words(&self) -> usize {
        self.size as usize / size_of::<u64>()
    }

    fn parse(args: &[&str]) -> Result<Self, Problem> {
        let (name, size) = (args[1], args[2]);
        if name.is_empty() || name.starts_with(RESERVED_PREFIX) {
            let must_be = format!("a name that does not begin with \"{RESERVED_PREFIX}\"");
            return Err(Problem::invalid_value(args[0], name, &must_be));
        }
        let size = match parse_size(size) {
            Some(bytes @ MIN_SIZE..=MAX_SIZE) => bytes,
            _ => return Err(Problem::invalid_value(args[0], size, "a size from 64k to 1g such as \"1m\"")),
        };
        let query = match args.get(3).copied() {
            None | Some("query=off") => false,
            Some("query=on") => true,
            Some(other) => return Err(Problem::invalid_value(args[0], other, "\"query=on\" or \"query=off\"")),
        };
        Ok(Self { name: name.to_owned(), size, query })
    }
}

/// Sets `wsgi_status_zone`, and has nginx allocate the zone.
pub fn set(cf: &Conf, args: &[&str], main: &mut MainConf) -> Result<(), Problem> {
    if main.settings.status_zone.is_some() {
        return Err(Problem::Duplicate);
    }
    let zone = StatusZone::parse(args)?;
    main.status_memory = Some(ShmZone::add_of_size(cf, &zone.name, zone.size as usize).map_err(|()| Problem::Logged)?);
    main.settings.status_zone = Some(zone);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::board;

    #[test]
    fn the_smallest_size_has_room_for_a_board() {
        // A page for nginx's slab pool, and a word for the number of words.
        assert!((MIN_SIZE as usize - 4096) / size_of::<u64>() > board::MIN_WORDS);
    }
}
