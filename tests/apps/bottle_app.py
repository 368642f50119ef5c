import hashlib
import os

from bottle import Bottle, redirect, request, response, static_file

application = Bottle()


@application.get("/hello/<name>", name="hello")
def hello(name):
    return f"hello {name}"


@application.post("/form")
def form():
    # Attributes, unlike items, are decoded.
    return {name: getattr(request.forms, name) for name in request.forms}


@application.post("/json")
def json():
    return request.json


@application.post("/upload")
def upload():
    file = request.files.get("file")
    data = file.file.read()
    return {
        "name": file.raw_filename,
        "size": len(data),
        "digest": hashlib.sha256(data).hexdigest(),
        "text": request.forms.text,
    }


@application.get("/cookie")
def cookie():
    count = int(request.get_cookie("count", "0")) + 1
    response.set_cookie("count", str(count))
    return str(count)


@application.get("/stream")
def stream():
    for number in range(1000):
        yield f"line {number}\n"


@application.get("/file")
def file():
    return static_file(os.path.basename(__file__), os.path.dirname(__file__))


@application.get("/redirect")
def away():
    redirect(application.get_url("hello", name="x"))


@application.get("/url")
def url():
    parts = request.urlparts
    return f"{parts.scheme}://{parts.netloc}" + application.get_url("hello", name="x")


@application.get("/raise")
def fail():
    raise LookupError("as asked")
