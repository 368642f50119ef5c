//! Files with environment variables: `wsgi_env_file`, and `env_file=` of a process group.
//!
//! nginx reads them as the user that started it, so that they may be readable for root alone. A message never shows a
//! value.

use std::fs;
use std::path::Path;

/// Reads the variables of a file: lines `NAME=value`. A value may stand in quotes. Empty lines and lines that begin with
/// `#` are skipped.
///
/// # Errors
/// If the file cannot be read or has another line; the message names file and line, without the text.
pub fn read(path: &Path) -> Result<Vec<(String, String)>, String> {
    let shown = path.display();
    let bytes = fs::read(path).map_err(|error| format!("cannot read the environment file \"{shown}\": {error}"))?;
    // The error of the standard library shows no text either, but no line.
    let text = String::from_utf8(bytes).map_err(|_| format!("environment file \"{shown}\" is not UTF-8"))?;
    let mut variables = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match parse(line) {
            Line::Skipped => {}
            Line::Variable(name, value) => variables.push((name.to_owned(), value.to_owned())),
            Line::Other => return Err(format!("{shown}:{} is not an assignment NAME=value", index + 1)),
        }
    }
    Ok(variables)
}

/// Returns the variables of a file, with those of directives in their place: each name once.
pub fn merged(file: &[(String, String)], directives: &[(String, String)]) -> Vec<(String, String)> {
    let mut merged: Vec<(String, String)> = Vec::new();
    for (name, value) in file.iter().chain(directives) {
        match merged.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.clone_from(value),
            None => merged.push((name.clone(), value.clone())),
        }
    }
    merged
}

#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Skipped,
    Variable(&'a str, &'a str),
    Other,
}

fn parse(line: &str) -> Line<'_> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Line::Skipped;
    }
    match line.split_once('=') {
        Some((name, value)) if is_name(name) && !value.contains('\0') => Line::Variable(name, unquoted(value)),
        _ => Line::Other,
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
}

/// Removes a pair of quotes around a value.
fn unquoted(value: &str) -> &str {
    ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_and_others_refused() {
        for (line, expected) in [
            ("A=b", Line::Variable("A", "b")),
            ("  _a1=x = y \r", Line::Variable("_a1", "x = y")),
            ("A=", Line::Variable("A", "")),
            ("A=\"b # c\"", Line::Variable("A", "b # c")),
            ("A='b\"'", Line::Variable("A", "b\"")),
            ("A=\"b", Line::Variable("A", "\"b")),
            ("A=\"", Line::Variable("A", "\"")),
            ("# A=b", Line::Skipped),
            ("", Line::Skipped),
            ("A", Line::Other),
            ("=b", Line::Other),
            ("A B=c", Line::Other),
            ("1A=b", Line::Other),
            ("export A=b", Line::Other),
            ("A=\0", Line::Other),
        ] {
            assert_eq!(parse(line), expected, "{line:?}");
        }
    }

    #[test]
    fn messages_show_no_value() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"# comment\nA=b\nsecret\n").unwrap();
        let message = read(file.path()).unwrap_err();
        assert!(message.ends_with(":3 is not an assignment NAME=value"), "{message}");
        assert!(!message.contains("secret"), "{message}");
        let message = read(Path::new("/nonexistent")).unwrap_err();
        assert!(message.starts_with("cannot read the environment file \"/nonexistent\": No such file"), "{message}");
    }

    #[test]
    fn directives_win_over_the_file() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let merged = merged(&pairs(&[("A", "1"), ("B", "2"), ("A", "3")]), &pairs(&[("B", "4"), ("C", "5")]));
        assert_eq!(merged, pairs(&[("A", "3"), ("B", "4"), ("C", "5")]));
    }
}
