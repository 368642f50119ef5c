//! Change from root to another user for good.

use std::ffi::CStr;
use std::io;

use nix::unistd::{Gid, Uid, fchown, getgrouplist, getgroups, getresgid, getresuid, initgroups, setgid, setuid};

/// Failure to change the user. The process may still have the privileges of root.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    #[error("{call}: {source}")]
    Call { call: &'static str, source: nix::Error },
    #[error("the process has users {users:?} and groups {groups:?}")]
    Ids { users: [u32; 3], groups: [u32; 3] },
    #[error("the process has groups {found:?} instead of {expected:?}")]
    Groups { found: Vec<u32>, expected: Vec<u32> },
    #[error("the process can become root again")]
    Reversible,
}

/// Changes this process from root to the user `name`, `user`, with the user's groups and `group`, and verifies that it
/// cannot become root again.
///
/// # Errors
/// The process must end: it may still have the privileges of root.
pub fn become_user(name: &CStr, user: u32, group: u32) -> Result<(), PrivilegeError> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    // Standard output and error are a pipe of this process. Programs open it by the names /dev/stdout and /dev/stderr, which
    // only its owner may do.
    let _ = fchown(io::stdout(), Some(user), Some(group));
    check("setgid", setgid(group))?;
    check("initgroups", initgroups(name, group))?;
    check("setuid", setuid(user))?;

    let users = check("getresuid", getresuid())?;
    let groups = check("getresgid", getresgid())?;
    let (users, groups) = ([users.real, users.effective, users.saved], [groups.real, groups.effective, groups.saved]);
    if users != [user; 3] || groups != [group; 3] {
        return Err(PrivilegeError::Ids { users: users.map(Uid::as_raw), groups: groups.map(Gid::as_raw) });
    }
    let expected = sorted(check("getgrouplist", getgrouplist(name, group))?);
    let found = sorted(check("getgroups", getgroups())?);
    if found != expected {
        return Err(PrivilegeError::Groups { found, expected });
    }
    if !user.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err(PrivilegeError::Reversible);
    }
    Ok(())
}

fn check<T>(call: &'static str, result: nix::Result<T>) -> Result<T, PrivilegeError> {
    result.map_err(|source| PrivilegeError::Call { call, source })
}

fn sorted(groups: Vec<Gid>) -> Vec<u32> {
    let mut groups: Vec<u32> = groups.into_iter().map(Gid::as_raw).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}
