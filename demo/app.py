"""The page that `make run` serves: what a WSGI application sees and does inside an nginx worker.

Plain PEP 3333 and the standard library only, so that every line shows what the server does and none what a framework
does. Each thing to try is one function below; `ROUTES` at the end lists them.
"""

import hashlib
import itertools
import logging
import os
import sys
import threading
import time
from html import escape
from string import Template
from urllib.parse import quote

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
log = logging.getLogger("demo")

STARTED = time.time()
served = itertools.count(1)  # next() on it is atomic: calls may run in several threads

BLOCK = 64 * 1024


def application(environ, start_response):
    """The WSGI callable: finds the function for the path, or says that there is none."""
    route = ROUTES.get(environ.get("PATH_INFO") or "/")
    if route is None:
        return not_found(environ, start_response)
    methods, function = route
    if environ["REQUEST_METHOD"] not in methods:
        headers = [("Allow", ", ".join(methods)), ("Content-Type", "text/plain; charset=utf-8")]
        start_response("405 Method Not Allowed", headers)
        return [b"This address takes " + " or ".join(methods).encode() + b".\n"]
    return function(environ, start_response)


# --- The things to try ---------------------------------------------------------------------------------------------


def home(environ, start_response):
    """Where this code runs, what it was given, and what to try."""
    content = HOME.substitute(
        root=link(environ, "/"),
        address=escape(address(environ)),
        facts=table(facts(environ)),
        environ=table((key, kind_and_value(value)) for key, value in sorted(environ.items())),
    )
    return html(start_response, "200 OK", page("Python inside nginx", content))


def stream(environ, start_response):
    """Streams a response: each piece arrives when it is yielded."""
    start_response("200 OK", [("Content-Type", "text/html; charset=utf-8")])
    return stream_pieces(environ)


def stream_pieces(environ, pieces=10, pause=0.5):
    started = time.monotonic()
    content = "<ol class=card>PIECES</ol>" + back(environ)
    start, _, end = page("A streamed response", content).partition("PIECES")
    try:
        yield start.encode()
        for number in range(1, pieces + 1):
            time.sleep(pause)
            yield f"<li>piece {number} of {pieces}, after {time.monotonic() - started:.1f} s</li>\n".encode()
        yield end.encode()
    finally:
        # Also when the client has gone away: PEP 3333 promises that the iterable is closed.
        log.info("the stream was closed after %.1f s", time.monotonic() - started)


def upload(environ, start_response):
    """Reads a body of any size in blocks; memory stays flat."""
    started = time.monotonic()
    size, digest = 0, hashlib.sha256()
    for block in body_blocks(environ):
        size += len(block)
        digest.update(block)
    seconds = time.monotonic() - started
    lines = [f"{size:,} bytes", f"sha256 {digest.hexdigest()}", f"read in {seconds:.2f} s"]
    return text(start_response, "200 OK", "\n".join(lines) + "\n")


def error(environ, start_response):
    """An uncaught exception, with a cause."""
    try:
        {"nginx": "a worker"}["application server"]
    except KeyError as missing:
        raise RuntimeError("raised by the demo, <on purpose>: this is no application server") from missing


def write_log(environ, start_response):
    """Four ways to write to nginx's error log, which `make run` shows in the terminal."""
    print("print() says hello")
    print("sys.stderr says hello", file=sys.stderr)
    print("wsgi.errors says hello", file=environ["wsgi.errors"])
    log.warning("logging says hello")
    return text(start_response, "200 OK", "Four lines went to nginx's error log: look at the terminal.\n")


def not_found(environ, start_response):
    # WSGI strings are bytes in disguise (Latin-1): this is how the path becomes readable again.
    path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
    content = f"<p class=card>There is nothing at <code>{escape(path)}</code>.</p>" + back(environ)
    return html(start_response, "404 Not Found", page("Not found", content))


ROUTES = {
    "/": (("GET", "HEAD"), home),
    "/stream": (("GET",), stream),
    "/upload": (("POST", "PUT"), upload),
    "/error": (("GET",), error),
    "/print": (("GET",), write_log),
}


# --- What they are made of -----------------------------------------------------------------------------------------


def body_blocks(environ):
    """The request's body, block by block.

    A server that sets `wsgi.input_terminated` ends the body by itself, also one sent in chunks; elsewhere its length
    says where it ends.
    """
    body = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        while block := body.read(BLOCK):
            yield block
        return
    left = int(environ.get("CONTENT_LENGTH") or 0)
    while left and (block := body.read(min(BLOCK, left))):
        left -= len(block)
        yield block


def facts(environ):
    """Where this code runs, as (name, HTML) rows."""
    yield "server", escape(environ.get("SERVER_SOFTWARE", "unknown"))
    yield "Python", f"{escape(sys.version.split()[0])}, <code>{escape(sys.prefix)}</code>"
    yield "process", f"worker {os.getpid()}, child of nginx's master {os.getppid()}"
    yield "thread", escape(threading.current_thread().name)
    yield "up for", f"{time.time() - STARTED:.0f} s, request {next(served)} of this page in this worker"


def kind_and_value(value):
    return f"<code>{escape(repr(value))}</code> <small>{escape(type(value).__name__)}</small>"


def table(rows):
    return "<table>" + "".join(f"<tr><th>{escape(name)}<td>{value}\n" for name, value in rows) + "</table>"


def link(environ, path):
    """The address of one of our paths, wherever the application is mounted."""
    return escape(quote(environ.get("SCRIPT_NAME", "").encode("latin-1")) + path)


def address(environ):
    """How the client reached us, to be shown in examples."""
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    return f"{environ['wsgi.url_scheme']}://{host}{quote(environ.get('SCRIPT_NAME', '').encode('latin-1'))}"


def back(environ):
    return f'<p><a href="{link(environ, "/")}">Back</a></p>'


def page(title, content):
    return PAGE.substitute(title=escape(title), content=content)


def html(start_response, status, document):
    return whole(start_response, status, "text/html; charset=utf-8", document.encode())


def text(start_response, status, document):
    return whole(start_response, status, "text/plain; charset=utf-8", document.encode())


def whole(start_response, status, content_type, body):
    start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]


# --- The pages -----------------------------------------------------------------------------------------------------

PAGE = Template("""<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<link rel=icon href="data:,">
<title>$title</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #0a7d3c; }
@media (prefers-color-scheme: dark) { :root { --accent: #5fd38d; } }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2.2rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.02em; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .25rem; }
a { color: var(--accent); }
code, pre, output, table { font: .85rem/1.5 ui-monospace, monospace; }
.lead { font-size: 1.15rem; max-width: 46rem; margin: 0; opacity: .85; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); }
.card, .grid > * { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.1rem; background: var(--soft); }
.card p, .grid p { margin: 0 0 .6rem; }
ol.card { padding-left: 2.6rem; }
pre { margin: 0; overflow-x: auto; }
output { display: block; margin-top: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-top: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; }
td { overflow-wrap: anywhere; }
small { opacity: .6; }
</style>
<h1>$title</h1>
$content
</html>
""")

HOME = Template("""
<p class=lead>This page was made by a WSGI application that runs in the worker process that your browser is connected
to. There is no application server behind it: no second process, no socket, nothing else to start.</p>

<h2>Where this code runs</h2>
$facts

<h2>Try it</h2>
<div class=grid>
  <section>
    <h3><a href="${root}stream">A streamed response</a></h3>
    <p>Ten pieces in five seconds. Each is on its way as soon as the application yields it: nothing on the way holds
    it back.</p>
    <code>curl -N $address/stream</code>
  </section>
  <section>
    <h3>An upload</h3>
    <p>Read in blocks of 64 KiB: the worker's memory stays flat, whatever the size.</p>
    <form id=upload action="${root}upload" method=post enctype=multipart/form-data>
      <input type=file name=file required> <button>Send</button>
      <output></output>
    </form>
    <code>curl -T FILE $address/upload</code>
  </section>
  <section>
    <h3><a href="${root}error">An exception</a></h3>
    <p>With <code>wsgi_debug on</code> the response is its traceback; without it, nginx's own error page. The error
    log has it in both cases.</p>
    <code>curl $address/error</code>
  </section>
  <section>
    <h3><a href="${root}print">The error log</a></h3>
    <p><code>print</code>, <code>sys.stderr</code>, <code>wsgi.errors</code> and <code>logging</code> all arrive there,
    each line with its request.</p>
    <code>curl $address/print</code>
  </section>
  <section>
    <h3><a href="${root}static/demo.css">A file from nginx</a></h3>
    <p>One <code>location</code> is Python, the one next to it is nginx as ever: files, caches, limits, TLS.</p>
    <p id=from-nginx></p>
  </section>
  <section>
    <h3>Your own application</h3>
    <p>Django, Flask, or any WSGI callable:</p>
    <pre>make run APP=app.py
make run APP=mysite.wsgi \\
    DIR=/srv/mysite VENV=/srv/venv</pre>
  </section>
</div>

<h2>What it takes in nginx.conf</h2>
<pre class=card>load_module modules/ngx_http_wsgi_module.so;
…
location / {
    wsgi_pass /srv/demo/app.py;
}
location /static/ {
    alias /srv/demo/static/;
}</pre>

<h2>The environ of this request</h2>
$environ

<link rel=stylesheet href="${root}static/demo.css">
<script>
// The file is sent as it is, not as a part of a form, so that size and checksum are the file's own.
const form = document.getElementById("upload"), output = form.querySelector("output");
form.addEventListener("submit", async event => {
  event.preventDefault();
  output.textContent = "…";
  try {
    const response = await fetch(form.action, { method: "POST", body: form.elements.file.files[0] });
    output.textContent = await response.text();
  } catch (error) {
    output.textContent = error;
  }
});
</script>
""")
