#!/bin/bash
# Checks formatting and lints, also of the scripts, and runs the models and all tests with the chosen Python, by default
# the distribution's. --all: then runs the tests that depend on the version of Python with each other Python that is
# installed. Ends with the time of each part.

source "$(dirname "$0")/env.sh"

# Subjects of tests/suite that do not depend on the version of Python: the code that they test does not call Python, or in
# the same way as a subject that is not listed.
independent_of_python=(
    accel intercept ranges handed_on        # nginx's filters and redirects of a response
    directives inheritance mounts variables # nginx's configuration and log
    protocols                               # nginx's connections
    endless slow spill                      # the event loop and its timers, with clients that are slow
    chapters configurations documentation documents messages migrating # documents and examples
    service_manager containers kubernetes # files of packaging/
    install make_run control debian_package # scripts, ngx-wsgi-ctl, the Debian package
    top prometheus status_page status_access # programs that read the status page, nginx's access control
    process_group_life process_group_control process_group_soak # the supervisor
    valgrind                                # memory of nginx and Rust
    instructions                            # recorded for one Python
)

# Subjects whose applications also run in a process group: what WSGI, nginx and frameworks promise to an application and to
# its clients. The others are about the processes that an application is embedded in.
of_applications=(
    environ mounts input body                                            # the request
    start_response headers response close file_wrapper callables         # PEP 3333
    streaming streaming_http2 spill endless slow late limits             # time and size
    accel intercept ranges handed_on integrity protocols                 # nginx's part
    failures tracebacks log                                              # errors
    applications frameworks                                              # code of users
)

current='' times=()

# Runs a part, and records its time.
part() {
    local start=$SECONDS
    current=$1
    say "== $current"
    "${@:2}"
    times+=("$(printf '%5d s  %s' $((SECONDS - start)) "$1")")
    current=
}

# Prints the time of each part, and the part that failed.
report() {
    [[ -z $current ]] || times+=("failed   $current")
    printf '%s\n' "${times[@]}" "$(printf '%5d s  total' "$SECONDS")" >&2
}
trap report EXIT

check_formatting() {
    shellcheck tools/*.sh nginx-conf/*.sh debian/{postinst,prerm}
    cargo fmt --check
}

# Has the tests use the virtual environment of a Python with the packages that they need.
select_venv() {
    WSGI_TEST_VENV=$(tools/venv.sh "$1")
    export WSGI_TEST_VENV
}

# The module that the tests load is built with them, as tests/suite/harness/module.rs does.
build() {
    cargo test --no-run
    cargo build --lib --tests
    tools/symbols.sh "$target/debug/${module##*/}"
}

# All tests, with the chosen Python.
test_chosen() {
    part "formatting, shellcheck" check_formatting
    part "clippy" cargo clippy --all-targets -- -D warnings
    part "build" build
    part "unit tests" cargo test --lib --bins
    part "models" tools/model.sh
    part "arithmetic of the benchmark" "$python" -B -m unittest discover -s tools/bench/tests -t tools
    part "Python package" "$python" -B -m unittest discover -s python/tests -t python
    part "virtual environment" select_venv "$python"
    part "integration tests" cargo test --test suite -- --skip valgrind:: --skip instructions::
    part "integration tests in a process group" env WSGI_TEST_PROCESS_GROUP=1 \
        cargo test --test suite -- "${of_applications[@]/%/::}"
    part "valgrind" cargo test --test suite valgrind::
    # Alone, and with the reason if they are skipped.
    part "instructions" cargo test --test suite -- --nocapture instructions::
    part "packages" tools/test_packages.sh
}

# The tests that depend on the version of Python, with another one.
test_other() {
    local subject skipped=() tag=$1
    for subject in "${independent_of_python[@]}"; do
        [[ -f tests/suite/$subject.rs ]] || die "tools/test.sh skips $subject, which is no subject of tests/suite."
        skipped+=(--skip "$subject::")
    done
    export PYO3_PYTHON=$2 CARGO_TARGET_DIR=$target/$tag
    part "$tag: build" cargo test --no-run
    part "$tag: unit tests" cargo test --lib
    part "$tag: virtual environment" select_venv "$2"
    part "$tag: integration tests" cargo test --test suite -- "${skipped[@]}"
}

# The tests wait more than they compute.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

test_chosen
if [[ ${1:-} == --all ]]; then
    for version in python3.{11..14}; do
        if [[ $version == $(python_tag "$python") ]]; then
            continue
        elif other=$(find_python "$version"); then
            test_other "$version" "$other"
        else
            say "$version with a shared library is not installed: its tests are skipped."
        fi
    done
fi
