//! The configuration of one level: what is set here, and after merging what holds here.

use std::sync::Arc;

use super::main::{MainConf, content_handler};
use crate::app::specification::{Callable, Specification, Target};
use crate::nginx::conf::{ComplexValue, Conf};

/// Where calls of an application run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// On the event loop thread.
    Off,
    /// On this many pool threads of the worker.
    Pool(usize),
}

impl Default for Threads {
    fn default() -> Self {
        Self::Pool(4)
    }
}

/// One `wsgi_var`.
#[derive(Clone, Debug)]
pub struct EnvironVariable {
    pub name: String,
    pub value: ComplexValue,
    pub if_not_empty: bool,
}

/// One `wsgi_pass` as it was written.
#[derive(Clone, Debug)]
pub struct Pass {
    pub target: Target,
    pub callable: Callable,
    /// File and line, for messages.
    pub place: String,
}

/// The directives of one level. `None` is "not set here"; after [`LocationConf::merge`] the accessors give defaults.
#[derive(Debug, Default)]
pub struct LocationConf {
    pub pass: Option<Pass>,
    pub script_name: Option<ComplexValue>,
    pub variables: Option<Vec<EnvironVariable>>,
    pub middleware: Option<Vec<(String, Callable)>>,
    pub environment: Option<Vec<(String, String)>>,
    pub pass_authorization: Option<bool>,
    pub preload: Option<bool>,
    pub threads: Option<Threads>,
    pub debug: Option<bool>,
    pub allow_ranges: Option<bool>,

    /// The location's own prefix: the default of `wsgi_script_name`.
    mount: Vec<u8>,
    application: Option<Arc<Specification>>,
}

impl LocationConf {
    /// Fills what is not set here from the outer level, and registers the application of the location.
    pub fn merge(&mut self, outer: &Self, conf: &Conf, main: &mut MainConf) {
        inherit(&mut self.script_name, &outer.script_name);
        inherit(&mut self.variables, &outer.variables);
        inherit(&mut self.middleware, &outer.middleware);
        inherit(&mut self.environment, &outer.environment);
        inherit(&mut self.pass_authorization, &outer.pass_authorization);
        inherit(&mut self.preload, &outer.preload);
        inherit(&mut self.threads, &outer.threads);
        inherit(&mut self.debug, &outer.debug);
        inherit(&mut self.allow_ranges, &outer.allow_ranges);

        let location = conf.core_location();
        if location.is_unnamed() {
            // `if` and `limit_except` stand in a location and are a part of it.
            self.mount.clone_from(&outer.mount);
            inherit(&mut self.pass, &outer.pass);
            if location.is_limit_except()
                && !location.has_handler()
                && self.pass.is_some()
                && let Some(handler) = content_handler()
            {
                location.set_handler(handler);
            }
        } else {
            self.mount = location.prefix().unwrap_or_default().to_vec();
        }
        if let Some(pass) = &self.pass {
            let specification = Specification {
                target: pass.target.clone(),
                callable: pass.callable.clone(),
                middleware: self.middleware.clone().unwrap_or_default(),
            };
            self.application = Some(main.register(specification, self, &pass.place));
        }
    }

    /// The application of this location.
    pub fn application(&self) -> Option<&Arc<Specification>> {
        self.application.as_ref()
    }

    /// The default of `wsgi_script_name`.
    pub fn mount(&self) -> &[u8] {
        &self.mount
    }

    pub fn pass_authorization(&self) -> bool {
        self.pass_authorization.unwrap_or(true)
    }

    pub fn preload(&self) -> bool {
        self.preload.unwrap_or(true)
    }

    pub fn threads(&self) -> Threads {
        self.threads.unwrap_or_default()
    }

    pub fn debug(&self) -> bool {
        self.debug.unwrap_or(false)
    }

    pub fn allow_ranges(&self) -> bool {
        self.allow_ranges.unwrap_or(false)
    }
}

fn inherit<T: Clone>(here: &mut Option<T>, outer: &Option<T>) {
    if here.is_none() {
        here.clone_from(outer);
    }
}
