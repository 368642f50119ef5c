#!/bin/bash
# Runs a mixed load for SOAK_MINUTES, with the chosen Python.

source "$(dirname "$0")/env.sh"

exec cargo test --test suite -- --ignored --nocapture soak::
