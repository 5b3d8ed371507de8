"""As much of docs/PROTOCOL.md as is needed to send files, to cut a transfer off, and to read receipts."""

import functools
import socket
import struct
from dataclasses import dataclass

RECEIPT, ANSWER = 0x51445231, 0x51444F32
RESUME, ACKNOWLEDGES = 1, 64
ACKNOWLEDGEMENT = b"\xff"


def string(text):
    encoded = text.encode("utf-16-be")
    return struct.pack(">I", len(encoded)) + encoded


def header(name, body):
    encoded = string(name)
    return struct.pack(">qq", 16 + len(encoded) + len(body), len(encoded)) + encoded


def question(files):
    """A list of (name, size, modified in milliseconds)."""
    entries = b"".join(struct.pack(">Qq", size, modified) + string(name) for name, size, modified in files)
    head = struct.pack(">III", RESUME | ACKNOWLEDGES, len(entries), len(files))
    return b"\xffQDROP\0\x02" + head + entries


@dataclass(frozen=True)
class Receipt:
    status: int
    size: int
    digest: int
    name: str


class Reader:
    """What a receiver writes on one connection, as it comes."""

    def __init__(self):
        self.bytes, self.digests = b"", 0

    def add(self, data):
        """Returns the receipts that are whole by now."""
        self.bytes += data
        found = []
        while (step := self.step()) is not None:
            self.bytes, receipt = step
            found += [receipt] if receipt else []
        return found

    def step(self):
        """What is left behind the next message, and the receipt if it is one; None if it is not whole."""
        rest = self.bytes
        if self.digests:
            if len(rest) < 8 * self.digests:
                return None
            count, self.digests = self.digests, 0
            return rest[8 * count :], None
        try:
            (magic,) = struct.unpack_from(">I", rest)
            if magic == ANSWER:
                return self.answer(rest)
            assert magic == RECEIPT, rest[:40]
            status, size, digest = struct.unpack_from(">BQQ", rest, 4)
            name, at = self.string(rest, 21)
            _, at = self.string(rest, at)
        except struct.error:
            return None
        return rest[at:], Receipt(status, size, digest, name)

    def answer(self, rest):
        (count,) = struct.unpack_from(">I", rest, 4)
        at, digests = 8, 0
        for _ in range(count):
            verdict = struct.unpack_from(">B", rest, at)[0]
            at += 1
            if verdict == 1:
                struct.unpack_from(">Q", rest, at)
                at, digests = at + 8, digests + 1
            elif verdict == 2:
                _, at = self.string(rest, at)
            elif verdict == 3:
                _, at = self.string(rest, at + 1)
        self.digests = digests
        return rest[at:], None

    @staticmethod
    def string(data, at):
        (length,) = struct.unpack_from(">I", data, at)
        length = 0 if length == 0xFFFFFFFF else length
        (encoded,) = struct.unpack_from(f">{length}s", data, at + 4)
        return encoded.decode("utf-16-be"), at + 4 + length


def deliver(port, files):
    """Sends files on one connection in the classic transfer, and returns the receipts that come."""
    with socket.create_connection(("127.0.0.1", port)) as stream:
        return converse(stream, b"".join(header(name, body) + body for name, body in files))


def converse(stream, data):
    received = bytearray()
    try:
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        while piece := stream.recv(65536):
            received += piece
    except OSError:
        pass  # The receiver was killed.
    return Reader().add(bytes(received))


def begin(port, name, body, modified, come):
    """A connection on which the first bytes of a file have come that may be resumed."""
    stream = socket.create_connection(("127.0.0.1", port))
    stream.sendall(question([(name, len(body), modified)]))
    assert stream.recv(9, socket.MSG_WAITALL) == struct.pack(">IIB", ANSWER, 1, 0)
    stream.sendall(struct.pack(">Q", 0) + body[:come])
    return stream


PRIMES = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MASK = (1 << 64) - 1


def rotate(word, bits):
    return (word << bits | word >> 64 - bits) & MASK


def turn(lane, word):
    return rotate(lane + word * PRIMES[1] & MASK, 31) * PRIMES[0] & MASK


@functools.cache
def xxh64(data):
    """XXH64 with seed 0, from its specification."""
    first, second, third, fourth, fifth = PRIMES
    whole = len(data) // 32 * 32
    if whole:
        lanes = [(first + second) & MASK, second, 0, -first & MASK]
        for words in struct.iter_unpack("<4Q", data[:whole]):
            lanes = [turn(lane, word) for lane, word in zip(lanes, words)]
        digest = sum(rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18))) & MASK
        for lane in lanes:
            digest = ((digest ^ turn(0, lane)) * first + fourth) & MASK
    else:
        digest = fifth
    digest = (digest + len(data)) & MASK
    rest = data[whole:]
    words = len(rest) // 8 * 8
    for (word,) in struct.iter_unpack("<Q", rest[:words]):
        digest = (rotate(digest ^ turn(0, word), 27) * first + fourth) & MASK
    rest = rest[words:]
    if len(rest) >= 4:
        digest = (rotate(digest ^ struct.unpack_from("<I", rest)[0] * first & MASK, 23) * second + third) & MASK
        rest = rest[4:]
    for byte in rest:
        digest = rotate(digest ^ byte * fifth & MASK, 11) * first & MASK
    for shift, prime in ((33, second), (29, third), (32, 1)):
        digest = (digest ^ digest >> shift) * prime & MASK
    return digest
