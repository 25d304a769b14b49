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

source bench/lib.sh

PARTS=(windows ingest queries)

# measure NAME DATABASE
measure() {
    echo "$1:"
    "$TARGET/release/collection" --database "$2" --recording opensky_replay/data/flights-2001-04.ndjson.gz \
        --only "${ONLY_PARTS// /,}" || MISSED=1
}

for name in $ONLY; do
    [[ " sqlite postgres ${PARTS[*]} " == *" $name "* ]] || die "ONLY: there is no $name"
done
ONLY_PARTS=$(some_of "${PARTS[@]}")
cargo build --release -p bench --bin collection
on_databases measure
exit "$MISSED"
