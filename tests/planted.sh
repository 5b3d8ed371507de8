#!/bin/sh
# Plants each fault of tests/planted in a copy of this tree, and has tests/nth_call.rs find it. The first line of a patch
# says what it does and which of CASES there shows it: "what: case". Patches may be named; else it is all.
set -eu
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R Cargo.toml Cargo.lock src "$copy"
for plant in ${*:-tests/planted/*.patch}; do
	rm -rf "$copy/src"
	cp -R src "$copy"
	patch --quiet --directory "$copy" --strip 1 <"$plant"
	RUSTFLAGS="--allow warnings" ${CARGO:-cargo} build --quiet --locked --manifest-path "$copy/Cargo.toml" --target-dir "$copy/target"
	what=$(head -n 1 "$plant")
	if QDROP_NTH=${what##*: } QDROP_BIN=$copy/target/debug \
		${CARGO:-cargo} test --quiet --locked --manifest-path tests/Cargo.toml --test nth_call >"$copy/said" 2>&1; then
		echo "NOT FOUND: $plant: $what" >&2
		exit 1
	fi
	grep -q '^[0-9]* are wrong' "$copy/said" || { cat "$copy/said" >&2; exit 1; }
	echo "found: ${what%: *}: $(grep '^[0-9]* are wrong' "$copy/said")"
done
