#!/bin/bash
# The models of src/ (modules named `models`): loom runs every interleaving of their threads.

source "$(dirname "$0")/env.sh"

RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$target/model cargo test --lib -- models::
