#!/usr/bin/env python3
"""Runs the recipe of contrib/yocto with the parser, the fetcher and the shell of BitBake, and the
classes beside this file in the place of OpenEmbedded-Core's: bitbake.py CHECKOUT OUT. It prints what
each package gets."""

import fnmatch
import glob
import os
import sys
import types

# The package of BitBake on PyPI lacks its servers, which nothing here needs.
for name in ("hashserv", "hashserv.client", "prserv", "prserv.serv"):
    sys.modules[name] = types.ModuleType(name)

import bb.build
import bb.data
import bb.data_smart
import bb.fetch2
import bb.parse
import bb.siggen

checkout, out = (os.path.abspath(path) for path in sys.argv[1:])
here = os.path.dirname(os.path.abspath(__file__))
layer = f"{checkout}/contrib/yocto"

d = bb.data_smart.DataSmart()
for key, value in {
    "LAYERDIR": layer,
    "BBPATH": f"{here}/yocto",
    "TMPDIR": f"{out}/tmp",
    "DL_DIR": f"{out}/downloads",
    "PERSISTENT_DIR": f"{out}/persistent",
    "WORKDIR": f"{out}/work",
    "UNPACKDIR": "${WORKDIR}/sources",
    "T": "${WORKDIR}/temp",
    "B": "${WORKDIR}/build",
    "S": "${UNPACKDIR}/${BP}",
    "D": "${WORKDIR}/image",
    "PN": "${@bb.parse.vars_from_file(d.getVar('FILE'), d)[0]}",
    "PV": "${@bb.parse.vars_from_file(d.getVar('FILE'), d)[1]}",
    "BP": "${PN}-${PV}",
    "FILESPATH": "${FILESEXTRAPATHS}",
    "FILESEXTRAPATHS": "${THISDIR}/files",
    "THISDIR": "${@os.path.dirname(d.getVar('FILE'))}",
    "PATH": os.environ["PATH"],
    "HOME": os.environ["HOME"],
    "bindir": "/usr/bin",
    "libdir": "/usr/lib",
    "mandir": "/usr/share/man",
    "systemd_system_unitdir": "/usr/lib/systemd/system",
    "PACKAGES": "${PN}-dev ${PN}-doc ${PN}",
    "FILES:${PN}-dev": "${libdir}/rustlib",
    "FILES:${PN}-doc": "${mandir}",
    "FILES:${PN}": "${bindir}/*",
}.items():
    d.setVar(key, value)
for key in ("PATH", "HOME"):
    d.setVarFlag(key, "export", "1")

d.setVar("__bbclasstype", "recipe")
bb.parse.siggen = bb.siggen.init(d)
bb.parse.handle(f"{layer}/conf/layer.conf", d)
[recipe] = glob.glob(d.getVar("BBFILES").strip())
d = bb.parse.handle(recipe, d)[""]

for directory in ("T", "B", "UNPACKDIR", "DL_DIR"):
    bb.utils.mkdirhier(d.getVar(directory))
fetch = bb.fetch2.Fetch(d.getVar("SRC_URI").split(), d)
fetch.download()
fetch.unpack(d.getVar("UNPACKDIR"))

for entry in d.getVar("LIC_FILES_CHKSUM").split():
    _, _, path, _, _, parameters = bb.fetch2.decodeurl(entry)
    assert bb.utils.md5_file(f"{d.getVar('S')}/{path}") == parameters["md5"], entry

for task in ("do_compile", "do_install"):
    bb.build.exec_func(task, d)

# What is stripped already is an error to OpenEmbedded, which keeps the symbols in a package.
for program in glob.glob(f"{d.getVar('D')}{d.getVar('bindir')}/*"):
    with open(program, "rb") as file:
        assert b".symtab\0" in file.read(), f"{program} is stripped"

# As do_package does: each file goes to the first package that wants it.
image = d.getVar("D")
files = sorted(
    os.path.join(directory, name)[len(image) :]
    for directory, _, names in os.walk(image)
    for name in names
)
for package in d.getVar("PACKAGES").split():
    wanted = (d.getVar(f"FILES:{package}") or "").split()
    for path in list(files):
        if any(fnmatch.fnmatch(path, want) or path.startswith(want + "/") for want in wanted):
            files.remove(path)
            print(f"{package}: {path}")
for path in files:
    print(f"not shipped: {path}")

for package in d.getVar("SYSTEMD_PACKAGES").split():
    enable = d.getVar(f"SYSTEMD_AUTO_ENABLE:{package}")
    print(f"{package}: {enable} {d.getVar(f'SYSTEMD_SERVICE:{package}')}")
print(f"license: {d.getVar('LICENSE')}")
