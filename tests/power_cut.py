#!/usr/bin/env python3
"""Whether what a receipt promised is there after a power cut, on the file systems of a real kernel: `make power-cut`.

A guest under QEMU has Debian's kernel, and files go from qdrop to qdropd in it, onto a disk whose writes and flushes
QEMU logs (blklogwrites). Each receipt is written to another partition of that disk, so the log tells when it came.
A cut is a disk as it may be left at a moment of the log: all that was written before the last flush is there, and of
what was written since, in pieces of 4 KiB, all, a part or nothing. A second guest mounts all cuts, and says which
files they have. For each it must hold:

- a file whose receipt came before the cut is there, and whole; after another receipt for its name, the newer one;
- every other final name is a whole file that was being sent. Where no hard links are (vfat, exfat) it may be empty,
  as docs/DESIGN.md says of that fallback, and is counted.

vfat and exfat have no journal, and are mounted as they are. What is left there for fsck is counted, too: on vfat
directories that cannot be read, of which nothing was promised, and parts and whole files under their short names, on
exfat parts that have lost the end of their name.

A write that overlaps a flush counts as flushed: the log does not tell when it began. The seed decides what is sent,
where the cuts are and what they lose; the guest's own timing decides the log. Where something is lost, log and disks
are kept.

Then faults are planted in a copy of the source, each of which must be found on its file systems.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

KIB, MIB, SECTOR = 1 << 10, 1 << 20, 512
PATIENCE = 900  # seconds, for a guest
HERE = Path(__file__).resolve().parent
WORK = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target")).resolve() / "power-cut"
ENV = os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}
TRIPLE = "x86_64-unknown-linux-gnu"
NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "depmod": "kmod",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "mkfs.f2fs": "f2fs-tools",
    "mkfs.vfat": "dosfstools",
    "mkfs.exfat": "exfatprogs",
}
# How large each is, in MiB, and how it is made.
FILE_SYSTEMS = {
    "ext4": (64, "mkfs.ext4 -q"),
    "xfs": (300, "mkfs.xfs -q"),
    "btrfs": (256, "mkfs.btrfs -q"),
    "f2fs": (128, "mkfs.f2fs -q"),
    "vfat": (64, "mkfs.vfat"),
    "exfat": (64, "mkfs.exfat"),
}
WITHOUT_LINKS = ["vfat", "exfat"]
DISKS = ["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "crc32c_generic", "crc32_generic"]
NAMES = ["nls_cp437", "nls_ascii", "nls_iso8859-1", "nls_utf8"]
# A part whose long name is lost, or of which the beginning alone is left, and a directory that cannot be read.
FOR_FSCK = {
    "vfat": re.compile(r"/QD(ROP-|[0-9A-F]{4})~\d+\.PAR|^find: "),
    "exfat": re.compile(r"^find: \S+/\.qdrop-[^/]*: "),
}
# What is planted, so that it has to be found: options of qdropd, a change of the source, on which file systems, and
# with cuts while what is stored where. The last shows at few moments (about one cut of fifteen), so it has more cuts.
PLACEMENT = "src/disk/placement.rs"
FAULTS = {
    "none": ("", None, list(FILE_SYSTEMS), ""),
    "no-sync": ("--no-sync", None, list(FILE_SYSTEMS), ""),
    "renamed": ("", (PLACEMENT, "inbox.sync_renamed(&mut placed);", ""), ["vfat"], ""),
    "replaced": ("", (PLACEMENT, "if self.holds_replaced &&", "if false &&"), ["vfat"], "replace/"),
}
EMPTY = hashlib.md5(b"").hexdigest()
MARKS = 32 * MIB  # the second partition

FLUSH, FUA, DISCARD = 1, 2, 4  # flags of the log
LOG_MAGIC, LOG_VERSION = 0x6A736677736872, 1


def run(*command, **options):
    """What a command prints."""
    done = subprocess.run(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        sys.exit(f"{done.stdout}power-cut: failed: {' '.join(map(str, command))}")
    return done.stdout


def unpack():
    """A root with Debian's kernel, its modules and a static busybox, none of which is installed. Returns the version."""
    root = WORK / "root"
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        packages = WORK / "packages"
        packages.mkdir(parents=True, exist_ok=True)
        kernel = re.search(r"Depends: (linux-image-\S+)", run("apt-cache", "depends", "linux-image-amd64"))[1]
        run("apt-get", "download", kernel, "busybox-static", cwd=packages)
        for package in packages.iterdir():
            run("dpkg-deb", "-x", package, root)
        shutil.rmtree(packages)
        (root / "complete").touch()
    [image] = root.glob("boot/vmlinuz-*")
    version = image.name.removeprefix("vmlinuz-")
    run("depmod", "-b", root, version)
    return version


def build(source, target):
    """Static programs of a source; returns their directory."""
    flags = ENV | {"RUSTFLAGS": "-C target-feature=+crt-static -Awarnings"}
    command = [*os.environ.get("CARGO", "cargo").split(), "build", "--quiet", "--release", "--locked", "--target", TRIPLE, "--target-dir", target]
    if subprocess.run(command, cwd=source, env=flags).returncode:
        sys.exit("power-cut: static programs cannot be built")
    return target / TRIPLE / "release"


class Guest:
    """A kernel with an archive of files to boot from."""

    def __init__(self, here, version, programs, kind, files):
        self.version, self.here, self.kind = version, here, kind
        tree = here / "initramfs"
        shutil.rmtree(tree, ignore_errors=True)
        for directory in ["bin", "modules"]:
            (tree / directory).mkdir(parents=True)
        shutil.copy(HERE / "power_cut_guest.sh", tree / "init")
        for program in [WORK / "root/bin/busybox", programs / "qdrop", programs / "qdropd"]:
            shutil.copy(program, tree / "bin")
        for number, module in enumerate(self.modules()):
            shutil.copy(module, tree / "modules" / f"{number:03}-{Path(module).name}")
        for name, content in files.items():
            path = tree / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        archive = f"find . | {WORK}/root/bin/busybox cpio -o -H newc >{here}/initramfs.cpio 2>/dev/null"
        run("sh", "-c", archive, cwd=tree)

    def modules(self):
        """The files of modules, those that others need before them."""
        found = {}
        for module in [*DISKS, *NAMES, self.kind]:
            shown = run("modprobe", "-d", WORK / "root", "-S", self.version, "--show-depends", module)
            found |= dict.fromkeys(re.findall(r"^insmod (\S+)", shown, re.MULTILINE))
        return list(found)

    def run(self, task, disks, **parameters):
        """Boots, runs a task of the guest, and leaves what it says in a file."""
        words = {"task": task, "fs": self.kind} | parameters
        line = " ".join(f'{name}="{value}"' for name, value in words.items())
        command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "1024", "-nodefaults", "-no-reboot",
            "-display", "none", "-serial", f"file:{self.here / task}.log",
            "-kernel", str(WORK / f"root/boot/vmlinuz-{self.version}"), "-initrd", f"{self.here}/initramfs.cpio",
            "-append", f"console=ttyS0 quiet no_timer_check panic=-1 {line}", *disks]  # fmt: skip
        subprocess.run(command, check=True, timeout=PATIENCE)


def storage(name, path, **options):
    """A file of this machine for a guest's disk. What a guest flushes is not flushed here."""
    options = {"driver": "file", "node-name": name, "filename": str(path), "cache": {"no-flush": True}} | options
    return ["-blockdev", json.dumps(options)]


def make_files(seed):
    """What is sent, by name."""
    chance = random.Random(seed)
    sizes = [0, 1, 511, 512, 4095, 4096, 4097, 60_000, 300_000, 700_000, 2_000_000]
    files = {f"sizes/{size}": size for size in sizes}
    files |= {f"again/{size}": size for size in sizes[2:8]}
    files |= {f"small/small-{number}": chance.randrange(8 * KIB) for number in range(120)}
    files |= {f"each/each-{number}": chance.randrange(20 * KIB) for number in range(8)}
    for number in range(48):
        files[f"tree/{number % 5}/{number % 3}/{number % 2}/leaf-{number}"] = chance.randrange(30 * KIB)
    for version in range(1, 7):
        for number in range(20):
            files[f"version-{version}/{number % 2}/file-{number}"] = chance.randrange(60 * KIB)
    files["large/large"] = 3 * MIB
    return {name: chance.randbytes(size) for name, size in files.items()}


@dataclass
class Log:
    """A log of writes (struct log_write_super and log_write_entry of Linux' dm-log-writes.c)."""

    data: bytes
    writes: list = field(default_factory=list)  # (offset on the disk, offset in the log, length, flags)

    def __post_init__(self):
        magic, version, count, sector = struct.unpack_from("<QQQL", self.data)
        if (magic, version, sector) != (LOG_MAGIC, LOG_VERSION, SECTOR):
            sys.exit("power-cut: no log of writes")
        at = SECTOR
        for _ in range(count):
            start, sectors, flags, _ = struct.unpack_from("<QQQQ", self.data, at)
            if flags & DISCARD:
                sys.exit("power-cut: the log has a discard, which was switched off")
            length = sectors * SECTOR
            self.writes.append((start * SECTOR, at + SECTOR, length, flags))
            at += SECTOR + length

    def receipts(self, begin):
        """What was written beyond `begin`: (write, from, into, what qdrop said), in this order."""
        streams, receipts = {}, []
        for number, (start, at, length, _) in enumerate(self.writes):
            if start < begin or not length:
                continue
            stream = (start - begin) // MIB
            where, rest = streams.get(stream, ({}, b""))
            *lines, rest = (rest + self.data[at : at + length].replace(b"\0", b"")).split(b"\n")
            for said in map(json.loads, lines):
                if "into" in said:
                    where = said
                elif said["outcome"] != "summary":
                    receipts.append((number, where["from"], where["into"], said))
            streams[stream] = where, rest
        return receipts


@dataclass
class Load:
    """A disk before, what was written to it, and what became of the files."""

    base: Path  # the file system
    log: Log
    size: int  # of the file system
    history: dict  # of each final name: (write that has the receipt, digest), in their order


def load(guest, files, options):
    """Has files stored on a file system, and logs what is written."""
    size, make = FILE_SYSTEMS[guest.kind]
    size *= MIB
    base, disk, log = (guest.here / name for name in ("base", "disk", "log"))
    for path, length in (base, size), (disk, MIB + size + MARKS), (log, 0):
        path.unlink(missing_ok=True)
        path.touch()
        os.truncate(path, length)
    run(*make.split(), base)
    run("dd", f"if={base}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc,sparse")
    with open(disk, "r+b") as file:
        # A table of two partitions.
        file.seek(446)
        for start, length in (MIB, size), (MIB + size, MARKS):
            file.write(struct.pack("<4xB3xLL", 0x83, start // SECTOR, length // SECTOR))
        file.seek(510)
        file.write(b"\x55\xaa")
    logged = {"driver": "blklogwrites", "node-name": "logged", "file": "disk", "log": "log"}
    device = {"driver": "virtio-blk-pci", "drive": "logged", "write-cache": "on"}
    device |= {"discard": False, "write-zeroes": False}
    disks = [*storage("disk", disk), *storage("log", log), "-blockdev", json.dumps(logged)]
    guest.run("load", [*disks, "-device", json.dumps(device)], qdropd=options)
    disk.unlink()
    log = Log(log.read_bytes())
    receipts, history = log.receipts(MIB + size), defaultdict(list)
    for number, source, into, said in receipts:
        if said["outcome"] != "stored":
            sys.exit(f"power-cut: {guest.kind}: not stored: {said}")
        content = files[f"{source}/{said['file']}".replace("/./", "/")]
        history[f"{into}/{said['stored_as']}"].append((number, hashlib.md5(content).hexdigest()))
    if len(receipts) != len(files) or not any(said["resumed_at"] for *_, said in receipts):
        sys.exit(f"power-cut: {guest.kind}: {len(receipts)} receipts for {len(files)} files, or nothing was resumed")
    return Load(base, log, size, history)


def choose(load, chance, count, where):
    """Moments for cuts, right before a flush, anywhere, and right after a receipt: the number of the next write. A fault
    of some moments does not show when all receipts are there."""
    histories = [marks for name, marks in load.history.items() if name.startswith(where)]
    marks = sorted({number for marks in histories for number, _ in marks})
    anywhere = range(marks[0], marks[-1] + 2)
    flushes = [number for number in anywhere if load.log.writes[number][3] & FLUSH]
    after = [mark + 1 for mark in marks]
    kinds = [flushes or anywhere, anywhere] if where else [flushes or anywhere, anywhere, after]
    return sorted(chance.choice(kinds[cut % len(kinds)]) for cut in range(count))


def make_cuts(load, here, chance, moments):
    """The disks that cuts leave: files cut-0, cut-1 and so on."""
    log, done = load.log, 0
    flushed = here / "flushed"
    shutil.copy(load.base, flushed)
    with open(flushed, "r+b") as image:
        for cut, moment in enumerate(moments):
            last = max((n for n in range(done, moment) if log.writes[n][3] & FLUSH), default=done)
            apply(log, image, load.size, range(done, last))
            image.flush()
            done = last
            path = here / f"cut-{cut}"
            run("cp", "--sparse=always", flushed, path)
            share = chance.choice([0, 0.5, 0.9, 1])
            with open(path, "r+b") as left:
                apply(log, left, load.size, range(done, moment), lambda share=share: chance.random() < share)
    flushed.unlink()


def apply(log, image, size, numbers, survives=lambda: True):
    """Writes of the log to the file system in `image`, each 4 KiB of them if it survives. What was written with FUA does."""
    for number in numbers:
        start, at, length, flags = log.writes[number]
        start -= MIB
        for offset in range(0, length if 0 <= start < size else 0, 4 * KIB):
            if flags & FUA or survives():
                image.seek(start + offset)
                image.write(log.data[at + offset : at + min(offset + 4 * KIB, length)])


def look(guest, count):
    """What the guest finds on the disks of cuts: for each {name: digest}, and what else it says."""
    results = guest.here / "results"
    results.touch()
    os.truncate(results, 64 * MIB)
    disks = [*storage("results", results), "-device", "virtio-blk-pci,drive=results", "-device", "virtio-scsi-pci"]
    for cut in range(count):
        disks += storage(f"cut-{cut}", guest.here / f"cut-{cut}")
        disks += ["-device", f"scsi-hd,drive=cut-{cut},lun={cut}"]
    guest.run("check", disks)
    *parts, end = results.read_bytes().rstrip(b"\0").decode(errors="replace").split("cut ")
    found, parts = {}, [*parts, end.removesuffix("end\n")]
    for part in parts[1:]:
        number, *lines = part.splitlines()
        matches = [(re.fullmatch(r"([0-9a-f]{32})  (.*)", line), line) for line in lines]
        names = {match[2]: match[1] for match, _ in matches if match}
        found[int(number)] = names, [line for match, line in matches if not match]
    if not end.endswith("end\n") or sorted(found) != list(range(count)):
        sys.exit(f"power-cut: {guest.kind}: the guest did not look at all cuts: {guest.here}/check.log")
    results.unlink()
    return found


@dataclass
class Verdict:
    """Of the cuts of a file system."""

    kind: str
    promised: int = 0  # files whose receipt came before the cut
    lost: list = field(default_factory=list)
    damaged: list = field(default_factory=list)  # what was not promised, and is not whole
    empty: int = 0
    for_fsck: int = 0

    def judge(self, history, cut, moment, names, words):
        for name, marks in history.items():
            came = sum(number < moment for number, _ in marks)
            self.promised += came > 0
            allowed = {digest for _, digest in marks[max(came - 1, 0) :]}
            there = names.pop(name, None)
            if there in allowed or (not came and not there):
                continue
            if not came and there == EMPTY and self.kind in WITHOUT_LINKS:
                self.empty += 1
                continue
            known = [digest for _, digest in marks]
            what = "is missing" if there is None else "is empty" if there == EMPTY else \
                "is an older one" if there in known else "is damaged"  # fmt: skip
            (self.lost if came else self.damaged).append(f"cut {cut}: {name} {what}")
        whole = {digest for marks in history.values() for _, digest in marks}
        # Under short names.
        shortened = {name for name, digest in names.items() if self.kind == "vfat" and digest in whole}
        strange = (f"nobody sent {name}" for name in names.keys() - shortened)
        self.for_fsck += len(shortened)
        for line in [*words, *strange]:
            if self.kind in FOR_FSCK and FOR_FSCK[self.kind].search(line):
                self.for_fsck += 1
            else:
                self.damaged.append(f"cut {cut}: {line}")


def prove(here, kind, options, programs, version, seed, cuts, where):
    """Everything for a file system; returns the verdict."""
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir(parents=True)
    chance, files = random.Random(f"{seed} {kind}"), make_files(seed)
    guest = Guest(here, version, programs, kind, files)
    loaded = load(guest, files, options)
    moments = choose(loaded, chance, cuts, where)
    make_cuts(loaded, here, chance, moments)
    verdict = Verdict(kind)
    for cut, (names, words) in sorted(look(guest, cuts).items()):
        verdict.judge(loaded.history, cut, moments[cut], names, words)
    return verdict


def plant(name, path, old, new):
    """The programs of a copy of the source with a fault."""
    copy = WORK / "planted"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for part in ["Cargo.toml", "Cargo.lock", "src"]:
        run("cp", "-R", HERE.parent / part, copy)
    text = (copy / path).read_text()
    if text.count(old) != 1:
        sys.exit(f"power-cut: {name}: not found once in {path}: {old}")
    (copy / path).write_text(text.replace(old, new))
    # With a target of its own: cargo would take these programs for those of the source itself.
    return build(copy, copy / "target")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"file systems: {' '.join(FILE_SYSTEMS)} [all]")
    parser.add_argument("--cuts", type=int, default=100, help="for each, a third of them with most faults [100]")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="[a random one]")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="plant this one alone [none, then each]")
    arguments = parser.parse_args()
    missing = [package for tool, package in NEEDED.items() if not shutil.which(tool, path=ENV["PATH"])]
    if missing:
        sys.exit(f"power-cut needs what is not here (Debian: apt-get install {' '.join(missing)})")
    version, failed = unpack(), False
    print(f"seed {arguments.seed}, Linux {version}")
    print("| file system | fault | cuts | promised files | lost | other names not whole | empty | for fsck | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for fault in arguments.fault or FAULTS:
        options, patch, kinds, where = FAULTS[fault]
        cuts = arguments.cuts if fault == "none" or where else (arguments.cuts + 2) // 3
        programs = plant(fault, *patch) if patch else build(HERE.parent, WORK / "build")
        for kind in [kind for kind in kinds if kind in (arguments.kinds or kinds)]:
            begin, here = time.monotonic(), WORK / f"{kind}-{fault}"
            verdict = prove(here, kind, options, programs, version, arguments.seed, cuts, where)
            found = [*verdict.lost, *verdict.damaged]
            print(f"| {kind} | {fault} | {cuts} | {verdict.promised} | {len(verdict.lost)} | {len(verdict.damaged)} | "
                  f"{verdict.empty} | {verdict.for_fsck} | {time.monotonic() - begin:.0f} |", flush=True)  # fmt: skip
            if bool(found) == (fault == "none"):
                failed = True
                print("\n".join(found[:50] or ["the fault was not found"]), file=sys.stderr)
            else:
                shutil.rmtree(here)
    sys.exit(failed)


if __name__ == "__main__":
    main()
