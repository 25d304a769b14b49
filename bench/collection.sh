#!/usr/bin/env bash
# How fast data_collector stores flights, and how fast it answers at one and at ten million of them, on SQLite and on
# PostgreSQL. Exit code 1 when a target is missed.
# usage: bench/collection.sh             (Linux, about six minutes, 3 GB of disk)
#   ONLY="sqlite ingest"      some of: sqlite postgres (both when neither is named), windows ingest queries (likewise)
#   TEST_DATABASE_URL=        a PostgreSQL server, on which the database vedetta_bench is made anew; by default the one of
#                             tools/services.sh, which is started, and stopped again, if it does not run
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

ONLY=${ONLY:-}
DATABASES=(sqlite postgres)
PARTS=(windows ingest queries)
WORK=$(mktemp -d)
STARTED=
MISSED=0
trap cleanup EXIT

cleanup() {
    rm -rf "$WORK"
    # shellcheck disable=SC2086 # names, without spaces
    [[ -z $STARTED ]] || tools/services.sh stop $STARTED
}

# some_of NAME...: those that ONLY names, or all of them.
some_of() {
    local name found=()
    for name in "$@"; do [[ " $ONLY " != *" $name "* ]] || found+=("$name"); done
    ((${#found[@]} > 0)) || found=("$@")
    echo "${found[*]}"
}

# measure NAME DATABASE
measure() {
    echo "$1:"
    "${CARGO_TARGET_DIR:-target}/release/collection" --database "$2" --recording opensky_replay/data/flights-2001-04.ndjson.gz \
        --only "${ONLY_PARTS// /,}" || MISSED=1
}

for name in $ONLY; do
    [[ " ${DATABASES[*]} ${PARTS[*]} " == *" $name "* ]] || die "ONLY: there is no $name"
done
ONLY_PARTS=$(some_of "${PARTS[@]}")
cargo build --release -p bench --bin collection
echo "machine: $(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
echo "commit:  $(git rev-parse --short HEAD 2>/dev/null || echo none)$(git diff --quiet HEAD 2>/dev/null || echo ', with changes')"
for database in $(some_of "${DATABASES[@]}"); do
    case $database in
    sqlite) measure SQLite "sqlite:$WORK" ;;
    postgres)
        if [[ -z ${TEST_DATABASE_URL:-} ]]; then
            STARTED=$(tools/services.sh status | sed -n 's/: not running$//p')
            eval "$(tools/services.sh start)"
        fi
        [[ -n ${TEST_DATABASE_URL:-} ]] || die "there is no PostgreSQL (ONLY=sqlite leaves it out)"
        measure PostgreSQL "$TEST_DATABASE_URL"
        ;;
    esac
done
exit "$MISSED"
