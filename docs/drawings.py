#!/usr/bin/env python3
"""The drawings of the pages: `make drawings` writes them into docs/, an argument names another directory.

The plots show the tables of docs/PERFORMANCE.md, and the layers are those of src/lib.rs and
tests/layering.rs: no figure and no rule is written down twice. A drawing is 520 wide and its letters are
15 or more, so that they are readable on a telephone, which shows it 400 pixels wide.
"""

import math
import re
import sys
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "bench"))
sys.dont_write_bytecode = True
import document  # noqa: E402

WIDTH = 520
LINE = 19  # from one line of text to the next
STYLE = """
text{font:15px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;fill:#1f2328}
.head{font-size:16px;font-weight:600}
.soft{fill:#59636e}.own{fill:#0a5fc4}.back{fill:#17703a}.strong{font-weight:600}
.end{text-anchor:end}.middle{text-anchor:middle}
path,rect{fill:none}
.rule{stroke:#d8dee4}.other{stroke:#9aa3ad;stroke-width:1.6}.leader{stroke:#b9c0c8}
.line{stroke:#0a5fc4;stroke-width:4;stroke-linejoin:round}.answer{stroke:#17703a;stroke-width:2.5}
.use{stroke:#59636e;stroke-width:1.6}.arrow{stroke:#0a5fc4;stroke-width:2.5}
.box{fill:#f6f8fa;stroke:#c5ccd3}.stream{fill:#d6e7fb;stroke:none}
.bar{fill:#b4bcc5;stroke:none}.own-bar{fill:#0a5fc4;stroke:none}
@media(prefers-color-scheme:dark){
text{fill:#e6edf3}
.soft{fill:#9aa5b1}.own{fill:#6cb0ff}.back{fill:#63c985}
.rule{stroke:#30363d}.other{stroke:#7a848f}.leader{stroke:#555e68}
.use{stroke:#9aa5b1}.line,.arrow{stroke:#4c9bff}.answer{stroke:#4fb874}
.box{fill:#161b22;stroke:#444c56}.stream{fill:#15335c;stroke:none}
.bar{fill:#5a636d;stroke:none}.own-bar{fill:#4c9bff;stroke:none}
}
"""


def drawing(title, description, height, parts):
    """A picture that needs nothing else, on the page's own ground."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">\n<title>{escape(title)}</title>\n'
        f"<desc>{escape(description)}</desc>\n<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def text(x, y, words, look=""):
    look = f' class="{look}"' if look else ""
    return f'<text x="{x:.4g}" y="{y:.4g}"{look}>{escape(words, quote=False)}</text>'


def path(points, look, close=""):
    return f'<path class="{look}" d="M{" L".join(f"{x:.4g},{y:.4g}" for x, y in points)}{close}"/>'


def box(x, y, width, height, look="box", radius=6):
    return (
        f'<rect class="{look}" x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}" '
        f'rx="{radius}"/>'
    )


def arrow(x, y, to_x, to_y, look):
    """A line with a head at its end."""
    angle, points = math.atan2(to_y - y, to_x - x), []
    for side in (2.6, -2.6):
        points.append((to_x + 10 * math.cos(angle + side), to_y + 10 * math.sin(angle + side)))
    head = [points[0], (to_x, to_y), points[1]]
    return path([(x, y), (to_x, to_y)], look) + path(head, look)


# The plots.

# What a table calls a program, where its first word does not tell.
CALLED = {
    "qdropd": "qdrop",
    "netcat-openbsd": "netcat",
    "curl to vsftpd": "curl, vsftpd",
    "the tutorial's Qt pair": "the Qt pair",
}
UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}


def called(name):
    first = name.split()[0].rstrip(",")
    return CALLED.get(name) or CALLED.get(first, first)


def number(words):
    """What a cell says: 1,783 or 4.72 M."""
    digits, _, unit = words.partition(" ")
    return float(digits.replace(",", "")) * UNITS[unit]


def apart(wanted, least, low, high):
    """Places in the order of those wanted, near them, with at least so much between two."""
    places = []
    for at in sorted(wanted):
        places.append([at, 1])  # The middle of some neighbours, and how many there are.
        while len(places) > 1:
            (before, some), (after, more) = places[-2:]
            if after - before >= least * (some + more) / 2:
                break
            count = some + more
            places[-2:] = [[(before * some + after * more) / count, count]]
    spread = []
    for middle, count in places:
        half = least * (count - 1) / 2
        middle = min(max(middle, low + half), high - half)
        spread += [middle - half + least * index for index in range(count)]
    return spread


def size(value):
    power = int(math.log10(value)) // 3
    return f"{value / 1000**power:.0f} {('', 'KB', 'MB', 'GB')[power]}"


def curve():
    """MB a second against the size of a file."""
    left, right, top, bottom = 50, WIDTH - 122, 40, 400
    head, *rows = document.get("curve")
    rows = [row for row in rows if number(row[0]) >= 10e3]
    first, last = (math.log10(number(row[0])) for row in (rows[0], rows[-1]))
    # MB/s, the top of the plot.
    fastest = math.ceil(max(number(cell) for row in rows for cell in row[1:]) / 500e6) * 500

    def across(value):
        return left + (math.log10(value) - first) / (last - first) * (right - left)

    def down(value):
        return bottom - value / fastest * (bottom - top)

    yield text(0, 20, "MB/s", "head")
    for rate in range(0, fastest + 1, 500):
        y = down(rate)
        yield path([(left, y), (right, y)], "rule")
        yield text(left - 8, y + 5, f"{rate:,}", "soft end")
    for value in (1e4, 1e6, 1e8, number(rows[-1][0])):
        yield text(across(value), bottom + 22, size(value), "soft middle")
    yield text((left + right) / 2, bottom + 46, "size of the file", "soft middle")
    lines = {}
    for column, name in enumerate(head[1:], 1):
        points = [(across(number(row[0])), down(number(row[column]) / 1e6)) for row in rows]
        lines[called(name)] = points
    names = sorted(lines, key=lambda name: lines[name][-1][1])
    ends = apart([points[-1][1] for points in lines.values()], 18, top, bottom)
    for name, end in zip(names, ends):
        own = name == "qdrop"
        if not own:
            yield path(lines[name], "other")
        yield path([(right + 3, lines[name][-1][1]), (right + 16, end), (right + 20, end)], "leader")
        yield text(right + 23, end + 5, name, "own strong" if own else "soft")
    yield path(lines["qdrop"], "line")


def small_files():
    """Files a second, a group of bars for each table."""
    groups = []
    for title, table, count in (
        ("10,000 files of 1 KB, each on the disk", "small, durable", None),
        ("2,000 files of 1 KB, a flush takes 10 ms", "durable", None),
        ("10,000 files of 1 KB, no wait for the disk", "small", None),
        ("a tree of 5,000 files, 1 ms away, first time", "1 ms, first time", 5_000),
        ("the same tree, 1 % changed", "1 ms, 1 % changed", 5_000),
        ("the same tree, unchanged", "1 ms, unchanged", 5_000),
        ("a tree of 100,000 files, unchanged", "trees, many", None),
    ):
        if count:
            head, *rows = document.get("trees")
            (seconds,) = (row for row in rows if row[0] == table)
            tools = [cell for cell in zip(head, seconds) if cell[0] and "time / " not in cell[0]]
            # Three digits, as many as the seconds have.
            bars = [(name, float(f"{count / float(took):.3g}")) for name, took in tools]
        else:
            bars = [(row[0], number(row[2])) for row in document.get(table)[1:]]
        groups.append((title, bars))
    left, right, y = 72, WIDTH - 76, 20
    yield text(0, y, "files/s", "head")
    yield text(WIDTH, y, "each group has its own scale", "soft end")
    for title, bars in groups:
        y += 30
        yield text(0, y, title)
        most = max(value for _, value in bars)
        for name, value in sorted(bars, key=lambda bar: called(bar[0]) != "qdrop"):
            own = called(name) == "qdrop"
            length = max(2, (right - left) * value / most)
            yield box(left, y + 9, length, 13, "own-bar" if own else "bar", 2)
            yield text(left - 8, y + 21, called(name), "end own strong" if own else "end soft")
            yield text(left + length + 8, y + 21, f"{value:,.0f}", "own strong" if own else "soft")
            y += LINE


# The other drawings.


def transfer():
    """A file and its receipt, as time goes down."""
    left, right, end = 70, WIDTH - 70, 474
    middle = (left + right) / 2
    for x, role in ((left, "sender"), (right, "receiver")):
        yield box(x - 60, 8, 120, 34)
        yield text(x, 30, role, "head middle")
        yield path([(x, 42), (x, end)], "leader")

    def message(y, words, detail, look):
        ends = (right - 4, left + 4) if look == "answer" else (left + 4, right - 4)
        yield text(middle, y - 9, words, f"middle strong {'back' if look == 'answer' else 'own'}")
        yield text(middle, y + 20, detail, "middle soft")
        yield arrow(ends[0], y, ends[1], y, look)

    yield from message(82, "header", "total, second number, name", "arrow")
    yield box(left + 4, 124, right - left - 8, 56, "stream", 3)
    yield text(middle, 148, "body", "middle strong own")
    yield text(middle, 168, "total − header bytes", "middle soft")
    yield arrow(left + 4, 180, right - 4, 180, "arrow")
    yield from message(232, "half-close", "no more bytes; the sender reads on", "arrow")
    yield box(WIDTH - 288, 272, 278, 76)
    for line, words in enumerate(
        ("fsync of the file", "a hard link gives the final name", "fsync of the directory")
    ):
        yield text(WIDTH - 276, 294 + line * 21, words)
    yield from message(388, "receipt", "status, size, digest, name", "answer")
    yield box(10, 424, 278, 34)
    yield text(22, 446, "compares size and digest: stored")


def layers():
    """What the source says of its layers, the lowest at the bottom."""
    told = (DOCS.parent / "src/lib.rs").read_text()
    rules = (DOCS.parent / "tests/layering.rs").read_text()
    rows = re.findall(r"^//! \| (\[`.*?) \| (.*?) \|", told, re.M)
    allowed = re.findall(r"imports: &\[.*?\],.*?std: &\[(.*?)\]", rules, re.S)
    outside = ("env", "fs", "net", "os", "process", "thread")
    tall, gap, half = 58, 24, WIDTH / 2 - 9
    below = len(rows) - 2  # The wire and the disk stand side by side.
    for index, ((names, work), modules) in enumerate(zip(rows, allowed)):
        name = re.sub(r"[\[\]`]", "", names)
        left, width = 1, WIDTH - 2
        if name in ("wire", "disk"):
            left, width = 1 if name == "wire" else WIDTH - 1 - half, half
        level = index - (index > 1)
        y = 1 + (below - level) * (tall + gap)
        touched = [name for name in re.findall(r"\w+", modules) if name in outside]
        yield box(left, y, width, tall)
        yield text(left + 12, y + 24, name, "head")
        yield text(left + width - 12, y + 24, ", ".join(touched), "end own")
        yield text(left + 12, y + 46, re.sub("[`]", "", work), "soft")
        if level:
            for x in (half / 2, WIDTH - half / 2) if name == "transfer" else (left + width / 2,):
                yield arrow(x, y + tall + 3, x, y + tall + gap - 4, "use")
    y = 8 + (below + 1) * (tall + gap)
    yield text(0, y, "A layer uses only those below it. wire and disk do not use")
    yield text(0, y + LINE, "each other, and net does not use disk.")
    yield text(0, y + 2 * LINE + 6, "Blue: what a layer may use of std that reaches outside.", "own")


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    for name, draw, height, title, description in (
        (
            "performance",
            curve,
            450,
            "Throughput against size",
            "MB a second for files of 1 KB to 4 GB: qdrop beside other programs.",
        ),
        (
            "small-files",
            small_files,
            540,
            "Many small files",
            "Files a second, onto a disk and as a tree: qdrop beside rsync and scp.",
        ),
        (
            "transfer",
            transfer,
            476,
            "A transfer",
            "The sender sends a header, a body and a half-close; the receiver stores the file and answers "
            "with a receipt.",
        ),
        (
            "layers",
            layers,
            480,
            "The layers",
            "cli uses net, net uses transfer, transfer uses wire and disk, and all use the ground.",
        ),
    ):
        (directory / f"{name}.svg").write_text(drawing(title, description, height, list(draw())))


if __name__ == "__main__":
    main()
