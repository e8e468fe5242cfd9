#!/bin/busybox sh
# The machine's first process: modules, the disk with the system on it; then that system's /sbin/second.
/bin/busybox --install -s /bin 2>/dev/null || { /bin/busybox mkdir -p /bin; /bin/busybox --install -s /bin; }
export PATH=/bin
fail() { echo "CRECHE MACHINE: $*"; poweroff -f; }
mount -t devtmpfs none /dev || fail "no devtmpfs"
mount -t proc none /proc
for module in /modules/*; do insmod "$module" || fail "cannot load $module"; done
mount -t ext4 -o noatime,nobarrier /dev/vda /new || fail "cannot mount the disk"
cd /new
umount /proc
mount --move /dev /new/dev
exec switch_root /new /sbin/second
