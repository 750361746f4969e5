#!/bin/sh
# Names in one message all that this machine lacks for the demo and the tests; says nothing when it lacks nothing.
# A shell script, since it has to work before there is a cargo to build anything with: `make doctor [LINTS=1]
# [PACKAGE=1]`.
# The stack's own programs (`bed`, `real`) run it too.
missing=
lacks() {
  missing="$missing
  $1"
}
has() { command -v "$1" >/dev/null 2>&1; }
# at_least WANTED FOUND: version numbers
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

[ "$(id -u)" = 0 ] || lacks "root: it makes network namespaces, mounts and cgroups; use a root shell"
has apt-get || lacks "apt-get: the stack is partly made of Debian packages; use a Debian or its kin"
has cc || lacks "cc: links programs; apt-get install gcc libc6-dev"

if has cargo && has rustc; then
  found=$(rustc --version | cut -d ' ' -f 2)
  at_least 1.95 "$found" || lacks "Rust 1.95 or later: here is $found; rustup update"
  if [ -n "$LINTS" ]; then
    cargo fmt --version >/dev/null 2>&1 || lacks "rustfmt: rustup component add rustfmt"
    cargo clippy --version >/dev/null 2>&1 || lacks "clippy: rustup component add clippy"
  fi
else
  lacks "cargo and rustc: Rust 1.95 or later, as rustup installs it"
fi
if [ -n "$PACKAGE" ]; then
  has musl-gcc || lacks "musl-gcc: builds the package's static program; apt-get install musl-tools"
  [ -d "$(rustc --print sysroot)/lib/rustlib/x86_64-unknown-linux-musl" ] ||
    lacks "Rust's libraries for musl: rustup target add x86_64-unknown-linux-musl"
fi
if has go; then
  found=$(GOTOOLCHAIN=local go env GOVERSION)
  at_least 1.26 "${found#go}" || lacks "Go 1.26 or later: here is ${found#go}"
else
  lacks "go: Go 1.26 or later builds Kubernetes, etcd and containerd"
fi

grep -qw overlay /proc/filesystems || modprobe -q overlay 2>/dev/null || lacks "kernel: the overlay file system"
[ -e /sys/fs/cgroup/cgroup.controllers ] || [ -d /sys/fs/cgroup/memory ] ||
  lacks "kernel: cgroups, version 1 or 2, mounted at /sys/fs/cgroup"
if [ "$(id -u)" = 0 ]; then
  if ! unshare --net true 2>/dev/null; then
    lacks "kernel: network namespaces, or the right to make them"
  elif has ip; then
    for kind in "br0 type bridge" "v0 type veth peer name v1"; do
      # shellcheck disable=SC2086 # words on purpose
      unshare --net ip link add $kind 2>/dev/null || lacks "kernel: network links, as in 'ip link add $kind'"
    done
  fi
fi

# What a first run adds to the caches, GiB; a later one has most of it.
need=10
[ -n "$LINTS" ] && need=16
cache=${FERROLET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ferrolet}
[ -e "$cache/stack/bin/e2e.test" ] && need=2
while [ ! -d "$cache" ]; do cache=$(dirname "$cache"); done
free=$(df -Pk "$cache" | awk 'NR == 2 { print int($4 / 1048576) }')
[ "$free" -ge "$need" ] || lacks "disk: $need GiB free at $cache, where $free are; FERROLET_CACHE names another place"

[ -z "$missing" ] && exit 0
echo "this machine lacks:$missing" >&2
exit 1
