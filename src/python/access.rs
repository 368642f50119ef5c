//! Explains which file or directory the user of this process may not access, and how to change that.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, Gid, Uid, User, faccessat, getegid, geteuid, getgroups};
use pyo3::prelude::*;

use super::native_class::{Arguments, Method};

/// The kernel's limit of symbolic links in a path.
const MAX_LINKS: usize = 40;

/// Returns a sentence on the first directory of `path` that this user may not search, symbolic links followed.
pub fn search_problem(path: &Path) -> Option<String> {
    match walk(path) {
        Walk::Denied(directory) => Some(sentence(&directory, "is closed to", "x")),
        Walk::End(_) => None,
    }
}

/// Returns a sentence as [`search_problem`] does, or on `path` itself if it exists and this user may not read it.
pub fn access_problem(path: &Path) -> Option<String> {
    match walk(path) {
        Walk::Denied(directory) => Some(sentence(&directory, "is closed to", "x")),
        Walk::End(path) if is_denied(&path, AccessFlags::R_OK) => Some(sentence(&path, "cannot be read by", "r")),
        Walk::End(_) => None,
    }
}

/// `access_problem(path)` for the loader.
pub static ACCESS_PROBLEM: Method = Method::function(c"access_problem", |arguments: &Arguments<'_, '_>| {
    let [path] = arguments.bind("access_problem", ["path"], 1)?;
    let path = path.and_then(|path| path.extract::<PathBuf>().ok());
    let sentence = path.and_then(|path| access_problem(&path));
    Ok(sentence.into_pyobject(arguments.py)?.into_any())
});

/// The result of following a path.
enum Walk {
    /// This directory may not be searched.
    Denied(PathBuf),
    /// The path with all symbolic links resolved; it need not exist.
    End(PathBuf),
}

/// Follows `path` component by component, as the kernel does.
fn walk(path: &Path) -> Walk {
    let Ok(path) = std::path::absolute(path) else { return Walk::End(path.to_owned()) };
    let (mut here, mut links) = (PathBuf::from("/"), 0);
    let mut left: Vec<OsString> = components(&path);
    loop {
        if here.is_dir() && is_denied(&here, AccessFlags::X_OK) {
            return Walk::Denied(here);
        }
        let Some(component) = left.pop() else { return Walk::End(here) };
        if component == ".." {
            here.pop();
            continue;
        }
        here.push(component);
        if links < MAX_LINKS
            && let Ok(target) = fs::read_link(&here)
        {
            links += 1;
            here.pop();
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            left.extend(components(&target));
        }
    }
}

/// Returns the components of a path, in reverse order.
fn components(path: &Path) -> Vec<OsString> {
    let components = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    components.map(|component| component.as_os_str().to_owned()).rev().collect()
}

/// Returns whether the kernel refuses this kind of access.
fn is_denied(path: &Path, access: AccessFlags) -> bool {
    faccessat(AT_FDCWD, path, access, AtFlags::AT_EACCESS) == Err(Errno::EACCES)
}

fn sentence(path: &Path, is: &str, permission: &str) -> String {
    let user = user_name(geteuid());
    let shown = path.display();
    let Ok(found) = fs::metadata(path) else { return format!("\"{shown}\" {is} user {user}") };
    let kind = if found.is_dir() { "directory" } else { "file" };
    let permissions = found.mode() & 0o7777;
    let owner = user_name(Uid::from_raw(found.uid()));
    let remedy = format!("\"chmod {}+{permission} {shown}\" would open it", class(&found));
    format!("{kind} \"{shown}\" {is} user {user} (mode {permissions:04o}, owner {owner}): {remedy}")
}

/// Returns the permission class of this user for a file, as `chmod` names it.
fn class(file: &Metadata) -> char {
    let (owner, group) = (Uid::from_raw(file.uid()), Gid::from_raw(file.gid()));
    if owner == geteuid() {
        'u'
    } else if group == getegid() || getgroups().unwrap_or_default().contains(&group) {
        'g'
    } else {
        'o'
    }
}

/// Returns the name of a user, or the number if there is no name.
fn user_name(user: Uid) -> String {
    let entry = User::from_uid(user).ok().flatten();
    entry.map_or_else(|| user.to_string(), |entry| entry.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_path_is_followed_through_symbolic_links() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        symlink("a/b", root.join("relative")).unwrap();
        symlink(root.join("relative/../b"), root.join("absolute")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let end = |path: &str| match walk(&root.join(path)) {
            Walk::End(end) => end.strip_prefix(&root).unwrap().display().to_string(),
            Walk::Denied(directory) => panic!("{} is closed", directory.display()),
        };
        for path in ["a/b/file", "relative/file", "absolute/file", "a/../a/./b/file"] {
            assert_eq!(end(path), "a/b/file", "{path}");
        }
        assert_eq!(end("absent/file"), "absent/file");
        assert_eq!(end("loop"), "loop");
        assert_eq!(access_problem(&root.join("a/b/file")), None);
        assert_eq!(access_problem(&root.join("absent")), None);
    }

    #[test]
    fn a_user_is_named_by_name_or_number() {
        assert_eq!(user_name(Uid::from_raw(0)), "root");
        assert_eq!(user_name(Uid::from_raw(4_000_000_000)), "4000000000");
    }
}
