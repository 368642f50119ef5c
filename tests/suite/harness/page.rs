//! Pages of the documentation, and the code blocks in them.

use super::in_repository;
use std::fs;

/// A document in Markdown.
pub struct Page {
    /// Below the repository, as `docs/install.md`.
    pub path: String,
    pub text: String,
}

/// A fenced block of a page.
#[derive(Debug)]
pub struct Block {
    /// Page and line of the opening fence, as `docs/install.md:12`.
    pub location: String,
    pub language: String,
    pub text: String,
    /// A comment `<!-- not run: reason -->` stands directly above it.
    pub is_not_run: bool,
}

impl Page {
    pub fn read(path: &str) -> Page {
        let text = fs::read_to_string(in_repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Page { path: path.to_owned(), text }
    }

    /// README.md and the pages of docs/.
    pub fn all() -> Vec<Page> {
        let entries = fs::read_dir(in_repository("docs")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut paths: Vec<String> =
            names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
        paths.push("README.md".to_owned());
        paths.sort();
        paths.iter().map(|path| Page::read(path)).collect()
    }

    /// The fenced blocks, in their order.
    pub fn blocks(&self) -> Vec<Block> {
        self.split().1
    }

    /// The numbered lines outside of fenced blocks.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        self.split().0
    }

    fn split(&self) -> (Vec<(usize, &str)>, Vec<Block>) {
        let (mut prose, mut blocks) = (Vec::new(), Vec::new());
        let mut lines = (1..).zip(self.text.lines());
        let mut above = "";
        while let Some((number, line)) = lines.next() {
            let Some(language) = line.trim_start().strip_prefix("```") else {
                prose.push((number, line));
                above = line;
                continue;
            };
            let location = format!("{}:{number}", self.path);
            let margin = line.len() - line.trim_start().len();
            let mut text = String::new();
            loop {
                let (_, line) = lines.next().unwrap_or_else(|| panic!("{location}: the block has no end"));
                if line.trim() == "```" {
                    break;
                }
                // In a list, a block has the margin of its item.
                text.push_str(line.get(margin..).unwrap_or_default());
                text.push('\n');
            }
            let reason = above.trim().strip_prefix("<!-- not run: ").and_then(|rest| rest.strip_suffix(" -->"));
            let is_not_run = reason.is_some_and(|reason| !reason.trim().is_empty());
            blocks.push(Block { location, language: language.to_owned(), text, is_not_run });
            above = "";
        }
        (prose, blocks)
    }
}
