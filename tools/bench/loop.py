"""The bare loop: calls an application as a server has to, without a network. Prints its rate, CPU time and memory.

Arguments: the name of the application's module, the length of the request body, the seconds. The request headers
are read from standard input.
"""

import importlib
import io
import sys
import time

ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/",
    "QUERY_STRING": "",
    "REQUEST_URI": "/",
    "SERVER_NAME": "127.0.0.1",
    "SERVER_PORT": "8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "50000",
    "HTTP_HOST": "127.0.0.1:8000",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": False,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
}


def start_response(status, headers, exc_info=None):
    return None


def call(application, environ):
    """Runs one call to its end."""
    response = application(environ, start_response)
    for _ in response:
        pass
    close = getattr(response, "close", None)
    if close is not None:
        close()


def main(module, length, seconds):
    application = importlib.import_module(module).application
    body = b"u" * length
    environ = {**ENVIRON, "CONTENT_LENGTH": str(length)} if length else ENVIRON
    if length:
        environ["REQUEST_METHOD"] = "POST"

    def run(seconds):
        count = 0
        start, cpu = time.perf_counter(), time.process_time()
        end = start + seconds
        while (now := time.perf_counter()) < end:
            for _ in range(10):
                call(application, {**environ, "wsgi.input": io.BytesIO(body)})
            count += 10
        return count / (now - start), (time.process_time() - cpu) / count

    run(0.1)
    rate, cpu = run(seconds)
    with open("/proc/self/smaps_rollup") as file:
        memory = next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    print(rate, cpu, memory * 1024)


if __name__ == "__main__":
    # One header a line, as "HTTP_ACCEPT=*/*".
    ENVIRON.update(line.split("=", 1) for line in sys.stdin.read().splitlines())
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
