#!/bin/sh
# Installs cairnfs and the helpers by which mount(8), umount(8) and mkfs(8) find it.
#
#   mount-helpers/install.sh [BINARY]     default: target/release/cairnfs
#
# bindir  (default /usr/local/bin) takes the program. sbindir (default /sbin) takes the helpers: mount(8) looks for
# them in /sbin and nowhere else. DESTDIR is put before both, for packagers.
set -eu

here=$(cd -- "$(dirname -- "$0")" && pwd)
binary=${1:-$here/../target/release/cairnfs}
bindir=${DESTDIR:-}${bindir:-/usr/local/bin}
sbindir=${DESTDIR:-}${sbindir:-/sbin}

if [ ! -x "$binary" ]; then
    echo "install.sh: $binary is not there; run 'cargo build --release' first, or name the binary" >&2
    exit 1
fi

mkdir -p "$bindir" "$sbindir"
install -m 755 "$binary" "$bindir/cairnfs"
for helper in mkfs.cairnfs mount.cairnfs mount.fuse.cairnfs umount.cairnfs umount.fuse.cairnfs; do
    install -m 755 "$here/$helper" "$sbindir/$helper"
done
echo "installed $bindir/cairnfs and its helpers in $sbindir"
