# `make dev` and `make test` are all one needs; the rest are their parts.

.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
# For `make dev`: more flags of `roomgate dev`, e.g. ARGS="--nodes 2 --sync".
ARGS ?=
# For `make dev`: how it is compiled; `release` is what to measure.
PROFILE ?= quick
# For `make real-shapes` and `make moves`: a gzipped file of lines like {"room": slug, "shape": {…}}.
FILE ?= tests/data/excalidraw-excerpt.ndjson.gz

part = @echo "==> $@ ($$(date +%T))"

# Where what `make test` consists of keeps its servers' data.
TEST_FOLDER := $(shell scripts/test-folder.sh)
test unit it faults browser-test api-test smoke operators-test autobahn: export TMPDIR := $(TEST_FOLDER)

# The gateway for those that are no tests of cargo's. `cargo build` has other features
# of some crates, and would compile nearly all of them once more.
BUILD := $(CARGO) test --locked --no-run --test tidy

.PHONY: help
help: ## this text
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

.PHONY: dev
dev: install ## a whole cluster on this machine, and a whiteboard to try it
	$(CARGO) build --profile $(PROFILE) --locked
	target/$(PROFILE)/roomgate dev $(ARGS)

.PHONY: test
test: install-test lint unit it faults browser-test api-test smoke operators-test autobahn ## everything that must hold
	@echo "==> all passed ($$(date +%T))"

.PHONY: install
install: ## what `make dev` needs from Debian
	@scripts/install.sh dev $(filter --prometheus,$(ARGS))

.PHONY: install-test
install-test: ## what `make test` needs from Debian and from crates.io
	@scripts/install.sh test

.PHONY: install-load
install-load: ## what `make load` needs from Debian
	@scripts/install.sh load

.PHONY: lint
lint: ## formatting, clippy, and the licences and sources of all crates
	$(part)
	$(CARGO) fmt --all --check
	$(CARGO) deny --locked check bans licenses sources
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings
	# Programs, which "all" leaves out.
	$(CARGO) clippy --locked --test faults --test autobahn --all-features -- -D warnings

# Needs the way to GitHub, where the database of advisories is.
.PHONY: advisories
advisories: install-test ## known advisories against the crates of Cargo.lock
	$(CARGO) deny --locked check advisories

.PHONY: unit
unit: ## unit tests, the layout of the source, examples in the docs
	$(part)
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    $(CARGO) nextest run --locked --lib --bins --tests -E 'not binary(it)'; \
	else \
	    $(CARGO) test --locked --lib --bins --test tidy; \
	fi
	$(CARGO) test --locked --doc

# One process, so that tests which break nothing share one cluster.
.PHONY: it
it: ## integration tests against real clusters
	$(part)
	$(CARGO) test --locked --test it -- --quiet

# The gateway as it is; then with bugs planted in it, to see that each is caught.
.PHONY: faults
faults: ## every fault once on a real cluster, and every planted bug
	$(part)
	$(CARGO) test --locked --test faults -- run
	$(CARGO) test --locked --test faults -- failover --sync
	$(CARGO) test --locked --test faults -- failover
	$(CARGO) test --locked --features planted --test faults -- bugs

# Not part of `make test`, which only lints it: everything is compiled anew for it.
.PHONY: otlp-test
otlp-test: install-test ## traces, in a build with the feature `otlp`
	$(CARGO) test --locked --features otlp --lib -- traces config
	$(CARGO) test --locked --features otlp --test it -- otlp::

.PHONY: attacks
attacks: install-test ## what others feel of each attack: memory, ack times, refused sign-ins
	$(CARGO) test --locked --release --test it -- attacks:: --ignored --nocapture --test-threads=1

.PHONY: million
million: ## old states and exports of a million events: rows read and memory taken
	$(CARGO) test --locked --test it -- a_million --ignored --nocapture

.PHONY: faults-long
faults-long: install ## for nights: faults for as long as the promise speaks of, and failovers
	$(CARGO) test --locked --release --test faults -- run --length long --out faults.json

.PHONY: failovers
failovers: install ## 20 failovers in sync and 20 in async, with hundreds of submits in flight
	$(CARGO) test --locked --release --test faults -- failover --rounds 20 --sync
	$(CARGO) test --locked --release --test faults -- failover --rounds 20

.PHONY: models
models: ## the pure rules (decide, deliver, feed) against their models, a million seeds each
	PROPTEST_CASES=1000000 $(CARGO) test --locked --release --lib -- \
	    room::feeding room::deliver log::tests::properties

# Needs a nightly compiler and cargo-fuzz: `cargo install cargo-fuzz`. What is
# found lies in fuzz/artifacts; what reached new code stays in fuzz/corpus, so
# that the next run begins there.
FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: ## every fuzz target for a minute
	cd fuzz && cargo +nightly fuzz build --sanitizer none
	cd fuzz && for target in $$(cargo +nightly fuzz list); do \
	    mkdir -p corpus/$$target && \
	    cargo +nightly fuzz run --sanitizer none $$target corpus/$$target seeds/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -print_final_stats=1 || exit 1; \
	done

.PHONY: storm
storm: install ## 5 000 clients in 50 rooms lose their node and come back
	$(CARGO) test --locked --release --test faults -- storm

.PHONY: moves
moves: install ## a shard joins and goes again while people draw real shapes: pauses, and what anybody noticed
	$(CARGO) test --locked --release --test faults -- moves --shapes $(abspath $(FILE))

.PHONY: crowd
crowd: install ## 10 000 sessions on one node: what scrapes cost beside them, and what each costs
	$(CARGO) test --locked --release --test faults -- crowd --out target/crowd.json

.PHONY: hunt
hunt: install ## 100 000 reads of late, cut off and promoted replicas; then the same without the check
	$(CARGO) test --locked --release --test faults -- hunt
	$(CARGO) test --locked --release --features planted --test faults -- hunt --reads 5000 --planted

.PHONY: browser-test
browser-test: install-test ## the whiteboard in a real browser
	$(part)
	$(BUILD)
	cd tests/browser && npm ci --no-audit --no-fund && npm test

.PHONY: api-test
api-test: install-test target/api/installed ## the gateway against its own OpenAPI description
	$(part)
	$(BUILD)
	target/api/bin/python tests/api/run.py

.PHONY: smoke
smoke: install-test target/loadtest/installed ## people drawing together through the balancer, by k6
	$(part)
	$(BUILD)
	target/loadtest/bin/python loadtest/run.py smoke --binary target/debug/roomgate

# Every query of every dashboard is asked of a Prometheus that watches a cluster.
.PHONY: operators-test
operators-test: install-test target/grafana/installed target/loadtest/installed ## alerts, runbook and dashboards against a real Prometheus
	$(part)
	$(BUILD)
	target/grafana/bin/python grafana/live_test.py --binary target/debug/roomgate --k6 target/loadtest/bin/k6

.PHONY: install-alerts
install-alerts: ## what `make alerts-proof` needs from Debian
	@scripts/install.sh alerts

.PHONY: alerts-proof
alerts-proof: install-alerts target/grafana/installed target/loadtest/installed ## ten faults: which alert fires after how long; writes docs/faults-and-alerts.md
	$(CARGO) build --release --locked
	target/grafana/bin/python grafana/faults.py $(ARGS)

.PHONY: load
load: install-load target/loadtest/installed ## a load test: SCRIPT=draw [URL=…] [ARGS="--fault kill-node"]; loadtest/README.md
	$(if $(URL),,$(CARGO) build --release --locked)
	target/loadtest/bin/python loadtest/run.py $(SCRIPT) $(if $(URL),--url $(URL)) $(ARGS)

.PHONY: load-proof
load-proof: install-load target/loadtest/installed ## every load test passes, and fails when the gateway is 300 ms late
	$(CARGO) build --release --locked
	target/loadtest/bin/python loadtest/proof.py $(ARGS)

.PHONY: capacity
capacity: install-load target/loadtest/installed ## what sessions and submits cost here, and a model of larger crowds: docs/capacity.md
	$(CARGO) build --release --locked --bin roomgate --example load
	target/loadtest/bin/python loadtest/capacity.py $(ARGS)

.PHONY: autobahn
autobahn: install-test target/api/installed ## the framing of WebSockets against Autobahn's cases
	$(part)
	server=$$($(CARGO) test --locked --no-run --test autobahn --message-format json | \
	    sed -n 's|.*"executable":"\([^"]*/autobahn-[^"]*\)".*|\1|p' | tail -1) && \
	target/api/bin/python tests/autobahn/run.py "$$server"

# The tools, as pinned there.
target/loadtest/installed: loadtest/requirements.txt
	mkdir -p target
	python3 -m venv --clear target/loadtest
	target/loadtest/bin/pip install --quiet -r $<
	touch $@

target/grafana/installed: grafana/requirements.txt
	mkdir -p target
	python3 -m venv --clear target/grafana
	target/grafana/bin/pip install --quiet -r $<
	touch $@

target/api/installed: tests/api/requirements.txt
	mkdir -p target
	python3 -m venv --clear target/api
	target/api/bin/pip install --quiet -r $<
	touch $@

.PHONY: real-shapes
real-shapes: install ## all real drawings of FILE through a cluster and back
	ROOMGATE_SHAPES=$(abspath $(FILE)) $(CARGO) test --locked --test it real_drawings -- --nocapture

.PHONY: bench
bench: install ## micro-benchmarks
	$(CARGO) bench --locked
