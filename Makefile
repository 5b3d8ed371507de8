# `make` builds, `make demo` shows a transfer, `make test` tests; everything else is below.

CARGO ?= cargo
RUSTC ?= rustc
QMAKE ?= $(shell command -v qmake) $(shell command -v qmake6)
PREFIX ?= /usr/local
DESTDIR ?=
UNITDIR ?= /etc/systemd/system
FILE ?= README.md
FUZZ_SECONDS ?= 60
ROUNDS ?= 5
WORKLOADS ?=
MUTANTS ?=
MSRV_RUSTC ?=
MSRV_CARGO ?=
TARGET ?=
DURABILITY ?=

target := $(or $(CARGO_TARGET_DIR),target)
# Absolute, since the tests run in directories of their own.
binaries := $(abspath $(target))/release
version := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
msrv := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
tests := $(CARGO) test --quiet --locked --manifest-path tests/Cargo.toml
sources := $(shell find src -name '*.rs')

.PHONY: all rustc demo picture manual qt-picture drawings test check lint audit msrv cross cross-test \
	cross-types tiny interop packages-check mdns-test ssh-test release-test container-test apt-check torture \
	nth-call-test nth-call-plants torture-peers power-cut fuzz interleavings mutants durability durability-planted \
	bench bench-instructions state-search dist distcheck release verify deb deb-test install install-systemd \
	uninstall clean

all:
	$(CARGO) build --release --locked

# The same two programs with rustc alone: no cargo, no network, nothing to download.
rustc: $(target)/rustc/qdrop $(target)/rustc/qdropd

# The profile of Cargo.toml in the words of rustc, which knows no `strip=true`.
rustc_flags := --edition 2024 $(shell sed -n -e '/^\[profile\.release\]/,/^$$/!d' \
	-e 's/^strip = true/strip = "symbols"/' -e 's/^\(.*\) = "*\([^"]*\)"*$$/-C \1=\2/p' Cargo.toml) \
	--remap-path-prefix=$(CURDIR)=. $(RUSTFLAGS)

$(target)/rustc/libqdrop.rlib: $(sources) Cargo.toml
	@mkdir -p $(@D)
	CARGO_PKG_VERSION=$(version) $(RUSTC) $(rustc_flags) --crate-type rlib --crate-name qdrop \
		src/lib.rs --out-dir $(@D)

$(target)/rustc/qdrop: src/bin/client.rs $(target)/rustc/libqdrop.rlib
	$(RUSTC) $(rustc_flags) --crate-name client --extern qdrop=$(@D)/libqdrop.rlib -o $@ $<

$(target)/rustc/qdropd: src/bin/server.rs $(target)/rustc/libqdrop.rlib
	$(RUSTC) $(rustc_flags) --crate-name server --extern qdrop=$(@D)/libqdrop.rlib -o $@ $<

# Moves FILE from qdrop to qdropd on this machine, shows the receipt and compares.
demo: all
	@contrib/demo.sh $(binaries) "$(FILE)"

# A terminal in which the two are run, as docs/terminal.svg. Takes port 9999 of 127.0.0.1.
# Debian: apt-get install python3-pyte
picture: all
	@QDROP_BIN=$(binaries) docs/terminal.py

# The plots of docs/PERFORMANCE.md, from its tables, and the drawings of the other pages.
# Debian: apt-get install python3
drawings:
	@docs/drawings.py

# The window of contrib/qt/example in its frame, as docs/qt-example.png. Takes port 9999 of 127.0.0.1.
# Debian: apt-get install python3 g++ qtbase5-dev xvfb openbox xdotool imagemagick fonts-dejavu-core
qt-picture: all
	@for tool in $(or $(firstword $(QMAKE)),qmake) Xvfb openbox xdotool import; do \
		command -v $$tool >/dev/null || { echo "qt-picture needs $$tool" >&2; exit 1; }; \
	done
	@mkdir -p $(target)/window
	@cd $(target)/window && $(firstword $(QMAKE)) $(CURDIR)/contrib/qt/example && $(MAKE) --silent
	@QDROP_BIN=$(binaries) QDROP_QT=$(target)/window docs/qt-example.py

# The manual pages as Markdown, docs/qdrop.1.md and the others.
# Debian: apt-get install mandoc python3
manual:
	@docs/manual.py

# What of the outside world the source touches, and in which files (docs/AUDIT.md).
audit:
	@contrib/audit.sh

# Debian: apt-get install gcc python3 ca-certificates
test: all
	$(CARGO) test --quiet --locked --lib
	QDROP_BIN=$(binaries) $(tests)

check: lint test

# Format, clippy and the library's documentation. Clippy sees every file of tests/, also those that
# `make test` does not run.
lint:
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path tests/Cargo.toml
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) fmt --check --manifest-path interleavings/Cargo.toml -- interleavings/models/*.rs
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --lib --test '*' --manifest-path tests/Cargo.toml -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --lib

# Builds with the oldest Rust that Cargo.toml promises, and no other, with cargo and with rustc alone,
# runs the unit tests and compiles every file of tests/. It is looked for in /usr/bin and among the
# toolchains of rustup; MSRV_RUSTC and MSRV_CARGO name one elsewhere.
# Debian 12: apt-get install rustc-web=1.85\* libstd-rust-web-dev=1.85\* cargo-web=1.85\*
# Debian 13: apt-get install cargo
msrv:
	@set -e; rustc='$(MSRV_RUSTC)'; \
	is_it() { case $$("$$1" --version 2>/dev/null) in 'rustc $(msrv).'*) ;; *) false ;; esac; }; \
	if [ -z "$$rustc" ]; then \
		installed=$$(rustup toolchain list 2>/dev/null | sed -n 's/^\($(msrv)[-.][^ ]*\).*/\1/p'); \
		for rustc in $(RUSTC) /usr/bin/rustc \
			$$(for each in $$installed; do rustup which --toolchain "$$each" rustc; done); do \
			if is_it "$$rustc"; then break; fi; \
		done; \
	fi; \
	is_it "$$rustc" || { \
		echo 'msrv needs rustc $(msrv); MSRV_RUSTC=… says where it is' >&2; exit 1; }; \
	rustc=$$(command -v "$$rustc"); cargo='$(MSRV_CARGO)'; cargo=$${cargo:-$${rustc%/*}/cargo}; \
	echo "msrv: $$rustc, $$($$rustc --version); $$($$cargo --version)"; \
	export RUSTC="$$rustc" CARGO_TARGET_DIR=$(abspath $(target))/msrv; \
	"$$cargo" build --release --frozen; \
	"$$cargo" test --quiet --frozen --lib; \
	"$$cargo" test --quiet --locked --no-run --test '*' --manifest-path tests/Cargo.toml; \
	$(MAKE) --silent rustc RUSTC="$$rustc" CARGO_TARGET_DIR="$$CARGO_TARGET_DIR"; \
	for program in qdrop qdropd; do "$$CARGO_TARGET_DIR/rustc/$$program" --version; done

# For another machine, dynamic and static: x86_64, aarch64, armv7, riscv64, s390x, mipsel; and qdrop.exe for
# windows (docs/CROSS.md).
# Debian 12: apt-get install rustc-web=1.85\* libstd-rust-web-dev=1.85\* cargo-web=1.85\* \
#	rust-web-src=1.85\* gcc-aarch64-linux-gnu
# Debian 13: apt-get install cargo rust-src gcc-aarch64-linux-gnu
cross:
	@RUSTC='$(RUSTC)' contrib/cross.sh build $(TARGET)

# Runs the tests on them under qemu, or wine, and with a peer of this machine: for TARGET, or all there are
# tools for.
# Debian, besides: apt-get install qemu-user-static gcc-mingw-w64-x86-64 wine
cross-test: all
	@CARGO='$(CARGO)' RUSTC='$(RUSTC)' contrib/cross.sh test $(TARGET)

# Compiles both programs for macOS and FreeBSD, which nothing here can link.
cross-types:
	@RUSTC='$(RUSTC)' contrib/cross.sh types

# The smallest: static, without a text for a panic, which ends the whole program.
# Debian, besides: apt-get install musl-tools
tiny:
	@RUSTC='$(RUSTC)' contrib/cross.sh tiny $(or $(TARGET),x86_64)

# Builds the programs of interop/qt with the shell's $qmake, in the directory $peers.
qt_peers = peers=$(abspath $(target))/interop/$$(basename $$qmake); mkdir -p $$peers; \
	(cd $$peers && $$qmake $(CURDIR)/interop/qt/interop.pro && $(MAKE) --silent)

# The window of contrib/qt, beside them, and below them as CMake builds it.
qt_window = mkdir -p $$peers/example; \
	(cd $$peers/example && $$qmake $(CURDIR)/contrib/qt/example DESTDIR=$$peers/bin && \
	$(MAKE) --silent); \
	version=$$($$qmake -query QT_VERSION); \
	cmake -S contrib/qt/example -B $$peers/cmake -DCMAKE_RUNTIME_OUTPUT_DIRECTORY=$$peers/bin/cmake \
		-DQT_DIR=$$($$qmake -query QT_INSTALL_LIBS)/cmake/Qt$${version%%.*} >/dev/null; \
	cmake --build $$peers/cmake >/dev/null

# Real Qt programs at either end, built with every Qt there is.
# Debian: apt-get install qtbase5-dev qt6-base-dev xxhash python3-pyqt5 cmake
interop: all
	@test -n "$(QMAKE)" || { \
		echo 'interop needs Qt, 5.15 or 6 (Debian: apt-get install qtbase5-dev)' >&2; exit 1; }
	@command -v xxhsum >/dev/null || { \
		echo 'interop needs xxhsum (Debian: apt-get install xxhash)' >&2; exit 1; }
	@command -v cmake >/dev/null || { \
		echo 'interop needs cmake (Debian: apt-get install cmake)' >&2; exit 1; }
	@/usr/bin/python3 -c 'import PyQt5.QtNetwork' || { \
		echo 'interop needs PyQt5 (Debian: apt-get install python3-pyqt5)' >&2; exit 1; }
	@set -e; for qmake in $(QMAKE); do \
		echo "interop: $$($$qmake -query QT_VERSION)"; \
		$(qt_peers); \
		$(qt_window); \
		QDROP_BIN=$(binaries) QDROP_QT=$$peers/bin $(tests) --test interop; \
	done

# The packages of contrib/ (contrib/README.md), built and their services run, without the
# distributions that they are for. As root, for namespaces. What it needs of Python is downloaded.
# Debian: apt-get install busybox shellcheck openrc rsync iproute2 procps python3-venv
packages-check: all
	@for tool in busybox shellcheck openrc-run rsync ip pgrep; do \
		command -v $$tool >/dev/null || { echo "packages-check needs $$tool" >&2; exit 1; }; \
	done
	@test "$$(id -u)" = 0 || { echo 'packages-check has to be run as root' >&2; exit 1; }
	python3 -m venv $(target)/python
	$(target)/python/bin/pip --quiet --disable-pip-version-check \
		install --requirement tests/packages/requirements.txt
	QDROP_BIN=$(binaries) QDROP_PYTHON=$(abspath $(target))/python/bin $(tests) --test packages

# Two machines of their own, each with an Avahi: contrib/avahi announces a qdropd, and `qdrop box.local` reaches it.
# As root, for namespaces.
# Debian: apt-get install avahi-daemon avahi-utils dbus iproute2 libnss-mdns
mdns-test: all
	@tests/mdns.sh $(binaries)

# `qdrop --via ssh` through a real sshd, and hostile clients at a key whose one command is `qdropd --stdio`.
# As root, since sshd serves nobody but its own user otherwise. Nothing outside a temporary directory is changed.
# Debian: apt-get install openssh-server openssh-client openssh-sftp-server python3 rsync
ssh-test: all
	@for tool in ssh scp sftp ssh-keygen rsync python3; do \
		command -v $$tool >/dev/null || { echo "ssh-test needs $$tool" >&2; exit 1; }; \
	done
	@test "$$(id -u)" = 0 || { echo 'ssh-test has to be run as root' >&2; exit 1; }
	@mkdir -p /run/sshd
	QDROP_BIN=$(binaries) $(tests) --test ssh

# The full length of what `make test` does in short: kills, failing calls, full disks, bad networks,
# hostile peers, by the thousand. Takes about a quarter of an hour and wants a machine to itself.
# Debian: apt-get install strace faketime iproute2 python3-fusepy
torture: all
	QDROP_TORTURE=1 QDROP_BIN=$(binaries) $(tests) --test torture --test network --test exactly_once \
		--test survival -- --nocapture --test-threads 1

# Every call that can fail does so once, with each error that is likely: tests/faults.c fails the nth of its kind, and
# n counts up until none is left. The short form takes half a minute; with QDROP_TORTURE=1 in the environment, every
# way to transfer and every error, a quarter of an hour. QDROP_NTH=group tries one way alone.
# Debian: apt-get install gcc patch
nth-call-test: all
	@for plant in tests/planted/*.patch; do patch --dry-run --quiet --strip 1 <$$plant || exit 1; done
	QDROP_BIN=$(binaries) $(tests) --test nth_call -- --nocapture

# Whether it finds the faults of tests/planted, one after the other in a copy, up to the first that is not. Takes some
# minutes.
# Debian: apt-get install gcc patch
nth-call-plants:
	@CARGO='$(CARGO)' tests/planted.sh

# Every state of a model of the list transfer: lines that break, a receiver and a sender that are killed, sources that change.
# Shows that nothing is lost, doubled, mixed or stuck, and that the search finds each fault that is put into the model.
# Takes about a minute.
# Debian: apt-get install python3
state-search:
	@command -v python3 >/dev/null || { \
		echo 'state-search needs python3 (Debian: apt-get install python3)' >&2; exit 1; }
	@tests/states.py
	@tests/states.py --plants

# What a power cut leaves of what was promised, on ext4, xfs, btrfs, f2fs, vfat and exfat: a real kernel under QEMU,
# a log of what it writes to its disk, and a hundred disks as that may be cut off, for each file system. Then some
# faults that are planted and have to be found. Takes a quarter of an hour (tests/power_cut.py --help: parts of it, a
# seed) and fetches Debian's kernel.
# Debian: apt-get install qemu-system-x86 kmod e2fsprogs xfsprogs btrfs-progs f2fs-tools dosfstools exfatprogs
power-cut:
	@CARGO='$(CARGO)' CARGO_TARGET_DIR=$(abspath $(target)) tests/power_cut.py

# What vsftpd, tftpd, sftp-server, rsync, nc, a Qt program and qdropd leave of a file whose sender is
# killed in the middle. Those that are not installed are left out. As root, for tftpd.
# Debian: apt-get install python3 curl vsftpd tftpd-hpa openssh-client openssh-sftp-server rsync \
#	netcat-openbsd qtbase5-dev
torture-peers: all
	@set -e; for qmake in $(firstword $(QMAKE)); do \
		$(qt_peers); \
		export QDROP_QT=$$peers/bin; \
	done; \
	QDROP_BIN=$(binaries) tests/peers.py

# Whether a power cut could break a promise: judges the calls of real runs, under strace, at each moment and for each
# order in which what was not synchronised may reach the disk (tests/durability/disk.py). Takes ten minutes;
# DURABILITY=--short, a minute, leaves out most of the kills, and what is synchronised while it comes.
# Debian: apt-get install strace gcc python3
durability: all
	@QDROP_BIN=$(binaries) python3 -B tests/durability/check.py $(DURABILITY)

# Whether that finds each fault of tests/durability/faults.toml, built with it in a directory for temporary files. Takes
# ten minutes; DURABILITY='…' is a part of the names of those that are wanted.
durability-planted:
	@CARGO='$(CARGO)' python3 -B tests/durability/check.py --planted $(if $(DURABILITY),'$(DURABILITY)')

# Every fuzz target for so many seconds (fuzz/README.md). Needs cargo-fuzz and a C++ compiler.
# What is found to be new stays out of fuzz/corpus. The bound is on one allocation, in MiB.
fuzz:
	@set -e; for target in $$($(CARGO) fuzz list); do \
		echo "fuzz: $$target"; \
		mkdir -p fuzz/target/corpus/$$target; \
		RUST_BACKTRACE=0 RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target \
			fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=65536 -malloc_limit_mb=1; \
	done

# Changes src/ in each way that cargo-mutants lists, and says which changes no test notices (tests/mutants.py).
# Goes on where it was stopped. MUTANTS='--layer disk --sample 100 --minutes 60' tries some, MUTANTS=--report says what
# is known. As root, or a mutant could write anywhere. What it needs of Python is downloaded.
# Debian: apt-get install gcc patch rsync util-linux python3-venv; and cargo install --locked cargo-mutants
mutants:
	@for tool in cargo-mutants patch rsync; do \
		command -v $$tool >/dev/null || { \
			echo "mutants needs $$tool (Debian: apt-get install patch rsync; cargo install --locked cargo-mutants)" >&2; \
			exit 1; }; \
	done
	python3 -m venv $(target)/mutants/python
	$(target)/mutants/python/bin/pip --quiet --disable-pip-version-check \
		install 'tree-sitter~=0.26.1' 'tree-sitter-rust~=0.24.2'
	CARGO_TARGET_DIR=$(abspath $(target)) nice $(target)/mutants/python/bin/python tests/mutants.py $(MUTANTS)

# Every part that has threads under 200,000 orders of their turns each, then the faults of edits/faults, of which each
# has to be found (interleavings/README.md). Takes a quarter of an hour on two cores. Needs a newer Rust than the
# crate, 1.87, and what cargo downloads for it.
interleavings:
	cd interleavings && $(CARGO) run --release --quiet --locked
	CARGO='$(CARGO)' interleavings/faults.sh

$(target)/bench/floor: src/digest.rs
$(target)/bench/floor $(target)/bench/relay: $(target)/bench/%: bench/%.rs
	@mkdir -p $(@D)
	$(RUSTC) --edition 2024 -O -o $@ $<

$(target)/bench/hole.so $(target)/bench/flush.so: $(target)/bench/%.so: bench/%.c
	@mkdir -p $(@D)
	$(CC) -O2 -fPIC -shared -o $@ $<

# How fast the two are beside other programs: writes the tables of docs/PERFORMANCE.md and its
# plots, and the tables of docs/SCALE.md.
# WORKLOADS='memory disk' makes some of them alone, ROUNDS=1 a first impression. The whole takes about
# an hour, 10 GB of memory and 2 GB of disk, and wants a machine to itself. Peers that are not
# installed are left out. As root, for the network of slow.
# Debian: apt-get install gcc python3 time iproute2 util-linux netcat-openbsd ncat socat \
#	rsync openssh-server openssh-client curl vsftpd qtbase5-dev haproxy
bench: all $(addprefix $(target)/bench/,floor relay hole.so flush.so)
	@set -e; for qmake in $(firstword $(QMAKE)); do \
		$(qt_peers); \
		export QDROP_QT=$$peers/bin; \
	done; \
	CARGO_TARGET_DIR=$(abspath $(target)) QDROP_BIN=$(binaries) \
		bench/bench.py --rounds $(ROUNDS) $(WORKLOADS)

# Counts instructions, which no other program disturbs, and fails if they are 5 % more than
# docs/PERFORMANCE.md says; bench/instructions.py --write makes it say the present ones.
# Debian: apt-get install python3 valgrind
bench-instructions: all
	@QDROP_BIN=$(binaries) bench/instructions.py

# What stands at the top level, and nothing else (tests/layering.rs).
top := .ci .gitignore CHANGELOG.md CONTRIBUTING.md Cargo.lock Cargo.toml LICENSE-APACHE LICENSE-MIT Makefile README.md \
	README.zh-CN.md bench clippy.toml contrib docs fuzz interleavings interop man rustfmt.toml src tests

# A source archive: of the last commit in a checkout, of the files themselves in an unpacked archive. It
# has the same bytes wherever it is made, with the date of the version and the modes of git.
# Debian: apt-get install git
archive := $(target)/qdrop-$(version).tar.gz
staged := $(target)/dist/qdrop-$(version)
dist:
	@rm -rf $(archive) $(target)/dist
	@mkdir -p $(staged)
	@if [ ! -e .git ]; then \
		tar --exclude=target --exclude=__pycache__ --exclude=fuzz/artifacts --exclude=fuzz/coverage \
			-cf $(target)/dist/source.tar $(top); \
	elif command -v git >/dev/null; then \
		git archive --output=$(target)/dist/source.tar HEAD; \
	else \
		echo 'dist needs git in a checkout (Debian: apt-get install git)' >&2; exit 1; \
	fi
	@tar -xf $(target)/dist/source.tar -C $(staged)
	@tar --sort=name --format=gnu --owner=root:0 --group=root:0 --mode=go+u,go-w \
		--mtime="$$(sed -n 's/^ -- .*>  //p' $(staged)/contrib/debian/changelog | head -n 1)" \
		-cf $(target)/dist/sorted.tar -C $(target)/dist qdrop-$(version)
	@gzip -n9 <$(target)/dist/sorted.tar >$(target)/dist/sorted.tar.gz
	@mv $(target)/dist/sorted.tar.gz $(archive)
	@sha256sum $(archive)

# The archives of a release, of what `make dist` archives, in target/archives: static programs for TARGET, or all
# of them, and SHA256SUMS. The same bytes wherever the same packages of Debian make them (CONTRIBUTING.md).
# Debian 12: apt-get install git rustc-web=1.85\* libstd-rust-web-dev=1.85\* cargo-web=1.85\* \
#	rust-web-src=1.85\* musl-tools gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf gcc-riscv64-linux-gnu \
#	gcc-mipsel-linux-gnu gcc-mingw-w64-x86-64 zip unzip
# Debian 13: apt-get install git cargo rust-src musl-tools gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf \
#	gcc-riscv64-linux-gnu gcc-mipsel-linux-gnu gcc-mingw-w64-x86-64 zip unzip
release: dist
	@contrib/release.sh make $(archive) $(TARGET)

# Makes the archive FILE again, somewhere else, and says whether it is the same and what differs.
verify: dist
	@contrib/release.sh verify $(archive) $(FILE)

# The recipes of docs/INSTALL.md with the archive of x86_64 that `make release` made. As root, for namespaces.
# Debian: apt-get install busybox openrc iproute2 systemd
release-test:
	@tests/packages/recipes.sh $(target)/archives/qdrop-$(version)-x86_64.tar.gz

# The image of contrib/container, of that archive: built, run, and sent a file. As root, for namespaces.
# Debian: apt-get install buildah iproute2
container-test:
	@command -v buildah >/dev/null || { \
		echo 'container-test needs buildah (Debian: apt-get install buildah)' >&2; exit 1; }
	@contrib/container/test.sh $(target)/archives/qdrop-$(version)-x86_64.tar.gz

# What the archive has to be able to do on its own.
distcheck: dist
	rm -rf $(target)/distcheck
	mkdir $(target)/distcheck
	tar -xzf $(archive) -C $(target)/distcheck
	cd $(target)/distcheck/qdrop-$(version) && env -u CARGO_TARGET_DIR $(MAKE) all rustc test dist
	cmp $(archive) $(target)/distcheck/qdrop-$(version)/target/qdrop-$(version).tar.gz

# Packages for Debian of what `make dist` archives, in target/deb: the same bytes whenever they are made. With the
# compiler of Debian, no other, and without a network.
# Debian 12: apt-get install build-essential debhelper git rustc-web cargo-web
# Debian 13: apt-get install build-essential debhelper git cargo
deb: dist
	rm -rf $(target)/deb
	mkdir $(target)/deb
	cp $(archive) $(target)/deb/qdrop_$(version).orig.tar.gz
	tar -xzf $(archive) -C $(target)/deb
	cp -R $(target)/deb/qdrop-$(version)/contrib/debian $(target)/deb/qdrop-$(version)
	cd $(target)/deb/qdrop-$(version) && env -u CARGO_TARGET_DIR dpkg-buildpackage -us -uc

# lintian's opinion of them; installs and removes them in a Debian of their own, and has its systemd run
# the units. As root.
# Debian: apt-get install lintian debootstrap systemd-container
deb-test: deb
	contrib/debian-test.sh $(target)/deb

# Whether all that is told here and in the documents to be installed can be, on Debian 12 and 13 of their own
# that have all updates. As root, on a Debian whose apt knows main, updates and security.
# Debian: apt-get install python3 debootstrap
apt-check:
	@tests/apt-lines.py

completions := share/bash-completion/completions share/zsh/site-functions \
	share/fish/vendor_completions.d

# Builds nothing: root may have no cargo, or another one.
install:
	@for program in qdrop qdropd; do \
		test -x $(binaries)/$$program || { \
			echo "install: there is no $(binaries)/$$program: run make first" >&2; exit 1; }; \
	done
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin share/man/man1 share/man/man7 \
		share/man/man8 $(completions))
	install $(binaries)/qdrop $(binaries)/qdropd $(DESTDIR)$(PREFIX)/bin
	install -m 644 man/qdrop.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 man/qdrop-protocol.7 $(DESTDIR)$(PREFIX)/share/man/man7
	install -m 644 man/qdropd.8 $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 644 contrib/completions/qdrop.bash \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/qdrop
	ln -sf qdrop $(DESTDIR)$(PREFIX)/share/bash-completion/completions/qdropd
	install -m 644 contrib/completions/_qdrop $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	install -m 644 contrib/completions/qdrop.fish contrib/completions/qdropd.fish \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d

# The units of contrib/systemd, for the programs below PREFIX.
units := qdropd.service qdropd.socket qdropd-socket.service
install-systemd:
	install -d $(DESTDIR)$(UNITDIR)
	@set -e; for unit in $(units); do \
		echo "contrib/systemd/$$unit -> $(DESTDIR)$(UNITDIR)/$$unit"; \
		sed 's,/usr/bin/qdropd,$(PREFIX)/bin/qdropd,' contrib/systemd/$$unit >$(DESTDIR)$(UNITDIR)/$$unit; \
		chmod 644 $(DESTDIR)$(UNITDIR)/$$unit; \
	done

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/qdrop bin/qdropd share/man/man1/qdrop.1 \
		share/man/man7/qdrop-protocol.7 share/man/man8/qdropd.8 \
		share/bash-completion/completions/qdrop share/bash-completion/completions/qdropd \
		share/zsh/site-functions/_qdrop share/fish/vendor_completions.d/qdrop.fish \
		share/fish/vendor_completions.d/qdropd.fish)
	rm -f $(addprefix $(DESTDIR)$(UNITDIR)/,$(units))

clean:
	rm -rf $(target) tests/target fuzz/target interleavings/target bench/__pycache__
