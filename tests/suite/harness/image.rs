//! Image of a Containerfile, built without a container engine: each stage is a Debian directory, in which the lines of each
//! RUN are executed as they are.

use super::{Debian, in_repository};
use parse_dockerfile::{Command as Words, HealthcheckArguments, Instruction, Source, Stage, UnescapedString};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use tempfile::TempDir;

/// The image that a stage begins with. The Debian directories, minimal installations of that release, stand for it.
const BASE: &str = "debian:bookworm-slim";

/// An image that is built. Its file system is that of the last stage.
pub struct Image {
    root: PathBuf,
    pub settings: Settings,
    /// Removes the directory in the end. Only one thread may use it.
    _directory: Mutex<Debian>,
}

/// A stage while its instructions are followed.
struct StageBuild {
    directory: Debian,
    settings: Settings,
}

/// What an image says about its containers.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub environment: Vec<(String, String)>,
    pub directory: String,
    /// User and group, as numbers.
    pub user: Option<(u32, u32)>,
    pub command: Vec<String>,
    pub health_check: Vec<String>,
    pub stop_signal: String,
    pub port: u16,
}

impl Image {
    /// Builds the image of a Containerfile of `packaging/containers/` with the package that `variable` names. `context`
    /// has the other files that are copied. `None`, with a message, where the package or root is missing, or the tests are
    /// about another release.
    pub fn build(name: &str, variable: &str, context: &TempDir) -> Option<Image> {
        if std::env::var("WSGI_TEST_DEBIAN").is_ok_and(|release| !BASE.contains(&release)) {
            eprintln!("skipped: the images are of {BASE}");
            return None;
        }
        let directory = in_repository("packaging/containers").join(name);
        for entry in fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), context.path().join(entry.file_name())).unwrap();
        }
        if let Some(package) = std::env::var_os(variable).map(PathBuf::from) {
            fs::copy(&package, context.path().join(package.file_name().unwrap())).unwrap();
        }
        let text = fs::read_to_string(directory.join("Containerfile")).unwrap();
        let file = parse_dockerfile::parse(&text).unwrap_or_else(|error| panic!("{name}/Containerfile: {error}"));
        let mut built: HashMap<String, StageBuild> = HashMap::new();
        let mut last = None;
        for stage in file.stages() {
            assert_eq!(stage.from.image.value, BASE);
            let debian = Debian::without_lists(variable)?;
            fs::remove_file(debian.home_of_root().join(debian.package())).unwrap();
            let settings = Settings { directory: "/".to_owned(), ..Settings::default() };
            let mut build = StageBuild { directory: debian, settings };
            build.follow(&stage, context.path(), &built);
            match &stage.from.as_ {
                Some((_, name)) => drop(built.insert(name.value.to_string(), build)),
                None => last = Some(build),
            }
        }
        let StageBuild { directory, settings } = last.expect("a stage without a name");
        Some(Image { root: directory.path("/"), settings, _directory: Mutex::new(directory) })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl StageBuild {
    fn follow(&mut self, stage: &Stage<'_, '_>, context: &Path, stages: &HashMap<String, StageBuild>) {
        for instruction in stage.instructions {
            match instruction {
                Instruction::Env(env) => {
                    let (name, value) = env.arguments.value.split_once('=').expect("NAME=value");
                    self.settings.environment.push((name.to_owned(), self.expanded(value)));
                }
                Instruction::Workdir(workdir) => {
                    self.settings.directory = self.absolute(&workdir.arguments.value);
                    fs::create_dir_all(self.directory.path(&self.settings.directory)).unwrap();
                }
                Instruction::Copy(copy) => {
                    let from = copy.options.iter().find(|option| option.name.value == "from");
                    let from = from.map(|option| &stages[option.value.as_ref().unwrap().value.as_ref()]);
                    let root = from.map_or(context.to_owned(), |stage| stage.directory.path("/"));
                    for source in &copy.src {
                        let Source::Path(path) = source else { panic!("a here-document of COPY") };
                        self.copy(&root, &path.value, &self.absolute(&copy.dest.value));
                    }
                }
                Instruction::Run(run) => self.run(&words(&run.arguments)),
                Instruction::User(user) => {
                    let (user, group) = user.arguments.value.split_once(':').expect("user and group");
                    self.settings.user = Some((user.parse().expect("a number"), group.parse().expect("a number")));
                }
                Instruction::Expose(port) => self.settings.port = port.arguments[0].value.parse().unwrap(),
                Instruction::Stopsignal(signal) => self.settings.stop_signal = signal.arguments.value.to_string(),
                Instruction::Cmd(cmd) => self.settings.command = words(&cmd.arguments),
                Instruction::Healthcheck(check) => match &check.arguments {
                    HealthcheckArguments::Cmd { arguments, .. } => self.settings.health_check = words(arguments),
                    other => panic!("{other:?}"),
                },
                other => panic!("the tests do not know {other:?}"),
            }
        }
    }

    /// Runs a command as root, in the working directory and with the environment of the image.
    fn run(&self, words: &[String]) {
        let mut script = format!("cd '{}'\n", self.settings.directory);
        for (name, value) in &self.settings.environment {
            script.push_str(&format!("export {name}='{value}'\n"));
        }
        let output =
            self.directory.command(&["sh", "-ec", &(script + "exec \"$@\""), "sh"]).args(words).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}\n{}{said}", String::from_utf8_lossy(&output.stdout));
    }

    /// Copies files that a pattern names, or the contents of a directory.
    fn copy(&self, root: &Path, pattern: &str, to: &str) {
        let pattern = root.join(pattern.trim_start_matches('/'));
        let target = self.directory.path(to);
        let is_directory = pattern.is_dir();
        if is_directory || to.ends_with('/') {
            fs::create_dir_all(&target).unwrap();
        }
        let found: Vec<PathBuf> = glob::glob(pattern.to_str().unwrap()).unwrap().map(Result::unwrap).collect();
        assert!(!found.is_empty(), "COPY: no file {}", pattern.display());
        for path in found {
            let source = if is_directory { path.join(".") } else { path };
            let copied = Command::new("cp").arg("-a").arg(&source).arg(&target).status().expect("run cp");
            assert!(copied.success(), "COPY {}", source.display());
        }
    }

    fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.settings.directory) }
    }

    /// Replaces the variable PATH, the only one that the Containerfiles use.
    fn expanded(&self, value: &str) -> String {
        value.replace("$PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }
}

/// Returns a command as a list of words: the shell form runs in a shell.
fn words(command: &Words<'_>) -> Vec<String> {
    let text = |word: &UnescapedString<'_>| word.value.to_string();
    match command {
        Words::Exec(words) => words.value.iter().map(text).collect(),
        // The crate leaves the ends of joined lines and the comments between them in place; the shell drops both.
        Words::Shell(line) => ["/bin/sh", "-c", line.value].map(str::to_owned).to_vec(),
        other => panic!("{other:?}"),
    }
}
