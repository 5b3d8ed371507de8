#!/usr/bin/env bash
# The archives of a release, in target/archives, and whether those of somebody else are the same (CONTRIBUTING.md):
# contrib/release.sh make SOURCE [TARGET…], contrib/release.sh verify SOURCE ARCHIVE…
# SOURCE is what `make dist` archives. All is made of it alone, in a directory that is new each time.
targets='x86_64 aarch64 armv7 riscv64 mipsel windows'

set -eu
export LC_ALL=C TZ=UTC
cd "$(dirname "$0")/.."
out=$(realpath -m "${CARGO_TARGET_DIR:-target}")
unset CARGO_TARGET_DIR MAKEFLAGS
work=

# Unpacks the source. Sets tree.
unpack() {
	work=$(mktemp -d "$out/release-XXXXXX")
	trap 'rm -rf "$work"' EXIT
	tar -xzf "$source" -C "$work"
	tree=$work/$name
	SOURCE_DATE_EPOCH=$(date +%s -d "$(sed -n 's/^ -- .*>  //p' "$tree/contrib/debian/changelog" | head -n 1)")
	export SOURCE_DATE_EPOCH
}

# Puts what was built for a target into an archive with what belongs to it. Sets archive.
pack() {
	local stage=$name-$1 built=$tree/target/cross/$1/release
	mkdir "$work/$stage"
	(
		cd "$tree"
		sha256sum <"$source" | sed "s/-$/$name.tar.gz/"
		cat "$built/BUILD"
	) >"$work/$stage/BUILD"
	cp "$tree"/LICENSE-* "$tree/docs/INSTALL.md" "$work/$stage"
	if [ "$1" = windows ]; then
		cp "$built/qdrop.exe" "$work/$stage"
		archive=$work/$stage.zip
		chmod -R u=rwX,go=rX "$work/$stage"
		find "$work/$stage" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
		(cd "$work" && find "$stage" -type f | sort | zip -q -X -9 "$archive" -@)
	else
		cp "$built"/qdrop{,d} "$tree"/man/* "$work/$stage"
		make --silent -C "$tree" install-systemd PREFIX=/usr/local DESTDIR="../$stage" UNITDIR=/systemd >/dev/null
		mkdir "$work/$stage/"{alpine,openwrt,container}
		cp "$tree"/contrib/alpine/qdropd.* "$work/$stage/alpine"
		cp "$tree"/contrib/openwrt/qdrop/files/* "$work/$stage/openwrt"
		cp "$tree"/contrib/container/{Containerfile,compose.yaml} "$work/$stage/container"
		chmod 755 "$work/$stage/openwrt/qdropd.init"
		archive=$work/$stage.tar.gz
		tar --sort=name --format=gnu --owner=root:0 --group=root:0 --mode=go+u,go-w \
			--mtime="@$SOURCE_DATE_EPOCH" -c -C "$work" "$stage" | gzip -n9 >"$archive"
	fi
}

# Builds the programs of targets, with Debian's oldest Rust that will do: another one makes other bytes.
build() {
	local rust
	rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
	[[ $(/usr/bin/rustc --version) = "rustc $rust."* ]] || {
		echo "release: /usr/bin/rustc has to be Debian's rustc $rust (docs/CROSS.md has the packages)" >&2
		exit 1
	}
	(cd "$tree" && RUSTC=/usr/bin/rustc contrib/cross.sh release "$@")
}

# Says in what an archive differs from ours.
differences() {
	local side file=$1
	for file in "$1" "$archive"; do
		side=$work/$([ "$file" = "$archive" ] && echo here || echo there)
		rm -rf "$side"
		mkdir "$side"
		case $file in
		*.zip) unzip -q "$file" -d "$side" ;;
		*) tar -xzf "$file" -C "$side" ;;
		esac
	done
	cd "$work"
	diff --brief --recursive there here || true
	# The source that it is made of, and the packages that made it.
	if [ "$archive" != "$source" ]; then diff --unified=0 there/*/BUILD here/*/BUILD | grep '^[-+][^-+]' || true; fi
	diff --brief --recursive there here >/dev/null && echo 'the files are the same, their order, dates or modes are not'
}

verify() {
	local file=$1 base=${1##*/} target
	target=${base#"$name-"}
	target=${target%%.*}
	[ -r "$file" ] || {
		echo "verify: cannot read $file" >&2
		exit 2
	}
	if [ "$base" = "$name.tar.gz" ]; then
		archive=$source
	elif [ "$base" != "$target" ] && [[ " $targets " = *" $target "* ]]; then
		build "$target"
		pack "$target"
	else
		echo "verify: FILE=… is one of the archives of ${name/-/ }, and $file is not" >&2
		exit 2
	fi
	if cmp --quiet "$file" "$archive"; then
		echo "verify: $file is what this source makes: $(sha256sum <"$file" | cut -d' ' -f1)"
	else
		echo "verify: $file is not what this source makes here:" >&2
		differences "$file" >&2
		exit 1
	fi
}

what=${1:-}
source=$(realpath "${2:-}")
shift 2
name=$(basename "$source" .tar.gz)
mkdir -p "$out"
unpack
case $what in
make)
	# shellcheck disable=SC2086 # words
	if [ $# = 0 ]; then set -- $targets; fi
	build "$@"
	rm -rf "$out/archives"
	mkdir "$out/archives"
	cp "$source" "$out/archives"
	for target; do
		pack "$target"
		cp "$archive" "$out/archives"
	done
	cd "$out/archives"
	sha256sum "$name"* | tee SHA256SUMS
	;;
verify) for file; do verify "$file"; done ;;
*) echo 'usage: contrib/release.sh make SOURCE [TARGET…], contrib/release.sh verify SOURCE ARCHIVE…' >&2; exit 2 ;;
esac
