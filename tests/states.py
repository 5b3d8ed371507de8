#!/usr/bin/env python3
"""Every state of the list transfer (docs/PROTOCOL.md, 3) that small cases can come to: senders that try again, lines
that break and leave their bytes on the way, a receiver that is killed, sources that change. Looks at each for what
must never be. With --plants: puts faults into the model, one by one, and shows the shortest way on which each is found.

A step is what one program does without being seen by another in between. A comment says which function it is.
Usage: states.py [CASE...], or states.py --plants [FAULT...]; CASES and PLANTS have the names."""

import sys
import time
from typing import NamedTuple

CHUNKS = 2  # of which a body consists: one may be there without the other


class Case(NamedTuple):
    """What there is to begin with, and how much may happen."""

    files: int = 1
    senders: int = 1
    connections: int = 2
    breaks: int = 1  # of connections, and times that a receiver waits no longer
    restarts: int = 0  # of the receiver
    kills: int = 0  # of a sender, which is started again
    changes: int = 0  # of a source
    noises: int = 0  # of which each changes a chunk on the way
    same_stamp: bool = False  # which size and time do not show
    common: int = 0  # chunks that all versions of a file have in common
    links: bool = True  # whether the receiver's file system has hard links
    resume: bool = True  # --resume or --remove-source; else flag 1 is for what is in doubt
    remove: bool = False  # --remove-source
    replace: bool = False  # --on-conflict replace


# A source is a version and a stamp (size and time), or nothing once it is removed. Content is a tuple of chunks: a
# file, a version, a position. It is its own digest, as XXH64 is taken to be perfect.


class Sender(NamedTuple):
    files: tuple  # what is known of each: todo, doubt, stored, gone
    conn: int = -1
    waits: str = ""  # for what: answer, receipts, or nothing
    asked: tuple = ()  # the files of the list and their stamps
    sent: tuple = ()  # the bodies without a receipt: file, content (None: not the file), stamp
    owes: bool = False  # receipts that are not acknowledged (Outgoing::has_receipts)
    ended: bool = False


class Conn(NamedTuple):
    """A connection: what is on the way, and the receiver's side of it."""

    up: tuple = ()  # from the sender
    left: bool = False  # whether nothing follows that: the sender is gone
    down: tuple = ()  # from the receiver
    alive: bool = True  # whether the receiver has it
    resume: bool = False
    wanted: tuple = ()  # file, stamp, have, here: None, ("part", content), ("stored", content, where), ("taken",)
    active: tuple = ()  # the body that comes: file, stamp, content, or None in its place if it was taken over
    whole: tuple = ()  # bodies without a name yet: file, stamp, content
    receipts: tuple = ()
    unacknowledged: tuple = ()  # tickets: file, stamp, number of the connection
    copies: tuple = ()  # (file, stamp) of its list, None or what is stored of it meanwhile: content, flag 1 (ActiveList)
    earlier: frozenset = frozenset()  # connections whose lists began before and are not over
    late: frozenset = frozenset()  # files of its list in whose place a later list has put another one


class State(NamedTuple):
    sources: tuple
    senders: tuple
    conns: tuple
    stored: tuple = ()  # under final names: (file, content)
    kept: tuple = ()  # (file, stamp), content: .qdrop-kept-ID.part with one name
    links: tuple = ()  # (file, stamp), content, ticket or None: second names of stored files
    memory: tuple = ()  # (file, stamp), ticket, content or None while it is placed, flag 1 (Unacknowledged)
    told: frozenset = frozenset()  # file, version of which a sender has said stored
    removed: frozenset = frozenset()  # file, version of removed sources
    shared: tuple = ()  # what is written where a plant lets two connections write to one file
    left: tuple = ()  # breaks, restarts, kills, changes, noises


# Those that more than one place asks for.
LATE = "the receipts are acknowledged before the source is removed"
NEITHER = "a size is enough to both sides"
DUMB = "a receiver does not answer"
SHARED = ("two connections find a kept part", "a body that is taken over stays with its connection")


def content(case, file, version):
    return tuple((file, version if n >= case.common else 0, n) for n in range(CHUNKS))


def put(items, index, item):
    return items[:index] + (item,) + items[index + 1 :]


def get(pairs, key):
    return next((pair for pair in pairs if pair[0] == key), None)


def without(pairs, key):
    return tuple(pair for pair in pairs if pair[0] != key)


def keep(state, key, part):
    """kept::release: of two parts of a file the longer one stays."""
    there = get(state.kept, key)
    if not part or there and len(there[1]) >= len(part):
        return state
    return state._replace(kept=tuple(sorted(without(state.kept, key) + ((key, part),))))


class Model:
    def __init__(self, case, plant=""):
        self.case, self.plant = case, plant

    def first(self):
        case = self.case
        sender = Sender(("todo",) * case.files)
        left = (case.breaks, case.restarts, case.kills, case.changes, case.noises)
        return State(((0, 0),) * case.files, (sender,) * case.senders, (), left=left)

    def steps(self, state):
        """What can happen next: what it is called, and the state after it."""
        for number in range(len(state.senders)):
            yield from self.sender(state, number)
        for number, conn in enumerate(state.conns):
            if conn.alive:
                yield from self.receiver(state, number)
        yield from self.world(state)

    def settled(self, state):
        """Takes the steps that nobody else can see or stop: receipts are written when there are all, and a
        connection closes on which nothing comes any more."""
        for number, conn in enumerate(state.conns):
            if not conn.alive or conn.wanted or conn.active or conn.whole:
                continue
            if conn.receipts:
                # A sender that is gone reads nothing.
                down = conn.down + conn.receipts if not conn.left else ()
                conn = conn._replace(receipts=(), down=down)
            if conn.left and not conn.up:
                if self.plant == "the end of a stream acknowledges":
                    state = self.acknowledged(state, number)
                conn = Conn(alive=False)
            conn = conn._replace(copies=(), earlier=frozenset(), late=frozenset())
            gone = frozenset((number,))
            conns = (it._replace(earlier=it.earlier - gone) if it.earlier else it for it in state.conns)
            state = state._replace(conns=put(tuple(conns), number, conn))
        return state

    # --- The world: links, machines, people.

    def world(self, state):
        breaks, restarts, kills, changes, noises = state.left
        for number, sender in enumerate(state.senders):
            if breaks and sender.conn >= 0:
                # What was written may still arrive, as far as it came, long after the sender has gone on.
                # An end, a reset and silence differ in when the receiver goes on, which may be any time.
                for length in range(len(state.conns[sender.conn].up) + 1):
                    broken = self.broken(self.cut(state, sender.conn, length), number)
                    yield f"the line of sender {number} breaks", self.spend(broken, 0)
            if kills and not sender.ended:
                killed = state
                if sender.conn >= 0:
                    length = len(state.conns[sender.conn].up)
                    killed = self.cut(state, sender.conn, length)
                fresh = Sender(tuple("todo" if it else "gone" for it in state.sources))
                senders = put(killed.senders, number, fresh)
                yield f"sender {number} is killed", self.spend(killed._replace(senders=senders), 2)
        if restarts:
            yield "the receiver is killed", self.spend(self.restarted(state), 1)
        for file, source in enumerate(state.sources):
            if changes and source and self.may_change(state, file):
                version, stamp = source
                stamp += not self.case.same_stamp
                sources = put(state.sources, file, (version + 1, stamp))
                yield f"file {file} changes", self.spend(state._replace(sources=sources), 3)

        for number, conn in enumerate(state.conns):
            for at, message in enumerate(conn.up if noises else ()):
                if isinstance(message[0], int):
                    up = put(conn.up, at, (message[0], -1, message[2]))
                    conns = put(state.conns, number, conn._replace(up=up))
                    changed = self.spend(state._replace(conns=conns), 4)
                    yield f"a chunk to {number} changes on the way", changed

    def may_change(self, state, file):
        """A file that is being read is not changed unseen: what is read then may be anything."""
        reads = (body[0] == file for sender in state.senders for body in sender.sent)
        return not (self.case.same_stamp and any(reads))

    def spend(self, state, what):
        return state._replace(left=put(state.left, what, state.left[what] - 1))

    def cut(self, state, number, length):
        """The sender is gone, and so many messages of it are on the way."""
        conn = state.conns[number]
        conn = conn._replace(up=conn.up[:length], left=True, down=()) if conn.alive else Conn(alive=False)
        return state._replace(conns=put(state.conns, number, conn))

    def broken(self, state, number):
        """Outgoing::read_receipts and Run::record: what was sent and has no receipt is in doubt."""
        sender = state.senders[number]
        files = list(sender.files)
        for file, _, _ in sender.sent:
            files[file] = "doubt"
        sender = Sender(tuple(files))
        return state._replace(senders=put(state.senders, number, sender))

    def restarted(self, state):
        """A SIGKILL, and the sweep of the next receiver (Inbox::open, Sweep)."""
        for conn in state.conns:
            if len(conn.active) == 3 and conn.active[2] is not None:
                state = keep(state, conn.active[:2], conn.active[2])
            for file, stamp, whole in conn.whole:
                state = keep(state, (file, stamp), whole)
            for file, stamp, _, here in conn.wanted:
                if here and here[0] == "part":
                    state = keep(state, (file, stamp), here[1])
        links = []
        for key, body, _ in state.links:
            if key not in (it[0] for it in links):
                links.append((key, body, None))
        for number, sender in enumerate(state.senders):
            if sender.conn >= 0:
                state = self.broken(state, number)
        conns = tuple(Conn(alive=False) for _ in state.conns)
        return state._replace(conns=conns, links=tuple(links), memory=())

    # --- The sender (src/cli/client/job.rs, src/transfer/send/list.rs).

    def sender(self, state, number):
        sender = state.senders[number]
        if sender.ended:
            return
        conn = state.conns[sender.conn] if sender.conn >= 0 else None
        if not sender.waits:
            if conn and conn.down == ("end",):
                fresh = sender._replace(conn=-1, owes=False)
                gone = self.cut(state, sender.conn, len(conn.up))
                yield f"sender {number} sees the end", gone._replace(senders=put(gone.senders, number, fresh))
            elif any(it in ("todo", "doubt") for it in sender.files):
                yield from self.ask(state, number)
            else:
                yield f"sender {number} ends", self.end(state, number)
        elif conn.down:
            message, rest = conn.down[0], conn.down[1:]
            taken = state._replace(conns=put(state.conns, sender.conn, conn._replace(down=rest)))
            if message == "end":
                taken = self.cut(taken, sender.conn, len(conn.up))
                yield f"sender {number} sees the end", self.broken(taken, number)
            elif message[0] == "answer":
                yield from self.answered(taken, number, message[1])
            else:
                yield f"sender {number} reads a receipt", self.receipt(taken, number, message)

    def ask(self, state, number):
        """Run::send_list and Outgoing::offer. Lists are of files that are alike (QueuedFile::is_alike)."""
        sender = state.senders[number]
        kind = next(it for it in sender.files if it in ("todo", "doubt"))
        files = tuple(n for n, it in enumerate(sender.files) if it == kind and state.sources[n])
        if not files:
            gone = tuple("gone" if it == kind else it for it in sender.files)
            fresh = sender._replace(files=gone)
            yield f"sender {number} finds no file", state._replace(senders=put(state.senders, number, fresh))
            return
        conns, where = state.conns, sender.conn
        if where < 0:
            if len(conns) == self.case.connections:
                return
            where, conns = len(conns), conns + (Conn(),)
        asked = tuple((n, state.sources[n][1]) for n in files)
        resume = self.case.resume or kind == "doubt"
        if self.plant == "what is in doubt is asked for without flag 1":
            resume = self.case.resume
        conn = conns[where]
        conn = conn._replace(up=conn.up + (("list", resume, asked),))
        fresh = sender._replace(conn=where, waits="answer", asked=asked, owes=False)
        senders = put(state.senders, number, fresh)
        asks = state._replace(conns=put(conns, where, conn), senders=senders)
        yield f"sender {number} asks on {where}", asks

    def answered(self, state, number, verdicts):
        """Outgoing::send_body for each file that is wanted. In `mixed` a source changes while it is read."""
        sender = state.senders[number]
        conn = state.conns[sender.conn]
        may_mix = state.left[3] and not self.case.same_stamp
        for mixed in (None, *(range(self.case.files) if may_mix else ())):
            up, sent, sources = conn.up, [], state.sources
            is_mixed, removed = False, state.removed
            for (file, stamp), verdict in zip(sender.asked, verdicts):
                if verdict in ("later", "busy"):
                    continue
                source = sources[file]
                if not source or source[1] != stamp:
                    # Source::open_listed: gone, or another one.
                    up += (("start", None),)
                    continue
                have, digest = verdict
                own = content(self.case, file, source[0])
                matches = own[:have] == digest
                if self.plant in ("the sender does not compare digests", NEITHER):
                    matches = True
                start = have if matches else 0
                good = True
                if file == mixed and start + 1 < CHUNKS:
                    own = own[: start + 1] + content(self.case, file, source[0] + 1)[start + 1 :]
                    sources = put(sources, file, (source[0] + 1, source[1] + 1))
                    good = is_mixed = True
                    # Source::has_changed, after the last byte.
                    if self.plant != "the sender does not look whether a file changed":
                        good = False
                up += (("start", start), *own[start:], ("seal", own if good else None))
                sent.append((file, own if good else None, stamp))
                if self.plant == "a source is removed before its receipt":
                    removed, sources = removed | {(file, source[0])}, put(sources, file, None)
            if mixed is not None and not is_mixed:
                continue
            fresh = sender._replace(waits="receipts" if sent else "", sent=tuple(sent))
            after = state._replace(
                sources=sources,
                removed=removed,
                conns=put(state.conns, sender.conn, conn._replace(up=up)),
                senders=put(state.senders, number, fresh),
            )
            yield f"sender {number} sends bodies", self.spend(after, 3) if is_mixed else after

    def receipt(self, state, number, message):
        """verify_receipt, and Run::record, which removes the source."""
        sender = state.senders[number]
        file, own, stamp = sender.sent[0]
        is_stored = message == ("stored", own)
        if self.plant == NEITHER:
            is_stored = message[0] == "stored"
        # Who was in doubt of a file stays so (QueuedFile::in_doubt).
        files = put(sender.files, file, "stored") if is_stored else sender.files
        sent = sender.sent[1:]
        fresh = sender._replace(files=files, sent=sent, waits="receipts" if sent else "", owes=not sent)
        state = state._replace(senders=put(state.senders, number, fresh))
        if not is_stored:
            return state
        version = own[-1][1] if own else 0
        state = state._replace(told=state.told | {(file, version)})
        source = state.sources[file]
        # OpenedFile::check
        is_it = source and (source[1] == stamp or self.plant == "a source is removed that has changed")
        if self.case.remove and is_it and self.plant != LATE:
            state = self.remove(state, file)
        return state

    def remove(self, state, file):
        removed = state.removed | {(file, state.sources[file][0])}
        return state._replace(sources=put(state.sources, file, None), removed=removed)

    def end(self, state, number):
        """Outgoing::end: FF, and the end of the stream."""
        sender = state.senders[number]
        if sender.conn >= 0:
            conn = state.conns[sender.conn]
            last = (("acknowledgement",),) if sender.owes else ()
            state = state._replace(conns=put(state.conns, sender.conn, conn._replace(up=conn.up + last)))
            state = self.cut(state, sender.conn, len(conn.up) + 1)
        fresh = Sender(sender.files, ended=self.plant != LATE or sender.conn < 0)
        if self.plant == LATE and fresh.ended:
            for file, source in enumerate(state.sources):
                state = self.remove(state, file) if source else state
        return state._replace(senders=put(state.senders, number, fresh))

    # --- The receiver (src/transfer/receive/list.rs, src/disk/known.rs).

    def receiver(self, state, number):
        conn = state.conns[number]
        idle = not (conn.wanted or conn.active)
        if conn.whole:
            # Group::is_due, or all bodies have come.
            yield f"{number} is stored", self.commit(state, number)
            if idle:
                return
        if conn.up:
            message = conn.up[0]
            state = state._replace(conns=put(state.conns, number, conn._replace(up=conn.up[1:])))
            if message[0] == "list":
                yield from self.list(self.acknowledged(state, number), number, message)
            elif message[0] == "acknowledgement":
                yield f"{number} is acknowledged", self.acknowledged(state, number)
            elif message[0] == "start":
                yield f"{number} starts a body", self.start(state, number, message[1])
            elif message[0] == "seal":
                yield f"{number} has a seal", self.seal(state, number, message[1])
            else:
                yield f"{number} has a chunk", self.chunk(state, number, message)
        elif conn.left:
            yield f"{number} ends", self.closed(state, number)
        elif state.left[0] and idle:
            # Phase::Acknowledgement has passed, or Phase::NextFile.
            yield f"{number} waits no longer", self.spend(self.closed(state, number), 0)

    def closed(self, state, number):
        """Whole files get their names, parts are kept (Inbox::keep), the sender sees the end."""
        if state.conns[number].whole:
            state = self.commit(state, number)
        conn = state.conns[number]
        if conn.resume and len(conn.active) == 3 and conn.active[2] is not None:
            state = keep(state, conn.active[:2], conn.active[2])
        for file, stamp, _, here in conn.wanted:
            if here and here[0] == "part":
                state = keep(state, (file, stamp), here[1])
        down = conn.down + conn.receipts + ("end",) if not conn.left else ()
        return state._replace(conns=put(state.conns, number, Conn(alive=False, down=down)))

    def list(self, state, number, message):
        """Conversation::receive_list. What is silent another connection can take (PartialStore::take)."""
        _, resume, asked = message
        silences = (False, True) if resume and self.others(state, number, asked) else (False,)
        for silent in silences:
            after, verdicts, wanted = state, [], []
            for key in asked:
                after, verdict, here = self.decide(after, number, key, resume, silent, bool(wanted))
                verdicts.append(verdict)
                if verdict not in ("later", "busy"):
                    wanted.append((*key, verdict[0], here))
            conn = after.conns[number]
            is_silent = conn.left or self.plant == DUMB
            down = conn.down if is_silent else conn.down + (("answer", tuple(verdicts)),)
            copies = tuple((key, None) for key in asked)
            conn = conn._replace(down=down, resume=resume, wanted=tuple(wanted), copies=copies)
            earlier = frozenset(n for n, it in enumerate(after.conns) if it.copies and n != number)
            conn = conn._replace(earlier=earlier if self.case.replace else frozenset())
            what = " and takes over" if silent else ""
            yield f"{number} answers{what}", after._replace(conns=put(after.conns, number, conn))

    def others(self, state, number, asked):
        """Parts of these files that other connections have."""
        found = []
        for n, conn in enumerate(state.conns):
            if n != number and conn.alive:
                if len(conn.active) == 3 and conn.active[:2] in asked and conn.active[2]:
                    found.append((n, None, conn.active[2]))
                parts = (it for it in enumerate(conn.wanted) if it[1][3] and it[1][3][0] == "part")
                found += [(n, index, it[3][1]) for index, it in parts if it[:2] in asked]
        return found

    def decide(self, state, number, key, resume, silent, has_wanted):
        """Conversation::decide, with Inbox::known and Inbox::take_part."""
        nothing = (state, (0, ()), None)
        if not resume:
            return nothing
        known = get(state.memory, key)
        if known and known[2] is None:
            return state, "busy", None
        if known:
            body = known[2]
            digest = () if self.plant == "a digest is not told" else body
            return state, (CHUNKS, digest), ("stored", body, None)
        others = self.others(state, number, (key,))
        if silent and others:
            if has_wanted:
                return state, "later", None
            n, index, part = max(others, key=lambda it: len(it[2]))
            if self.plant != "a body that is taken over stays with its connection":
                conn = state.conns[n]
                if index is None:
                    conn = conn._replace(active=(*conn.active[:2], None))
                else:
                    wanted = (*conn.wanted[index][:3], ("taken",))
                    conn = conn._replace(wanted=put(conn.wanted, index, wanted))
                state = state._replace(conns=put(state.conns, n, conn))
            return state, (len(part), part), ("part", part)
        link = get(state.links, key)
        if link:
            return state, (CHUNKS, link[1]), ("stored", link[1], "disk")
        part = get(state.kept, key)
        if not part:
            return nothing
        if has_wanted:
            return state, "later", None
        if self.plant != "two connections find a kept part":
            state = state._replace(kept=without(state.kept, key))
        return state, (len(part[1]), part[1]), ("part", part[1])

    def start(self, state, number, start):
        """Conversation::receive_listed."""
        conn = state.conns[number]
        (file, stamp, have, here), rest = conn.wanted[0], conn.wanted[1:]
        conn = conn._replace(wanted=rest)
        if start is None:
            state = state._replace(conns=put(state.conns, number, conn))
            return keep(state, (file, stamp), here[1]) if here and here[0] == "part" else state
        if here and here[0] == "stored" and start == have:
            conn = conn._replace(active=(file, stamp, here[1], here[2] or "memory"))
        elif start and here and here[0] == "taken":
            conn = conn._replace(active=(file, stamp, None))
        else:
            conn = conn._replace(active=(file, stamp, here[1] if start else ()))
        return state._replace(conns=put(state.conns, number, conn))

    def chunk(self, state, number, chunk):
        """Conversation::receive_body. One whose body was taken over ends (ErrorKind::ConnectionAborted)."""
        conn = state.conns[number]
        if conn.active[2] is None:
            return self.closed(state, number)
        key, at = conn.active[:2], len(conn.active[2])
        active = (*key, conn.active[2] + (chunk,))
        if self.plant in SHARED:
            before = get(state.shared, key) or (key, conn.active[2])
            file = before[1][:at] + (chunk,) + before[1][at + 1 :]
            state = state._replace(shared=without(state.shared, key) + ((key, file),))
        return state._replace(conns=put(state.conns, number, conn._replace(active=active)))

    def seal(self, state, number, sealed):
        """Conversation::confirm, or finish_body and the rest of receive_rest."""
        conn = state.conns[number]
        file, stamp, body = conn.active[:3]
        key = (file, stamp)
        if body is None:
            return self.closed(state, number)
        is_known = len(conn.active) == 4
        on_disk = is_known and conn.active[3] == "disk"
        conn = conn._replace(active=())
        good = sealed == body
        if self.plant in ("the seal is not looked at", NEITHER):
            good = True
        ticket = (*key, number)

        def answer(receipt, tickets=(), state=state):
            # Those before it have theirs first (Outcomes::repeat, Conversation::refuse).
            after = state._replace(conns=put(state.conns, number, conn))
            after = self.commit(after, number) if conn.whole else after
            it = after.conns[number]
            it = it._replace(receipts=it.receipts + (receipt,), unacknowledged=it.unacknowledged + tickets)
            return after._replace(conns=put(after.conns, number, it))

        if not good:
            return answer(("damaged",))
        if is_known:
            if on_disk and not get(state.memory, key):
                # Inbox::confirm
                memory = state.memory + ((key, ticket, body, True),)
                links = without(state.links, key) + ((key, body, ticket),)
                state = state._replace(memory=tuple(sorted(memory)), links=links)
            known = get(state.memory, key)
            tickets = (known[1],) if known and known[2] == body else ()
            return answer(("stored", body), tickets, state)
        copy = get(conn.copies, key)[1]
        if copy and (copy[1] or conn.resume) and copy[0] == body:
            if self.plant != "what is stored meanwhile is stored again":
                return answer(("stored", body))
        known = get(state.memory, key)
        if known and known[2] is None and (known[3] or conn.resume):
            # Unacknowledged::begin
            if self.plant != "two connections store one file at once":
                return answer(("busy",))
        memory = without(state.memory, key) + ((key, ticket, None, conn.resume),)
        links = state.links
        if known:
            links = tuple(it for it in links if it[2] != known[1])
        conn = conn._replace(whole=conn.whole + ((file, stamp, body),))
        conns = put(state.conns, number, conn)
        return state._replace(memory=tuple(sorted(memory)), links=links, conns=conns)

    def commit(self, state, number):
        """Outcomes::commit: names, then Inbox::remember, then the receipts."""
        for file, stamp, body in state.conns[number].whole:
            key, ticket = (file, stamp), (file, stamp, number)
            conn = state.conns[number]
            shared = get(state.shared, key)
            if self.plant != "the receipt comes before the name":
                if file in conn.late and self.plant != "an earlier list replaces a later one":
                    state = self.refuse_late(state, number, key)
                    continue
                state = self.store(state, number, file, shared[1] if shared else body)
            known = get(state.memory, key)
            if known and known[1] == ticket and self.plant != "what has its name is still being stored":
                memory = without(state.memory, key) + ((key, ticket, body, known[3]),)
                state = state._replace(memory=tuple(sorted(memory)))
                if self.case.links and self.plant != "no link is kept":
                    state = state._replace(links=state.links + ((key, body, ticket),))
            # PartialStore::note_stored
            conns = tuple(
                it._replace(copies=without(it.copies, key) + ((key, (body, conn.resume)),))
                if get(it.copies, key)
                else it
                for it in state.conns
            )
            receipts = conn.receipts + (("stored", body),)
            conn = conns[number]
            conn = conn._replace(receipts=receipts, unacknowledged=conn.unacknowledged + (ticket,))
            state = state._replace(conns=put(conns, number, conn))
            if self.plant == "the receiver forgets before the acknowledgement":
                state = self.acknowledged(state, number)
        conn = state.conns[number]._replace(whole=())
        return state._replace(conns=put(state.conns, number, conn))

    def store(self, state, number, file, body):
        """Inbox::place_one: a new name, or with --on-conflict replace that of what was there."""
        if not self.case.replace:
            return state._replace(stored=tuple(sorted(state.stored + ((file, body),))))
        stored = tuple(sorted([it for it in state.stored if it[0] != file] + [(file, body)]))
        # ListOrder::note_stored, for the lists that began before this one.
        mine = state.conns[number]
        conns = tuple(
            it._replace(late=it.late | {file}) if n in mine.earlier else it
            for n, it in enumerate(state.conns)
        )
        return state._replace(stored=stored, conns=conns)

    def refuse_late(self, state, number, key):
        """StoreError::Superseded."""
        conn = state.conns[number]
        memory = tuple(it for it in state.memory if it[1] != (*key, number))
        conn = conn._replace(receipts=conn.receipts + (("busy",),))
        return state._replace(memory=memory, conns=put(state.conns, number, conn))

    def acknowledged(self, state, number):
        """Outcomes::acknowledge, Inbox::forget."""
        conn = state.conns[number]
        tickets = conn.unacknowledged
        memory = tuple(it for it in state.memory if it[1] not in tickets)
        links = tuple(it for it in state.links if it[2] not in tickets)
        conn = conn._replace(unacknowledged=())
        return state._replace(memory=memory, links=links, conns=put(state.conns, number, conn))


# --- What must never be.


def damaged(case, state):
    return any(body != content(case, file, body[-1][1]) for file, body in state.stored)


def lost(case, state):
    there = {(file, body[-1][1]) for file, body in state.stored}
    if case.replace:
        # What its sender has replaced itself is no loss.
        newest = dict(sorted(state.told))
        stored = {file: version for file, version in there}
        return any(stored.get(file, -1) < version for file, version in newest.items())
    return not state.told <= there


def doubled(case, state):
    forgets = not case.links and case.restarts and not state.left[1]
    acknowledged = case.kills and not case.remove
    # Of what changed without a sign, only what was stored last is known to be the same.
    unseen = case.same_stamp and not state.left[3]
    return not (forgets or acknowledged or unseen) and len(set(state.stored)) != len(state.stored)


def removed_for_nothing(case, state):
    there = {(file, body[-1][1]) for file, body in state.stored}
    return not state.removed <= there


CLAIMS = [
    ("what is stored is one version of the file, and all of it", damaged),
    ("what a sender calls stored is stored, and stays", lost),
    ("a file is stored once, as long as its receiver remembers", doubled),
    ("what a sender removes is stored", removed_for_nothing),
]
FINISHED = "whatever happened, the sender can come to its end"


def search(case, plant=""):
    """Returns how many states there are, and the first claim that fails with the way there."""
    model = Model(case, plant)
    states = [model.first()]
    numbers = {states[0]: 0}
    before = [None]
    into = [[]]
    # The list grows while it is read: a search in breadth, whose ways are the shortest.
    for at, state in enumerate(states):
        for claim, fails in CLAIMS:
            if fails(case, state):
                return len(states), claim, way(before, at)
        for what, following in model.steps(state):
            following = model.settled(following)
            number = numbers.setdefault(following, len(states))
            if number == len(states):
                states.append(following)
                before.append((at, what))
                into.append([])
            into[number].append(at)
    stuck = unfinished(case, states, into)
    return (len(states), None, []) if stuck is None else (len(states), FINISHED, way(before, stuck))


def unfinished(case, states, into):
    """Returns a state from which no way leads to the end of all senders, which may be the first one, or None. Where
    there is no connection left for another try, the case is too small to tell."""

    def is_end(state):
        full = len(state.conns) == case.connections
        return all(it.ended or full and it.conn < 0 for it in state.senders)

    good = [at for at, state in enumerate(states) if is_end(state)]
    can = set(good)
    while good:
        for at in into[good.pop()]:
            if at not in can:
                can.add(at)
                good.append(at)
    return next((at for at in range(len(states)) if at not in can), None)


def way(before, at):
    steps = []
    while before[at]:
        at, what = before[at]
        steps.append(what)
    return steps[::-1]


# The cases. "unseen": neither size nor time shows that a file has changed.
CASES = {
    "a line that breaks twice": Case(connections=3, breaks=2),
    "without --resume": Case(connections=3, breaks=2, resume=False),
    "without hard links": Case(connections=3, breaks=2, links=False),
    "a receiver that is killed": Case(connections=3, breaks=1, restarts=1),
    "a receiver that is killed, without --resume": Case(connections=3, breaks=1, restarts=1, resume=False),
    "a receiver that is killed, without hard links": Case(connections=3, breaks=1, restarts=1, links=False),
    "a line that changes bytes": Case(connections=3, breaks=1, noises=1),
    "two files": Case(files=2, connections=3, breaks=1),
    "two files, a receiver that is killed": Case(files=2, connections=3, breaks=1, restarts=1),
    "a file that changes": Case(connections=3, breaks=1, changes=1),
    "a file that changes to its end": Case(connections=3, breaks=1, changes=1, common=1),
    "a file that changes unseen": Case(connections=3, breaks=2, changes=1, same_stamp=True),
    "a file that changes unseen to its end": Case(connections=3, breaks=2, changes=1, same_stamp=True, common=1),
    "--remove-source": Case(connections=3, breaks=1, kills=1, remove=True),
    "--remove-source, a file that changes": Case(connections=3, breaks=1, changes=1, remove=True),
    "--remove-source, a receiver that is killed": Case(connections=3, restarts=1, kills=1, breaks=0, remove=True),
    "--remove-source, two senders": Case(senders=2, connections=3, breaks=1, remove=True),
    "--on-conflict replace": Case(connections=3, breaks=1, changes=1, remove=True, replace=True),
    "--on-conflict replace, without hard links": Case(connections=3, breaks=2, changes=1, links=False, replace=True),
}

# Each fault, and the case in which it shows.
PLANTS = {
    "the receiver forgets before the acknowledgement": "a line that breaks twice",
    "the end of a stream acknowledges": "a line that breaks twice",
    "what is in doubt is asked for without flag 1": "without --resume",
    "no link is kept": "a receiver that is killed",
    "the receipt comes before the name": "a line that breaks twice",
    "the sender does not compare digests": "a file that changes unseen",
    NEITHER: "a file that changes unseen",
    "the seal is not looked at": "a line that changes bytes",
    "the sender does not look whether a file changed": "a file that changes",
    "what is stored meanwhile is stored again": "a line that breaks twice",
    "two connections store one file at once": "a line that breaks twice",
    "two connections find a kept part": "a file that changes unseen to its end",
    "a body that is taken over stays with its connection": "a file that changes unseen to its end",
    "a source is removed that has changed": "--remove-source, a file that changes",
    "a source is removed before its receipt": "--remove-source",
    LATE: "--remove-source",
    "an earlier list replaces a later one": "--on-conflict replace",
    "what has its name is still being stored": "a line that breaks twice",
    DUMB: "a line that breaks twice",
}


def run(name, plant=""):
    """Searches a case, and returns whether a claim fails."""
    began = time.monotonic()
    states, failed, steps = search(CASES[name], plant)
    figures = f"{states} states, {time.monotonic() - began:.1f} s"
    print(f"{plant or name}: {figures}" + (f"\n  not so: {failed}" if failed else ""))
    for step in steps:
        print("   ", step)
    return states, bool(failed)


def main():
    args = sys.argv[1:]
    plants = args[:1] == ["--plants"]
    names = args[plants:]
    if unknown := set(names) - set(PLANTS if plants else CASES):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}")
    if plants:
        found = [run(case, plant)[1] for plant, case in PLANTS.items() if not names or plant in names]
        print(f"{sum(found)} of {len(found)} planted faults found")
        sys.exit(not all(found))
    began = time.monotonic()
    results = [run(name) for name in names or CASES]
    for claim in [claim for claim, _ in CLAIMS] + [FINISHED]:
        print(f"claim: {claim}")
    states = sum(states for states, _ in results)
    print(f"{states} states of {len(results)} cases, {time.monotonic() - began:.0f} s")
    sys.exit(any(failed for _, failed in results))


if __name__ == "__main__":
    main()
