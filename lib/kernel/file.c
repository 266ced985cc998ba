/* The real kernel's files: all descriptors, regular files, and the eventfd that wakes a reactor. Ends
 * of pipes are in pipe.c. */
#include "kernel/linux.h"

#include "kernel/sockopt.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

int kr__linux_file_dup(const struct kr__kernel *k, int fd) {
    (void)k;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

/* O_DIRECT asks for aligned memory and offsets (man open), which this library does not keep to. */
static int readable_at(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    if (flags & O_PATH || (flags & O_ACCMODE) == O_WRONLY)
        return -EBADF;
    return flags & O_DIRECT ? -EINVAL : 0;
}

int kr__linux_file_size(const struct kr__kernel *k, int fd, uint64_t *ret) {
    (void)k;
    struct stat st;
    int rc = readable_at(fd);
    if (rc == 0 && fstat(fd, &st) < 0)
        rc = -errno;
    if (rc < 0)
        return rc;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return -ESPIPE;
    *ret = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : UINT64_MAX;
    return 0;
}

int kr__linux_file_read(const struct kr__kernel *k, int fd, void *to, size_t size,
                        uint64_t offset) {
    (void)k;
    ssize_t n = pread(fd, to, size, (off_t)offset);
    return n < 0 ? -errno : (int)n;
}

int kr__linux_file_close(const struct kr__kernel *k, int fd) {
    (void)k;
    return close(fd) < 0 ? -errno : 0;
}

/* SO_LINGER with a time of 0 does not wait. It is left as it is, since other processes may share the
 * socket. */
int kr__linux_file_close_received(const struct kr__kernel *k, int fd) {
    struct linger linger;
    socklen_t size = sizeof linger;
    if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size) == 0 && linger.l_onoff &&
        linger.l_linger)
        kr__sock_unlinger(k, fd);
    return k->file.close(k, fd);
}

int kr__linux_file_write(const struct kr__kernel *k, int fd, const void *data, size_t size) {
    (void)k;
    ssize_t n;
    do {
        n = write(fd, data, size);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : (int)n;
}

int kr__linux_wake_open(const struct kr__kernel *k) {
    (void)k;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

/* write is async-signal-safe (man signal-safety). errno is restored for the code that a signal
 * handler has interrupted. */
int kr__linux_wake_send(const struct kr__kernel *k, int fd) {
    (void)k;
    int saved = errno;
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one);
    int rc = n < 0 ? -errno : 0;
    errno = saved;
    return rc;
}
