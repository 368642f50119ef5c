//! `wsgi_log`: where the output of an application goes, and in which form.

use std::sync::Arc;

use super::main::MainConf;
use super::setters::{SetResult, invalid_value, once_with};
use crate::nginx::conf::Conf;
use crate::nginx::directive::Problem;
use crate::nginx::log_context::IndexedVariable;
use crate::nginx::log_target::LogTarget;

/// Form of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Lines as the application has written them.
    Raw,
    /// Records of nginx's error log.
    Nginx,
    /// A JSON object in each line.
    Json,
}

impl Form {
    const ALL: [(&'static str, Self); 3] = [("raw", Self::Raw), ("nginx", Self::Nginx), ("json", Self::Json)];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(name, _)| *name == text).map(|(_, form)| form)
    }

    /// Returns its name in the configuration.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, form)| *form == self).map_or("", |(name, _)| name)
    }
}

/// Log of an application.
#[derive(Debug)]
pub struct ApplicationLog {
    pub target: LogTarget,
    pub form: Form,
    /// `$request_id`, for the form that has it.
    pub request_id: Option<IndexedVariable>,
    /// First argument of the directive.
    pub argument: String,
    /// Process group that this nginx is an instance of; empty if it is none.
    pub group: String,
}

/// Prefix of the argument in instances of process groups: the supervisor writes the log with the number behind it.
pub const OF_GROUP: &str = "group:";

/// Sets `wsgi_log`; `off` is nginx's error log.
pub fn log(cf: &Conf, args: &[&str], slot: &mut Option<Option<Arc<ApplicationLog>>>) -> SetResult {
    once_with(slot, || {
        if args[1..] == ["off"] {
            return Ok(None);
        }
        let (argument, is_instance) = (args[1], cf.with_main_conf(MainConf::is_instance));
        let form = match args.get(2) {
            None => Form::Nginx,
            Some(name) => {
                Form::parse(name).ok_or_else(|| invalid_value(args, name, "\"raw\", \"nginx\" or \"json\""))?
            }
        };
        let of_group = argument.strip_prefix(OF_GROUP).filter(|_| is_instance);
        let target = match argument {
            name if is_mistake(name) => {
                let must_be = "a file without variables, \"stderr\", \"syslog:server=…\", or \"off\" alone";
                return Err(invalid_value(args, argument, must_be));
            }
            "stderr" => LogTarget::standard_error(cf),
            syslog if syslog.starts_with("syslog:") => LogTarget::syslog(cf, syslog),
            _ => match of_group.and_then(|number| number.parse().ok()) {
                Some(number) => LogTarget::of_group(cf, number),
                None => LogTarget::file(cf, argument),
            },
        };
        let target = target.map_err(|()| Problem::Logged)?;
        // Indexed, so that a request has one value for all logs. An instance gets that of the front.
        let request_id =
            (form == Form::Json && !is_instance).then(|| IndexedVariable::find(cf, "request_id")).transpose();
        let request_id = request_id.map_err(|()| Problem::Logged)?;
        let group = cf.with_main_conf(|main: &MainConf| main.instance().unwrap_or_default().to_owned());
        Ok(Some(Arc::new(ApplicationLog { target, form, request_id, argument: argument.to_owned(), group })))
    })
}

/// Returns whether nginx would open a file with a name that no administrator wants: that of a form, whose file is missing, or
/// what other directives for logs know.
fn is_mistake(name: &str) -> bool {
    ["", "off", "syslog"].contains(&name)
        || Form::parse(name).is_some()
        || name.starts_with("memory:")
        || name.contains('$')
}
