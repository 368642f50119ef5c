"""Values as words of nginx's configuration."""

from .problem import Problem


def quote(value):
    """Returns the value in quotes. A file name that is not UTF-8 keeps its bytes."""
    value = str(value)
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        value = value.replace(character, escape)
    return f'"{value}"'


def quote_constant(value, flag):
    """The same for a directive in which nginx replaces variables; it has no escape for their sign. Raises Problem."""
    if "$" in str(value):
        raise Problem(f"{flag} {value}: nginx takes the $ in it for a variable; choose a path without one.")
    return quote(value)


def comment(text):
    """Returns a text as it may stand in a comment, which ends with its line."""
    return "".join(character if character.isprintable() else "?" for character in str(text))
