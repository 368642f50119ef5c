#!/bin/bash
# Formatting, lints (also of the scripts) and all tests, for the chosen Python; without a choice for the distribution's
# and the newer ones that are here. What cargo says of the last tests stays the end of the output.

source "$(dirname "$0")/env.sh"

# A virtual environment with what the tests drive, one for each Python, made anew when the requirements or that
# Python change. Prints its path.
test_venv() {
    local venv stamp
    venv=$PWD/target/venv/$(python_tag "$1")
    stamp=$("$1" -c 'import sys; print(sys.prefix, sys.version)' && cat tests/requirements.txt)
    if [[ ! -f $venv/.installed || $(<"$venv/.installed") != "$stamp" ]]; then
        say "Making a virtual environment for the tests: $venv"
        "$1" -m venv --clear "$venv" >&2
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/requirements.txt >&2
        printf '%s\n' "$stamp" >"$venv/.installed"
    fi
    echo "$venv"
}

others=()
if [[ -z ${PYTHON:-} ]]; then
    for version in 3.12 3.13 3.14; do
        if [[ python$version == $(python_tag "$python") ]]; then
            continue
        elif other=$(find_python "python$version"); then
            others+=("$other")
        else
            say "Python $version with a shared library is not here: its tests are skipped."
        fi
    done
fi

# The tests wait more than they compute.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

shellcheck tools/*.sh nginx-conf/*.sh
cargo fmt --check
cargo clippy --all-targets -- -D warnings

say "Models of the threads that hand requests and answers over"
tools/model.sh

venv=$(test_venv "$python")
WSGI_TEST_VENV=$venv cargo test

for other in "${others[@]}"; do
    # Whether memory is misused does not depend on the Python.
    say "The same with $other, without valgrind"
    venv=$(test_venv "$other")
    WSGI_TEST_VENV=$venv PYO3_PYTHON=$other CARGO_TARGET_DIR=$target/${venv##*/} cargo test -- --skip valgrind::
done
