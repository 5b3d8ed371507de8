#!/bin/sh
# tests/mdns.sh PROGRAMS
# Called by `make mdns-test`. Two machines of their own, `here` and `box`, have a cable between them and an Avahi
# each: box announces its qdropd by contrib/avahi, and here finds it and reaches it as box.local. Nothing of them
# remains, and nothing of this machine's network is touched. It calls itself again, as each machine.
set -eu

fail() {
	echo "mdns-test: $1" >&2
	exit 1
}

# Runs Avahi as a host of this name, with services of its own.
avahi() {
	mount --bind "/mnt/services-$1" /etc/avahi/services
	printf '%s\n' '[server]' "host-name=$1" "enable-dbus=$2" >"/mnt/$1.conf"
	avahi-daemon --file="/mnt/$1.conf" --no-drop-root --no-chroot --no-rlimits >"/mnt/$1.log" 2>&1 &
}

box() {
	mount -t tmpfs run /run
	avahi box no
	exec "$1/qdropd" --listen 0.0.0.0 /mnt/drop >/mnt/qdropd.log 2>&1
}

# Tries for some seconds.
await() {
	for _ in $(seq 100); do
		if "$@"; then return; fi
		sleep 0.1
	done
	cat /mnt/*.log >&2
	fail "in vain: $*"
}

announced() {
	avahi-browse --resolve --parsable --terminate _qdrop._tcp >/mnt/found 2>&1 &&
		grep -qx '=;here;IPv4;box;_qdrop._tcp;local;box.local;192\.0\.2\.2;9999;' /mnt/found
}

here() {
	mount -t tmpfs mdns-test /mnt
	mkdir /mnt/services-here /mnt/services-box /mnt/drop
	cp "${0%/*}/../contrib/avahi/qdropd.service" /mnt/services-box
	sed 's/^hosts:.*/hosts: files mdns4_minimal [NOTFOUND=return]/' /etc/nsswitch.conf >/mnt/nsswitch.conf
	mount --bind /mnt/nsswitch.conf /etc/nsswitch.conf
	head -c 3000000 /dev/urandom >/mnt/file

	mount -t tmpfs run /run
	ip netns add box
	ip link add here type veth peer name box netns box
	ip address add 192.0.2.1/24 dev here
	ip link set here up
	ip -n box address add 192.0.2.2/24 dev box
	ip -n box link set box up
	ip netns exec box "$0" box "$1" &

	# avahi-browse asks over D-Bus; the resolver of the C library has a socket of Avahi's own.
	mkdir /run/dbus
	dbus-daemon --session --address=unix:path=/run/dbus/system_bus_socket --fork
	avahi here yes
	await announced
	"$1/qdrop" --require-receipt box.local /mnt/file || fail 'qdrop box.local'
	cmp /mnt/file /mnt/drop/file
	# What is told to whoever has a static program.
	"$1/qdrop" --require-receipt --name second "$(avahi-resolve -4n box.local | cut -f2)" /mnt/file ||
		fail 'qdrop to the address that avahi-resolve says'
	cmp /mnt/file /mnt/drop/second
	if "$1/qdrop" no.local /mnt/file 2>/mnt/why; then fail 'no.local was found'; fi
	grep 'no\.local:9999: cannot find the host: .* (names in \.local need mDNS' /mnt/why || fail "$(cat /mnt/why)"
	echo 'mdns-test: box.local was found and reached'
}

case $1 in
here | box)
	"$@"
	exit
	;;
esac
[ "$(id -u)" = 0 ] || fail 'it needs root, for the namespaces'
needs() {
	fail "it needs $1 (Debian: apt-get install avahi-daemon avahi-utils dbus iproute2 libnss-mdns)"
}
for tool in avahi-daemon avahi-browse dbus-daemon ip unshare; do
	command -v "$tool" >/dev/null || needs "$tool"
done
ldconfig -p | grep -q libnss_mdns4_minimal || needs nss-mdns
exec timeout 100 unshare --mount --propagation private --net --pid --fork --kill-child --mount-proc \
	"$0" here "$1"
