# The two commands of the README. Each does its own set-up.
.PHONY: demo test lint bench bench-hsm bench-evidence bench-reviews images setup

SUITE ?= all

demo:
	scripts/setup demo
	cargo build --locked --bins
	target/debug/sealwire demo $(ARGS)

test:
	scripts/setup test $(SUITE)
	scripts/test $(SUITE)

lint:
	scripts/lint

bench:
	scripts/setup test
	cargo build --locked --release --workspace --bins --lib
	target/release/sealwire-bench

bench-hsm:
	scripts/setup test
	cargo build --locked --release --workspace --bins --lib
	target/release/sealwire-bench freeze
	target/release/sealwire-bench burst

bench-evidence:
	scripts/setup test
	cargo build --locked --release --workspace --bins --lib
	target/release/sealwire-bench evidence

bench-reviews:
	scripts/setup test injection
	cargo build --locked --release --workspace --bins --lib
	target/release/sealwire-bench reviews

images:
	scripts/setup test images
	deploy/images/build $(ARGS)

setup:
	scripts/setup test
