#!/bin/bash
# Fetches the source of nginx with cargo, from the crate nginx-src, which contains it. Prints its directory.

source "$(dirname "$0")/env.sh"

package=$PWD/target/nginx-src
mkdir -p "$package/src"
touch "$package/src/lib.rs"
# A workspace of its own, as a package of this repository it would change Cargo.lock.
cat >"$package/Cargo.toml" <<'TOML'
[package]
name = "fetch"
edition = "2024"

[dependencies]
nginx-src = "=1.28.5"

[workspace]
TOML
cargo metadata --format-version 1 --manifest-path "$package/Cargo.toml" |
    "$python" -c '
import json, os, sys
for package in json.load(sys.stdin)["packages"]:
    if package["name"] == "nginx-src":
        print(os.path.join(os.path.dirname(package["manifest_path"]), "nginx"))'
