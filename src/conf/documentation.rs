//! Comparison of the directive table with docs/directives.md.

use std::collections::HashMap;
use std::time::Duration;

use super::location::LocationSettings;
use super::main::MainSettings;
use super::setters::{DEFAULT_CALLABLE, DEFAULT_MIDDLEWARE};
use super::settings::{Entry, Settings, Written};
use super::values::{Located, MaxRequests, Threads};
use crate::app::source_files::Mechanism;
use crate::nginx::sys::{
    NGX_CONF_FLAG, NGX_HTTP_LIF_CONF, NGX_HTTP_LMT_CONF, NGX_HTTP_LOC_CONF, NGX_HTTP_MAIN_CONF, NGX_HTTP_SRV_CONF,
};
use crate::python::threads::Gil;

const PAGE: &str = include_str!("../../docs/directives.md");

impl Written for bool {
    fn written(&self) -> String {
        if *self { "on".to_owned() } else { "off".to_owned() }
    }
}

impl Written for u64 {
    /// Writes whole kilobytes and megabytes as such: they are sizes.
    fn written(&self) -> String {
        const KILOBYTE: u64 = 1024;
        const MEGABYTE: u64 = 1024 * KILOBYTE;
        match *self {
            0 => "0".to_owned(),
            size if size.is_multiple_of(MEGABYTE) => format!("{}m", size / MEGABYTE),
            size if size.is_multiple_of(KILOBYTE) => format!("{}k", size / KILOBYTE),
            number => number.to_string(),
        }
    }
}

impl Written for usize {
    fn written(&self) -> String {
        (*self as u64).written()
    }
}

impl Written for u8 {
    fn written(&self) -> String {
        self.to_string()
    }
}

impl Written for Duration {
    fn written(&self) -> String {
        if self.is_zero() { "0".to_owned() } else { format!("{}s", self.as_secs()) }
    }
}

impl Written for Threads {
    fn written(&self) -> String {
        match self {
            Self::Off => "off".to_owned(),
            Self::Pool(count) => count.to_string(),
        }
    }
}

impl Written for Gil {
    fn written(&self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

impl Written for Mechanism {
    fn written(&self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

impl Written for MaxRequests {
    fn written(&self) -> String {
        if self.jitter == 0 { self.calls.to_string() } else { format!("{} {}", self.calls, self.jitter) }
    }
}

impl<T: Written> Written for Located<T> {
    fn written(&self) -> String {
        self.value.written()
    }
}

/// A directive as the table, the index of the page or the reference has it.
#[derive(Debug, PartialEq, Eq)]
struct Directive {
    name: String,
    default: Option<String>,
    context: String,
}

impl Directive {
    fn new(entry: &Entry) -> Self {
        const CONTEXTS: [(u32, &str); 5] = [
            (NGX_HTTP_MAIN_CONF, "http"),
            (NGX_HTTP_SRV_CONF, "server"),
            (NGX_HTTP_LOC_CONF, "location"),
            (NGX_HTTP_LIF_CONF, "if in location"),
            (NGX_HTTP_LMT_CONF, "limit_except"),
        ];
        let contexts = CONTEXTS.iter().filter(|(flag, _)| entry.contexts_and_arguments & flag != 0);
        let contexts: Vec<&str> = contexts.map(|(_, name)| *name).collect();
        Self { name: entry.name.to_owned(), default: (entry.default)(), context: contexts.join(", ") }
    }
}

/// Returns the text between two marks.
#[track_caller]
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("{from:?} is not in the text"));
    rest.split_once(to).unwrap_or_else(|| panic!("{to:?} does not follow {from:?}")).0
}

/// Returns the section of the reference for each directive: its name and its text.
fn sections() -> Vec<(&'static str, &'static str)> {
    let sections = PAGE.split("\n### ").skip(1).map(|section| section.split_once('\n').unwrap());
    sections.filter(|(heading, _)| heading.starts_with("wsgi_")).collect()
}

/// Returns a line of the block at the beginning of a section.
fn line<'a>(section: &'a str, label: &str) -> &'a str {
    between(section, &format!("\n    {label}:"), "\n").trim()
}

/// Compares the directives of one level, in their order.
fn compare<S: Settings>() {
    let table: Vec<Directive> = S::DOCUMENTATION.iter().map(Directive::new).collect();
    let is_here = |name: &str| S::DOCUMENTATION.iter().any(|entry| entry.name == name);

    let rows = PAGE.lines().filter(|line| line.starts_with("| [`wsgi_")).map(|row| {
        // A bar in a cell is escaped.
        let row = row.replace("\\|", "\0");
        let cells: Vec<String> = row.trim_matches('|').split('|').map(|cell| cell.trim().replace('\0', "|")).collect();
        let [link, default, context, description] = <[String; 4]>::try_from(cells).expect("a row of four cells");
        let name = between(&link, "[`", "`]").to_owned();
        assert_eq!(link, format!("[`{name}`](#{name})"));
        (Directive { name, default: Some(default).filter(|default| default != "—"), context }, description)
    });
    let (rows, descriptions): (Vec<_>, Vec<_>) = rows.filter(|(row, _)| is_here(&row.name)).unzip();
    assert_eq!(rows, table, "the index of docs/directives.md is on the left, the table on the right");
    let described: Vec<&str> = S::DOCUMENTATION.iter().map(|entry| entry.description.trim()).collect();
    assert_eq!(descriptions, described);

    let reference: Vec<Directive> = sections()
        .into_iter()
        .filter(|(name, _)| is_here(name))
        .map(|(name, section)| {
            let default = line(section, "Default");
            let value = default.strip_prefix(name).and_then(|value| value.strip_suffix(';'));
            assert!(value.is_some() || default == "—", "{name}: {default}");
            Directive {
                name: name.to_owned(),
                default: value.map(|value| value.trim().to_owned()),
                context: line(section, "Context").to_owned(),
            }
        })
        .collect();
    assert_eq!(reference, table, "the reference in docs/directives.md is on the left, the table on the right");
}

#[test]
fn the_page_has_each_directive_in_order_with_default_context_and_description() {
    compare::<LocationSettings>();
    compare::<MainSettings>();
}

#[test]
fn the_page_has_no_other_directive_and_its_parts_have_the_same_order() {
    let known = LocationSettings::DOCUMENTATION.len() + MainSettings::DOCUMENTATION.len();
    let sections: Vec<&str> = sections().into_iter().map(|(name, _)| name).collect();
    assert_eq!(sections.len(), known);
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| [`")?.split_once('`'));
    assert_eq!(rows.map(|(name, _)| name).collect::<Vec<_>>(), sections);
}

#[test]
fn the_syntax_of_a_directive_begins_with_its_name_and_flags_are_on_or_off() {
    let entries = LocationSettings::DOCUMENTATION.iter().chain(MainSettings::DOCUMENTATION);
    let flags: HashMap<&str, bool> =
        entries.map(|entry| (entry.name, entry.contexts_and_arguments & NGX_CONF_FLAG != 0)).collect();
    for (name, section) in sections() {
        let syntax = line(section, "Syntax");
        assert!(syntax.starts_with(&format!("{name} ")) && syntax.ends_with(';'), "{syntax}");
        assert_eq!(syntax == format!("{name} on | off;"), flags[name], "{syntax}");
    }
}

#[test]
fn the_page_names_the_callables_that_are_assumed() {
    let section = |name: &str| sections().into_iter().find(|(known, _)| *known == name).unwrap().1;
    assert!(section("wsgi_pass").contains(&format!("is `{DEFAULT_CALLABLE}` unless it is named")));
    assert!(section("wsgi_middleware").contains(&format!("is `{DEFAULT_MIDDLEWARE}` unless named")));
}
