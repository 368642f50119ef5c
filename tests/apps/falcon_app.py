import hashlib
import os

import falcon


class Hello:
    def on_get(self, req, resp, name):
        resp.text = f"hello {name}"
        resp.content_type = falcon.MEDIA_TEXT


class Media:
    """A form or a JSON document, by its Content-Type."""

    def on_post(self, req, resp):
        resp.media = req.get_media()


class Upload:
    def on_post(self, req, resp):
        seen = {}
        for part in req.get_media():
            if part.name == "file":
                digest = hashlib.sha256()
                size = 0
                while chunk := part.stream.read(65536):
                    digest.update(chunk)
                    size += len(chunk)
                seen.update(name=part.filename, size=size, digest=digest.hexdigest())
            else:
                seen[part.name] = part.text
        resp.media = seen


class Cookie:
    def on_get(self, req, resp):
        count = int(req.cookies.get("count", "0")) + 1
        resp.set_cookie("count", str(count), secure=False)
        resp.text = str(count)


class Stream:
    def on_get(self, req, resp):
        resp.stream = (b"line %d\n" % number for number in range(1000))


class File:
    def on_get(self, req, resp):
        resp.set_stream(open(__file__, "rb"), os.path.getsize(__file__))


class Redirect:
    def on_get(self, req, resp):
        raise falcon.HTTPFound(f"{req.root_path}/hello/x")


class Url:
    def on_get(self, req, resp):
        resp.text = req.prefix + "/hello/x"


class Fail:
    def on_get(self, req, resp):
        raise LookupError("as asked")


application = falcon.App()
application.add_route("/hello/{name}", Hello())
application.add_route("/form", Media())
application.add_route("/json", Media())
application.add_route("/upload", Upload())
application.add_route("/cookie", Cookie())
application.add_route("/stream", Stream())
application.add_route("/file", File())
application.add_route("/redirect", Redirect())
application.add_route("/url", Url())
application.add_route("/raise", Fail())
