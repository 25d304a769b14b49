# The verbs of this repository; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help run build test bench soak fmt lint audit

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r verb what; do printf 'make %-7s %s\n' "$$verb" "$$what"; done

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

bench: ## start-up time and memory of the standalone
	@tools/prepare.sh
	@bench/startup.sh

soak: ## kills the standalone again and again while it collects: no mail lost, no count wrong (ROUNDS=20)
	@tools/prepare.sh
	@tools/soak.sh

fmt: ## formats the code
	cargo fmt --all

lint: ## formatting and clippy, warnings as errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings

audit: ## dependencies against the current security advisories (needs the network)
	@cargo_deny=$$(STRICT=1 tools/cargo-deny.sh) && "$$cargo_deny" --workspace --all-features check advisories
