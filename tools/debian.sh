#!/bin/bash
# Root directories of Debian releases below target/matrix/RELEASE/, made by debootstrap. Needs root.
#   base RELEASE              prints the path of a minimal installation, which is never changed
#   copy RELEASE NAME         prints the path of a fresh copy of it
#   build RELEASE command…    runs a command in the copy "build", with this repository as /src, a target directory of the
#                             release as /src/target, and the Rust of this machine; packages installed there stay
#   --remove                  removes all of it

source "$(dirname "$0")/env.sh"

matrix=$PWD/target/matrix

# Where this machine takes its own packages from.
archive() {
    local uri=
    if command -v apt-get >/dev/null; then
        # shellcheck disable=SC2016 # apt-get itself expands that.
        uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
            head -n 1)
    fi
    [[ -n $uri ]] || die "This needs a Debian with package lists (apt-get update): it uses the same archive."
    echo "$uri"
}

# Runs a command in a mount and PID namespace. Its mounts and processes end with its first process, and that one with the
# process that started it: nothing is left behind, whatever ends this script.
in_namespace() { as_root setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child "$@"; }

# Installs a release. An interrupted installation starts again.
base() {
    local root=$matrix/$1/base uri
    [[ $1 =~ ^[a-z]+$ ]] || die "$1 is not the name of a Debian release, as trixie is."
    if [[ ! -d $root ]]; then
        tools/setup.sh debootstrap
        uri=$(archive)
        mkdir -p "${root%/*}"
        say "Installing Debian $1 in $root"
        as_root rm -rf "$root.new"
        in_namespace debootstrap --variant=minbase --include=ca-certificates "$1" "$root.new" "$uri" >&2 ||
            die "debootstrap could not install Debian $1: see $root.new/debootstrap/debootstrap.log"
        # A mirror may lag behind; the signatures are checked all the same.
        as_root tee "$root.new/etc/apt/apt.conf.d/90matrix" >/dev/null <<<'Acquire::Check-Valid-Until "false";'
        as_root mv "$root.new" "$root"
    fi
    echo "$root"
}

copy() {
    local root=$matrix/$1/$2 base
    base=$(base "$1")
    [[ $2 =~ ^[a-z][a-z0-9.-]*$ && $2 != base && $2 != target ]] || die "$2 is not a name for a copy of Debian $1."
    as_root rm -rf "$root" "$root.new"
    as_root cp -a --reflink=auto "$base" "$root.new"
    as_root mv "$root.new" "$root"
    echo "$root"
}

# The environment of a command: how this machine reaches package archives, and what the tests and packages are told.
variables() {
    local variable
    for variable in $(compgen -e | grep -xE 'PIP_.*|.*_proxy|TERM|RUST_TEST_THREADS|SOURCE_DATE_EPOCH'); do
        printf '%s\0' "$variable=${!variable}"
    done
}

build() {
    local directory=$matrix/$1 environment
    if [[ ! -d $directory/build ]]; then
        copy "$1" build.new >/dev/null
        as_root tools/in_debian.sh "$directory/build.new" sh -c 'apt-get -q update && apt-get -q install -y make' >&2
        as_root mv "$directory/build.new" "$directory/build"
    fi
    as_root mkdir -p "$directory/build"/{src,opt/rust,opt/cargo/registry} "$directory/target"
    # There is no registry of crates in the directory: all crates are fetched here.
    as_builder cargo fetch --quiet --locked --target "$(as_builder rustc -vV | sed -n 's/^host: //p')"
    mapfile -d '' -t environment < <(variables)
    in_namespace tools/chroot.sh "$directory" "$(as_builder rustc --print sysroot)" "${CARGO_HOME:-$home/.cargo}" \
        "${environment[@]}" "${@:2}"
}

case ${1:-} in
base | copy | build) "$@" ;;
--remove) [[ ! -d $matrix ]] || as_root rm -rf "$matrix" ;;
*) die "usage: tools/debian.sh base RELEASE | copy RELEASE NAME | build RELEASE command… | --remove" ;;
esac
