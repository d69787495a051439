# The two commands of the README. Each does its own set-up.
.PHONY: demo test lint setup

SUITE ?= all

demo:
	scripts/setup demo
	cargo build --locked --bins
	target/debug/sealwire demo $(ARGS)

test:
	scripts/setup test
	scripts/test $(SUITE)

lint:
	scripts/lint

setup:
	scripts/setup test
