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

/// Declares the directives of one level. An entry has the form
///
/// ```text
/// /// One-line description, as in docs/directives.md.
/// name: Type = default => "documented default", contexts and number of arguments, setter;
/// ```
///
/// It declares the directive `wsgi_name`, for which nginx calls `setter(cf, args, &mut field)` with a field of type
/// `Option<Type>`, and an accessor `name()`. The accessor returns the value or the default; without a default,
/// `Option<&Type>`. The documented default is given only if it is not the text of the default.
///
/// A new directive needs an entry here and a section in docs/directives.md.
macro_rules! settings {
    (
        $(#[$attribute:meta])*
        pub struct $Settings:ident of $Conf:ident by $command:path;

        $(
            #[doc = $description:literal]
            $name:ident: $type:ty $(= $default:expr)? $(=> $documented:literal)?,
                $contexts_and_arguments:expr, $setter:path;
        )*
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Default)]
        pub struct $Settings {
            $(
                #[doc = $description]
                pub(super) $name: Option<$type>,
            )*
        }

        impl $crate::conf::settings::Settings for $Settings {
            const COMMANDS: &'static [$crate::nginx::sys::ngx_command_t] = &[
                $(
                    $command(
                        ::ngx::ngx_string!(concat!("wsgi_", stringify!($name))),
                        $contexts_and_arguments,
                        |cf, args, conf: &mut $Conf| $setter(cf, args, &mut conf.settings.$name),
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
                    if self.$name.is_none() {
                        self.$name.clone_from(&outer.$name);
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

    (@documented $type:ty) => { None };
    (@documented $type:ty $(= $default:expr)? => $documented:literal) => { Some($documented.to_owned()) };
    (@documented $type:ty = $default:expr) => {{
        let default: $type = $default;
        Some($crate::conf::settings::Written::written(&default))
    }};
}

pub(super) use settings;
