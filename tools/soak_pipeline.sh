#!/usr/bin/env bash
# The runs of e2e/tests/chaos at full size: while 10,000 alerts flow, everything that they pass is killed (kill -9) or cut
# off at random: on Kafka each service, the broker, PostgreSQL and the mail server; on the embedded log the standalone and
# the mail server. Afterwards every alert is in the mail server's hands, and every copy is accounted for.
# ALERTS (10000), SEEDS (20) in a row, FAULTS a run (40), MINUTES a run may take at most (15), SEED (of the first);
# PIPELINES="kafka embedded" picks runs.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

declare -A RUNS=([kafka]=a_pipeline_on_kafka_ [embedded]=a_standalone_)
PIPELINES=${PIPELINES:-kafka embedded}
SERVICES=(user_manager data_collector alert_system notifier_system)
export CHAOS_ALERTS=${ALERTS:-10000} CHAOS_SEEDS=${SEEDS:-20} CHAOS_FAULTS=${FAULTS:-40} CHAOS_MINUTES=${MINUTES:-15}
[[ -z ${SEED:-} ]] || export CHAOS_SEED=$SEED

filters=()
for run in $PIPELINES; do filters+=("${RUNS[$run]:?"PIPELINES knows ${!RUNS[*]}"}"); done
if [[ " $PIPELINES " == *" kafka "* ]]; then
    # The test has servers of its own, started here once to see that they can be had. It ends these, and starts its own.
    export SERVICES_STATE=$PWD/target/services/chaos
    trap 'tools/services.sh stop' EXIT
    eval "$(tools/services.sh start)"
    [[ -n ${TEST_DATABASE_URL:-} && -n ${TEST_KAFKA:-} ]] || die "PostgreSQL and Kafka cannot be started"
fi
cargo build --profile trial "${SERVICES[@]/#/--package=}" -p opensky_replay -p standalone --bins --all-features
timeout 10h cargo test --profile trial -p e2e --features kafka --test chaos -- --nocapture --test-threads=1 "${filters[@]}"
