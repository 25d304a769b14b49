#!/usr/bin/env bash
# Asks independent programs about the gateway's HTTP/2 and TLS: h2spec, sslyze, testssl.sh. It is asked on loopback, with
# a certificate of `gateway gen-cert`. Anything but that nobody signed it is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

H2SPEC=github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
SSLYZE=6.3.1
TOOLS=$PWD/target/conformance
FAILED=()

# Each tool is found, or installed under target/, or by apt-get where that is allowed.
install_tools() {
    mkdir -p "$TOOLS"
    if [[ ! -x $TOOLS/go/bin/h2spec ]]; then
        have go || { can_apt && apt_install golang-go; } || die "go is missing (for h2spec)"
        say "building h2spec"
        GOPATH=$TOOLS/go GOFLAGS=-modcacherw GOCACHE=$TOOLS/go/cache go install "$H2SPEC"
    fi
    if [[ ! -x $TOOLS/venv/bin/sslyze ]]; then
        say "installing sslyze"
        python3 -m venv "$TOOLS/venv" 2>/dev/null || { can_apt && apt_install python3-venv && python3 -m venv "$TOOLS/venv"; } \
            || die "python3 with venv is missing (for sslyze)"
        "$TOOLS/venv/bin/pip" install --quiet --disable-pip-version-check "sslyze==$SSLYZE"
    fi
    have testssl || have testssl.sh || { can_apt && apt_install testssl.sh bsdmainutils; } || die "testssl.sh is missing"
}

# An upstream that answers 200 to everything, so that h2spec's requests end well.
start_upstream() {
    python3 -c '
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        if self.headers.get("Transfer-Encoding"):
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
' "$1" 2>"$WORK/upstream.log" &
    UPSTREAM=$!
    disown # its end is no news
}

start_gateway() {
    PORT=$(free_port)
    local upstream admin gateway
    upstream=$(free_port)
    start_upstream "$upstream"
    admin=$(free_port)
    gateway=${CARGO_TARGET_DIR:-target}/debug/gateway
    cargo build --quiet -p gateway
    "$gateway" gen-cert --out "$WORK" >/dev/null
    "$gateway" serve --listen "127.0.0.1:$PORT" --admin-listen "127.0.0.1:$admin" --auth off --rate-limit off \
        --rate-limit-login off --max-connections-per-client off --tls-cert "$WORK/cert.pem" --tls-key "$WORK/key.pem" \
        --user-manager-url "http://127.0.0.1:$upstream" --data-collector-url "http://127.0.0.1:$upstream" \
        --user-manager-admin-port "$upstream" --data-collector-admin-port "$upstream" >"$WORK/gateway.log" 2>&1 &
    GATEWAY=$!
    wait_until 30 answers "$PORT" || { tail -n 5 "$WORK/gateway.log" >&2 && die "the gateway does not start"; }
}

stop_all() {
    [[ -z ${GATEWAY:-} ]] || end "$GATEWAY" TERM 15
    [[ -z ${UPSTREAM:-} ]] || end "$UPSTREAM" KILL 5
    rm -rf "$WORK"
}

# fail TOOL LINE...: a finding.
fail() {
    FAILED+=("$1")
    printf '%s: %s\n' "$@"
}

run_h2spec() {
    local log=$TOOLS/h2spec.log
    bounded 5m "$TOOLS/go/bin/h2spec" -t -k -h localhost -p "$PORT" -P /user_manager/h2spec -o 5 >"$log" 2>&1 || true
    local sum
    sum=$(grep -E '^[0-9]+ tests, ' "$log" || true)
    printf 'h2spec: %s\n' "${sum:-no result, see $log}"
    [[ $sum == *" 0 failed"* ]] || fail h2spec "see $log"
}

# Mozilla's "intermediate" profile is what sslyze compares with.
run_sslyze() {
    local log=$TOOLS/sslyze.log findings
    bounded 5m "$TOOLS/venv/bin/sslyze" --mozilla_config=intermediate "localhost:$PORT" >"$log" 2>&1 || true
    findings=$(sed -n '/COMPLIANCE AGAINST/,$p' "$log" | grep -E '^ *\* ' | grep -vE 'certificate_path_validation|certificate_hostname|maximum_certificate_lifespan' || true)
    if ! grep -q 'COMPLIANCE AGAINST' "$log"; then
        fail sslyze "no result, see $log"
    elif [[ -n $findings ]]; then
        fail sslyze "$findings"
    else
        echo "sslyze: nothing but the self-signed certificate"
    fi
}

run_testssl() {
    local json=$TOOLS/testssl.json program findings
    program=$(command -v testssl || command -v testssl.sh)
    rm -f "$json"
    bounded 15m "$program" --quiet --color 0 --warnings off --severity LOW --jsonfile "$json" "localhost:$PORT" >"$TOOLS/testssl.log" 2>&1 || true
    [[ -s $json ]] || { fail testssl.sh "no result, see $TOOLS/testssl.log" && return; }
    findings=$(python3 -c '
import json, sys
# What a certificate that nobody signed brings with it.
own = {"cert_chain_of_trust", "cert_crlDistributionPoints", "cert_ocspURL", "cert_revocation", "DNS_CAArecord", "overall_grade", "grade_cap_reason_1", "cert_trust", "cert_notAfter", "cert_expirationStatus", "cert_extlifeSpan", "cert_validityPeriod"}
for finding in json.load(open(sys.argv[1])):
    base = finding["id"].split(" ")[0]
    if base not in own and finding["severity"] in ("LOW", "MEDIUM", "HIGH", "CRITICAL", "WARN"):
        print(finding["severity"], finding["id"], finding["finding"])
' "$json")
    if [[ -n $findings ]]; then fail testssl.sh "$findings"; else echo "testssl.sh: nothing but the self-signed certificate"; fi
}

WORK=$(mktemp -d)
trap stop_all EXIT
install_tools
start_gateway
run_h2spec
run_sslyze
run_testssl
((${#FAILED[@]} == 0)) || die "findings of ${FAILED[*]}"
