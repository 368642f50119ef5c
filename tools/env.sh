# shellcheck shell=bash
# Sourced by the scripts beside it: what make's variables mean, for cargo and for the tests.
#
# A variable that make exports without a value is empty, so empty means "not chosen" throughout. Where nothing is
# chosen, cargo's variables are left to .cargo/config.toml: then `make` and plain `cargo build` agree, and neither
# rebuilds what the other has built.

set -euo pipefail
shopt -s inherit_errexit
# make sets it; a script that is run by hand, and those that it runs, mean the directory that it was run in.
export CALLER_DIR=${CALLER_DIR:-$PWD}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        command -v sudo >/dev/null || die "This needs root, and there is no sudo here. As root: $*"
        sudo "$@"
    fi
}

# A path as it is meant in the caller's directory.
absolute() { if [[ $1 == /* ]]; then realpath -sm -- "$1"; else realpath -sm -- "$CALLER_DIR/$1"; fi; }

# Who builds. Under sudo that is the user who called it, where this checkout is theirs: they have Rust, and what root
# makes below target/ would be in their way the next time.
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

# The Python behind a name or path, if it runs and has the shared library that the module links to. A version
# manager's shims run only for versions that its user has selected, so its installations are looked at as well; a
# virtual environment counts as the Python that made it.
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

# "python3.13" of any Python.
python_tag() { "$1" -c 'import sys; print("python%d.%d" % sys.version_info[:2])'; }

# Rust's installer adds its folder to PATH in new logins only, and sudo has a PATH of its own.
PATH=$PATH:${CARGO_HOME:-$home/.cargo}/bin

# A virtual environment holds packages for one Python: unless another is asked for, that is the one to build for.
venv=${VENV:+$(absolute "$VENV")}
if [[ -z ${PYTHON:-} && -x $venv/bin/python ]]; then
    export PYTHON=$venv/bin/python
fi

# Python. Builds for another one get a target directory of their own, or they would undo each other's work.
default_python=/usr/bin/python3
python=${PYTHON:-${PYO3_PYTHON:-$default_python}}
if [[ $python != "$default_python" ]]; then
    python=$(find_python "$python") ||
        die "${PYTHON:-$PYO3_PYTHON}: no Python of that name with a shared library (libpython) is here."
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

# nginx, and its source: configured (elsewhere or by its user), or a copy of it below target/ that setup.sh configures.
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
