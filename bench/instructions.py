#!/usr/bin/env python3
"""Instructions of qdrop and qdropd, counted by valgrind in user space: `make bench-instructions`.

Fails if one of them is more than 5 % above docs/PERFORMANCE.md; with --write, writes them there.
QDROP_BIN is the directory of the two programs.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import document

KB, BIG, MANY = 1_000, 8 << 20, 100
TOLERANCE = 1.05
BIN = Path(os.environ.get("QDROP_BIN", document.ROOT / "target/release")).absolute()
COUNTED = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]


def collected(log):
    return int(re.search(r"Collected : (\d+)", log)[1])


def count(sizes):
    """What the two take for files of these sizes."""
    with tempfile.TemporaryDirectory() as path:
        drop = Path(path, "drop")
        drop.mkdir()
        files = [Path(path, f"{number:05}") for number in range(len(sizes))]
        for file, size in zip(files, sizes):
            file.write_bytes(b"q" * size)
        receiver = subprocess.Popen(
            [*COUNTED, BIN / "qdropd", "--listen", "127.0.0.1:0", drop],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            address = receiver.stdout.readline().split()[-1]
            sender = subprocess.run(
                [*COUNTED, BIN / "qdrop", "--quiet", address, *files],
                capture_output=True,
                text=True,
            )
            stored, log = 0, []
            while sender.returncode == 0 and stored < len(files):
                log.append(receiver.stderr.readline())
                stored += ": stored " in log[-1]
            receiver.terminate()
            log.append(receiver.communicate()[1])
        finally:
            receiver.kill()
        if sender.returncode != 0:
            sys.exit(f"qdrop failed:\n{sender.stderr}\n{''.join(log)}")
        return collected(sender.stderr), collected("".join(log))


def main():
    if not shutil.which("valgrind"):
        sys.exit("bench-instructions needs valgrind (Debian: apt-get install valgrind)")
    one, many, big = count([KB]), count([KB] * (MANY + 1)), count([BIG])
    mixed = count([KB] * MANY + [BIG])
    rows = [
        [f"{MANY} files of 1 KB and one of 8 MiB", *(f"{total:,}" for total in mixed)],
        ["a further file of 1 KB", *(f"{(b - a) / MANY:,.0f}" for a, b in zip(one, many))],
        ["a further byte", *(f"{(b - a) / (BIG - KB):.3f}" for a, b in zip(one, big))],
    ]
    table = [["", "qdrop", "qdropd"], *rows]
    width = max(map(len, (row[0] for row in table)))
    for what, *figures in table:
        print(what.ljust(width), *(figure.rjust(14) for figure in figures))
    if "--write" in sys.argv[1:]:
        version = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout
        valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True).stdout
        compiler = version.split(" (")[0]
        command = "`bench/instructions.py --write`"
        document.put("instructions", table, [valgrind.strip(), compiler, command])
        return
    _, *written = document.get("instructions")
    if not written:
        sys.exit(f"docs/PERFORMANCE.md has none to compare with: bench/instructions.py --write")
    worse = [
        f"{what}, {program}: {new}, above {old} of docs/PERFORMANCE.md"
        for (what, *now), (_, *then) in zip(rows, written)
        for program, new, old in zip(table[0][1:], now, then)
        if number(new) > number(old) * TOLERANCE
    ]
    if worse:
        sys.exit("\n".join(worse))


def number(text):
    return float(text.replace(",", ""))


main()
