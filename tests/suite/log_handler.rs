//! `ngx_wsgi.LogHandler`: records of `logging` in nginx's error log.

use crate::harness::{Engine, Site, both_engines};
use crate::log::{does, letters_logged, message, number};

both_engines!(
    a_log_handler_maps_levels,
    a_log_handler_writes_whole_records,
    a_log_handler_works_everywhere,
    a_log_handler_works_in_a_forked_child,
    a_log_handler_can_be_configured,
    a_log_handler_costs_nothing_unless_it_is_used,
);

fn a_log_handler_maps_levels(engine: Engine) {
    let body = r#"
import ngx_wsgi
logger = logging.getLogger("mine")
logger.propagate = False
logger.setLevel(1)
logger.addHandler(ngx_wsgi.LogHandler())
for level in (1, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60):
    logger.log(level, "at level %d.", level)
"#;
    let mut nginx = does(engine, body).log_level("debug").start();
    nginx.get("/").expect(200);
    nginx.wait_expected_error("at level 60.");
    nginx.wait_expected_error("at level 50.");
    for (name, levels) in [
        ("debug", &[1, 10, 15][..]),
        ("info", &[20, 25]),
        ("warn", &[30, 35]),
        ("error", &[40, 45]),
        ("crit", &[50, 60]),
    ] {
        for level in levels {
            let line = nginx.wait_log(&format!("at level {level}."));
            assert!(line.contains(&format!("[{name}]")), "{line}");
            assert!(number(&line).is_some(), "{line}");
            // nginx adds nothing at that level.
            assert_eq!(line.contains("request: \"GET / HTTP/1.1\""), *name != *"debug", "{line}");
        }
    }
    // Records below the level of the log are not there.
    let nginx = does(engine, &body.replace("(1, ", "(20, 1, ").replace(", 50, 60", "")).log_level("notice").start();
    nginx.get("/").expect(200);
    nginx.wait_log("at level 45.");
    assert_eq!(nginx.logged("at level").len(), 4);
}

fn a_log_handler_writes_whole_records(engine: Engine) {
    let nginx = does(
        engine,
        r#"
import ngx_wsgi
logger = logging.getLogger("mine")
logger.propagate = False
logger.addHandler(ngx_wsgi.LogHandler())
try:
    {}["a key"]
except KeyError:
    logger.warning("two\nlines", exc_info=True)
logger.warning("w" * 5000 + " the end of it")
logger.warning("\u20ac half \ud800 a pair\n")
logger.warning("wrong: %d", "text")
"#,
    )
    .start();
    nginx.get("/").expect(200);
    nginx.wait_log("Arguments: ('text',)");
    let log = nginx.error_log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("[warn]")).map(message).collect();
    assert_eq!(warnings[..3], ["two", "lines", "Traceback (most recent call last):"]);
    assert!(warnings.contains(&"KeyError: 'a key'") && warnings.contains(&"\u{20ac} half \\ud800 a pair"), "{log}");
    assert_eq!(letters_logged(&log, 'w'), 5000);
    assert_eq!(warnings.iter().filter(|line| line.ends_with("the end of it")).count(), 1);
}

/// At import, in requests, in threads; and in sub-interpreters where there are some.
fn a_log_handler_works_everywhere(engine: Engine) {
    let source = r#"
import logging
import threading

import ngx_wsgi

logging.basicConfig(handlers=[ngx_wsgi.LogHandler()], level=logging.INFO)
name = ngx_wsgi.interpreter
logging.info("in %s at import", name)

def application(environ, start_response):
    thread = threading.Thread(target=logging.warning, args=("in %s on a thread", name))
    thread.start()
    thread.join()
    logging.info("in %s in a request", name)
    start_response("200 OK", [])
    return [b"done"]
"#;
    let site = Site::new(engine);
    let (site, names) = match engine {
        Engine::Threads => {
            let sub = "wsgi_pass app.py; wsgi_enable_subinterpreters on; wsgi_interpreter";
            let own = if env!("WSGI_PYTHON_VERSION") < "3.13" { "shared" } else { "own" };
            let site = site.location("/sub", &format!("{sub} sub;"));
            let site = site.location("/other", &format!("{sub} other; wsgi_interpreter_gil {own};"));
            (site, vec!["main", "sub", "other"])
        }
        Engine::Inline => (site, vec!["main"]),
    };
    let nginx = site.app(source).start();
    for name in names {
        let line = nginx.wait_log(&format!("INFO:root:in {name} at import"));
        assert!(line.contains("[info]") && number(&line).is_none(), "{line}");
        nginx.get(&format!("/{}", name.trim_start_matches("main"))).expect(200);
        let line = nginx.wait_log(&format!("WARNING:root:in {name} on a thread"));
        assert!(line.contains("[warn]") && number(&line).is_none(), "{line}");
        let line = nginx.wait_log(&format!("INFO:root:in {name} in a request"));
        assert!(line.contains("[info]") && number(&line).is_some(), "{line}");
    }
}

fn a_log_handler_works_in_a_forked_child(engine: Engine) {
    let nginx = does(
        engine,
        r#"
import ngx_wsgi, os
logging.basicConfig(handlers=[ngx_wsgi.LogHandler()])
child = os.fork()
if child == 0:
    logging.warning("in a child")
    os._exit(0)
os.waitpid(child, 0)
logging.warning("in its parent")
"#,
    )
    .start();
    nginx.get("/").expect(200);
    nginx.wait_log("WARNING:root:in its parent");
    assert_eq!(nginx.logged("in a child"), ["WARNING:root:in a child"]);
}

/// The LOGGING of Django, as in docs/logging.md.
fn a_log_handler_can_be_configured(engine: Engine) {
    let nginx = does(
        engine,
        r#"
import logging.config
from ngx_wsgi import LogHandler as handler
for console in ({"()": handler}, {"class": "ngx_wsgi.LogHandler"}):
    logging.config.dictConfig({
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"named": {"format": "%(name)s: %(message)s"}},
        "handlers": {"console": {**console, "level": "INFO", "formatter": "named"}},
        "root": {"handlers": ["console"], "level": "DEBUG"},
    })
    assert type(logging.getLogger().handlers[0]) is handler
assert repr(handler) == "<class 'ngx_wsgi.LogHandler'>", repr(handler)
logging.getLogger("shop").debug("too little")
logging.getLogger("shop").warning("a warning")
"#,
    )
    .start();
    nginx.get("/").expect(200);
    assert!(nginx.wait_log("shop: a warning").contains("[warn]"));
    assert_eq!(nginx.logged("too little"), Vec::<String>::new());
}

fn a_log_handler_costs_nothing_unless_it_is_used(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import sys
import ngx_wsgi

before = "logging" in sys.modules
found = [hasattr(ngx_wsgi, "LogHandler"), hasattr(ngx_wsgi, "NoHandler"), "logging" in sys.modules]

def application(environ, start_response):
    start_response("200 OK", [])
    return [repr([before, *found]).encode()]
"#,
        )
        .start();
    assert_eq!(nginx.get("/").expect(200).text(), "[False, True, False, True]");
}
