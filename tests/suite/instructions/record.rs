//! The recorded figures, and the versions that they hold for.

use super::{APPLICATIONS, ENGINES, Figures, RETURN, Share, table};
use crate::harness::{PYTHON, in_repository};
use serde_json::{Map, Value};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Deviation that counts as a change. Counts of the same build differ by a third of it.
const TOLERANCE: f64 = 0.03;

pub fn path() -> PathBuf {
    in_repository("tests/instructions.json")
}

/// Names and values, as the file has them.
pub struct Record {
    versions: Map<String, Value>,
    instructions: Map<String, Value>,
}

impl Record {
    pub fn read() -> Record {
        let text = fs::read_to_string(path()).unwrap_or_else(|e| panic!("{:?}: {e}", path()));
        let mut file: Map<String, Value> = serde_json::from_str(&text).expect("an object");
        let mut part = |name: &str| match file.remove(name) {
            Some(Value::Object(values)) => values,
            _ => panic!("{:?} has no {name}", path()),
        };
        Record { versions: part("versions"), instructions: part("instructions") }
    }

    /// The record of what is installed here and was counted now.
    pub fn new(figures: &Figures) -> Record {
        Record { versions: versions(), instructions: recorded_figures(figures) }
    }

    pub fn write(self) {
        let mut file = Map::new();
        file.insert("instructions".into(), self.instructions.into());
        file.insert("versions".into(), self.versions.into());
        let text = serde_json::to_string_pretty(&file).unwrap();
        fs::write(path(), text + "\n").unwrap_or_else(|e| panic!("{:?}: {e}", path()));
    }

    /// Returns the versions that differ from those of the record, as text, if there are any. Then the counts differ for
    /// reasons that lie outside of this repository.
    pub fn other_versions(&self) -> Option<String> {
        let installed = versions();
        let different = installed.iter().filter(|(program, version)| self.versions.get(*program) != Some(*version));
        let texts: Vec<String> = different
            .map(|(program, version)| {
                let recorded = self.versions.get(program).unwrap_or(&Value::Null);
                format!("{program} is {version}, and the figures are recorded for {recorded}")
            })
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// Returns the figures that differ from the recorded ones, in either direction.
    pub fn differences(&self, figures: &Figures) -> Vec<String> {
        let counted = recorded_figures(figures);
        let differs = |name: &String, now: &Value| {
            let now = now.as_f64()?;
            let recorded = self.instructions.get(name).and_then(Value::as_f64);
            let change = recorded.map_or(f64::INFINITY, |recorded| now / recorded - 1.0);
            (change.abs() > TOLERANCE).then(|| {
                let recorded = recorded.unwrap_or_default();
                format!("{name}: {now} instructions, recorded {recorded} ({:+.1} %)", change * 100.0)
            })
        };
        counted.iter().filter_map(|(name, now)| differs(name, now)).collect()
    }
}

/// Returns the figures that are recorded: the instructions beyond those of nginx alone, and those in the module. The latter
/// show changes of the module that are small beside the instructions of an application.
fn recorded_figures(figures: &Figures) -> Map<String, Value> {
    let nginx = figures[&(APPLICATIONS[0].name, RETURN)].total;
    let mut counts = Map::new();
    for name in APPLICATIONS.map(|application| application.name) {
        for (engine, _) in ENGINES {
            let share = &figures[&(name, engine)];
            counts.insert(format!("{name}, {engine}: beyond nginx"), share.total.saturating_sub(nginx).into());
            counts.insert(format!("{name}, {engine}: in the module"), table::in_the_module(share).into());
        }
    }
    counts
}

/// Returns the versions of the programs whose instructions are counted, and of those that make and count them.
fn versions() -> Map<String, Value> {
    let nginx = std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned());
    let programs: [(&str, &str, &[&str]); 5] = [
        ("nginx", &nginx, &["-v"]),
        ("Python", PYTHON, &["--version"]),
        ("libc", "getconf", &["GNU_LIBC_VERSION"]),
        ("rustc", "rustc", &["--version"]),
        ("valgrind", "valgrind", &["--version"]),
    ];
    let version = |(name, program, arguments): (&str, &str, &[&str])| {
        let output = Command::new(program).args(arguments).output();
        // nginx prints it to stderr.
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        (name.to_owned(), text.into())
    };
    let machine = ("processor".to_owned(), std::env::consts::ARCH.into());
    programs.into_iter().map(version).chain([machine]).collect()
}

/// Figures in which each request to the module has `engine` instructions, half of them in the module.
fn figures(engine: u64, nginx: u64) -> Figures {
    let share = |total| Share { total, parts: [("src/wsgi", total / 2), ("libc", total - total / 2)].into() };
    let mut figures = Figures::from([((APPLICATIONS[0].name, RETURN), share(nginx))]);
    for name in APPLICATIONS.map(|application| application.name) {
        figures.extend(ENGINES.map(|(variant, _)| ((name, variant), share(engine))));
    }
    figures
}

#[test]
fn change_of_more_than_three_percent_is_reported() {
    let recorded = Record::new(&figures(2000, 1000));
    assert!(recorded.differences(&figures(2000 + 58, 1000 + 29)).is_empty());
    assert!(recorded.differences(&figures(2000 - 58, 1000 - 29)).is_empty());
    // Beyond nginx, and in the module.
    assert_eq!(
        recorded.differences(&figures(2000, 969))[0],
        "Django, 1 thread: beyond nginx: 1031 instructions, recorded 1000 (+3.1 %)"
    );
    assert_eq!(recorded.differences(&figures(1938, 938)).len(), 6);
    assert!(recorded.differences(&figures(1938, 938))[0].starts_with("Django, 1 thread: in the module: 969 "));
}

#[test]
fn other_versions_are_reported() {
    let mut recorded = Record::new(&figures(2000, 1000));
    assert_eq!(recorded.other_versions(), None);
    recorded.versions.insert("nginx".into(), "nginx version: nginx/0.1".into());
    let reported = recorded.other_versions().expect("another version");
    assert!(reported.ends_with("recorded for \"nginx version: nginx/0.1\""), "{reported}");
}
