/* A machine with faults, for a program that is started with LD_PRELOAD. $FAULTS names them:
 *
 *   exfat      no hard links, and no new name with a character that DOS reserves
 *   exfat-slow likewise, and whoever makes a file that is no part sleeps until it has bytes, or 0.6 s
 *   fsync      fsync fails
 *   late       fsync finds the disk full
 *   late-once  the first fsync finds the disk full, and no later one
 *   late-lost  likewise, and the kernel drops what was written
 *   fsync-directory:N  the first N calls of fsync for a directory fail
 *   slow-directory     fsync of a directory takes 0.3 s
 *   slow-file  fsync of a file takes 12 s
 *   no-directory       no directory below the first can be opened: there is no descriptor
 *   early      fdatasync fails, and no fsync after it knows
 *   full       no byte can be written to a regular file
 *   random:N   N of 1000 calls fail, each with one of six errors: every call that opens, reads,
 *              writes, synchronises, names or removes a file, and those of sockets
 *
 * Each refusal is a line in the file $REFUSED, which proves that this library was in force. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
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

/* Whether this call is one that chance lets fail: a splitmix64 over the count of all calls, so that
 * what fails does not depend on what the program asks for. */
static int unlucky(const char *call)
{
    static const int errors[] = {ENOSPC, EIO, EDQUOT, EINTR, EMFILE, ENOMEM};
    static atomic_uint_fast64_t calls;
    const char *faults = getenv("FAULTS");
    if (!faults || strncmp(faults, "random:", 7) != 0)
        return 0;
    uint64_t chance = ((uint64_t)getpid() << 32) + ++calls * 0x9E3779B97F4A7C15;
    chance = (chance ^ chance >> 30) * 0xBF58476D1CE4E5B9;
    chance = (chance ^ chance >> 27) * 0x94D049BB133111EB;
    chance ^= chance >> 31;
    if (chance % 1000 >= strtoul(faults + 7, NULL, 10))
        return 0;
    refuse(call, errors[chance / 1000 % 6]);
    return 1;
}

/* What a program says to people is none of the machine's. */
static int is_kept(int file)
{
    struct stat status;
    return fstat(file, &status) == 0 && (S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode));
}

static int is_exfat(void)
{
    return faulty("exfat") || faulty("exfat-slow");
}

static int reserved(const char *path)
{
    const char *slash = strrchr(path, '/');
    return is_exfat() && strpbrk(slash ? slash : path, ":?*\"<>|");
}

int openat(int directory, const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (flags & O_CREAT && reserved(path))
        return refuse("open\n", EINVAL);
    struct stat named;
    if (faulty("no-directory") && !(flags & O_CREAT) && strchr(path, '/') && path[0] == '.'
        && fstatat(directory, path, &named, 0) == 0 && S_ISDIR(named.st_mode))
        return refuse("open\n", EMFILE);
    if (unlucky("open\n"))
        return -1;
    int file = syscall(SYS_openat, directory, path, flags, mode);
    if (file >= 0 && flags & O_EXCL && faulty("exfat-slow") && !strstr(path, ".qdrop-")) {
        struct stat status = {0};
        for (int n = 0; n < 60 && status.st_size == 0; n++) {
            usleep(10000);
            if (fstatat(directory, path, &status, 0) != 0)
                break;
        }
    }
    return file;
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
    if (is_exfat())
        return refuse("link\n", EPERM);
    if (unlucky("link\n"))
        return -1;
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
    if (unlucky("rename\n"))
        return -1;
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path)
{
    return unlucky("unlink\n") ? -1 : syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int fdatasync(int file)
{
    if (faulty("early"))
        return refuse("fdatasync\n", EIO);
    return unlucky("fdatasync\n") ? -1 : syscall(SYS_fdatasync, file);
}

static int is_directory(int file)
{
    struct stat status;
    return fstat(file, &status) == 0 && S_ISDIR(status.st_mode);
}

int fsync(int file)
{
    const char *faults = getenv("FAULTS");
    if (faults && strncmp(faults, "fsync-directory:", 16) == 0 && is_directory(file)) {
        static atomic_ulong calls;
        if (calls++ < strtoul(faults + 16, NULL, 10))
            return refuse("fsync\n", EIO);
        refuse("fsynced-directory\n", 0);
    }
    if (faulty("slow-directory") && is_directory(file))
        usleep(300000);
    if (faulty("slow-file") && !is_directory(file))
        sleep(12);
    if (faulty("fsync"))
        return refuse("fsync\n", EIO);
    if (faulty("late"))
        return refuse("fsync\n", ENOSPC);
    if (faulty("late-once") || faulty("late-lost")) {
        static atomic_int calls;
        if (calls++ == 0) {
            if (faulty("late-lost"))
                ftruncate(file, 100);
            return refuse("fsync\n", ENOSPC);
        }
    }
    return unlucky("fsync\n") ? -1 : syscall(SYS_fsync, file);
}

ssize_t write(int file, const void *bytes, size_t size)
{
    struct stat status;
    if (faulty("full") && fstat(file, &status) == 0 && S_ISREG(status.st_mode))
        return refuse("write\n", ENOSPC);
    return is_kept(file) && unlucky("write\n") ? -1 : syscall(SYS_write, file, bytes, size);
}

ssize_t read(int file, void *bytes, size_t size)
{
    return is_kept(file) && unlucky("read\n") ? -1 : syscall(SYS_read, file, bytes, size);
}

ssize_t send(int socket, const void *bytes, size_t size, int flags)
{
    return unlucky("send\n") ? -1 : syscall(SYS_sendto, socket, bytes, size, flags, NULL, 0);
}

ssize_t recv(int socket, void *bytes, size_t size, int flags)
{
    return unlucky("recv\n") ? -1 : syscall(SYS_recvfrom, socket, bytes, size, flags, NULL, NULL);
}

int accept4(int socket, struct sockaddr *address, socklen_t *length, int flags)
{
    return unlucky("accept\n") ? -1 : syscall(SYS_accept4, socket, address, length, flags);
}
