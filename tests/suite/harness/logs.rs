//! nginx's logs: all lines, or those that concern one of several clients.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

pub struct Logs {
    directory: PathBuf,
    /// Whose lines are read, if nginx has other clients besides.
    client: Option<LoggedClient>,
}

/// One of several clients.
struct LoggedClient {
    address: String,
    /// The size of the error log when the client was new.
    error_log_start: u64,
    /// A file with the numbers of its connections. Not every line of the error log names the client.
    connections: PathBuf,
}

/// Distinguishes the lines of a client from those of others.
pub struct LineFilter {
    address: String,
    connections: HashSet<String>,
}

impl Logs {
    /// The logs of the nginx below `prefix`.
    pub fn new(prefix: &Path) -> Logs {
        Logs { directory: prefix.join("logs"), client: None }
    }

    /// The same for one client, whose connections are listed in a file.
    pub fn of_client(prefix: &Path, address: Ipv4Addr, connections: PathBuf) -> Logs {
        let mut logs = Logs::new(prefix);
        let error_log_start = fs::metadata(logs.directory.join("error.log")).map_or(0, |log| log.len());
        logs.client = Some(LoggedClient { address: address.to_string(), error_log_start, connections });
        logs
    }

    /// The filter for the lines of the client, if there are others.
    pub fn filter(&self) -> Option<LineFilter> {
        let client = self.client.as_ref()?;
        let connections = read(&client.connections).lines().map(str::to_owned).collect();
        Some(LineFilter { address: client.address.clone(), connections })
    }

    /// The error log, without the lines of other clients.
    pub fn error_log(&self) -> String {
        let start = self.client.as_ref().map_or(0, |client| client.error_log_start);
        let text = read_from(&self.directory.join("error.log"), start);
        // Read after the log: a connection is listed before it has a line there.
        let Some(filter) = self.filter() else { return text };
        let lines = text.lines().filter(|line| connection(line).is_none() || filter.includes(line));
        lines.flat_map(|line| [line, "\n"]).collect()
    }

    /// The lines of the access log: `STATUS METHOD URI BYTES CLIENT`.
    pub fn access_log(&self) -> Vec<String> {
        let text = read(&self.directory.join("access.log"));
        let address = self.client.as_ref().map_or("", |client| &client.address);
        text.lines().filter(|line| line.ends_with(address)).map(str::to_owned).collect()
    }
}

impl LineFilter {
    /// Returns whether a line of the error log is about a connection of the client.
    pub fn includes(&self, line: &str) -> bool {
        connection(line).is_some_and(|number| self.connections.contains(number))
            || line.split([' ', ',']).any(|word| word == self.address)
    }
}

/// The number of the connection in `DATE TIME [LEVEL] PID#TID: *NUMBER TEXT`.
fn connection(line: &str) -> Option<&str> {
    line.split(' ').nth(4)?.strip_prefix('*')
}

/// The text of a file; empty if there is none.
pub fn read(path: &Path) -> String {
    read_from(path, 0)
}

fn read_from(path: &Path, offset: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path)
        && file.seek(SeekFrom::Start(offset)).is_ok()
    {
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
