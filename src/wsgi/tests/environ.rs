//! The environ dictionary.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Request, application, events_of, request};
use crate::wsgi::params::{CgiParams, Variable};

/// Returns the values of these expressions, in which `e` is environ, for a request with parameters set by `set`.
#[track_caller]
fn eval<const N: usize>(set: impl FnOnce(&mut CgiParams), expressions: [&str; N]) -> Vec<String> {
    let mut request = request();
    set(&mut request.params);
    let values = expressions.join(", ");
    let lines = format!("e = environ\nevents.extend(({values},))\nstart_response('200 OK', [])\nreturn []");
    request.call(&application(&lines)).expect(200).events
}

fn with(pairs: &[(Variable, &[u8])]) -> Request {
    let mut request = request();
    for (variable, value) in pairs {
        request.params.set(*variable, value);
    }
    request
}

#[test]
fn it_is_a_plain_dict() {
    assert_eq!(eval(|_| {}, ["type(e) is dict"]), ["True"]);
}

#[test]
fn the_keys_of_wsgi_have_the_types_of_pep_3333() {
    let expressions = [
        "e['wsgi.version']",
        "e['wsgi.multithread']",
        "e['wsgi.multiprocess']",
        "e['wsgi.run_once']",
        "e['wsgi.input_terminated']",
        "e['SERVER_SOFTWARE']",
        "e['GATEWAY_INTERFACE']",
    ];
    assert_eq!(eval(|_| {}, expressions), ["(1, 0)", "True", "False", "False", "True", "nginx/1.0", "CGI/1.1"]);
    assert_eq!(eval(|_| {}, ["type(e['wsgi.version']) is tuple"]), ["True"]);
}

#[test]
fn streams_and_file_wrapper_have_their_methods() {
    let events = events_of(
        "
for key, names in {
    'wsgi.input': ('read', 'readline', 'readlines', '__iter__'),
    'wsgi.errors': ('write', 'writelines', 'flush'),
    'wsgi.file_wrapper': ('__call__',),
}.items():
    events.extend(name for name in names if not callable(getattr(environ[key], name, None)))
start_response('200 OK', [])
return []",
    );
    assert_eq!(events, [""; 0]);
}

#[test]
fn cgi_variables_are_plain_str_of_latin_1() {
    let request = with(&[
        (Variable::PathInfo, b"/caf\xc3\xa9 \xff"),
        (Variable::QueryString, b""),
        (Variable::ServerName, b"host"),
        (Variable::UrlScheme, b"https"),
    ]);
    let lines = "
events.extend([environ['PATH_INFO'] == '/caf\\xc3\\xa9 \\xff', environ['QUERY_STRING'] == '', environ['SERVER_NAME'],
               environ['wsgi.url_scheme']])
events.extend(key for key, value in environ.items() if not key.startswith('wsgi.') and type(value) is not str)
start_response('200 OK', [])
return []";
    assert_eq!(request.call(&application(lines)).expect(200).events, ["True", "True", "host", "https"]);
}

#[test]
fn every_variable_has_its_key() {
    let set = |params: &mut CgiParams| {
        for (variable, name) in [
            (Variable::RequestMethod, "REQUEST_METHOD"),
            (Variable::ScriptName, "SCRIPT_NAME"),
            (Variable::RequestUri, "REQUEST_URI"),
            (Variable::ServerProtocol, "SERVER_PROTOCOL"),
            (Variable::ServerPort, "SERVER_PORT"),
            (Variable::RemoteAddr, "REMOTE_ADDR"),
            (Variable::RemoteUser, "REMOTE_USER"),
            (Variable::ContentLength, "CONTENT_LENGTH"),
            (Variable::Https, "HTTPS"),
        ] {
            params.set(variable, name.as_bytes());
        }
    };
    assert_eq!(
        eval(
            set,
            ["sorted(key for key, value in e.items() if key == value) == sorted(
        'REQUEST_METHOD SCRIPT_NAME REQUEST_URI SERVER_PROTOCOL SERVER_PORT REMOTE_ADDR REMOTE_USER \
         CONTENT_LENGTH HTTPS'.split())"]
        ),
        ["True"]
    );
}

#[test]
fn variables_that_are_not_set_are_absent() {
    let keys = "[k for k in ('CONTENT_TYPE', 'CONTENT_LENGTH', 'HTTPS', 'REMOTE_USER', 'HTTP_HOST') if k in e]";
    assert_eq!(eval(|_| {}, [keys]), ["[]"]);
}

#[test]
fn headers_become_http_keys() {
    let set = |params: &mut CgiParams| {
        let headers = [("X-oDD-Name", "a, b"), ("Cookie", "a=1"), ("cookie", "b=\u{e9}"), ("Content-Type", "t/p")];
        params.set_headers(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), true);
    };
    let values =
        eval(set, ["e['HTTP_X_ODD_NAME']", "ascii(e['HTTP_COOKIE'])", "e['CONTENT_TYPE']", "'HTTP_CONTENT_TYPE' in e"]);
    assert_eq!(values, ["a, b", "'a=1; b=\\xc3\\xa9'", "t/p", "False"]);
}

#[test]
fn later_parameters_override_earlier_ones() {
    let set = |params: &mut CgiParams| {
        params.set(Variable::ServerName, b"first");
        params.set_named(b"SERVER_NAME", b"second");
        params.set_named(b"MY_KEY", b"");
    };
    assert_eq!(eval(set, ["e['SERVER_NAME']", "repr(e['MY_KEY'])"]), ["second", "''"]);
}

#[test]
fn a_change_of_one_environ_is_not_seen_in_another() {
    let lines = "
events.append([key for key in environ if key.startswith('my.')])
environ['my.mark'] = object()
environ['wsgi.multithread'] = 'changed'
del environ['wsgi.run_once']
start_response('200 OK', [])
return []";
    for _ in 0..2 {
        assert_eq!(request().call(&application(lines)).expect(200).events, ["[]"]);
    }
    assert_eq!(eval(|_| {}, ["e['wsgi.multithread']", "e['wsgi.run_once']"]), ["True", "False"]);
}

/// Calls an application with requests of one connection, whose parameters `sets` set, and returns the values of these
/// expressions for each.
#[track_caller]
fn eval_each(sets: &[&dyn Fn(&mut CgiParams)], expression: &str) -> Vec<String> {
    // A number that no other test uses, so that the first request finds no environ of another.
    static CONNECTION: AtomicU32 = AtomicU32::new(1_000_000);
    let connection = CONNECTION.fetch_add(1, Ordering::Relaxed);
    let evaluate = |set: &&dyn Fn(&mut CgiParams)| {
        let set = |params: &mut CgiParams| {
            params.connection = connection;
            set(params);
        };
        eval(set, [expression]).remove(0)
    };
    sets.iter().map(evaluate).collect()
}

fn header(name: &'static str, value: &'static str) -> impl Fn(&mut CgiParams) {
    move |params| params.set_headers([(name.as_bytes(), value.as_bytes())].into_iter(), true)
}

#[test]
fn each_request_of_a_connection_has_its_own_headers() {
    let (one, other, none) = (header("X-A", "1"), header("X-A", "2"), |_: &mut CgiParams| {});
    let expected = ["1", "1", "2", "2", "None", "1", "1", "None"];
    let sets: [&dyn Fn(&mut CgiParams); 8] = [&one, &one, &other, &other, &none, &one, &one, &none];
    assert_eq!(eval_each(&sets, "e.get('HTTP_X_A')"), expected);
}

#[test]
fn each_request_of_a_connection_has_its_own_path() {
    let path = |path: &'static str| move |params: &mut CgiParams| params.set(Variable::PathInfo, path.as_bytes());
    let paths = ["/a", "/a", "/b", "/a", "/caf\u{e9}", ""];
    let sets = paths.map(path);
    let sets = sets.each_ref().map(|set| set as &dyn Fn(&mut CgiParams));
    let shown = paths.map(|path| format!("{:?}", path.as_bytes().iter().copied().map(char::from).collect::<String>()));
    assert_eq!(eval_each(&sets, "'\"' + e['PATH_INFO'] + '\"'"), shown);
}

#[test]
fn a_change_of_one_environ_is_not_seen_in_the_next_of_its_connection() {
    let set = header("X-A", "1");
    let sets: [&dyn Fn(&mut CgiParams); 3] = [&set, &set, &set];
    assert_eq!(eval_each(&sets, "[e.pop('HTTP_X_A'), e.pop('wsgi.version'), e.pop('my.key', 0)]").len(), 3);
}

#[test]
fn a_value_is_overridden_by_a_later_one_in_every_request() {
    let set = |query: &'static str| {
        move |params: &mut CgiParams| {
            params.set(Variable::QueryString, query.as_bytes());
            params.set_named(b"QUERY_STRING", b"fixed");
        }
    };
    let (one, other) = (set("a"), set("b"));
    let sets: [&dyn Fn(&mut CgiParams); 4] = [&one, &one, &other, &other];
    assert_eq!(eval_each(&sets, "e['QUERY_STRING']"), ["fixed"; 4]);
    let set = |value: &'static str| {
        move |params: &mut CgiParams| {
            params.set_named(b"KEY", b"fixed");
            params.set_named(b"KEY", value.as_bytes());
        }
    };
    let (one, other) = (set("a"), set("b"));
    let sets: [&dyn Fn(&mut CgiParams); 4] = [&one, &one, &other, &other];
    assert_eq!(eval_each(&sets, "e['KEY']"), ["a", "a", "b", "b"]);
}

#[test]
fn repeated_headers_are_joined_before_later_parameters() {
    let set = |params: &mut CgiParams| {
        let headers = [("X-A", "1"), ("Host", "header"), ("x-a", "2"), ("X_B", "forged"), ("X-B", "real")];
        params.set_headers(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), true);
        params.set_named(b"HTTP_HOST", b"target");
    };
    let other = |params: &mut CgiParams| {
        let headers = [("X-A", "3"), ("Host", "header"), ("x-a", "4"), ("X_B", "forged"), ("X-B", "other")];
        params.set_headers(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), true);
        params.set_named(b"HTTP_HOST", b"target");
    };
    let sets: [&dyn Fn(&mut CgiParams); 4] = [&set, &set, &other, &set];
    let expression = "' '.join((e['HTTP_X_A'], e['HTTP_HOST'], e['HTTP_X_B']))";
    let (one, two) = ("1, 2 target real", "3, 4 target other");
    assert_eq!(eval_each(&sets, expression), [one, one, two, one]);
}
