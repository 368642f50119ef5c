"""Reads the whole body in pieces of 64 KB, and returns its length."""


def application(environ, start_response):
    body = environ["wsgi.input"]
    left = int(environ["CONTENT_LENGTH"])
    length = 0
    while left:
        piece = body.read(min(left, 65536))
        if not piece:
            break
        left -= len(piece)
        length += len(piece)
    answer = b"%d" % length
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]
