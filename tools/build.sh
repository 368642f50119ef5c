#!/bin/bash
# Builds the module in release mode, after installing what that needs. Where MODULE names a module, nothing is built.
# Prints the path of the module to stdout, and nothing else there.

source "$(dirname "$0")/env.sh"

if [[ -n ${MODULE:-} ]]; then
    module=$(absolute "$MODULE")
    [[ -f $module ]] || die "MODULE=$MODULE: there is no such file."
else
    tools/setup.sh
    as_builder cargo build --release
    tools/symbols.sh "$module"
fi
echo "$module"
