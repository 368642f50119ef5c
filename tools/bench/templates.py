"""Configurations and pages are made from templates."""

import jinja2

from . import settings

ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(settings.TEMPLATES),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(name, **values):
    """Returns the text of a template with values."""
    return ENVIRONMENT.get_template(name).render(**values)
