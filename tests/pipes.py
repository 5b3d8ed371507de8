#!/usr/bin/env python3
"""Gives a command three pipes, as sshd gives them to the command of a key, and carries its bytes: pipes.py COMMAND

With --cut FILE BYTES before the command, and if there is such a file: removes it, and dies after so many bytes
of input, as a link does.
"""
import os
import subprocess
import sys
import threading

words = sys.argv[1:]
left = None
if words[0] == '--cut':
    flag, amount = words[1:3]
    words = words[3:]
    try:
        os.unlink(flag)
        left = int(amount)
    except FileNotFoundError:
        pass

child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def carry(source, target):
    while piece := os.read(source, 65536):
        os.write(target, piece)


outgoing = [
    threading.Thread(target=carry, args=(child.stdout.fileno(), 1)),
    threading.Thread(target=carry, args=(child.stderr.fileno(), 2)),
]
for thread in outgoing:
    thread.start()
try:
    while piece := os.read(0, 65536):
        if left is not None:
            left -= len(piece)
            if left < 0:
                child.stdin.close()
                child.wait()
                os._exit(255)
        child.stdin.write(piece)
        child.stdin.flush()
    child.stdin.close()
except (BrokenPipeError, ConnectionResetError):
    pass
status = child.wait()
for thread in outgoing:
    thread.join()
sys.exit(status)
