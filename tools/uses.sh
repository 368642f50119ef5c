#!/bin/bash
# Prints FILE:LINE and the directive for each place where an nginx configuration needs the module: its directives, its
# variables, and load_module. It reads the files, as `nginx -T` prints nothing while an application or the module cannot be
# loaded.
# Arguments: the main configuration file, and the directory that absolute paths are below, if that is not /.

set -euo pipefail
shopt -s inherit_errexit
main=$1 root=${2:-}

# Prints one directive a line: its line number, name and arguments, separated by tabs. As in nginx, # and quotes have a
# meaning only at the start of an argument.
directives() {
    tr '\t\r' '  ' <"$1" | awk '
        function end_word() { words = words "\t" word; word = ""; in_word = 0 }
        function end_directive() { if (words != "") print start words; words = "" }
        function begin() { if (words == "") start = line }
        { text = text $0 "\n" }
        END {
            line = 1
            for (i = 1; i <= length(text); i++) {
                c = substr(text, i, 1)
                if (c == "\n") line++
                if (c == "\n" && !comment) c = " "
                if (comment) { comment = c != "\n" }
                else if (quote != "" && c == quote) { quote = ""; end_word() }
                else if ((quote != "" || in_word) && c == "\\") { word = word c substr(text, ++i, 1) }
                else if (quote != "") word = word c
                else if (in_word && c !~ /[ ;{]/ || in_word && c == "{" && word ~ /\$$/) word = word c
                else {
                    if (in_word) end_word()
                    if (c == "#") comment = 1
                    else if (c ~ /[;{}]/) end_directive()
                    else if (c ~ /["\047]/) { quote = c; begin() }
                    else if (c != " ") { in_word = 1; word = c; begin() }
                }
            }
        }'
}

walk() {
    local file=$1 line name words included
    while IFS=$'\t' read -r line name words; do
        if [[ $name == include ]]; then
            [[ $words == /* ]] && included=$root$words || included=${main%/*}/$words
            while read -r included; do
                walk "$included"
            done < <(compgen -G "$included" || true)
        elif [[ $name == wsgi_* || $words =~ \$\{?wsgi_ ]] ||
            [[ $name == load_module && $words == */ngx_http_wsgi_module.so ]]; then
            # Without the other arguments, which may be secrets.
            printf '%s:%s: %s %s\n' "$file" "$line" "$name" "${words%%$'\t'*}"
        fi
    done < <(directives "$file")
}

if [[ -f $main ]]; then
    walk "$main"
fi
