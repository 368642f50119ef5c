#!/bin/bash
# The inner half of debian.sh: runs a command inside the Debian of DIRECTORY/build, with this repository as /src,
# DIRECTORY/target as its target directory, and the Rust of this machine. It runs as root, in a namespace of its own, whose
# end removes all mounts.
# Arguments: DIRECTORY SYSROOT CARGO_HOME [VARIABLE=value …] command…

set -euo pipefail
cd "$(dirname "$0")/.."
directory=$1 sysroot=$2 cargo_home=$3 root=$1/build
shift 3

# The first process of a namespace ignores signals, Ctrl-C among them, for which it has no handler.
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mount_read_only() {
    mount --bind "$1" "$2"
    mount -o remount,bind,ro "$2"
}
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount_read_only "$sysroot" "$root/opt/rust"
mount_read_only "$cargo_home/registry" "$root/opt/cargo/registry"
# Read-only, too: the tests must not change this checkout.
mount_read_only . "$root/src"
mount --bind "$directory/target" "$root/src/target"

# Files that configure how this machine reaches package archives.
for file in /etc/{resolv.conf,hosts,pip.conf,ssl/certs/ca-certificates.crt}; do
    [[ ! -f $file ]] || install -D -m 644 "$file" "$root$file"
done

chroot "$root" env -i HOME=/root LANG=C.UTF-8 PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    CARGO_HOME=/opt/cargo CARGO_NET_OFFLINE=true PYTHON=/usr/bin/python3 "$@"
exit
