/* A disk with faults, for a program that is started with LD_PRELOAD. $FAULTS names them:
 *
 *   exfat   no hard links, and no new name with a character that DOS reserves
 *   fsync   fsync fails
 *   full    no byte can be written to a regular file
 *
 * Each refusal is a line in the file $REFUSED, which proves that this library was in force. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int faulty(const char *fault)
{
    const char *faults = getenv("FAULTS");
    return faults && strcmp(faults, fault) == 0;
}

static int refuse(const char *call, int error)
{
    int log = syscall(SYS_openat, AT_FDCWD, getenv("REFUSED"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    syscall(SYS_write, log, call, strlen(call));
    close(log);
    errno = error;
    return -1;
}

static int reserved(const char *path)
{
    const char *slash = strrchr(path, '/');
    return faulty("exfat") && strpbrk(slash ? slash : path, ":?*\"<>|");
}

int openat(int directory, const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (flags & O_CREAT && reserved(path))
        return refuse("open\n", EINVAL);
    return syscall(SYS_openat, directory, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return openat(AT_FDCWD, path, flags, mode);
}

int creat(const char *path, mode_t mode)
{
    return openat(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

int openat64(int, const char *, int, ...) __attribute__((alias("openat")));
int open64(const char *, int, ...) __attribute__((alias("open")));
int creat64(const char *, mode_t) __attribute__((alias("creat")));

int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags)
{
    if (faulty("exfat"))
        return refuse("link\n", EPERM);
    return syscall(SYS_linkat, from_directory, from, to_directory, to, flags);
}

int link(const char *from, const char *to)
{
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int rename(const char *from, const char *to)
{
    if (reserved(to))
        return refuse("rename\n", EINVAL);
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int fsync(int file)
{
    return faulty("fsync") ? refuse("fsync\n", EIO) : syscall(SYS_fsync, file);
}

ssize_t write(int file, const void *bytes, size_t size)
{
    struct stat status;
    if (faulty("full") && fstat(file, &status) == 0 && S_ISREG(status.st_mode))
        return refuse("write\n", ENOSPC);
    return syscall(SYS_write, file, bytes, size);
}
