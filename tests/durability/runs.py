"""Runs of the real programs under strace, and their trial."""

import contextlib
import heapq
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import calls
import wire
from disk import Disk, Unmodelled, look
from judge import Judge, Rules, Sender

ROOT = Path(__file__).resolve().parents[2]
# Of tests/faults.c.
WITHOUT_LINKS = ["exfat", "vfat"]
PATIENCE = 60  # seconds, for whatever is waited for
OLD = 1_700_000_000  # when files were modified


def eventually(what, condition):
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            sys.exit(f"not in {PATIENCE} s: {what}")
        time.sleep(0.005)
    return value


class Bench:
    """What all trials share: the programs, the library of faults, chance."""

    def __init__(self, binaries, seed, cuts):
        """`cuts`: how many states of each trial another qdropd is started with."""
        self.binaries, self.cuts = Path(binaries), cuts
        self.chance, self.counts = random.Random(seed), Counter()
        self.here = Path(tempfile.mkdtemp(prefix="qdrop-durability-")).resolve()
        self.library, self.directories = self.here / "faults.so", []
        build = ["cc", "-O1", "-shared", "-fPIC", "-o", self.library, ROOT / "tests/faults.c", "-ldl"]
        subprocess.run(build, check=True, stderr=subprocess.DEVNULL)

    def directory(self):
        self.directories.append(Path(tempfile.mkdtemp(dir=self.here)))
        return self.directories[-1]

    def clear(self):
        while self.directories:
            shutil.rmtree(self.directories.pop())

    def close(self):
        shutil.rmtree(self.here)


def steps(number, run):
    """The events of a run with its number, by their moments, and its end."""
    events, moment, _ = run
    for call, is_end in events:
        yield call.end if is_end else call.begin, number, call, is_end
    yield moment, number, None, True


class Receiver:
    """A qdropd under strace."""

    def __init__(self, bench, top, options, faults="", inject=None):
        trace = bench.directory()
        self.top, self.trace = top, trace / "calls"
        command = [*calls.TRACER, self.trace]
        if faults:
            for setting in (f"LD_PRELOAD={bench.library}", f"FAULTS={faults}", f"REFUSED={trace}/refused"):
                command += ["-E", setting]
        command += ["-e", f"inject={inject}"] if inject else []
        command += [bench.binaries / "qdropd", "--listen", "127.0.0.1:0", *options, top]
        bench.counts["runs of qdropd"] += 1
        with open(trace / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL)
        line = self.process.stdout.readline().decode()
        if not line and not inject:
            sys.exit(f"qdropd does not listen:\n{(trace / 'log').read_text()}")
        self.port = int(line.rsplit(":", 1)[1]) if line else None

    def has_failed(self):
        """Whether a call has failed that is to fail."""
        return b"(INJECTED)" in self.trace.read_bytes() or (self.trace.parent / "refused").exists()

    def was_killed(self):
        """Waits for the end of one that serves one connection."""
        return self.process.wait(PATIENCE) == -signal.SIGKILL

    def stop(self):
        """Kills it, if it runs, and returns what it leaves."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        has_ended(self.trace, self.process.pid)
        return look(self.top)


def has_ended(trace, process):
    """strace notes the end of a program after all that it did."""
    end = re.compile(rf"^{process} +[0-9.]+ \+\+\+ .*\n\Z".encode(), re.MULTILINE)

    def last():
        with open(trace, "rb") as file:
            file.seek(-min(100, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read()

    eventually("strace ends", lambda: trace.exists() and end.search(last()))


class Trial:
    """Some runs of qdropd on one directory, one after the other or at once."""

    def __init__(self, bench, options=(), faults="", before=None, others=(), sources=None):
        """`before`: files that are there, on the disk. `others`: directories that are, and may not be."""
        self.bench, self.options, self.faults = bench, [*options], faults
        self.top, self.source = bench.directory(), bench.directory()
        self.sent, self.receivers, self.running, self.senders = {}, [], 0, []
        for path, content in (before or {}).items():
            self.put(self.top / path, content)
            self.sent.setdefault(path, set()).add(content)
        unsynced = set()
        for path in others:
            (self.top / path).mkdir(parents=True)
            unsynced |= {str(it) for it in (Path(path), *Path(path).parents)}
        self.sources = sources or {}
        for path, content in self.sources.items():
            self.note(f"tree/{path}", content)
        self.put_sources()
        self.disk = Disk(self.top, unsynced)
        self.rules = Rules("replace" in self.options, self.sent, faults not in WITHOUT_LINKS, faults == "vfat")

    @staticmethod
    def put(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def put_sources(self):
        for path, content in self.sources.items():
            self.put(self.source / "tree" / path, content)
            os.utime(self.source / "tree" / path, (OLD, OLD))

    def note(self, name, content):
        if "--subdirs" not in self.options:
            name = name.rsplit("/")[-1]
        self.sent.setdefault(name, set()).add(content)

    @contextlib.contextmanager
    def receiver(self, *options, faults=None, inject=None):
        faults = self.faults if faults is None else faults
        receiver = Receiver(self.bench, self.top, [*self.options, *options], faults, inject)
        self.running += 1
        try:
            yield receiver
        finally:
            self.running -= 1
            there = receiver.stop()
            # Where another one runs, what is there may change at any moment.
            self.receivers.append((receiver.trace, None if self.running else there))

    def deliver(self, receiver, files):
        """In the classic transfer, on one connection."""
        for name, content in files:
            self.note(name, content)
        return wire.deliver(receiver.port, files)

    def send(self, receiver, *options):
        """All sources, with qdrop under strace. Returns the exit status."""
        trace = self.bench.directory() / "calls"
        disk = Disk(self.source)
        command = [*calls.TRACER, trace, self.bench.binaries / "qdrop", "-q", "-r", *options]
        command += [f"127.0.0.1:{receiver.port}", self.source / "tree"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        process.wait(PATIENCE)
        has_ended(trace, process.pid)
        self.senders.append((trace, disk, look(self.source)))
        return process.returncode

    def send_all(self, receiver, *options):
        """All sources likewise, where nothing fails."""
        status = self.send(receiver, *options)
        assert status == 0, f"qdrop {' '.join(options)} ends with {status}"

    def judge(self):
        """Returns the faults. The trial is over then."""
        judge = Judge(self.disk, self.rules)
        runs = [(*calls.read(trace), there) for trace, there in self.receivers]
        try:
            states = self.replay(judge, runs)
            self.judge_senders(judge)
            self.put_sources()
            for top, promises in states:
                self.recover(judge, top, promises)
        except (Unmodelled, AssertionError) as error:
            judge.fault(f"{type(error).__name__}: {error}")
        self.bench.counts["receipts"] += len(judge.promises)
        self.bench.counts["moments"] += judge.moments
        self.bench.counts["things that a name may lead to"] += judge.looks
        self.bench.clear()
        return judge.faults

    def replay(self, judge, runs):
        """Returns some states that a power cut may leave, each with what was promised by then."""
        changing = re.compile("openat|write|fsync|sendto|(mkdir|link|rename|unlink)(at2?)?")
        all_calls = (call for events, *_ in runs for call, is_end in events if is_end and call.ok)
        moments = [call.begin for call in all_calls if changing.fullmatch(call.name)]
        cuts = set(self.bench.chance.sample(moments, min(self.bench.cuts, len(moments))))
        states = []
        programs = [judge.program() for _ in runs]
        for moment, number, call, is_end in heapq.merge(*map(steps, range(len(runs)), runs), key=lambda step: step[:2]):
            if not call:
                if (there := runs[number][2]) is not None:
                    self.disk.ended(moment, there)
                continue
            judge.event(programs[number], call, is_end)
            if call.begin in cuts and not is_end:
                top = self.bench.directory()
                self.disk.cut(self.bench.chance, top)
                promises = [(slot.path(), it.size, it.digest) for slot, it in judge.promises]
                states.append((top, promises))
        return states

    def recover(self, judge, top, promises):
        """Starts another qdropd with what a power cut has left, sends all sources once more, and judges that, too."""
        self.bench.counts["states made and recovered from"] += 1
        judge.recovered(look(top), promises)
        again = Judge(Disk(top), self.rules)
        receiver = Receiver(self.bench, top, self.options, self.faults if self.faults in WITHOUT_LINKS else "")
        try:
            command = [self.bench.binaries / "qdrop", "-q", "-r", "--resume", f"127.0.0.1:{receiver.port}"]
            if self.sources:
                status = subprocess.run([*command, self.source / "tree"], capture_output=True).returncode
                if status != 0 and "refuse" not in self.options:
                    judge.fault(f"after a cut files could not be sent again (status {status})")
        finally:
            there = receiver.stop()
        judge.recovered(there, promises)
        events, moment = calls.read(receiver.trace)
        program = again.program()
        for call, is_end in events:
            again.event(program, call, is_end)
        again.disk.ended(moment, there)
        judge.moments, judge.looks = judge.moments + again.moments, judge.looks + again.looks
        for fault in again.faults:
            judge.fault(f"after a cut {fault}")

    def judge_senders(self, judge):
        """Also looks whether a receiver has given a receipt for each file that a sender has removed."""
        kept = {(it.size, it.digest) for _, it in judge.promises}
        for trace, disk, there in self.senders:
            sender = Sender(disk)
            events, moment = calls.read(trace)
            program = sender.program()
            for call, is_end in events:
                program.event(call, is_end)
            disk.ended(moment, there)
            self.bench.counts["sources removed"] += len(sender.removed)
            for fault in sender.faults:
                judge.fault(fault)
            for slot, what in sender.removed.items():
                if what not in kept:
                    judge.fault(f"qdrop removed {slot.path()}, of which nobody gave a receipt")
