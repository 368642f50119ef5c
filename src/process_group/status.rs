//! The status socket of the supervisor: what the workers of the front show about all groups.
//!
//! A client sends nothing. It gets lines with a JSON list of groups, each with the files of their boards, in the same order.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::group::Group;
use crate::os::file_passing::{self, MAX_FILES};
use crate::os::memory_file::read_only;
use crate::os::run_directory;
use crate::status::groups::GroupStatus;

/// The status socket.
pub struct StatusSocket(UnixListener);

impl StatusSocket {
    /// Opens the socket, in place of an earlier one.
    ///
    /// # Errors
    /// As of the system.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let path = run_directory::status_socket(directory);
        run_directory::listen_to_front(directory, &path).map(Self)
    }

    /// Answers a client, without waiting: one that does not receive gets less.
    pub fn answer(&self, groups: &mut [Group]) {
        let Ok((client, _)) = self.0.accept() else { return };
        for groups in groups.chunks_mut(MAX_FILES) {
            let boards = groups.iter().map(|group| group.status_board().and_then(|file| read_only(file).ok()));
            let boards: Vec<Option<File>> = boards.collect();
            let statuses = groups.iter_mut().zip(&boards).map(|(group, board)| {
                let has_board = board.is_some();
                GroupStatus { has_board, ..group.status_for_front() }
            });
            let statuses: Vec<GroupStatus> = statuses.collect();
            let files: Vec<_> = boards.iter().flatten().map(AsFd::as_fd).collect();
            let mut line = serde_json::to_vec(&statuses).unwrap_or_default();
            line.push(b'\n');
            if file_passing::send(&client, &line, &files).is_ok_and(|sent| sent == line.len()) {
                continue;
            }
            return;
        }
    }
}

impl AsFd for StatusSocket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
