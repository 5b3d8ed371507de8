#!/usr/bin/env python3
"""Whether any power cut could break a promise of qdropd: `make durability`.

Runs qdropd and qdrop under strace, for each policy, with and without hard links, with lists, jobs, resumed
files, kills and failing disks, and judges by the calls alone (judge.py) what a power cut at any moment may leave,
whatever part of what was not synchronised has reached the disk (disk.py). Some of these states are made and
given to another qdropd, to which qdrop sends its files once more, and which is judged alike. QDROP_BIN is the
directory of qdrop and qdropd.

--short leaves out most of the kills, and what is synchronised while it comes. --planted builds the programs with each
fault of faults.toml, or those with a word, in a directory for temporary files, and fails if one of them is not found. --seed N repeats the choice of
states and steps."""

import argparse
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import wire
from runs import OLD, ROOT, Bench, Trial, eventually

# In how many states of each trial another qdropd is started.
CUTS, CUTS_IN_SHORT = 3, 1
POLICIES = [[], ["--on-conflict", "replace"], ["--on-conflict", "refuse"]]
FILE_SYSTEMS = ["", "exfat", "vfat"]
FAULTS = tomllib.loads((Path(__file__).parent / "faults.toml").read_text())["fault"]
# Which calls change a name depends on the machine, and on tests/faults.c.
LINK, MKDIR, RENAME, UNLINK = "?link,linkat", "?mkdir,mkdirat", "?rename,?renameat,renameat2", "?unlink,unlinkat"
LARGE, COME = 700_000, 300_000  # bytes: more than waits for others (limits::SMALL_BODY), and a part of it
GROUP = [("a", 5), ("b.txt", 6), ("a", 7), ("sub/c", 8), ("new/deep/d", 9), ("new/deep/e", 10), ("new/f", 11)]


def noise(seed, size):
    return random.Random(seed).randbytes(size)


def label(*words):
    return " ".join(filter(None, words))


def contents(group):
    return [(name, noise(f"{name} {size}", size)) for name, size in group]


def tree(count, size=100):
    """Files in some directories, each with other bytes."""
    return {f"{n % 5}/{n % 3}/file{n}": noise(n, size + n) for n in range(count)}


def mixed(bench, _is_short):
    """All policies, with and without links: a group, files that are there already, a large one, then a tree."""
    for policy in POLICIES:
        for faults in FILE_SYSTEMS:
            for subdirs in [["--subdirs"], []]:
                before = {"a": b"old", "sub/c": b"older", "c": b"there"}
                trial = Trial(bench, [*policy, *subdirs], faults, before, sources=tree(12))
                with trial.receiver() as receiver:
                    receipts = trial.deliver(receiver, contents(GROUP))
                    assert len(receipts) == len(GROUP), receipts
                    trial.deliver(receiver, [("large", noise("large", LARGE)), ("a", b"last")])
                    trial.send_all(receiver, "--preserve")
                    trial.send_all(receiver, "--skip-existing", "--remove-source")
                yield label(*policy, *subdirs, faults), trial


def directories(bench, _is_short):
    """Directories of somebody else, which may not be on the disk, and deep ones."""
    deep = "/".join(["x"] * 20)
    trial = Trial(bench, ["--subdirs"], others=["tree/0/0", "tree/1", "theirs/a/b"], sources=tree(10))
    with trial.receiver() as receiver:
        trial.deliver(receiver, contents([("theirs/a/b/1", 5), (f"{deep}/2", 6)]))
        trial.send_all(receiver)
    yield "of somebody else", trial


def jobs(bench, _is_short):
    """Several connections at once, into the same new directories; groups that are full."""
    for options in [*POLICIES, ["--keep-partial", "0"]]:
        trial = Trial(bench, ["--subdirs", *options], sources=tree(150))
        with trial.receiver() as receiver:
            trial.send_all(receiver, "--jobs", "4", "--remove-source")
        yield label(*options), trial
    trial = Trial(bench, ["--subdirs"])
    with trial.receiver() as receiver:
        trial.deliver(receiver, contents([(f"{n % 3}/{n}", 20 + n) for n in range(150)]))
    yield "a group", trial


def together(bench, _is_short):
    """Two qdropd that store into one directory at once, and come to each name and each new directory together."""
    slow = f"{LINK},{MKDIR},{RENAME}:delay_enter=10000"
    for policy in POLICIES:
        trial = Trial(bench, ["--subdirs", *policy], before={"a": b"old"}, others=["tree/0"], sources=tree(30))
        with trial.receiver(inject=slow) as one, trial.receiver(inject=slow) as other, ThreadPoolExecutor(2) as pool:
            list(pool.map(trial.send, (one, other)))
            for receiver in (one, other, one):
                trial.deliver(receiver, contents(GROUP))
        yield label(*policy), trial


def interrupted(trial, receiver, body):
    """A connection that has brought the beginning of a large file, and brings no more."""
    stream = wire.begin(receiver.port, "tree/film", body, OLD * 1000, COME)
    parts = "tree/.qdrop-*.part"
    eventually("it has come", lambda: any(path.stat().st_size == COME for path in trial.top.glob(parts)))
    return stream


def resume(bench, _is_short):
    """A file of which a part is kept, or has a connection that is silent, by the same qdropd and by another one."""
    sources = {"film": noise("film", LARGE), "x/small": b"small"}
    for faults in FILE_SYSTEMS:
        for how in ("kept", "silent", "killed"):
            trial = Trial(bench, ["--subdirs"], faults, sources=sources)
            with trial.receiver() as receiver:
                stream = interrupted(trial, receiver, sources["film"])
                if how == "kept":
                    wire.converse(stream, b"")
                if how != "killed":
                    trial.send_all(receiver, "--resume", "--remove-source", "--retry", "9")
            if how == "killed":
                with trial.receiver() as receiver:
                    trial.send_all(receiver, "--resume", "--remove-source")
            stream.close()
            assert not (trial.source / "tree/film").exists(), "it was not sent"
            yield label(faults, how), trial


def failing(bench, _is_short):
    """Disks that fail: a file, a directory, all of a kind; one that is full, on which what is kept makes room."""
    faults = ["fsync-size:8", "fsync-directory:1", "fsync-directory:3", "late"]
    inject = [f"fsync:error={error}" for error in ("EIO:when=2", "EIO:when=2+2", "EIO:when=3+3", "ENOSPC:when=1")]
    for policy in POLICIES[:2]:
        for fault, injected in [*((it, None) for it in faults), *(("", it) for it in inject)]:
            trial = Trial(bench, ["--subdirs", *policy], fault, {"a": b"old"}, sources=tree(5))
            with trial.receiver(inject=injected) as receiver:
                wire.converse(interrupted(trial, receiver, noise("film", LARGE)), b"")
                for name in ("first/deep/0", "first/deep/1"):
                    trial.deliver(receiver, contents([(name, 4)]))
                trial.deliver(receiver, contents(GROUP))
                trial.send(receiver, "--remove-source")
                trial.deliver(receiver, contents([("new/deep/g", 12), ("sub/h", 13)]))
            assert receiver.has_failed(), (fault, injected)
            yield label(*policy, fault, injected), trial


def background(bench, is_short):
    """A file so large that it is synchronised while it comes (limits::WRITEBACK), which may fail then."""
    body = noise("film", 34 << 20)
    for injected in [None, "fdatasync:error=EIO:when=1"] if not is_short else []:
        trial = Trial(bench)
        trial.note("film", body)
        with trial.receiver(inject=injected) as receiver:
            begun = ["grep", "-q", "fdatasync(", receiver.trace]
            data = wire.header("film", body) + body
            with socket.create_connection(("127.0.0.1", receiver.port)) as stream:
                stream.sendall(data[:-1])
                eventually("it is synchronised while it comes", lambda: subprocess.run(begun).returncode == 0)
                wire.converse(stream, data[-1:])
        assert receiver.has_failed() == (injected is not None)
        yield label(injected), trial


def kills(bench, is_short):
    """qdropd is killed at a step, started again, and all is sent once more. Steps are what tests/faults.c counts, and
    the calls of one kind that a thread makes, which strace counts, also where there are no links."""
    every = 12 if is_short else 1
    by_strace = [f"{call}:signal=KILL:when={{}}" for call in (LINK, MKDIR, RENAME, "sendto")]
    ways = [("kill:{}", None), *((faults, way) for way in by_strace for faults in FILE_SYSTEMS)]
    for policy in POLICIES:
        for faults, inject in ways:
            for is_list in (False, True):
                step = bench.chance.randrange(1, every + 1)
                while trial := killed(bench, policy, faults.format(step), inject and inject.format(step), is_list):
                    what = "list" if is_list else "group"
                    yield label(*policy, faults.format(step), inject and inject.format(step), what), trial
                    step += every


def killed(bench, policy, faults, inject, is_list):
    """None if that step was not reached."""
    again = "" if inject is None else faults
    trial = Trial(bench, ["--subdirs", *policy], again, {"a": b"old"}, sources=tree(6))
    with trial.receiver("--once", faults=faults, inject=inject) as receiver:
        # It may be killed before it listens.
        if receiver.port and is_list:
            trial.send(receiver, "--resume", "--remove-source")
        elif receiver.port:
            trial.deliver(receiver, contents(GROUP))
        if not receiver.was_killed():
            return None
    bench.counts["kills"] += 1
    with trial.receiver() as receiver:
        if not is_list:
            trial.deliver(receiver, contents(GROUP))
        trial.send(receiver, "--resume", "--remove-source")
    return trial


def restarts(bench, is_short):
    """qdropd is killed before its receipts, and again while it starts, at each call that changes a name."""
    for faults in FILE_SYSTEMS:
        for call in (LINK, RENAME, UNLINK, "openat"):
            step = 1
            while True:
                trial = Trial(bench, ["--subdirs"], faults, sources=tree(4))
                with trial.receiver("--once", inject="sendto:signal=KILL:when=2") as receiver:
                    trial.send(receiver, "--resume", "--remove-source")
                with trial.receiver(inject=f"{call}:signal=KILL:when={step}") as receiver:
                    is_killed = receiver.port is None
                if not is_killed:
                    break
                bench.counts["kills"] += 1
                with trial.receiver() as receiver:
                    trial.send(receiver, "--resume", "--remove-source")
                yield label(faults, call, str(step)), trial
                step += 20 if is_short else 1


GROUPS = [mixed, directories, jobs, together, resume, failing, background, kills, restarts]


def trials(bench, is_short, only=""):
    for group in GROUPS:
        if only.startswith(group.__name__) or not only:
            for name, trial in group(bench, is_short):
                name = f"{group.__name__}: {name}"
                if name.startswith(only):
                    yield name, trial


def run(bench, is_short):
    """Returns the number of faults."""
    found = 0
    for name, trial in trials(bench, is_short):
        for fault in trial.judge():
            print(f"durability: {name}: {fault}", flush=True)
            found += 1
    for what in ("kills", "receipts", "states made and recovered from", "sources removed"):
        if not bench.counts[what]:
            print(f"durability: no {what}, so that nothing is proved", flush=True)
            found += 1
    return found


def build(fault, here):
    """The directory of both programs with a fault."""
    for name in ("src", "Cargo.toml", "Cargo.lock"):
        subprocess.run(["cp", "-R", ROOT / name, here], check=True)
    for path, text in changed(fault, here / "src").items():
        path.write_text(text)
    cargo = [*os.environ.get("CARGO", "cargo").split(), "build", "--quiet", "--locked", "--bins"]
    target = os.environ | {"CARGO_TARGET_DIR": here / "target"}
    built = subprocess.run(cargo, cwd=here, env=target, capture_output=True)
    if built.returncode != 0:
        sys.exit(f"{fault['name']}: it does not build:\n{built.stderr.decode()}")
    return here / "target/debug"


def changed(fault, source):
    """Returns the files below source/ that have this fault, with their texts."""
    texts = {}
    for name, old, new in fault["edits"]:
        path = source / name
        text = texts.get(path) or path.read_text()
        if text.count(old) != 1:
            sys.exit(f"{fault['name']}: src/{name} has {text.count(old)} times what is to be changed:\n{old}")
        texts[path] = text.replace(old, new)
    return texts


def is_found(fault, binaries, seed):
    bench = Bench(binaries, seed, 0)
    try:
        for name, trial in trials(bench, False, fault["trials"]):
            for found in trial.judge():
                if re.search(fault["found"], found):
                    print(f"found: {fault['name']}\n    {name}: {found}", flush=True)
                    return True
    finally:
        bench.close()
    print(f"NOT FOUND: {fault['name']}", flush=True)
    return False


def planted(seed, only):
    """Returns the number of faults that were not found."""
    faults = [fault for fault in FAULTS if only in fault["name"]]
    if not faults:
        sys.exit(f"no fault of faults.toml is called '{only}'")
    with tempfile.TemporaryDirectory(prefix="qdrop-planted-") as here:
        missed = sum(not is_found(fault, build(fault, Path(here)), seed) for fault in faults)
    print(f"durability: {len(faults) - missed} of {len(faults)} planted faults were found (--seed {seed})")
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--planted", nargs="?", const="", metavar="NAME")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # So that it tidies up as well.
    if options.planted is not None:
        sys.exit(planted(options.seed, options.planted) > 0)
    for fault in FAULTS:
        changed(fault, ROOT / "src")  # They follow the source.
    began = time.monotonic()
    bench = Bench(os.environ["QDROP_BIN"], options.seed, CUTS_IN_SHORT if options.short else CUTS)
    try:
        found = run(bench, options.short)
    finally:
        bench.close()
    seen = ", ".join(f"{number:,} {what}" for what, number in bench.counts.items())
    print(f"durability: {found} faults in {seen}; {time.monotonic() - began:.0f} s (--seed {options.seed})")
    sys.exit(found > 0)


main()
