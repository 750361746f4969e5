# Everything a newcomer needs: `make demo`, `make test`. Build caches live outside the checkout.
CACHE ?= $(or $(FERROLET_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ferrolet)
export FERROLET_CACHE := $(CACHE)
# One per checkout: cargo goes by file times, and two checkouts would take each other's crates for their own.
export CARGO_TARGET_DIR ?= $(CACHE)/target/$(firstword $(shell pwd | cksum))
KUBELET := $(CARGO_TARGET_DIR)/release/kubelet
# With an API server, or `standalone`.
MODE ?= cluster
$(if $(filter cluster standalone,$(MODE)),,$(error MODE is cluster or standalone, not $(MODE)))

# `full`, `short` (a few minutes, fails where ferrolet is not well ahead), or any arguments of tests/bench.
BENCH ?= full

.PHONY: doctor build install packages package-amd64 package-arm64 demo demo-down test test-unit test-real test-vm test-differential test-bench bench lint fmt
# Two cargos at once only wait for each other, and the doctor comes first.
.NOTPARALLEL:

# Names what the machine lacks; LINTS=1 asks for rustfmt and clippy too, PACKAGE=1 for what the Debian package needs.
doctor:
	@LINTS=$(LINTS) PACKAGE=$(PACKAGE) sh tests/bed/doctor.sh

build:
	cargo build --release -p kubelet

install: build
	install -D -m 755 $(KUBELET) $(DESTDIR)/usr/bin/kubelet

# Static binaries for both architectures (kubelet-amd64, kubelet-arm64), Debian packages and OCI images of them in
# dist/. Needs `rustup target add` of both targets and Debian's musl-tools, gcc-aarch64-linux-gnu and dpkg-dev.
PACKAGES = $(CURDIR)/dist
packages: package-amd64 package-arm64

package-amd64: TRIPLE = x86_64-unknown-linux-musl
package-amd64: export CC_x86_64_unknown_linux_musl = musl-gcc
package-arm64: TRIPLE = aarch64-unknown-linux-musl
package-arm64: export CC_aarch64_unknown_linux_musl = aarch64-linux-gnu-gcc
package-arm64: export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER = aarch64-linux-gnu-gcc
package-amd64 package-arm64: package-%:
	cargo build --release -p kubelet --target $(TRIPLE)
	deploy/package.sh $(CARGO_TARGET_DIR)/$(TRIPLE)/release/kubelet $* $(PACKAGES)
	install -m 755 $(CARGO_TARGET_DIR)/$(TRIPLE)/release/kubelet $(PACKAGES)/kubelet-$*
	deploy/image.sh $(CARGO_TARGET_DIR)/$(TRIPLE)/release/kubelet $* $(PACKAGES)

demo: doctor build
	cargo run -q -p bed -- demo $(MODE) $(KUBELET)

demo-down:
	cargo run -q -p bed -- down demo

test: LINTS = 1
test: doctor test-unit lint test-real test-differential test-bench

# Unit tests, tests/tidy among them.
test-unit:
	cargo test --workspace --quiet

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

# On the real stack; TESTS names groups or single tests (`cargo run -p real -- --list`).
test-real: doctor build
	FERROLET_KUBELET=$(KUBELET) cargo run -q -p real -- $(TESTS)

# On Debian VMs with systemd and cgroup v2, with containerd 2.4 and 1.6, and a cluster of two that kubeadm makes; minutes
# each where there is no KVM.
test-vm: TESTS = vm vm-1-6 vm-shutdown kubeadm
test-vm: PACKAGES = $(CARGO_TARGET_DIR)/packages
test-vm: export FERROLET_PACKAGES = $(PACKAGES)
test-vm: PACKAGE = 1
test-vm: doctor package-amd64 test-real

# The same pods on the upstream kubelet and on ours, compared field by field; ALL=1 takes the whole corpus, CASES
# names some (regular expressions).
test-differential: doctor build
	FERROLET_KUBELET=$(KUBELET) cargo run -q -p differential -- $(if $(ALL),--all) $(CASES)

# The short benchmark: no absolute times, but ferrolet has to be well ahead of the upstream kubelet.
test-bench: BENCH = short
test-bench: bench

# ferrolet beside the upstream kubelet; the full form writes docs/BENCHMARKS.md and its pictures.
bench: doctor build
	FERROLET_KUBELET=$(KUBELET) cargo run -q -p bench -- $(BENCH) $(if $(filter full,$(BENCH)),--write)

fmt:
	cargo fmt --all
