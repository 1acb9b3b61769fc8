# Everything a developer does, from a fresh clone: `make run` and `make test`.
# CI runs `make lint test`.

CARGO  ?= cargo
BUF    ?= npx --yes @bufbuild/buf@1.75.0
TOOLS  := $(CURDIR)/target/tools

TS     := clients/typescript

.PHONY: help run fmt lint lint-proto lint-gen lint-rust lint-deps test test-clients test-deps proto gen bench build

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: ## Build and start the whole product on embedded defaults
	$(CARGO) build --workspace --bins
	$(CARGO) run --quiet --bin vpnpanel -- up

build: ## Build every binary, optimised
	$(CARGO) build --workspace --bins --release

fmt: ## Format Rust and proto files
	$(CARGO) fmt --all
	$(BUF) format --write

lint: lint-proto lint-gen lint-rust lint-deps ## Check formats, lints and dependencies

lint-proto:
	$(BUF) lint
	$(BUF) format --diff --exit-code

# What is committed is what the contract generates.
lint-gen: gen
	@changed=$$(git status --porcelain -- $(TS)/gen) && [ -z "$$changed" ] || \
		{ echo "$$changed"; echo 'run make proto and commit what it makes'; exit 1; }

lint-rust:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

lint-deps:
	./scripts/lint-deps $(TOOLS)

test: test-deps ## Install what the tests need and run all of them
	$(CARGO) build --workspace --all-targets
	TMPDIR=$$(./scripts/scratch) $(CARGO) test --workspace --no-fail-fast
	$(MAKE) test-clients

test-clients: $(TS)/node_modules/.package-lock.json ## Run the clients against the control plane in target/debug
	TMPDIR=$$(./scripts/scratch) npm --prefix $(TS) test

test-deps:
	./scripts/install-test-deps
	./scripts/install-grpcurl $(TOOLS)
	./scripts/install-xray $(TOOLS)
	./scripts/install-sing-box $(TOOLS)

proto: gen ## Generate clients from the contract and check it
	$(BUF) lint
	$(CARGO) build --package vpnpanel-api

gen: $(TS)/node_modules/.package-lock.json
	$(BUF) generate

$(TS)/node_modules/.package-lock.json: $(TS)/package-lock.json
	npm --prefix $(TS) ci --no-fund --no-audit
	@touch $@

bench: ## Measure against raw limits (release build); figures go to docs/benchmarks.md
	./scripts/bench
