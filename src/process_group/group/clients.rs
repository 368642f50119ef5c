//! Clients of a group: those of its control socket, and the front, which asks for its status.

use std::os::unix::net::UnixListener;

use nix::unistd::{Pid, geteuid};

use super::{Group, Mode, START_TIME};
use crate::nginx::log::Level;
use crate::nginx::log_files::write_now as log;
use crate::os::{run_directory, system};
use crate::process_group::control::{Client, Command, MAX_CLIENTS, ProcessStatus, Response, Status};
use crate::process_group::log_relay::Relay;
use crate::status::groups::GroupStatus;

/// What a client waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Check,
    Stop,
}

impl Group {
    pub fn control(&self) -> Option<&UnixListener> {
        self.control.as_ref()
    }

    pub fn accept(&mut self) {
        if let Some(control) = &self.control {
            let client = Client::accept(control, self.plan.process.user.as_ref());
            // The group's user cannot keep root from its turn.
            let of_user = |client: &Client| !client.is_root();
            let others = self.clients.iter().filter(|(client, _)| of_user(client)).count();
            let client = client.filter(|client| client.is_root() || others < MAX_CLIENTS);
            self.clients.extend(client.map(|client| (client, None)));
        }
    }

    /// Returns the clients that send or receive something. Others wait.
    pub fn clients(&self) -> impl Iterator<Item = (usize, &Client)> {
        self.clients.iter().map(|(client, _)| client).enumerate().filter(|(_, client)| !client.is_waiting())
    }

    /// Reads from a client or writes to it.
    pub fn serve(&mut self, index: usize, relays: &mut Vec<Relay>) {
        let client = &mut self.clients[index].0;
        client.write();
        if let Some(command) = client.read() {
            match self.obey(command, relays) {
                Ok(response) => self.clients[index].0.respond(&response),
                Err(wait) => self.clients[index].1 = Some(wait),
            }
        }
    }

    /// Runs a command. Returns the answer, or what the client has to wait for.
    fn obey(&mut self, command: Command, relays: &mut Vec<Relay>) -> Result<Response, Wait> {
        let answer = |result: Result<(), String>, message: &str| match result {
            Ok(()) => Response::ok(message),
            Err(error) => Response::failed(error),
        };
        match command {
            Command::Status => {
                let status = self.status();
                Ok(Response { ok: true, message: status.state.to_owned(), group: Some(status) })
            }
            Command::Stop => {
                log(Level::Notice, &format!("wsgi: stopping process group \"{}\" on command", self.name()));
                self.mode = Mode::Stopped;
                self.stop_all(Some(self.plan.stop_timeout));
                self.close_socket();
                Err(Wait::Stop)
            }
            Command::Start if self.has_first() => Ok(Response::ok("is running already")),
            Command::Start => {
                self.mode = Mode::Running;
                self.backoff.reset();
                self.answer(Wait::Stop, &Response::failed("was started again"));
                Ok(answer(self.start(relays), "started"))
            }
            Command::Reload => match self.mode {
                Mode::Stopped | Mode::Removed => Ok(Response::failed("is stopped")),
                Mode::Idle => Ok(Response::ok("is idle, and will start with the new code")),
                Mode::Running if !self.has_first() => {
                    self.backoff.reset();
                    Ok(answer(self.start(relays), "started"))
                }
                Mode::Running if self.check.is_some() => Ok(Response::failed("another reload is under way")),
                Mode::Running => match self.start_check() {
                    Ok(()) => Err(Wait::Check),
                    Err(error) => Ok(Response::failed(error)),
                },
            },
        }
    }

    /// Answers all clients that wait for this.
    pub(super) fn answer(&mut self, wait: Wait, response: &Response) {
        for (client, waiting) in &mut self.clients {
            if *waiting == Some(wait) {
                *waiting = None;
                client.respond(response);
            }
        }
    }

    /// Returns what the workers of the front show about the group, without its board.
    pub fn status_for_front(&mut self) -> GroupStatus {
        let Status { name, state, restarts, user, .. } = self.status();
        GroupStatus {
            name,
            user,
            uid: self.plan.process.user.as_ref().map_or_else(|| geteuid().as_raw(), |user| user.uid),
            state: state.to_owned(),
            workers: self.instances.iter().map(|instance| instance.workers().len() as u64).sum(),
            restarts,
            has_board: false,
        }
    }

    fn status(&mut self) -> Status {
        let totals = self.totals();
        let state = match self.mode {
            Mode::Stopped | Mode::Removed => "stopped",
            Mode::Idle => "idle",
            Mode::Running => match self.instances.first().filter(|_| self.has_first()) {
                None => "waiting to restart",
                Some(first) if totals.workers == 0 && first.started.elapsed() < START_TIME => "starting",
                Some(_) => "running",
            },
        };
        let processes = self.instances.iter().map(|instance| ProcessStatus {
            master: instance.master.as_raw(),
            workers: instance.workers().into_iter().map(Pid::as_raw).collect(),
            uptime: instance.started.elapsed().as_secs(),
        });
        let user = self.plan.process.user.as_ref().map(|user| user.name.clone());
        Status {
            name: self.plan.name.clone(),
            state,
            processes: processes.collect(),
            restarts: self.restarts,
            requests: totals.requests,
            busy: totals.busy,
            waiting: totals.waiting,
            user: user.or_else(|| system::user().map(|(name, _)| name)).unwrap_or_default(),
            socket: run_directory::socket(&self.directory, self.name()).to_string_lossy().into_owned(),
        }
    }
}
