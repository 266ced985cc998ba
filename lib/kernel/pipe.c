/* Ends of pipes that others have made: which end it is, writing without SIGPIPE, not waiting.
 *
 * Happy path: reads and writes carry RWF_NOWAIT, and never wait.
 * Failure modes: pipes with a name do not know RWF_NOWAIT (FMODE_NOWAIT is missing, fs/pipe.c;
 * observed on 6.18), and before Linux 6.4 none does. A poll says when such a pipe is ready; but where
 * several processes or connections read from one pipe, the bytes may be gone when the read comes. It
 * would wait in a worker of the kernel, with a receive buffer. So the end is opened anew: the new open
 * file is this reactor's alone, and its O_NONBLOCK concerns nobody else. That needs /proc, leave to
 * open the pipe, and for a writing end somebody who reads (ENXIO); without them the poll has to do. */
#include "kernel/pipe.h"

#include "kernel/uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

int kr__pipe_end(const struct kr__kernel *k, int fd) {
    (void)k;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    if (!S_ISFIFO(st.st_mode) || flags & O_PATH || (flags & O_ACCMODE) == O_RDWR)
        return -ENOTSUP;
    return (flags & O_ACCMODE) == O_WRONLY;
}

/* 1: writes as this kernel can do without SIGPIPE; 0: it cannot. */
static int writes_quietly(void) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    struct iovec byte = {"", 1};
    ssize_t n = pwritev2(ends[1], &byte, 1, -1, KR__RWF_NOSIGNAL);
    close(ends[0]);
    close(ends[1]);
    return n == 1;
}

static bool sigpipe_ignored(void) {
    struct sigaction action;
    return sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

int kr__pipe_flags(const struct kr__kernel *k, bool newest) {
    (void)k;
    int rc = newest ? writes_quietly() : 0;
    if (rc < 0)
        return rc;
    if (rc)
        return KR__RWF_NOSIGNAL;
    return sigpipe_ignored() ? 0 : -ENOSYS;
}

int kr__pipe_reopen(const struct kr__kernel *k, int fd, bool nameless_too) {
    int end = kr__pipe_end(k, fd);
    struct statfs fs;
    if (end < 0 || fstatfs(fd, &fs) < 0)
        return end < 0 ? end : -errno;
    if (fs.f_type == PIPEFS_MAGIC && !nameless_too)
        return -EALREADY;
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int own = open(path, (end ? O_WRONLY : O_RDONLY) | O_NONBLOCK | O_CLOEXEC);
    return own < 0 ? -errno : own;
}
