"""The tables of docs/PERFORMANCE.md: each stands between a line that names it and one that ends it."""

import os
import platform
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT, PLOT = ROOT / "docs/PERFORMANCE.md", ROOT / "docs/performance.svg"
END = "<!-- end -->"


def split(name):
    """What is before the table, the table, and what is after it."""
    start = f"<!-- table: {name} -->\n"
    before, found, rest = DOCUMENT.read_text().partition(start)
    table, ended, after = rest.partition(END)
    if not found or not ended:
        sys.exit(f"{DOCUMENT} has no table {name}")
    return before + start, table, ended + after


def put(name, rows, facts):
    """Rows of words, the first of them heads, and a line about how they came about."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    facts = [machine(), *filter(None, facts), time.strftime("%Y-%m-%d")]
    before, _, after = split(name)
    DOCUMENT.write_text(
        "\n".join([before + lines[0], *lines[1:], "", "; ".join(facts) + ".", after])
    )


def get(name):
    """The rows that `put` has written, without the heads."""
    lines = [line for line in split(name)[1].splitlines() if line.startswith("|")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    processor = model[1] if model else platform.machine()
    return f"{os.cpu_count()} × {processor}, {platform.system()} {platform.release()}"
