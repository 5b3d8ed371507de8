#!/usr/bin/env python3
"""Whether what the documents say to install can be installed: `make apt-check`.

Before what is installed stands for which Debian that is: "Debian 12:", "Debian 13:", or "Debian:" for both. This
holds up to the next such words. "Debian, besides:" stands before packages that are wanted beside those of the last
line without this word: they are tried together.

apt-get simulates each line in a Debian of its own, with the updates and the security updates in its sources. With
the release alone one cannot tell: a version of a package may want another one's, which is not the newest any more.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RELEASES = {"12": "bookworm", "13": "trixie"}
PLACES = ["README*", "Makefile", "docs/*", "contrib/**/*"]
# For which Debian, or what to install. In a Makefile's comment a line goes on after a backslash and a #.
PATTERN = r"\bDebian(?: (\d+))?(, besides)?[:：]|\bapt(?:-get)? install ((?:\\\n[#\s]*|[^\n`&|;)])+)"


def lines(path):
    """What the file says to install, as (number of Debian, packages)."""
    numbers, beside, first = [], False, {}
    for number, besides, packages in re.findall(PATTERN, path.read_text(errors="replace")):
        if not packages:
            numbers, beside = [number] if number else list(RELEASES), bool(besides)
            continue
        words = shlex.split(re.sub(r"\\\n[#\s]*", " ", packages))
        # A package in a file was built here, and contrib/debian-test.sh installs it.
        words = [word for word in words if not word.startswith(("-", "./"))]
        if words and not (numbers and RELEASES.keys() >= set(numbers)):
            sys.exit(f"apt-check: {path}: on which Debian? {' '.join(words)}")
        for number in numbers if words else []:
            if not beside:
                first[number] = words
            yield number, " ".join(first[number] + words if beside else words)


def run(*command, may_fail=False):
    """What a command says, and whether it succeeds."""
    env = os.environ | {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    if done.returncode and not may_fail:
        sys.exit(f"{done.stdout}apt-check: failed: {shlex.join(command)}")
    return done.stdout, done.returncode == 0


def make_debian(root, release):
    """A Debian from the mirrors of this machine."""
    here, sources = platform.freedesktop_os_release()["VERSION_CODENAME"], []
    for suite in ["", "-updates", "-security"]:
        ours = ["Created-By: Packages", "Origin: Debian", "Component: main", f"Codename: {here}{suite}"]
        mirrors = run("apt-get", "indextargets", "--format", "$(REPO_URI)", *ours)[0].split()
        if not mirrors:
            sys.exit(f"apt-check: apt knows no {here}{suite} here; it may want apt-get update")
        sources.append(f"deb {mirrors[0]} {release}{suite} main\n")
    # In a namespace, so that it leaves no mount if it is interrupted.
    mirror = sources[0].split()[1]
    run("unshare", "--mount", "debootstrap", "--variant=minbase", release, root, mirror)
    Path(root, "etc/apt/sources.list").write_text("".join(sources))
    run("chroot", root, "apt-get", "update", "--option", "Acquire::Languages=none")


def check(number, release):
    """How many lines cannot be installed on a Debian."""
    todo, failed = {}, 0
    for path in (path for place in PLACES for path in sorted(Path().glob(place)) if path.is_file()):
        for each, packages in lines(path):
            if each == number:
                todo.setdefault(packages, path)  # What two documents say is tried once.
    with tempfile.TemporaryDirectory() as root:
        make_debian(root, release)
        # Those of another architecture come last: from then on apt knows it.
        for packages, path in sorted(todo.items(), key=lambda each: ":" in each[0]):
            for architecture in re.findall(r":([a-z0-9]+)", packages):
                run("chroot", root, "dpkg", "--add-architecture", architecture)
                run("chroot", root, "apt-get", "update", "--option", "Acquire::Languages=none")
            simulate = "chroot", root, "apt-get", "install", "--simulate", *packages.split()
            said, fine = run(*simulate, may_fail=True)
            print(f"Debian {number}: {path}: {packages}: {'fine' if fine else said}", flush=True)
            failed += not fine
    return failed


os.chdir(Path(__file__).parent.parent)
with ThreadPoolExecutor() as pool:
    failed = sum(pool.map(check, *zip(*RELEASES.items())))
sys.exit(f"apt-check: {failed} lines cannot be installed" if failed else 0)
