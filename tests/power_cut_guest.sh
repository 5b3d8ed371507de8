#!/bin/busybox sh
# shellcheck shell=dash disable=SC2154 # The kernel sets what is not assigned here.
# The first process of the guest of power_cut.py. What the kernel's command line says is in the environment:
# the file system, the task, and options of qdropd.

# Sends from a directory of /files to a receiver and writes each receipt, as soon as it is there, past every
# cache to the second partition of the disk. That flushes nothing. FROM has 1 MiB there for itself.
send() { # FROM RECEIVER PORT OPTION...
	from=$1 into=$2 port=$3
	shift 3
	cd "/files/$from" || return
	marks=$((marks + 256))
	{
		echo "{\"from\": \"$from\", \"into\": \"$into\"}"
		if [ "$1" = each ]; then
			for file in *; do qdrop --json "127.0.0.1:$port" "$file"; done
		else
			qdrop --json "127.0.0.1:$port" "$@"
		fi
	} 2>>/log | dd bs=4096 conv=sync,notrunc oflag=direct of=/dev/vda2 seek="$marks" 2>>/log
}

receive() { # DIRECTORY PORT OPTION...
	mkdir -p "/mnt/$1"
	port=$2 into=/mnt/$1
	shift 2
	# shellcheck disable=SC2086 # There may be several.
	qdropd --subdirs --quiet --listen "127.0.0.1:$port" "$@" $qdropd "$into" >"/listening-$port" 2>>/log &
	receivers="$receivers $!"
	until [ -s "/listening-$port" ]; do usleep 10000; done
}

load() {
	mount -t "$fs" /dev/vda1 /mnt || return
	marks=0
	receive drop 9999
	receive replace 9998 --on-conflict replace
	sync
	send sizes drop 9999 -r .
	send small drop 9999 -r --preserve .
	send each drop 9999 each
	(marks=2560 && for version in 1 2 3 4 5 6; do send "version-$version" replace 9998 -r .; done) &
	send tree drop 9999 -r --jobs 3 .
	wait $!
	# A part with some bytes, whose sender is gone.
	cd /files/large || return
	qdrop --quiet --resume --limit-rate 500K 127.0.0.1:9999 large 2>>/log &
	until find /mnt/drop -name '.qdrop-*.large.part' -size +500k | grep -q .; do usleep 10000; done
	kill -9 $! && wait $!
	send large drop 9999 --resume large
	send again drop 9999 -r .
	# shellcheck disable=SC2086
	kill $receivers
	cd / && umount /mnt
}

# Says for each disk, by the number of its cut, which files it has.
check() {
	for disk in /sys/block/sd*; do
		cut=$(readlink "$disk/device")
		echo "cut ${cut##*:}"
		if mount -t "$fs" "/dev/${disk##*/}" /mnt; then
			cd /mnt && find drop replace ! -type d ! -name '.qdrop-*' -exec md5sum {} +
			cd / && umount /mnt
		fi
		# It remembers a file system by its number, which all of these have, and takes no older state of it.
		if [ "$fs" = btrfs ]; then rmmod btrfs && insmod /modules/*-btrfs.ko*; fi
	done
	echo end
}

/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /mnt
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ifconfig lo 127.0.0.1
for module in /modules/*; do insmod "$module" 2>>/log; done
cat /log
case $task in
load) load ;;
check) check >/dev/vda 2>&1 ;;
esac
cat /log
dmesg | grep -iE 'corrupt|error|bug|warn' | head -n 50
sync
poweroff -f
