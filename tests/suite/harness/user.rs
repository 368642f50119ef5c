//! Users of the system that exist for the tests only.

use super::{Process, is_root, python_is_for_everybody};
use std::process::Command;
use std::sync::{Mutex, Once, PoisonError};

/// A user with a group of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Names begin with this; the id of the process follows, and a letter.
const PREFIX: &str = "ngxwsgi";

/// The users that this process has made.
static USERS: Mutex<Vec<User>> = Mutex::new(Vec::new());

/// Returns two users, which all tests share and which are removed when the process ends. `None`, with a message, where
/// there can be none: only root can make users, and only a Python that everybody can read is of use to them.
pub fn two_users() -> Option<[User; 2]> {
    static REMOVE_AT_EXIT: Once = Once::new();
    if !is_root() || !python_is_for_everybody() {
        eprintln!("skipped: this needs root, and a Python that everybody can read");
        return None;
    }
    let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
    if users.is_empty() {
        remove_left_behind();
        // SAFETY: the handler has the signature that atexit asks for and does not unwind.
        REMOVE_AT_EXIT.call_once(|| assert_eq!(unsafe { libc::atexit(remove_users) }, 0, "atexit"));
        for letter in ["a", "b"] {
            users.push(User::make(&format!("{PREFIX}{}{letter}", std::process::id())));
        }
    }
    Some([users[0].clone(), users[1].clone()])
}

impl User {
    fn make(name: &str) -> User {
        let arguments = ["--system", "--no-create-home", "--user-group", "--shell", "/usr/sbin/nologin", name];
        run_alone("useradd", &arguments).unwrap_or_else(|problem| panic!("useradd {name}: {problem}"));
        let (uid, gid) = ids(name).expect("the new user");
        User { name: name.to_owned(), uid, gid }
    }

    /// The arguments of a program that runs another as this user: `Site::wrapped_in`.
    pub fn wrapper(&self) -> Vec<String> {
        let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
        ["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"].map(str::to_owned).to_vec()
    }
}

/// Numbers of a user and its group.
pub fn ids(name: &str) -> Option<(u32, u32)> {
    let table = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = table.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

extern "C" fn remove_users() {
    let users = std::mem::take(&mut *USERS.lock().unwrap_or_else(PoisonError::into_inner));
    for user in users {
        remove(&user.name);
    }
}

/// Removes the users of test processes that were killed.
fn remove_left_behind() {
    let table = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    for name in table.lines().filter_map(|line| line.split(':').next()) {
        let number = name.strip_prefix(PREFIX).map(|rest| rest.trim_end_matches(char::is_alphabetic));
        if number.and_then(|number| number.parse().ok()).is_some_and(|process| !Process(process).is_alive()) {
            remove(name);
        }
    }
}

fn remove(name: &str) {
    if let Err(problem) = run_alone("userdel", &["--force", name]) {
        eprintln!("userdel {name}: {problem}");
    }
}

/// Runs a program that changes the users, again while another one does.
fn run_alone(program: &str, arguments: &[&str]) -> Result<(), String> {
    let mut said = String::new();
    for _ in 0..100 {
        let output = Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !said.contains("lock") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Err(said)
}
