//! Files and directories that the user of this process may not use: which one it is, and what would change that.

use std::ffi::{CString, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use pyo3::prelude::*;

use super::native_class::{Arguments, Method};

/// As many symbolic links as the kernel follows.
const MOST_LINKS: usize = 40;

/// One sentence on the first directory on the way to `path` that this user cannot enter, symbolic links followed.
pub fn closed_way(path: &Path) -> Option<String> {
    match walk(path) {
        Way::Closed(directory) => Some(sentence(&directory, "is closed to", "x")),
        Way::Open(_) => None,
    }
}

/// As [`closed_way`], or on `path` itself if it is there and this user cannot read it.
pub fn closed(path: &Path) -> Option<String> {
    match walk(path) {
        Way::Closed(directory) => Some(sentence(&directory, "is closed to", "x")),
        Way::Open(path) if is_denied(&path, libc::R_OK) => Some(sentence(&path, "cannot be read by", "r")),
        Way::Open(_) => None,
    }
}

/// `closed(path)` for the loader.
pub static CLOSED: Method = Method::function(c"closed", |arguments: &Arguments<'_, '_, ()>| {
    let [path] = arguments.bind("closed", ["path"], 1)?;
    let path = path.and_then(|path| path.extract::<PathBuf>().ok());
    let sentence = path.and_then(|path| closed(&path));
    Ok(sentence.into_pyobject(arguments.py)?.into_any())
});

enum Way {
    /// This directory cannot be entered.
    Closed(PathBuf),
    /// Where it leads, whether or not there is something.
    Open(PathBuf),
}

/// Goes to `path` step by step, as the kernel does.
fn walk(path: &Path) -> Way {
    let Ok(path) = std::path::absolute(path) else { return Way::Open(path.to_owned()) };
    let (mut here, mut links) = (PathBuf::from("/"), 0);
    let mut left: Vec<OsString> = steps(&path);
    loop {
        if here.is_dir() && is_denied(&here, libc::X_OK) {
            return Way::Closed(here);
        }
        let Some(step) = left.pop() else { return Way::Open(here) };
        if step == ".." {
            here.pop();
            continue;
        }
        here.push(step);
        if links < MOST_LINKS
            && let Ok(target) = fs::read_link(&here)
        {
            links += 1;
            here.pop();
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            left.extend(steps(&target));
        }
    }
}

/// The steps of a path, the first one last.
fn steps(path: &Path) -> Vec<OsString> {
    let steps = path.components().filter(|step| matches!(step, Component::Normal(_) | Component::ParentDir));
    steps.map(|step| step.as_os_str().to_owned()).rev().collect()
}

/// Whether the kernel refuses this kind of access.
fn is_denied(path: &Path, access: libc::c_int) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path is null-terminated and outlives the call.
    let result = unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), access, libc::AT_EACCESS) };
    result != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EACCES)
}

fn sentence(path: &Path, is: &str, permission: &str) -> String {
    // SAFETY: always succeeds, and no memory is involved.
    let user = user_name(unsafe { libc::geteuid() });
    let shown = path.display();
    let Ok(found) = fs::metadata(path) else { return format!("\"{shown}\" {is} user {user}") };
    let kind = if found.is_dir() { "directory" } else { "file" };
    let permissions = found.mode() & 0o7777;
    let owner = user_name(found.uid());
    let remedy = format!("\"chmod {}+{permission} {shown}\" would open it", class(&found));
    format!("{kind} \"{shown}\" {is} user {user} (mode {permissions:04o}, owner {owner}): {remedy}")
}

/// Which of the permissions of a file count for this user, as `chmod` calls them.
fn class(file: &Metadata) -> char {
    // SAFETY: the first two always succeed; with a length of 0 only the number of groups is asked for, then the pointer
    // is to that many elements.
    let (user, groups) = unsafe {
        let count = libc::getgroups(0, std::ptr::null_mut()).max(0);
        let mut groups: Vec<libc::gid_t> = vec![0; count as usize];
        let count = libc::getgroups(count, groups.as_mut_ptr()).max(0);
        groups.truncate(count as usize);
        groups.push(libc::getegid());
        (libc::geteuid(), groups)
    };
    match file.uid() {
        owner if owner == user => 'u',
        _ if groups.contains(&file.gid()) => 'g',
        _ => 'o',
    }
}

/// The name of a user, or the number of one that has none.
fn user_name(user: libc::uid_t) -> String {
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::zeroed();
    let mut texts = vec![0_u8; 16 * 1024];
    let mut found = std::ptr::null_mut();
    // SAFETY: the pointers are to an entry, to as many bytes as is said, and to a pointer. If one is found its name is a
    // null-terminated text within these bytes.
    let name = unsafe {
        let texts = (texts.as_mut_ptr().cast(), texts.len());
        libc::getpwuid_r(user, entry.as_mut_ptr(), texts.0, texts.1, &mut found);
        found.as_ref().map(|entry| std::ffi::CStr::from_ptr(entry.pw_name).to_bytes().to_vec())
    };
    name.map_or_else(|| user.to_string(), |name| OsString::from_vec(name).to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_way_leads_through_links_to_where_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        symlink("a/b", root.join("relative")).unwrap();
        symlink(root.join("relative/../b"), root.join("absolute")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let end = |path: &str| match walk(&root.join(path)) {
            Way::Open(end) => end.strip_prefix(&root).unwrap().display().to_string(),
            Way::Closed(directory) => panic!("{} is closed", directory.display()),
        };
        for path in ["a/b/file", "relative/file", "absolute/file", "a/../a/./b/file"] {
            assert_eq!(end(path), "a/b/file", "{path}");
        }
        assert_eq!(end("absent/file"), "absent/file");
        assert_eq!(end("loop"), "loop");
        assert_eq!(closed(&root.join("a/b/file")), None);
        assert_eq!(closed(&root.join("absent")), None);
    }

    #[test]
    fn a_user_has_a_name_or_a_number() {
        assert_eq!(user_name(0), "root");
        assert_eq!(user_name(4_000_000_000), "4000000000");
    }
}
