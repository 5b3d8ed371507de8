"""A directory on a disk as a power cut may leave it, after calls of which not all were synchronised.

- The bytes of a file that were written since its last fsync or fdatasync may be there or not, in part, or as zeros.
  A sync counts for the writes that had ended before it began. After a sync that failed, those never count as
  synchronised until they are written again, since a kernel may have dropped them.
- Each change of a name (a file or directory made, a link, a rename, an unlink) that was not synchronised may be there
  or not, whatever becomes of the others, later ones of the same name included. A rename is one change of two names.
- A change is synchronised by an fsync of the directory, nothing else: no fsync of the file, no later change.
- The time of a file that was set since its last fsync may be there or not. It is asked for with the receipt alone.
- A name leads to all synchronised bytes of its file; on vfat one that a rename gave leads to none of them before the
  file has been synchronised again (`Change.settled`).

As each change is there or not on its own, what one name may lead to is what the last synchronised change made of it,
or any later one. So each state is covered without a list of all states, of which there are too many."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from calls import Call

BEFORE = Call("", "", -1, -1, 0, True)


class Unmodelled(Exception):
    """A call that nothing is known of."""


@dataclass(eq=False)
class Extent:
    begin: int
    end: int
    call: Call
    lost: bool = False


@dataclass(eq=False)
class File:
    content: bytearray = field(default_factory=bytearray)
    dirty: list = field(default_factory=list)
    slots: set = field(default_factory=set)  # names that it has had
    born: object = None  # the first of them
    timed: Call | None = None  # what has set its time, until that is synchronised

    def write(self, at, data, call):
        end = at + len(data)
        self.content[at:end] = data
        kept = []
        for old in self.dirty:
            if old.begin < at:
                kept.append(Extent(old.begin, min(old.end, at), old.call, old.lost))
            if old.end > end:
                kept.append(Extent(max(old.begin, end), old.end, old.call, old.lost))
        self.dirty = kept + [Extent(at, end, call)]

    def sync(self, call):
        covered = [it for it in self.dirty if ended(it.call, call)]
        # fdatasync is for the bytes alone.
        if call.ok and call.name == "fsync" and self.timed and ended(self.timed, call):
            self.timed = None
        if call.ok:
            self.dirty = [it for it in self.dirty if it.lost or it not in covered]
            for change in (change for slot in self.slots for change in slot.possible()):
                change.settled |= change.node is self and ended(change.call, call)
        else:
            for extent in covered:
                extent.lost = True


@dataclass(eq=False)
class Change:
    call: Call
    node: object  # a File or Directory, or None
    settled: bool = False  # whether the file was synchronised since


@dataclass(eq=False)
class Slot:
    """A name in a directory."""

    directory: object
    name: str
    base: Change = field(default_factory=lambda: Change(BEFORE, None))
    pending: list = field(default_factory=list)
    history: list = field(default_factory=list)
    now: object = None
    promise: object = None  # of a file: since which moment, and its receipt; of a directory: itself

    def possible(self):
        return [self.base, *self.pending]

    def path(self):
        above = self.directory.slot
        return f"{above.path()}/{self.name}" if above else self.name

    def settle(self, synced):
        covered = [change for change in self.pending if synced(change)]
        if covered:
            self.base = covered[-1]
            self.pending = [change for change in self.pending if change not in covered]


@dataclass(eq=False)
class Directory:
    slot: Slot | None = None
    slots: dict = field(default_factory=dict)

    def get(self, name):
        return self.slots.setdefault(name, Slot(self, name))

    def sync(self, call):
        if call.ok:
            for slot in self.slots.values():
                slot.settle(lambda change: ended(change.call, call))

    def walk(self):
        for slot in list(self.slots.values()):
            yield slot
            if isinstance(slot.now, Directory):
                yield from slot.now.walk()


def ended(call, sync):
    return call.end is not None and call.end < sync.begin


def look(top):
    """What is there: the bytes of each file, and None for each directory."""
    found = {}
    for path in sorted(Path(top).rglob("*")):
        found[str(path.relative_to(top))] = None if path.is_dir() else path.read_bytes()
    return found


class Disk:
    def __init__(self, top, unsynced=()):
        """`unsynced`: directories that somebody made and did not synchronise."""
        self.top, self.root = os.path.realpath(top), Directory()
        self.touched, self.uncertain = set(), []
        self.on_change = lambda slot, change, before: None
        self.on_timed = lambda file, call: None
        for path, content in look(top).items():
            directory, name = self.locate(path)
            slot = directory.get(name)
            node = Directory(slot) if content is None else File(bytearray(content), born=slot)
            change = Change(BEFORE, node, True)
            slot.now = node
            slot.history.append(change)
            if path in unsynced:
                slot.pending.append(change)
            else:
                slot.base = change
            if content is not None:
                node.slots.add(slot)

    def locate(self, path):
        """The directory and the name of a path within, else None."""
        whole = os.path.normpath(os.path.join(self.top, path))
        if not whole.startswith(self.top + "/"):
            return None
        *above, name = whole[len(self.top) + 1 :].split("/")
        directory = self.root
        for part in above:
            directory = directory.get(part).now
            if not isinstance(directory, Directory):
                return None
        return directory, name

    def slot(self, path):
        found = self.locate(path)
        return found and found[0].get(found[1])

    def node(self, path):
        if os.path.normpath(os.path.join(self.top, path)) == self.top:
            return self.root
        slot = self.slot(path)
        return slot and slot.now

    def make(self, slot, node, call):
        """Gives a name that nothing has. Where nobody knows the result, a name that is taken says that it failed."""
        if slot and not (slot.now and call.ok is None):
            self.change(slot, node, call)

    def change(self, slot, node, call):
        change, before = Change(call, node), slot.now
        slot.pending.append(change)
        slot.history.append(change)
        slot.now = node
        if isinstance(node, File):
            node.slots.add(slot)
        if call.ok is None:
            self.uncertain.append((slot, change, before))
        self.touched.add(slot)
        self.on_change(slot, change, before)

    def ended(self, moment, there):
        """A program has ended. `there`: what stands in the directory, which tells what calls have done during which
        it was killed, and whether the model is right."""
        taken = [(slot, change) for slot, change, _ in self.uncertain if change.node is None]
        for slot, change, before in reversed(self.uncertain):
            change.call.end = moment
            renamed = [it for it, other in taken if other.call is change.call]
            is_done = (slot.path() in there) == (change.node is not None)
            if renamed and renamed[0].path() in there:
                is_done = False
            if not is_done:
                slot.pending.remove(change)
                slot.history.remove(change)
                slot.now = before
        self.uncertain = []
        for slot in self.root.walk():
            for extent in getattr(slot.now, "dirty", ()):
                if extent.call.ok is None:
                    extent.call.end = moment
                    slot.now.content[:] = there[slot.path()]
        model = {
            slot.path(): bytes(slot.now.content) if isinstance(slot.now, File) else None
            for slot in self.root.walk()
            if slot.now
        }
        assert model == there, f"the model is wrong: {differing(model, there)}"

    def cut(self, chance, top):
        """Makes in the directory `top` what a power cut may leave."""
        calls = {change.call for slot in self.everything(self.root) for change in slot.pending}
        likely = chance.choice([0.1, 0.5, 0.9])
        stays = {call for call in sorted(calls, key=lambda it: it.begin) if chance.random() < likely}
        made = {}

        def make(directory, path):
            path.mkdir(exist_ok=True)
            for slot in directory.slots.values():
                changes = [slot.base, *(it for it in slot.pending if it.call in stays)]
                last = changes[-1]
                if isinstance(last.node, Directory):
                    make(last.node, path / slot.name)
                elif last.node in made:
                    os.link(made[last.node], path / slot.name)
                elif last.node:
                    (path / slot.name).write_bytes(left(last.node, chance))
                    made[last.node] = path / slot.name

        make(self.root, top)

    def everything(self, directory):
        """All names, those in directories included that are not there yet or any more."""
        for slot in directory.slots.values():
            yield slot
            for node in {change.node for change in slot.possible()}:
                if isinstance(node, Directory):
                    yield from self.everything(node)


def left(file, chance):
    content = bytearray(file.content)
    for extent in file.dirty:
        if chance.random() < 0.5:
            content[extent.begin : extent.end] = bytes(extent.end - extent.begin)
    if file.dirty and chance.random() < 0.5:
        del content[chance.choice(file.dirty).begin + chance.choice([0, 1]) :]
    return bytes(content)


def differing(one, other):
    return {path: (one.get(path, "absent"), other.get(path, "absent")) for path in one.keys() | other.keys()
            if one.get(path, "absent") != other.get(path, "absent")}


# Calls that change nothing that a power cut could take.
HARMLESS = set(
    "access accept bind clock_nanosleep connect epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 execve "
    "faccessat2 fadvise64 fstat fstatfs getcwd getdents64 getpeername getsockname getsockopt inotify_init1 ioctl "
    "listen lstat mmap newfstatat pipe2 poll ppoll pread64 readlink readlinkat rmdir setsockopt shutdown socketpair "
    "stat statfs statx".split()
)


@dataclass(eq=False)
class Description:
    """An open file, or a socket, whose `reader` has what travels."""

    node: object = None
    position: int = 0
    reader: object = None


class Program:
    """Does on a disk what a program did. Its own methods are named for the calls."""

    def __init__(self, disk, new_reader):
        self.disk, self.new_reader = disk, new_reader
        self.open, self.directory = {}, os.getcwd()
        self.on_sent = self.on_received = lambda call, reader, data: None

    def event(self, call, is_end):
        if call.name in HARMLESS or call.ok is False and call.name not in ("fsync", "fdatasync"):
            return
        method = getattr(self, f"{'end' if is_end else 'begin'}_{call.name}", None)
        other = getattr(self, f"{'begin' if is_end else 'end'}_{call.name}", None)
        if not method and not other:
            raise Unmodelled(call)
        if method:
            method(call)

    def paths(self, call):
        if call.text.count("AT_FDCWD") == 0 and call.name.endswith(("at", "at2")):
            raise Unmodelled(call)
        return [os.path.join(self.directory, os.fsdecode(path)) for path in call.strings()]

    def described(self, call):
        return self.open.get(call.number()) or Description()

    def begin_chdir(self, call):
        self.directory = os.path.realpath(self.paths(call)[0])

    def begin_openat(self, call):
        if not call.has("O_CREAT"):
            return
        slot = self.disk.slot(self.paths(call)[0])
        if slot and not slot.now:
            self.disk.change(slot, File(born=slot), call)

    def end_openat(self, call):
        if call.text.count("AT_FDCWD") == 0:
            return  # A directory of /proc, or one that is listed.
        node = self.disk.node(self.paths(call)[0])
        is_lost = not node and self.disk.slot(self.paths(call)[0])
        if is_lost or isinstance(node, File) and (call.has("O_TRUNC") or call.has("O_APPEND")):
            raise Unmodelled(call)
        self.open[call.result] = Description(node)

    begin_open, end_open = begin_openat, end_openat

    def begin_close(self, call):
        self.open.pop(call.number(), None)

    def end_fcntl(self, call):
        if call.has("F_DUPFD_CLOEXEC") or call.has("F_DUPFD"):
            self.open[call.result] = self.described(call)

    def end_socket(self, call):
        self.open[call.result] = Description(reader=self.new_reader())

    end_accept4 = end_socket

    def begin_mkdir(self, call):
        slot = self.disk.slot(self.paths(call)[0])
        self.disk.make(slot, Directory(slot), call)

    begin_mkdirat = begin_mkdir

    def begin_linkat(self, call):
        old, new = self.paths(call)
        self.disk.make(self.disk.slot(new), self.disk.node(old), call)

    begin_link = begin_linkat

    def begin_rename(self, call):
        old, new = map(self.disk.slot, self.paths(call))
        if not old or not new or isinstance(old.now, Directory):
            raise Unmodelled(call)
        node = old.now
        self.disk.change(old, None, call)
        self.disk.change(new, node, call)

    begin_renameat = begin_renameat2 = begin_rename

    def begin_unlink(self, call):
        slot = self.disk.slot(self.paths(call)[0])
        if slot:
            self.disk.change(slot, None, call)

    begin_unlinkat = begin_unlink

    def begin_write(self, call):
        to, data = self.described(call), b"".join(call.strings())[: call.result]
        if isinstance(to.node, File):
            to.node.write(to.position, data, call)
            to.position += len(data)
            self.disk.touched |= to.node.slots
        elif to.reader:
            self.on_sent(call, to.reader, data)

    begin_writev = begin_sendto = begin_sendmsg = begin_write

    def end_read(self, call):
        source = self.described(call)
        source.position += call.result
        if source.reader:
            self.on_received(call, source.reader, b"".join(call.strings())[: call.result])

    end_recvfrom = end_read

    def begin_utimensat(self, call):
        node = self.described(call).node
        if isinstance(node, File):
            node.timed = call
            self.disk.on_timed(node, call)

    def end_lseek(self, call):
        self.described(call).position = call.result

    def end_fsync(self, call):
        node = self.described(call).node
        if node:
            node.sync(call)
            self.disk.touched |= node.slots if isinstance(node, File) else set(node.slots.values())

    end_fdatasync = end_fsync
