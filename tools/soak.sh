#!/bin/bash
# Runs a mixed load for SOAK_MINUTES, with the chosen Python. SOAK_GROUPS=1: on process groups, whose processes are killed.
# SOAK_STATUS=1: compares the counters of wsgi_status_zone with those of the clients, while workers are killed.

source "$(dirname "$0")/env.sh"

soak=soak::nothing_is_lost_and_nothing_grows
if [[ -n ${SOAK_GROUPS:-} ]]; then
    soak=process_group_soak::minutes_of_kills_and_reloads_lose_only_running_calls
fi
if [[ -n ${SOAK_STATUS:-} ]]; then
    soak=status_soak::counters_agree_with_the_clients_for_minutes
fi
exec cargo test --test suite -- --ignored --nocapture "$soak"
