"""The directory in which a server keeps its nginx.conf and its temporary files."""

import hashlib
import os
import re
import stat
import tempfile

from .problem import Problem

# nginx makes a directory of its own for each of these.
TEMPORARY = {
    "client_body_temp_path": "body",
    "proxy_temp_path": "proxy",
    "fastcgi_temp_path": "fastcgi",
    "uwsgi_temp_path": "uwsgi",
    "scgi_temp_path": "scgi",
}


def path_of(binds):
    """Returns the path for a server with these addresses. The next start of the same server uses it again."""
    text = " ".join(sorted(map(str, binds)))
    readable = re.sub(r"[^0-9A-Za-z.]+", "-", str(binds[0]))[:40]
    digest = hashlib.sha256(os.fsencode(text)).hexdigest()[:8]
    return os.path.join(parent(), f"{readable}-{digest}")


def parent():
    return os.path.join(os.path.abspath(tempfile.gettempdir()), f"ngx-wsgi-{os.geteuid()}")


def create(path, is_shared):
    """Creates the directory. Other users may pass through it if it is shared, for workers with a user of their own."""
    mode = 0o711 if is_shared else 0o700
    for directory in (os.path.dirname(path), path):
        try:
            os.mkdir(directory, mode)
        except FileExistsError:
            pass
        except OSError as error:
            raise Problem(
                f"{directory} cannot be created: {error.strerror}; name a writable directory with TMPDIR=."
            ) from None
        assert_own(directory)
        # Another server of this user may need the common directory to be shared.
        if directory == path or is_shared:
            os.chmod(directory, mode)


def assert_own(directory):
    """Raises Problem if another user could have put files there."""
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o066:
        raise Problem(
            f"{directory} is not a directory that this user alone can write to, so its contents are not trusted; "
            "remove it, or name another place with TMPDIR=."
        )


def write(path, name, text):
    """Replaces a file of the directory in one step; only this user can read it."""
    descriptor, temporary = tempfile.mkstemp(dir=path)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.replace(temporary, os.path.join(path, name))
