#!/bin/sh
# Brings a release live if every application of this nginx can be imported with it; otherwise what runs goes on.
#
#   deploy.sh FOLDER SITE
#
# copies FOLDER to SITE/releases/TIME, points the link SITE/current to that, and reloads nginx if `nginx -t` accepts it.
# If not, SITE/current is pointed back. nginx's configuration names SITE/current, as in
#
#   wsgi_pass SITE/current/mysite/wsgi.py;
#
# To be run as whoever may reload nginx. NGINX_COMMAND is how nginx is called ("nginx"), with its options if it has any:
# NGINX_COMMAND='nginx -p /srv/nginx -c /srv/nginx/nginx.conf'. Old releases are yours to remove, or to deploy again.

set -eu

if [ $# -ne 2 ] || [ ! -d "$1" ] || [ ! -d "$2" ]; then
    echo "usage: $0 FOLDER SITE (two folders that are there)" >&2
    exit 2
fi
site=$(cd "$2" && pwd)
nginx=${NGINX_COMMAND:-nginx}

release=releases/$(date +%Y-%m-%d-%H%M%S)
mkdir -p "$site/releases"
# Without -p: a release that is there already is not to be written over.
mkdir "$site/$release"
cp -a "$1/." "$site/$release/"

# Points the link at a release, in one step: no import may find it missing.
point_to() {
    ln -sfn "$1" "$site/current.new"
    mv -T "$site/current.new" "$site/current"
}

previous=$(readlink "$site/current" || true)
go_back() {
    if [ -n "$previous" ]; then point_to "$previous"; else rm -f "$site/current"; fi
    echo "$release is not live; what was served before is served on." >&2
}
trap go_back EXIT
trap 'exit 1' HUP INT TERM

point_to "$release"
# Not quoted: the command may have options.
$nginx -t
trap - EXIT HUP INT TERM
$nginx -s reload
echo "$release is live."
