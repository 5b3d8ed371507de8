#!/usr/bin/env python3
"""How fast qdrop and qdropd are beside other programs on this machine: `make bench`.

Each workload is a function below; all of them run by default. The tools of a workload take turns
within each round, so that whatever else the machine does meets all of them; a table has medians.
One that is not installed is left out.

A time runs from the start of the sender to the moment when the sender has exited and every file is
whole under its name, or, of a receiver that serves one transfer, when that has exited too. Processor
time is that of both sides, children included, less what starting and stopping the receiver takes.

The tables of docs/PERFORMANCE.md and docs/SCALE.md are written again, and docs/drawings.py plots them;
the prose between the tables is kept. The raw samples are left in bench/ of the target directory. QDROP_BIN
is the directory of qdrop and qdropd, QDROP_QT that of qt-send and qt-receive.
"""

import argparse
import contextlib
import functools
import getpass
import itertools
import json
import os
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import document
import peers
from peers import CURL, ENV, FLOOR, FLOOR_DIGEST, NO_SYNC, OTHERS, QDROPD, RESULTS, RSYNC
from peers import RSYNC_FSYNC, RSYNC_TREE, obstacle, preloaded, version

KB, MB, GB = 1_000, 1_000_000, 1_000_000_000
PATIENCE = 900  # seconds, for one measurement


@dataclass
class Sample:
    seconds: float
    cpu: float = 0  # seconds, user and system, of both sides
    sender: int = 0  # peak resident bytes
    receiver: int = 0


class Process:
    """A program in a process group of its own, none of which outlives the `with`.

    It runs under time(1), which starts it with fork: a child of ours would inherit our own peak of
    resident memory through vfork and exec.
    """

    def __init__(self, line, here, cwd, inside=()):
        handle, self.peak = tempfile.mkstemp(dir=here)
        os.close(handle)
        command = [*inside, "time", "-qf", "%M", "-o", self.peak, "sh", "-c", line]
        with open(here / "log", "a") as log:
            self.popen = subprocess.Popen(
                command, cwd=cwd, env=ENV, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def pid(self):
        """The program's own number: time(1) has one child."""
        return eventually(lambda: children(self.popen.pid))[0]

    def wait(self):
        """Exit status, processor seconds and peak bytes; children that were waited for count."""
        _, status, usage = os.wait4(self.popen.pid, 0)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        peak = int(Path(self.peak).read_text()) * 1024
        return self.popen.returncode, usage.ru_utime + usage.ru_stime, peak

    def stop(self):
        """Ends a daemon that has nothing to do any more."""
        eventually(lambda: not children(self.pid()))
        os.kill(self.pid(), signal.SIGTERM)
        return self.wait()


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def eventually(condition):
    """Looks again and again; `patience` bounds it."""
    while not (value := condition()):
        time.sleep(0.0005)
    return value


@contextlib.contextmanager
def patience(tool):
    def over(*_):
        sys.exit(f"{tool.name}: nothing has come of it for {PATIENCE} s")

    signal.signal(signal.SIGALRM, over)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)


def free_port():
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        return tcp.getsockname()[1]


def sockets(pid, port):
    """What the kernel tells of each TCP socket of this port: state, and bytes that wait."""
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, waiting, *_ = line.split()
        if f":{port:04X}" in local + remote:
            yield state, waiting


@contextlib.contextmanager
def receiving(tool, places, inside=()):
    """A receiver that listens."""
    here, line = places["here"], tool.receive.format(**places)

    def listens():
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            fail(tool, here, "does not listen")
        return any(state == "0A" for state, _ in sockets(pid, places["port"]))

    with Process(line, here, places["drop"], inside) as receiver:
        pid = receiver.popen.pid
        eventually(listens)
        yield receiver


def fail(tool, here, what):
    sys.exit(f"{tool.name} {what}:\n{(here / 'log').read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def prepared(tool, where, names="", files="", kept=None):
    """A directory with drop/ and what a receiver needs; what the lines of a tool may name.

    It is removed, or left to whoever has the list `kept`.
    """
    path = tempfile.mkdtemp(dir=where, prefix="qdrop-bench-")
    try:
        here = Path(path).resolve()
        places = {"here": here, "drop": here / "drop", "port": free_port()}
        places |= {"user": getpass.getuser(), "names": names, "files": files}
        (here / "drop").mkdir()
        (here / "empty").mkdir()
        (here / "log").touch()
        (here / "config").write_text(tool.config.format(**places))
        yield places
    finally:
        if kept is None:
            shutil.rmtree(path)
        else:
            kept.append(path)


@functools.cache
def idle_cost(tool):
    """Processor seconds of a receiver that receives nothing."""
    if tool.one_shot or not tool.receive:
        return 0
    with prepared(tool, args.memory) as places, receiving(tool, places) as receiver:
        return receiver.stop()[1]


def measure(
    tool, source, where, at_once=False, inside=(), kept=None, before=None, round_trip=None
):  # fmt: skip
    """A transfer of all that is in `source`, by one sender or by one for each, all at once.

    The receiver has what is in `before`, and is so many milliseconds away.
    """
    expected, idle = sizes(source), idle_cost(tool)
    names = " ".join(sorted(os.listdir(source)))
    os.sync()
    with contextlib.ExitStack() as stack:
        stack.enter_context(patience(tool))
        files = "$file" if at_once else names
        places = stack.enter_context(prepared(tool, where, names, files, kept))
        here, drop = places["here"], places["drop"]
        if before:
            subprocess.run(["cp", "-a", f"{before}/.", drop], check=True)
        receiver = tool.receive and stack.enter_context(receiving(tool, places, inside))
        if round_trip is not None:
            places |= {"near": places["port"], "port": free_port(), "round_trip": round_trip}
            stack.enter_context(receiving(peers.RELAY, places, inside))
        send = tool.send.format(**places)
        script = here / "send"  # A word of a command line has 128 KiB at most.
        script.write_text(f"for file in {names}; do {send} & done; wait" if at_once else send)
        began = time.monotonic()
        sender = stack.enter_context(Process(f". {script}", here, source, inside))
        status, cpu, sender_peak = sender.wait()
        if status != 0:
            fail(tool, here, f"failed to send (status {status})")
        receiver_cpu = receiver_peak = 0
        if tool.one_shot:
            _, receiver_cpu, receiver_peak = receiver.wait()
        ended = time.monotonic()
        while sizes(drop) != expected:
            if not receiver or tool.one_shot:
                fail(tool, here, "lost something")
            time.sleep(0.0005)
            ended = time.monotonic()
        if receiver and not tool.one_shot:
            _, receiver_cpu, receiver_peak = receiver.stop()
    return Sample(ended - began, cpu + receiver_cpu - idle, sender_peak, receiver_peak)


def sizes(directory, below=""):
    """Of all files below it, but for hidden ones, which are not whole yet."""
    found = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir():
                found |= sizes(entry.path, f"{below}{entry.name}/")
            elif entry.name[0] != ".":
                found[below + entry.name] = entry.stat().st_size
    return found


@contextlib.contextmanager
def source(count, size, sparse=False, tree=False):
    """A directory in memory with so many files of noise, or with a tree of them, 100 a directory."""
    with tempfile.TemporaryDirectory(dir=args.memory, prefix="qdrop-bench-") as path:
        noise = os.urandom(min(size, 16 * MB))
        for number in range(count):
            place = Path(path, f"tree/{number // 100:03}" if tree else "")
            place.mkdir(parents=True, exist_ok=True)
            with open(place / f"{number:05}", "wb") as file:
                for start in range(0, 0 if sparse else size, len(noise)):
                    file.write(noise[: size - start])
                file.truncate(size)
        yield path


def in_turn(workload, tools, source, where, rounds=None, **how):
    """Samples of every tool that there is, by its name."""
    for why in filter(None, map(obstacle, tools)):
        print(f"{workload}: {why}", flush=True)
    tools = [tool for tool in tools if not obstacle(tool)]
    samples = {tool.name: [] for tool in tools}
    if len(tools) > 1:  # Memory that was never touched is slow, above all in a virtual machine.
        measure(tools[0], source, where, **how)
    rounds = rounds or args.rounds
    for number in range(rounds):
        first = number % len(tools)
        for tool in tools[first:] + tools[:first]:
            sample = measure(tool, source, where, **how)
            samples[tool.name].append(sample)
            done = f"{workload} {number + 1}/{rounds}: {tool.name}, {sample.seconds:.4f} s"
            print(done, flush=True)
    return samples


# What is kept of it.


def figure(value):
    """Three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def si(value):
    power = max(0, (len(f"{value:.0f}") - 1) // 3)
    return f"{figure(value / 1000**power)} {('', 'k', 'M', 'G')[power]}".strip()


def median(samples, field):
    return statistics.median(getattr(sample, field) for sample in samples)


def megabytes(size):
    return figure(size / MB) if size else ""


def transfers(samples, amount, unit, *references):
    """A table of tools. The last columns compare each round with the same round of a reference."""
    references = [tool.name for tool in references if tool.name in samples]
    head = ["", "seconds", unit, "CPU s", "sender MB", "receiver MB"]
    rows = []
    for name, own in samples.items():
        seconds = median(own, "seconds")
        row = [name, figure(seconds), figure(amount / seconds), figure(median(own, "cpu"))]
        row += [megabytes(median(own, "sender")), megabytes(median(own, "receiver"))]
        for reference in references:
            pairs = zip(own, samples[reference])
            row.append(figure(statistics.median(a.seconds / b.seconds for a, b in pairs)))
        rows.append(row)
    return [head + [f"time / {reference}" for reference in references], *rows]


def file_system(path):
    found = subprocess.run(["stat", "-fc", "%T", path], capture_output=True, text=True, check=True)
    return found.stdout.strip().replace("ext2/ext3", "ext4")


def way(where, rounds=None):
    """From where to where, and how often."""
    rounds = rounds or args.rounds
    rounds = f"median of {rounds} rounds" if rounds > 1 else "one round"
    return f"{file_system(args.memory)} to {file_system(where)}, {rounds}"


def write(workload, table, note, tools, samples=None, name=None):
    """Puts a table into the document, and the samples aside."""
    name = name or workload
    versions = filter(None, dict.fromkeys(version(tool) for tool in tools if not obstacle(tool)))
    left_out = ", ".join(tool.name for tool in tools if obstacle(tool))
    facts = [note, ", ".join(versions), left_out and f"left out: {left_out}"]
    document.put(name, table, [*facts, f"`make bench WORKLOADS={workload}`"])
    raw = samples and {key: [asdict(sample) for sample in own] for key, own in samples.items()}
    kept = {"table": table, "note": note, "samples": raw}
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=1))


# The workloads.


def memory():
    """1 GB from memory to memory."""
    tools = [FLOOR, FLOOR_DIGEST, QDROPD, NO_SYNC, *OTHERS]
    with source(1, GB) as files:
        samples = in_turn("memory", tools, files, args.memory)
    table = transfers(samples, GB / MB, "MB/s", FLOOR, FLOOR_DIGEST)
    write("memory", table, way(args.memory), tools, samples)


def to_disk(workload, count, size, tools, amount, unit, references):
    """From memory to a disk: those that wait for it in a table of their own."""
    # ext4 looks for a new inode past all that were deleted in the last seconds, which made ten
    # thousand files take six times as long after ten thousand others.
    kept = [] if count > 1 else None
    with source(count, size) as files:
        samples = in_turn(workload, tools, files, args.dir, kept=kept)
    for path in kept or ():
        shutil.rmtree(path)
    for durable, name in ((True, f"{workload}, durable"), (False, workload)):
        some = [tool for tool in tools if tool.durable == durable]
        own = {tool.name: samples[tool.name] for tool in some if tool.name in samples}
        table = transfers(own, amount, unit, *references[durable])
        write(workload, table, way(args.dir), some, own, name)


def disk():
    """1 GB from memory to a disk."""
    tools = [peers.DD_FSYNC, QDROPD, RSYNC_FSYNC, FLOOR, FLOOR_DIGEST, peers.DD, NO_SYNC, *OTHERS]
    references = [FLOOR, FLOOR_DIGEST], [peers.DD_FSYNC]
    to_disk("disk", 1, GB, tools, GB / MB, "MB/s", references)


def small():
    """10,000 files of 1 KB from memory to a disk, with one call of the sender."""
    to_disk("small", 10_000, KB, peers.FOR_MANY, 10_000, "files/s", ([FLOOR], [RSYNC_FSYNC]))


def medium():
    """1,000 files of 1 MB from memory to a disk, with one call of the sender."""
    to_disk("medium", 1_000, MB, peers.FOR_MANY, GB / MB, "MB/s", ([FLOOR], [RSYNC_FSYNC]))


def durable():
    """2,000 files of 1 KB onto a disk whose flush takes 10 ms and serves all who wait for it."""
    count, rounds = 2_000, min(3, args.rounds)
    tools = [preloaded(tool, "flush.so") for tool in (QDROPD, RSYNC_FSYNC)]
    with source(count, KB) as files:
        samples = in_turn("durable", tools, files, args.memory, rounds)
    table = transfers(samples, count, "files/s", tools[1])
    write("durable", table, way(args.memory, rounds), tools, samples)


def trees():
    """A tree that is brought up to date over round trips of 0.1 to 100 ms."""
    tools = [RSYNC_TREE, peers.QDROP_TREE]
    count, size = 5_000, 2 * KB
    table, samples = [], {}
    with source(count, size, tree=True) as old, source(0, 0) as new:
        shutil.copytree(old, new, dirs_exist_ok=True)
        for path in sorted(Path(new).glob("tree/*/*"))[::100]:
            path.write_bytes(os.urandom(size + 1))
        steps = ("first time", old, None), ("unchanged", old, old), ("1 % changed", new, old)
        for round_trip, (step, files, before) in itertools.product((0.1, 1, 20, 100), steps):
            row, how = f"{round_trip} ms, {step}", {"before": before, "round_trip": round_trip}
            own = in_turn(f"trees, {row}", tools, files, args.memory, **how)
            head, *rows = transfers(own, count, "files/s", RSYNC_TREE)
            table = table or [["", *(tool[0] for tool in rows), *head[6:]]]
            table.append([row, *(tool[1] for tool in rows), *rows[-1][6:]])
            samples |= {f"{name}, {row}": taken for name, taken in own.items()}
    write("trees", table, f"seconds, {way(args.memory)}", tools, samples)

    count, rounds = 100_000, min(3, args.rounds)
    with source(count, size, tree=True) as files:
        how = {"before": files, "round_trip": 0.1}
        samples = in_turn("trees, many", tools, files, args.memory, rounds, **how)
    table = transfers(samples, count, "files/s", RSYNC_TREE)
    write("trees", table, way(args.memory, rounds), tools, samples, "trees, many")


def ssh():
    """1 GB and 5,000 files of 2 KB through ssh, from memory to memory."""
    tools = [peers.SCP, peers.RSYNC_SSH, peers.QDROP_SSH]
    for name, count, size, amount, unit in (
        ("ssh", 1, GB, GB / MB, "MB/s"),
        ("ssh, small", 5_000, 2 * KB, 5_000, "files/s"),
    ):
        with source(count, size) as files:
            samples = in_turn(name, tools, files, args.memory)
        table = transfers(samples, amount, unit, *tools[:2])
        write("ssh", table, way(args.memory), tools, samples, name)


def senders():
    """64 senders at once, each of 16 MB, from memory to memory."""
    count, option = 64, " --max-transfers 64"
    wide = replace(NO_SYNC, name=NO_SYNC.name + option, receive=NO_SYNC.receive + option)
    tools = [NO_SYNC, wide, RSYNC, CURL]
    with source(count, 16 * MB) as files:
        samples = in_turn("senders", tools, files, args.memory, at_once=True)
    write("senders", transfers(samples, count * 16, "MB/s"), way(args.memory), tools, samples)


def crowd():
    """512 MB from 1 to 1,000 senders at once, into memory and onto a disk."""
    many_descriptors()
    total, samples = 512 * MB, {}
    table = [["senders", "MB/s", "receiver MB", "MB/s, sync", "receiver MB"]]
    for count in (1, 4, 16, 64, 256, 1_000):
        table.append([f"{count:,}"])
        for tool, where in ((NO_SYNC, args.memory), (QDROPD, args.dir)):
            # The kernel's queue may be full for longer than a sender waits.
            send = tool.send.replace("--quiet", "--quiet --retry 9")
            wide = replace(tool, receive=f"{tool.receive} --max-transfers {count}", send=send)
            with source(count, total // count) as files:
                name = f"crowd {count:,}"
                own = in_turn(name, [wide], files, where, at_once=True)[tool.name]
            samples[f"{tool.name}, {count}"] = own
            rate = total / MB / median(own, "seconds")
            table[-1] += [figure(rate), megabytes(median(own, "receiver"))]
    write("crowd", table, f"{way(args.memory)}; {way(args.dir)} with sync", [QDROPD], samples)


def several():
    """One receiver, one behind HAProxy, and three behind it on one directory."""

    def compare(name, one, amount, unit, where, files, **how):
        tools = [one, *(peers.behind_haproxy(one, count) for count in (1, 3))]
        samples = in_turn(name, tools, files, where, **how)
        # Of the receivers behind HAProxy time(1) knows nothing.
        table = [row[:3] + row[6:] for row in transfers(samples, amount, unit, one)]
        haproxy = replace(tools[1], name="HAProxy")
        write("several", table, way(where), [QDROPD, haproxy], samples, name)

    with source(64, 16 * MB) as files:
        no_sync = replace(NO_SYNC, name="one qdropd --no-sync")
        where = args.memory
        compare("several, large", no_sync, 64 * 16, "MB/s", where, files, at_once=True)
    kept = []
    with source(10_000, KB) as files:
        compare("several, small", peers.JOBS, 10_000, "files/s", args.dir, files, kept=kept)
    for path in kept:
        shutil.rmtree(path)


def many_descriptors():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def connections():
    """1,000 connections that all stop in the middle of their body, then end it."""
    count, size, rest = 1_000, MB, 5
    many_descriptors()
    tool = replace(NO_SYNC, receive=f"{NO_SYNC.receive} --max-transfers {count}")
    table = [["", "resident MB", "KB a connection", f"CPU ms in {rest} s"]]
    with patience(tool), prepared(tool, args.memory) as places, receiving(tool, places) as receiver:
        pid, port, drop = receiver.pid(), places["port"], places["drop"]
        empty, threads = resident(pid), len(os.listdir(f"/proc/{pid}/task"))

        def look(when):
            before, now = ticks(pid), resident(pid)
            time.sleep(rest)
            spent = (ticks(pid) - before) * 1000 // os.sysconf("SC_CLK_TCK")
            print(f"connections: {when}, {figure(now / MB)} MB, {spent} ms", flush=True)
            each = figure((now - empty) / count / KB) if when.startswith(f"{count:,}") else ""
            table.append([when, figure(now / MB), each, str(spent)])

        look("before")
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        for number, client in enumerate(clients):
            client.sendall(header(f"{number:05}", size) + bytes(size // 2))
        eventually(lambda: len(os.listdir(drop)) == count)
        eventually(
            lambda: all(waits == f"{0:08}:{0:08}" for _, waits in sockets(pid, port)),
        )
        look(f"{count:,} connections in the middle of a body")
        for client in clients:
            client.sendall(bytes(size - size // 2))
            client.shutdown(socket.SHUT_WR)
        for client in clients:
            if client.makefile("rb").read()[:5] != b"QDR1\0":
                fail(tool, places["here"], "gave no receipt")
            client.close()
        eventually(lambda: len(os.listdir(f"/proc/{pid}/task")) == threads)
        look("after")
    write("connections", table, f"bodies of 1 MB in {file_system(args.memory)}", [tool])


def header(name, size):
    name = name.encode("utf-16-be")
    numbers = (20 + len(name) + size).to_bytes(8) + (4 + len(name)).to_bytes(8)
    return numbers + len(name).to_bytes(4) + name


def resident(pid):
    return int(re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def ticks(pid):
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def sparse():
    """Zeros, 1 MB to 100 GB: memory is flat, and time grows as the size does.

    The sender reads a hole, and bench/hole.c lets the receiver's file be one: all but the write is
    as ever, and no disk is too small.
    """
    tool, samples = preloaded(NO_SYNC, "hole.so"), {}
    for size in (10**digits for digits in range(6, 12)):
        if size <= args.largest:
            rounds = args.rounds if size < 10 * GB else 1
            with source(1, size, sparse=True) as files:
                own = in_turn(f"sparse {size:,}", [tool], files, args.memory, rounds)
                samples[size] = own[tool.name]
    fixed, slope = fit([(size, median(own, "seconds")) for size, own in samples.items()])
    table = [["bytes", "seconds", "off the line", "sender MB", "receiver MB"]]
    for size, own in samples.items():
        seconds = median(own, "seconds")
        off = (seconds / (fixed + slope * size) - 1) * 100
        peaks = [megabytes(median(own, side)) for side in ("sender", "receiver")]
        table.append([f"{size:,}", figure(seconds), f"{off:+.1f} %", *peaks])
    line = f"the line is {fixed * 1000:.1f} ms + {slope * GB:.3f} s/GB"
    write("sparse", table, line, [tool], samples)


def fit(points):
    """Least squares of the relative errors of a + b x: those of a / y + b x / y = 1."""
    rows = [(1 / y, x / y) for x, y in points]
    uu, uv, vv = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    u, v = (sum(column) for column in zip(*rows))
    determinant = uu * vv - uv * uv
    return (u * vv - v * uv) / determinant, (v * uu - u * uv) / determinant


def slow():
    """20 MB over a link of 50 Mbit/s: a network of its own with a loopback device."""
    rate, size = 50 * MB, 20 * MB
    shape = "tc qdisc add dev lo root tbf rate 50mbit burst 32kb latency 50ms"
    setup = f"ip link set lo up mtu 1500 && {shape} && echo ready && exec cat"
    link = ["unshare", "-n", "sh", "-c", setup]
    tools = [QDROPD, peers.NC, RSYNC]
    with subprocess.Popen(link, env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        if holder.stdout.readline() != b"ready\n":
            print("slow: left out, needs root, iproute2 and a network namespace")
            return
        inside = ["nsenter", "-t", str(holder.pid), "-n", "--"]
        with source(1, size) as files:
            samples = in_turn("slow", tools, files, args.memory, inside=inside)
    table = [["", "seconds", "Mbit/s", "of the link"]]
    for name, own in samples.items():
        seconds = median(own, "seconds")
        goodput = size * 8 / seconds
        table.append([name, figure(seconds), figure(goodput / MB), f"{goodput / rate:.1%}"])
    write("slow", table, f"mtu 1500, `{shape}`, {way(args.memory)}", tools, samples)


def curve():
    """Throughput against size, from memory to memory."""
    tools = [FLOOR, QDROPD, *OTHERS]
    table, samples = [["bytes"]], {}
    table[0] += [tool.name for tool in tools if not obstacle(tool)]
    for size in [*(10**digits for digits in range(10)), 4 * GB]:
        if size > args.largest or size * 2.2 > shutil.disk_usage(args.memory).free:
            print(f"curve: {size:,} bytes left out", flush=True)
            continue
        rounds = args.rounds if size < GB else max(1, args.rounds // 2)
        with source(1, size) as files:
            own = in_turn(f"curve {size:,}", tools, files, args.memory, rounds)
        rates = [size / median(taken, "seconds") for taken in own.values()]
        table.append([f"{size:,}", *map(si, rates)])
        samples |= {f"{name}, {size}": taken for name, taken in own.items()}
    write("curve", table, f"bytes a second, {way(args.memory)}", tools, samples)


WORKLOADS = [
    memory, disk, small, durable, medium, trees, ssh, senders, crowd, several, connections, sparse, slow,
    curve,
]  # fmt: skip


def arguments():
    names = [workload.__name__ for workload in WORKLOADS]
    parser = argparse.ArgumentParser(description="Measures qdrop and qdropd beside other programs.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=RESULTS / "disk", help="a directory on a disk")
    parser.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="one in memory")
    parser.add_argument("--largest", type=float, default=100 * GB, help="bytes of a file")
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=", ".join(names))
    parsed = parser.parse_args()
    if unknown := set(parsed.workloads) - set(names):
        parser.error(f"no such workload: {', '.join(unknown)}")
    return parsed


def main():
    if obstacle(QDROPD) or obstacle(FLOOR):
        sys.exit("run `make bench`: it builds qdrop, qdropd and the floor")
    if not shutil.which("time"):
        sys.exit("bench needs GNU time (Debian: apt-get install time)")
    if file_system(args.memory) != "tmpfs":
        sys.exit(f"{args.memory} is no tmpfs: see --memory")
    args.dir.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # So that it tidies up as well.
    for workload in WORKLOADS:
        if not args.workloads or workload.__name__ in args.workloads:
            workload()
    subprocess.run([document.ROOT / "docs/drawings.py"], check=True)


if __name__ == "__main__":
    args = arguments()
    main()
