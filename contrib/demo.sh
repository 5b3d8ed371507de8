#!/bin/sh
# Called by `make demo`: contrib/demo.sh BINARIES FILE
# Moves a file from qdrop to qdropd on this machine and shows what a person would see.
set -eu
binaries=$1 file=$2
test -f "$file" || { echo "demo: there is no file '$file'" >&2; exit 1; }

server=
directory=$(mktemp -d)
trap 'kill $server 2>/dev/null; rm -rf "$directory"' EXIT
mkdir "$directory/drop"
mkfifo "$directory/ready"

"$binaries/qdropd" --listen 127.0.0.1:0 "$directory/drop" >"$directory/ready" 2>"$directory/log" &
server=$!
read -r _ _ address <"$directory/ready"

echo "\$ qdropd --listen $address drop &"
echo "listening on $address"
echo "\$ qdrop $address $file"
"$binaries/qdrop" "$address" "$file"
echo "\$ ls -l drop"
ls -l "$directory/drop"
echo "The log of qdropd:"
until test -s "$directory/log"; do :; done
cat "$directory/log"
cmp "$file" "$directory/drop/$(basename "$file")"
echo "The file in the drop directory is the same, byte for byte."
