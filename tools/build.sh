#!/bin/bash
# Builds the module in release mode, after installing what that needs; where MODULE names one, takes that as it is. Its
# path is all that goes to stdout, and so the last line.

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
