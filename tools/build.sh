#!/bin/bash
# Builds the module in release mode. Its path is all that goes to stdout, and so the last line.

source "$(dirname "$0")/env.sh"
cargo build --release
echo "$module"
