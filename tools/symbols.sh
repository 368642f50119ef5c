#!/bin/bash
# Fails if the module needs a symbol that neither nginx nor a library of the module provides. The linker cannot tell: it
# does not see nginx, so build.rs lets it ignore undefined symbols, and functions are bound at their first call.
# Arguments: the module.

source "$(dirname "$0")/env.sh"

# ldd binds the module to its libraries only, so the symbols of nginx are among those that it reports.
if ! exported=$(nm -D --defined-only -P "$(command -v "$nginx")" 2>/dev/null) || ! bound=$(ldd -r "$1" 2>&1); then
    say "Undefined symbols are not checked: nm cannot read $nginx, or ldd cannot read $1."
    exit
fi
undefined=$(sed -n 's/^undefined symbol: \([^[:space:],@]*\).*/\1/p' <<<"$bound" | sort -u)
missing=$(comm -23 <(echo "$undefined") <(cut -d' ' -f1 <<<"$exported" | sort -u))
[[ -z $missing ]] || die "The module needs symbols that neither $nginx nor a library provides:
$missing
nginx would refuse to load the module, or a worker would crash at the first call. A symbol of an nginx module or feature
that can be left out needs #[cfg(ngx_feature = \"...\")] in src/. Symbols that the headers declare but the binary lacks
come from the source of another nginx: NGINX_SOURCE_DIR and NGINX must belong together."
