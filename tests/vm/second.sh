#!/usr/bin/busybox sh
# The machine's system: pure cgroup v2, a loopback, then the command that waits in /command.sh; its results go to /dev/vdb.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb CRECHE_MACHINE=1
b=/usr/bin/busybox
$b mount -t proc -o nosuid,nodev,noexec proc /proc
$b mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
$b mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
$b mkdir -p /dev/pts /dev/shm /dev/mqueue /results
$b mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
$b mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm
$b mount -t mqueue mqueue /dev/mqueue
$b mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
$b ln -sf /proc/self/fd /dev/fd
$b hostname machine
$b ip link set lo up
echo "CRECHE MACHINE: up after $($b cut -d' ' -f1 /proc/uptime) s"
# A session of its own: the first process has no controlling terminal, and the tests are not to get one.
cd "$($b cat /command.directory)" || exit 1
{ $b setsid timeout -s INT -k 10 "$($b cat /command.seconds)" sh /command.sh 2>&1; echo $? > /results/status; } | $b tee /results/output
$b tar -cf /dev/vdb -C /results .
$b sync
echo "CRECHE MACHINE: done after $($b cut -d' ' -f1 /proc/uptime) s"
$b poweroff -f
