#!/bin/sh
# Makes a kind cluster whose nodes run ferrolet: create.sh KUBELET NODE_IMAGE [arguments of "kind create cluster"].
# KUBELET is a static binary (`make packages` leaves dist/kubelet-amd64 and dist/kubelet-arm64), NODE_IMAGE a node image
# of kind for the Kubernetes that it stands in for. `kind delete cluster` ends the cluster.
# The nodes' image is the one made here: an `--image` of yours is refused, and so should be an `image:` of a node in a
# `--config`, since kind takes that one instead.
set -eu
[ $# -ge 2 ] || { echo 'usage: create.sh KUBELET NODE_IMAGE [arguments of "kind create cluster"]' >&2; exit 1; }
kubelet=$1 node_image=$2
shift 2
for argument in "$@"; do
    case $argument in --image | --image=*)
        echo "the nodes' image is made here, from $node_image: leave --image out" >&2
        exit 1
    esac
done
here=$(cd "$(dirname "$0")" && pwd)
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
install -m 755 "$kubelet" "$context/kubelet"
docker build --build-arg "NODE_IMAGE=$node_image" --tag ferrolet/kind-node --file "$here/Dockerfile" "$context"
kind create cluster --image ferrolet/kind-node "$@"
