/* A machine with faults, for a program that is started with LD_PRELOAD. $FAULTS names them:
 *
 *   exfat      no hard links, and no new name with a character that DOS reserves
 *   exfat-slow likewise, and whoever makes a file that is no part, nor has a number, sleeps until something else has
 *              become of it, or 10 s
 *   exfat-blind  likewise, and an empty file that is no part cannot be examined by its name
 *   exfat-taken  likewise, and a rename fails, before which another file got that name
 *   vfat       no hard links, a new name is on the disk once the file has been synchronised again, and what
 *              had that name has to be open then, or its bytes are free before
 *   short-names  no name of more than 143 bytes, as on eCryptfs
 *   no-times   a file's time cannot be set
 *   fat-times  times are even seconds from 1980 to 2107, and others become the nearest of these below
 *   lost-reply link, rename, mkdir and unlink work, and say that what they have done was done before: the
 *              answer of an NFS server was lost, and it was asked again
 *   lost-reply-vfat likewise, without hard links
 *   no-unlink  no file can be removed
 *   no-removal no name of a directory can be removed, which rmdir says before it looks what is there
 *   an-hour-ago  the clock is late by an hour
 *   read-only  no file that is there can be opened to write to it
 *   fsync      fsync of a file fails
 *   fsync-size:N       fsync of a file of N bytes fails
 *   interrupted  every other read of a file with bytes is
 *   late       fsync of a file finds the disk full
 *   late-once  the first fsync of a file finds the disk full, and no later one
 *   late-lost  likewise, and the kernel drops what was written
 *   fsync-directory:N  the first N calls of fsync for a directory fail, but for the one of the start
 *   no-fsync-directory:N  every fsync of a directory fails with the error N
 *   slow-directory     fsync of a directory takes 0.3 s
 *   slow-file  fsync of a file takes 12 s
 *   slow-rename  the first rename takes 0.5 s
 *   no-directory       no directory below the first can be opened: there is no descriptor
 *   lost-directory:N   once the part of a file has been made, an open directory can be looked at no more, with
 *              the error N
 *   early      fdatasync fails, and no fsync after it knows
 *   full       no byte can be written to a regular file
 *   no-thread  no thread can be started once the part of a file has been made
 *   kill:N     the program is killed before its Nth call of fsync, link, rename or unlink after that
 *   random:N   N of 1000 calls fail, each with one of six errors: every call that opens, reads,
 *              writes, synchronises, names or removes a file, and those of sockets
 *
 * $NTH, KIND:N:ERROR, has the Nth call of a kind fail with an error, besides, once. The kinds are the words of the
 * calls below; short-read, short-write, short-recv and short-send do a part of what they are asked for. What the
 * program starts has no faults then.
 *
 * Each refusal is a line in the file $REFUSED, which proves that this library was in force. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
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

static const char *nth;

/* What the program starts has no faults. */
__attribute__((constructor)) static void take_nth(void)
{
    nth = getenv("NTH");
    if (nth && unsetenv("LD_PRELOAD") == 0)
        nth = strdup(nth);
    unsetenv("NTH");
}

/* Whether this is the call that $NTH lets fail. */
static int is_nth(const char *call)
{
    static atomic_ulong calls;
    size_t length = strlen(call) - 1;
    if (!nth || strncmp(nth, call, length) != 0 || nth[length] != ':')
        return 0;
    char *error;
    if (++calls != strtoul(nth + length + 1, &error, 10))
        return 0;
    refuse("nth\n", atoi(error + 1));
    return 1;
}

/* Whether this call is one that chance, or $NTH, lets fail: a splitmix64 over the count of all calls, so that
 * what fails does not depend on what the program asks for. */
static int unlucky(const char *call)
{
    static const int errors[] = {ENOSPC, EIO, EDQUOT, EINTR, EMFILE, ENOMEM};
    static atomic_uint_fast64_t calls;
    const char *faults = getenv("FAULTS");
    if (is_nth(call))
        return 1;
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
    if (faults && strncmp(faults, "kill:", 5) == 0 && has_part && stat(path, &status) == 0
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
    return faulty("exfat") || faulty("exfat-slow") || faulty("exfat-blind") || faulty("exfat-taken")
        || faulty("vfat") || faulty("lost-reply-vfat");
}

/* The file with a name that is not on the disk yet, and what had that name and some bytes. */
static atomic_ulong unsynced, replaced;

static int is_open(ino_t inode)
{
    struct stat status;
    for (int file = 0; file < 1024; file++)
        if (fstat(file, &status) == 0 && status.st_ino == inode)
            return 1;
    return 0;
}

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
    if (file >= 0 && flags & O_EXCL && faulty("exfat-slow") && !strstr(path, ".qdrop-") && !strchr(path, '(')) {
        struct stat status = made;
        for (int n = 0; n < 1000 && status.st_ino == made.st_ino && status.st_size == 0; n++) {
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
    if (faulty("exfat-taken") && syscall(SYS_unlinkat, AT_FDCWD, to, 0) == 0) {
        int other = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_EXCL, 0600);
        syscall(SYS_write, other, "theirs", 6);
        close(other);
        return refuse("rename\n", EIO);
    }
    one_step_more();
    has_to_be_on_disk(from);
    static atomic_int calls;
    if (faulty("slow-rename") && calls++ == 0) {
        refuse("rename\n", 0);
        usleep(500000);
    }
    struct stat status;
    ino_t there = stat(to, &status) == 0 && status.st_size > 0 ? status.st_ino : 0;
    int result = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (result == 0 && faulty("vfat") && stat(to, &status) == 0)
        unsynced = status.st_ino, replaced = there;
    return result == 0 && loses_replies() ? refuse("rename\n", ENOENT) : result;
}

int mkdir(const char *path, mode_t mode)
{
    if (reserved(path))
        return refuse("mkdir\n", EINVAL);
    if (is_too_long(path))
        return refuse("mkdir\n", ENAMETOOLONG);
    if (is_nth("mkdir\n"))
        return -1;
    int result = syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    return result == 0 && loses_replies() ? refuse("mkdir\n", EEXIST) : result;
}

static int is_directory(int file)
{
    struct stat status;
    return fstat(file, &status) == 0 && S_ISDIR(status.st_mode);
}

int statx(int directory, const char *path, int flags, unsigned mask, struct statx *status)
{
    const char *faults = getenv("FAULTS");
    if (faults && strncmp(faults, "lost-directory:", 15) == 0 && has_part && !*path && is_directory(directory))
        return refuse("stat\n", strtoul(faults + 15, NULL, 10));
    if (is_too_long(path))
        return refuse("stat\n", ENAMETOOLONG);
    if (is_nth("stat\n"))
        return -1;
    int result = syscall(SYS_statx, directory, path, flags, mask, status);
    if (faulty("exfat-blind") && result == 0 && *path && !strstr(path, ".qdrop-") && S_ISREG(status->stx_mode)
        && status->stx_size == 0)
        return refuse("stat\n", EIO);
    return result;
}

int futimens(int file, const struct timespec times[2])
{
    if (faulty("no-times"))
        return refuse("time\n", EPERM);
    if (is_nth("time\n"))
        return -1;
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
    if (is_nth("rmdir\n"))
        return -1;
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
    if (faulty("vfat") && status.st_ino == unsynced) {
        unsynced = 0;
        if (replaced && !is_open(replaced))
            refuse("freed\n", 0);
    }
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
    if (is_nth("thread\n"))
        return errno;
    return create(thread, attributes, run, argument);
}

/* What a program says to people has a word of its own. */
static const char *write_to(int file)
{
    return file == STDERR_FILENO ? "log\n" : file == STDOUT_FILENO && !is_kept(file) ? "print\n" : "write\n";
}

/* So many bytes a call does: fewer than it is asked for, if it is the one that $NTH names. */
static size_t so_many(const char *call, size_t size)
{
    return size > 1 && is_nth(call) ? size / 2 : size;
}

ssize_t write(int file, const void *bytes, size_t size)
{
    struct stat status;
    if (faulty("full") && fstat(file, &status) == 0 && S_ISREG(status.st_mode))
        return refuse("write\n", ENOSPC);
    const char *call = write_to(file);
    if (is_kept(file) ? unlucky(call) : is_nth(call))
        return -1;
    return syscall(SYS_write, file, bytes, so_many("short-write\n", size));
}

/* A pipe has no errors of its own, and std relies on that for the pipe by which a child says that it has begun. */
ssize_t read(int file, void *bytes, size_t size)
{
    if (is_kept(file) ? unlucky("read\n") : is_nth("pipe\n"))
        return -1;
    struct stat status;
    static atomic_uint calls;
    if (faulty("interrupted") && fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0
        && calls++ % 2 == 0)
        return refuse("read\n", EINTR);
    return syscall(SYS_read, file, bytes, so_many("short-read\n", size));
}

ssize_t send(int socket, const void *bytes, size_t size, int flags)
{
    if (unlucky("send\n"))
        return -1;
    return syscall(SYS_sendto, socket, bytes, so_many("short-send\n", size), flags, NULL, 0);
}

ssize_t recv(int socket, void *bytes, size_t size, int flags)
{
    if (unlucky("recv\n"))
        return -1;
    return syscall(SYS_recvfrom, socket, bytes, so_many("short-recv\n", size), flags, NULL, NULL);
}

int accept4(int socket, struct sockaddr *address, socklen_t *length, int flags)
{
    return unlucky("accept\n") ? -1 : syscall(SYS_accept4, socket, address, length, flags);
}

int fcntl64(int file, int command, ...)
{
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, "fcntl64");
    va_list rest;
    va_start(rest, command);
    long argument = va_arg(rest, long);
    va_end(rest);
    return command == F_DUPFD_CLOEXEC && is_nth("duplicate\n") ? -1 : real(file, command, argument);
}

int fcntl(int, int, ...) __attribute__((alias("fcntl64")));

/* The calls that fail by $NTH alone, each with its word, and what it returns then. */
#define MAY_FAIL(call, failure, type, name, parameters, arguments) \
    type name parameters                                           \
    {                                                              \
        type(*real) parameters = dlsym(RTLD_NEXT, #name);          \
        return is_nth(call) ? failure : real arguments;            \
    }

MAY_FAIL("chdir\n", -1, int, chdir, (const char *path), (path))
MAY_FAIL("getcwd\n", NULL, char *, getcwd, (char *path, size_t size), (path, size))
MAY_FAIL("realpath\n", NULL, char *, realpath, (const char *path, char *whole), (path, whole))
MAY_FAIL("readlink\n", -1, ssize_t, readlink, (const char *path, char *to, size_t size), (path, to, size))
MAY_FAIL("opendir\n", NULL, DIR *, opendir, (const char *path), (path))
MAY_FAIL("readdir\n", NULL, struct dirent64 *, readdir64, (DIR *directory), (directory))
MAY_FAIL("seek\n", -1, off64_t, lseek64, (int file, off64_t to, int whence), (file, to, whence))
MAY_FAIL("splice\n", -1, ssize_t, splice,
         (int from, off64_t *at, int to, off64_t *there, size_t size, unsigned flags),
         (from, at, to, there, size, flags))
MAY_FAIL("duplicate\n", -1, int, dup, (int file), (file))
MAY_FAIL("pair\n", -1, int, pipe2, (int ends[2], int flags), (ends, flags))
MAY_FAIL("pair\n", -1, int, socketpair, (int domain, int type, int protocol, int ends[2]),
         (domain, type, protocol, ends))
MAY_FAIL("socket\n", -1, int, socket, (int domain, int type, int protocol), (domain, type, protocol))
MAY_FAIL("bind\n", -1, int, bind, (int socket, const struct sockaddr *address, socklen_t length),
         (socket, address, length))
MAY_FAIL("listen\n", -1, int, listen, (int socket, int backlog), (socket, backlog))
MAY_FAIL("connect\n", -1, int, connect, (int socket, const struct sockaddr *address, socklen_t length),
         (socket, address, length))
MAY_FAIL("shutdown\n", -1, int, shutdown, (int socket, int how), (socket, how))
MAY_FAIL("setsockopt\n", -1, int, setsockopt,
         (int socket, int level, int name, const void *value, socklen_t length),
         (socket, level, name, value, length))
MAY_FAIL("getsockopt\n", -1, int, getsockopt, (int socket, int level, int name, void *value, socklen_t *length),
         (socket, level, name, value, length))
MAY_FAIL("getpeername\n", -1, int, getpeername, (int socket, struct sockaddr *address, socklen_t *length),
         (socket, address, length))
MAY_FAIL("getsockname\n", -1, int, getsockname, (int socket, struct sockaddr *address, socklen_t *length),
         (socket, address, length))
MAY_FAIL("sendto\n", -1, ssize_t, sendto,
         (int socket, const void *bytes, size_t size, int flags, const struct sockaddr *to, socklen_t length),
         (socket, bytes, size, flags, to, length))
MAY_FAIL("poll\n", -1, int, poll, (struct pollfd *files, nfds_t count, int timeout), (files, count, timeout))
MAY_FAIL("resolve\n", errno, int, getaddrinfo,
         (const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found),
         (host, service, hints, found))
MAY_FAIL("spawn\n", errno, int, posix_spawnp,
         (pid_t *child, const char *path, const posix_spawn_file_actions_t *actions,
          const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]),
         (child, path, actions, attributes, arguments, environment))
MAY_FAIL("fork\n", -1, pid_t, fork, (void), ())
MAY_FAIL("kill\n", -1, int, kill, (pid_t process, int signal), (process, signal))
MAY_FAIL("wait\n", -1, pid_t, waitpid, (pid_t child, int *status, int options), (child, status, options))
MAY_FAIL("wait\n", -1, int, waitid, (idtype_t type, id_t id, siginfo_t *told, int options), (type, id, told, options))
