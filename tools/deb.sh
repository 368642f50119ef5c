#!/bin/bash
# Builds the Debian package, with its source package, for the release at hand: in a copy of the sources below
# target/deb/, with the module of `make build`. MATRIX names releases, and the package of each is built in its directory
# of debian.sh. Prints the path of each package to stdout, and nothing else there.

source "$(dirname "$0")/env.sh"

name=libnginx-mod-http-wsgi

# Builds a package in each release of MATRIX.
build_for_releases() {
    local release releases packages
    read -ra releases <<<"$MATRIX"
    for release in "${releases[@]}"; do
        say "Building the package for Debian $release"
        tools/debian.sh build "$release" make -C /src deb >&2
        packages=("$PWD/target/matrix/$release/target/deb/${name}_"*.deb)
        echo "${packages[-1]}"
    done
}

# Builds the package of the release at hand, as the user who builds.
build() {
    local version upstream directory=$PWD/target/deb
    version=$(dpkg-parsechangelog -S Version)
    upstream=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
    [[ ${version%-*} == "$upstream" ]] ||
        die "The first entry of debian/changelog is for version ${version%-*}, Cargo.toml has $upstream: add an entry."

    rm -rf "$directory"
    mkdir -p "$directory/$name-$upstream"
    tar -c --exclude=./target --exclude=./.git --exclude=./.venv --exclude=__pycache__ . |
        tar -x -C "$directory/$name-$upstream"
    cd "$directory"
    tar -cJf "${name}_$upstream.orig.tar.xz" --exclude="$name-$upstream/debian" "$name-$upstream"
    cd "$name-$upstream"
    MODULE=$1 dpkg-buildpackage --unsigned-source --unsigned-changes >"$directory/build.log" 2>&1 ||
        { tail -n 20 "$directory/build.log" >&2; die "dpkg-buildpackage failed: see $directory/build.log"; }
    rm -rf "$PWD"
    echo "$directory/${name}_${version}_$(dpkg --print-architecture).deb"
}

if [[ ${1:-} == --build ]]; then
    build "$2"
elif [[ -n ${MATRIX:-} ]]; then
    build_for_releases
else
    tools/setup.sh build-essential debhelper
    [[ $python == "$default_python" && $nginx -ef /usr/sbin/nginx && $nginx_origin == /usr/share/nginx/src ]] ||
        die "The package is for Debian's own Python and nginx: leave out PYTHON, NGINX, NGINX_SOURCE_DIR, NGINX_BUILD_DIR."
    module=$(tools/build.sh)
    as_builder tools/deb.sh --build "$module"
fi
