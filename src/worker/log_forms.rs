//! Records of `wsgi_log` in their forms: raw, as nginx's own, JSON.

use std::sync::Arc;
use std::time::SystemTime;

use nix::unistd::{Pid, getpid, gettid};
use serde::Serialize;

use crate::conf::log::{ApplicationLog, Form};
use crate::nginx::log::{Level, LocalTime, Printable};
use crate::nginx::log_target::Batch;
use crate::nginx::request::Request;
use crate::python::line::{TRACEBACK, decode};
use crate::python::log;

/// Record on its way to the log of an application.
pub struct ApplicationRecord {
    time: SystemTime,
    level: Level,
    thread: (Pid, String),
    application: Arc<str>,
    message: Vec<u8>,
    traceback: String,
}

/// Facts about a request in the records of an application.
#[derive(Debug, Default)]
pub struct LogContext {
    connection: u64,
    /// nginx's text about the request.
    text: String,
    id: Option<String>,
    method: String,
    path: String,
    client: String,
}

impl LogContext {
    /// Takes the facts that a log needs. On the event loop thread.
    pub fn of(request: Request, log: &ApplicationLog) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let connection = request.connection_number();
        match log.form {
            Form::Raw => Self::default(),
            Form::Nginx => Self { connection, text: request.log_context(), ..Self::default() },
            Form::Json => Self {
                connection,
                text: String::new(),
                id: request.log_id(log.request_id),
                method: text(request.method()),
                path: text(path_of(request.unparsed_uri())),
                client: text(request.remote_address()),
            },
        }
    }

    /// Returns the facts that are known without the request.
    pub fn of_connection(connection: u64) -> Self {
        Self { connection, ..Self::default() }
    }
}

/// Returns a request target without its query string, which may have secrets.
fn path_of(target: &[u8]) -> &[u8] {
    target.split(|byte| *byte == b'?').next().unwrap_or_default()
}

/// Divides text that was written to a stream into message and traceback. A traceback alone has the exception as its message.
fn divide(text: &str) -> (&str, &str) {
    let is_line = |start: &usize| {
        text[..*start].bytes().next_back().is_none_or(|byte| byte == b'\n')
            && text[start + TRACEBACK.len()..].starts_with('\n')
    };
    let Some(start) = text.match_indices(TRACEBACK).map(|(start, _)| start).find(is_line) else { return (text, "") };
    let (message, traceback) = text.split_at(start);
    let message = match message.trim_end_matches('\n') {
        "" => traceback.lines().rev().take_while(|line| !line.starts_with(' ')).last().unwrap_or_default(),
        message => message,
    };
    (message, traceback)
}

/// A line of the form JSON.
#[derive(Serialize)]
struct JsonRecord<'a> {
    time: String,
    level: &'static str,
    application: &'a str,
    process_group: &'a str,
    worker: i32,
    thread: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    traceback: &'a str,
}

impl ApplicationRecord {
    /// Makes a record of this moment and thread.
    pub fn new(record: log::Record, application: &Arc<str>) -> Self {
        Self {
            time: SystemTime::now(),
            level: record.level.into(),
            thread: (gettid(), log::thread_name()),
            application: application.clone(),
            message: record.message.to_owned(),
            traceback: record.traceback.to_owned(),
        }
    }

    /// Returns its size in bytes, about.
    pub fn size(&self) -> usize {
        self.message.len() + self.traceback.len()
    }

    /// Adds the record to `batch` in the form of `log`.
    pub fn write(&self, log: &ApplicationLog, context: Option<&LogContext>, batch: &mut Batch) {
        let mut text = Vec::with_capacity(self.size() + 256);
        match log.form {
            Form::Raw => self.write_raw(&mut text),
            Form::Nginx => self.write_as_nginx(context, &mut text),
            Form::Json => self.write_json(log, context, &mut text),
        }
        batch.push(self.level, &text);
    }

    fn write_raw(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(&self.message);
        text.push(b'\n');
        if !self.traceback.is_empty() {
            text.extend_from_slice(self.traceback.as_bytes());
            text.push(b'\n');
        }
    }

    /// Writes a record for each line. Only the first has the request's context, as in nginx's error log.
    fn write_as_nginx(&self, context: Option<&LogContext>, text: &mut Vec<u8>) {
        let time = LocalTime::of(self.time).in_records();
        let connection = context.map(|context| format!("*{} ", context.connection)).unwrap_or_default();
        let prefix = format!("{time} [{}] {}#{}: {connection}", self.level.name(), getpid(), self.thread.0);
        let whole = decode(&self.message);
        let traceback = (!self.traceback.is_empty()).then_some(self.traceback.as_str());
        let lines =
            whole.trim_end_matches('\n').split('\n').chain(traceback.into_iter().flat_map(|text| text.split('\n')));
        for (index, line) in lines.enumerate() {
            let end = context.filter(|_| index == 0).map_or("", |context| context.text.as_str());
            text.extend_from_slice(format!("{prefix}{}{end}\n", Printable(line)).as_bytes());
        }
    }

    fn write_json(&self, log: &ApplicationLog, context: Option<&LogContext>, text: &mut Vec<u8>) {
        let text_of_message = decode(&self.message);
        let (message, traceback) = match self.traceback.as_str() {
            "" => divide(text_of_message.trim_end_matches('\n')),
            traceback => (text_of_message.trim_end_matches('\n'), traceback),
        };
        let context_of = |part: fn(&LogContext) -> &String| {
            context.map(|context| part(context).as_str()).filter(|text| !text.is_empty())
        };
        let record = JsonRecord {
            time: LocalTime::of(self.time).iso_8601(),
            level: self.level.name(),
            application: &self.application,
            process_group: &log.group,
            worker: getpid().as_raw(),
            thread: &self.thread.1,
            connection: context.map(|context| context.connection),
            request_id: context.and_then(|context| context.id.as_deref()),
            method: context_of(|context| &context.method),
            path: context_of(|context| &context.path),
            client: context_of(|context| &context.client),
            message,
            traceback,
        };
        // Texts and numbers are always JSON.
        let _ = serde_json::to_writer(&mut *text, &record);
        text.push(b'\n');
    }
}
