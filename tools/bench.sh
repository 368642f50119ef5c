#!/bin/bash
# Runs the benchmark of tools/bench with the chosen Python, in a virtual environment of its own.
# Argument: growth, for the curves of cost as work grows; report, to write the page from the last results again.

source "$(dirname "$0")/env.sh"

base=$target/bench

# Apache's module is of the distribution. It is not installed beside an Apache that serves this machine: its package would
# change what that Apache loads.
install_tools() {
    local packages=(python3-venv wrk)
    if [[ $(dpkg-query -W -f '${db:Status-Status}' apache2 2>/dev/null) != installed ]]; then
        packages+=(apache2-bin libapache2-mod-wsgi-py3)
    fi
    tools/setup.sh "${packages[@]}"
    command -v wrk >/dev/null || die "wrk is not installed."
    command -v taskset >/dev/null || die "taskset (util-linux) is not installed."
}

# Makes the virtual environment if it is not there, or if its Python or the requirements have changed. The servers run a copy
# of the interpreter's file, so its memory is not shared with other processes of the machine. Nothing is taken from a cache:
# that may have a uWSGI that is linked to another Python.
make_venv() {
    local stamp
    stamp=$("$python" -c 'import sys; print(sys.prefix, sys.version)' && cat tools/bench/requirements.txt)
    [[ ! -f $base/venv/.installed || $(<"$base/venv/.installed") != "$stamp" ]] || return 0
    say "Installing the servers in $base/venv"
    "$python" -m venv --clear --copies "$base/venv"
    "$base/venv/bin/pip" install --quiet --no-cache-dir --disable-pip-version-check -r tools/bench/requirements.txt
    printf '%s\n' "$stamp" >"$base/venv/.installed"
}

if ((EUID == 0)) && [[ -n $builder ]]; then
    install_tools
    as_builder tools/bench.sh "$@"
    exit
fi
install_tools
mkdir -p "$base"
# Two runs would disturb each other. Python keeps the descriptor open, and passes it to no server.
exec 9>"$base/lock"
flock -n 9 || die "Another run of the benchmark has not ended."
make_venv
BENCH_MODULE=$(tools/build.sh | tail -n 1)
export BENCH_MODULE BENCH_BASE=$base
packages=("$base"/venv/lib/python3*/site-packages)
export PYTHONPATH=$PWD/tools:${packages[0]} PYTHONDONTWRITEBYTECODE=1
exec "$python" -m bench "$@"
