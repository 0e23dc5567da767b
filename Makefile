# One command for each thing one does with walfs. `make` alone lists them.

CARGO ?= cargo
# The tests mount file systems and run servers as user postgres: they run as root, and what cargo builds stays the caller's.
ROOT_RUNNER := $(if $(filter-out 0,$(shell id -u)),--config 'target."cfg(unix)".runner = "sudo -E"')
# A test waits for something most of its time: two for each core.
TEST_THREADS := $(shell echo $$((2 * $$(nproc))))
SCRIPTS := .ci/needs .ci/record .ci/postgresql.sh .ci/postgresql-npm.sh .ci/run .ci/demo .ci/deb mount-helpers/mount.walfs $(wildcard mount-helpers/debian/*)

.PHONY: help build deb demo matrix test deb-test check bench bench-all clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build target/release/walfs
	$(CARGO) build --release

deb: ## build target/debian/walfs_VERSION_ARCH.deb
	@.ci/needs deb
	CARGO='$(CARGO)' .ci/deb build

demo: ## archive a PostgreSQL by cp, destroy it, recover it by cp (a few minutes, cleans up)
	@.ci/demo

matrix: ## bring PostgreSQL 13 to 18 beside the system's, for the tests (unpacked, not installed)
	@.ci/needs matrix

test: ## bring what the tests need (once), then run them all, as root or by sudo
	@.ci/needs test
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$(TEST_THREADS)} $(CARGO) $(ROOT_RUNNER) test

deb-test: ## build the package, install it in a Debian of its own, mount there, remove it
	@.ci/needs deb-test
	CARGO='$(CARGO)' .ci/deb test

check: ## formatting, clippy, documentation, shell syntax: everything must be clean
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --document-private-items
	@for script in $(SCRIPTS); do echo "bash -n $$script"; bash -n $$script || exit 1; done

bench: build ## measure walfs beside other tools: docs/bench/peers.md, docs/bench.svg (half an hour)
	@.ci/needs bench
	CARGO='$(CARGO)' .ci/record peers

bench-all: bench ## the same, then every other benchmark of bench/ (docs/bench)
	CARGO='$(CARGO)' .ci/record codec segments listing memory replay backups incremental opening years together versions

clean: ## remove target/ (what .ci/needs built stays in its cache)
	$(CARGO) clean
