#!/bin/sh
# How large each layer is, and what of the outside world the source touches, and where: `make audit`. Unit tests are
# left out.
set -eu
cd "$(dirname "$0")/.."

# The files whose code matches a pattern.
where() {
	for file in $(find src -name '*.rs' | LC_ALL=C sort); do
		awk '/^#\[cfg\(test\)\]/ { exit } { sub("//.*", ""); print }' "$file" |
			grep -qE "$1" && printf ' %s' "${file#src/}"
	done
	true
}

# The lines of code of files and folders: neither blank nor a comment.
code() {
	find "$@" -name '*.rs' -exec \
		awk '/^#\[cfg\(test\)\]/ { exit } !/^[[:space:]]*(\/\/|$)/' {} \; | wc -l
}

echo 'lines of code by layer, without comments and unit tests'
printf 'ground %s\n' "$(code src/limits.rs src/digest.rs src/text.rs)"
for layer in wire disk transfer net cli; do
	printf '%s %s\n' "$layer" "$(code "src/$layer")"
done

echo
echo 'modules of std that reach outside, and the files that name them'
for module in env fs net os process thread; do
	printf '%s:%s\n' "$module" "$(where "std::$module\b")"
done
printf 'io::std…:%s\n' "$(where 'io::std(in|out|err)\b')"

echo
echo 'calls that change or open something, and the files that make them'
for call in File::open OpenOptions::new create_new fs::create_dir fs::read_dir fs::rename \
	fs::hard_link fs::remove_file set_modified set_current_dir TcpListener::bind \
	TcpStream::connect UnixDatagram::unbound try_clone_to_owned Command::new 'thread::Builder' \
	'thread::spawn' set_len unsafe; do
	printf '%s:%s\n' "$call" "$(where "\b$call")"
done
