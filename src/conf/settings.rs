//! Declaration of directives: from one list, the fields for their values, nginx's command table, the merge and the
//! accessors.

use crate::nginx::sys::ngx_command_t;

/// Values of the directives of one level. A field is `None` if its directive is not set at that level.
pub trait Settings {
    /// Entries of nginx's directive table.
    const COMMANDS: &'static [ngx_command_t];

    /// The same directives for the comparison with docs/directives.md. Unit tests have no nginx, and so no `COMMANDS`.
    #[cfg(test)]
    const DOCUMENTATION: &'static [Entry];

    /// Takes each value that is not set here from the outer level.
    fn inherit(&mut self, outer: &Self);
}

/// A directive for the comparison with docs/directives.md.
#[cfg(test)]
pub struct Entry {
    pub name: &'static str,
    /// Flags of `ngx_command_t`.
    pub contexts_and_arguments: u32,
    /// One line; the compiler puts a space in front.
    pub description: &'static str,
    /// Default value in the syntax of nginx's configuration.
    pub default: fn() -> Option<String>,
}

/// Values that have a text in nginx's configuration.
#[cfg(test)]
pub trait Written {
    fn written(&self) -> String;
}

/// Directives of one level as they were written: name and arguments, in their order.
#[derive(Clone, Debug, Default)]
pub struct Lines(Vec<(&'static str, Vec<String>)>);

impl Lines {
    /// Adds a directive; `args` begins with its name.
    pub fn add(&mut self, name: &'static str, args: &[&str]) {
        self.0.push((name, args[1..].iter().map(|arg| (*arg).to_owned()).collect()));
    }

    /// Adds the directives with this name of the outer level.
    pub fn inherit(&mut self, name: &str, outer: &Self) {
        self.0.extend(outer.0.iter().filter(|(known, _)| *known == name).cloned());
    }

    /// Iterates over names and arguments.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        self.0.iter().map(|(name, args)| (*name, args.as_slice()))
    }
}

/// Quotes an argument for nginx's parser.
pub fn quoted(argument: &str) -> String {
    let mut text = String::from("\"");
    for character in argument.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            other => text.push(other),
        }
    }
    text.push('"');
    text
}

/// Declares the directives of one level. An entry has the form
///
/// ```text
/// /// One-line description, as in docs/directives.md.
/// name: Type = default => "documented default", contexts and number of arguments, setter;
/// ```
///
/// It declares the directive `wsgi_name`, for which nginx calls `setter(cf, args, &mut field)` with a field of type
/// `Option<Type>`, and an accessor `name()`. The accessor returns the value or the default; without a default,
/// `Option<&Type>`. The documented default is given only if it is not the text of the default. With `, level` after it,
/// the setter gets the whole configuration of the level.
///
/// A new directive needs an entry here and a section in docs/directives.md.
macro_rules! settings {
    (
        $(#[$attribute:meta])*
        pub struct $Settings:ident of $Conf:ident by $command:path;

        $(
            #[doc = $description:literal]
            $name:ident: $type:ty $(= $default:expr)? $(=> $documented:literal)?,
                $contexts_and_arguments:expr, $setter:path $(, $level:ident)?;
        )*
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Default)]
        pub struct $Settings {
            $(
                #[doc = $description]
                pub(super) $name: Option<$type>,
            )*
            /// The directives as they were written.
            pub(super) lines: $crate::conf::settings::Lines,
        }

        impl $crate::conf::settings::Settings for $Settings {
            const COMMANDS: &'static [$crate::nginx::sys::ngx_command_t] = &[
                $(
                    $command(
                        ::ngx::ngx_string!(concat!("wsgi_", stringify!($name))),
                        $contexts_and_arguments,
                        |cf, args, conf: &mut $Conf| {
                            settings!(@set $setter, cf, args, conf, $name $(, $level)?)?;
                            conf.settings.lines.add(concat!("wsgi_", stringify!($name)), args);
                            Ok(())
                        },
                    ),
                )*
            ];

            #[cfg(test)]
            const DOCUMENTATION: &'static [$crate::conf::settings::Entry] = &[
                $(
                    $crate::conf::settings::Entry {
                        name: concat!("wsgi_", stringify!($name)),
                        contexts_and_arguments: $contexts_and_arguments,
                        description: $description,
                        default: || settings!(@documented $type $(= $default)? $(=> $documented)?),
                    },
                )*
            ];

            fn inherit(&mut self, outer: &Self) {
                $(
                    if self.$name.is_none() && outer.$name.is_some() {
                        self.$name.clone_from(&outer.$name);
                        self.lines.inherit(concat!("wsgi_", stringify!($name)), &outer.lines);
                    }
                )*
            }
        }

        impl $Conf {
            $( settings!(@accessor $name: $type $(= $default)?); )*
        }
    };

    (@accessor $name:ident: $type:ty) => {
        #[doc = concat!("Returns the value of `wsgi_", stringify!($name), "`.")]
        pub fn $name(&self) -> Option<&$type> {
            self.settings.$name.as_ref()
        }
    };
    (@accessor $name:ident: $type:ty = $default:expr) => {
        #[doc = concat!("Returns the value of `wsgi_", stringify!($name), "`, or its default.")]
        pub fn $name(&self) -> $type {
            self.settings.$name.clone().unwrap_or_else(|| $default)
        }
    };

    (@set $setter:path, $cf:ident, $args:ident, $conf:ident, $name:ident) => {
        $setter($cf, $args, &mut $conf.settings.$name)
    };
    (@set $setter:path, $cf:ident, $args:ident, $conf:ident, $name:ident, level) => {
        $setter($cf, $args, $conf)
    };

    (@documented $type:ty) => { None };
    (@documented $type:ty $(= $default:expr)? => $documented:literal) => { Some($documented.to_owned()) };
    (@documented $type:ty = $default:expr) => {{
        let default: $type = $default;
        Some($crate::conf::settings::Written::written(&default))
    }};
}

pub(super) use settings;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_is_quoted_for_the_parser() {
        for (argument, expected) in [
            ("", r#""""#),
            ("a b;{}$x${y}#'", r#""a b;{}$x${y}#'""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("a\nb\rc\td\\n", r#""a\nb\rc\td\\n""#),
            ("ü", "\"ü\""),
        ] {
            assert_eq!(quoted(argument), expected);
        }
    }

    #[test]
    fn lines_are_inherited_by_name() {
        let (mut outer, mut inner) = (Lines::default(), Lines::default());
        outer.add("wsgi_env", &["wsgi_env", "A", "1"]);
        outer.add("wsgi_threads", &["wsgi_threads", "4"]);
        outer.add("wsgi_env", &["wsgi_env", "B", ""]);
        inner.add("wsgi_threads", &["wsgi_threads", "8"]);
        inner.inherit("wsgi_env", &outer);
        let lines: Vec<_> = inner.iter().map(|(name, args)| (name, args.join(" "))).collect();
        let expected = [("wsgi_threads", "8"), ("wsgi_env", "A 1"), ("wsgi_env", "B ")];
        assert_eq!(lines, expected.map(|(name, args)| (name, args.to_owned())));
    }
}
