#!/usr/bin/env python3
"""What receivers leave of a film whose sender is killed in the middle: `make torture-peers`.

The film has 200 MB. Once 30 MB of it stand in the receiver's directory the sender gets SIGKILL, so
that it can neither say goodbye nor clean up. Half a film under the final name is the worst that can
be left, since it looks like a whole one.

Prints a Markdown table. Fails if qdropd leaves anything, or logs anything but a failure.
QDROP_BIN is the directory of qdrop and qdropd, QDROP_QT that of qt-receive.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

MB = 1_000_000
WHOLE, ENOUGH = 200 * MB, 30 * MB
NAME = "film.mkv"
PATIENCE = 20  # seconds, for whatever is waited for
BUILT = filter(None, map(os.environ.get, ("QDROP_BIN", "QDROP_QT")))
PATH = ":".join([*BUILT, os.environ["PATH"], "/usr/sbin", "/usr/lib/openssh"])
ENV = os.environ | {"PATH": PATH, "LC_ALL": "C.UTF-8"}
SYSLOG = "/dev/log"


@dataclass
class Peer:
    """Its lines are a shell's in a directory {here}, where film.mkv, config and drop/ are."""

    name: str
    package: str  # of Debian, with the programs
    programs: str
    version: str
    receive: str  # empty if the sender starts its receiver
    send: str
    options: str = ""
    config: str = ""
    verdict: str = ""  # which words of its log decide; empty if it keeps none
    one_shot: bool = False
    syslog: bool = False  # its log goes there; it needs root, too

    def title(self):
        shown = subprocess.run(["sh", "-c", f"({self.version}) 2>&1"], env=ENV, capture_output=True)
        version = re.search(r"\d+\.\d[\w.-]*", shown.stdout.decode())
        return f"{self.name} {version[0] if version else ''}{self.options}"

    def obstacle(self):
        if not all(shutil.which(program, path=ENV["PATH"]) for program in self.programs.split()):
            return f"not installed, left out (apt-get install {self.package})"
        return "needs root, left out" if self.syslog and os.getuid() != 0 else None


VSFTPD = """listen=YES
listen_address=127.0.0.1
listen_port={port}
background=NO
run_as_launching_user=YES
seccomp_sandbox=NO
secure_chroot_dir={here}/empty
anonymous_enable=YES
no_anon_password=YES
anon_root={here}
anon_upload_enable=YES
write_enable=YES
delete_failed_uploads=YES
xferlog_enable=YES
vsftpd_log_file={here}/log
"""

RSYNCD = """use chroot = no
log file = {here}/log
[drop]
path = {here}/drop
read only = no
"""
if os.getuid() == 0:
    RSYNCD += "uid = 0\ngid = 0\n"  # instead of nobody

QDROPD = Peer(
    name="qdropd",
    package="",
    programs="qdropd qdrop",
    version="qdropd --version",
    receive="qdropd --listen 127.0.0.1:{port} drop",
    send="qdrop --quiet 127.0.0.1:{port} film.mkv",
    verdict="(stored|failed) .*",
)

# Each has the options with which it leaves the least.
PEERS = [
    Peer(
        name="vsftpd",
        options=", delete_failed_uploads=YES",
        package="vsftpd curl",
        programs="vsftpd curl",
        version="vsftpd -v 0>&1",
        config=VSFTPD,
        receive="vsftpd {here}/config",
        send="curl -sST film.mkv ftp://127.0.0.1:{port}/drop/",
        verdict=r"\w+ UPLOAD.* bytes",
    ),
    Peer(
        name="tftpd-hpa",
        package="tftpd-hpa curl",
        programs="in.tftpd curl",
        version="in.tftpd --version",
        receive="in.tftpd -Lcv -u root -a 127.0.0.1:{port} -s {here}/drop",
        # With blocks of 512 bytes it could not count up to 200 MB.
        send="curl -sS --tftp-blksize 65464 -T film.mkv tftp://127.0.0.1:{port}/",
        verdict="tftpd: .*",
        syslog=True,
    ),
    Peer(
        name="OpenSSH sftp-server",
        package="openssh-sftp-server openssh-client",
        programs="sftp-server sftp",
        version="ssh -V",
        config="put film.mkv drop/",
        receive="",
        # Its limit is 50 MB/s: it moves 200 MB in less time than a busy machine may take to look.
        send="sftp -q -l 400000 -b config"
        """ -D 'sh -c "sftp-server -el INFO 2>log; echo $? >status"'""",
        verdict='(forced )?close ".*',
        one_shot=True,
    ),
    Peer(
        name="rsync daemon",
        package="rsync",
        programs="rsync",
        version="rsync --version",
        config=RSYNCD,
        receive="rsync --daemon --no-detach --config config --address 127.0.0.1 --port {port}",
        send="rsync film.mkv rsync://127.0.0.1:{port}/drop/",
        verdict=r"rsync error: .* \(code \d+\)",
    ),
    Peer(
        name="netcat-openbsd",
        package="netcat-openbsd",
        programs="nc",
        version="nc -h",
        receive="nc -l 127.0.0.1 {port} >drop/film.mkv",
        send="nc 127.0.0.1 {port} <film.mkv",
        one_shot=True,
    ),
    Peer(
        name="Qt",
        options=", the tutorial's receiver",
        package="qtbase5-dev",
        programs="qt-receive qdrop",
        version="realpath $(ldd $(command -v qt-receive) | grep -o '/.*Core[^ ]*')",
        receive="qt-receive {port} drop",
        send="qdrop --quiet 127.0.0.1:{port} film.mkv",
        verdict="(received|cut) .*",  # The tutorial's own says nothing.
    ),
    QDROPD,
    replace(QDROPD, options=" --once", receive=f"{QDROPD.receive} --once", one_shot=True),
]


def eventually(condition):
    """Whether it came true; None is for the caller to tell of."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return value


def free_port():
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())  # TFTP's
        return tcp.getsockname()[1]


def listens(port):
    """Asks the kernel: to connect would be the one transfer of a one-shot receiver."""
    sockets = "".join(Path("/proc/net", table).read_text() for table in ("tcp", "udp"))
    return re.search(rf":{port:04X} [0-9A-F]+:0000 (0A|07) ", sockets)


def has_open(directory):
    """Whether any process still has a file below it open, that is, has not noticed the end."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor).startswith(f"{directory}/"):
                return True
    return False


def sizes(directory):
    found = {}
    for file in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[file.name] = file.stat().st_size
    return found


@contextlib.contextmanager
def running(line, here):
    """A program in a process group of its own, none of which outlives it."""
    with open(here / "log", "a") as log:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {line}"],
            cwd=here,
            env=ENV,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def syslog(wanted):
    """Takes the place of a syslog where there is none; else None."""
    if not wanted or os.path.exists(SYSLOG):
        yield None
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taken:
        taken.bind(SYSLOG)
        taken.setblocking(False)
        try:
            yield taken
        finally:
            os.unlink(SYSLOG)


def kill_in_the_middle(sender, drop):
    """Lets it run for a moment at a time: at full speed 200 MB are over before one has looked."""

    def enough():
        if sender.poll() is not None:
            sys.exit(f"the sender ended before it was killed:\n{(drop / '../log').read_text()}")
        sender.send_signal(signal.SIGCONT)
        time.sleep(0.001)
        sender.send_signal(signal.SIGSTOP)
        return sum(sizes(drop).values()) >= ENOUGH

    if not eventually(enough):
        sys.exit(f"too little arrived: {sizes(drop)}\n{(drop / '../log').read_text()}")
    sender.kill()
    sender.wait()


def measure(peer):
    """The files that are left, what the log says, and the exit status."""
    with contextlib.ExitStack() as stack:
        here = Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        drop, log, status = here / "drop", here / "log", here / "status"
        drop.mkdir()
        (here / "empty").mkdir()
        with open(here / NAME, "wb") as film:
            film.truncate(WHOLE)  # None of the senders looks for holes.
        port = free_port()
        config, receive, send = (
            text.format(here=here, port=port) for text in (peer.config, peer.receive, peer.send)
        )
        (here / "config").write_text(config)
        messages = stack.enter_context(syslog(peer.syslog))
        receiver = None
        if receive:
            receiver = stack.enter_context(running(receive, here))
            if not eventually(lambda: listens(port) or receiver.poll() is not None):
                sys.exit(f"{peer.name} does not listen:\n{log.read_text()}")
        kill_in_the_middle(stack.enter_context(running(send, here)), drop)

        def exit_status():
            if receiver:
                return "" if receiver.poll() is None else str(receiver.returncode)
            return status.read_text().strip() if status.exists() else ""

        def verdict():
            with contextlib.suppress(BlockingIOError):
                while messages:
                    with open(log, "ab") as file:
                        file.write(messages.recv(4096) + b"\n")
            return re.search(peer.verdict, log.read_text(errors="replace"))

        noticed = eventually(lambda: not has_open(drop))
        if peer.one_shot:
            noticed = eventually(exit_status) and noticed
        if not peer.verdict:
            said = "(it keeps none)"
        elif peer.syslog and not messages:
            said = "(see the syslog of this machine)"
        elif found := eventually(verdict):
            said = f"`{found[0].replace(str(here), '')}`"
        else:
            said = "nothing of it"
        if not noticed:
            said += f"; nothing noticed after {PATIENCE} s"
        return sizes(drop), said, exit_status() or "(runs on)"


def main():
    if QDROPD.obstacle():
        sys.exit("run `make torture-peers`: it sets QDROP_BIN")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # So that it tidies up as well.
    print("| receiver | under the final name | left besides | its log says | exit status |")
    print("| --- | --- | --- | --- | --- |")
    sound = True
    for peer in PEERS:
        if obstacle := peer.obstacle():
            print(f"{peer.name}: {obstacle}", file=sys.stderr)
            continue
        files, said, status = measure(peer)
        if peer.name == QDROPD.name:
            sound &= not files and said.startswith("`failed ")
        sized = {name: f"{size / MB:.1f} of {WHOLE // MB} MB" for name, size in files.items()}
        final = f"**{sized.pop(NAME)}**" if NAME in sized else "nothing"
        others = ", ".join(f"`{name}`, {size}" for name, size in sized.items()) or "nothing"
        print(f"| {peer.title()} | {final} | {others} | {said} | {status} |", flush=True)
    if not sound:
        sys.exit("qdropd left something, or did not log a failure")


main()
