"""A file system (FUSE) that finds out late that it is full: fsync fails with ENOSPC until there is a
file .enough in the directory below. It ends with the process that started it. Usage: late.py BELOW
MOUNTPOINT (Debian: python3-fusepy)."""

import ctypes
import errno
import os
import signal
import sys

import fusepy as fuse


class Late(fuse.Operations):
    def __init__(self, below):
        self.below = below

    def path(self, path):
        return self.below + path

    def getattr(self, path, fh=None):
        try:
            status = os.lstat(self.path(path))
        except OSError as error:
            raise fuse.FuseOSError(error.errno)
        keys = ("st_mode", "st_size", "st_uid", "st_gid", "st_nlink", "st_mtime", "st_atime", "st_ctime")
        return {key: getattr(status, key) for key in keys}

    def readdir(self, path, fh):
        return [".", "..", *os.listdir(self.path(path))]

    def create(self, path, mode, fi=None):
        return os.open(self.path(path), os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)

    def open(self, path, flags):
        return os.open(self.path(path), flags)

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)

    def fsync(self, path, datasync, fh):
        if not os.path.exists(self.path("/.enough")):
            raise fuse.FuseOSError(errno.ENOSPC)

    def fsyncdir(self, path, datasync, fh):
        pass

    def link(self, target, source):
        os.link(self.path(source), self.path(target))

    def unlink(self, path):
        os.unlink(self.path(path))

    def release(self, path, fh):
        os.close(fh)


PR_SET_PDEATHSIG = 1  # prctl(2)
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
# What is removed is gone at once, though the kernel says only later that it was closed.
fuse.FUSE(Late(sys.argv[1]), sys.argv[2], foreground=True, hard_remove=True)
