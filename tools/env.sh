# shellcheck shell=bash
# Sourced by the scripts beside it: translates the variables of make for cargo and for the tests.
#
# make exports a variable without a value as an empty one, so empty means "not chosen" throughout. Where nothing is
# chosen, .cargo/config.toml sets the variables of cargo: `make` and plain `cargo build` then agree, and neither rebuilds
# the output of the other.

set -euo pipefail
shopt -s inherit_errexit
# make sets it. For a script that is started by hand, and for the scripts that it runs, it is the current directory.
export CALLER_DIR=${CALLER_DIR:-$PWD}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        command -v sudo >/dev/null || die "This needs root, and sudo is not installed. Run as root: $*"
        sudo "$@"
    fi
}

# Prints a path of the caller as an absolute one.
absolute() { if [[ $1 == /* ]]; then realpath -sm -- "$1"; else realpath -sm -- "$CALLER_DIR/$1"; fi; }

# The user who builds. Under sudo that is the user who called it, if this checkout is theirs: that user has Rust, and could
# not replace files of root below target/ later.
builder='' home=$HOME
if ((EUID == 0)) && [[ ${SUDO_USER:-root} != root ]] && runuser -u "$SUDO_USER" -- test -w .; then
    builder=$SUDO_USER
    home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
fi

as_builder() {
    if [[ -n $builder ]]; then
        runuser -u "$builder" -- env HOME="$home" USER="$builder" LOGNAME="$builder" "$@"
    else
        "$@"
    fi
}

# Prints the path of the Python of a name or path, if it runs and has the shared library that the module links to. The
# shims of pyenv run only versions that its user has selected, so the installed versions are tried as well. For a virtual
# environment it is the Python that made it.
find_python() {
    local candidate
    while read -r candidate; do
        "$candidate" - 2>/dev/null <<'PYTHON' && return
import os, sys, sysconfig
var = sysconfig.get_config_var
usable = var("Py_ENABLE_SHARED") and not var("Py_GIL_DISABLED")
if not usable or not os.path.exists(os.path.join(var("LIBDIR"), var("LDLIBRARY"))):
    sys.exit(1)
print(sys._base_executable)
PYTHON
    done < <(type -ap -- "$1" || true; compgen -G "${PYENV_ROOT:-$home/.pyenv}/versions/*/bin/$1" | sort -rV)
    return 1
}

# Prints the name of a Python with its version, as in "python3.13".
python_tag() { "$1" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'; }

# The installer of Rust adds its directory to PATH for new logins only, and sudo has a PATH of its own.
PATH=$PATH:${CARGO_HOME:-$home/.cargo}/bin

# A virtual environment has packages for one Python. The module is built for that one unless PYTHON names another.
venv=${VENV:+$(absolute "$VENV")}
if [[ -z ${PYTHON:-} && -x $venv/bin/python ]]; then
    export PYTHON=$venv/bin/python
fi

# Python. A build for another Python has its own target directory, as the two would replace each other's output.
default_python=/usr/bin/python3
python=${PYTHON:-${PYO3_PYTHON:-$default_python}}
if [[ $python != "$default_python" ]]; then
    python=$(find_python "$python") ||
        die "${PYTHON:-$PYO3_PYTHON}: there is no Python of that name with a shared library (libpython)."
fi
if [[ $python == "$default_python" || $python -ef $default_python ]]; then
    python=$default_python
    unset PYO3_PYTHON
    [[ -n ${CARGO_TARGET_DIR:-} ]] || unset CARGO_TARGET_DIR
else
    export PYO3_PYTHON=$python
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/$(python_tag "$python")}
fi
target=${CARGO_TARGET_DIR:-$PWD/target}
# shellcheck disable=SC2034 # for the scripts beside this one
module=$target/release/libngx_http_wsgi_module.so

# Prints a path that nginx was configured with: the argument of configure, or the default, both relative to the prefix.
configured_path() {
    local arguments prefix path
    arguments=$("$nginx" -V 2>&1)
    prefix=$(grep -oP -- '--prefix=\K\S+' <<<"$arguments") || prefix=/usr/local/nginx
    path=$(grep -oP -- "--$1=\K\S+" <<<"$arguments") || path=$2
    if [[ $path == /* ]]; then echo "$path"; else echo "$prefix/$path"; fi
}

# nginx and its source: a source that is configured already, or a copy below target/ that setup.sh configures.
nginx=${NGINX:-$(command -v nginx || echo /usr/sbin/nginx)}
export NGINX=$nginx
nginx_origin='' nginx_copy=''
if [[ -n ${NGINX_BUILD_DIR:-} ]]; then
    NGINX_BUILD_DIR=$(realpath -m "$NGINX_BUILD_DIR")
    NGINX_SOURCE_DIR=$(realpath -m "${NGINX_SOURCE_DIR:-$NGINX_BUILD_DIR/..}")
    export NGINX_SOURCE_DIR NGINX_BUILD_DIR
elif [[ -f ${NGINX_SOURCE_DIR:-}/objs/ngx_auto_config.h ]]; then
    NGINX_SOURCE_DIR=$(realpath "$NGINX_SOURCE_DIR")
    export NGINX_SOURCE_DIR NGINX_BUILD_DIR=$NGINX_SOURCE_DIR/objs
elif [[ -n ${NGINX_SOURCE_DIR:-} ]]; then
    nginx_origin=$(realpath "$NGINX_SOURCE_DIR")
    nginx_copy=${nginx_origin##*/}
    nginx_copy=$PWD/target/nginx-${nginx_copy#nginx-}
    export NGINX_SOURCE_DIR=$nginx_copy NGINX_BUILD_DIR=$nginx_copy/objs
else
    nginx_origin=/usr/share/nginx/src
    nginx_copy=$PWD/target/nginx
    unset NGINX_SOURCE_DIR NGINX_BUILD_DIR
fi
