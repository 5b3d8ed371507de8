"""Watches DIRECTORY as scripts of inotifywait, incron and paperless do: each file that is closed after
writing, or moved to its name, is copied to COPIES at once, as NAME.written.N or NAME.moved.N, with the
number of the event."""

import ctypes
import os
import struct
import sys

CLOSE_WRITE, MOVED_TO = 0x8, 0x80
directory, copies = (os.fsencode(path) for path in sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
watch = libc.inotify_init()
assert libc.inotify_add_watch(watch, directory, CLOSE_WRITE | MOVED_TO) >= 0
print("watching", flush=True)
number = 0
while events := os.read(watch, 1 << 16):
    while events:
        _, mask, _, length = struct.unpack_from("iIII", events)
        name, events = events[16 : 16 + length].rstrip(b"\0"), events[16 + length :]
        if name.startswith(b"."):
            continue
        with open(os.path.join(directory, name), "rb") as file:
            content = file.read()
        unfinished = os.path.join(copies, b".copy")
        with open(unfinished, "wb") as copy:
            copy.write(content)
        event = b"written" if mask & CLOSE_WRITE else b"moved"
        os.rename(unfinished, os.path.join(copies, b"%s.%s.%d" % (name, event, number)))
        number += 1
