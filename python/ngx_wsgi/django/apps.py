"""The configuration of the app."""

from django.apps import AppConfig


class NginxConfig(AppConfig):
    name = "ngx_wsgi.django"
    # The last part of the name would be as good as taken.
    label = "ngx_wsgi"
    verbose_name = "nginx"
