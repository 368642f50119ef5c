//! The line that a thread is writing: text and bytes up to the next newline, never cut within a character.

/// A line without an end is logged in pieces of this many bytes, so that it does not grow without bound.
const LONGEST: usize = 64 * 1024;

/// What has been written since the last newline.
#[derive(Debug, Default)]
pub struct Line(Vec<u8>);

impl Line {
    /// An empty line.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds what was written. Returns what can be logged: all lines that are whole, or a piece of one that grows too long.
    pub fn add(&mut self, bytes: &[u8]) -> Option<String> {
        let start = self.0.len();
        self.0.extend_from_slice(bytes);
        let end = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => start + newline + 1,
            None if self.0.len() > LONGEST => self.end_of_characters(),
            None => return None,
        };
        Some(self.take(end))
    }

    /// Takes all characters that are complete; the beginning of another stays.
    pub fn take_characters(&mut self) -> Option<String> {
        let end = self.end_of_characters();
        (end > 0).then(|| self.take(end))
    }

    /// Takes all there is.
    pub fn take_all(&mut self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.take(self.0.len()))
    }

    fn take(&mut self, end: usize) -> String {
        let rest = self.0.split_off(end);
        decode(&std::mem::replace(&mut self.0, rest))
    }

    /// Where the beginning of a character starts whose end has not come; the length where there is none.
    fn end_of_characters(&self) -> usize {
        const LONGEST_CHARACTER: usize = 4;
        let length = self.0.len();
        let unfinished = (1..LONGEST_CHARACTER.min(length + 1)).find(|count| {
            let end = str::from_utf8(&self.0[length - count..]);
            end.is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        });
        length - unfinished.unwrap_or(0)
    }
}

/// Text of bytes, as Python decodes with `backslashreplace`.
fn decode(bytes: &[u8]) -> String {
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

    #[test]
    fn lines_are_given_when_they_are_whole() {
        let mut line = Line::new();
        assert_eq!(line.add(b"a"), None);
        assert_eq!(line.add(b"b\nc\nd").as_deref(), Some("ab\nc\n"));
        assert_eq!(line.take_all().as_deref(), Some("d"));
        assert_eq!(line.take_all(), None);
    }

    #[test]
    fn a_character_may_come_in_pieces() {
        for character in ["ä", "€", "🐍"] {
            let mut line = Line::new();
            for byte in character.as_bytes() {
                assert_eq!(line.take_characters(), None);
                assert_eq!(line.add(&[*byte]), None);
            }
            assert_eq!(line.take_characters().as_deref(), Some(character));
        }
    }

    #[test]
    fn bytes_that_are_no_character_are_escaped() {
        let mut line = Line::new();
        assert_eq!(line.add(b"a\xff\xe2\x82b\n").as_deref(), Some("a\\xff\\xe2\\x82b\n"));
        assert_eq!(line.add(b"c\xff"), None);
        assert_eq!(line.take_characters().as_deref(), Some("c\\xff"));
        assert_eq!(line.add(b"\xe2\x82"), None);
        assert_eq!(line.take_all().as_deref(), Some("\\xe2\\x82"));
    }

    #[test]
    fn a_line_without_an_end_is_cut_between_characters() {
        let mut line = Line::new();
        let text = format!("a{}", "ä".repeat(LONGEST / 2 + 1));
        let (first, last) = text.as_bytes().split_at(LONGEST + 2);
        assert_eq!(line.add(first), Some(text[..LONGEST + 1].to_owned()));
        assert_eq!(line.add(last), None);
        assert_eq!(line.take_all().as_deref(), Some("ä"));
    }
}
