import hashlib

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.response import FileResponse, Response


def hello(request):
    return Response(f"hello {request.matchdict['name']}")


def form(request):
    return dict(request.POST)


def json(request):
    return request.json_body


def upload(request):
    field = request.POST["file"]
    data = field.file.read()
    return {
        "name": field.filename,
        "size": len(data),
        "digest": hashlib.sha256(data).hexdigest(),
        "text": request.POST["text"],
    }


def cookie(request):
    count = int(request.cookies.get("count", "0")) + 1
    response = Response(str(count))
    response.set_cookie("count", str(count))
    return response


def stream(request):
    return Response(app_iter=(b"line %d\n" % number for number in range(1000)))


def file(request):
    return FileResponse(__file__, request=request)


def redirect(request):
    return HTTPFound(request.route_url("hello", name="x"))


def url(request):
    return Response(request.route_url("hello", name="x"))


def fail(request):
    raise LookupError("as asked")


with Configurator() as config:
    config.add_route("hello", "/hello/{name}")
    config.add_view(hello, route_name="hello")
    for view in (form, json, upload):
        config.add_route(view.__name__, f"/{view.__name__}", request_method="POST")
        config.add_view(view, route_name=view.__name__, renderer="json")
    for view in (cookie, stream, file, redirect, url):
        config.add_route(view.__name__, f"/{view.__name__}")
        config.add_view(view, route_name=view.__name__)
    config.add_route("raise", "/raise")
    config.add_view(fail, route_name="raise")
    application = config.make_wsgi_app()
