#!/bin/sh
# Publishes a release if nginx can import every application with it. Otherwise the running code stays.
#
#   deploy.sh DIRECTORY SITE
#
# copies DIRECTORY to SITE/releases/TIME, switches the symbolic link SITE/current to it, and reloads nginx if `nginx -t`
# succeeds. Otherwise it switches SITE/current back. Use SITE/current in nginx's configuration:
#
#   wsgi_pass SITE/current/mysite/wsgi.py;
#
# Run it as a user who may reload nginx. NGINX_COMMAND is the nginx command with its options ("nginx" by default):
# NGINX_COMMAND='nginx -p /srv/nginx -c /srv/nginx/nginx.conf'. The script never removes an old release.

set -eu

if [ $# -ne 2 ] || [ ! -d "$1" ] || [ ! -d "$2" ]; then
    echo "usage: $0 DIRECTORY SITE (two existing directories)" >&2
    exit 2
fi
site=$(cd "$2" && pwd)
nginx=${NGINX_COMMAND:-nginx}

release=releases/$(date +%Y-%m-%d-%H%M%S)
mkdir -p "$site/releases"
# Without -p: an existing release must not be overwritten.
mkdir "$site/$release"
cp -a "$1/." "$site/$release/"

# Switches the link in one step: it must exist at any time, for imports.
point_to() {
    ln -sfn "$1" "$site/current.new"
    mv -T "$site/current.new" "$site/current"
}

previous=$(readlink "$site/current" || true)
go_back() {
    if [ -n "$previous" ]; then point_to "$previous"; else rm -f "$site/current"; fi
    echo "$release is not live; the previous release keeps serving." >&2
}
trap go_back EXIT
trap 'exit 1' HUP INT TERM

point_to "$release"
# Unquoted: the command may have options.
$nginx -t
trap - EXIT HUP INT TERM
$nginx -s reload
echo "$release is live."
