//! The incomplete line of a thread: text and bytes up to the next newline, never split within a character. Of a log that keeps
//! them together, also the lines of an incomplete traceback.

/// The maximum length of a line in bytes; a longer one is logged in pieces.
pub const MAX_LENGTH: usize = 64 * 1024;

/// The same for logs that keep lines whole: a thread must not use up the memory of its process.
pub const MAX_WHOLE_LENGTH: usize = 4 * 1024 * 1024;

/// First line of a traceback, as Python prints it.
pub const TRACEBACK: &str = "Traceback (most recent call last):";

/// The bytes written since the last newline, or since the beginning of a traceback.
#[derive(Debug, Default)]
pub struct Line {
    bytes: Vec<u8>,
    /// Number of bytes of complete lines, of a traceback that is not.
    traceback: usize,
}

impl Line {
    /// Creates an empty line.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), traceback: 0 }
    }

    /// Returns whether there is no incomplete line.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds bytes. Returns the text that can be logged: all complete lines, or a piece of a line that is longer than `max`.
    pub fn add(&mut self, bytes: &[u8], max: usize) -> Option<Vec<u8>> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let end = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => start + newline + 1,
            None if self.bytes.len() > max => self.end_of_characters(),
            None => return None,
        };
        Some(self.take(end))
    }

    /// Adds bytes as [`Self::add`] does, but returns a traceback, which Python prints in many pieces, only at its end.
    pub fn add_whole(&mut self, bytes: &[u8], max: usize) -> Option<Vec<u8>> {
        let start = self.traceback;
        if let Some(newline) = bytes.iter().rposition(|byte| *byte == b'\n') {
            let end = self.bytes.len() + newline + 1;
            let is_first = |line: &[u8]| line.strip_suffix(b"\n") == Some(TRACEBACK.as_bytes());
            let is_in_traceback = [&self.bytes[start..], &bytes[..=newline]]
                .concat()
                .split_inclusive(|byte| *byte == b'\n')
                .fold(start > 0, |is_in, line| is_first(line) || is_in && line.starts_with(b" "));
            if is_in_traceback && end <= max {
                self.bytes.extend_from_slice(bytes);
                self.traceback = end;
                return None;
            }
        }
        self.add(bytes, max)
    }

    /// Takes all complete characters; the beginning of another one stays.
    pub fn take_characters(&mut self) -> Option<Vec<u8>> {
        let end = self.end_of_characters();
        (end > 0).then(|| self.take(end))
    }

    /// Takes all bytes.
    pub fn take_all(&mut self) -> Option<Vec<u8>> {
        (!self.bytes.is_empty()).then(|| self.take(self.bytes.len()))
    }

    fn take(&mut self, end: usize) -> Vec<u8> {
        self.traceback = 0;
        let rest = self.bytes.split_off(end);
        std::mem::replace(&mut self.bytes, rest)
    }

    /// Returns the index of an incomplete character at the end, or the length if there is none.
    fn end_of_characters(&self) -> usize {
        const MAX_CHARACTER: usize = 4;
        let length = self.bytes.len();
        let unfinished = (1..MAX_CHARACTER.min(length + 1)).find(|count| {
            let end = str::from_utf8(&self.bytes[length - count..]);
            end.is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        });
        length - unfinished.unwrap_or(0)
    }
}

/// Decodes bytes as Python does with `backslashreplace`.
pub fn decode(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(line: &mut Line, bytes: &[u8]) -> Option<String> {
        line.add(bytes, MAX_LENGTH).map(|bytes| decode(&bytes))
    }

    fn decoded(bytes: Option<Vec<u8>>) -> Option<String> {
        bytes.map(|bytes| decode(&bytes))
    }

    #[test]
    fn lines_are_returned_when_they_are_complete() {
        let mut line = Line::new();
        assert_eq!(add(&mut line, b"a"), None);
        assert_eq!(add(&mut line, b"b\nc\nd").as_deref(), Some("ab\nc\n"));
        assert_eq!(decoded(line.take_all()).as_deref(), Some("d"));
        assert_eq!(decoded(line.take_all()), None);
    }

    #[test]
    fn a_traceback_stays_whole() {
        let mut line = Line::new();
        let mut whole = |bytes: &[u8]| line.add_whole(bytes, 200).map(|bytes| decode(&bytes));
        assert_eq!(whole(b"one\n").as_deref(), Some("one\n"));
        assert_eq!(whole(b"Traceback (most recent"), None);
        assert_eq!(whole(b" call last):\n"), None);
        assert_eq!(whole(b"  File\n    x = 1"), None);
        assert_eq!(whole(b"\n"), None);
        assert_eq!(whole(b"ValueError: "), None);
        let text = "Traceback (most recent call last):\n  File\n    x = 1\nValueError: no\n";
        assert_eq!(whole(b"no\n").as_deref(), Some(text));
        assert_eq!(whole(b" two\n").as_deref(), Some(" two\n"));
        // In one piece, with the text before.
        let text = format!("message\n{text}");
        assert_eq!(whole(text.as_bytes()), Some(text));
        // Not without an end.
        assert_eq!(whole(b"Traceback (most recent call last):\n"), None);
        assert!(whole(format!("  {}\n", "x".repeat(200)).as_bytes()).is_some());
    }

    #[test]
    fn a_character_may_come_in_pieces() {
        for character in ["ä", "€", "🐍"] {
            let mut line = Line::new();
            for byte in character.as_bytes() {
                assert_eq!(decoded(line.take_characters()), None);
                assert_eq!(add(&mut line, &[*byte]), None);
            }
            assert_eq!(decoded(line.take_characters()).as_deref(), Some(character));
        }
    }

    #[test]
    fn invalid_bytes_are_escaped() {
        let mut line = Line::new();
        assert_eq!(add(&mut line, b"a\xff\xe2\x82b\n").as_deref(), Some("a\\xff\\xe2\\x82b\n"));
        assert_eq!(add(&mut line, b"c\xff"), None);
        assert_eq!(decoded(line.take_characters()).as_deref(), Some("c\\xff"));
        assert_eq!(add(&mut line, b"\xe2\x82"), None);
        assert_eq!(decoded(line.take_all()).as_deref(), Some("\\xe2\\x82"));
    }

    #[test]
    fn a_line_without_an_end_is_split_between_characters() {
        let mut line = Line::new();
        let text = format!("a{}", "ä".repeat(MAX_LENGTH / 2 + 1));
        let (first, last) = text.as_bytes().split_at(MAX_LENGTH + 2);
        assert_eq!(add(&mut line, first), Some(text[..MAX_LENGTH + 1].to_owned()));
        assert_eq!(add(&mut line, last), None);
        assert_eq!(decoded(line.take_all()).as_deref(), Some("ä"));
    }
}
