# Every target installs what it needs first (deploy/setup/setup.sh), says what it does, and may be run again.
CARGO ?= cargo
SETUP := deploy/setup/setup.sh
PYTHON := .tools/bin/python

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

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
train-demo: ## train the demo's ensemble from nothing on synthetic data, into target/demo (31 minutes on 2 cores of an AMD EPYC with AVX-512)
	$(SETUP) build demo
	$(CARGO) build --release --locked --bins
	deploy/demo/train.sh target/release target/demo

.PHONY: bench
bench: ## measure: raw ceiling, served throughput, load (20 minutes and 4 GB; BENCH="--help" says what can be chosen)
	$(SETUP) build
	$(CARGO) build --release --locked --bins
	$(CARGO) build --release --locked --example collector
	$(CARGO) bench --locked --no-run --bench ceiling --bench media --bench step
	python3 benches/bench.py $(BENCH)

.PHONY: gpu-check
gpu-check: ## on a host with a GPU and PyTorch 2.11: check and measure it, report in target/gpu (GPU="--help" says what can be chosen)
	$(SETUP) build
	deploy/gpu/check.sh build
	deploy/gpu/check.sh $(GPU)

.PHONY: test
test: ## run every test: unit, integration, the chart, a foreign gRPC client, the clients of deploy/clients, the demo
	$(SETUP) build test demo deploy clients
	$(CARGO) test --locked
	$(PYTHON) tests/grpcio/test_service.py target/debug/pcqa-server
	$(PYTHON) tests/clients/test_clients.py target/debug/pcqa-server
	deploy/demo/demo.sh target/debug

.PHONY: dashboard-test
dashboard-test: ## check dashboards, alerts and runbook; then put a server under load and evaluate all of them (1 minute)
	$(SETUP) build test monitoring
	promtool check rules deploy/helm/pcqa/rules/*.yaml
	promtool test rules tests/monitoring/alerts.test.yaml
	$(PYTHON) tests/monitoring/test_files.py
	$(CARGO) test --locked --no-run --test service  # with the programs, as `make test` has built them
	$(PYTHON) tests/monitoring/test_live.py target/debug/pcqa-server

.PHONY: deploy-test
deploy-test: ## test the Helm chart alone: lint, schemas, objects that fit each other and the server (part of test)
	$(SETUP) build deploy
	$(CARGO) test --locked --test deploy

.PHONY: image-test
image-test: ## build the container image twice, run it confined, check what is in it (root, about 40 minutes)
	$(SETUP) image demo
	PYTHONDONTWRITEBYTECODE=1 .image-tools/bin/python deploy/image/test.py
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
