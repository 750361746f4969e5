# Everything a newcomer needs: `make demo`, `make test`. Build caches live outside the checkout.
CACHE ?= $(or $(FERROLET_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ferrolet)
export FERROLET_CACHE := $(CACHE)
export CARGO_TARGET_DIR ?= $(CACHE)/target
KUBELET := $(CARGO_TARGET_DIR)/release/kubelet
MODE ?= cluster

.PHONY: build demo demo-down test test-unit test-tidy test-real lint fmt

build:
	cargo build --release -p kubelet

demo: build
	cargo run -q -p bed -- demo $(MODE) $(KUBELET)

demo-down:
	cargo run -q -p bed -- down demo

test: test-unit lint test-real

# Unit tests, tests/tidy among them.
test-unit:
	cargo test --workspace --quiet

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

# On the real stack; TESTS names groups or single tests (`cargo run -p real -- --list`).
test-real: build
	FERROLET_KUBELET=$(KUBELET) cargo run -q -p real -- $(TESTS)

fmt:
	cargo fmt --all
