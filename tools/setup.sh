#!/bin/bash
# Installs missing packages and configures the source of nginx. If nothing is missing it is quick and silent, and needs no
# root.
# Arguments: packages that the caller needs beyond those of the build.

source "$(dirname "$0")/env.sh"

installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# Debian starts a service when it is installed, and at each boot from then on. Trying a module must not occupy port 80 or
# 9090, so apt is told not to start these, by the file that it reads for that, unless the machine has such a policy already.
keep_stopped() {
    local service policy=/usr/sbin/policy-rc.d
    for service in "$@"; do
        say "The service $service stays stopped and disabled: 'systemctl enable --now $service' starts it."
    done
    [[ ! -e $policy ]] || return 0
    trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
    as_root tee $policy >/dev/null <<'POLICY'
#!/bin/sh
case " $* " in *" nginx "* | *" nginx.service "* | *" prometheus "* | *" prometheus.service "*) exit 101 ;; esac
POLICY
    as_root chmod 755 $policy
}

install_packages() {
    local service new_services=() apt_get=(apt-get -q -o DPkg::Lock::Timeout=300)
    for service in nginx prometheus; do
        # nginx-dev needs nginx.
        if [[ " $* " == *" $service"* ]] && ! installed "$service"; then
            new_services+=("$service")
        fi
    done
    say "Installing with apt-get: $*"
    [[ -z ${new_services[*]} ]] || keep_stopped "${new_services[@]}"
    as_root "${apt_get[@]}" update >&2
    as_root env DEBIAN_FRONTEND=noninteractive "${apt_get[@]}" install -y --no-install-recommends "$@" >&2 ||
        die "apt-get could not install: $*
The package nginx-dev is in Debian 12, Ubuntu 24.04 and later, and fits the distribution's own nginx only. For another
nginx give its source: make NGINX=/path/sbin/nginx NGINX_SOURCE_DIR=/path/nginx-1.28.0"
    for service in "${new_services[@]}"; do
        as_root update-rc.d "$service" disable >&2
    done
}

# Without apt the names of the packages are unknown: prints the missing programs and files, as far as these are known.
check_by_hand() {
    local missing=() headers
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null) || headers=
    command -v cc >/dev/null || missing+=("a C compiler")
    command -v "$nginx" >/dev/null || missing+=("nginx, or NGINX= with its path")
    [[ -z $nginx_origin || -d $nginx_origin ]] || missing+=("nginx's source, as NGINX_SOURCE_DIR=")
    [[ -f $headers/Python.h ]] || missing+=("Python 3.9 or later with its development files, at $python or as PYTHON=")
    [[ -z ${missing[*]} ]] && return
    say "apt-get is not available to install what is missing. Install this, then run make again:"
    printf '  %s\n' "${missing[@]}" "libclang, and the development files of pcre2, openssl and zlib, if they are missing" >&2
    exit 1
}

install_missing() {
    local package missing=() wanted=(gcc libc6-dev libclang-dev python3-dev libpcre2-dev libssl-dev zlib1g-dev "$@")
    command -v "$nginx" >/dev/null || wanted+=(nginx)
    [[ $nginx_origin != /usr/share/nginx/src ]] || wanted+=(nginx-dev)
    for package in "${wanted[@]}"; do
        installed "$package" || missing+=("$package")
    done
    [[ -z ${missing[*]} ]] || install_packages "${missing[@]}"
}

check_rust() {
    local needed version
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null ||
        die "Rust $needed or later is missing. Install it with rustup (Debian 12's own is too old), then run make again."
    version=$(as_builder cargo --version | cut -d' ' -f2)
    printf '%s\n' "$needed" "$version" | sort -CV || die "Rust $needed or later is needed, and the installed cargo is $version."
}

# Prints the arguments for nginx's configure: the list of the distribution, or the arguments of the binary without those
# that the module does not need and that refer to the machine of the build: compiler options, other modules, sources of
# libraries.
configure_arguments() {
    if [[ -f $nginx_origin/conf_flags ]]; then
        # shellcheck source=/dev/null
        source "$nginx_origin/conf_flags"
        printf '%s\n' "${NGX_CONF_FLAGS[@]}"
    else
        eval "printf '%s\n' $("$nginx" -V 2>&1 | sed -n 's/^configure arguments://p')" |
            grep -vE -e '=dynamic$' -e '^--add-' -e '^--with-(cc|ld|pcre|zlib|openssl)(-opt)?=' \
                -e '^--with-(http_xslt|http_image_filter|http_geoip|http_perl|stream_geoip|google_perftools)_module'
    fi
}

# Configures the source of nginx, which creates headers. That happens in a copy: the distribution's source belongs to root,
# and a source of the user must not change. It is repeated if the source has changed since (by an upgrade of nginx-dev), or
# the arguments.
configure_nginx() {
    local stamp=$nginx_copy/.configured arguments list configure=./configure
    [[ -d $nginx_origin/src/core ]] || die "NGINX_SOURCE_DIR=$nginx_origin is not an nginx source directory."
    arguments=$(configure_arguments)
    if [[ -f $stamp && $(<"$stamp") == "$nginx_origin"$'\n'"$arguments" ]] &&
        [[ -z $(find "$nginx_origin"/{auto,src} -cnewer "$stamp" -print -quit) ]]; then
        return
    fi
    say "Configuring the nginx source $nginx_origin in $nginx_copy"
    rm -rf "$nginx_copy"
    mkdir -p "${nginx_copy%/*}"
    cp -r "$nginx_origin" "$nginx_copy"
    (
        cd "$nginx_copy"
        [[ -x configure ]] || configure=auto/configure
        mapfile -t list <<<"$arguments"
        $configure "${list[@]}" >configure.log 2>&1
    ) || die "nginx's configure failed: see $nginx_copy/configure.log"
    printf '%s\n' "$nginx_origin" "$arguments" >"$stamp"
}

# First, as Rust is the one requirement that is not installed here, and the packages are a gigabyte.
check_rust
if command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; then
    install_missing "$@"
else
    check_by_hand
fi
if [[ -n $builder ]]; then
    # The rest happens below target/, which belongs to the builder.
    as_builder tools/setup.sh "$@"
    exit
fi
if [[ -n $nginx_copy ]]; then
    configure_nginx
elif [[ ! -f $NGINX_BUILD_DIR/ngx_auto_config.h ]]; then
    die "NGINX_BUILD_DIR=$NGINX_BUILD_DIR has no ngx_auto_config.h: the nginx source is not configured there."
fi
