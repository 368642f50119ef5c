"""Stands in for Sentry and for a collector of OpenTelemetry: writes what it receives to a file, as a line of JSON each.

Arguments: the file for the number of its port, and the file for what it receives.
"""

import gzip
import http.server
import json
import os
import sys
import threading

lock = threading.Lock()


def of_sentry(body):
    """Yields the items of an envelope: a line of headers, then a line of headers and a payload for each item."""
    lines = body.split(b"\n")
    for header, payload in zip(lines[1::2], lines[2::2]):
        yield {"type": json.loads(header)["type"], "payload": json.loads(payload)}


def of_opentelemetry(body):
    """Yields the spans of an export."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        service = {item.key: item.value.string_value for item in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "type": "span",
                    "name": span.name,
                    "service": service.get("service.name"),
                    "trace": span.trace_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "milliseconds": (span.end_time_unix_nano - span.start_time_unix_nano) // 1_000_000,
                }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        items = of_opentelemetry(body) if self.path == "/v1/traces" else of_sentry(body)
        with lock, open(sys.argv[2], "a") as received:
            for item in items:
                received.write(json.dumps(item) + "\n")
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with open(sys.argv[1] + ".new", "w") as port:
    port.write(str(server.server_port))
os.replace(sys.argv[1] + ".new", sys.argv[1])
server.serve_forever()
