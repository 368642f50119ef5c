//! The directory of `wsgi_socket_path`: claim of a slot, names and modes of its files.
//!
//! ```text
//! DIR/                    root:root         0755
//! DIR/lock                root:root         0600
//! DIR/sockets/            root:FRONTGROUP   0710   only the front's group may enter
//! DIR/sockets/NAME        root:root         0666   listening socket
//! DIR/sockets/status.sock root:root         0666   status of all groups
//! DIR/NAME/               root:GROUPGID     0750
//! DIR/NAME/nginx.conf     root:GROUPGID     0640
//! DIR/NAME/wsgi_control   the group's user  0600
//! DIR/NAME/tmp/           the group's user  0700   pid files, temporary files
//! DIR/1/ …                                         the same, for a second nginx at the same time
//! ```
//!
//! Root never writes inside a directory that the group's user owns, who could put symbolic links there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::inherited;
use super::spawn::Identity;
use crate::sync::Mutex;

/// Names that no group may have, as the directory has files of its own with these names.
pub const RESERVED_NAMES: [&str; 2] = ["sockets", "lock"];

/// Number of slots. Two are in use during an upgrade of nginx.
const SLOTS: usize = 16;

/// Environment variable of the master in which [`State`] is kept: a reload after the module's file was replaced loads
/// another copy of the module, with statics of its own.
const VARIABLE: &str = "NGX_WSGI_SUPERVISOR";

/// Returns the path of a group's listening socket. `directory` is that of a slot, here and below.
pub fn socket(directory: &Path, group: &str) -> PathBuf {
    directory.join("sockets").join(group)
}

/// Returns the path of the supervisor's status socket. No group has a name with a dot.
pub fn status_socket(directory: &Path) -> PathBuf {
    directory.join("sockets").join("status.sock")
}

/// Returns the directory of a group, which its user may read.
pub fn of_group(directory: &Path, group: &str) -> PathBuf {
    directory.join(group)
}

/// Returns the path of the configuration of one of a group's instances, from 0.
pub fn configuration(directory: &Path, group: &str, instance: usize) -> PathBuf {
    let name = if instance == 0 { "nginx.conf".to_owned() } else { format!("nginx-{instance}.conf") };
    of_group(directory, group).join(name)
}

/// Returns the path of a group's control socket.
pub fn control(directory: &Path, group: &str) -> PathBuf {
    of_group(directory, group).join("wsgi_control")
}

/// Returns the directory of a group in which its instances write.
pub fn temporary(directory: &Path, group: &str) -> PathBuf {
    of_group(directory, group).join("tmp")
}

/// Returns the path of an instance's pid file.
pub fn pid_file(directory: &Path, group: &str, number: usize) -> PathBuf {
    let name = if number == 0 { "nginx.pid".to_owned() } else { format!("nginx-{number}.pid") };
    temporary(directory, group).join(name)
}

/// Slot of a directory that this nginx has claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Directory of the slot.
    pub directory: PathBuf,
}

/// What the master keeps over reloads.
#[derive(Default, Serialize, Deserialize)]
pub struct State {
    claims: Vec<Claim>,
    pub supervisor: Option<Channel>,
}

#[derive(Serialize, Deserialize)]
struct Claim {
    base: PathBuf,
    directory: PathBuf,
    /// Descriptor of the locked file.
    lock: RawFd,
}

/// The master's end of its connection to the supervisor.
#[derive(Clone, Serialize, Deserialize)]
pub struct Channel {
    pub descriptor: RawFd,
    /// Directory of the slot that the supervisor works in.
    pub directory: PathBuf,
    /// Milliseconds that its groups may take to stop.
    pub longest_stop: u64,
}

static STATE: LazyLock<Mutex<Option<State>>> = LazyLock::new(|| Mutex::new(None));

/// Runs `change` on the state of this process, and keeps the result. To be called in the process that is or becomes the
/// master.
pub fn with_state<R>(change: impl FnOnce(&mut State) -> R) -> R {
    let mut kept = STATE.lock();
    // The variable comes first: another copy of the module may have changed it. With `master_process off` nginx removes it.
    let mut state = state_of_variable().or_else(|| kept.take()).unwrap_or_default();
    let result = change(&mut state);
    if let Ok(text) = serde_json::to_string(&state) {
        inherited::set_variable(VARIABLE, &text);
    }
    *kept = Some(state);
    result
}

/// Returns the state that the variable has, if all its descriptors are those of this process.
fn state_of_variable() -> Option<State> {
    let state: State = serde_json::from_str(&std::env::var(VARIABLE).ok()?).ok()?;
    let is_open = |claim: &Claim| {
        let locked = inherited::duplicate(claim.lock).map(File::from);
        locked.is_ok_and(|locked| is_named(&locked, &lock_file(&claim.directory)))
    };
    let is_socket = |channel: &Channel| {
        let socket = inherited::duplicate(channel.descriptor).map(File::from);
        socket.and_then(|socket| socket.metadata()).is_ok_and(|metadata| metadata.file_type().is_socket())
    };
    (state.claims.iter().all(is_open) && state.supervisor.iter().all(is_socket)).then_some(state)
}

/// Closes everything that a worker has inherited of the state.
pub fn close_in_child() {
    if let Some(state) = STATE.lock().take() {
        state.claims.iter().for_each(|claim| inherited::close_inherited(claim.lock));
        state.supervisor.iter().for_each(|channel| inherited::close_inherited(channel.descriptor));
    }
}

impl State {
    /// Returns the descriptor of the lock of a slot.
    pub fn lock(&self, directory: &Path) -> Option<RawFd> {
        self.claims.iter().find(|claim| claim.directory == directory).map(|claim| claim.lock)
    }

    /// Gives up all slots but the one with this directory, if any.
    pub fn release_all_but(&mut self, directory: Option<&Path>) {
        self.claims.retain(|claim| {
            let keeps = Some(claim.directory.as_path()) == directory;
            if !keeps {
                // Otherwise a supervisor is there, and removes it.
                if !claim.directory.join("sockets").exists() {
                    remove_slot(&claim.directory);
                }
                inherited::close_inherited(claim.lock);
            }
            keeps
        });
    }
}

/// Claims a free slot of the directory `base` for this process, which is or becomes the master; the slot that it has
/// already, if any. Creates the directory. The claim ends with the last of master and supervisor.
///
/// # Errors
/// If the directory cannot be made or used.
pub fn claim(base: &Path) -> io::Result<Claimed> {
    with_state(|state| {
        if let Some(claim) = state.claims.iter().find(|claim| claim.base == base) {
            return Ok(Claimed { directory: claim.directory.clone() });
        }
        let (directory, lock) = claim_slot(base)?;
        state.claims.push(Claim { base: base.to_owned(), directory: directory.clone(), lock: lock.into_raw_fd() });
        Ok(Claimed { directory })
    })
}

fn lock_file(directory: &Path) -> PathBuf {
    directory.join("lock")
}

/// Locks the first slot that is free.
fn claim_slot(base: &Path) -> io::Result<(PathBuf, File)> {
    for slot in 0..SLOTS {
        let directory = if slot == 0 { base.to_owned() } else { base.join(slot.to_string()) };
        if let Some(lock) = lock_slot(base, &directory)? {
            return Ok((directory, lock));
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "too many instances of nginx use the directory"))
}

/// Makes the directory of a slot and locks it. Returns `None` if another nginx has it.
fn lock_slot(base: &Path, directory: &Path) -> io::Result<Option<File>> {
    // An nginx that ends removes both.
    const ATTEMPTS: usize = 100;
    for _ in 0..ATTEMPTS {
        make_base(base)?;
        if directory != base {
            make_directory(directory, 0o755, None)?;
        }
        let path = lock_file(directory);
        let options =
            File::options().read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).clone();
        let lock = match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        match inherited::try_lock(&lock) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            locked => locked?,
        }
        if is_named(&lock, &path) {
            return Ok(Some(lock));
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Returns whether `path` is still the name of an open file.
fn is_named(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => identity(open) == identity(named),
        _ => false,
    }
}

/// Makes the directory that the administrator names. One that exists is only used if no other user may change it.
fn make_base(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => fs::set_permissions(path, PermissionsExt::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::metadata(path)?;
            check_owner(&metadata)?;
            let mode = metadata.mode();
            if mode & 0o022 != 0 {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "the directory is writable by other users",
                ));
            }
            if mode & 0o055 != 0o055 {
                fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn check_owner(metadata: &fs::Metadata) -> io::Result<()> {
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if metadata.uid() != geteuid().as_raw() {
        let text = format!("the directory is owned by the user with the number {}", metadata.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

/// Makes a directory of this process's user with this mode and group, or sets mode and group of one that exists.
fn make_directory(path: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let metadata = fs::symlink_metadata(path)?;
    check_owner(&metadata)?;
    if let Some(group) = group
        && metadata.gid() != group
    {
        chown(path, None, Some(group))?;
    }
    fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

/// Makes the directory for the sockets of all groups, and removes what an earlier nginx has left in the slot.
pub fn prepare(directory: &Path, front_group: Option<u32>) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        // Only what is surely ours: an administrator may have named a directory that has other files.
        if is_of_supervisor(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    remove_sockets(directory);
    prepare_sockets(directory, front_group)
}

fn remove_sockets(directory: &Path) {
    let sockets = directory.join("sockets");
    let _ = fs::set_permissions(&sockets, PermissionsExt::from_mode(0o700));
    let _ = fs::remove_dir_all(sockets);
}

/// Mode of the directory for the sockets.
fn sockets_mode() -> u32 {
    // Without root the instances are of the same user, and one whose supervisor was killed would remove its socket at its
    // end: that of the next supervisor.
    if geteuid().is_root() { 0o710 } else { 0o510 }
}

/// Adds or removes a socket of the directory for the sockets.
pub fn change_sockets<R>(directory: &Path, change: impl FnOnce() -> R) -> R {
    let sockets = directory.join("sockets");
    let set_mode = |mode| fs::set_permissions(&sockets, PermissionsExt::from_mode(mode));
    let _ = set_mode(0o710);
    let result = change();
    let _ = set_mode(sockets_mode());
    result
}

/// Opens a listening socket in the directory for the sockets, in place of an earlier one. That directory decides who may
/// connect: the workers of the front.
///
/// # Errors
/// As of the system.
pub fn listen_to_front(directory: &Path, path: &Path) -> io::Result<UnixListener> {
    let socket = change_sockets(directory, || {
        let _ = fs::remove_file(path);
        UnixListener::bind(path)
    })?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o666))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Makes the directory for the sockets of all groups, or gives it to another group of the front's workers.
pub fn prepare_sockets(directory: &Path, front_group: Option<u32>) -> io::Result<()> {
    // Without root all workers are of the same user.
    make_directory(&directory.join("sockets"), sockets_mode(), front_group)
}

/// First line of each configuration that the supervisor writes.
const MARK: &str = "# Written by the wsgi supervisor of nginx, which replaces and removes this file.\n";

fn is_of_supervisor(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|metadata| check_owner(&metadata).is_ok())
        && fs::read(directory.join("nginx.conf")).is_ok_and(|text| text.starts_with(MARK.as_bytes()))
}

/// Makes the directories of a group.
pub fn prepare_group(directory: &Path, group: &str, user: Option<&Identity>) -> io::Result<()> {
    make_directory(&of_group(directory, group), 0o750, user.map(|user| user.gid))?;
    let temporary = temporary(directory, group);
    let owner = user.map_or_else(|| geteuid().as_raw(), |user| user.uid);
    match fs::symlink_metadata(&temporary) {
        Ok(metadata) if metadata.is_dir() && metadata.uid() == owner => return Ok(()),
        // Of the user that the group had before.
        Ok(_) => fs::remove_dir_all(&temporary)?,
        Err(_) => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&temporary)?;
    give_to(&temporary, user)
}

/// Makes a file or directory, in a directory of root, one of the group's user.
pub fn give_to(path: &Path, user: Option<&Identity>) -> io::Result<()> {
    user.map_or(Ok(()), |user| lchown(path, Some(user.uid), Some(user.gid)))
}

/// Writes the configuration of an instance, unless the file has it already and its user may read it.
pub fn write_configuration(path: &Path, text: &str, user: Option<&Identity>) -> io::Result<()> {
    let text = format!("{MARK}{text}");
    let is_readable = |gid: u32| user.is_none_or(|user| user.gid == gid);
    let is_same = |found: Vec<u8>| found == text.as_bytes();
    if fs::metadata(path).is_ok_and(|found| is_readable(found.gid())) && fs::read(path).is_ok_and(is_same) {
        return Ok(());
    }
    // In one step: a reload may read it at any time.
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
    if let Some(user) = user {
        chown(&new, None, Some(user.gid))?;
    }
    file.set_permissions(PermissionsExt::from_mode(0o640))?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}

/// Removes the listening socket of a group.
pub fn remove_socket(directory: &Path, group: &str) {
    let path = socket(directory, group);
    let _ = change_sockets(directory, || fs::remove_file(path));
}

/// Removes everything of a group.
pub fn remove_group(directory: &Path, group: &str) {
    remove_socket(directory, group);
    let _ = fs::remove_dir_all(of_group(directory, group));
}

/// Removes the slot, once its groups are removed and while its lock is held.
pub fn remove_slot(directory: &Path) {
    remove_sockets(directory);
    let _ = fs::remove_file(lock_file(directory));
    let is_numbered =
        directory.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<usize>().is_ok());
    // Neither is removed if other files are in it.
    let _ = fs::remove_dir(directory);
    if is_numbered && let Some(base) = directory.parent() {
        let _ = fs::remove_dir(base);
    }
}

/// Claims a directory for the rest of a test.
#[cfg(test)]
pub fn claim_for_test(base: &Path) -> PathBuf {
    let (directory, lock) = claim_slot(base).unwrap();
    let _ = lock.into_raw_fd();
    directory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_nginx_gets_another_slot() {
        let parent = tempfile::tempdir().unwrap();
        let base = parent.path().join("run");
        let (first, first_lock) = claim_slot(&base).unwrap();
        let (second, second_lock) = claim_slot(&base).unwrap();
        assert_eq!((first.as_path(), second.as_path()), (base.as_path(), base.join("1").as_path()));
        // The first ends and cannot remove the directory yet.
        prepare(&first, None).unwrap();
        remove_slot(&first);
        drop(first_lock);
        assert!(second.exists() && !first.join("sockets").exists());
        let (third, third_lock) = claim_slot(&base).unwrap();
        assert_eq!(third, base);
        remove_slot(&third);
        remove_slot(&second);
        drop((second_lock, third_lock));
        assert!(!base.exists());
    }

    #[test]
    fn a_directory_that_others_may_change_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let base = parent.path().join("run");
        fs::create_dir(&base).unwrap();
        fs::set_permissions(&base, PermissionsExt::from_mode(0o1777)).unwrap();
        assert_eq!(claim_slot(&base).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(fs::metadata(&base).unwrap().mode() & 0o7777, 0o1777);
    }

    #[test]
    fn a_group_has_its_files_until_it_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let (directory, _lock) = claim_slot(&parent.path().join("run")).unwrap();
        prepare(&directory, None).unwrap();
        prepare_group(&directory, "blog", None).unwrap();
        let path = configuration(&directory, "blog", 0);
        write_configuration(&path, "events {}\n", None).unwrap();
        write_configuration(&configuration(&directory, "blog", 1), "events {}\n", None).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{MARK}events {{}}\n"));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&path), 0o640);
        assert_eq!(mode(&of_group(&directory, "blog")), 0o750);
        assert_eq!(mode(&temporary(&directory, "blog")), 0o700);
        assert_eq!(mode(&directory.join("sockets")), sockets_mode());

        // A group of another nginx that was killed is removed, and directories of others are not.
        fs::create_dir(directory.join("other")).unwrap();
        fs::write(directory.join("other/nginx.conf"), "events {}\n").unwrap();
        change_sockets(&directory, || fs::write(socket(&directory, "blog"), "")).unwrap();
        prepare(&directory, None).unwrap();
        assert!(!of_group(&directory, "blog").exists() && !socket(&directory, "blog").exists());
        assert!(directory.join("other").exists());
    }
}
