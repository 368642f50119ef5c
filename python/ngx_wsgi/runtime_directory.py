"""The directory in which a server keeps its nginx.conf and its temporary files."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile

from .problem import Problem

# Modes of a directory: for this user alone, or for others to pass through.
PRIVATE, SHARED = 0o700, 0o711

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
    create_parent(is_shared)
    create_own(path)
    os.chmod(path, SHARED if is_shared else PRIVATE)


@contextlib.contextmanager
def temporary(is_shared):
    """Gives a directory of the same kind, which is removed at the end."""
    create_parent(is_shared)
    path = tempfile.mkdtemp(prefix="check-", dir=parent())
    try:
        os.chmod(path, SHARED if is_shared else PRIVATE)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(path):
    """Keeps others from starting the same server at the same time. The lock ends when this process becomes nginx."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Problem(
            f"a server with the same addresses is running or about to start ({path}); stop it, or choose others."
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


def create_parent(is_shared):
    create_own(parent())
    # Another server of this user may need it to be shared.
    if is_shared:
        os.chmod(parent(), SHARED)


def create_own(directory):
    try:
        os.mkdir(directory, PRIVATE)
    except FileExistsError:
        pass
    except OSError as error:
        raise Problem(f"{directory} cannot be created: {error.strerror}; name a writable one with TMPDIR=.") from None
    assert_own(directory)


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
