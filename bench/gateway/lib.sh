# shellcheck shell=bash
# The servers of bench/gateway.sh and bench/gateway/profile.sh. Sourced, never run; needs tools/lib.sh and $WORK.

HERE=bench/gateway
NGINX=${NGINX:-nginx}
declare -A PORT PID # by name: upstream, gateway, gateway_logging, tuned, assignment

# need COMMAND PACKAGE
need() {
    have "$1" && return
    can_apt || die "$1 is missing; install the package $2"
    apt_install "$2" || die "apt-get could not install $2"
}

target_dir() { echo "${CARGO_TARGET_DIR:-target}"; }

# Binaries are copied, so that a build meanwhile changes nothing. GATEWAY and LOAD name others than a release build's.
take_binaries() {
    if [[ -z ${LOAD:-} ]]; then
        cargo build --release --quiet -p bench
        LOAD=$(target_dir)/release/load
    fi
    # shellcheck disable=SC2034 # for the report
    ORIGIN="built $(date -r "${GATEWAY:-/dev/null}" '+%F %T')"
    if [[ -z ${GATEWAY:-} ]]; then
        cargo build --release --quiet -p gateway
        GATEWAY=$(target_dir)/release/gateway
        # shellcheck disable=SC2034
        ORIGIN="commit $(git rev-parse --short HEAD 2>/dev/null || echo none)$(git diff --quiet HEAD 2>/dev/null || echo ', with changes')"
    fi
    cp "$LOAD" "$WORK/load"
    cp "$GATEWAY" "$WORK/gateway"
}

# The workers of an nginx that root starts are another user, who has to read the folder.
prepare() {
    ulimit -n "$(ulimit -Hn)"
    chmod 755 "$WORK"
    mkdir "$WORK/temp"
    sed "s|@DIR@|$WORK|" $HERE/paths.conf >"$WORK/paths.conf"
    head -c 1048576 /dev/urandom >"$WORK/mib"
    chmod 644 "$WORK/mib"
    "$WORK/gateway" gen-cert --out "$WORK" >/dev/null
}

serves() { curl -sfk --max-time 2 -o /dev/null "https://127.0.0.1:${PORT[$1]}/user_manager/ping"; }

# start NAME: the upstream first. All have the same certificate.
start() {
    PORT[$1]=$(free_port)
    case $1 in
    gateway | gateway_logging) start_gateway "$1" ;;
    *) start_nginx "$1" ;;
    esac
    if [[ $1 == upstream ]]; then
        wait_until 10 answers "${PORT[$1]}"
    else
        wait_until 10 serves "$1"
    fi || die "$1 does not answer:
$(tail -qn 5 "$WORK/$1".log "$WORK/$1".error.log 2>/dev/null)"
}

# stop NAME
stop() {
    end "${PID[$1]}" TERM 10
    wait "${PID[$1]}" 2>/dev/null || true
    unset "PID[$1]"
}

stop_all() {
    local name
    for name in "${!PID[@]}"; do stop "$name"; done
}

# start_nginx NAME
start_nginx() {
    sed -e "s|@DIR@|$WORK|" -e "s|@PORT@|${PORT[$1]}|" -e "s|@UPSTREAM@|${PORT[upstream]}|" \
        -e "s|@CORES@|$(nproc)|" -e "s|@FILES@|$(ulimit -n)|" "$HERE/$1.conf" >"$WORK/$1.conf"
    "$NGINX" -e "$WORK/$1.error.log" -c "$WORK/$1.conf" -g "daemon off;" >"$WORK/$1.log" 2>&1 &
    PID[$1]=$!
}

# known FLAG...: those of them, each with its value behind a "=", that this gateway has.
known() {
    local flag
    for flag in "$@"; do
        if "$WORK/gateway" serve --help | grep -q -- "${flag%%=*}[ ,]"; then echo "$flag"; fi
    done
}

# start_gateway NAME: no limits and no tokens, which nginx does not have either; GATEWAY_FLAGS come last.
start_gateway() {
    local upstream=http://127.0.0.1:${PORT[upstream]} log=warn access_log=false flags=()
    if [[ $1 == gateway_logging ]]; then log=info access_log=true; fi
    echo "access_log = $access_log" >"$WORK/$1.toml"
    mapfile -t flags < <(known --config="$WORK/$1.toml" --rate-limit=off --rate-limit-login=off \
        --max-connections-per-client=off --max-connections=20000 \
        --user-manager-admin-port="${PORT[upstream]}" --data-collector-admin-port="${PORT[upstream]}")
    # shellcheck disable=SC2086 # flags, without spaces
    "$WORK/gateway" serve --log "$log" --log-format json --auth off \
        --listen "127.0.0.1:${PORT[$1]}" --admin-listen "127.0.0.1:$(free_port)" \
        --tls-cert "$WORK/cert.pem" --tls-key "$WORK/key.pem" \
        --user-manager-url "$upstream" --data-collector-url "$upstream" \
        "${flags[@]}" ${GATEWAY_FLAGS:-} >"$WORK/$1.log" 2>&1 &
    PID[$1]=$!
}

# pids NAME: the process and its children, separated by commas.
pids() {
    local all
    mapfile -t all < <(pgrep -P "${PID[$1]}" || true)
    all=("${PID[$1]}" "${all[@]}")
    (IFS=, && echo "${all[*]}")
}

# load NAME PATH OPTIONS...: one line of JSON.
load() {
    local name=$1 path=$2
    shift 2
    "$WORK/load" --json --url "https://127.0.0.1:${PORT[$name]}/user_manager/$path" --cpu-of "$(pids "$name")" "$@"
}
