#!/usr/bin/env python3
"""The window of contrib/qt/example in its frame: `make qt-picture` writes docs/qt-example.png.

It runs on a display of its own, twice as large as on a screen, and a file is opened and sent with its keys.

Takes port 9999 of 127.0.0.1. QDROP_BIN is the directory of qdropd, QDROP_QT that of qdrop-window.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE = 20  # seconds, for whatever is waited for
NAME = "holiday film.mkv"
CROSS = 18  # pixels, of the button that closes the window
# A theme for openbox whose parts are large enough for the window.
THEME = """
window.active.title.bg: flat solid
window.active.title.bg.color: #dcdfe3
window.active.border.color: #8c949e
window.active.title.separator.color: #8c949e
window.active.label.bg: parentrelative
window.active.label.text.color: #1f2328
window.active.button.*.bg: parentrelative
window.active.button.*.image.color: #1f2328
window.label.text.justify: center
border.width: 2
padding.width: 20
padding.height: 12
window.client.padding.width: 0
window.client.padding.height: 0
window.handle.width: 0
"""
RC = """<openbox_config xmlns="http://openbox.org/3.4/rc"><theme><name>here</name>
<titleLayout>LC</titleLayout><font place="ActiveWindow"><name>DejaVu Sans</name><size>11</size>
<weight>bold</weight></font></theme><placement><policy>Smart</policy></placement></openbox_config>"""


def cross():
    """A picture of the form that X has had for its icons since the beginning."""
    rows = []
    for y in range(CROSS):
        on = [abs(x - y) < 2 or abs(CROSS - 1 - x - y) < 2 for x in range(CROSS)]
        bits = sum(1 << x for x, is_on in enumerate(on) if is_on)
        rows += [f"{byte:#04x}" for byte in bits.to_bytes((CROSS + 7) // 8, "little")]
    return (
        f"#define close_width {CROSS}\n#define close_height {CROSS}\n"
        f"static unsigned char close_bits[] = {{\n{', '.join(rows)} }};\n"
    )


@contextlib.contextmanager
def running(*command, **how):
    with subprocess.Popen(command, **how) as process:
        try:
            yield process
        finally:
            process.terminate()


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            sys.exit(f"in vain waited until {what}")
        time.sleep(0.1)
    return value


def main():
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        theme = home / ".themes/here/openbox-3"
        for directory in (theme, home / "drop"):
            directory.mkdir(parents=True)
        (theme / "themerc").write_text(THEME)
        (theme / "close.xbm").write_text(cross())
        (home / "rc.xml").write_text(RC)
        with (home / NAME).open("wb") as file:
            file.truncate(96 << 20)

        told, tells = os.pipe()
        screen = ("-screen", "0", "1400x1000x24", "-dpi", "192", "-nolisten", "tcp")
        stack.enter_context(running("Xvfb", "-displayfd", str(tells), *screen, pass_fds=[tells]))
        os.close(tells)
        display = os.read(told, 16).decode().strip()
        keep = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"}
        keep |= {"DISPLAY": f":{display}", "QT_SCALE_FACTOR": "2", "QT_FONT_DPI": "96"}
        keep["XDG_RUNTIME_DIR"] = str(home)

        def does(*command):
            made = subprocess.run(command, env=keep, check=True, stdout=subprocess.PIPE, timeout=PATIENCE)
            return made.stdout

        stack.enter_context(running("openbox", "--config-file", home / "rc.xml", env=keep))
        qdropd = Path(os.environ["QDROP_BIN"], "qdropd").resolve()
        log = (home / "log").open("w")
        stack.enter_context(running(qdropd, home / "drop", stdout=log, stderr=log, env=keep))
        until(lambda: "listening" in (home / "log").read_text(), "qdropd listens")
        window = Path(os.environ["QDROP_QT"], "qdrop-window").resolve()
        stack.enter_context(running(window, cwd=home, env=keep))

        def titles():
            names = does("xdotool", "search", "--onlyvisible", "--name", ".", "getwindowname", "%@")
            return names.split(b"\n")

        def focus(title):
            does("xdotool", "search", "--sync", "--onlyvisible", "--name", title, "windowfocus", "--sync")

        focus("^Send a file$")
        does("xdotool", "key", "alt+o")
        focus("^Open$")
        does("xdotool", "type", NAME)
        # The first one closes the list of names that begin like this.
        does("xdotool", "key", "Return", "Return")
        until(lambda: b"Open" not in titles(), "the dialog is closed")
        focus("^Send a file$")
        does("xdotool", "key", "alt+s")
        until((home / "drop" / NAME).exists, "the file is stored")

        shots = []

        def shows(often):
            """Whether the window has looked like this before. What is around its frame is of one colour."""
            shots.append(does("import", "-window", "root", "-trim", "-strip", "+repage", "png:-"))
            return shots.count(shots[-1]) == often

        until(lambda: shows(5), "the window says that the file is stored")
        # From the host, whose caret blinks, to the button, which has none.
        does("xdotool", "key", "shift+Tab")
        until(lambda: shows(5), "the window stays the same")
        Path(__file__).with_suffix(".png").write_bytes(shots[-1])


if __name__ == "__main__":
    main()
