"""The tables of docs/PERFORMANCE.md and docs/SCALE.md: each stands between a line that names it and one
that ends it."""

import os
import platform
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "docs/PERFORMANCE.md", ROOT / "docs/SCALE.md"]
END = "<!-- end -->"


def split(name):
    """The document, what is in it before the table, the table, and what is after it."""
    start = f"<!-- table: {name} -->\n"
    for document in DOCUMENTS:
        before, found, rest = document.read_text().partition(start)
        table, ended, after = rest.partition(END)
        if found and ended:
            return document, before + start, table, ended + after
    sys.exit(f"no document has a table {name}")


def put(name, rows, facts):
    """Rows of words, the first of them heads, and a line about how they came about."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * (len(rows[0]) - 1))
    facts = [machine(), *filter(None, facts), time.strftime("%Y-%m-%d")]
    document, before, _, after = split(name)
    document.write_text(
        "\n".join([before + lines[0], *lines[1:], "", "; ".join(facts) + ".", after])
    )


def get(name):
    """The rows that `put` has written, heads first."""
    lines = [line for line in split(name)[2].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in (lines[0], *lines[2:])]


def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    processor = model[1] if model else platform.machine()
    return f"{os.cpu_count()} × {processor}, {platform.system()} {platform.release()}"
