#!/bin/bash
# Puts the module where nginx looks for modules, with a snippet that loads it; --remove takes both away again.
# DESTDIR is put in front of each path.

source "$(dirname "$0")/env.sh"

# With sudo there is often no cargo on PATH: then what has been built before is installed as it is.
if [[ ${1:-} != --remove ]]; then
    if command -v cargo >/dev/null; then
        tools/setup.sh
        tools/build.sh
    fi
    [[ -f $module ]] || die "There is no $module yet: run make build first."
fi
command -v "$nginx" >/dev/null || die "There is no nginx here (NGINX=/path/sbin/nginx names one)."

configured() { "$nginx" -V 2>&1 | grep -oP -- "--$1=\K\S+" || true; }
prefix=$(configured prefix)
prefix=${prefix:-/usr/local/nginx}
modules=$(configured modules-path)
modules=${modules:-modules}
[[ $modules == /* ]] || modules=$prefix/$modules

name=ngx_http_wsgi_module.so
destination=${DESTDIR:-}$modules/$name
# How Debian's packages of modules do it: a file to load the module, and a link to it that enables it.
snippet=${DESTDIR:-}/usr/share/nginx/modules-available/mod-http-wsgi.conf
link=${DESTDIR:-}/etc/nginx/modules-enabled/50-mod-http-wsgi.conf
like_debian() { [[ -d /etc/nginx/modules-enabled && $nginx -ef /usr/sbin/nginx ]]; }

# Root only where the destination asks for it.
place() {
    if [[ -n ${DESTDIR:-} ]]; then "$@"; else as_root "$@"; fi
}

if [[ ${1:-} == --remove ]]; then
    place rm -f "$destination"
    ! like_debian || place rm -f "$link" "$snippet"
    say "Removed. An nginx that runs keeps the module until its next restart, and needs wsgi_… directives taken out first."
    exit
fi

place install -D -m 644 "$module" "$destination"
say "Installed $destination"
if like_debian; then
    place install -D -m 644 /dev/stdin "$snippet" <<<"load_module modules/$name;"
    place mkdir -p "${link%/*}"
    place ln -sf "${snippet#"${DESTDIR:-}"}" "$link"
    say "Installed $link: nginx loads the module at its next restart."
else
    say "At the top of nginx.conf: load_module $modules/$name;"
fi
