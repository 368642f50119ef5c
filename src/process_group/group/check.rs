//! `nginx -t` of a group before a reload on command.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};

use super::Group;
use super::clients::Wait;
use crate::nginx::log::Level;
use crate::nginx::log_files::write_now as log;
use crate::os::spawn::End;
use crate::process_group::control::Response;
use crate::process_group::instance::start_check;

/// Time that `nginx -t` has, with the imports that it checks.
const CHECK_TIMEOUT: Duration = Duration::from_secs(120);

/// Size limit of the output of `nginx -t` in an answer.
const MAX_CHECK_OUTPUT: usize = 64 * 1024;

/// `nginx -t` before a reload.
pub(super) struct Check {
    pub(super) process: Pid,
    /// `None` after its end.
    output: Option<File>,
    text: Vec<u8>,
    pub(super) deadline: Instant,
}

impl Check {
    /// Kills a check that takes too long. Its end is noted as that of any other.
    pub(super) fn enforce_timeout(&mut self, now: Instant) {
        if self.deadline <= now {
            let _ = killpg(self.process, Signal::SIGKILL);
            self.deadline = now + CHECK_TIMEOUT;
        }
    }
}

impl Group {
    pub(super) fn start_check(&mut self) -> Result<(), String> {
        let open = || {
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
            fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            Ok((File::from(reader), writer))
        };
        let (output, writer) = open().map_err(|error: nix::Error| error.to_string())?;
        let pid_file = self.instances.iter().find(|known| known.number == 0).map_or(0, |first| first.pid_file);
        self.write_configuration(0, pid_file).map_err(|error| error.to_string())?;
        let (Some(socket), Some(scoreboard), Some(logs)) = (&self.socket, &self.scoreboard, &self.logs) else {
            return Err("is stopped".to_owned());
        };
        let inherited = self.inherited(socket, scoreboard, logs, writer.as_fd());
        let process = start_check(&self.plan, &self.directory, inherited).map_err(|error| error.to_string())?;
        self.check =
            Some(Check { process, output: Some(output), text: Vec::new(), deadline: Instant::now() + CHECK_TIMEOUT });
        Ok(())
    }

    /// Returns the output of the check that runs, until its end.
    pub fn check_output(&self) -> Option<&File> {
        self.check.as_ref().and_then(|check| check.output.as_ref())
    }

    /// Reads the output of the check.
    pub fn read_check_output(&mut self) {
        let Some(check) = &mut self.check else { return };
        let mut buffer = [0; 16 * 1024];
        while let Some(output) = &mut check.output
            && let Ok(length) = output.read(&mut buffer)
        {
            if length == 0 {
                check.output = None;
            }
            let room = MAX_CHECK_OUTPUT.saturating_sub(check.text.len());
            check.text.extend_from_slice(&buffer[..length.min(room)]);
        }
    }

    pub(super) fn finish_check(&mut self, end: End) {
        self.read_check_output();
        let Some(check) = self.check.take() else { return };
        // What the check has started.
        let _ = killpg(check.process, Signal::SIGKILL);
        let response = if end != End::Code(0) {
            let output = String::from_utf8_lossy(&check.text);
            Response::failed(format!("nginx -t exited {end}:\n{}", output.trim_end()))
        } else if self.instances.is_empty() {
            Response::failed("is stopped")
        } else {
            log(Level::Notice, &format!("wsgi: reloading process group \"{}\" on command", self.name()));
            match self.reload(|_| true) {
                Ok(()) => Response::ok("reloading"),
                Err(error) => Response::failed(self.reload_failure(&error)),
            }
        };
        self.answer(Wait::Check, &response);
    }
}
