#!/bin/bash
# Runs the models of src/ (the modules named `models`): loom runs every interleaving of their threads.

source "$(dirname "$0")/env.sh"

exec cargo test --lib --features loom -- models::
