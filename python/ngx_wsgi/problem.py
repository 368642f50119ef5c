"""The one exception of the runner: a sentence for the user, with the remedy."""


class Problem(Exception):
    """A reason why a command is refused. Its text is shown without a traceback."""
