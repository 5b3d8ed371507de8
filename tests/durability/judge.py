"""What has to hold in each state that a power cut may leave, at any moment of a run (docs/DESIGN.md, Promises)."""

import re
from dataclasses import dataclass

from disk import BEFORE, Directory, File, Program
from wire import ACKNOWLEDGEMENT, Reader, xxh64

TEMPORARY = re.compile(r"\.qdrop-.*\.part")
HEARTBEAT = re.compile(r"\.qdrop-.*-alive\.part")
LEASE = 20  # seconds (limits::LEASE)


@dataclass
class Rules:
    """`sent`: what was sent under each name, as a set of contents."""

    replaces: bool
    sent: dict
    has_links: bool = True
    entries_need_data: bool = False


@dataclass
class Promise:
    since: int
    size: int
    digest: int


def plain(path):
    """The name that was sent, of one that has got a number."""
    return re.sub(r" \(\d+\)", "", path)


class Judge:
    def __init__(self, disk, rules):
        self.disk, self.rules = disk, rules
        self.faults, self.promises = [], []
        self.moments = self.looks = 0
        disk.on_change, disk.on_timed = self.changed, self.timed

    def program(self):
        program = Program(self.disk, Reader)
        program.on_sent = self.sent
        return program

    def fault(self, text):
        if text not in self.faults:
            self.faults.append(text)

    def event(self, program, call, is_end):
        program.event(call, is_end)
        self.moments += 1
        for slot in self.disk.touched:
            self.look(slot)
        self.disk.touched.clear()

    def changed(self, slot, change, before):
        """Looks at a change of a name by itself: a final one is given once, and is not taken away."""
        if change.call.name.startswith("link") and not self.rules.has_links:
            self.fault("there are links: the machine of tests/faults.c is not in force")
        if TEMPORARY.fullmatch(slot.name) or before is None or self.is_placeholder(slot, before):
            return
        how = "removed" if change.node is None else "changed"
        if change.node is None or not self.rules.replaces or isinstance(before, Directory):
            self.fault(f"{plain(slot.path())} was there and is {how} ({change.call.name})")

    def timed(self, file, call):
        """Looks at a file whose time is set: with an old one, others take it for one that nobody writes any more. One
        without bytes is there for a moment, perhaps, to see what the file system makes of a time."""
        second = int(re.findall(r"tv_sec=(-?\d+)", call.text)[-1])
        is_old = second < call.begin // 10**9 - LEASE
        is_alive = any(slot.now for name, slot in self.disk.root.slots.items() if HEARTBEAT.fullmatch(name))
        if file.content and is_old and not is_alive:
            self.fault("the time of a file is set before there is a heartbeat")

    def is_placeholder(self, slot, node):
        """Whether it is the empty file that reserves a name where there are no links."""
        return not self.rules.has_links and isinstance(node, File) and node.born is slot and not node.content

    def look(self, slot):
        """Looks at all that a name may lead to."""
        possible = slot.possible()
        self.looks += len(possible)
        if TEMPORARY.fullmatch(slot.name):
            return
        for change in possible:
            if isinstance(slot.promise, Directory):
                if change.node is not slot.promise:
                    self.fault(f"a receipt was given for a file below {slot.path()}, which may be lost")
                continue
            why = self.wrong(slot, change)
            if why and not self.is_weak(slot, change):
                self.fault(f"{plain(slot.path())} may be {why}")

    def is_weak(self, slot, change):
        """Whether it is less than whole as it may be without links, as long as it was not promised."""
        if slot.promise and change.call.begin <= slot.promise.since:
            return False
        if change.node and self.is_placeholder(slot, change.node):
            return slot.promise is None
        return self.is_unsettled(change) and self.content_fault(slot, change.node) is None

    def is_unsettled(self, change):
        return self.rules.entries_need_data and change.call.name.startswith("rename") and not change.settled

    def wrong(self, slot, change):
        """What is wrong with it, with a final name and perhaps a receipt."""
        node, promise = change.node, slot.promise
        if isinstance(node, Directory):
            return None
        if node is None:
            return "lost, and has a receipt" if promise else None
        if why := self.content_fault(slot, node):
            return why
        if self.is_unsettled(change):
            return "without its bytes: it was renamed, and not synchronised since"
        if promise and change.call.begin < promise.since:
            return "an older one than that of the receipt"
        return None

    def content_fault(self, slot, node):
        if node.dirty:
            return "less than whole: its bytes are not synchronised"
        content = bytes(node.content)
        if content not in self.rules.sent.get(plain(slot.path()), ()):
            return f"what nobody sent under this name ({len(content)} bytes)"
        return None

    def sent(self, call, reader, data):
        for receipt in reader.add(data):
            if receipt.status == 0:
                self.promised(receipt)

    def promised(self, receipt):
        slot = self.disk.slot(receipt.name)
        nodes = slot.history if slot else []
        fits = [it for it in nodes if isinstance(it.node, File) and self.is_it(receipt, it.node)]
        if not fits:
            self.fault(f"a receipt was given for {plain(receipt.name)}, which is not there")
            return
        if fits[-1].node.timed:
            self.fault(f"a receipt was given for {plain(receipt.name)}, whose time is not synchronised")
        # Of two with the same bytes the first: a receipt may be given again. One that took its place has come later.
        before = slot.promise.since if slot.promise else BEFORE.begin
        slot.promise = Promise(max(fits[0].call.begin, before), receipt.size, receipt.digest)
        self.promises.append((slot, slot.promise))
        self.look(slot)
        above = slot.directory.slot
        while above:
            above.promise = above.now
            self.look(above)
            above = above.directory.slot

    @staticmethod
    def is_it(receipt, node):
        return len(node.content) == receipt.size and xxh64(bytes(node.content)) == receipt.digest

    def recovered(self, there, promises):
        """Looks at a directory in which a receiver was started after a power cut."""
        for path, content in there.items():
            if content is None or TEMPORARY.fullmatch(path.rsplit("/")[-1]):
                continue
            is_weak = not self.rules.has_links and not content
            if not is_weak and content not in self.rules.sent.get(plain(path), ()):
                self.fault(f"after a cut {plain(path)} is what nobody sent under this name ({len(content)} bytes)")
        for path, size, digest in promises:
            content = there.get(path)
            if content is None:
                self.fault(f"after a cut {plain(path)} is lost, and has a receipt")
            elif not self.rules.replaces and (len(content), xxh64(content)) != (size, digest):
                self.fault(f"after a cut {plain(path)} is another one than that of the receipt")


class Sender:
    """Judges a sender that removes what it has sent."""

    def __init__(self, disk):
        self.disk, self.faults, self.removed = disk, [], {}
        self.confirmed = {}  # sizes and digests, for each connection
        disk.on_change = self.changed

    def program(self):
        program = Program(self.disk, Reader)
        program.on_received, program.on_sent = self.received, self.sent
        return program

    def received(self, call, reader, data):
        for receipt in reader.add(data):
            if receipt.status == 0:
                self.confirmed.setdefault(reader, set()).add((receipt.size, receipt.digest))

    def sent(self, call, reader, data):
        """After the acknowledgement the receiver may forget the files of these receipts."""
        if data.startswith(ACKNOWLEDGEMENT):
            for slot, what in self.removed.items():
                if what in self.confirmed.get(reader, ()) and slot.pending:
                    self.faults.append(f"qdrop lets {slot.path()} be forgotten, whose removal is not synchronised")

    def changed(self, slot, change, before):
        what = (len(before.content), xxh64(bytes(before.content))) if isinstance(before, File) else None
        self.removed[slot] = what
        if change.node or change.call.name not in ("unlink", "unlinkat"):
            self.faults.append(f"qdrop made or moved {slot.path()}")
        elif not any(what in confirmed for confirmed in self.confirmed.values()):
            self.faults.append(f"qdrop removed {slot.path()} before a receipt for it")
