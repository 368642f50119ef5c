//! Directives of generated configurations, which no administrator writes and docs/directives.md does not have.

use super::content_handler;
use super::location::LocationConf;
use super::main::MainConf;
use super::status_zone::InstanceStatus;
use crate::nginx::conf::Conf;
use crate::nginx::directive::{self, HTTP, Problem};
use crate::nginx::sys::{NGX_CONF_NOARGS, NGX_CONF_TAKE2, NGX_HTTP_LOC_CONF, ngx_command_t};

/// Entries of nginx's directive table.
pub const COMMANDS: [ngx_command_t; 3] = [
    directive::main(ngx::ngx_string!("wsgi_instance"), HTTP | NGX_CONF_TAKE2, instance),
    directive::main(ngx::ngx_string!("wsgi_instance_status"), HTTP | NGX_CONF_TAKE2, instance_status),
    directive::location(ngx::ngx_string!("wsgi_dispatch"), NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS, dispatch),
];

/// Sets `wsgi_instance`: this nginx runs the applications of a process group, which has this many worker processes at the
/// most.
fn instance(_: &Conf, args: &[&str], conf: &mut MainConf) -> Result<(), Problem> {
    if conf.is_instance() {
        return Err(Problem::Duplicate);
    }
    let processes = args[2].parse().map_err(|_| Problem::invalid_value(args[0], args[2], "a number"))?;
    conf.set_instance(args[1], processes);
    Ok(())
}

/// Sets `wsgi_instance_status`: the user of the front's workers, and whether query strings are shown.
fn instance_status(_: &Conf, args: &[&str], conf: &mut MainConf) -> Result<(), Problem> {
    if conf.instance_status.is_some() {
        return Err(Problem::Duplicate);
    }
    let front_user = args[1].parse().map_err(|_| Problem::invalid_value(args[0], args[1], "a number"))?;
    conf.instance_status = Some(InstanceStatus { front_user, query: args[2] == "query=on" });
    Ok(())
}

/// Sets `wsgi_dispatch`: requests of the front go to the location that they name.
fn dispatch(cf: &Conf, _: &[&str], _: &mut LocationConf) -> Result<(), Problem> {
    if !cf.with_main_conf(MainConf::is_instance) {
        return Err(Problem::Message(String::from(
            "\"wsgi_dispatch\" directive is for instances of process groups only",
        )));
    }
    if let Some(handler) = content_handler::dispatch() {
        cf.core_location().set_handler(handler);
    }
    Ok(())
}
