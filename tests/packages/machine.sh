#!/bin/sh
# tests/packages/machine.sh FILES SCRIPT [ARGUMENT…]
# Runs SCRIPT as root of a machine of its own: this one's file system with FILES over it, one address,
# 127.0.0.1, no other processes, and a system log in /var/log/messages. Nothing of it remains.
set -eu
if [ $$ != 1 ]; then
	exec unshare --mount --propagation private --net --ipc --pid --fork --kill-child "$0" "$@"
fi
files=$1
shift
ip link set lo up
mount -t tmpfs machine /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work machine /mnt/root
mount -t proc proc /mnt/root/proc
for directory in dev run tmp; do
	mount -t tmpfs "$directory" "/mnt/root/$directory"
done
for device in null zero urandom; do
	: >"/mnt/root/dev/$device"
	mount --bind "/dev/$device" "/mnt/root/dev/$device"
done
cp -R "$files/." /mnt/root/
cp "$1" /mnt/root/tmp/script
shift
exec chroot /mnt/root /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
	sh -euc 'busybox syslogd -O /var/log/messages; . /tmp/script' script "$@"
