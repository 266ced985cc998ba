/* Paths of Unix sockets.
 *
 * Happy path: bind makes the file, with the mode that the socket's own inode has, less the umask
 * (unix_bind_bsd, net/unix/af_unix.c); then chmod adds what the umask took. So the file is at no
 * moment more open than asked for, and nobody can connect before listen.
 * Failure modes: a file is there (-EADDRINUSE; a socket at which nobody listens is replaced, if
 * asked for); the mode cannot be set (the file is removed again). */
#include "kernel/path.h"

#include <errno.h>
#include <poll.h>
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
    *ret = (struct path){0};
    memcpy(ret->text, addr->u.un.sun_path, addr->size - PATH_AT);
    return true;
}

static int bind_once(int fd, const struct kr_addr *addr, const struct path *path, unsigned mode) {
    if (mode && fchmod(fd, mode) < 0)
        return -errno;
    if (bind(fd, &addr->u.sa, addr->size) < 0)
        return -errno;
    if (!mode || chmod(path->text, mode) == 0)
        return 0;
    int rc = -errno;
    unlink(path->text);
    return rc;
}

/* Nobody listens there: connecting is refused, rather than done or put off (-EAGAIN). */
static bool is_stale(const struct kr_addr *addr, const struct path *path) {
    struct stat st;
    if (lstat(path->text, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool refused = connect(fd, &addr->u.sa, addr->size) < 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
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
 * the kernel has torn it down. A peer of SO_PEERCRED is whoever has called listen (man unix). */
static bool is_left_behind(const struct kr_addr *addr, const struct path *path) {
    struct stat st;
    if (lstat(path->text, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool left = true;
    struct ucred who = {0};
    socklen_t size = sizeof who;
    if (connect(fd, &addr->u.sa, addr->size) < 0)
        left = errno == ECONNREFUSED || errno == EAGAIN;
    else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0)
        left = has_ended(who.pid);
    close(fd);
    return left;
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

int kr__path_id(const struct kr_addr *addr, struct kr__path_id *ret) {
    struct path path;
    struct stat st;
    if (!path_of(addr, &path))
        return -ENOENT;
    if (lstat(path.text, &st) < 0)
        return -errno;
    *ret = (struct kr__path_id){st.st_dev, st.st_ino};
    return 0;
}

void kr__path_remove(const struct kr_addr *addr, const struct kr__path_id *id) {
    struct path path;
    struct kr__path_id now = {0};
    if (!path_of(addr, &path) || kr__path_id(addr, &now) < 0)
        return;
    if (!id || (now.device == id->device && now.inode == id->inode))
        unlink(path.text);
}
