//! The pages of the documentation are complete and link to each other. A unit test compares them with the directive table.

use crate::harness::{Page, in_repository};
use std::path::{Path, PathBuf};

fn read(path: &str) -> String {
    std::fs::read_to_string(in_repository(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Returns the text between two marks.
#[track_caller]
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let start = text.find(from).unwrap_or_else(|| panic!("{from:?} is not in the text")) + from.len();
    let length = text[start..].find(to);
    &text[start..start + length.unwrap_or_else(|| panic!("no {to:?} after {from:?}"))]
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

/// Returns whether the file that a link names exists, and has the section that the link names.
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
    let others = ["BENCHMARKS.md", "BUGS.md", "CHANGELOG.md", "nginx-conf/README.md", "tests/README.md"];
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
    // The rest is for generated configurations.
    let source = between(&source, "pub static VARIABLES:", "];");
    let names: Vec<&str> = source.split("variable(\"").skip(1).map(|text| text.split('"').next().unwrap()).collect();
    let reference = read("docs/directives.md");
    let section = between(&reference, "\n## Variables\n", "\n```");
    let rows: Vec<&str> = section.split("\n| `$").skip(1).map(|text| text.split('`').next().unwrap()).collect();
    assert_eq!(rows, names);
    assert!(!names.is_empty());
}
