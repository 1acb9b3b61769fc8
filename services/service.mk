# What every service's Makefile shares. A service sets CRATE (and BIN, where `run` starts
# something else than `vpnpanel SERVICE`), then includes this file.

ROOT    := $(dir $(lastword $(MAKEFILE_LIST)))..
SERVICE ?= $(notdir $(CURDIR))
CRATE   ?= vpnpanel-$(SERVICE)
BIN     ?= vpnpanel -- $(SERVICE)

.PHONY: run fmt lint test proto

run:
	cd $(ROOT) && cargo build --workspace --bins && cargo run --quiet --bin $(BIN)

fmt:
	cd $(ROOT) && cargo fmt --package $(CRATE)

# Workspace builds share their dependencies' features; a package alone would build them again.
lint:
	cd $(ROOT) && cargo fmt --package $(CRATE) --check && cargo clippy --workspace --all-targets -- -D warnings

test:
	cd $(ROOT) && cargo build --workspace --all-targets && cargo test --package $(CRATE)

proto:
	$(MAKE) -C $(ROOT) proto
