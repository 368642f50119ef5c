#!/bin/bash
# Runs a command in a root directory of debian.sh, as root, in a mount namespace that ends with it. The network, /dev and
# /tmp are those of this machine. Without --pid, this process becomes the command, so that signals reach it; with --pid,
# the command is process 1 of a PID namespace, which ends with this process.
# Arguments: [--pid] ROOT [VARIABLE=value …] command…

set -euo pipefail

if [[ ${1:-} == --pid ]]; then
    shift
    exec setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child "$0" --mount "$@"
elif [[ ${1:-} != --mount ]]; then
    exec unshare --mount "$0" --mount "$@"
fi
root=$2
shift 2

mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind /tmp "$root/tmp"
# Files that configure how this machine reaches package archives.
for file in /etc/{resolv.conf,hosts,pip.conf,ssl/certs/ca-certificates.crt}; do
    if [[ -f $file && -f $root$file ]]; then
        mount --bind "$file" "$root$file"
    elif [[ -f $file ]]; then
        install -D -m 644 "$file" "$root$file"
    fi
done
environment=(HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
for variable in $(compgen -e | grep -xE 'PIP_.*|.*_proxy|TERM'); do
    environment+=("$variable=${!variable}")
done
exec chroot "$root" env -i "${environment[@]}" "$@"
