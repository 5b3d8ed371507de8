#!/usr/bin/env bash
# contrib/container/test.sh ARCHIVE
# Builds the image of a release's archive with Debian's buildah, runs it as compose.yaml says, sends a file to it, and
# asks for its health before and after. As root, for namespaces: nothing of it remains.
set -eu
[ -f "$1" ] || { echo "container-test: there is no $1: make release TARGET=x86_64 makes it" >&2; exit 1; }
if [ $$ != 1 ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	export work
	unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc "$0" "$1"
	exit
fi
ip link set lo up
tar -xzf "$1" -C "$work"
cd "$work"/qdrop-*/
compose=container/compose.yaml

buildah() {
	command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"
}

# Runs a command in the container.
run() {
	buildah run --isolation chroot --user "$(sed -n 's/.*user: "\(.*\)"/\1/p' "$compose")" \
		--volume "$PWD/drop:/drop" "$container" -- "$@"
}

# What compose.yaml has between ["CMD", and ].
healthy() {
	local words
	read -ra words <<<"$(sed -n 's/.*test: \["CMD", \(.*\)\]/\1/p' "$compose" | tr -d '",')"
	run "${words[@]}"
}

mkdir drop
chown 1000:1000 drop
image=$(buildah bud --quiet --isolation chroot -f container/Containerfile .)
container=$(buildah from "$image")
there=$(buildah mount "$container")
[ "$(cd "$there" && find . -type f | sort | paste -sd' ')" = './qdrop ./qdropd' ]
size=$(du --apparent-size --bytes --summarize "$there" | cut -f1)

if healthy 2>/dev/null; then
	echo 'container-test: it is healthy before it runs' >&2
	exit 1
fi
# What an image starts: its entry point and its command.
config=$(buildah inspect --type image --format '{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}' "$image")
read -ra words <<<"$(tr -d '[]' <<<"$config")"
run "${words[@]}" >told 2>log &
until grep -q 'listening on 0.0.0.0:9999' told; do
	kill -0 $!
	sleep 0.1
done
healthy
./qdrop --require-receipt 127.0.0.1 LICENSE-MIT
cmp LICENSE-MIT drop/LICENSE-MIT
[ "$(stat -c %u drop/LICENSE-MIT)" = 1000 ]
grep 'stored LICENSE-MIT as LICENSE-MIT' log
echo "container-test: an image of $size bytes, which took a file and is healthy"
