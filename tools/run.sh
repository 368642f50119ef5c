#!/bin/bash
# Serves the demo, or the application that APP names, in the foreground, for development: writes an nginx.conf below
# target/run/ and starts nginx with it. ngx_wsgi_develop.py is what it does inside the application.

source "$(dirname "$0")/env.sh"

port=${PORT:-8080} workers=${WORKERS:-1} threads=${THREADS:-}
dir=${DIR:+$(absolute "$DIR")}
app=${APP:-}

# What was asked for, checked: one sentence is better than nginx's view of a file that nobody wrote by hand.
[[ -n $app || -z $dir$venv ]] || die "DIR= and VENV= belong to an application: give APP= too."
[[ $port =~ ^[0-9]+$ ]] || die "PORT=$port is not a number."
[[ $workers =~ ^([0-9]+|auto)$ ]] || die "WORKERS=$workers is neither a number nor auto."
[[ $threads =~ ^([0-9]*|off)$ ]] || die "THREADS=$threads is neither a number nor off."
[[ -z $dir || -d $dir ]] || die "DIR=$dir is not a folder."
[[ -z $venv || -x $venv/bin/python ]] || die "VENV=$venv is not a virtual environment: it has no bin/python."
if [[ -n $venv && $(python_tag "$venv/bin/python") != $(python_tag "$python") ]]; then
    die "VENV=$venv is for $(python_tag "$venv/bin/python"), PYTHON=$PYTHON is another: leave one out."
fi
# Now, not after the build. nginx itself would ask for the port five times before it gives up.
if (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    die "PORT=$port of 127.0.0.1 is taken by another program: choose another, as in make run PORT=$((port + 1))"
fi

# Braces, quotes and spaces may be in a path; nginx takes them in quotes.
quote() {
    local value=${1//\\/\\\\}
    echo "\"${value//\"/\\\"}\""
}

# Templates are no modules. In a directory of an application's own or in one for all; any deeper, a virtual environment
# below the directory would be searched as well.
watched() {
    local directory
    # shellcheck disable=SC2001 # ${//} knows no groups
    directory=$(sed 's/[][*?]/[&]/g' <<<"$1")
    [[ -z $1 ]] || echo " $(quote "$directory/templates/**/*") $(quote "$directory/*/templates/**/*")"
}

if [[ -z $app ]]; then
    owned=$PWD/demo
    locations="location / {
            wsgi_pass $(quote "$PWD/demo/app.py");
        }

        # nginx serves files itself; Python is not asked.
        location /static/ {
            alias $(quote "$PWD/demo/static/");
        }"
else
    callable=
    # mysite.wsgi is a module, as wsgi_pass has it, unless there is a file of that name.
    if [[ $app =~ ^(.+\.py|.*/.+\.wsgi):([A-Za-z_][A-Za-z0-9_.]*(\(\))?)$ ]]; then
        app=${BASH_REMATCH[1]} callable=${BASH_REMATCH[2]}
    fi
    if [[ $app == */* || $app == *.py || ( $app == *.wsgi && -f $(absolute "$app") ) ]]; then
        app=$(absolute "$app")
        [[ -f $app ]] || die "APP=$app: there is no such file."
        if [[ -z $dir ]]; then
            dir=${app%/*}
            # A module's name begins with its outermost package.
            while [[ -f $dir/__init__.py ]]; do dir=${dir%/*}; done
        fi
        owned=$app
    else
        [[ $app =~ ^[A-Za-z_][A-Za-z0-9_.]*(:[A-Za-z_][A-Za-z0-9_.]*(\(\))?)?$ ]] ||
            die "APP=$app is neither the path of a script nor package.module or package.module:callable."
        dir=${dir:-$CALLER_DIR}
        owned=$dir
    fi
    locations="location / {
            wsgi_pass $(quote "$app")${callable:+ $callable};
        }"
fi

module=$(tools/build.sh)

# Python's part of it is where the workers' user can read it, and write that the application has been loaded.
develop=$(mktemp -d)
trap 'rm -rf "$develop"' EXIT
cp tools/ngx_wsgi_develop.py "$develop"
loaded=$develop/loaded

# Workers of a master that runs as root change to another user, by default one who may read nobody's home. Here they
# become whoever started this, or owns the application.
main=
if ((EUID == 0)); then
    user=${SUDO_USER:-$(stat -L -c %U "$owned")}
    id "$user" >/dev/null 2>&1 || user=root
    main="user $user $(id -gn "$user");"
    chown -R "$user" "$develop"
fi

# A development server: an uncaught exception is shown in the browser, and what is edited is served, templates too. The
# application always starts afresh, as Django and others keep too much for less than that.
http="wsgi_debug on;
    wsgi_script_reloading on;
    wsgi_reload_mechanism process;
    wsgi_reload_watch modules$(watched "$dir");
    wsgi_middleware ngx_wsgi_develop;
    wsgi_python_path ${dir:+$(quote "$dir") }$(quote "$develop");"
[[ -z $venv ]] || http+="
    wsgi_python_home $(quote "$venv");"
[[ -z $threads ]] || http+="
    wsgi_threads $threads;"

# The access log goes to the terminal where that can be opened (not where stdout is a socket).
access_log=off
! (: >>/dev/stdout) 2>/dev/null || access_log=/dev/stdout

# nginx brings its table of file types in the folder of its configuration.
types=$("$nginx" -V 2>&1 | grep -oP -- '--conf-path=\K\S+(?=/)' || echo /usr/local/nginx/conf)/mime.types

run=$PWD/target/run/$port
mkdir -p "$run/temp"
cat >"$run/nginx.conf" <<CONF
# Written by make run; it is written anew each time.
load_module $(quote "$module");
$main
worker_processes $workers;
pid nginx.pid;
error_log stderr;

events {
    worker_connections 1024;
}

http {
    $http

    access_log $access_log;
    client_max_body_size 1g;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;

    include $(quote "$types");
    default_type application/octet-stream;

    server {
        listen 127.0.0.1:$port;
        $locations
    }
}
CONF

# nginx itself has a variable of this name: sockets to inherit from the nginx before it.
unset NGINX
command=("$nginx" -e stderr -p "$run" -c "$run/nginx.conf")

# It imports the application as a worker will, and says why it cannot.
"${command[@]}" -t -q || die "Not served, for the reason above."

"${command[@]}" -g 'daemon off;' &
pid=$!
# Not exec: nginx takes the hang-up of a closed terminal for "reload", and would stay behind.
trap 'kill -TERM "$pid" 2>/dev/null || true; wait "$pid"; exit' HUP INT TERM

# nginx listens before it starts a worker, and a worker loads the application.
until [[ -e $loaded ]]; do
    kill -0 "$pid" 2>/dev/null || die "nginx has ended, for the reason above."
    sleep 0.1
done
say "Serving ${app:-the demo} on http://127.0.0.1:$port/ (Ctrl-C ends it)"
wait "$pid"
