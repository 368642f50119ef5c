//! The reporter of a worker: a thread that says what the worker does, also while its event loop is blocked.
//!
//! A client sends one line, `details` or `stack NUMBER`, and gets JSON. No client can make another one wait for long.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

use super::report::WorkerDetails;

/// Time that a client has for its line, and for each part of the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest line.
const MAX_LINE: usize = 64;

/// Number of clients at the same time. Further ones are turned away.
const MAX_CLIENTS: usize = 16;

/// Number of those that may wait for a stack: a call in C code may hold the GIL for long.
const MAX_STACKS: usize = 4;

/// What a worker knows about itself. Used by other threads than that of the event loop.
pub trait Facts: Send + Sync + 'static {
    /// Returns what the worker does now. Never waits for the event loop or for Python.
    fn details(&self) -> WorkerDetails;

    /// Returns the Python stack of a call, `None` if it does not run. Waits for the GIL.
    fn stack(&self, call: u64) -> Option<String>;
}

/// Returns the address of a reporter. Nobody can guess the random token, and the name goes with the process.
///
/// # Errors
/// None, as the name is short.
pub fn address(token: u64) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("ngx-wsgi-status-{token:016x}"))
}

/// Starts the reporter of this process. It answers root, the user of this process, and `reader`, if there is one.
///
/// # Errors
/// If there is no descriptor or thread left.
pub fn start(token: u64, reader: Option<u32>, facts: Arc<impl Facts>) -> io::Result<()> {
    let socket = UnixListener::bind_addr(&address(token)?)?;
    let reporter = Arc::new(Reporter { facts, reader, clients: AtomicUsize::new(0), stacks: AtomicUsize::new(0) });
    thread::Builder::new().name("wsgi-status".to_owned()).spawn(move || reporter.run(&socket))?;
    Ok(())
}

struct Reporter<F> {
    facts: Arc<F>,
    reader: Option<u32>,
    clients: AtomicUsize,
    stacks: AtomicUsize,
}

/// One of a limited number.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let counted = Self(count);
        (before < limit).then_some(counted)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<F: Facts> Reporter<F> {
    /// Serves clients, each on a thread of its own, for the life of the process.
    fn run(self: Arc<Self>, socket: &UnixListener) {
        loop {
            let Ok((client, _)) = socket.accept() else {
                // Without a descriptor for the client, which stays in the backlog.
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            if !self.may_ask(&client) {
                continue;
            }
            let reporter = self.clone();
            // A client that gets no thread gets no answer.
            let _ = thread::Builder::new().name("wsgi-status".to_owned()).spawn(move || {
                if let Some(_counted) = Counted::new(&reporter.clients, MAX_CLIENTS) {
                    // A client that is gone or too slow.
                    let _ = reporter.serve(client);
                }
            });
        }
    }

    fn may_ask(&self, client: &UnixStream) -> bool {
        let peer = getsockopt(client, PeerCredentials).map(|peer| peer.uid());
        peer.is_ok_and(|uid| uid == 0 || uid == geteuid().as_raw() || Some(uid) == self.reader)
    }

    fn serve(&self, mut client: UnixStream) -> io::Result<()> {
        client.set_read_timeout(Some(CLIENT_TIMEOUT))?;
        client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
        let line = read_line(&mut client)?;
        let answer = match line.trim_ascii().strip_prefix(b"stack ") {
            Some(number) => {
                let number = str::from_utf8(number).ok().and_then(|number| number.parse().ok());
                let stack = number.and_then(|number| {
                    let _counted = Counted::new(&self.stacks, MAX_STACKS)?;
                    self.facts.stack(number)
                });
                serde_json::to_vec(&StackAnswer { stack })?
            }
            None if line.trim_ascii() == b"details" => serde_json::to_vec(&self.facts.details())?,
            None => return Ok(()),
        };
        client.write_all(&answer)
    }
}

/// Answer to `stack`.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct StackAnswer {
    pub stack: Option<String>,
}

/// Reads up to the end of a line.
fn read_line(client: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut buffer = [0; MAX_LINE];
    while !line.contains(&b'\n') && line.len() <= MAX_LINE {
        match client.read(&mut buffer)? {
            0 => break,
            length => line.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(line)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::os::system;

    struct Known;

    impl Facts for Known {
        fn details(&self) -> WorkerDetails {
            WorkerDetails { memory: 7, ..WorkerDetails::default() }
        }

        fn stack(&self, call: u64) -> Option<String> {
            (call == 3).then(|| "the stack".to_owned())
        }
    }

    #[test]
    fn a_line_gets_an_answer() {
        let token = system::random();
        start(token, None, Arc::new(Known)).unwrap();
        for (line, expected) in [
            ("stack 3\n", "{\"stack\":\"the stack\"}"),
            ("stack 4\r\n", "{\"stack\":null}"),
            ("stack x\n", "{\"stack\":null}"),
            ("other\n", ""),
            ("a line that is longer than any command could be, and so it is not read to its end by the reporter", ""),
        ] {
            let mut client = UnixStream::connect_addr(&address(token).unwrap()).unwrap();
            client.write_all(line.as_bytes()).unwrap();
            let mut answer = String::new();
            // The reporter may close the connection before it has read the whole line.
            let _ = client.read_to_string(&mut answer);
            assert_eq!(answer, expected, "{line}");
        }
        let mut client = UnixStream::connect_addr(&address(token).unwrap()).unwrap();
        client.write_all(b"details\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(serde_json::from_str::<WorkerDetails>(&answer).unwrap(), Known.details());
    }
}
