#!/bin/bash
# Runs `make test` with other versions of nginx and Python. MATRIX names Debian releases, which debian.sh installs the first
# time; and "debug", an nginx that is built to find errors in the use of its memory, with the Python of this machine. Ends
# with a table of what was tested and the results, and fails if a test failed.

source "$(dirname "$0")/env.sh"

matrix=$PWD/target/matrix
debug_nginx=$matrix/debug/nginx/objs/nginx

read -ra names <<<"${MATRIX:-debug trixie sid}"
for name in "${names[@]}"; do
    [[ $name =~ ^[a-z]+$ ]] || die "MATRIX=$MATRIX is not a list of Debian releases and debug, as in \"debug trixie sid\"."
done

# Builds nginx so that errors of the module show: with its debug log, and with a malloc for each allocation from a pool.
# Memory of a request that is used after its end is then free memory, which valgrind reports.
build_debug_nginx() {
    local name source modules=()
    [[ ! -x $debug_nginx ]] || return 0
    source=$(tools/nginx_source.sh)
    for name in addition auth_request gunzip gzip_static realip slice ssl stub_status sub v2; do
        modules+=("--with-http_${name}_module")
    done
    say "Building nginx for debugging in ${debug_nginx%/*}"
    rm -rf "$matrix/debug/nginx"
    cp -r "$source" "$matrix/debug/nginx"
    (
        cd "$matrix/debug/nginx"
        auto/configure --prefix="$PWD" --conf-path="$PWD/conf/nginx.conf" --with-compat --with-debug --with-threads \
            --with-cc-opt="-g -O1 -DNGX_DEBUG_PALLOC=1" "${modules[@]}" && make -j "$(nproc)" -f objs/Makefile binary
    ) >"$matrix/debug/build.log" 2>&1 || die "nginx could not be built: see $matrix/debug/build.log"
}

# Runs the tests with a release.
test_release() { tools/debian.sh build "$1" make -C /src test; }

# Runs the tests with nginx for debugging.
test_debug() {
    NGINX=$debug_nginx NGINX_SOURCE_DIR=$matrix/debug/nginx NGINX_BUILD_DIR=$matrix/debug/nginx/objs \
        CARGO_TARGET_DIR=$matrix/debug/target make test
}

run_tests() { if [[ $1 == debug ]]; then test_debug; else test_release "$1"; fi; }

# Prints how many tests passed or failed, by the sums that cargo prints.
count() { grep -oP "^test result: .* \K\d+(?= $2)" "$matrix/$1/log" | awk '{ sum += $1 } END { print sum + 0 }'; }

# Prints the version in the output of a command, or a dash.
version() { "$@" 2>&1 | grep -oPm 1 '\d+(\.\d+)+' || echo -; }

row() { printf '%-20s%-9s%-9s%7s%7s%s\n' "$@"; }

rows=() result=0
for name in "${names[@]}"; do
    if [[ $name == debug ]]; then
        title="nginx --with-debug" in_release=() nginx_command=$debug_nginx python_command=$python
        tools/setup.sh
        build_debug_nginx
    else
        title="Debian $name" in_release=(as_root chroot "$matrix/$name/build") nginx_command=nginx python_command=python3
    fi
    say "The tests with $title"
    remark=
    # No pipe, which would put a shell between this one and the namespace.
    run_tests "$name" > >(tee "$matrix/$name/log") 2>&1 || result=1 remark="  see target/matrix/$name/log"
    wait $!
    rows+=("$(row "$title" "$(version "${in_release[@]}" "$nginx_command" -v)" \
        "$(version "${in_release[@]}" "$python_command" -V)" \
        "$(count "$name" passed)" "$(count "$name" failed)" "$remark")")
done
row "" nginx Python passed failed ""
printf '%s\n' "${rows[@]}"
exit $result
