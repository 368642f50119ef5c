//! A program in a pseudo-terminal: keys in, the screen out.

use super::wait_for;
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

pub struct Terminal {
    child: Child,
    /// The side of the keyboard and the screen.
    master: File,
    /// The side of the program. It is kept open, as the settings of the terminal are reset when it is closed.
    slave: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
}

/// What a program changes in a terminal, and has to restore.
#[derive(Debug, PartialEq, Eq)]
pub struct Mode {
    pub local_flags: libc::tcflag_t,
    pub output_flags: libc::tcflag_t,
    pub has_alternate_screen: bool,
    pub has_hidden_cursor: bool,
}

fn size_of(columns: u16, rows: u16) -> libc::winsize {
    libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn non_zero(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a terminal has a size")
}

/// Returns the two sides of a new pseudo-terminal.
fn open_terminal(columns: u16, rows: u16) -> (OwnedFd, OwnedFd) {
    let (mut master, mut slave) = (-1, -1);
    let size = size_of(columns, rows);
    // SAFETY: the descriptors and the size are valid for the call; no name and no settings are asked for.
    unsafe {
        let result = libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size);
        assert_eq!(result, 0, "openpty: {}", std::io::Error::last_os_error());
        for fd in [master, slave] {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave))
    }
}

impl Terminal {
    /// Starts a program in a terminal of this size.
    pub fn start(mut command: Command, columns: u16, rows: u16) -> Terminal {
        let (master, slave) = open_terminal(columns, rows);
        let side = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(side()).stdout(side()).stderr(side()).env("LANG", "C.UTF-8");
        if !command.get_envs().any(|(name, _)| name == "TERM") {
            command.env("TERM", "xterm-256color");
        }
        command.env_remove("LC_ALL").env_remove("NO_COLOR");
        // SAFETY: these are async-signal-safe; nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                libc::setsid();
                // Standard input becomes the controlling terminal, so that resizing it sends a signal.
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().expect("run the program");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(non_zero(rows), non_zero(columns), 0)));
        let master = File::from(master);
        let reader = thread::spawn({
            let (mut output, screen) = (master.try_clone().unwrap(), screen.clone());
            move || {
                let mut buffer = [0; 65536];
                // It ends with an error when no process has the other side open.
                while let Ok(length @ 1..) = output.read(&mut buffer) {
                    screen.lock().unwrap().process(&buffer[..length]);
                }
            }
        });
        Terminal { child, master, slave, screen, reader: Some(reader) }
    }

    pub fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.screen.lock().unwrap().screen_mut().set_size(non_zero(rows), non_zero(columns));
        let size = size_of(columns, rows);
        // SAFETY: the descriptor is open, and the size is valid for the call.
        let result = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(result, 0);
    }

    /// Returns the text of the screen.
    pub fn screen(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen fulfills a condition, and returns its text.
    #[track_caller]
    pub fn wait_screen(&mut self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(what, || {
                last = self.screen();
                condition(&last).then(|| last.clone())
            })
        }));
        found.unwrap_or_else(|_| panic!("{what} is not on the screen:\n{last}"))
    }

    #[track_caller]
    pub fn wait_shown(&mut self, text: &str) -> String {
        self.wait_screen(text, |screen| screen.contains(text))
    }

    pub fn mode(&self) -> Mode {
        // SAFETY: zeroes are a valid value of this type, and the descriptor is open.
        let settings = unsafe {
            let mut settings = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.slave.as_raw_fd(), &mut settings), 0);
            settings
        };
        let parser = self.screen.lock().unwrap();
        Mode {
            local_flags: settings.c_lflag,
            output_flags: settings.c_oflag,
            has_alternate_screen: parser.screen().alternate_screen(),
            has_hidden_cursor: parser.screen().hide_cursor(),
        }
    }

    pub fn signal(&self, signal: i32) {
        super::Process(self.child.id().cast_signed()).signal(signal);
    }

    /// Waits for the end of the program.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        wait_for("the end of the program", || self.child.try_wait().unwrap())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The reader ends when the other side is closed: that of the program, and this one.
        let null = File::open("/dev/null").unwrap();
        self.slave = null.into();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
