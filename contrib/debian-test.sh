#!/bin/sh
# Called by `make deb-test`: contrib/debian-test.sh PACKAGES
# Judges the packages of that directory, installs and removes them in a Debian of their own, and there
# has systemd run the units. It calls itself again in there, as `installs` and as `runs`.
set -eu

fail() {
	echo "deb-test: $1" >&2
	exit 1
}

# check COMMAND... fails aloud, `not COMMAND...` likewise if it succeeds.
check() { "$@" || fail "failed: $*"; }
not() { if "$@"; then fail "should have failed: $*"; fi; }
is() { [ "$2" = "$3" ] || fail "$1 is '$2', not '$3'"; }

drop=/var/lib/qdropd

stored() { (cd $drop && find . -mindepth 1 -printf '%P\n' | LC_ALL=C sort | paste -s -d ' '); }

install_packages() {
	dpkg --install /packages/qdrop_*.deb /packages/qdropd_*.deb
}

# What the packages have done, whatever ran before.
check_installed() {
	is version "$(qdrop --version) $(qdropd --version)" "qdrop $1 qdropd $1"
	for file in man/man1/qdrop.1.gz man/man7/qdrop-protocol.7.gz man/man8/qdropd.8.gz \
		bash-completion/completions/qdrop bash-completion/completions/qdropd \
		zsh/vendor-completions/_qdrop zsh/vendor-completions/_qdropd \
		fish/vendor_completions.d/qdrop.fish fish/vendor_completions.d/qdropd.fish \
		doc/qdropd/README.Debian; do
		check test -s "/usr/share/$file"
		check test ! -L "/usr/share/$file"
	done
	is "the user" "$(getent passwd qdropd | cut -d: -f5-)" \
		"Receiver of files:$drop:/usr/sbin/nologin"
	is "$drop" "$(stat -c '%U:%G %a %F' $drop)" 'qdropd:qdropd 750 directory'
	for unit in qdropd.service qdropd.socket; do
		is "$unit" "$(systemctl is-enabled $unit)" disabled
	done
	is 'what systemd says of the units' \
		"$(systemd-analyze verify --man=no qdropd.service qdropd.socket qdropd-socket.service 2>&1)" ''
}

installs() {
	install_packages
	check_installed "$1"
	AUTOPKGTEST_TMP=$(mktemp -d) /packages/transfer

	# What was received outlives the package; what is none yet goes with it.
	echo mine >$drop/file
	: >$drop/.qdrop-1-1-1-1.file.part
	dpkg --remove qdrop qdropd
	not test -e /usr/bin/qdropd
	is "what is left" "$(stored)" '.qdrop-1-1-1-1.file.part file'
	told=$(dpkg --purge qdrop qdropd 2>&1)
	echo "$told"
	check test "${told#*"$drop has files that were received"}" != "$told"
	is "what is left" "$(stored) $(cat $drop/file) $(stat -c '%U' $drop)" 'file mine qdropd'

	# An empty directory goes. So does one that somebody else removed.
	rm $drop/file
	install_packages
	dpkg --purge qdrop qdropd
	not test -e $drop
	install_packages
	check_installed "$1"
	rmdir $drop
	dpkg --purge qdrop qdropd
	is 'what dpkg knows' "$(dpkg-query --list qdrop qdropd 2>/dev/null)" ''
	is 'what is left' "$(find / -xdev -path /packages -prune -o -name '*qdrop*' -print)" ''
}

# Whether anybody listens on port 9999.
listens() { grep -q ': 00000000:270F .* 0A ' /proc/net/tcp; }

# A file of a name goes to the units, and none from an address that is not private.
transfer() {
	head -c 3000000 /dev/urandom >"/tmp/$1"
	# At once: systemd has waited until somebody listens.
	check qdrop --require-receipt 127.0.0.1 "/tmp/$1"
	check cmp "/tmp/$1" "$drop/$1"
	status=0
	qdrop --connect-timeout 1 203.0.113.1 "/tmp/$1" || status=$?
	is 'the status of a sender from outside' $status 3
}

main_pid() { systemctl show --property MainPID --value qdropd.service; }

# Waits until the status of qdropd.service is this one.
told() {
	for _ in $(seq 100); do
		status=$(systemctl show --property StatusText --value qdropd.service)
		[ "$status" != "$1" ] || return 0
		sleep 0.1
	done
	fail "the status of qdropd.service is '$status', not '$1'"
}

runs() {
	ip address add 203.0.113.1/32 dev lo

	# The units as the source has them, without a package and its user, whom a purge leaves.
	userdel qdropd
	mkdir /tmp/programs
	for package in /packages/qdrop_*.deb /packages/qdropd_*.deb; do
		dpkg-deb --extract "$package" /tmp/programs
	done
	cp /tmp/programs/usr/bin/* /usr/bin
	cp /packages/systemd/* /etc/systemd/system
	# Each takes the place of the one before.
	for unit in qdropd.service qdropd.socket qdropd.service qdropd.socket; do
		systemctl start $unit
		transfer by-$unit
		is "by-$unit" "$(stat -c '%a' $drop/by-$unit)" 600
		rm $drop/by-$unit
	done
	transfer early
	is "$drop" "$(readlink $drop)" private/qdropd
	not getent passwd qdropd
	systemctl stop qdropd.socket
	rm /usr/bin/qdrop* /etc/systemd/system/qdropd*
	systemctl daemon-reload

	# Then the package, and what README.Debian says of the files that came till then.
	install_packages
	rm $drop
	mv /var/lib/private/qdropd $drop
	chown -R qdropd:qdropd $drop
	for unit in qdropd.service qdropd.socket qdropd-socket.service; do
		is "$unit" "$(systemctl is-active $unit)" inactive
	done
	not listens

	systemctl enable --now qdropd.service
	transfer listened
	qdrop --quiet --limit-rate 1M --name slow 127.0.0.1 /tmp/listened &
	told 'transfers under way: 1'
	wait
	told 'transfers under way: 0'
	rm $drop/slow
	is 'what it sees of other programs' \
		"$(nsenter --mount --target "$(main_pid)" find /run -exec test -S {} \; -print)" /run/systemd/notify
	is early "$(stat -c '%U:%G %a' $drop/early)" 'qdropd:qdropd 600'
	is listened "$(stat -c '%U:%G %a' $drop/listened)" 'qdropd:qdropd 640'
	# For those who are in the group, and nobody else.
	useradd --groups qdropd member
	useradd stranger
	check runuser -u member -- cmp /tmp/listened $drop/listened
	not runuser -u member -- touch $drop/listened
	not runuser -u stranger -- cmp /tmp/listened $drop/listened

	# An upgrade starts the new one.
	before=$(main_pid)
	install_packages
	check systemctl is-active qdropd.service
	not [ "$before" = "$(main_pid)" ]
	transfer upgraded
	systemctl disable --now qdropd.service
	check_installed "$1"

	systemctl enable --now qdropd.socket
	is qdropd-socket.service "$(systemctl is-active qdropd-socket.service)" inactive
	transfer activated
	is activated "$(stat -c '%U:%G %a' $drop/activated)" 'qdropd:qdropd 640'
	check systemctl is-active qdropd-socket.service
	install_packages
	check systemctl is-active qdropd.socket
	transfer activated-again

	# A removal stops what runs.
	dpkg --purge qdrop qdropd
	not listens
	not grep -lx qdropd /proc/[0-9]*/comm
	is 'what is left' "$(stored)" 'activated activated-again early listened upgraded'
}

case $1 in
installs | runs)
	"$@"
	exit
	;;
esac

[ "$(id -u)" = 0 ] || fail 'it needs root, for the chroot'
for tool in debootstrap lintian; do
	command -v $tool >/dev/null || fail "it needs $tool (Debian: apt-get install debootstrap lintian)"
done
made=$1
version=$(sed -n 's/^qdrop (\(.*\)-.*/\1/p' "${0%/*}/debian/changelog" | head -n 1)

lintian --fail-on error,warning "$made"/*.changes
echo 'deb-test: lintian has nothing to say'

work=$(mktemp -d)
root=$work/root
# debootstrap may leave a mount if it is interrupted.
clean() {
	awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount
	rm -rf --one-file-system "$work"
}
trap clean EXIT
trap 'exit 1' HUP INT TERM

# systemd is what qdropd depends on, beside what is in every Debian; iproute2 is for the test.
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
debootstrap --variant=minbase --include=systemd,iproute2 "$release" "$root" >"$work/log" 2>&1 || {
	tail "$work/log" >&2
	fail 'debootstrap failed'
}
mkdir "$root/packages"
cp "$0" "$root/packages/test"
cp -R "$made"/*.deb "${0%/*}/debian/tests/transfer" "${0%/*}/systemd" "$root/packages"

chroot "$root" /packages/test installs "$version" >"$work/log" 2>&1 || {
	cat "$work/log" >&2
	exit 1
}
echo 'deb-test: installed, moved a file, removed, purged'

# With what systemd needs for IPAddressDeny=.
nspawn() {
	SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn --quiet --register=no --keep-unit \
		--capability=CAP_BPF --system-call-filter=bpf --directory="$root" "$@" </dev/null
}
if ! why=$(nspawn true 2>&1); then
	echo "LEFT OUT: the units under systemd: systemd-nspawn cannot run" \
		"(Debian: apt-get install systemd-container): $why" >&2
	exit
fi
cat >"$root/etc/systemd/system/test.service" <<END
[Unit]
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
ExecStart=/packages/test runs $version
StandardOutput=file:/packages/log
StandardError=inherit
END
nspawn --private-network --console=pipe --boot systemd.unit=test.service >"$work/log" 2>&1 || {
	cat "$work/log" "$root/packages/log" >&2
	fail 'the units under systemd'
}
echo 'deb-test: systemd ran the units'
