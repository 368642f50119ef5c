#!/bin/bash
# Serves the demo, or the application that APP names, in the foreground, for development: writes an nginx.conf below
# target/run/ and starts nginx with it. ngx_wsgi_develop.py is the middleware that it adds to the application.

source "$(dirname "$0")/env.sh"

port=${PORT:-8080} workers=${WORKERS:-1} threads=${THREADS:-}
dir=${DIR:+$(absolute "$DIR")}
app=${APP:-}

# The variables are checked here: nginx would report errors in a file that its user has not written.
[[ -n $app || -z $dir$venv ]] || die "DIR= and VENV= belong to an application: give APP= too."
[[ $port =~ ^[0-9]+$ ]] || die "PORT=$port is not a number."
[[ $workers =~ ^([0-9]+|auto)$ ]] || die "WORKERS=$workers is neither a number nor auto."
[[ $threads =~ ^([0-9]*|off)$ ]] || die "THREADS=$threads is neither a number nor off."
[[ -z $dir || -d $dir ]] || die "DIR=$dir is not a directory."
[[ -z $venv || -x $venv/bin/python ]] || die "VENV=$venv is not a virtual environment: it has no bin/python."
if [[ -n $venv && $(python_tag "$venv/bin/python") != $(python_tag "$python") ]]; then
    die "VENV=$venv is for $(python_tag "$venv/bin/python"), and PYTHON=$PYTHON is another: set only one of them."
fi
# Before the build. nginx itself would try to bind the port five times.
if (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    die "PORT=$port of 127.0.0.1 is taken by another program: choose another, as in make run PORT=$((port + 1))"
fi

# Prints a path in quotes for nginx: it may have braces, quotes or spaces.
quote() {
    local value=${1//\\/\\\\}
    echo "\"${value//\"/\\\"}\""
}

# Prints the patterns of templates, which are not modules: those of one application and those for all. A pattern for
# deeper directories would also match a virtual environment below the directory.
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

        # nginx serves static files itself, without Python.
        location /static/ {
            alias $(quote "$PWD/demo/static/");
        }"
else
    callable=
    # mysite.wsgi is a module, as for wsgi_pass, unless there is a file of that name.
    if [[ $app =~ ^(.+\.py|.*/.+\.wsgi):([A-Za-z_][A-Za-z0-9_.]*(\(\))?)$ ]]; then
        app=${BASH_REMATCH[1]} callable=${BASH_REMATCH[2]}
    fi
    if [[ $app == */* || $app == *.py || ( $app == *.wsgi && -f $(absolute "$app") ) ]]; then
        app=$(absolute "$app")
        [[ -f $app ]] || die "APP=$app: there is no such file."
        if [[ -z $dir ]]; then
            dir=${app%/*}
            # The name of a module begins with its outermost package.
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

# The middleware is in a directory that the user of the workers can read, and where it can write the file "loaded".
develop=$(mktemp -d)
trap 'rm -rf "$develop"' EXIT
cp tools/ngx_wsgi_develop.py "$develop"
loaded=$develop/loaded

# The workers of a master that runs as root change to another user, by default one without access to home directories.
# Here that is the user who called sudo, or the owner of the application.
main=
if ((EUID == 0)); then
    user=${SUDO_USER:-$(stat -L -c %U "$owned")}
    id "$user" >/dev/null 2>&1 || user=root
    main="user $user $(id -gn "$user");"
    chown -R "$user" "$develop"
fi

# As a development server: the browser shows uncaught exceptions, and edits are served, those of templates too. Each edit
# starts a new worker, as frameworks such as Django keep state that reloading modules would not reset.
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

# The access log goes to the terminal, if that can be opened (a socket cannot).
access_log=off
! (: >>/dev/stdout) 2>/dev/null || access_log=/dev/stdout

# The table of file types is in the directory of nginx's own configuration.
types=$(dirname "$(configured_path conf-path conf/nginx.conf)")/mime.types

run=$PWD/target/run/$port
mkdir -p "$run/temp"
cat >"$run/nginx.conf" <<CONF
# Written by make run, each time that it starts.
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

# nginx itself uses an environment variable of this name: the sockets to inherit from an older nginx.
unset NGINX
command=("$nginx" -e stderr -p "$run" -c "$run/nginx.conf")

# Imports the application as a worker will, and reports the error if that fails.
"${command[@]}" -t -q || die "Not served, for the reason above."

"${command[@]}" -g 'daemon off;' &
pid=$!
# Not exec: nginx reloads on the SIGHUP of a closed terminal, and would keep running.
trap 'kill -TERM "$pid" 2>/dev/null || true; wait "$pid"; exit' HUP INT TERM

# nginx listens before its workers have loaded the application.
until [[ -e $loaded ]]; do
    kill -0 "$pid" 2>/dev/null || die "nginx has exited, for the reason above."
    sleep 0.1
done
say "Serving ${app:-the demo} on http://127.0.0.1:$port/ (Ctrl-C ends it)"
wait "$pid"
