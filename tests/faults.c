/* A machine with faults, for a program that is started with LD_PRELOAD. $FAULTS names them:
 *
 *   exfat      no hard links, and no new name with a character that DOS reserves
 *   exfat-slow likewise, and whoever makes a file that is no part sleeps until it has bytes, or 0.6 s
 *   vfat       no hard links, and a new name is on the disk once the file has been synchronised again
 *   short-names  no name of more than 143 bytes, as on eCryptfs
 *   no-times   a file's time cannot be set
 *   fat-times  times are even seconds from 1980 to 2107, and others become the nearest of these below
 *   lost-reply link, rename and unlink work, and say that what they have done was done before: the
 *              answer of an NFS server was lost, and it was asked again
 *   lost-reply-vfat likewise, without hard links
 *   no-unlink  no file can be removed
 *   no-removal no name of a directory can be removed, which rmdir says before it looks what is there
 *   an-hour-ago  the clock is late by an hour
 *   read-only  no file that is there can be opened to write to it
 *   fsync      fsync of a file fails
 *   fsync-size:N       fsync of a file of N bytes fails
 *   late       fsync of a file finds the disk full
 *   late-once  the first fsync of a file finds the disk full, and no later one
 *   late-lost  likewise, and the kernel drops what was written
 *   fsync-directory:N  the first N calls of fsync for a directory fail, but for the one of the start
 *   no-fsync-directory:N  every fsync of a directory fails with the error N
 *   slow-directory     fsync of a directory takes 0.3 s
 *   slow-file  fsync of a file takes 12 s
 *   no-directory       no directory below the first can be opened: there is no descriptor
 *   early      fdatasync fails, and no fsync after it knows
 *   full       no byte can be written to a regular file
 *   no-thread  no thread can be started once the part of a file has been made
 *   kill:N     the program is killed before its Nth call of fsync, link, rename or unlink after that
 *   random:N   N of 1000 calls fail, each with one of six errors: every call that opens, reads,
 *              writes, synchronises, names or removes a file, and those of sockets
 *
 * Each refusal is a line in the file $REFUSED, which proves that this library was in force. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
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

/* Whether the part of a file has been made, and not that by which a start finds out that it can make one. */
static atomic_int has_part;

static void one_step_more(void)
{
    static atomic_ulong steps;
    const char *faults = getenv("FAULTS");
    if (faults && strncmp(faults, "kill:", 5) == 0 && has_part
        && ++steps == strtoul(faults + 5, NULL, 10))
        kill(getpid(), SIGKILL);
}

/* The inodes that were synchronised, each at its remainder. */
static atomic_ulong on_disk[1 << 16];

static void has_to_be_on_disk(const char *path)
{
    const char *faults = getenv("FAULTS");
    struct stat status;
    if (faults && strncmp(faults, "kill:", 5) == 0 && stat(path, &status) == 0
        && on_disk[status.st_ino % (1 << 16)] != status.st_ino)
        refuse("named before it was on the disk\n", 0);
}

/* What a program says to people is none of the machine's. */
static int is_kept(int file)
{
    struct stat status;
    return fstat(file, &status) == 0 && (S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode));
}

static int has_no_links(void)
{
    return faulty("exfat") || faulty("exfat-slow") || faulty("vfat") || faulty("lost-reply-vfat");
}

/* The file with a name that is not on the disk yet. */
static atomic_ulong unsynced;

static int loses_replies(void)
{
    return faulty("lost-reply") || faulty("lost-reply-vfat");
}

static int reserved(const char *path)
{
    const char *slash = strrchr(path, '/');
    return has_no_links() && strpbrk(slash ? slash : path, ":?*\"<>|");
}

/* Whether a component of the path is longer than the names of eCryptfs. */
static int is_too_long(const char *path)
{
    if (!faulty("short-names"))
        return 0;
    for (const char *end = path; *end; path = end + (*end == '/')) {
        end = strchrnul(path, '/');
        if (end - path > 143)
            return 1;
    }
    return 0;
}

int openat(int directory, const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (flags & O_CREAT && reserved(path))
        return refuse("open\n", EINVAL);
    if (is_too_long(path))
        return refuse("open\n", ENAMETOOLONG);
    if (faulty("read-only") && !(flags & O_CREAT) && (flags & O_ACCMODE) != O_RDONLY)
        return refuse("open\n", EACCES);
    struct stat named;
    if (faulty("no-directory") && !(flags & O_CREAT) && strchr(path, '/') && path[0] == '.'
        && fstatat(directory, path, &named, 0) == 0 && S_ISDIR(named.st_mode))
        return refuse("open\n", EMFILE);
    if (unlucky("open\n"))
        return -1;
    int file = syscall(SYS_openat, directory, path, flags, mode);
    struct stat made;
    if (file >= 0 && flags & O_EXCL && fstat(file, &made) == 0) {
        on_disk[made.st_ino % (1 << 16)] = 0;
        has_part |= strstr(path, ".part") && !strstr(path, ".unnamed.part");
    }
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
    if (has_no_links())
        return refuse("link\n", EPERM);
    if (is_too_long(to))
        return refuse("link\n", ENAMETOOLONG);
    if (unlucky("link\n"))
        return -1;
    one_step_more();
    has_to_be_on_disk(from);
    int result = syscall(SYS_linkat, from_directory, from, to_directory, to, flags);
    return result == 0 && loses_replies() ? refuse("link\n", EEXIST) : result;
}

int link(const char *from, const char *to)
{
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int rename(const char *from, const char *to)
{
    if (reserved(to))
        return refuse("rename\n", EINVAL);
    if (is_too_long(to))
        return refuse("rename\n", ENAMETOOLONG);
    if (unlucky("rename\n"))
        return -1;
    one_step_more();
    has_to_be_on_disk(from);
    int result = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    struct stat status;
    if (result == 0 && faulty("vfat") && stat(to, &status) == 0)
        unsynced = status.st_ino;
    return result == 0 && loses_replies() ? refuse("rename\n", ENOENT) : result;
}

int mkdir(const char *path, mode_t mode)
{
    if (reserved(path))
        return refuse("mkdir\n", EINVAL);
    if (is_too_long(path))
        return refuse("mkdir\n", ENAMETOOLONG);
    return syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int statx(int directory, const char *path, int flags, unsigned mask, struct statx *status)
{
    if (is_too_long(path))
        return refuse("stat\n", ENAMETOOLONG);
    return syscall(SYS_statx, directory, path, flags, mask, status);
}

int futimens(int file, const struct timespec times[2])
{
    if (faulty("no-times"))
        return refuse("time\n", EPERM);
    struct timespec held[2] = {times[0], times[1]};
    if (faulty("fat-times")) {
        time_t seconds = held[1].tv_sec & ~1;
        held[1].tv_sec = seconds < 315532800 ? 315532800 : seconds > 4354819198 ? 4354819198 : seconds;
        held[1].tv_nsec = held[1].tv_nsec == UTIME_OMIT ? UTIME_OMIT : 0;
    }
    return syscall(SYS_utimensat, file, NULL, held, 0);
}

int unlink(const char *path)
{
    if (unlucky("unlink\n"))
        return -1;
    one_step_more();
    if (faulty("no-unlink"))
        return refuse("unlink\n", EACCES);
    int result = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    return result == 0 && loses_replies() ? refuse("unlink\n", ENOENT) : result;
}

int rmdir(const char *path)
{
    if (faulty("no-removal"))
        return refuse("rmdir\n", EACCES);
    return syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME && faulty("an-hour-ago"))
        now->tv_sec -= 3600;
    return result;
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
    one_step_more();
    if (faults && strncmp(faults, "fsync-directory:", 16) == 0 && is_directory(file)) {
        static atomic_ulong calls;
        unsigned long call = calls++;
        if (call > 0 && call <= strtoul(faults + 16, NULL, 10))
            return refuse("fsync\n", EIO);
        if (call > 0)
            refuse("fsynced-directory\n", 0);
    }
    if (faults && strncmp(faults, "no-fsync-directory:", 19) == 0 && is_directory(file))
        return refuse("fsync\n", strtoul(faults + 19, NULL, 10));
    struct stat status = {0};
    fstat(file, &status);
    if (faults && strncmp(faults, "fsync-size:", 11) == 0 && S_ISREG(status.st_mode)
        && status.st_size == strtol(faults + 11, NULL, 10))
        return refuse("fsync\n", EIO);
    if (faulty("vfat") && status.st_ino == unsynced)
        unsynced = 0;
    if (faulty("vfat") && is_directory(file) && unsynced)
        refuse("lost\n", 0);
    if (faulty("slow-directory") && is_directory(file))
        usleep(300000);
    if (is_directory(file))
        return unlucky("fsync\n") ? -1 : syscall(SYS_fsync, file);
    if (faulty("slow-file"))
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
    if (unlucky("fsync\n") || syscall(SYS_fsync, file) != 0)
        return -1;
    on_disk[status.st_ino % (1 << 16)] = status.st_ino;
    return 0;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    int (*create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
        dlsym(RTLD_NEXT, "pthread_create");
    if (faulty("no-thread") && has_part) {
        refuse("thread\n", 0);
        return EAGAIN;
    }
    return create(thread, attributes, run, argument);
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
