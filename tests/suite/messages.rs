//! docs/messages.md has each message of the module, and nothing else.
//!
//! A message is a literal of at least two words in `src`: in Rust outside of tests, assertions and attributes (but for
//! `#[error("…")]`), in Python outside of docstrings. Both are read by parsers, so no source has to mark its messages.
//!
//! The level on the page, or the exception, is compared where the source shows it: in a call with a `Level` among its
//! arguments, in `log::error`, `emerg`, `emerg_here`, `new_err` and `raise`, be the text in the call or in a variable; and
//! in all of `src/conf`, whose errors end the reading of the configuration. It is not compared for `#[error("…")]`, and
//! where a text goes to another function that logs or raises it.

use crate::harness::{PYTHON, Page, in_repository};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Literals of two words or more that no log and no exception shows.
const NO_MESSAGES: &[&str] = &[
    "text/plain; charset=utf-8",
    "(the location's prefix)",
    "wsgi check process",
    "wsgi preflight process",
    "wsgi supervisor",
    "wsgi scoreboard",
    "wsgi status",
    "# Written by the wsgi supervisor of nginx, which replaces and removes this file.",
    "ngx_wsgi shutdown",
    "The nginx worker that this code runs in.",
    "<ngx_wsgi log stream '…'>",
    "<frozen importlib.",
    "reload refused: …",
    "Traceback (most recent call last):",
    "exec(source) or '…'",
    "upstream … { server … max_fails=0; keepalive …; }",
    ", client: …, request: \"…\"",
    "nginx: [emerg] wsgi_process_group \"…\" in …: …",
    "with exit code 0",
    "configuration file",
    "the configuration file",
    "proxy_pass http://wsgi.…; proxy_http_version 1.1; proxy_redirect off; proxy_pass_request_headers off; \
     proxy_set_header Connection \"\"; proxy_set_header Host …; proxy_set_header Content-Length $wsgi_content_length; \
     proxy_set_header Wsgi-Environ $wsgi_environ;",
];

/// Sources with texts that are no messages: the page that shows an exception, the configuration of an instance, the headers
/// of the status page, and the descriptions of metrics.
const NO_MESSAGE_SOURCES: [&str; 4] = [
    "src/wsgi/debug_page.rs",
    "src/process_group/configuration.rs",
    "src/http/status/format.rs",
    "src/status/openmetrics.rs",
];

/// Stands for the variable parts of a message.
const VARIABLE: char = '…';

/// A literal of the sources, with its variable parts replaced.
struct Text {
    file: PathBuf,
    text: String,
    /// Level or exception, as on the page; `None` if the source does not show it.
    level: Option<String>,
}

/// Returns the fixed parts of a text.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(VARIABLE).filter(|part| !part.is_empty())
}

/// Returns the byte ranges of the occurrences of `part` that do not begin or end inside a word of `message`.
fn occurrences(part: &str, message: &str) -> impl Iterator<Item = Range<usize>> {
    let is_in_a_word = |index: usize| {
        let (before, after) = (message[..index].chars().next_back(), message[index..].chars().next());
        before.zip(after).is_some_and(|(before, after)| before.is_alphabetic() && after.is_alphabetic())
    };
    let ranges = message.match_indices(part).map(|(start, part)| start..start + part.len());
    ranges.filter(move |range| !is_in_a_word(range.start) && !is_in_a_word(range.end))
}

/// Returns whether the fixed parts of `text` are in `message`, in their order.
fn is_part(text: &str, message: &str) -> bool {
    let after = |end: usize, part| occurrences(part, message).find(|range| range.start >= end).map(|range| range.end);
    parts(text).try_fold(0, after).is_some()
}

/// Returns whether the texts of a source are no messages.
fn is_without_messages(source: &Path) -> bool {
    NO_MESSAGE_SOURCES.iter().any(|path| source.ends_with(path))
}

/// Returns whether a literal is a message, or a part that has to be documented.
fn is_message(text: &str) -> bool {
    let words = text.split([' ', VARIABLE]).filter(|word| word.contains(char::is_alphabetic));
    text.contains(' ') && words.count() > 1
}

/// Replaces what `format!` replaces.
fn without_arguments(format: &str) -> String {
    let mut text = String::new();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '{' | '}' if characters.peek() == Some(&character) => text.extend(characters.next()),
            '{' => {
                // A text without arguments may have a single brace.
                characters.by_ref().find(|character| *character == '}');
                text.push(VARIABLE);
            }
            other => text.push(other),
        }
    }
    text
}

/// The literals of a Rust source with their levels, and the modules that it declares for tests alone.
#[derive(Default)]
struct RustSource {
    literals: Vec<(String, Option<String>)>,
    /// The literals in the value of each variable; of the last one with the name.
    variables: BTreeMap<String, Range<usize>>,
    test_modules: Vec<String>,
}

/// Macros and methods whose texts only a bug shows.
const NOT_SHOWN: [&str; 9] = [
    "assert",
    "assert_eq",
    "assert_ne",
    "compile_error",
    "debug_assert",
    "debug_assert_eq",
    "expect",
    "panic",
    "unreachable",
];

impl RustSource {
    fn read(file: &Path) -> Self {
        let mut source = Self::default();
        source.add(std::fs::read_to_string(file).unwrap().parse().unwrap(), None);
        source
    }

    /// Adds the literals of the tokens, which are at this level unless they are arguments of another call.
    fn add(&mut self, tokens: TokenStream, level: Option<&str>) {
        let mut tokens = tokens.into_iter().peekable();
        let mut is_test = false;
        let mut path = String::new();
        let mut variable: Option<(String, usize)> = None;
        while let Some(token) = tokens.next() {
            let callee = next_path(&mut path, &token);
            match token {
                TokenTree::Punct(mark) if mark.as_char() == '#' => {
                    let Some(attribute) = next_group(&mut tokens) else { continue };
                    let text = attribute.stream().to_string();
                    is_test |=
                        text.starts_with("cfg") && attribute.stream().into_iter().nth(1).is_some_and(is_for_tests);
                    if text.starts_with("error") {
                        self.add(attribute.stream(), None);
                    }
                }
                TokenTree::Punct(mark) if mark.as_char() == ';' => {
                    is_test = false;
                    self.variables.extend(variable.take().map(|(name, start)| (name, start..self.literals.len())));
                }
                TokenTree::Ident(keyword) if keyword == "let" => {
                    let name = tokens.peek().map(ToString::to_string);
                    variable = name.map(|name| (name, self.literals.len()));
                }
                TokenTree::Ident(keyword) if is_test && keyword == "mod" => {
                    self.test_modules.extend(tokens.next().map(|name| name.to_string()));
                }
                TokenTree::Ident(name) if NOT_SHOWN.iter().any(|not_shown| name == not_shown) => {
                    next_group(&mut tokens);
                }
                TokenTree::Group(group) if is_test => is_test = group.delimiter() != Delimiter::Brace,
                TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis => {
                    let of_call = level_of_call(&callee, group.stream());
                    self.add(group.stream(), of_call.as_deref().or(level));
                }
                TokenTree::Group(group) => self.add(group.stream(), level),
                TokenTree::Ident(name) if level.is_some() => {
                    let literals = self.variables.get(&name.to_string()).cloned().unwrap_or_default();
                    for (_, of_literal) in &mut self.literals[literals] {
                        *of_literal = level.map(str::to_owned);
                    }
                }
                TokenTree::Literal(literal) => match syn::Lit::new(literal) {
                    syn::Lit::Str(text) => self.push(without_arguments(&text.value()), level),
                    syn::Lit::CStr(text) => self.push(text.value().into_string().unwrap(), level),
                    _ => {}
                },
                _ => {}
            }
        }
    }

    fn push(&mut self, text: String, level: Option<&str>) {
        self.literals.push((text, level.map(str::to_owned)));
    }
}

/// Adds a token to the path of which it is a part, such as `log::error`, and returns the path that ends in front of it.
fn next_path(path: &mut String, token: &TokenTree) -> String {
    let before = std::mem::take(path);
    match token {
        TokenTree::Ident(name) if before.ends_with(':') => *path = format!("{before}{name}"),
        TokenTree::Ident(name) => *path = name.to_string(),
        TokenTree::Punct(mark) if mark.as_char() == ':' => *path = format!("{before}:"),
        _ => {}
    }
    before
}

/// Returns the level at which a call logs, or the exception that it makes.
fn level_of_call(callee: &str, arguments: TokenStream) -> Option<String> {
    match callee {
        "log::error" => return Some("error".to_owned()),
        "emerg" | "emerg_here" => return Some("emerg".to_owned()),
        _ => {}
    }
    if let Some(exception) = callee.strip_suffix("::new_err") {
        return Some(exception.trim_start_matches("Py").to_owned());
    }
    let mut path = String::new();
    let paths = arguments.into_iter().map(|argument| next_path(&mut path, &argument));
    let level = paths.filter_map(|path| path.rsplit_once("Level::").map(|(_, level)| level.to_lowercase())).last();
    level.filter(|level| LEVELS.contains(&level.as_str()))
}

/// The levels of nginx's error log that the module uses.
const LEVELS: [&str; 6] = ["alert", "emerg", "error", "info", "notice", "warn"];

/// Takes the group that follows, as that of an attribute or of a macro with its `!`.
fn next_group(tokens: &mut Peekable<impl Iterator<Item = TokenTree>>) -> Option<Group> {
    tokens.next_if(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == '!'));
    match tokens.next_if(|token| matches!(token, TokenTree::Group(_)))? {
        TokenTree::Group(group) => Some(group),
        _ => None,
    }
}

/// Returns whether the condition of a `cfg` is `test`, alone or in `all`.
fn is_for_tests(condition: TokenTree) -> bool {
    let condition = condition.to_string();
    condition == "(test)" || condition.starts_with("(all") && condition.contains("test")
}

/// Prints a line for each literal: file, NUL, the exception if it is raised, NUL, text.
const PYTHON_LITERALS: &str = r#"
import ast, sys

for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    skipped = set()
    raised = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            skipped.add(node.body[0].value)
        if isinstance(node, ast.JoinedStr):
            skipped.update(node.values)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func)
            # Not of a variable or of a class that the page has by the name of its base.
            if name.endswith("Error"):
                raised.update((part, name) for part in ast.walk(node.exc))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            repr = lambda part: "'\N{HORIZONTAL ELLIPSIS}'" if part.conversion == ord("r") else "\N{HORIZONTAL ELLIPSIS}"
            text = "".join(part.value if isinstance(part, ast.Constant) else repr(part) for part in node.values)
        else:
            continue
        for line in text.splitlines():
            sys.stdout.buffer.write(f"{path}\0{raised.get(node, '')}\0{line}\n".encode())
"#;

/// Returns the sources below a directory with this extension.
fn sources(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            paths.extend(sources(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    paths
}

/// Returns the lines of the literals in the sources.
fn in_the_sources() -> Vec<Text> {
    let mut texts = Vec::new();
    let directory = in_repository("src");
    let mut add = |file: &Path, text: &str, level: Option<&str>| {
        let level = level.or_else(|| file.starts_with(directory.join("conf")).then_some("emerg")).map(str::to_owned);
        let line = |line: &str| Text { file: file.to_owned(), text: line.trim().to_owned(), level: level.clone() };
        texts.extend(text.lines().map(line));
    };
    let rust: Vec<(PathBuf, RustSource)> =
        sources(&directory, "rs").into_iter().map(|file| (file.clone(), RustSource::read(&file))).collect();
    let tests: Vec<PathBuf> = rust
        .iter()
        .flat_map(|(file, source)| {
            // Where the modules of a file are.
            let is_room = ["lib.rs", "mod.rs"].iter().any(|name| file.ends_with(name));
            let directory = if is_room { file.parent().unwrap().to_owned() } else { file.with_extension("") };
            source.test_modules.iter().map(move |name| directory.join(name))
        })
        .collect();
    for (file, source) in &rust {
        // The messages of programs go to those who run them.
        let is_program = file.starts_with(directory.join("bin"));
        if !is_program && !tests.iter().any(|module| file.with_extension("").starts_with(module)) {
            source.literals.iter().for_each(|(text, level)| add(file, text, level.as_deref()));
        }
    }
    let output = Command::new(PYTHON).args(["-c", PYTHON_LITERALS]).args(sources(&directory, "py")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in str::from_utf8(&output.stdout).unwrap().lines() {
        let [file, exception, text] = line.split('\0').collect::<Vec<_>>()[..] else { panic!("{line}") };
        add(Path::new(file), text, Some(exception).filter(|exception| !exception.is_empty()));
    }
    texts.retain(|Text { file, text, .. }| text.contains(char::is_alphabetic) && !is_without_messages(file));
    texts
}

/// An entry of the page.
struct Entry {
    message: String,
    level: String,
    /// Cause and remedy.
    text: String,
}

/// Returns the entries of all sections: ``- `message` (level)``, and an indented text below.
fn in_the_page(page: &Page) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (number, line) in page.prose().into_iter().skip_while(|(_, line)| !line.starts_with("## ")) {
        if let Some(head) = line.strip_prefix("- `") {
            let (message, level) = head.split_once("` (").unwrap_or_else(|| panic!("{}:{number}: no level", page.path));
            let level = level.strip_suffix(')').unwrap_or_else(|| panic!("{}:{number}: text in the head", page.path));
            entries.push(Entry { message: message.to_owned(), level: level.to_owned(), text: String::new() });
        } else if let Some(text) = line.strip_prefix("  ") {
            let entry = entries.last_mut().unwrap_or_else(|| panic!("{}:{number}: no entry", page.path));
            entry.text.extend([text, " "]);
        }
    }
    entries
}

#[test]
fn the_page_has_each_message_of_the_sources() {
    let page = Page::read("docs/messages.md");
    let prose: Vec<&str> = page.prose().into_iter().map(|(_, line)| line).collect();
    let prose = prose.join(" ");
    let documented: Vec<&str> = prose.split('`').skip(1).step_by(2).collect();
    let sources = in_the_sources();
    let is_known =
        |text: &str| NO_MESSAGES.contains(&text) || documented.iter().any(|documented| is_part(text, documented));
    let messages: Vec<&Text> = sources.iter().filter(|Text { text, .. }| is_message(text)).collect();
    assert!(messages.len() > 100, "the literals are not found");
    let missing: Vec<String> = messages
        .iter()
        .filter(|Text { text, .. }| !is_known(text))
        .map(|Text { file, text, .. }| format!("{}: {text}\n", file.strip_prefix(in_repository("")).unwrap().display()))
        .collect();
    assert!(missing.is_empty(), "not in docs/messages.md, or changed:\n{}", missing.concat());
    for text in NO_MESSAGES {
        assert!(sources.iter().any(|source| source.text == *text), "not in the sources any more: {text}");
    }
}

#[test]
fn the_sources_have_each_message_of_the_page() {
    let sources = in_the_sources();
    let mut unknown = String::new();
    for Entry { message, .. } in in_the_page(&Page::read("docs/messages.md")) {
        let mut left = message.clone().into_bytes();
        let texts = sources.iter().map(|source| source.text.as_str()).filter(|text| is_part(text, &message));
        for range in texts.flat_map(parts).flat_map(|part| occurrences(part, &message)) {
            left[range].fill(b' ');
        }
        if left.iter().any(u8::is_ascii_alphabetic) {
            unknown.push_str(&format!("{message}\n"));
        }
    }
    assert!(unknown.is_empty(), "not in the sources, or changed:\n{unknown}");
}

#[test]
fn the_levels_of_the_page_are_those_of_the_sources() {
    let sources = in_the_sources();
    let messages = sources.iter().filter(|Text { text, .. }| is_message(text));
    let known: Vec<(&str, &str)> =
        messages.filter_map(|Text { text, level, .. }| Some((text.as_str(), level.as_deref()?))).collect();
    let mut compared = 0;
    let mut wrong = String::new();
    for Entry { message, level, .. } in in_the_page(&Page::read("docs/messages.md")) {
        let levels: Vec<&str> =
            known.iter().filter(|(text, _)| is_part(text, &message)).map(|(_, level)| *level).collect();
        compared += usize::from(!levels.is_empty());
        if !levels.is_empty() && !levels.contains(&level.as_str()) {
            wrong.push_str(&format!("{message}: {level} on the page, {levels:?} in the sources\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(compared > 80, "{compared} levels are found");
}

#[test]
fn the_lines_to_watch_are_messages() {
    let monitoring = Page::read("docs/monitoring.md");
    let (_, section) = monitoring.text.split_once("\n| line contains |").expect("the table is in the page");
    let (table, _) = section.split_once("\n\n").unwrap();
    let entries = in_the_page(&Page::read("docs/messages.md"));
    let cells = table.lines().skip(2).map(|row| row.split('|').nth(1).unwrap());
    let parts = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    // The master of nginx writes this one.
    let parts: Vec<&str> = parts.filter(|part| !part.starts_with("exited on signal")).collect();
    assert!(parts.len() > 5, "{parts:?}");
    for part in parts {
        assert!(entries.iter().any(|entry| entry.message.contains(part)), "no message contains {part}");
    }
}

#[test]
fn each_message_of_the_page_has_a_level_a_cause_and_a_remedy() {
    let entries = in_the_page(&Page::read("docs/messages.md"));
    for (index, Entry { message, level, text }) in entries.iter().enumerate() {
        assert!(entries[..index].iter().all(|entry| entry.message != *message), "twice: {message}");
        let (cause, remedy) = text.split_once("Remedy: ").unwrap_or((text, ""));
        assert!(cause.trim().ends_with('.'), "no cause: {message}");
        match level.as_str() {
            "notice" | "info" => assert!(remedy.is_empty(), "{message}"),
            "emerg" | "alert" | "error" | "warn" => assert!(remedy.trim().ends_with('.'), "no remedy: {message}"),
            exception => {
                assert!(exception.ends_with("Error"), "{message}: {exception}");
                assert!(remedy.trim().ends_with('.'), "no remedy: {message}");
            }
        }
    }
}
