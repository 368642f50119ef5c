#!/bin/bash
# Runs `make test` with other versions of nginx and Python: in the Debian releases that MATRIX names, each in a folder
# below target/matrix/ that debootstrap fills the first time. Ends with a table of what was tested and how it went, and
# fails if a test did. --remove takes the folders away, which are root's.

source "$(dirname "$0")/env.sh"

matrix=$PWD/target/matrix

if [[ ${1:-} == --remove ]]; then
    [[ ! -d $matrix ]] || as_root rm -rf "$matrix"
    exit
fi

read -ra names <<<"${MATRIX:-trixie sid}"
for name in "${names[@]}"; do
    [[ $name =~ ^[a-z]+$ ]] || die "MATRIX=$MATRIX is not a list of Debian releases, as \"trixie sid\"."
done

# Where this machine takes its own packages from.
archive() {
    local uri=
    if command -v apt-get >/dev/null; then
        # shellcheck disable=SC2016 # apt-get itself expands that.
        uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
            head -n 1)
    fi
    [[ -n $uri ]] || die "make matrix needs a Debian with package lists (apt-get update): it uses the same archive."
    echo "$uri"
}

# A namespace's mounts and processes go with its first process, and that one with whoever started it: nothing is left
# behind, whatever ends this script.
in_namespace() { as_root setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child "$@"; }

# Fills the folder of a release. What was interrupted half-way is begun anew.
make_folder() {
    local root=$matrix/$1/root
    mkdir -p "${root%/*}"
    [[ ! -d $root ]] || return 0
    say "Installing Debian $1 in $root"
    as_root rm -rf "$root.new"
    in_namespace debootstrap --variant=minbase --include=ca-certificates,make "$1" "$root.new" "$archive" >&2 ||
        die "debootstrap could not install Debian $1: see $root.new/debootstrap/debootstrap.log"
    # A mirror may lag behind; the signatures are checked all the same.
    as_root tee "$root.new/etc/apt/apt.conf.d/90matrix" >/dev/null <<<'Acquire::Check-Valid-Until "false";'
    as_root mkdir -p "$root.new"/{src,opt/rust,opt/cargo/registry} "$matrix/$1/target"
    as_root mv "$root.new" "$root"
}

# Runs the tests of a release.
run_tests() {
    local variables=() variable
    for variable in $(compgen -e | grep -xE 'PIP_.*|.*_proxy|TERM|RUST_TEST_THREADS'); do
        variables+=("$variable=${!variable}")
    done
    in_namespace tools/chroot.sh "$matrix/$1" "$(rustc --print sysroot)" "${CARGO_HOME:-$HOME/.cargo}" \
        "${variables[@]}" make -C /src test
}

# How many tests passed or failed in a release, by the sums that cargo prints.
count() { grep -oP "^test result: .* \K\d+(?= $2)" "$matrix/$1/log" | awk '{ sum += $1 } END { print sum + 0 }'; }

# What a release brings: the output of a command in its folder, or a dash.
version() { as_root chroot "$matrix/$1/root" "${@:2}" 2>&1 | grep -oPm 1 '\d+(\.\d+)+' || echo -; }

row() { printf '%-16s%-9s%-9s%7s%7s%s\n' "$@"; }

tools/setup.sh debootstrap
archive=$(archive)
# There is no registry of crates in the directories: all crates are fetched here.
cargo fetch --quiet --locked --target "$(rustc -vV | sed -n 's/^host: //p')"

for name in "${names[@]}"; do
    make_folder "$name"
done

rows=() result=0
for name in "${names[@]}"; do
    say "The tests in Debian $name"
    remark=
    # No pipe, which would put a shell between this one and the namespace.
    run_tests "$name" > >(tee "$matrix/$name/log") 2>&1 || result=1 remark="  see target/matrix/$name/log"
    wait $!
    rows+=("$(row "Debian $name" "$(version "$name" nginx -v)" "$(version "$name" python3 -V)" \
        "$(count "$name" passed)" "$(count "$name" failed)" "$remark")")
done
row "" nginx Python passed failed ""
printf '%s\n' "${rows[@]}"
exit $result
