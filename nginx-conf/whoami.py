"""Shows the user that it runs as, and a variable of its environment."""

import os
import pwd


def application(environ, start_response):
    greeting = os.environ.get("GREETING", "Hello")
    user = pwd.getpwuid(os.getuid()).pw_name
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{greeting} from {environ['SCRIPT_NAME']}, user {user}\n".encode()]
