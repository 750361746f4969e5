#!/bin/sh
# Makes a Debian package of a static kubelet: package.sh BINARY ARCHITECTURE OUT, the architecture as Debian names it.
# The same sources give the same bytes: the time of every file is SOURCE_DATE_EPOCH, or else the last commit's.
set -eu
# Before the change of directory: both may be relative to the caller's.
binary=$(realpath "$1") architecture=$2 out=$(realpath -m "$3")
cd "$(dirname "$0")"
limit=$((20 * 1024 * 1024))

size=$(stat -c %s "$binary")
[ "$size" -le "$limit" ] || { echo "$binary is of $size bytes, more than $limit" >&2; exit 1; }
headers=$(readelf -lW "$binary") || { echo "$binary is no program that readelf can read" >&2; exit 1; }
case $headers in *INTERP*)
    echo "$binary is not static" >&2
    exit 1
esac

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' ../Cargo.toml)
kubernetes=$(sed -n 's/.*KUBERNETES: &str = "v\(.*\)";/\1/p' ../crates/kubelet/src/version.rs)
[ -n "$version" ] && [ -n "$kubernetes" ] || { echo "the version is not where this script looks for it" >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# Else the package would carry the umask of whoever makes it.
umask 022
chmod 755 "$root"
install -D -m 755 "$binary" "$root/usr/bin/kubelet"
install -D -m 644 kubelet.service "$root/usr/lib/systemd/system/kubelet.service"
# Under another name than in the package kubeadm, whose own drop-in says the same and comes later.
install -D -m 644 10-kubeadm.conf "$root/usr/lib/systemd/system/kubelet.service.d/05-kubeadm.conf"
install -D -m 644 debian/default "$root/etc/default/kubelet"
install -D -m 644 ../LICENSE "$root/usr/share/doc/ferrolet-kubelet/copyright"
mkdir "$root/DEBIAN"
echo /etc/default/kubelet >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "debian/$script" "$root/DEBIAN/$script"
done
sed -e "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@KUBERNETES@/$kubernetes/; s/@SIZE@/$((size / 1024 + 16))/" \
    debian/control >"$root/DEBIAN/control"
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

mkdir -p "$out"
dpkg-deb --root-owner-group -Zxz --build "$root" "$out/ferrolet-kubelet_${version}_$architecture.deb"
