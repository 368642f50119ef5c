#!/bin/bash
# Prints the instructions of a request, counted by valgrind's callgrind, with the chosen Python. With RECORD it also writes
# tests/instructions.json, with which the tests compare them.

source "$(dirname "$0")/env.sh"

WSGI_TEST_VENV=$(tools/venv.sh "$python")
export WSGI_TEST_VENV
exec cargo test --test suite -- --ignored --nocapture instructions::
