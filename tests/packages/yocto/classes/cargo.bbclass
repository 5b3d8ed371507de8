CARGO_BUILD_FLAGS = "--frozen --release --manifest-path=${S}/Cargo.toml"

do_compile() {
	cd ${B}
	cargo build ${CARGO_BUILD_FLAGS} --target-dir=${B}/target
}

cargo_do_install() {
	for built in ${B}/target/release/*; do
		case $built in
		*.so|*.rlib)
			install -D -m 0755 -t ${D}${libdir}/rustlib $built;;
		*)
			if [ -f $built ] && [ -x $built ]; then install -D -m 0755 -t ${D}${bindir} $built; fi;;
		esac
	done
}

EXPORT_FUNCTIONS do_install
