//! The documents agree with the sources and with each other.

use crate::harness::{Page, in_repository};
use std::path::{Path, PathBuf};

/// A directive as its table entry, or its section in docs/directives.md, has it.
#[derive(Debug, PartialEq, Eq)]
struct Directive {
    name: String,
    context: String,
    default: String,
}

fn read(path: &str) -> String {
    std::fs::read_to_string(in_repository(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What stands between two marks, the first time that both do.
#[track_caller]
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let start = text.find(from).unwrap_or_else(|| panic!("{from:?} is not in the text")) + from.len();
    let length = text[start..].find(to);
    &text[start..start + length.unwrap_or_else(|| panic!("no {to:?} after {from:?}"))]
}

/// The value that an accessor of the configuration falls back to.
fn fallback<'a>(source: &'a str, field: &str) -> &'a str {
    between(source, &format!("self.{field}.unwrap_or("), ")")
}

/// `64*1024` as nginx writes it.
fn kilobytes(product: &str) -> String {
    let count = product.strip_suffix("*1024").unwrap_or_else(|| panic!("no kilobytes: {product}"));
    format!("{count}k")
}

/// The default of a flag.
fn on_or_off(source: &str, field: &str) -> String {
    match fallback(source, field) {
        "true" => "on".to_owned(),
        "false" => "off".to_owned(),
        other => panic!("{field}: {other}"),
    }
}

/// The time that an accessor of the configuration falls back to; 0 has no unit.
fn seconds(source: &str, field: &str) -> String {
    match between(source, &format!("self.{field}.unwrap_or(Duration::from_secs("), ")") {
        "0" => "0".to_owned(),
        seconds => format!("{seconds}s"),
    }
}

/// The table's entries, in its order. Whitespace is as rustfmt likes it, so none counts.
fn in_the_sources() -> Vec<Directive> {
    let squeeze = |text: String| text.split_whitespace().collect::<String>();
    let table = squeeze(read("src/conf/directives.rs"));
    let location = squeeze(read("src/conf/location.rs"));
    let main = squeeze(read("src/conf/main.rs"));
    let table = between(&table, "pubconstDIRECTIVES:", "ngx_command_t::empty()");
    let mut entries = table.split("ngx_string!(\"").collect::<Vec<_>>().into_iter();
    let mut before = entries.next().unwrap();
    entries
        .map(|entry| {
            let (name, rest) = entry.split_once('"').unwrap();
            let constructor = before;
            before = entry;
            let is_main = constructor.ends_with("main(") || constructor.ends_with("main::<MainConf>(");
            let flag = rest.starts_with("),FLAG,");
            let context = if is_main {
                "http"
            } else if ["),FLAG,", "),SIZE,", "),HTTP_SERVER_LOCATION|"].iter().any(|start| rest.starts_with(start)) {
                "http, server, location"
            } else if rest.starts_with("),LOCATION_IF_LIMIT|") {
                "location, if in location, limit_except"
            } else {
                panic!("{name}: where may it stand?")
            };
            let field = name.strip_prefix("wsgi_").unwrap();
            let value = match name {
                _ if flag => on_or_off(&location, field),
                "wsgi_check" => on_or_off(&main, field),
                "wsgi_python_optimize" => fallback(&main, "optimize").to_owned(),
                "wsgi_shutdown_timeout" | "wsgi_check_timeout" => seconds(&main, field),
                "wsgi_queue" => fallback(&location, field).to_owned(),
                "wsgi_queue_timeout" | "wsgi_request_timeout" | "wsgi_slow_request" => seconds(&location, field),
                "wsgi_max_requests" => between(&main, "self.max_requests.unwrap_or(MaxRequests{calls:", ",").to_owned(),
                "wsgi_max_memory" => fallback(&main, field).to_owned(),
                "wsgi_threads" => {
                    assert!(location.contains("self.threads.unwrap_or_default()"));
                    between(&location, "fndefault()->Self{Self::Pool(", ")").to_owned()
                }
                "wsgi_interpreter_gil" => {
                    assert!(location.contains("self.interpreter_gil.unwrap_or_default()"));
                    let state = squeeze(read("src/python/threads.rs"));
                    assert!(between(&state, "pubenumGil{", "}").contains("#[default]Shared,"));
                    "shared".to_owned()
                }
                "wsgi_reload_mechanism" => {
                    assert!(location.contains("self.reload_mechanism.unwrap_or_default()"));
                    let files = squeeze(read("src/app/source_files.rs"));
                    assert!(between(&files, "pubenumMechanism{", "}").contains("#[default]Module,"));
                    "module".to_owned()
                }
                "wsgi_interpreters" => fallback(&location, field).to_owned(),
                "wsgi_output_buffer_size" => kilobytes(fallback(&location, field)),
                "wsgi_max_temp_file_size" => {
                    assert_eq!(fallback(&location, field), "1024*1024*1024");
                    "1024m".to_owned()
                }
                "wsgi_write_buffer_size" => {
                    assert!(location.contains("self.write_buffer_size.unwrap_or_else(page_size)"));
                    "4k|8k".to_owned()
                }
                "wsgi_script_name" => "(the location's prefix)".to_owned(),
                _ => String::new(),
            };
            Directive {
                name: name.to_owned(),
                context: context.to_owned(),
                default: match value.as_str() {
                    "" => "—".to_owned(),
                    value => format!("{name} {value};"),
                },
            }
        })
        .collect()
}

/// The sections of the reference, in their order, with their syntax.
fn in_the_reference() -> Vec<(Directive, String)> {
    let reference = read(REFERENCE);
    reference
        .split("\n### ")
        .skip(1)
        .map(|text| {
            let line = |label: &str| between(text, &format!("\n    {label}"), "\n").trim().to_owned();
            let directive = Directive {
                name: text.lines().next().unwrap().to_owned(),
                context: line("Context:"),
                default: line("Default:"),
            };
            (directive, line("Syntax:"))
        })
        .collect()
}

const REFERENCE: &str = "docs/directives.md";

#[test]
fn the_reference_has_each_directive_in_order_with_its_context_and_default() {
    let (documented, syntaxes): (Vec<Directive>, Vec<String>) = in_the_reference().into_iter().unzip();
    let sources = in_the_sources();
    assert!(sources.len() > 10, "{sources:?}");
    assert_eq!(documented, sources);
    for (directive, syntax) in documented.iter().zip(syntaxes) {
        let is_flag = syntax == format!("{} on | off;", directive.name);
        let is_on_or_off = [" on;", " off;"].iter().any(|end| directive.default.ends_with(end));
        assert_eq!(is_flag, is_on_or_off, "{syntax}");
        assert!(syntax.starts_with(&format!("{} ", directive.name)), "{syntax}");
        assert!(syntax.ends_with(';'), "{syntax}");
    }
}

#[test]
fn the_index_of_the_reference_has_each_directive_in_order() {
    let reference = read(REFERENCE);
    let index =
        between(&reference, "| directive | default | context | description |\n| --- | --- | --- | --- |\n", "\n\n");
    let rows: Vec<Directive> = index
        .lines()
        .map(|row| {
            // A bar in a cell is escaped.
            let row = row.replace("\\|", "\0");
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [link, default, context, description] = cells[..] else { panic!("{row}") };
            let name = between(link, "[`", "`]");
            assert_eq!(link, format!("[`{name}`](#{name})"));
            assert!(description.ends_with('.'), "{row}");
            let default = match default {
                "—" => "—".to_owned(),
                value => format!("{name} {};", value.replace('\0', "|")),
            };
            Directive { name: name.to_owned(), context: context.to_owned(), default }
        })
        .collect();
    let sections: Vec<Directive> = in_the_reference().into_iter().map(|(directive, _)| directive).collect();
    assert_eq!(rows, sections);
}

#[test]
fn the_callables_that_are_assumed_are_those_of_the_reference() {
    let table = read("src/conf/directives.rs");
    let reference = read(REFERENCE);
    let section = |name: &str| between(&reference, &format!("\n### {name}\n"), "\n### ").to_owned();
    assert!(table.contains("(None, None) => \"application\""));
    assert!(section("wsgi_pass").contains("is `application` unless it is named"));
    assert!(table.contains(".unwrap_or(\"middleware\")"));
    assert!(section("wsgi_middleware").contains("is `middleware` unless named"));
}

/// Returns the anchors of the headings of a page, as GitHub makes them.
fn anchors(page: &Page) -> Vec<String> {
    let headings = page.prose().into_iter().filter(|(_, line)| line.starts_with('#'));
    let anchors = headings.map(|(_, line)| {
        let heading = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        heading.replace(|c: char| !(c.is_alphanumeric() || "-_".contains(c)), "")
    });
    anchors.collect()
}

/// Returns the path that a link leads to, below the repository.
fn target(page: &Page, file: &str) -> PathBuf {
    if file.is_empty() {
        return PathBuf::from(&page.path);
    }
    let mut path = Path::new(&page.path).parent().unwrap().to_owned();
    for part in file.split('/') {
        if part == ".." {
            assert!(path.pop(), "{}: {file}", page.path);
        } else {
            path.push(part);
        }
    }
    path
}

/// Whether the file that a link names exists, and has the section that the link names.
fn is_found(page: &Page, link: &str) -> bool {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = target(page, file);
    let target = target.to_str().unwrap();
    if anchor.is_empty() {
        return in_repository(target).exists();
    }
    in_repository(target).is_file() && anchors(&Page::read(target)).iter().any(|found| found == anchor)
}

#[test]
fn links_lead_to_files_and_sections_that_exist() {
    let mut pages = Page::all();
    let others = ["BUGS.md", "CHANGELOG.md", "nginx-conf/README.md", "tests/README.md"];
    pages.extend(others.iter().map(|path| Page::read(path)));
    let mut broken = String::new();
    for page in &pages {
        for (number, line) in page.prose() {
            // Without code, in which brackets mean something else.
            let line: String = line.split('`').step_by(2).collect();
            for link in line.split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0) {
                if !link.starts_with("https://") && !is_found(page, link) {
                    broken.push_str(&format!("{}:{number}: {link}\n", page.path));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

#[test]
fn the_index_of_the_documentation_has_each_page() {
    let index = read("docs/README.md");
    for page in Page::all() {
        if let Some(name) = page.path.strip_prefix("docs/").filter(|name| *name != "README.md") {
            assert!(index.contains(&format!("]({name})")), "{name}");
        }
    }
}

#[test]
fn the_reference_has_each_variable_in_order() {
    let source = read("src/http/variables.rs");
    let names: Vec<&str> = source.split("variable(\"").skip(1).map(|text| text.split('"').next().unwrap()).collect();
    let reference = read(REFERENCE);
    let section = between(&reference, "\n## Variables\n", "\n```");
    let rows: Vec<&str> = section.split("\n| `$").skip(1).map(|text| text.split('`').next().unwrap()).collect();
    assert_eq!(rows, names);
    assert!(!names.is_empty());
}
