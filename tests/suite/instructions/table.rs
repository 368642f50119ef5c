//! The figures as text.

use super::{APPLICATIONS, ENGINES, EXECUTABLE, Figures, LOOP, RETURN, Share};
use crate::harness::{Source, in_repository};
use std::fmt::Write as _;
use std::path::Path;

const NGINX: &str = "nginx";
const PYTHON: &str = "Python";
const LIBC: &str = "libc";
const CRATES: &str = "Rust's library and crates";
const OTHERS: &str = "other libraries";
/// The rooms of the module, lowest first, and what stands beside them in `src`.
const ROOMS: [&str; 12] = [
    "src/os",
    "src/python",
    "src/nginx",
    "src/wsgi",
    "src/app",
    "src/engine",
    "src/conf",
    "src/worker",
    "src/reload",
    "src/http",
    "src/lib.rs",
    "src/sync.rs",
];

/// Returns the part of the program that an instruction belongs to. Code that is inlined from crates belongs to the room
/// that it is inlined into.
pub fn part(source: &Source) -> &'static str {
    let object = Path::new(&source.object).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if object.starts_with("libngx_http_wsgi_module") {
        let room = ROOMS.into_iter().find(|room| Path::new(&source.file).starts_with(in_repository(room)));
        return room.unwrap_or(CRATES);
    }
    let is = |start: &str| object.starts_with(start);
    match () {
        () if is("nginx") => NGINX,
        () if is("libpython") || is("python") => PYTHON,
        () if is("libc.so") || is("libc-") => LIBC,
        () => OTHERS,
    }
}

/// Returns the instructions in the module, its crates included.
pub fn in_the_module(share: &Share) -> u64 {
    ROOMS.iter().chain(&[CRATES]).filter_map(|part| share.parts.get(part)).sum()
}

/// Returns the tables: the totals, the instructions beyond nginx and the loop, and the share of each part.
pub fn table(figures: &Figures) -> String {
    let mut text = String::from("Instructions a request, with the headers of a browser on a kept connection\n\n");
    let [hello, django] = APPLICATIONS.map(|application| application.name);
    let total = |name, variant| figures.get(&(name, variant)).map(|share| share.total);
    row(&mut text, "", &[hello.to_owned(), django.to_owned()]);
    let engines = ENGINES.map(|(engine, _)| engine);
    for variant in [RETURN, EXECUTABLE, LOOP].into_iter().chain(engines) {
        row(&mut text, variant, &[hello, django].map(|name| number(total(name, variant))));
    }
    text.push_str("\nBeyond nginx and the loop\n");
    for engine in engines {
        row(&mut text, engine, &[hello, django].map(|name| number(beyond_loop(figures, name, engine))));
    }
    text.push_str("\nIn the module\n");
    for engine in engines {
        let share = |name| figures.get(&(name, engine)).map(in_the_module);
        row(&mut text, engine, &[hello, django].map(|name| number(share(name))));
    }
    for name in [hello, django] {
        writeln!(text, "\nShare of each part: {name}").unwrap();
        let variants: Vec<&str> = [RETURN, LOOP].into_iter().chain(engines).collect();
        let shares: Vec<_> = variants.iter().map(|variant| figures.get(&(name, *variant))).collect();
        row(&mut text, "", &variants.iter().map(|variant| (*variant).to_owned()).collect::<Vec<_>>());
        for part in [NGINX, PYTHON, LIBC].into_iter().chain(ROOMS).chain([CRATES, OTHERS]) {
            let counts: Vec<Option<u64>> =
                shares.iter().map(|share| share.and_then(|share| share.parts.get(part).copied())).collect();
            row(&mut text, part, &counts.into_iter().map(number).collect::<Vec<_>>());
        }
    }
    text
}

/// Returns the instructions that nginx and the loop do not explain, if both are counted.
fn beyond_loop(figures: &Figures, name: &'static str, engine: &'static str) -> Option<u64> {
    let total = |name, variant| figures.get(&(name, variant)).map(|share| share.total);
    let explained = total(APPLICATIONS[0].name, RETURN)? + total(name, LOOP)?;
    Some(total(name, engine)?.saturating_sub(explained))
}

fn number(count: Option<u64>) -> String {
    count.filter(|count| *count > 0).map_or(String::new(), |count| count.to_string())
}

fn row(text: &mut String, name: &str, columns: &[String]) {
    write!(text, "{name:28}").unwrap();
    for column in columns {
        write!(text, "{column:>12}").unwrap();
    }
    text.truncate(text.trim_end_matches(' ').len());
    text.push('\n');
}
