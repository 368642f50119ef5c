//! The code of an application: the arguments of `wsgi_pass` and `wsgi_middleware`.

use std::fmt;
use std::path::{Path, PathBuf};

/// The script or module of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An absolute path.
    Script(PathBuf),
    /// A dotted name.
    Module(String),
}

/// The name of a callable in a module, possibly dotted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callable {
    pub name: String,
    /// True if it is called once, to create the application.
    pub is_factory: bool,
}

/// The interpreter of a worker that an application runs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Python's main interpreter, shared with all other applications there.
    #[default]
    Main,
    /// The interpreter of this name, shared with all applications that name it.
    Named(String),
    /// An interpreter of its own.
    Alone,
}

/// The identity of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Specification {
    pub target: Target,
    pub callable: Callable,
    /// Module and callable of each middleware, outermost first.
    pub middleware: Vec<(String, Callable)>,
    pub placement: Placement,
}

impl Placement {
    /// The name of the main interpreter.
    pub const MAIN: &str = "main";
}

impl Specification {
    /// Returns the name of its interpreter.
    pub fn interpreter(&self) -> String {
        match &self.placement {
            Placement::Main => Placement::MAIN.to_owned(),
            Placement::Named(name) => name.clone(),
            Placement::Alone => self.to_string(),
        }
    }

    /// Returns whether both run in the same interpreter.
    pub fn shares_interpreter(&self, other: &Self) -> bool {
        match &self.placement {
            Placement::Main | Placement::Named(_) => self.placement == other.placement,
            Placement::Alone => self == other,
        }
    }
}

impl Target {
    /// Parses the first argument of `wsgi_pass`; `full_path` makes a path absolute. A colon separates the callable.
    ///
    /// # Errors
    /// One sentence, if `text` is neither a path nor the name of a module.
    pub fn parse(text: &str, full_path: impl FnOnce(&str) -> Option<PathBuf>) -> Result<(Self, Option<&str>), String> {
        let (target, callable) = match text.rsplit_once(':') {
            Some((target, callable)) if !callable.contains('/') => (target, Some(callable)),
            _ => (text, None),
        };
        // `mysite.wsgi` is the name of Django's module, unless a script of that name exists.
        let is_module = is_dotted_name(target) && !target.ends_with(".py");
        if is_path(target) {
            let path = full_path(target).ok_or_else(|| format!("invalid path \"{target}\""))?;
            if !is_module || path.exists() {
                return Ok((Self::Script(path), callable));
            }
        }
        if is_module {
            return Ok((Self::Module(target.to_owned()), callable));
        }
        Err(format!(
            "\"{target}\" is neither the path of a script (with a \"/\", or ending in .py or .wsgi) nor the name of a \
             Python module"
        ))
    }
}

impl Callable {
    /// Parses `name`, `object.name` or `factory()`.
    ///
    /// # Errors
    /// One sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, is_factory) = match text.strip_suffix("()") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if is_dotted_name(name) {
            return Ok(Self { name: name.to_owned(), is_factory });
        }
        Err(format!("\"{text}\" is not the name of a Python callable, as in \"application\" or \"create_app()\""))
    }
}

fn is_path(text: &str) -> bool {
    text.contains('/') || text.ends_with(".py") || text.ends_with(".wsgi")
}

/// Returns whether `text` consists of Python identifiers joined by dots.
pub fn is_dotted_name(text: &str) -> bool {
    text.split('.').all(|name| {
        let mut characters = name.chars();
        characters.next().is_some_and(|first| first == '_' || first.is_alphabetic())
            && characters.all(|character| character == '_' || character.is_alphanumeric())
    })
}

impl Target {
    /// Returns the path of a script, `None` for a module.
    pub fn script(&self) -> Option<&Path> {
        match self {
            Self::Script(path) => Some(path),
            Self::Module(_) => None,
        }
    }
}

impl fmt::Display for Specification {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Script(path) => write!(formatter, "{}", path.display())?,
            Target::Module(name) => formatter.write_str(name)?,
        }
        let call = if self.callable.is_factory { "()" } else { "" };
        if self.callable.name != "application" || self.callable.is_factory {
            write!(formatter, ":{}{call}", self.callable.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Target, Option<&str>), String> {
        Target::parse(text, |path| Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)))
    }

    #[test]
    fn a_target_is_a_path_or_a_module() {
        assert_eq!(parse("/srv/a.py"), Ok((Target::Script("/srv/a.py".into()), None)));
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(parse("a.py:app"), Ok((Target::Script(here.join("a.py")), Some("app"))));
        assert_eq!(parse("./a.wsgi"), Ok((Target::Script(here.join("./a.wsgi")), None)));
        assert_eq!(parse("mysite.wsgi:app"), Ok((Target::Module("mysite.wsgi".into()), Some("app"))));
        assert_eq!(parse("site.wsgi_app"), Ok((Target::Module("site.wsgi_app".into()), None)));
        assert_eq!(parse("pkg.mod:make()"), Ok((Target::Module("pkg.mod".into()), Some("make()"))));
        assert_eq!(parse("/a:b/c"), Ok((Target::Script("/a:b/c".into()), None)));
        for refused in ["", "a b", "1a", "a..b", ".a", "a-b"] {
            assert!(parse(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn interpreters_are_shared_by_name_or_not_at_all() {
        let placed = |module: &str, placement: Placement| Specification {
            target: Target::Module(module.to_owned()),
            callable: Callable::parse("application").unwrap(),
            middleware: Vec::new(),
            placement,
        };
        let named = |module, name: &str| placed(module, Placement::Named(name.to_owned()));
        assert!(placed("a", Placement::Main).shares_interpreter(&placed("b", Placement::Main)));
        assert!(named("a", "x").shares_interpreter(&named("b", "x")));
        assert!(!named("a", "x").shares_interpreter(&named("a", "y")));
        assert!(!named("a", "x").shares_interpreter(&placed("a", Placement::Alone)));
        assert!(placed("a", Placement::Alone).shares_interpreter(&placed("a", Placement::Alone)));
        assert!(!placed("a", Placement::Alone).shares_interpreter(&placed("b", Placement::Alone)));
        let names = [placed("a", Placement::Main), named("a", "x"), placed("a", Placement::Alone)];
        assert_eq!(names.map(|placed| placed.interpreter()), ["main", "x", "a"]);
    }

    #[test]
    fn a_callable_is_a_name_or_a_call() {
        assert_eq!(Callable::parse("app"), Ok(Callable { name: "app".into(), is_factory: false }));
        assert_eq!(Callable::parse("a.make()"), Ok(Callable { name: "a.make".into(), is_factory: true }));
        for refused in ["", "()", "make(1)", "a b"] {
            assert!(Callable::parse(refused).is_err(), "{refused:?}");
        }
    }
}
