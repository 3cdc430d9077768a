# Every target installs what it needs first (deploy/setup/setup.sh), says what it does, and may be run again.
CARGO ?= cargo
SETUP := deploy/setup/setup.sh
PYTHON := .tools/bin/python

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.PHONY: build
build: ## build the four binaries into target/release
	$(SETUP) build
	$(CARGO) build --release --locked --bins

.PHONY: demo
demo: ## build, serve the compiled-in bundle on loopback, score photographs and clips, stop
	$(SETUP) build demo
	$(CARGO) build --release --locked --bins
	deploy/demo/demo.sh target/release

.PHONY: train-demo
train-demo: ## train the demo's ensemble from nothing on synthetic data, into target/demo (some 46 minutes on 2 idle cores)
	$(SETUP) build demo
	$(CARGO) build --release --locked --bins
	deploy/demo/train.sh target/release target/demo

.PHONY: bench
bench: ## measure: raw ceiling, served throughput, load (20 minutes and 4 GB; BENCH="--help" says what can be chosen)
	$(SETUP) build
	$(CARGO) build --release --locked --bins
	$(CARGO) bench --locked --no-run --bench ceiling --bench media --bench step
	python3 benches/bench.py $(BENCH)

.PHONY: test
test: ## run every test: unit, integration, a foreign gRPC client, the demo
	$(SETUP) build test demo
	$(CARGO) test --locked
	$(PYTHON) tests/grpcio/test_service.py target/debug/pcqa-server
	deploy/demo/demo.sh target/debug

.PHONY: parity
parity: ## compare the full-size networks with timm and open_clip, write tests/golden/parity/report.md (5 minutes, 6 GB)
	$(SETUP) build test
	$(CARGO) test --locked --test parity -- --report tests/golden/parity/report.md

.PHONY: lint
lint: ## check format, clippy and the API's style
	$(SETUP) build lint
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	.tools/bin/buf lint proto
