"""A crowd that wants to keep a receiver from others: SILENT connections that say nothing and TRICKLING
ones that send a header byte a second, all from one address. One that is thrown out comes back five
seconds later. It ends with its standard input. Usage: crowd.py HOST:PORT SOURCE SILENT TRICKLING"""

import heapq
import random
import resource
import selectors
import socket
import sys
import time

HEADER = bytes.fromhex("7fffffffffffffff0000000000008004") + b"\0\0\x80\0" + b"\0a" * 0x4000
COME_BACK = 5

host, port = sys.argv[1].rsplit(":", 1)
source, silent, trickling = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
watched = selectors.DefaultSelector()
watched.register(sys.stdin, selectors.EVENT_READ)
# What is due when: (time, number of the member, its connection or None to come back).
due, made, thrown_out, trickled = [], set(), 0, 0


def come(member):
    connection = socket.socket()
    connection.bind((source, 0))
    connection.setblocking(False)
    connection.connect_ex((host, int(port)))
    watched.register(connection, selectors.EVENT_READ, member)
    made.add(member)
    if member >= silent:
        heapq.heappush(due, (time.monotonic() + 1, member, id(connection), connection, 0))


def leave(member, connection):
    global thrown_out
    thrown_out += 1
    watched.unregister(connection)
    connection.close()
    heapq.heappush(due, (time.monotonic() + COME_BACK, member, 0, None, 0))


# In no order, so that the first places do not all go to one kind.
members = random.Random(1).sample(range(silent + trickling), silent + trickling)
for place, member in enumerate(members):
    heapq.heappush(due, (time.monotonic() + place / 1e6, member, 0, None, 0))
announced = False
while True:
    while due and due[0][0] <= time.monotonic():
        _, member, _, connection, sent = heapq.heappop(due)
        if connection is None:
            come(member)
        elif connection.fileno() >= 0:
            try:
                connection.send(HEADER[sent : sent + 1])
                trickled += 1
            except BlockingIOError:
                sent -= 1
            except OSError:
                leave(member, connection)
                continue
            heapq.heappush(due, (time.monotonic() + 1, member, id(connection), connection, sent + 1))
    if not announced and len(made) == silent + trickling and trickled > 0:
        print("every connection has been made once, and some trickle", flush=True)
        announced = True
    wait = max(0, due[0][0] - time.monotonic()) if due else None
    for key, _ in watched.select(wait):
        if key.fileobj is sys.stdin:
            print(f"thrown out {thrown_out} times, {trickled} bytes trickled", flush=True)
            sys.exit()
        try:
            said = key.fileobj.recv(4096)
        except OSError:
            said = b""
        if not said:
            leave(key.data, key.fileobj)
