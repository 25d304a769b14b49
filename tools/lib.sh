# shellcheck shell=bash
# Functions that the scripts of this folder share. Sourced, never run.

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# May this script install packages by itself? Only as root on Debian and its descendants; anywhere else it names
# the command and leaves the decision to the person.
can_apt() { [[ $(id -u) == 0 && -e /etc/debian_version ]] && have apt-get; }

# apt_install PACKAGE...: quiet, unless it fails.
apt_install() {
    local log
    say "installing $* (apt-get)"
    log=$(mktemp)
    # RUNLEVEL=1: a database server that a package brings is not started as a system service.
    if ! { apt-get -o DPkg::Lock::Timeout=120 update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

# wait_until SECONDS COMMAND...: polls until COMMAND succeeds; fails when the time is over.
wait_until() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.05
    done
}

# bounded TIME COMMAND...: ends COMMAND, and all that it started, when the time is over.
bounded() {
    local time=$1 pid status=0
    shift
    if ! have timeout; then # macOS
        "$@"
        return
    fi
    timeout -k 30 "$time" "$@" &
    pid=$!
    # It is in a process group of its own, which Ctrl-C does not reach.
    trap 'kill "$pid"; trap - INT; kill -INT "$BASHPID"' INT
    wait "$pid" || status=$?
    trap - INT
    return "$status"
}

# maven_jars DIR GROUP:ARTIFACT:VERSION...: these and all that they need at run time, from Maven Central. DIR is there
# only when they all are.
maven_jars() {
    local dir=$1 part=$1.part artifact group name version
    shift
    rm -rf "$part"
    mkdir -p "$part"
    {
        echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        echo '<groupId>vedetta</groupId><artifactId>jars</artifactId><version>1</version><dependencies>'
        for artifact in "$@"; do
            IFS=: read -r group name version <<<"$artifact"
            echo "<dependency><groupId>$group</groupId><artifactId>$name</artifactId><version>$version</version></dependency>"
        done
        echo '</dependencies></project>'
    } >"$part.xml"
    bounded 10m mvn -q -B -f "$part.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$part" </dev/null || return 1
    rm "$part.xml"
    mv "$part" "$dir"
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A loopback port on which nobody listens. Below 32768, where no system takes the ports of outgoing connections
# from, so that none can take it between this look and the server's start.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 12000))
        answers "$port" || break
    done
    echo "$port"
}

alive() { kill -0 "$1" 2>/dev/null; }
gone() { ! alive "$1"; }

# end PID SIGNAL SECONDS: asks, waits, and only then insists.
end() {
    alive "$1" || return 0
    kill "-$2" "$1" 2>/dev/null || return 0
    wait_until "$3" gone "$1" || kill -KILL "$1" 2>/dev/null || true
}
