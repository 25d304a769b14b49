# shellcheck shell=bash
# What the benchmarks that need databases or a broker share. Sourced after tools/lib.sh, never run.

ONLY=${ONLY:-}
# What a benchmark exits with: 1 when a target was missed.
MISSED=0
TARGET=${CARGO_TARGET_DIR:-target}
WORK=$(mktemp -d)
STARTED=
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

# machine: what figures have to be read with.
machine() {
    echo "machine: $(nproc) x $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
    echo "commit:  $(git rev-parse --short HEAD 2>/dev/null || echo none)$(git diff --quiet HEAD 2>/dev/null || echo ', with changes')"
}

# services: sets TEST_DATABASE_URL and TEST_KAFKA; what this starts is stopped at the end.
services() {
    STARTED=$(tools/services.sh status | sed -n 's/: not running$//p')
    eval "$(tools/services.sh start)"
}

# on_databases COMMAND: runs COMMAND NAME PLACE for SQLite and for PostgreSQL, or for the one that ONLY names.
on_databases() {
    local database
    machine
    for database in $(some_of sqlite postgres); do
        case $database in
        sqlite) "$1" SQLite "sqlite:$WORK" ;;
        postgres)
            [[ -n ${TEST_DATABASE_URL:-} ]] || services
            [[ -n ${TEST_DATABASE_URL:-} ]] || die "there is no PostgreSQL (ONLY=sqlite leaves it out)"
            "$1" PostgreSQL "$TEST_DATABASE_URL"
            ;;
        esac
    done
}
