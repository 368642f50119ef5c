import hashlib

from flask import Flask, Response, jsonify, redirect, request, send_file, session, stream_with_context, url_for

application = Flask(__name__)
application.secret_key = "of no use to anybody"


@application.get("/hello/<name>")
def hello(name):
    return f"hello {name}"


@application.post("/form")
def form():
    return jsonify(request.form.to_dict())


@application.post("/json")
def json():
    return jsonify(request.get_json())


@application.post("/upload")
def upload():
    file = request.files["file"]
    data = file.read()
    return jsonify(
        name=file.filename, size=len(data), digest=hashlib.sha256(data).hexdigest(), text=request.form["text"]
    )


@application.get("/cookie")
def cookie():
    session["count"] = session.get("count", 0) + 1
    return str(session["count"])


@application.get("/stream")
def stream():
    return Response(stream_with_context(f"line {number}\n" for number in range(1000)))


@application.get("/file")
def file():
    return send_file(__file__)


@application.get("/redirect")
def away():
    return redirect(url_for("hello", name="x"))


@application.get("/url")
def url():
    return url_for("hello", name="x", _external=True)


@application.get("/raise")
def fail():
    raise LookupError("as asked")
