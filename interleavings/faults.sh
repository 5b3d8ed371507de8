#!/bin/sh
# Plants each fault of edits/faults, or those whose line has the words of the first argument, and demands that its
# model finds it.
set -eu
cd "$(dirname "$0")"
grep -q "^== .*${1-}" edits/faults || { echo "no fault has the words '$1'" >&2; exit 1; }
failures=0
while read -r line; do
	title=${line#== }
	QDROP_FAULT=$title ${CARGO:-cargo} build --quiet --locked
	program=${CARGO_TARGET_DIR:-target}/debug/qdrop-interleavings
	if told=$("$program" --schedules "${SCHEDULES:-20000}" "${title%%:*}" 2>&1); then
		echo "NOT FOUND: $title"
		failures=1
	else
		echo "found: $title"
		printf '%s\n' "$told" | grep -A 1 -e '^panicked' -e FAILED | sed 's/^/    /'
	fi
done <<LINES
$(grep "^== .*${1-}" edits/faults)
LINES
exit $failures
