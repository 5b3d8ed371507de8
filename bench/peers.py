"""The tools that bench.py measures, each as a shell would start it."""

import functools
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from document import ROOT

TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()
RESULTS = TARGET / "bench"  # the floor is there, too
QDROP = os.environ.get("QDROP_BIN", TARGET / "release")
QT = os.environ.get("QDROP_QT", TARGET / "interop/qmake/bin")
PATH = f"{QDROP}:{QT}:{RESULTS}:{os.environ['PATH']}:/usr/sbin"
ENV = os.environ | {"PATH": PATH, "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True)
class Tool:
    """Lines of a shell: `receive` in the directory that takes the files, `send` in that of the files.

    {names} are the words that name them; {files} are as many of them as one sender takes.
    """

    name: str
    package: str  # of Debian, with the programs
    programs: str
    version: str
    send: str
    receive: str = ""  # empty if the sender does it all
    config: str = ""  # of {here}/config
    one_shot: bool = False  # the receiver exits after its one transfer
    durable: bool = False  # waits for the disk


RSYNCD = """use chroot = no
log file = {here}/log
[drop]
path = {drop}
read only = no
"""
if os.getuid() == 0:
    RSYNCD += "uid = 0\ngid = 0\n"  # instead of nobody

SSHD = """ListenAddress 127.0.0.1
Port {port}
HostKey {here}/key
AuthorizedKeysFile {here}/key.pub
StrictModes no
PermitRootLogin prohibit-password
UsePAM no
PidFile none
Subsystem sftp internal-sftp
"""

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
max_per_ip=0
"""

FLOOR = Tool(
    name="floor",
    package="rustc",
    programs="floor",
    version="echo",
    receive="exec floor recv 127.0.0.1:{port} {names}",
    send="floor send 127.0.0.1:{port} {files}",
    one_shot=True,
)
FLOOR_DIGEST = replace(
    FLOOR,
    name="floor with XXH64",
    receive=FLOOR.receive.replace("floor", "floor --digest"),
    send=FLOOR.send.replace("floor", "floor --digest"),
)
QDROPD = Tool(
    name="qdropd",
    package="",
    programs="qdrop qdropd",
    version="qdropd --version",
    receive="exec qdropd --listen 127.0.0.1:{port}",
    send="qdrop --quiet 127.0.0.1:{port} {files}",
    durable=True,
)
NO_SYNC = replace(
    QDROPD, name="qdropd --no-sync", receive=f"{QDROPD.receive} --no-sync", durable=False
)
QDROP_TREE = replace(
    QDROPD,
    name="qdrop -r --preserve --skip-existing",
    receive=f"{QDROPD.receive} --subdirs --on-conflict replace",
    send=QDROPD.send.replace("--quiet", "--quiet -r --preserve --skip-existing"),
)
# Several small files at once go to several receivers.
JOBS = replace(QDROPD, name="one qdropd", send=QDROPD.send.replace("--quiet", "--quiet --jobs 8"))


def behind_haproxy(tool, count):
    """So many of them on one directory, each with an address of its own, behind contrib/haproxy.cfg."""
    shipped = (ROOT / "contrib/haproxy.cfg").read_text()
    config = re.sub(r"(?m)^ +server .*\n", "", shipped).replace("{", "{{").replace("}", "}}")
    config = config.replace("bind :9999", "bind 127.0.0.1:{port}")
    receive = "mkfifo {here}/told"
    for number in range(2, count + 2):
        config += f"    server {number} 127.0.0.{number}:9999\n"
        own = tool.receive.removeprefix("exec ").replace("127.0.0.1:{port}", f"127.0.0.{number}:9999")
        receive += f" && ({own} --proxy 127.0.0.1 >{{here}}/told &) && read listens <{{here}}/told"
    return replace(
        tool,
        name=f"HAProxy and {count} qdropd" + " --no-sync" * (not tool.durable),
        package="haproxy",
        programs=tool.programs + " haproxy",
        version="haproxy -v",
        config=config,
        receive=f"{receive} && exec haproxy -db -f {{here}}/config",
    )


def preloaded(tool, library):
    """With a library of bench/ in its receiver."""
    preload = f"exec env LD_PRELOAD={RESULTS}/{library}"
    return replace(tool, receive=tool.receive.replace("exec", preload))


# In front of a receiver: what comes to {port} goes to {near}.
RELAY = Tool(
    name="relay",
    package="rustc",
    programs="relay",
    version="echo",
    receive="exec relay 127.0.0.1:{port} 127.0.0.1:{near} {round_trip}",
    send="",
)
NC = Tool(
    name="netcat-openbsd",
    package="netcat-openbsd",
    programs="nc",
    version="nc -h",
    receive="exec nc -l 127.0.0.1 {port} >{names}",
    send="nc -N 127.0.0.1 {port} <{files}",
    one_shot=True,
)
NCAT = Tool(
    name="ncat",
    package="ncat",
    programs="ncat",
    version="ncat --version",
    receive="exec ncat --recv-only -l 127.0.0.1 {port} >{names}",
    send="ncat --send-only 127.0.0.1 {port} <{files}",
    one_shot=True,
)
SOCAT = Tool(
    name="socat -b1048576",
    package="socat",
    programs="socat",
    version="socat -V",
    receive="exec socat -u -b1048576 TCP-LISTEN:{port},bind=127.0.0.1 CREATE:{names}",
    send="socat -u -b1048576 OPEN:{files} TCP:127.0.0.1:{port}",
    one_shot=True,
)
RSYNC = Tool(
    name="rsync -W, daemon",
    package="rsync",
    programs="rsync",
    version="rsync --version",
    config=RSYNCD,
    receive="exec rsync --daemon --no-detach --config {here}/config --address 127.0.0.1 --port {port}",
    send="rsync -W {files} rsync://127.0.0.1:{port}/drop/",
)
RSYNC_FSYNC = replace(
    RSYNC,
    name="rsync -W --fsync, daemon",
    send=RSYNC.send.replace("-W", "-W --fsync"),
    durable=True,
)
RSYNC_TREE = replace(RSYNC, name="rsync -a, daemon", send=RSYNC.send.replace("-W", "-a"))
SSH_OPTIONS = (
    "-F none -i {here}/key -o StrictHostKeyChecking=no -o LogLevel=ERROR"
    " -o UserKnownHostsFile=/dev/null"
)
SCP = Tool(
    name="scp",
    package="openssh-client openssh-server",
    programs="scp sshd ssh-keygen",
    version="ssh -V",
    config=SSHD,
    # One key for both sides, for this one transfer.
    receive="ssh-keygen -q -t ed25519 -N '' -f {here}/key && mkdir -p /run/sshd &&"
    " exec $(command -v sshd) -De -f {here}/config",
    send=f"scp -q {SSH_OPTIONS} -P {{port}} {{files}} {{user}}@127.0.0.1:{{drop}}/",
)
RSYNC_SSH = replace(
    SCP,
    name="rsync -W -e ssh",
    package="rsync openssh-client openssh-server",
    programs="rsync ssh sshd ssh-keygen",
    version=RSYNC.version,
    send=f"rsync -W -e 'ssh {SSH_OPTIONS} -p {{port}}' {{files}} {{user}}@127.0.0.1:{{drop}}/",
)
QDROP_SSH = replace(
    SCP,
    name="qdrop --via ssh",
    programs="qdrop qdropd ssh sshd ssh-keygen",
    version=QDROPD.version,
    send=f"qdrop --quiet --via 'ssh {SSH_OPTIONS} -p {{port}} {{user}}@127.0.0.1"
    f" {QDROP}/qdropd --stdio {{drop}}' {{files}}",
)
CURL = Tool(
    name="curl to vsftpd",
    package="curl vsftpd",
    programs="curl vsftpd",
    version="vsftpd -v 0>&1",
    config=VSFTPD,
    receive="exec vsftpd {here}/config",
    send='curl -sS -T "{{$(echo {files} | tr " " ,)}}" ftp://127.0.0.1:{port}/drop/',
)
QT_PAIR = Tool(
    name="the tutorial's Qt pair",
    package="qtbase5-dev",
    programs="qt-send qt-receive",
    version="realpath $(ldd $(command -v qt-receive) | grep -o '/.*Core[^ ]*')",
    receive="exec qt-receive {port} .",
    send="qt-send 127.0.0.1 {port} {files}",
)
DD = Tool(
    name="dd bs=256K",
    package="coreutils",
    programs="dd",
    version="dd --version",
    send="dd bs=256K status=none if={files} of={drop}/{files}",
)
DD_FSYNC = replace(DD, name="dd bs=256K conv=fsync", send=f"{DD.send} conv=fsync", durable=True)
OTHERS = [NC, NCAT, SOCAT, RSYNC, SCP, CURL, QT_PAIR]
# Without curl: its 7.88 may overlook an answer that comes too soon, and then waits for a second. Of
# 132 s for the small files nearly all was such waiting, which says nothing of FTP.
FOR_MANY = [QDROPD, RSYNC_FSYNC, FLOOR, NO_SYNC, RSYNC, SCP]


@functools.cache
def obstacle(tool):
    if all(shutil.which(program, path=ENV["PATH"]) for program in tool.programs.split()):
        return None
    return f"{tool.name}: not installed, left out (apt-get install {tool.package})"


@functools.cache
def version(tool):
    shown = subprocess.run(["sh", "-c", f"({tool.version}) 2>&1"], env=ENV, capture_output=True)
    number = re.search(r"\d+\.\d[\w.-]*", shown.stdout.decode())
    return f"{tool.name.split(',')[0].split(' -')[0]} {number[0]}" if number else ""
