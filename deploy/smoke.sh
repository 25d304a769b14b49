#!/usr/bin/env bash
# The whole of compose.yaml, really run: builds the images, brings both shapes up, waits for health, looks at ports and
# networks, tells the README's story and runs the Postman collections through 8443, restarts every container, takes all down.
#
#   deploy/smoke.sh                      every part, in this order: build plain demo rebuild
#   deploy/smoke.sh plain                only these parts; the images are there already
#   COMPOSE="docker-compose" deploy/smoke.sh   with this Compose (a command, or the path of one)
#
#   STANDINS=1 deploy/smoke.sh           where no registry is reached: base images made by deploy/standins.sh
#
# Needs docker, git, curl, Node.js with npm, and the ports 8443, 29092 and 8025. It has a project of its own (volumes
# vedetta_smoke_*) and leaves nothing but images; there must be no containers of these names.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

PROJECT=vedetta_smoke
API=https://localhost:8443
CATCHER=http://127.0.0.1:8025
POSTGRES_IMAGE=${POSTGRES_IMAGE:-postgres:17-trixie}
KAFKA_IMAGE=${KAFKA_IMAGE:-apache/kafka:4.4.0}
SERVICES=(apigw user_manager data_collector alert_system notifier_system)
PLAIN=("${SERVICES[@]}" broker_kafka user_db data_db notifier_db)
DEMO=("${PLAIN[@]}" opensky_replay mail_catcher)
HEALTHY_WITHIN=60
BEGAN=$SECONDS
CHECKS=0

title() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - BEGAN)); }

# check WHAT COMMAND...: the first that does not hold ends it all.
check() {
    local what=$1
    shift
    "$@" || die "$what: no"
    CHECKS=$((CHECKS + 1))
    echo "ok  $what"
}

# ---- Compose, whichever is there

find_compose() {
    if [[ -n ${COMPOSE:-} ]]; then
        read -ra COMPOSE_COMMAND <<<"$COMPOSE"
    elif docker compose version >/dev/null 2>&1; then
        COMPOSE_COMMAND=(docker compose)
    elif have docker-compose; then
        COMPOSE_COMMAND=(docker-compose)
    else
        die "Docker Compose is missing (docker-compose, or the plugin for docker compose)"
    fi
}

# In TREE, which is this folder unless a part has a copy of it. Without a .env: what is shown must not depend on somebody's
# credentials.
TREE=$PWD
compose() { (cd "$TREE" && "${COMPOSE_COMMAND[@]}" -p "$PROJECT" --env-file "$VARIABLES" --profile "$PROFILE" "$@"); }

plain_shape() { VARIABLES=$NO_VARIABLES PROFILE=none; }
demo_shape() { VARIABLES=.env.demo PROFILE=demo; }

# quietly COMMAND...: what it says is shown only when it fails.
quietly() {
    "$@" >"$LOG" 2>&1 && return
    tail -n 40 "$LOG" >&2
    return 1
}

take_down() { quietly compose down -v --remove-orphans -t 30; }

# ---- what a container is like

health() { docker inspect -f '{{.State.Health.Status}}' "$1" 2>/dev/null; }

all_healthy() {
    local name
    for name in "$@"; do [[ $(health "$name") == healthy ]] || return 1; done
}

# tell_unhealthy NAME...: why one is not.
tell_unhealthy() {
    local name
    for name in "$@"; do
        [[ $(health "$name") == healthy ]] && continue
        say "$name is $(health "$name" || echo missing)"
        docker inspect -f '{{range .State.Health.Log}}{{.Output}}{{end}}' "$name" 2>/dev/null | tail -n 3 >&2 || true
        docker logs --tail 20 "$name" >&2 2>&1 || true
    done
}

# up SECONDS NAME...: brings the shape up, and waits until these are healthy.
up() {
    local seconds=$1 began=$SECONDS
    shift
    quietly compose up -d || return 1
    wait_until $((seconds - (SECONDS - began))) all_healthy "$@" || {
        tell_unhealthy "$@"
        return 1
    }
    echo "healthy after $((SECONDS - began)) s: $*"
    ((SECONDS - began <= seconds))
}

# Every published port of the project's containers, sorted: ADDRESS:PORT->PORT NAME
published() {
    local name
    for name in $(compose ps -q); do
        docker inspect -f '{{$name := .Name}}{{range $port, $to := .HostConfig.PortBindings}}{{range $to}}{{.HostIp}}:{{.HostPort}}->{{$port}} {{$name}}{{"\n"}}{{end}}{{end}}' "$name"
    done | grep . | sort
}

# publishes LINE...: exactly these.
publishes() { diff <(printf '%s\n' "$@" | sort) <(published) >&2; }

addresses() { docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' "$1"; }

# connects FROM PORT ADDRESS...: "yes" if one of these can be connected to, else "no"; nothing when that could not be found out.
# The images have no shell, so another container looks from within FROM's network.
connects() {
    local from=$1
    shift
    # shellcheck disable=SC2016 # the inner shell's
    docker run --rm --network "container:$from" --entrypoint bash "$POSTGRES_IMAGE" -c 'port=$1; shift
        for to in "$@"; do timeout 1 bash -c "</dev/tcp/$to/$port" 2>/dev/null && echo yes && exit; done; echo no' look "$@"
}

reaches() { [[ $(connects "$1" "$3" "$2") == yes ]]; }

# cut_off FROM TO PORT: neither by name nor by any of TO's addresses.
# shellcheck disable=SC2086 # addresses, separated by spaces
cut_off() {
    local found
    found=$(addresses "$2")
    [[ -n ${found// /} && $(connects "$1" "$3" "$2" $found) == no ]]
}

has_no_way_out() { [[ $(docker network inspect -f '{{.Internal}}' "${PROJECT}_$1") == true ]]; }

# Not root, nothing to write to, no shell.
is_locked_up() {
    [[ $(docker inspect -f '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}' "$1") == "65532:65532 true [ALL]" ]] &&
        ! docker exec "$1" /bin/sh -c true >/dev/null 2>&1
}

# ---- the story

session() {
    local text
    text=$(sed -n "/^<!-- session: $1 -->/,/^\`\`\`$/p" README.md | sed '1,2d;$d')
    [[ -n $text ]] || die "README.md has no session $1"
    echo "$text"
}

# tell NAME...: the README's sessions, in one shell, as they stand there. What they print is in STORY.
tell() {
    local name text script="set -euo pipefail"
    for name in "$@"; do
        text=$(session "$name")
        script+=$'\n'$text
    done
    STORY=$(bounded 60 bash -c "$script" 2>/dev/null) || die "the session does not end well: $*"
    printf '%s\n' "$STORY"
}

tells() { [[ $STORY == *"$1"* ]]; }

# subjects: of all mails in the catcher, newest first; fails when it does not answer.
subjects() {
    local list
    list=$(curl -sf -m 10 "$CATCHER/api/v1/messages") || return 1
    grep -o '"Subject":"[^"]*"' <<<"$list" | cut -d '"' -f 4 || true
}

# mails COUNT PATTERN: exactly so many subjects match.
mails() {
    local found
    found=$(subjects) || return 1
    (($(grep -c "$2" <<<"$found" || true) == $1))
}

# The Postman collections; newman's summaries of them.
collections() {
    check "both collections pass" quietly tools/postman.sh "$API"
    grep '[│┌├└]' "$LOG"
}

# ---- the parts

part_build() {
    title "images"
    base_images
    demo_shape
    local began=$SECONDS
    quietly compose build || die "the images cannot be built"
    echo "built in $((SECONDS - began)) s"
    image_sizes
}

# Those that Vedetta's are made of, and those of others.
base_images() {
    local image
    [[ ${STANDINS:-} != 1 ]] || deploy/standins.sh
    for image in "${BUILDER_IMAGE:-rust:1.95-slim-trixie}" "${RUNTIME_IMAGE:-debian:trixie-slim}" "$POSTGRES_IMAGE" "$KAFKA_IMAGE" \
        "${MAIL_CATCHER_IMAGE:-axllent/mailpit:v1.33.1}"; do
        docker image inspect "$image" >/dev/null 2>&1 || docker pull -q "$image" ||
            die "$image cannot be pulled; STANDINS=1 makes stand-ins for all that are not there"
        docker image inspect -f "$image, {{if index .Config.Labels \"vedetta.standin\"}}a stand-in{{else}}as pulled{{end}}" "$image"
    done
}

image_sizes() {
    docker images --format '{{.Repository}} {{.ID}} {{.Size}}' | grep '^vedetta/' | sort | awk '{ printf "%-26s %s\n", $1, $3 }'
}

# memory NAME...: what the limit counts, and what the processes have resident (PostgreSQL's count what they share each).
memory() {
    local name usage limit
    title "memory"
    docker stats --no-stream --format '{{.Name}} {{.MemUsage}}' "$@" | sort | while read -r name usage _ limit; do
        printf '%-16s %9s of %-7s %4d MB resident\n' "$name" "$usage" "$limit" \
            "$(docker top "$name" -eo pid,rss | awk 'NR > 1 { kb += $2 } END { printf "%.0f", kb * 1024 / 1e6 }')"
    done
}

part_plain() {
    title "plain: no variables, no credentials"
    plain_shape
    check "every container is healthy within $HEALTHY_WITHIN s" up "$HEALTHY_WITHIN" "${PLAIN[@]}"
    check "only 8443, and 29092 on 127.0.0.1, are published" publishes \
        ":8443->8443/tcp /apigw" "127.0.0.1:29092->29092/tcp /broker_kafka"
    check "compose.yaml says so literally" grep -qF -- '- "8443:8443"' compose.yaml
    check "and so for the broker" grep -qF -- '- "127.0.0.1:29092:29092"' compose.yaml
    local name
    for name in "${SERVICES[@]}"; do check "$name: not root, read-only, no shell" is_locked_up "$name"; done
    isolation

    title "what is missing is said"
    check "data_collector's log says that nothing is collected" logged data_collector "OPENSKY_CLIENT_ID and OPENSKY_CLIENT_SECRET are not set"
    check "notifier_system's log says that mails go to a folder" logged notifier_system "mails go to a folder"
    check "a message of the assignment, sent through 29092, becomes a mail in the folder" folder_gets_a_mail

    title "Postman, without flights"
    collections

    memory "${PLAIN[@]}"
    title "down"
    local began=$SECONDS
    take_down
    check "nothing is left" nothing_left
    echo "down in $((SECONDS - began)) s"
}

# Not `grep -q`, which would end before the log does.
logged() { docker logs "$1" 2>&1 | grep "$2" >/dev/null; }

nothing_left() {
    local filter="label=com.docker.compose.project=$PROJECT"
    [[ -z $(docker ps -aq --filter "$filter")$(docker volume ls -q --filter "$filter")$(docker network ls -q --filter "$filter") ]]
}

folder_gets_a_mail() {
    local message='{"email":"ada@example.com","subject":"By way of 29092","body":"It came."}'
    docker run --rm -i --network host --entrypoint /opt/kafka/bin/kafka-console-producer.sh "$KAFKA_IMAGE" \
        --bootstrap-server localhost:29092 --topic to-notifier <<<"$message" >/dev/null 2>&1
    # Letters are held back for 30 s after a start.
    wait_until 60 folder_has "Subject: By way of 29092"
}

folder_has() { docker cp notifier_system:/mail - 2>/dev/null | tar -xO 2>/dev/null | grep "$1" >/dev/null; }

# Who reaches whom: TO:PORT has to be reached, !TO:PORT must not be.
isolation() {
    title "networks"
    local from to port line net
    while read -r from line; do
        for to in $line; do
            port=${to#*:}
            case $to in
            !*) to=${to#!} && check "$from does not reach ${to%:*} ($port)" cut_off "$from" "${to%:*}" "$port" ;;
            *) check "$from reaches ${to%:*} ($port)" reaches "$from" "${to%:*}" "$port" ;;
            esac
        done
    done <<'WAYS'
apigw           user_manager:5001 user_manager:9901 data_collector:5002 !user_manager:50051 !user_db:5432 !data_db:5432 !notifier_db:5432 !broker_kafka:9092 !alert_system:9903 !notifier_system:9904
user_manager    user_db:5432 broker_kafka:9092 !data_db:5432 !notifier_db:5432
data_collector  data_db:5432 broker_kafka:9092 user_manager:9901 user_manager_grpc:50051 !user_db:5432 !notifier_db:5432
alert_system    broker_kafka:9092 !user_db:5432 !data_db:5432 !notifier_db:5432 !apigw:8443 !user_manager:50051
notifier_system notifier_db:5432 broker_kafka:9092 !user_db:5432 !data_db:5432 !apigw:8443 !user_manager:50051
broker_kafka    alert_system:9903 !user_db:5432 !data_db:5432 !notifier_db:5432 !apigw:8443
user_db         user_manager:5001 !data_collector:5002 !broker_kafka:9092 !apigw:8443
WAYS
    for net in user_net data_net notifier_net grpc_net; do check "$net has no way out" has_no_way_out "$net"; done
}

part_demo() {
    title "demo: recorded flights, a mail catcher"
    demo_shape
    check "every container is healthy within $HEALTHY_WITHIN s" up "$HEALTHY_WITHIN" "${DEMO[@]}"
    check "the catcher's page is published besides, on 127.0.0.1" publishes \
        ":8443->8443/tcp /apigw" "127.0.0.1:29092->29092/tcp /broker_kafka" "127.0.0.1:8025->8025/tcp /mail_catcher"

    title "the README's story"
    tell try
    check "KJFK is watched" tells '"high_value":200'
    check "one mail about KJFK is in the catcher" wait_until 90 mails 1 "KJFK: .* above your high threshold of 200"
    tell compose-mail
    check "its text is shown" tells "above your high threshold of 200"
    tell try ask
    check "seven days were collected" tells '"days_with_data":7'
    check "the breaker is closed" tells '"state":"closed"'

    title "Postman, with flights"
    collections

    title "each container is restarted once"
    # The catcher first: it keeps nothing over a restart, and what is sent twice by the others' must be seen.
    local name
    for name in mail_catcher "${PLAIN[@]}" opensky_replay; do
        docker restart -t 30 "$name" >/dev/null
        check "$name is back" wait_until 90 all_healthy "$name"
    done
    check "all are healthy" wait_until 90 all_healthy "${DEMO[@]}"
    story_goes_on
    memory "${DEMO[@]}"

    title "down"
    local began=$SECONDS
    take_down
    check "nothing is left" nothing_left
    echo "down in $((SECONDS - began)) s"
}

# The account is still there, its interest is, and another airport's alert comes through everything that was restarted.
story_goes_on() {
    local token
    token=$(curl -sk -m 10 "$API/user_manager/login" -H 'Content-Type: application/json' \
        -d '{"email": "ada@example.com", "password": "correct horse battery"}' | sed 's/.*"access_token":"\([^"]*\)".*/\1/') || true
    STORY=$(curl -skf -m 10 "$API/data_collector/interests" -H "Authorization: Bearer $token") || true
    check "the account and its interest are there" tells '"airport":"KJFK"'
    STORY=$(curl -skf -m 10 -X PUT "$API/data_collector/interests/KORD" -H "Authorization: Bearer $token" \
        -H 'Content-Type: application/json' -d '{"high_value": 100}') || true
    check "another airport is watched" tells '"airport":"KORD"'
    check "its alert goes through all that was restarted" wait_until 90 mails 1 "KORD: .* above your high threshold of 100"
    # One that is sent again may be on its way.
    sleep 10
    check "and no mail was sent again" mails 1 "."
}

# A second `up` after a change of user_manager compiles user_manager, makes its image and its container anew, and nothing else.
part_rebuild() {
    title "up, a change of user_manager, and up again"
    demo_shape
    local images containers compiled
    TREE=$WORK/tree
    mkdir "$TREE"
    git ls-files -z | xargs -0 cp --parents -t "$TREE"
    quietly compose build || die "the images cannot be built"
    check "every container is healthy" up "$HEALTHY_WITHIN" "${DEMO[@]}"
    images=$(image_ids)
    containers=$(container_ids)
    # In what it does: from a changed comment the same program comes out, and so the same image. Each time anew, for the cache.
    sed -i "s/Vedetta's accounts/&, as of $(date +%s)/" "$TREE/user_manager/src/main.rs"
    ! cmp -s {"$TREE/",}user_manager/src/main.rs || die "user_manager/src/main.rs cannot be changed"
    local began=$SECONDS
    quietly compose up -d --build || die "it does not come up"
    echo "built and up again in $((SECONDS - began)) s"
    compiled=$(grep -o 'Compiling.*' "$LOG") || true
    echo "$compiled"
    check "user_manager was compiled, and nothing else" [ "$(grep -c . <<<"$compiled")$(grep -vc '(/vedetta/user_manager)' <<<"$compiled" || true)" == 10 ]
    check "one image is another one" [ "$(changed "$images" "$(image_ids)")" == vedetta/user_manager ]
    check "one container is another one" [ "$(changed "$containers" "$(container_ids)")" == user_manager ]
    check "every container is healthy" wait_until "$HEALTHY_WITHIN" all_healthy "${DEMO[@]}"
    take_down
    undo_change
}

# What was built of a changed tree must not be anybody's next `up`.
undo_change() {
    [[ $TREE != "$PWD" ]] || return 0
    TREE=$PWD
    quietly compose build
}

image_ids() { docker images --no-trunc --format '{{.Repository}} {{.ID}}' | grep '^vedetta/' | sort; }

container_ids() { docker ps --no-trunc --filter "label=com.docker.compose.project=$PROJECT" --format '{{.Names}} {{.ID}}' | sort; }

# changed BEFORE AFTER: the names in front of what differs.
changed() { diff <(echo "$1") <(echo "$2") | sed -n 's/^> \([^ ]*\).*/\1/p'; }

docker info >/dev/null 2>&1 || die "no Docker engine answers (docker info)"
find_compose
# What is set in this shell would go before the files of variables.
# shellcheck disable=SC2046 # names, without spaces
unset $(sed -n 's/^#\([A-Z_]*\)=.*/\1/p' .env.example | grep -v _IMAGE)
for name in "${DEMO[@]}"; do
    [[ -z $(docker ps -aq --filter "name=^$name\$") ]] || die "there is a container named $name already"
done
WORK=$(mktemp -d)
LOG=$WORK/log
NO_VARIABLES=$WORK/none
touch "$NO_VARIABLES"
plain_shape
finish() {
    local status=$?
    take_down || true
    undo_change || true
    rm -rf "$WORK"
    exit "$status"
}
trap finish EXIT
echo "$(docker version -f 'Docker Engine {{.Server.Version}}'), $("${COMPOSE_COMMAND[@]}" version | head -n 1); $(docker images -q | wc -l) images, $(docker volume ls -q | wc -l) volumes before"
(($# > 0)) || set -- build plain demo rebuild
for part in "$@"; do "part_$part"; done
title "done"
echo "$CHECKS checks, all passed"
