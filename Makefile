# The verbs of this repository; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help run build test smoke bench soak fuzz conformance fmt lint audit

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r verb what; do printf 'make %-11s %s\n' "$$verb" "$$what"; done

run: ## the whole system in one process, on recorded flights (ARGS="--help" shows its options)
	@tools/prepare.sh
	@test -x target/trial/standalone || echo "The first build takes a few minutes; later starts take a second."
	@cargo run --profile trial -p standalone -- $(ARGS)

build: ## all binaries, with Kafka support, in target/release
	@tools/prepare.sh
	cargo build --release --workspace --bins --all-features

test: ## every check and test; starts PostgreSQL and Kafka for them where it can
	@tools/prepare.sh
	@tools/test.sh

smoke: ## builds the images and runs compose.yaml in both its shapes (needs Docker)
	@deploy/smoke.sh

bench: ## the standalone's start, flights, accounts, mails, the gateway beside nginx (BENCH=gateway ONLY="cpu rate")
	@tools/prepare.sh
	@for bench in $(or $(BENCH),startup collection accounts pipeline gateway); do "bench/$$bench.sh" || exit; done

soak: ## kills the standalone again and again; the gateway under faults and load; collections and alerts through faults and kills
	@tools/prepare.sh
	@tools/soak.sh
	@tools/soak_gateway.sh
	@tools/soak_collection.sh
	@tools/soak_pipeline.sh

fuzz: ## the gateway's normal form of request targets against libFuzzer's inventions (SECONDS_EACH=60)
	@tools/fuzz.sh

conformance: ## HTTP/2 and TLS as h2spec, sslyze and testssl.sh see them, the API as schemathesis does (needs the network)
	@tools/prepare.sh
	@tools/conformance.sh
	@tools/schemathesis.sh

fmt: ## formats the code
	cargo fmt --all

lint: ## formatting and clippy, warnings as errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings

audit: ## dependencies against the current security advisories (needs the network)
	@cargo_deny=$$(STRICT=1 tools/cargo-deny.sh) && "$$cargo_deny" --workspace --all-features check advisories
