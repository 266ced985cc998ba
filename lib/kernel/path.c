/* Paths of Unix sockets.
 *
 * Happy path: bind makes the file, with the mode that the socket's own inode has, less the umask
 * (unix_bind_bsd, net/unix/af_unix.c); then what the umask took is added. So the file is at no
 * moment more open than asked for, and nobody can connect before listen.
 * Failure modes: a file is there (-EADDRINUSE; a socket at which nobody listens is replaced, if
 * asked for); the mode cannot be set (the file is removed again); another has put something else in
 * the file's place before its mode is set (-EPERM, and its mode stays what it is). */
#include "kernel/path.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATH_AT offsetof(struct sockaddr_un, sun_path)

/* With a closing 0, which the kernel does not ask for. */
struct path {
    char text[sizeof((struct sockaddr_un *)0)->sun_path + 1];
};

/* False for what is no Unix socket, and for abstract names. */
static bool path_of(const struct kr_addr *addr, struct path *ret) {
    if (addr->u.sa.sa_family != AF_UNIX || addr->size <= PATH_AT || addr->u.un.sun_path[0] == 0)
        return false;
    size_t size = addr->size - PATH_AT, room = sizeof addr->u.un.sun_path;
    *ret = (struct path){0};
    memcpy(ret->text, addr->u.un.sun_path, size < room ? size : room);
    return true;
}

/* The mode of what O_PATH has opened: fchmodat2(2) since 6.6, else by proc(5). */
static int set_mode_of(int fd, unsigned mode) {
    if (syscall(KR__SYS_FCHMODAT2, fd, "", mode, AT_EMPTY_PATH) == 0)
        return 0;
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return chmod(link, mode) < 0 ? -errno : 0;
}

/* chmod follows a symbolic link, which others may have put there meanwhile where the directory lets
 * them: what is opened must be a socket, and ours. */
int kr__path_mode(const struct kr_addr *addr, unsigned mode) {
    struct path path;
    if (!path_of(addr, &path))
        return -ENOENT;
    int fd = open(path.text, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    struct stat st;
    int rc = fstat(fd, &st) < 0 ? -errno : S_ISSOCK(st.st_mode) ? 0 : -EPERM;
    bool lacks = rc == 0 && (st.st_mode & 0777) != mode;
    if (lacks)
        rc = st.st_uid == geteuid() ? set_mode_of(fd, mode) : -EPERM;
    close(fd);
    return rc;
}

static int bind_once(int fd, const struct kr_addr *addr, const struct path *path, unsigned mode) {
    if (mode && fchmod(fd, mode) < 0)
        return -errno;
    if (bind(fd, &addr->u.sa, addr->size) < 0)
        return -errno;
    int rc = mode ? kr__path_mode(addr, mode) : 0;
    if (rc < 0)
        unlink(path->text);
    return rc;
}

/* What connecting there comes to: 0, and whose the listener is (*ret; 0: it is not known), or -errno.
 * -ENOTSOCK: there is no socket. A peer of SO_PEERCRED is whoever has called listen (man unix). */
static int try_connect(const struct kr_addr *addr, const struct path *path, pid_t *ret) {
    struct stat st;
    if (lstat(path->text, &st) < 0 || !S_ISSOCK(st.st_mode))
        return -ENOTSOCK;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int rc = connect(fd, &addr->u.sa, addr->size) < 0 ? -errno : 0;
    struct ucred who = {0};
    socklen_t size = sizeof who;
    *ret = rc == 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 ? who.pid : 0;
    close(fd);
    return rc;
}

/* Nobody listens there: connecting is refused, rather than done or put off (-EAGAIN). */
static bool is_stale(const struct kr_addr *addr, const struct path *path) {
    pid_t pid;
    return try_connect(addr, path, &pid) == -ECONNREFUSED;
}

/* Of a process that has ended, be it waited for or not, or of an unknown one. */
static bool has_ended(pid_t pid) {
    if (pid <= 0)
        return true;
    struct pollfd end = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    if (end.fd < 0)
        return errno == ESRCH;
    bool ended = poll(&end, 1, 0) == 1;
    close(end.fd);
    return ended;
}

/* Nobody listens at the path, or a process that has ended: its listener still takes clients until
 * the kernel has torn it down. */
static bool is_left_behind(const struct kr_addr *addr, const struct path *path) {
    pid_t pid;
    int rc = try_connect(addr, path, &pid);
    return rc == 0 ? has_ended(pid) : rc == -ECONNREFUSED || rc == -EAGAIN;
}

bool kr__path_may_fall_free(const struct kr__listen_plan *plan) {
    struct path path;
    if (!path_of(plan->addr, &path))
        return true;
    return plan->replace && is_left_behind(plan->addr, &path);
}

int kr__path_bind(int fd, const struct kr__listen_plan *plan) {
    struct path path;
    if (!path_of(plan->addr, &path))
        return bind(fd, &plan->addr->u.sa, plan->addr->size) < 0 ? -errno : 0;
    int rc = bind_once(fd, plan->addr, &path, plan->mode);
    if (rc == -EADDRINUSE && plan->replace && is_stale(plan->addr, &path) && unlink(path.text) == 0)
        rc = bind_once(fd, plan->addr, &path, plan->mode);
    return rc;
}

int kr__path_id(const struct kr__kernel *k, const struct kr_addr *addr, struct kr__path_id *ret) {
    (void)k;
    struct path path;
    struct stat st;
    if (!path_of(addr, &path))
        return -ENOENT;
    if (lstat(path.text, &st) < 0)
        return -errno;
    *ret = (struct kr__path_id){st.st_dev, st.st_ino};
    return 0;
}

/* Where the name in the directory begins. */
static char *name_in(struct path *path) {
    char *slash = strrchr(path->text, '/');
    return slash ? slash + 1 : path->text;
}

int kr__path_dir(const struct kr__kernel *k, const struct kr_addr *addr) {
    (void)k;
    struct path path;
    if (!path_of(addr, &path))
        return -ENOENT;
    char *name = name_in(&path);
    bool root = name == path.text + 1;
    bool here = name == path.text;
    name[root || here ? 0 : -1] = 0;
    int fd = open(here ? "." : path.text, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

void kr__path_remove(const struct kr__kernel *k, const struct kr_addr *addr,
                     const struct kr__path_id *id, int dir) {
    (void)k;
    struct path path;
    if (!path_of(addr, &path))
        return;
    const char *name = dir < 0 ? path.text : name_in(&path);
    dir = dir < 0 ? AT_FDCWD : dir;
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return;
    if (!id || (st.st_dev == id->device && st.st_ino == id->inode))
        unlinkat(dir, name, 0);
}
