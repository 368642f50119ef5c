#!/bin/bash
# Builds the module and installs it where nginx looks for modules, with a snippet that loads it, ngx-wsgi-ctl and
# ngx-wsgi-top. --remove removes all of it, unless the configuration of nginx uses the module. DESTDIR is put in front of
# each path.

source "$(dirname "$0")/env.sh"

# Prints files that are newer than the build: a source, or the nginx that it was made for.
newer_than_build() {
    find src build.rs Cargo.toml Cargo.lock .cargo -type f -newer "$module" -print -quit
    find -L "$nginx" -cnewer "$module" -print -quit 2>/dev/null || true
}

# Rust may be missing for root, or on a machine that installs the build of another. An existing build is installed only if
# it is up to date.
require_current_build() {
    local newer remedy="there is no Rust here to build it. Run make build as a user who has Rust, then make install again."
    [[ -f $module ]] || die "$module is missing, and $remedy"
    newer=$(newer_than_build | head -n 1)
    [[ -z $newer ]] || die "$module is older than $newer, and $remedy"
    grep -qF "lib$(python_tag "$python").so" "$module" || die "$module is for another Python than $python, and $remedy"
}

if [[ ${1:-} != --remove ]]; then
    if [[ -n ${MODULE:-} ]] || command -v cargo >/dev/null; then
        module=$(tools/build.sh)
    else
        require_current_build
    fi
fi
command -v "$nginx" >/dev/null || die "nginx is not installed (NGINX=/path/sbin/nginx names one)."

modules=$(configured_path modules-path modules)
configuration=${DESTDIR:-}$(configured_path conf-path conf/nginx.conf)

name=ngx_http_wsgi_module.so
destination=${DESTDIR:-}$modules/$name
control=${DESTDIR:-}/usr/bin/ngx-wsgi-ctl
top=${DESTDIR:-}/usr/bin/ngx-wsgi-top
# As in Debian's packages of modules: a file loads the module, and a link to that file enables it.
snippet=${DESTDIR:-}/usr/share/nginx/modules-available/mod-http-wsgi.conf
link=${DESTDIR:-}/etc/nginx/modules-enabled/50-mod-http-wsgi.conf
like_debian() { [[ -d /etc/nginx/modules-enabled && $nginx -ef /usr/sbin/nginx ]]; }

# The files of the Debian package are apt's.
if [[ -z ${DESTDIR:-} ]] && package=$(dpkg-query -S "$destination" 2>/dev/null); then
    package=${package%%:*}
    die "$destination belongs to the package $package: remove that first, with 'apt purge $package'."
fi

# Root is needed for the system's directories only.
place() {
    if [[ -n ${DESTDIR:-} ]]; then "$@"; else as_root "$@"; fi
}

if [[ ${1:-} == --remove ]]; then
    # The link is removed with the module.
    uses=$(place tools/uses.sh "$configuration" "${DESTDIR:-}" | grep -vF "$link:" || true)
    [[ -z $uses ]] || die "Not removed: nginx's configuration uses the module, and nginx would not start without it.
Remove these directives, or the files that they are in, then run make uninstall again:
$uses"
    place rm -f "$destination" "$control" "$top"
    ! like_debian || place rm -f "$link" "$snippet"
    say "Removed. A running nginx keeps the module until its next restart."
    exit
fi

place install -D -m 644 "$module" "$destination"
say "Installed $destination"
# Built with the module, so it is beside it.
built_control=${module%/*}/${control##*/}
if [[ -f $built_control ]]; then
    place install -D -m 755 "$built_control" "$control"
    say "Installed $control"
else
    say "$built_control is missing: ${control##*/}, which controls process groups, is not installed."
fi
# Its first line names the Python of the system, which need not be that of the module.
place install -D -m 755 python/ngx_wsgi/top.py "$top"
say "Installed $top"
if like_debian; then
    place install -D -m 644 /dev/stdin "$snippet" <<<"load_module modules/$name;"
    place mkdir -p "${link%/*}"
    place ln -sf "${snippet#"${DESTDIR:-}"}" "$link"
    say "Installed $link: nginx loads the module at its next restart."
else
    say "At the top of nginx.conf: load_module $modules/$name;"
fi
