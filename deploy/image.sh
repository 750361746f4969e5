#!/bin/sh
# Makes an OCI image of a static kubelet, as a tar of its layout: image.sh BINARY ARCHITECTURE OUT, the architecture as
# images name it. `ctr -n k8s.io images import` and `skopeo copy oci-archive:...` read it. The same binary gives the
# same bytes.
set -eu
# Else the image would carry the umask of whoever makes it.
umask 022
binary=$(realpath "$1") architecture=$2 out=$(realpath -m "$3")
cd "$(dirname "$0")"
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' ../Cargo.toml)
[ -n "$version" ] || { echo "the version is not where this script looks for it" >&2; exit 1; }
name=docker.io/ferrolet/kubelet:$version

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
layout=$work/layout
mkdir -p "$layout/blobs/sha256" "$work/root"
pack() { tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --format=ustar -C "$1" -cf "$2" .; }
hash() { sha256sum "$1" | cut -d' ' -f1; }
# Puts a file among the blobs and prints what names it: a descriptor of the given media type.
blob() {
    digest=$(hash "$2") size=$(stat -c %s "$2")
    cp "$2" "$layout/blobs/sha256/$digest"
    printf '{"mediaType":"application/vnd.oci.image.%s","digest":"sha256:%s","size":%s' "$1" "$digest" "$size"
}

install -m 755 "$binary" "$work/root/kubelet"
chmod 755 "$work/root"
pack "$work/root" "$work/layer.tar"
unpacked=$(hash "$work/layer.tar")
gzip -n "$work/layer.tar"
printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":["/kubelet"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$architecture" "$unpacked" >"$work/config"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s},"layers":[%s}]}' \
    "$(blob config.v1+json "$work/config")" "$(blob layer.v1.tar+gzip "$work/layer.tar.gz")" >"$work/manifest"
printf '{"schemaVersion":2,"manifests":[%s,"platform":{"architecture":"%s","os":"linux"},"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
    "$(blob manifest.v1+json "$work/manifest")" "$architecture" "$name" "$version" >"$layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
mkdir -p "$out"
pack "$layout" "$out/ferrolet-kubelet_${version}_$architecture.oci.tar"
echo "$name in $out/ferrolet-kubelet_${version}_$architecture.oci.tar"
