from django.contrib import admin
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from . import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("hello/<str:name>", views.hello, name="hello"),
    path("form", csrf_exempt(views.form)),
    path("protected", views.form),
    path("json", csrf_exempt(views.json)),
    path("upload", csrf_exempt(views.upload)),
    path("cookie", views.cookie),
    path("stream", views.stream),
    path("file", views.file),
    path("files/<str:name>", views.protected),
    path("redirect", views.redirect),
    path("url", views.url),
    path("raise", views.fail),
    path("async", views.asynchronous),
]
