#!/usr/bin/env bash
# How many registrations and logins a second user_manager takes, with how much memory, and how soon a deleted account's
# token is refused elsewhere; on SQLite and on PostgreSQL. Exit code 1 when a target is missed.
# usage: bench/accounts.sh               (Linux)
#   ONLY=sqlite               or postgres: one of the two
#   EACH=15s                  how long each part takes
#   TEST_DATABASE_URL=        a PostgreSQL server, on which the database vedetta_bench is made anew; by default the one of
#                             tools/services.sh, which is started, and stopped again, if it does not run
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh
source bench/lib.sh

# measure NAME DATABASE
measure() {
    echo "$1:"
    "$TARGET/release/accounts" --database "$2" --user-manager "$TARGET/release/user_manager" --each "${EACH:-15s}" || MISSED=1
}

for name in $ONLY; do
    [[ " sqlite postgres " == *" $name "* ]] || die "ONLY: there is no $name"
done
cargo build --release -p bench -p user_manager --bin accounts --bin user_manager
on_databases measure
exit "$MISSED"
