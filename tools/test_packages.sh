#!/bin/bash
# Tests packages in fresh directories of Debian releases, which have no Rust. MATRIX names the releases; without it, it is
# the release of this machine. Needs root.

source "$(dirname "$0")/env.sh"

# Builds the Debian package, and runs its tests, which make directories of their own.
deb_part() {
    local release=$1 package
    if [[ $release == "$own_release" ]]; then
        package=$(MATRIX='' tools/deb.sh)
    else
        package=$(MATRIX=$release tools/deb.sh)
    fi
    WSGI_TEST_DEBIAN=$release WSGI_TEST_DEB=$package cargo test --test suite -- debian_package:: containers::with_deb
}

# Makes a directory with the wheel, Django and Flask in /srv/venv, and runs the tests of the wheel and of the runner with it.
wheel_part() {
    local release=$1 wheel frameworks
    wheel=$(MATRIX=$release tools/wheel.sh)
    mapfile -t frameworks < <(grep -E '^(Django|Flask)=' tests/requirements.txt)
    root=$(tools/debian.sh copy "$release" wheel)
    cp "$wheel" "$root/root"
    # shellcheck disable=SC2016 # The shell in the directory expands that.
    tools/in_debian.sh "$root" sh -euc '
        apt-get -q update
        apt-get -q install -y --no-install-recommends python3-venv
        apt-get -q install -y --no-install-recommends \
            "libpython$(python3 -c "import sys; print(\"%d.%d\" % sys.version_info[:2])")"
        python3 -m venv /srv/venv
        /srv/venv/bin/pip install --disable-pip-version-check "$@"' sh "/root/${wheel##*/}" "${frameworks[@]}" >&2
    WSGI_TEST_DEBIAN=$release WSGI_TEST_WHEEL=$wheel WSGI_TEST_ROOT=$root \
        cargo test --test suite -- wheel:: runner containers::with_wheel kubernetes::
    remove_root
}

remove_root() {
    [[ -z $root ]] || rm -rf --one-file-system "$root"
    root=
}

if ((EUID != 0)); then
    say "Packages are not tested: directories of Debian releases need root."
    exit
elif [[ $python != "$default_python" ]]; then
    say "Packages are not tested: a release has packages for its own Python, not for $python."
    exit
elif [[ ${CARGO_NET_OFFLINE:-} == true ]]; then
    say "Packages are not tested within make matrix: make test-packages MATRIX=… does that."
    exit
fi
own_release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
if [[ -z ${MATRIX:-} ]] && ! grep -qx 'ID=debian' /etc/os-release; then
    say "Packages are not tested: debootstrap needs a Debian here. make deb and make wheel build the packages of this system."
    exit
fi
root=
trap remove_root EXIT
for release in ${MATRIX:-$own_release}; do
    say "== Debian package, Debian $release"
    deb_part "$release"
    say "== wheel, Debian $release"
    wheel_part "$release"
done
