//! The environ dictionary.

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
            (Variable::ContentType, "CONTENT_TYPE"),
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
        'REQUEST_METHOD SCRIPT_NAME REQUEST_URI SERVER_PROTOCOL SERVER_PORT REMOTE_ADDR REMOTE_USER CONTENT_TYPE \
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
