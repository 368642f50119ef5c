import asyncio
import hashlib
from json import loads
from urllib.parse import quote

from django.http import FileResponse, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.urls import reverse


def hello(request, name):
    return HttpResponse(f"hello {name}")


def form(request):
    return JsonResponse(request.POST.dict())


def json(request):
    return JsonResponse(loads(request.body))


def upload(request):
    upload = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in upload.chunks():
        digest.update(chunk)
    return JsonResponse({
        "name": upload.name,
        "size": upload.size,
        "digest": digest.hexdigest(),
        "text": request.POST["text"],
        "class": type(upload).__name__,
    })


def cookie(request):
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse(request.session["count"])


def stream(request):
    return StreamingHttpResponse(f"line {number}\n" for number in range(1000))


def file(request):
    return FileResponse(open(__file__, "rb"))


def protected(request, name):
    response = HttpResponse(content_type="")
    response["X-Accel-Redirect"] = "/protected/" + quote(name)
    response["Content-Disposition"] = "attachment"
    return response


def redirect(request):
    return HttpResponseRedirect(reverse("hello", args=["x"]))


def url(request):
    return HttpResponse(request.build_absolute_uri(reverse("hello", args=["x"])))


def fail(request):
    raise LookupError("as asked")


async def asynchronous(request):
    await asyncio.sleep(0.01)
    return HttpResponse("asynchronous")
