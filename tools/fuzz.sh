#!/usr/bin/env bash
# Feeds `normalize` request targets of libFuzzer's invention, on the stable toolchain: SECONDS_EACH=60 by default.
# What brings it down stays in gateway/fuzz/artifacts; `tools/fuzz.sh FILE` runs it again.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/lib.sh

TOOLS=$PWD/target/tools
export PATH=$TOOLS/bin:$PATH

have cargo-fuzz || {
    say "installing cargo-fuzz into target/tools"
    # Into a folder of its own: the workspace's builds would only wait for it.
    cargo install --quiet --locked cargo-fuzz --root "$TOOLS" --target-dir "$TOOLS/build"
}
cd gateway
# No sanitizer: they need a nightly compiler, and the code has no `unsafe` for them to look at.
fuzz=(cargo fuzz run --sanitizer none --target-dir ../target/fuzz normalize)
if (($# > 0)); then exec "${fuzz[@]}" "$@"; fi
mkdir -p ../target/fuzz/corpus
# The cases on which nginx was asked are the first ones.
cut -f1 tests/data/nginx-path-vectors.tsv | grep -v '^#' | split -l 1 - ../target/fuzz/corpus/nginx-
"${fuzz[@]}" ../target/fuzz/corpus -- -dict=fuzz/normalize.dict -max_len=2048 -max_total_time="${SECONDS_EACH:-60}" -print_final_stats=1
