#!/bin/sh
# tests/packages/recipes.sh ARCHIVE
# Runs the recipes of docs/INSTALL.md as they stand, each on a machine of its own (machine.sh) that has the archive
# in /tmp, and sends a file to what they started. As root, for namespaces.
# shellcheck disable=SC2016 # what is in quotes is run there
set -eu
[ -f "$1" ] || { echo "recipes: there is no $1: make release TARGET=x86_64 makes it" >&2; exit 1; }
here=$(realpath "$(dirname "$0")")
archive=$(realpath "$1")
page=$here/../../docs/INSTALL.md
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# recipe NAME ENDING, after what comes before it from standard input
recipe() {
	mkdir -p "$work/$1/tmp"
	cp "$archive" "$work/$1/tmp"
	{
		cat <<-'END'
			sudo() { "$@"; }
			# That of a private network, as a service may want.
			ip address add 192.168.1.1/24 dev lo
			# Waits until somebody listens, but for nothing else.
			send() {
				until /tmp/qdrop-*/qdrop --quiet --require-receipt 192.168.1.1 /etc/hostname; do
					[ $? = 3 ] || exit 1
					sleep 0.1
				done 2>/tmp/refused || { cat /tmp/refused; exit 1; }
				cmp /etc/hostname "$1/hostname"
			}
			cd /tmp
		END
		cat
		sed -n "/^<!-- recipe: $1 -->/,/^\`\`\`$/{/^[<\`]/!p}" "$page"
		echo "$2"
	} >"$work/$1.sh"
	timeout 50 "$here/machine.sh" "$work/$1" "$work/$1.sh" >"$work/$1.log" 2>&1 || {
		cat "$work/$1.log"
		echo "recipes: $1: failed" >&2
		exit 1
	}
	echo "recipes: $1: installed as docs/INSTALL.md says, and took a file"
}

# No systemd runs there that would start it now.
recipe systemd '
	[ -L /etc/systemd/system/multi-user.target.wants/qdropd.service ]
	command=$(sed -n "s/^ExecStart=//p" /etc/systemd/system/qdropd.service | sed s,%S,/var/lib,)
	mkdir /var/lib/qdropd
	$command &
	send /var/lib/qdropd' <<'END'
systemctl() { command systemctl "$1" "$3"; }
END

# In place of procd there is what says what it would be told.
mkdir -p "$work/openwrt/etc/config"
cp "$here/openwrt/rc.common" "$work/openwrt/etc"
recipe openwrt '
	set -- $(/etc/init.d/qdropd start | sed -n "s/^.*_param command //p")
	chroot --userspec=qdropd:qdropd / "$@" &
	send /mnt/sda1/drop' <<'END'
mkdir /tmp/bin
busybox --install -s /tmp/bin
# Debian's BusyBox has one of its own.
rm -f /tmp/bin/chroot
chmod 755 /etc/rc.common
PATH=/tmp/bin:$PATH
END

# With the tools of Debian in place of those that its BusyBox has not.
recipe alpine '
	send /var/lib/qdropd
	rc-update show default | grep qdropd
	rc-service qdropd stop' <<'END'
mkdir -p /tmp/bin /etc/runlevels/default /etc/conf.d
busybox --install -s /tmp/bin
PATH=/tmp/bin:/usr/sbin:/usr/bin:/sbin:/bin
printf '#!/bin/sh\nexec groupadd --system "$2"\n' >/tmp/bin/addgroup
printf '#!/bin/sh\nfor user; do :; done\nexec useradd --system --no-create-home --gid "$user" "$user"\n' \
	>/tmp/bin/adduser
chmod 755 /tmp/bin/addgroup /tmp/bin/adduser
# What the init of an OpenRC leaves.
for directory in daemons exclusive failed hotplugged inactive init.d options scheduled started starting stopping \
	tmp wasinactive; do
	mkdir -p "/run/openrc/$directory"
done
: >/run/openrc/softlevel
END
