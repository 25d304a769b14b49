#!/usr/bin/env bash
# The runs of e2e/tests/collection at full size: every airport of the recording over its four weeks, undisturbed, through
# faults, and through kills (kill -9), on SQLite and on PostgreSQL, there also by two replicas; afterwards every number is the
# recording's.
# AIRPORTS (223), DAYS (28), KILLS (50), ROUNDS of faults (3), SEED; COLLECTIONS="undisturbed faults kills" picks runs.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

declare -A RUNS=([undisturbed]=undisturbed_ [faults]=through_every_fault_ [kills]=killed_)
COLLECTIONS=${COLLECTIONS:-undisturbed faults kills}
export COLLECTION_AIRPORTS=${AIRPORTS:-223} COLLECTION_DAYS=${DAYS:-28} COLLECTION_KILLS=${KILLS:-50}
export COLLECTION_ROUNDS=${ROUNDS:-3}
[[ -z ${SEED:-} ]] || export COLLECTION_SEED=$SEED

filters=()
for run in $COLLECTIONS; do filters+=("${RUNS[$run]:?"COLLECTIONS knows ${!RUNS[*]}"}"); done
# What runs already is left running.
STARTED=$(tools/services.sh status | sed -n 's/: not running$//p')
# shellcheck disable=SC2086 # names, without spaces
[[ -z $STARTED ]] || trap 'tools/services.sh stop $STARTED' EXIT
eval "$(tools/services.sh start)"
[[ -n ${TEST_DATABASE_URL:-} ]] || die "PostgreSQL cannot be started"
cargo build --profile trial -p data_collector -p opensky_replay --bins --features data_collector/kafka
timeout 120m cargo test --profile trial -p e2e --features kafka --test collection -- --nocapture --test-threads=1 "${filters[@]}"
