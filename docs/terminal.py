#!/usr/bin/env python3
"""What qdrop looks like: `make picture` writes docs/terminal.svg.

A shell in a terminal of its own is typed to, qdropd and qdrop run in it, and the picture is that
terminal's screen while the last file is on its way. Then the file is waited for.

Takes port 9999 of 127.0.0.1. QDROP_BIN is the directory of qdrop and qdropd.
Debian: apt-get install bash python3-pyte
"""

import fcntl
import html
import itertools
import os
import pty
import re
import select
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

import pyte

# Narrow, so that letters are 11 pixels high where a telephone shows the picture 400 wide. The screen
# behind it is wide: a long line is broken between words here, and a terminal would break it within one.
COLUMNS, WIDE, ROWS = 54, 200, 17
PROMPT = "$ "
PATIENCE = 20  # seconds, for whatever is waited for
SIZE, ADVANCE, LEADING = 14, 8.4, 20  # of a character, in pixels; most monospace fonts are 0.6 wide
PAD, BAR = 14, 34
# What the shell colours, and how it looks.
LOOKS = {"default": "", "green": "prompt", "white": "typed"}
STYLE = """
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono","Liberation Mono",monospace}
text{fill:#3b4554}.prompt{fill:#1a7f37}.typed{fill:#10151f;font-weight:bold}
.window{fill:#f8f9fb;stroke:#c5ccd3}
@media(prefers-color-scheme:dark){
text{fill:#c3ccdb}.prompt{fill:#7fdb9a}.typed{fill:#ffffff}
.window{fill:#10151f;stroke:#3a4456}
}
"""
BASHRC = r"""
PS1='\[\e[32m\]$\[\e[0;1;37m\] '
PS0='\e[0m'
"""


class Terminal:
    """A shell with a screen."""

    def __init__(self, directory):
        self.screen = pyte.Screen(WIDE, ROWS)
        self.stream = pyte.ByteStream(self.screen)
        rc = Path(directory, ".bashrc")
        rc.write_text(BASHRC)
        pid, self.tty = pty.fork()
        if pid == 0:
            os.chdir(directory)
            path = f"{os.environ['QDROP_BIN']}:{os.environ['PATH']}"
            keep = {"PATH": path, "TERM": "linux", "LC_ALL": "C.UTF-8", "INPUTRC": "/dev/null"}
            os.execvpe("bash", ["bash", "--noprofile", "--rcfile", rc, "-i"], keep)
        fcntl.ioctl(self.tty, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.until(self.prompts, "the shell starts")

    def until(self, condition, what):
        """Shows what comes until the screen meets a condition."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > end:
                sys.exit("\n".join([f"in vain waited until {what}:", *self.screen.display]))
            if select.select([self.tty], [], [], 0.05)[0]:
                self.stream.feed(os.read(self.tty, 65536))

    def line(self):
        """The one with the cursor."""
        return self.screen.display[self.screen.cursor.y]

    def prompts(self):
        return self.line().rstrip() == PROMPT.rstrip() and self.screen.cursor.x == len(PROMPT)

    def type(self, command):
        os.write(self.tty, command.encode())
        self.until(lambda: self.line().rstrip() == PROMPT + command, f"{command} is typed")
        os.write(self.tty, b"\n")

    def run(self, command):
        self.type(command)
        self.until(self.prompts, f"{command} ends")


def broken(cells):
    """A row of the screen as rows that fit.

    A gap that is wide enough gets narrower; else the row is broken, and goes on two columns further in.
    """
    line = "".join(cell.data for cell in cells).rstrip()
    cells = cells[: len(line)]
    gap = max(re.finditer(" *", line), key=lambda gap: len(gap[0]))
    if len(line) > COLUMNS > len(line) - len(gap[0]):
        cells = cells[: gap.start()] + cells[gap.end() - (COLUMNS - len(line) + len(gap[0])) :]
    while len(cells) > COLUMNS:
        space = max(at for at in range(COLUMNS + 1) if cells[at].data == " ")
        yield cells[:space]
        cells = [cells[space]] * 2 + cells[space + 1 :]
    yield cells


def spans(cells):
    """A row as parts of one look."""
    text = []
    for colour, run in itertools.groupby(cells, lambda cell: cell.fg):
        run = html.escape("".join(cell.data for cell in run), quote=False)
        text.append(f'<tspan class="{LOOKS[colour]}">{run}</tspan>' if LOOKS[colour] else run)
    return "".join(text)


def picture(screen):
    """The screen in a window, on a ground of its own so that any page may be around it."""
    width = round(COLUMNS * ADVANCE) + 2 * PAD
    rows = [[screen.buffer[y][x] for x in range(WIDE)] for y in range(screen.cursor.y + 1)]
    rows = list(itertools.chain.from_iterable(map(broken, rows)))
    height = BAR + len(rows) * LEADING + PAD
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n'
        "<title>A terminal: qdropd receives what qdrop sends</title>\n"
        "<desc>Two files of one name are stored, one is refused, and one is on its way.</desc>\n"
        f"<style>{STYLE}</style>\n"
        f'<rect class="window" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="9"/>\n'
    )
    for at, colour in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        yield f'<circle cx="{PAD + 6 + 20 * at}" cy="{BAR / 2 + 1:g}" r="5.5" fill="{colour}"/>\n'
    for y, cells in enumerate(rows):
        if cells:
            # The length is told, so that no font makes a row wider than the window.
            yield (
                f'<text x="{PAD}" y="{BAR + y * LEADING + SIZE:g}" xml:space="preserve" '
                f'textLength="{len(cells) * ADVANCE:g}">{spans(cells)}</text>\n'
            )
    yield "</svg>\n"


def main():
    with tempfile.TemporaryDirectory() as home:
        Path(home, "drop").mkdir()
        Path(home, "scan.pdf").write_bytes(bytes(range(256)) * 720)
        for name, size in [("film.mkv", 96 << 20), ("debian-13.iso", 57 << 20)]:
            with Path(home, name).open("wb") as file:
                file.truncate(size)
        log = Path(home, "log")
        terminal = Terminal(home)
        terminal.run("qdropd --max-size 64M drop >log 2>&1 &")
        terminal.until(lambda: "listening on 127.0.0.1:9999\n" in log.read_text(), "qdropd listens")
        terminal.run("qdrop 127.0.0.1 scan.pdf")
        terminal.run("qdrop 127.0.0.1 scan.pdf")
        terminal.run("ls drop")
        terminal.run("qdrop 127.0.0.1 film.mkv")
        terminal.type("qdrop --limit-rate 12M 127.0.0.1 debian-13.iso")
        # What is drawn, and not what stands there half drawn, has a time left.
        half = re.compile(r" 5[5-9]% \[.* \d+:\d\d *$")
        terminal.until(lambda: half.search(terminal.line()), "there is more than half a bar")
        drawn = "".join(picture(terminal.screen))
        terminal.until(terminal.prompts, "the file is sent")
        stored = "stored debian-13.iso as debian-13.iso ("
        if not any(line.startswith(stored) for line in terminal.screen.display):
            sys.exit("\n".join(["the last file is not stored:", *terminal.screen.display]))
        terminal.run("kill %1; wait")
        Path(__file__).with_suffix(".svg").write_text(drawn)


if __name__ == "__main__":
    main()
