#!/usr/bin/env bash
# Builds the two programs for other machines, and tests them under qemu (docs/CROSS.md), and qdrop.exe under wine:
# contrib/cross.sh build|release|tiny TARGET…, contrib/cross.sh test [TARGET…]. `contrib/cross.sh types` compiles
# what cannot be linked here, as far as that goes without. TARGET begins a line here:
#       target of rustc                 gcc and its libc        qemu, or wine
table='
x86_64  x86_64-unknown-linux-gnu        x86_64-linux-gnu        -
aarch64 aarch64-unknown-linux-gnu       aarch64-linux-gnu       aarch64
armv7   armv7-unknown-linux-gnueabihf   arm-linux-gnueabihf     arm
riscv64 riscv64gc-unknown-linux-gnu     riscv64-linux-gnu       riscv64
s390x   s390x-unknown-linux-gnu         s390x-linux-gnu         s390x
mipsel  mipsel-unknown-linux-gnu        mipsel-linux-gnu        mipsel
windows x86_64-pc-windows-gnu           x86_64-w64-mingw32      wine
'
# What has no gcc here.
unlinked=(x86_64-apple-darwin aarch64-apple-darwin x86_64-unknown-freebsd)

# The end-to-end tests that are run, those of the two programs: the others read the source and the
# documents, know only programs of this machine, or try things by the thousand.
tests=(receiving sending lists dialects)
# Those for a static program where no qemu is between: some break connections at a moment, and start other programs.
native_tests=(sending lists flaky services)
# And for a tiny one.
tiny_tests=(sending lists services)
# Those for a foreign static program, and for a foreign one with one of this machine at the other end.
peer_tests=(lists)
# What of them is left out of a foreign or static program: faults.c is a library of this machine.
preloading=(
	a_failing_disk_stores_nothing_and_is_told
	a_peer_that_gives_up_in_the_queue_is_no_failure
	a_file_system_with_the_rules_of_exfat_takes_every_name
	what_fails_while_a_large_body_comes_is_told_at_its_end
)
# And under qemu, whose /proc/self/stat may be a tick off when a process started, by which a receiver
# knows another one's parts.
emulated=(
	a_second_receiver_leaves_the_transfers_of_the_first_alone
)
# Those for qdrop.exe, with a qdropd of this machine at the other end. The last one is for it alone.
windows_tests=(sending lists dialects belief windows)
# Of these, what is about Unix.
of_unix=(
	# Names that Windows has not.
	a_stored_file_is_told_in_one_line_at_either_end
	json_has_the_members_that_the_manual_page_tells
	no_text_steers_a_terminal
	# Files of /dev, descriptors that are closed or do not block, and a pipe that nobody reads.
	what_is_no_readable_file_is_told_and_not_sent
	standard_input_is_sent_and_leaves_nothing
	streams_that_do_not_block_are_waited_for
	outputs_that_nobody_takes_change_no_transfer
	help_names_every_option_and_exit_status
	# Terminals of Unix.
	a_bar_is_drawn_on_terminals_alone_unless_it_is_asked_for
	a_narrow_terminal_shows_the_beginning_of_the_numbers
	a_terminal_of_any_width_shows_whole_bars_and_then_the_line_alone
	several_files_are_summed_up_on_a_terminal
	the_bar_of_a_tree_counts_what_was_skipped
	# Thousands of operands: a command line has 32,767 characters.
	a_receiver_that_closes_after_a_list_is_asked_again
	each_of_many_failures_is_told
	# The words of the system for a missing file.
	each_file_of_a_connection_has_its_own_verdict
	# A connection that is reset before it is accepted is told by Linux alone.
	a_connection_that_only_looks_uses_up_no_file
	# wine takes too long for their moments.
	a_busy_receiver_is_waited_for_and_uses_no_retry
	an_address_that_does_not_answer_is_waited_for_once_and_not_for_long
	of_many_files_to_nobody_one_line_tells_and_another_counts
	# That the peer has acknowledged everything is known on Linux alone (docs/CROSS.md).
	a_receiver_that_closes_with_the_file_half_taken_has_not_got_it
)
# How long a run may take. Then its process group is killed: a qemu that hangs is deaf to anything milder.
limit=15m

set -eu
cd "$(dirname "$0")/.."
out=$(realpath -m "${CARGO_TARGET_DIR:-target}")
cross=$out/cross

# Sets triple, gnu and qemu.
look_up() {
	read -r _ triple gnu qemu < <(grep "^$1 " <<<"$table") && return
	echo "cross: there is no target '$1', only$(cut -d' ' -f1 <<<"$table" | paste -sd' ')" >&2
	exit 2
}

# Sets rustc, and build_std if that one has the source of std and not std itself, or if it must build it.
find_rustc() {
	local must=$2 here
	for rustc in "${RUSTC:-rustc}" /usr/bin/rustc; do
		rustc=$(command -v "$rustc") || continue
		build_std=$must here=$("$rustc" --print target-libdir --target "$1")
		if [ ! "$must" ] && [ -d "$here" ]; then return; fi
		build_std=yes here=$("$rustc" --print sysroot)/lib/rustlib/src/rust/library
		if [ -d "$here" ]; then return; fi
	done
	echo "there is no std for $1, nor its source (docs/CROSS.md has the packages)"
	return 1
}

# Says what is missing here for a target.
missing() {
	if ! command -v "$gnu-gcc" >/dev/null; then
		echo "there is no $gnu-gcc"
	elif [ "$qemu" = wine ] && ! command -v wine >/dev/null; then
		echo 'there is no wine (Debian: wine)'
	elif [[ $qemu != @(-|wine) ]] && ! command -v "qemu-$qemu-static" >/dev/null; then
		echo "there is no qemu-$qemu-static (Debian: qemu-user-static)"
	else
		# A tiny one of x86_64 is tested, which takes the source, and Windows has objects of it.
		find_rustc "$triple" "$([[ $qemu != @(-|wine) ]] || echo yes)" || true
	fi
}

# Sets linker for a kind of programs: of musl where there is one, but that a release is the same everywhere.
find_linker() {
	local musl=${gnu/gnu/musl}-gcc
	linker=$gnu-gcc
	case $1 in
	dynamic) ;;
	release) if [ "$gnu" = x86_64-linux-gnu ]; then linker=$musl; fi ;;
	*) if command -v "$musl" >/dev/null; then linker=$musl; fi ;;
	esac
	command -v "$linker" >/dev/null || {
		echo "cross: there is no $linker (docs/CROSS.md has the packages)" >&2
		exit 1
	}
}

# What a program for Windows is linked with, beside gcc's own: two objects of rustc's source, and of libssp the
# archive alone, or its DLL would have to be there.
for_mingw() {
	local name
	mkdir -p "$cross/mingw"
	for name in rsbegin rsend; do
		RUSTC_BOOTSTRAP=1 "$rustc" --target "$target" --emit=obj -o "$cross/mingw/$name.o" \
			"$("$rustc" --print sysroot)/lib/rustlib/src/rust/library/rtstartup/$name.rs"
	done
	ln -sf "$("$gnu-gcc" -print-file-name=libssp.a)" "$cross/mingw"
}

# cargo for a kind of programs: dynamic, static, tiny, or release, which is static. Sets target.
cargo_for() {
	local kind=$1 panic=unwind features=() flags=() must='' settings name joined
	shift
	find_linker "$kind"
	target=$triple
	if [ "$kind" != dynamic ]; then flags+=(-C target-feature=+crt-static); fi
	if [ "$qemu" = wine ]; then
		panic=abort must=yes features=(-Zbuild-std-features=)
		flags+=(-L "$cross/mingw")
	elif [ "$linker" != "$gnu-gcc" ]; then
		# What unwinds is made for glibc here. So nothing does, and an empty library takes its place.
		target=${triple/gnu/musl} panic=abort must=yes
		features=(-Zbuild-std-features=)
		mkdir -p "$cross/nothing"
		printf '!<arch>\n' >"$cross/nothing/libunwind.a"
		# Debian's specs of musl know -static, and make of -static-pie a program that wants an interpreter.
		flags+=(-C relocation-model=static -C link-self-contained=no -L "$cross/nothing")
	fi
	if [ "$kind" = tiny ]; then panic=abort must=yes; fi
	if [ "$kind" = release ]; then must=yes; fi
	find_rustc "$target" "$must" >&2
	if [ "$qemu" = wine ]; then for_mingw; fi
	if [ "$kind" = tiny ]; then
		features=(-Zbuild-std-features=optimize_for_size)
		settings=(-Zunstable-options -C panic=immediate-abort)
		# Until Rust 1.91 it was a feature of std.
		if RUSTC_BOOTSTRAP=1 "$rustc" "${settings[@]}" --print cfg >/dev/null 2>&1; then
			flags+=("${settings[@]}")
		else
			features=(-Zbuild-std-features='optimize_for_size,panic_immediate_abort')
		fi
	fi
	if [ "$build_std" ]; then
		features+=(-Zbuild-std="std,panic_$panic")
		# Then it is known where the crates of std are: with a mirror of crates.io elsewhere.
		RUSTC_BOOTSTRAP=1 RUSTC="$rustc" "${rustc%/*}/cargo" fetch --quiet --locked --target "$target" \
			-Zbuild-std
	else
		features=()
	fi
	# No path of this machine is in a program.
	flags+=(--remap-path-prefix="$PWD=.")
	flags+=(--remap-path-prefix="$("$rustc" --print sysroot)/lib/rustlib/src/rust=/rust")
	for name in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
		flags+=(--remap-path-prefix="$name=/crates")
	done
	printf -v joined '%s\x1f' "${flags[@]}"
	name=${target^^}
	settings=(
		RUSTC="$rustc" CARGO_TARGET_DIR="$cross/build" CARGO_ENCODED_RUSTFLAGS="${joined%?}"
		CARGO_PROFILE_RELEASE_PANIC="$panic" "CARGO_TARGET_${name//-/_}_LINKER=$linker"
		"CARGO_TARGET_${name//-/_}_RUNNER=$runner"
	)
	if [ "$build_std" ]; then settings+=(RUSTC_BOOTSTRAP=1); fi
	env "${settings[@]}" timeout -s KILL "$limit" "${rustc%/*}/cargo" "$@" --quiet --release --locked \
		--target "$target" "${features[@]}"
}

# What the programs were just made with: other packages make other bytes.
packages() {
	local name files=("$rustc" "${rustc%/*}/cargo" "$(command -v "$linker")")
	files+=("$("$rustc" --print sysroot)/lib/rustlib/src/rust/library/std/src/lib.rs")
	files+=("$(command -v "$("$linker" -print-prog-name=ld)")")
	files+=("$("$linker" -print-file-name=libgcc.a)")
	# Of musl it is in the package of the linker, which says the path of the other one.
	if [ "$linker" = "$gnu-gcc" ]; then
		# No target has both.
		for name in libc.a libmingw32.a; do files+=("$("$linker" -print-file-name="$name")"); done
	fi
	echo "$target"
	for name in "${files[@]}"; do
		if [ -e "$name" ]; then realpath "$name"; fi
	done | xargs dpkg-query --search | sed 's/: .*//' | sort -u | xargs dpkg-query --show
}

build() {
	local size suffix='' programs=(qdrop qdropd)
	if [ "$qemu" = wine ]; then suffix=.exe programs=(qdrop); fi
	cargo_for "$2" build "${programs[@]/#/--bin=}"
	mkdir -p "$cross/$1/$2"
	programs=("${programs[@]/%/$suffix}")
	(cd "$cross/build/$target/release" && cp "${programs[@]}" "$cross/$1/$2")
	# A DLL of gcc's is called lib….
	if [ "$2" != dynamic ] && "$gnu-objdump" -p "$cross/$1/$2/"* | grep -qE ' INTERP |DLL Name: lib'; then
		echo "cross: $1 $2 is not static" >&2
		exit 1
	fi
	if [ "$2" = release ]; then packages >"$cross/$1/$2/BUILD"; fi
	size=$(cd "$cross/$1/$2" && stat -c '%s' "${programs[@]}" | paste -sd' ')
	echo "$1 $2: $cross/$1/$2, ${size/ / and } bytes, for $target by $("$rustc" -V)"
}

# Sets runner to what runs a foreign program here.
runner='env'
find_runner() {
	local interpreter
	runner=qemu-$qemu-static
	interpreter=$("$gnu-readelf" -l "$1" | sed -n 's/.*interpreter: \(.*\)]/\1/p')
	# A libc of a foreign architecture of dpkg would be mixed with the other one.
	if [ "$interpreter" ] && [ ! -e "$interpreter" ]; then runner+=" -L /usr/$gnu"; fi
}

# Starts a wine of our own. Its services would write to the standard error of the program that starts them.
start_wine() {
	runner=wine
	WINEPREFIX=$(mktemp -d)
	export WINEPREFIX WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml='
	trap 'wineserver -k || true; wineserver -w || true; rm -rf "$WINEPREFIX"' EXIT
	{ wineserver -p; wine wineboot --init; } >"$WINEPREFIX/log" 2>&1
}

# Runs the tests with the qdrop and the qdropd given.
run() {
	local what=$1 qdrop=$2 qdropd=$3 skipped bin name with
	shift 3
	echo "cross-test: $what: ${*}"
	bin=$cross/bin/$triple
	rm -rf "$bin"
	mkdir -p "$bin"
	for name in "$qdrop" "$qdropd"; do
		if [[ $name = "$cross"/* ]]; then with=$runner; else with='env'; fi
		printf '#!/bin/sh\nexec %s %q "$@"\n' "$with" "$name" >"$bin/$(basename "$name" .exe)"
		chmod +x "$bin/$(basename "$name" .exe)"
	done
	skipped=("${preloading[@]}")
	if [ "$qemu" = wine ]; then
		skipped+=("${of_unix[@]}")
	elif [ "$qemu" != - ]; then
		skipped+=("${emulated[@]}")
	fi
	for name in "${skipped[@]}"; do
		grep -q "^fn $name()" tests/*.rs || { echo "cross: no test is called $name" >&2; exit 1; }
	done
	QDROP_BIN=$bin timeout -s KILL "$limit" "${CARGO:-cargo}" test --quiet --locked \
		--manifest-path tests/Cargo.toml "${@/#/--test=}" -- "${skipped[@]/#/--skip=}"
}

check() {
	local here=$cross/$1
	if [ "$qemu" = - ]; then
		# Its dynamic programs are those of `make test`.
		runner='env'
		build "$1" static
		run "$1 static" "$here"/static/{qdrop,qdropd} "${native_tests[@]}"
		build "$1" tiny
		run "$1 tiny" "$here"/tiny/{qdrop,qdropd} "${tiny_tests[@]}"
		return
	fi
	if [ "$qemu" = wine ]; then
		build "$1" static
		if ! cargo_for static build --bin=qdropd 2>&1 | grep -q 'error: qdropd is for Unix'; then
			echo "cross: qdropd does not say that it is not for $1" >&2
			exit 1
		fi
		start_wine
		run "$1 qdrop to $(uname -m) qdropd" "$here/static/qdrop.exe" "$out/release/qdropd" "${windows_tests[@]}"
		return
	fi
	if [ "$1" = mipsel ]; then
		# Its qemu (7.2) hands the errors of connections on with the numbers of this machine, and sometimes
		# one of many programs at once dies of SIGSEGV; whose defect that is, is not known.
		local tests=(lists)
		echo 'LEFT OUT: mipsel: all end-to-end tests but lists: its qemu is not good enough' >&2
	fi
	build "$1" dynamic
	find_runner "$here/dynamic/qdropd"
	echo "cross-test: $1: unit tests"
	cargo_for dynamic test --lib
	run "$1 dynamic" "$here"/dynamic/{qdrop,qdropd} "${tests[@]}"
	run "$1 qdrop to $(uname -m) qdropd" "$here/dynamic/qdrop" "$out/release/qdropd" "${peer_tests[@]}"
	run "$(uname -m) qdrop to $1 qdropd" "$out/release/qdrop" "$here/dynamic/qdropd" "${peer_tests[@]}"
	build "$1" static
	find_runner "$here/static/qdropd"
	run "$1 static" "$here"/static/{qdrop,qdropd} "${peer_tests[@]}"
}

what=${1:-}
shift || true
given=$*
case $what in
test) ;;
types)
	# No linker is called.
	gnu=$(gcc -dumpmachine) qemu=- runner=false
	for triple in "${unlinked[@]}"; do
		cargo_for dynamic check
		echo "$triple: both programs type-check with $("$rustc" -V)"
	done
	exit ;;
build | release | tiny) : "${given:?TARGET=… is missing:$(cut -d' ' -f1 <<<"$table" | paste -sd' ')}" ;;
*) echo 'usage: contrib/cross.sh build|release|tiny TARGET… | test [TARGET…] | types' >&2; exit 2 ;;
esac
if [ "$what" = release ]; then
	# It takes a minute for each: what is missing is told before.
	for name in $given; do look_up "$name"; find_linker release; done
fi
for name in ${given:-$([ "$what" != test ] || cut -d' ' -f1 <<<"$table")}; do
	look_up "$name"
	case $what in
	build)
		if [ "$qemu" != wine ]; then build "$name" dynamic; fi
		build "$name" static ;;
	release | tiny) build "$name" "$what" ;;
	test)
		lacks=$(missing)
		if [ ! "$lacks" ]; then
			check "$name"
		elif [ "$given" ]; then
			echo "cross-test: $name: $lacks" >&2
			exit 1
		else
			echo "LEFT OUT: $name: $lacks" >&2
		fi ;;
	esac
done
