#!/bin/bash
# Makes the virtual environment of a Python with the packages that the tests need, if it is not there, or if that Python or
# the requirements have changed. Prints its path to stdout, and nothing else there.
# Arguments: the Python.

source "$(dirname "$0")/env.sh"

venv=$PWD/target/venv/$(python_tag "$1")
stamp=$("$1" -c 'import sys; print(sys.prefix, sys.version)' && cat tests/requirements.txt)
if [[ ! -f $venv/.installed || $(<"$venv/.installed") != "$stamp" ]]; then
    say "Installing the packages of tests/requirements.txt in $venv"
    "$1" -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt >&2
    printf '%s\n' "$stamp" >"$venv/.installed"
fi
echo "$venv"
