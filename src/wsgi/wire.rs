//! Wire format of environ: the value of a request header, which carries it from the front to an instance.
//!
//! Entries begin with a separator and a tag. A name, where there is one, ends with a separator. Bytes that a header cannot
//! have, and those with a meaning here, are escaped in names and values. The last entry is empty, with a tag of its own, as
//! nginx removes spaces at the end of a header:
//!
//! ```text
//! SEPARATOR tag [name SEPARATOR] value … SEPARATOR END
//! ```
//!
//! Workers of an old configuration talk to instances of a new one, perhaps with a newer module: tags never change.

use super::params::{CgiParams, Key, Variable};

const SEPARATOR: u8 = 0x01;
const ESCAPE: u8 = 0x02;
/// What an escaped byte is increased by.
const SHIFT: u8 = 0x40;

const NAMED: u8 = b'=';
const HEADER: u8 = b':';
const END: u8 = b'.';

/// Error: the text is not in this format.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

fn is_escaped(byte: u8) -> bool {
    matches!(byte, 0 | SEPARATOR | ESCAPE | b'\r' | b'\n')
}

fn push_escaped(text: &mut Vec<u8>, mut bytes: &[u8]) {
    while let Some(position) = bytes.iter().position(|byte| is_escaped(*byte)) {
        text.extend_from_slice(&bytes[..position]);
        text.extend([ESCAPE, bytes[position] + SHIFT]);
        bytes = &bytes[position + 1..];
    }
    text.extend_from_slice(bytes);
}

/// Returns `part` without escapes, in `buffer` if it has any.
fn unescaped<'a>(part: &'a [u8], buffer: &'a mut Vec<u8>) -> Result<&'a [u8], Malformed> {
    let Some(mut position) = part.iter().position(|byte| *byte == ESCAPE) else { return Ok(part) };
    let mut rest = part;
    buffer.clear();
    loop {
        buffer.extend_from_slice(&rest[..position]);
        let byte = rest.get(position + 1).and_then(|byte| byte.checked_sub(SHIFT)).ok_or(Malformed)?;
        if !is_escaped(byte) {
            return Err(Malformed);
        }
        buffer.push(byte);
        rest = &rest[position + 2..];
        match rest.iter().position(|byte| *byte == ESCAPE) {
            Some(next) => position = next,
            None => break,
        }
    }
    buffer.extend_from_slice(rest);
    Ok(buffer)
}

/// Appends the entries of `params` to `text`.
pub fn encode(params: &CgiParams, text: &mut Vec<u8>) {
    text.reserve(params.len() + 256);
    for (key, value) in params.iter() {
        text.push(SEPARATOR);
        match key {
            Key::Variable(variable) => text.push(variable.tag()),
            Key::Named(name) => push_name(text, NAMED, name),
            Key::Header(name) => push_name(text, HEADER, name),
        }
        push_escaped(text, value);
    }
    text.extend([SEPARATOR, END]);
}

fn push_name(text: &mut Vec<u8>, tag: u8, name: &[u8]) {
    text.push(tag);
    push_escaped(text, name);
    text.push(SEPARATOR);
}

/// Adds the entries of `text` to `params`.
///
/// # Errors
/// The text is not in this format.
pub fn decode(text: &[u8], params: &mut CgiParams) -> Result<(), Malformed> {
    let mut parts = text.split(|byte| *byte == SEPARATOR);
    if parts.next() != Some(b"") {
        return Err(Malformed);
    }
    let (mut name_buffer, mut buffer) = (Vec::new(), Vec::new());
    loop {
        let (tag, rest) = parts.next().and_then(<[u8]>::split_first).ok_or(Malformed)?;
        match *tag {
            END => return if rest.is_empty() && parts.next().is_none() { Ok(()) } else { Err(Malformed) },
            NAMED | HEADER => {
                let name = unescaped(rest, &mut name_buffer)?;
                let value = unescaped(parts.next().ok_or(Malformed)?, &mut buffer)?;
                if *tag == NAMED {
                    params.set_named(name, value);
                } else {
                    params.add_header(name, value);
                }
            }
            tag => params.set(Variable::with_tag(tag).ok_or(Malformed)?, unescaped(rest, &mut buffer)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(set: impl FnOnce(&mut CgiParams)) -> Vec<u8> {
        let (mut params, mut text) = (CgiParams::default(), Vec::new());
        set(&mut params);
        encode(&params, &mut text);
        text
    }

    fn decoded(text: &[u8]) -> Result<CgiParams, Malformed> {
        let mut params = CgiParams::default();
        decode(text, &mut params).map(|()| params)
    }

    /// Asserts that the parameters arrive as they are, and that a header can carry them.
    fn assert_arrives(set: impl Fn(&mut CgiParams)) {
        let mut params = CgiParams::default();
        set(&mut params);
        let text = encoded(set);
        assert!(!text.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')));
        assert!(!text[0].is_ascii_whitespace() && !text.last().unwrap().is_ascii_whitespace());
        let arrived = decoded(&text).unwrap();
        assert!(arrived.has_keys_of(&params) && arrived.has_values_of(&params));
    }

    #[test]
    fn all_bytes_arrive() {
        let all: Vec<u8> = (0..=255).collect();
        assert_arrives(|params| {
            params.set(Variable::PathInfo, &all);
            params.set_named(&all, &all);
            params.add_header(&all, &all);
        });
        for byte in 0..=255 {
            assert_arrives(|params| {
                params.set(Variable::QueryString, &[byte]);
                params.set_named(&[byte], &[byte, byte]);
                params.add_header(&[byte], b"");
            });
        }
    }

    #[test]
    fn empty_and_repeated_values_arrive() {
        assert_arrives(|_| {});
        assert_arrives(|params| {
            params.set(Variable::QueryString, b"");
            params.set_named(b"", b"");
            params.set_named(b"A", b"1");
            params.set_named(b"A", b"2");
            params.add_header(b"Cookie", b"a");
            params.add_header(b"Cookie", b"b");
            params.set_number(Variable::ContentLength, u64::MAX);
            params.set(Variable::QueryString, b"again");
        });
    }

    #[test]
    fn the_format_does_not_change() {
        let text = encoded(|params| {
            for (index, variable) in Variable::all().iter().enumerate() {
                params.set_number(*variable, index as u64);
            }
            params.set_named(b"N", b"\0\r\n\x01\x02");
            params.add_header(b"X-H", b"h");
        });
        let expected: &[u8] =
            b"\x01M0\x01S1\x01P2\x01Q3\x01U4\x01s5\x01V6\x01N7\x01p8\x01D9\x01R10\x01r11\x01u12\x01a13\x01H14\
              \x01L15\x01w16\x01=N\x01\x02@\x02M\x02J\x02A\x02B\x01:X-H\x01h\x01.";
        assert_eq!(text, expected);
    }

    #[test]
    fn malformed_text_is_an_error() {
        let cases: [&[u8]; 18] = [
            b"",
            b"\x01",
            b"x",
            b"x\x01.",
            b"\x01M",
            b"\x01M1",
            b"\x01.\x01",
            b"\x01..",
            b"\x01.x",
            b"\x01?1\x01.",
            b"\x01=N",
            b"\x01=N\x01",
            b"\x01M\x02\x01.",
            b"\x01M\x02a\x01.",
            b"\x01M\x02\x00\x01.",
            b"\x01=\x02\x01v\x01.",
            b"\x01\x01.",
            b"\x01.\x01.",
        ];
        for case in cases {
            assert_eq!(decoded(case).err(), Some(Malformed), "{case:?}");
        }
        // All beginnings of a good text.
        let good = encoded(|params| {
            params.set(Variable::PathInfo, b"/\n");
            params.set_named(b"A\0", b"1");
            params.add_header(b"B", b"");
        });
        assert!((0..good.len()).all(|length| decoded(&good[..length]).is_err()));
        assert!(decoded(&good).is_ok());
    }
}
