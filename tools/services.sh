#!/usr/bin/env bash
# PostgreSQL and Apache Kafka for the tests: throw-away ones, on free loopback ports.
#
#   eval "$(tools/services.sh start)"   sets TEST_DATABASE_URL and TEST_KAFKA; one line on stderr for what cannot be had
#   tools/services.sh status
#   tools/services.sh stop [NAME...]    ends what `start` started, and nothing else; NAME: postgres, kafka
#   tools/services.sh kill NAME         ends it at once (SIGKILL), in the middle of what it does
#   tools/services.sh resume NAME       starts it again on its data and port
#
# SERVICES_STATE=DIR (target/services) keeps what is known of them: with another folder they are others.
# KAFKA_ADVERTISED=host:port is what the broker tells its clients (itself), so that a proxy can stand before it.
#
# What is set already (TEST_DATABASE_URL=postgres://…, TEST_KAFKA=host:port or KAFKA_BOOTSTRAP) is used as it is. Otherwise: the
# system's own programs, installed first when this is root on Debian; else Docker.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

KAFKA_VERSION=4.4.0
POSTGRES_IMAGE=postgres:17-alpine
STATE=${SERVICES_STATE:-$PWD/target/services}
mkdir -p "$STATE"
STATE=$(cd "$STATE" && pwd) # as the programs show it, without dots
KAFKA_DIR=$STATE/kafka
# Survives `stop`, and is the same for every state: the next start downloads nothing.
KAFKA_LIBS=$PWD/target/services/kafka/libs-$KAFKA_VERSION

# ---- what every service has: NAME.pid or NAME.container, NAME.dir (its data), NAME.url (what `start` prints)

# The pid alone is no proof: after a reboot it may be another program's. Its command line names its data folder.
runs() {
    local pid dir
    if [[ -s $STATE/$1.container ]]; then
        [[ $(docker inspect -f '{{.State.Running}}' "$(<"$STATE/$1.container")" 2>/dev/null) == true ]]
        return
    fi
    [[ -s $STATE/$1.pid && -s $STATE/$1.dir ]] || return 1
    pid=$(<"$STATE/$1.pid") dir=$(<"$STATE/$1.dir")
    [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" || ps -p "$pid" -o args= 2>/dev/null) == *"$dir"* ]]
}

# stop_one NAME
stop_one() {
    local signal=TERM
    # PostgreSQL's SIGTERM would wait for open sessions, its SIGINT ends them.
    [[ $1 != postgres ]] || signal=INT
    if [[ -s $STATE/$1.container ]]; then
        # One that was killed is still there.
        docker rm -fv "$(<"$STATE/$1.container")" >/dev/null 2>&1 && say "$1 stopped" || true
    elif runs "$1"; then
        end "$(<"$STATE/$1.pid")" "$signal" 20
        say "$1 stopped"
    fi
    [[ ! -s $STATE/$1.dir ]] || rm -rf -- "$(<"$STATE/$1.dir")"
    rm -f "$STATE/$1".{pid,container,dir,url}
}

# kill_one NAME: with its child processes, which PostgreSQL has.
kill_one() {
    runs "$1" || die "$1 does not run"
    if [[ -s $STATE/$1.container ]]; then
        docker kill "$(<"$STATE/$1.container")" >/dev/null
        return
    fi
    local pids
    pids=$(ps -A -o pid= -o ppid= | awk -v of="$(<"$STATE/$1.pid")" '$1 == of || $2 == of { print $1 }')
    # shellcheck disable=SC2086 # pids; one that has just ended by itself is no failure
    kill -KILL $pids 2>/dev/null || true
    # shellcheck disable=SC2086
    wait_until 10 ended $pids
}

# ended PID...: nothing of them runs; one whose parent has not looked yet is still there as a zombie.
ended() { [[ -z $(ps -A -o pid= -o stat= | awk -v pids=" $* " 'index(pids, " " $1 " ") && $2 !~ /^Z/') ]]; }

# resume_one NAME
resume_one() {
    ! runs "$1" || return 0
    if [[ -s $STATE/$1.container ]]; then
        docker start "$(<"$STATE/$1.container")" >/dev/null
    fi
    "resume_$1" || die "$1 did not come back, see $STATE/$1.log"
}

can_docker() { have docker && docker info >/dev/null 2>&1; }

# ---- PostgreSQL

pg_bin() {
    local dir
    for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) "$(dirname "$(command -v pg_ctl || echo /none)")"; do
        if [[ -x $dir/initdb && -x $dir/pg_ctl ]]; then
            echo "$dir"
            return
        fi
    done
    return 1
}

# PostgreSQL refuses to run as root.
pg_user() { getent passwd postgres >/dev/null && echo postgres || echo nobody; }

as_pg() {
    if [[ $(id -u) == 0 ]]; then
        (cd / && runuser -u "$(pg_user)" -- "$@")
    else
        "$@"
    fi
}

# Its data folder: in target/ where its user can get there, else in the system's temporary folder.
pg_make_dir() {
    local dir=$STATE/postgres
    mkdir -p "$dir"
    if ! as_pg test -x "$STATE"; then
        rmdir "$dir"
        dir=$(mktemp -d "${TMPDIR:-/tmp}/vedetta-postgres.XXXXXX")
    fi
    [[ $(id -u) != 0 ]] || chown "$(pg_user)" "$dir"
    echo "$dir"
}

pg_start_here() {
    local bin=$1 dir port
    dir=$(pg_make_dir)
    echo "$dir" >"$STATE/postgres.dir"
    as_pg "$bin/initdb" -D "$dir/data" -U postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync \
        >"$STATE/postgres.log" 2>&1 || return 1
    port=$(free_port)
    # Nothing here has to outlive a power cut; many tests run at once, each with its own pool.
    as_pg tee -a "$dir/data/postgresql.conf" >/dev/null <<-CONF
		listen_addresses = '127.0.0.1'
		port = $port
		unix_socket_directories = ''
		max_connections = 300
		fsync = off
		full_page_writes = off
	CONF
    pg_serve "$bin" || return 1
    echo "postgres://postgres@127.0.0.1:$port/postgres" >"$STATE/postgres.url"
}

# pg_serve BIN: on the data that is there.
pg_serve() {
    local dir
    dir=$(<"$STATE/postgres.dir")
    as_pg "$1/pg_ctl" start -w -t 60 -D "$dir/data" -l "$dir/log" >>"$STATE/postgres.log" 2>&1 </dev/null || return 1
    head -n 1 "$dir/data/postmaster.pid" >"$STATE/postgres.pid"
}

resume_postgres() {
    if [[ -s $STATE/postgres.container ]]; then
        wait_until 60 docker exec "$(<"$STATE/postgres.container")" pg_isready -q -h 127.0.0.1
    else
        # Of the one that was killed, with all its sessions. Its pid may still be a zombie's, which PostgreSQL takes for a
        # server that runs.
        rm -f "$(<"$STATE/postgres.dir")/data/postmaster.pid"
        pg_serve "$(pg_bin)"
    fi
}

pg_start_docker() {
    local port
    port=$(free_port)
    docker run -d -p "127.0.0.1:$port:5432" -e POSTGRES_HOST_AUTH_METHOD=trust "$POSTGRES_IMAGE" \
        -c max_connections=300 -c fsync=off >"$STATE/postgres.container" 2>"$STATE/postgres.log" || return 1
    # The image first runs a server without TCP to set itself up, so the port is what tells that it is done.
    wait_until 60 docker exec "$(<"$STATE/postgres.container")" pg_isready -q -h 127.0.0.1 || return 1
    echo "postgres://postgres@127.0.0.1:$port/postgres" >"$STATE/postgres.url"
}

start_postgres() {
    local bin
    if ! pg_bin >/dev/null && can_apt; then apt_install postgresql || true; fi
    if bin=$(pg_bin); then
        pg_start_here "$bin" || { say "no PostgreSQL: it did not start, see $STATE/postgres.log"; return 1; }
    elif can_docker; then
        pg_start_docker || { say "no PostgreSQL: its container did not start, see $STATE/postgres.log"; return 1; }
    else
        say "no PostgreSQL: neither its server programs nor Docker are here (Debian, Ubuntu: sudo apt-get install -y postgresql)"
        return 1
    fi
}

# ---- Apache Kafka

has_java() {
    local version
    version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    ((${version:-0} >= 17))
}

kafka_install_tools() {
    local packages=()
    has_java || packages+=(default-jre-headless)
    have mvn || packages+=(maven)
    ((${#packages[@]} == 0)) || apt_install "${packages[@]}"
}

# The broker's jars. Kafka brings slf4j's 1.7 interface and no place for the log to go.
kafka_fetch() {
    [[ -d $KAFKA_LIBS ]] && return
    say "fetching Apache Kafka $KAFKA_VERSION (Maven)"
    maven_jars "$KAFKA_LIBS" org.apache.kafka:{kafka_2.13,kafka-server,kafka-tools}:"$KAFKA_VERSION" \
        org.slf4j:slf4j-simple:1.7.36 >"$STATE/kafka.log" 2>&1
}

# kafka_config BROKER_PORT CONTROLLER_PORT DATA_DIR
kafka_config() {
    cat <<-CONF
		process.roles=broker,controller
		node.id=1
		controller.quorum.voters=1@127.0.0.1:$2
		listeners=PLAINTEXT://127.0.0.1:$1,CONTROLLER://127.0.0.1:$2
		advertised.listeners=PLAINTEXT://${KAFKA_ADVERTISED:-127.0.0.1:$1}
		controller.listener.names=CONTROLLER
		listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
		log.dirs=$3
		num.partitions=1
		auto.create.topics.enable=false
		group.initial.rebalance.delay.ms=0
		broker.session.timeout.ms=2000
		broker.heartbeat.interval.ms=500
		offsets.topic.num.partitions=1
		offsets.topic.replication.factor=1
		transaction.state.log.num.partitions=1
		transaction.state.log.replication.factor=1
		transaction.state.log.min.isr=1
		share.coordinator.state.topic.num.partitions=1
		share.coordinator.state.topic.replication.factor=1
		share.coordinator.state.topic.min.isr=1
	CONF
}

KAFKA_JAVA=(java -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$KAFKA_LIBS/*")

# Serving, or dead: both end the wait.
kafka_decided() { grep -q 'Kafka Server started' "$STATE/kafka.log" || gone "$1"; }

kafka_start_here() {
    kafka_fetch || return 1
    local port controller data=$KAFKA_DIR/data
    port=$(free_port)
    controller=$(free_port)
    rm -rf "$data"
    mkdir -p "$data"
    echo "$data" >"$STATE/kafka.dir"
    kafka_config "$port" "$controller" "$data/log" >"$data/server.properties"
    # The cluster's id may be the same each time: its data never is.
    "${KAFKA_JAVA[@]}" kafka.tools.StorageTool format -t dmVkZXR0YS10ZXN0cy0wMQ -c "$data/server.properties" >"$STATE/kafka.log" 2>&1 || return 1
    kafka_serve "$port" || return 1
    echo "127.0.0.1:$port" >"$STATE/kafka.url"
}

# kafka_serve PORT: on the data that is there. Its log begins anew: that is where one sees that it serves.
kafka_serve() {
    local pid
    # Before the broker is there: what an earlier one has said must not be taken for it.
    : >"$STATE/kafka.log"
    "${KAFKA_JAVA[@]}" kafka.Kafka "$(<"$STATE/kafka.dir")/server.properties" >>"$STATE/kafka.log" 2>&1 </dev/null &
    pid=$!
    echo "$pid" >"$STATE/kafka.pid"
    wait_until 60 kafka_decided "$pid" && wait_until 5 answers "$1"
}

resume_kafka() {
    if [[ -s $STATE/kafka.container ]]; then
        wait_until 60 kafka_container_serves
    else
        kafka_serve "$(sed 's/.*://' "$STATE/kafka.url")"
    fi
}

kafka_start_docker() {
    local port
    port=$(free_port)
    docker run -d -p "127.0.0.1:$port:$port" \
        -e KAFKA_NODE_ID=1 -e KAFKA_PROCESS_ROLES=broker,controller -e KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER \
        -e KAFKA_CONTROLLER_QUORUM_VOTERS=1@localhost:9093 \
        -e "KAFKA_LISTENERS=PLAINTEXT://:$port,CONTROLLER://:9093" \
        -e "KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://${KAFKA_ADVERTISED:-127.0.0.1:$port}" \
        -e KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT \
        -e KAFKA_AUTO_CREATE_TOPICS_ENABLE=false -e KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS=0 \
        -e KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=1 -e KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS=1 \
        "apache/kafka:$KAFKA_VERSION" >"$STATE/kafka.container" 2>"$STATE/kafka.log" || return 1
    wait_until 60 kafka_container_serves || return 1
    echo "127.0.0.1:$port" >"$STATE/kafka.url"
}

# Docker accepts connections to a published port before the broker listens, so the log is asked.
kafka_container_serves() {
    local began
    began=$(docker inspect -f '{{.State.StartedAt}}' "$(<"$STATE/kafka.container")")
    docker logs --since "$began" "$(<"$STATE/kafka.container")" 2>&1 | grep 'Kafka Server started' >/dev/null
}

start_kafka() {
    mkdir -p "$KAFKA_DIR"
    if can_apt; then kafka_install_tools || true; fi
    if has_java && { [[ -d $KAFKA_LIBS ]] || have mvn; }; then
        kafka_start_here || { say "no Kafka: it did not start, see $STATE/kafka.log"; return 1; }
    elif can_docker; then
        kafka_start_docker || { say "no Kafka: its container did not start, see $STATE/kafka.log"; return 1; }
    else
        say "no Kafka: neither Java 17 with Maven nor Docker are here (Debian, Ubuntu: sudo apt-get install -y default-jre-headless maven)"
        return 1
    fi
}

# ---- verbs

# start_one NAME VARIABLE
start_one() {
    if [[ -n ${!2:-} ]]; then
        say "$1: the one of $2"
        printf 'export %s=%q\n' "$2" "${!2}"
        return
    fi
    local began=$SECONDS
    if ! runs "$1"; then
        stop_one "$1" # the remains of a start that was killed
        if ! "start_$1"; then
            stop_one "$1"
            return
        fi
    fi
    say "$1: $(<"$STATE/$1.url") ($((SECONDS - began)) s)"
    printf 'export %s=%q\n' "$2" "$(<"$STATE/$1.url")"
}

status_one() {
    if runs "$1"; then echo "$1: $(<"$STATE/$1.url")"; else echo "$1: not running"; fi
}

case "${1:-}" in
start)
    # The names that users of the assignment know mean a broker that is there, too.
    TEST_KAFKA=${TEST_KAFKA:-${KAFKA_BOOTSTRAP:-${KAFKA_BOOTSTRAP_SERVERS:-}}}
    start_one postgres TEST_DATABASE_URL && start_one kafka TEST_KAFKA
    ;;
stop)
    shift
    (($# > 0)) || set -- postgres kafka
    for name in "$@"; do stop_one "$name"; done
    ;;
status) status_one postgres && status_one kafka ;;
kill | resume)
    [[ ${2:-} == postgres || ${2:-} == kafka ]] || die "which: postgres or kafka?"
    "$1_one" "$2"
    ;;
*) die "usage: tools/services.sh start | stop [NAME...] | status | kill NAME | resume NAME" ;;
esac
