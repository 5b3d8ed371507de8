"""Connections from other addresses of this machine, which want something of a receiver that is not to
their credit, or are many and honest. Prints "ready" when it has begun, and ends with its standard input; then it
prints what came of it. Usage: strangers.py WHAT HOST:PORT SOURCE COUNT"""

import os
import socket
import struct
import sys
import threading
import time

what, (host, port), source, count = (
    sys.argv[1],
    sys.argv[2].rsplit(":", 1),
    sys.argv[3],
    int(sys.argv[4]),
)
over = threading.Event()
done = []


def fail(error):
    """Whoever waits for a thread that failed sees the end of this program."""
    sys.__excepthook__(error.exc_type, error.exc_value, error.exc_traceback)
    os._exit(1)


threading.excepthook = fail


def connect(address=source, buffer=None):
    connection = socket.socket()
    if buffer:
        # The smaller the segments, the less waits in the receiver's system.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.bind((address, 0))
    connection.settimeout(60)
    connection.connect((host, int(port)))
    return connection


def exactly(connection, size):
    """Reads so many bytes, or up to the end. MSG_WAITALL does not wait where there is a time limit."""
    read = b""
    while len(read) < size and (piece := connection.recv(size - len(read))):
        read += piece
    return read


def header(name, body, header_size=False):
    """A header of either dialect."""
    name = name.encode("utf-16-be")
    second = 20 + len(name) if header_size else 4 + len(name)
    return struct.pack(">qqI", 20 + len(name) + body, second, len(name)) + name


def at_once(work, threads=None):
    """Runs `work(number)` in as many threads as there are connections, and says so when all have begun."""
    threads = [
        threading.Thread(target=work, args=(number,), daemon=True) for number in range(threads or count)
    ]
    for thread in threads:
        thread.start()
    return threads


def silent(_):
    # One that is thrown out comes back at once.
    while not over.is_set():
        try:
            connection = connect()
            done.append(1)
            connection.recv(1)
            connection.close()
        except OSError:
            time.sleep(0.01)


def trickling(number):
    # A byte each half a second, which no limit on silence notices.
    while not over.is_set():
        try:
            connection = connect()
            connection.sendall(header(f"trickle {number}", 1 << 40))
            while not over.is_set():
                connection.sendall(b"x")
                done.append(1)
                time.sleep(0.5)
        except OSError:
            time.sleep(0.01)


def unread(number):
    # Many files, whose receipts are never read.
    while not over.is_set():
        try:
            connection = connect(buffer=2048)
            connection.sendall(header("n" * 200, 0) * 600)
            connection.shutdown(socket.SHUT_WR)
            done.append(1)
            time.sleep(2)
        except OSError:
            time.sleep(0.01)


def hoarding(number):
    # Receipts of ten thousand files, on a connection that stays.
    connection = connect()
    one = header("h" * 100, 0, True)
    try:
        for _ in range(10):
            connection.sendall(one * 1000)
        connection.sendall(header(f"last {number}", 0, True))
    except OSError:
        pass
    done.append(1)
    over.wait()


def returning(number):
    # From four addresses: a file, an idle time, and a byte of the next.
    connection = connect(f"127.0.1.{number % 4 + 1}")
    connection.sendall(header("idle", 1, True) + b"x")
    gate.wait()
    try:
        connection.sendall(b"\0")
        done.append(1)
    except OSError:
        pass
    over.wait()


def honest(number, tries=200):
    # Of fifty addresses; each brings one file and reads its receipt.
    name, body, receipt = f"honest {number}", bytes(20_000), b""
    connection = connect(f"127.0.2.{number % 50 + 1}")
    try:
        connection.sendall(header(name, len(body)) + body)
        connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(4096):
            receipt += piece
    except TimeoutError:
        raise
    except OSError:
        # It had to leave, which is as good as being told so.
        receipt = receipt or b"QDR1\7"
    if receipt[:5] == b"QDR1\7" and tries:
        # Busy: qdrop tries again, too, for a minute.
        time.sleep(0.25)
        return honest(number, tries - 1)
    if receipt[:5] == b"QDR1\0":
        done.append(1)


def idling(number):
    # A file of a header-size program, which then keeps its connection.
    connection = connect()
    connection.sendall(header(f"idle {number}", 1, True) + b"x")
    done.append(1)
    over.wait()


def heavy(number):
    # As many, each with a larger file; from two addresses.
    connection = connect(f"127.0.0.{number % 2 + 2}")
    connection.sendall(header(f"heavy {number}", 600_000, True) + bytes(600_000))
    done.append(1)
    over.wait()


def naming(number):
    # The longest name, and a part of a large body.
    connection = connect()
    connection.sendall(header("\ue000" * 32768, 10_000_000) + bytes(600_000))
    done.append(1)
    over.wait()


def listing(number):
    # A list of the names that take most, and a part of a large body. Each from an address of its own, so that
    # all have a place.
    name = ("\u4e2d" * 54).encode("utf-16-be")
    entry = struct.pack(">qI", 0, len(name)) + name
    entries = struct.pack(">Q", 10_000_000) + entry + (bytes(8) + entry) * 1849
    connection = connect(f"127.0.1.{number + 1}")
    connection.sendall(b"\xffQDROP\0\2" + struct.pack(">III", 0, len(entries), 1850) + entries)
    connection.recv(1)
    connection.sendall(bytes(8 + 600_000))
    done.append(1)
    over.wait()


def lengths(number):
    # Files with names of many lengths, on connections that stay.
    connection = connect(f"127.0.0.{number % 2 + 2}")
    for length in range(1, 1000, 13):
        connection.sendall(header("n" * length, 1, True) + b"x")
    connection.sendall(header(f"last {number}", 0, True))
    done.append(1)
    over.wait()


def waiting(number):
    # A byte of a header, and no more.
    connection = connect()
    connection.sendall(b"\0")
    done.append(1)
    over.wait()


def ask(connection, name):
    """Asks for a file of 1000 bytes that is to be resumed: how many of them are there."""
    name = name.encode("utf-16-be")
    entry = struct.pack(">QqI", 1000, 0, len(name)) + name
    connection.sendall(b"\xffQDROP\0\2" + struct.pack(">III", 1, len(entry), 1) + entry)
    answer = exactly(connection, 9)
    if answer != b"QDO2" + struct.pack(">IB", 1, 1):
        return 0
    return struct.unpack(">Q8x", exactly(connection, 16))[0]


def keeping(number):
    # The beginning of a file that is to be kept, unless there is one.
    connection = connect()
    if ask(connection, f"keep {source} {number}") == 100:
        done.append(1)
    else:
        connection.sendall(bytes(8 + 100))


def resuming(number):
    # A file that is kept to be resumed; then its sender is asked, and reads its own file for long.
    have = 0
    while have != 100:
        connection = connect()
        have = ask(connection, f"resume {number}")
        if not have:
            connection.sendall(bytes(8 + 100))
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
    done.append(1)
    over.wait()
    connection.sendall(struct.pack(">Q", 100) + bytes(400))
    # A short pause of the network.
    time.sleep(2.5)
    # With the seal, and XXH64 of 1000 bytes of 0.
    connection.sendall(bytes(500) + bytes.fromhex("00 0e2b1ef27944075a"))
    connection.shutdown(socket.SHUT_WR)
    is_stored = exactly(connection, 5) == b"QDR1\0"
    # In one piece, since others do so at the same moment.
    sys.stdout.write(f"{is_stored}\n")
    sys.stdout.flush()


def ordering(_):
    # A hundred empty files.
    connection = connect()
    connection.sendall(header("ordered", 0) * 100)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(65536):
        pass
    done.append(1)


def crowding(_):
    # From two addresses as many connections between two files as there may be; further ones, whose receipts
    # are many and never read, have to leave.
    def idle(address, files):
        connection = connect(address, buffer=2048)
        connection.sendall(files)
        kept.append(connection)
        return connection

    kept = []
    one, many = header("s", 0, True), header("n" * 255, 0, True) * 120
    for _ in range(252):
        idle(source, one)
    fresh = [idle("127.0.0.3", one) for _ in range(196)]
    while not over.is_set():
        try:
            for _ in range(60):
                idle("127.0.0.3", many)
            time.sleep(0.1)
            for connection in fresh:
                connection.sendall(one)
        except OSError:
            pass
        time.sleep(0.1)
        done.append(1)


def leaving(_):
    # Files whose receipts are never read, on connections that come to their end.
    kept = []
    while not over.is_set():
        try:
            connection = connect(buffer=2048)
            connection.sendall(header("n" * 255, 0) * 450)
            connection.shutdown(socket.SHUT_WR)
            kept.append(connection)
        except OSError:
            pass
        done.append(1)
        if len(kept) >= 300:
            over.wait()


def scattered(number):
    # Of addresses of their own: as many receipts as leave no room for others, on connections that stay.
    connection = connect(f"127.0.6.{number + 1}")
    connection.sendall(header("n" * 255, 0, True) * 121)
    done.append(1)
    over.wait()


def newest(_):
    # One file from each of many addresses, which then keep their connections; and ever more of them.
    kept = []
    while not over.is_set():
        connection = connect(f"127.1.{len(kept) // 250 % 250}.{len(kept) % 250 + 1}")
        connection.sendall(header("idle", 0, True))
        kept.append(connection)
        done.append(1)
        if len(kept) > count:
            time.sleep(0.02)


gate = threading.Event()
threads = at_once({name: globals()[name] for name in
                   ("silent", "trickling", "unread", "hoarding", "returning", "idling", "waiting",
                    "keeping", "resuming", "honest", "ordering", "crowding", "newest", "leaving", "scattered", "heavy", "naming", "listing", "lengths")}[what],
                  1 if what in ("crowding", "newest", "leaving") else None)
if what in ("keeping", "honest"):
    for thread in threads:
        thread.join()
else:
    while len(done) < count and what != "returning":
        time.sleep(0.01)
print("ready", flush=True)
if what == "returning":
    sys.stdin.readline()
    gate.set()
    while len(done) < count:
        time.sleep(0.01)
    print("returned", flush=True)
sys.stdin.read()
over.set()
if what == "resuming":
    for thread in threads:
        thread.join()
print(len(done), flush=True)
