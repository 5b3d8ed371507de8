#!/usr/bin/env python3
"""relay.py: connections that break at a chosen byte.

Each line of standard input asks for a relay and is answered with its address:

    HOST:PORT FORWARD BACK END [turned]

It serves one connection, connects it to HOST:PORT, and passes on FORWARD bytes of the sender's
("all": to the end of its stream, and that end too), then BACK bytes of the receiver's, of which
it waits for the first even if it passes on none ("-": waits for nothing). Then it resets "both"
connections, that to the "sender" or to the "receiver" alone, or none ("stall"); what is left
stays open, and nothing more is passed on. "turned": the receiver connects to the sender.
"""

import fcntl
import os
import socket
import struct
import sys
import termios
import threading

# Given, so that the system does not let them grow until they hold a whole file.
BUFFER = 256 * 1024


def pass_on(source, to, wanted):
    """Passes on so many bytes, or all and the end, and waits until the other system has them."""
    while wanted is None or wanted > 0:
        data = source.recv(65536 if wanted is None else min(65536, wanted))
        if not data:
            if wanted is None:
                to.shutdown(socket.SHUT_WR)
            break
        to.sendall(data)
        if wanted is not None:
            wanted -= len(data)
    # A reset throws away what is still queued on this side.
    while struct.unpack("i", fcntl.ioctl(to, termios.TIOCOUTQ, bytes(4)))[0] > 0:
        try:
            to.getpeername()
        except OSError:
            # Both have ended; a system's account of such a socket is stale.
            break
        os.sched_yield()


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def break_at(sender, receiver, forward, back, end):
    try:
        pass_on(sender, receiver, None if forward == "all" else int(forward))
        if back != "-":
            receiver.recv(1, socket.MSG_PEEK)
            pass_on(receiver, sender, int(back))
    except OSError as error:
        # An end that gave up by itself; the test sees what it says.
        print(f"relay: {forward} {back} {end}: {error}", file=sys.stderr)
    if end in ("both", "sender"):
        reset(sender)
    if end in ("both", "receiver"):
        reset(receiver)


def serve(listener, kept, to, forward, back, end, turned=None):
    with listener:
        accepted = listener.accept()[0]
    host, port = to.rsplit(":", 1)
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    other.connect((host, int(port)))
    kept += [accepted, other]
    sender, receiver = (other, accepted) if turned else (accepted, other)
    break_at(sender, receiver, forward, back, end)


def main():
    # Python closes what nobody refers to any more.
    kept = []
    for line in sys.stdin:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        threading.Thread(target=serve, args=(listener, kept, *line.split()), daemon=True).start()
        print("{}:{}".format(*listener.getsockname()), flush=True)


main()
