#!/bin/bash
# A mixed load for SOAK_MINUTES, for the chosen Python.

source "$(dirname "$0")/env.sh"

exec cargo test --test soak -- --ignored --nocapture
