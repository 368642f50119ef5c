#!/bin/bash
# Runs a mixed load for SOAK_MINUTES, with the chosen Python. SOAK_GROUPS=1: on process groups, whose processes are killed.

source "$(dirname "$0")/env.sh"

soak=soak::nothing_is_lost_and_nothing_grows
if [[ -n ${SOAK_GROUPS:-} ]]; then
    soak=process_group_soak::minutes_of_kills_and_reloads_lose_only_running_calls
fi
exec cargo test --test suite -- --ignored --nocapture "$soak"
