/* The real kernel, by liburing and libc.
 *
 * Relies on: a ring created with IORING_SETUP_R_DISABLED takes registrations from any thread and
 * belongs to the thread that enables it (man io_uring_setup; observed on 6.18). liburing 2.3's
 * shared library has no io_uring_enable_rings, so that goes through io_uring_register. Its
 * io_uring_queue_init_params writes an index array that IORING_SETUP_NO_SQARRAY rings do not have,
 * so setup and mmap are called apart and the array, where there is one, is filled here. */
#include "kernel/kernel.h"

#include "base/tsan.h"
#include "kernel/path.h"
#include "kernel/pipe.h"
#include "kernel/reset.h"
#include "kernel/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Kernel workers of a reactor's thread, of either kind. What needs one is a shutdown or a read of a
 * file. */
#define KR__WORKERS_MOST 16u

static int linux_ring_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                           struct io_uring_params *params) {
    (void)k;
    int fd = io_uring_setup(entries, params);
    if (fd < 0)
        return fd;
    memset(ring, 0, sizeof *ring);
    int rc = io_uring_queue_mmap(fd, params, ring);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    kr__maps_acquire();
    ring->features = params->features;
    if (!(params->flags & KR__SETUP_NO_SQARRAY)) {
        for (unsigned i = 0; i < params->sq_entries; i++)
            ring->sq.array[i] = i;
    }
    rc = io_uring_ring_dontfork(ring);
    if (rc < 0)
        io_uring_queue_exit(ring);
    return rc;
}

/* The kernel's own bounds are RLIMIT_NPROC for requests on sockets and pipes, and four a CPU for
 * others (io_wq_create, io_uring/io-wq.c). They are of the thread, not of the ring; an older kernel
 * that does not know this keeps its own. */
static void bound_workers(struct io_uring *ring) {
    unsigned most[2] = {KR__WORKERS_MOST, KR__WORKERS_MOST};
    io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_IOWQ_MAX_WORKERS, most, 2);
}

/* A registered ring descriptor saves a reference count in each enter; a thread has 16 of them, and
 * when they are spent the plain one does as well. The index is the thread's own: in another one it
 * names another ring, or none (io_uring/register.c). So liburing is not told of it, which would
 * give it back wherever the ring is closed. */
static int linux_ring_bind(const struct kr__kernel *k, struct io_uring *ring, bool *registered) {
    (void)k;
    int rc = io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (rc < 0)
        return rc;
    struct io_uring_rsrc_update place = {.offset = UINT32_MAX, .data = (unsigned)ring->ring_fd};
    rc = io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_RING_FDS, &place, 1);
    *registered = rc == 1;
    if (*registered)
        ring->enter_ring_fd = (int)place.offset;
    bound_workers(ring);
    return 0;
}

static void unregister_ring_fd(struct io_uring *ring) {
    struct io_uring_rsrc_update place = {.offset = (uint32_t)ring->enter_ring_fd};
    io_uring_register((unsigned)ring->ring_fd, IORING_UNREGISTER_RING_FDS, &place, 1);
    ring->enter_ring_fd = ring->ring_fd;
}

/* The child never had the ring's pages (dontfork): unmapping would hit whatever is there now. */
static void linux_ring_close(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                             bool child) {
    (void)k;
    if (child) {
        if (ring->ring_fd >= 0)
            close(ring->ring_fd);
        ring->ring_fd = -1;
        return;
    }
    if (registered)
        unregister_ring_fd(ring);
    kr__maps_release();
    io_uring_queue_exit(ring);
}

static int linux_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                       unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    (void)k;
    int fd = ring->ring_fd;
    if (ring->enter_ring_fd != fd) {
        fd = ring->enter_ring_fd;
        flags |= IORING_ENTER_REGISTERED_RING;
    }
    if (!arg)
        return io_uring_enter2((unsigned)fd, submit, wait_for, flags, NULL, 0);
    return io_uring_enter2((unsigned)fd, submit, wait_for, flags | IORING_ENTER_EXT_ARG,
                           (sigset_t *)(uintptr_t)arg, sizeof *arg);
}

static int linux_reg(const struct kr__kernel *k, struct io_uring *ring, unsigned opcode,
                     const void *arg, unsigned count) {
    (void)k;
    return io_uring_register((unsigned)ring->ring_fd, opcode, arg, count);
}

static int64_t linux_clock(const struct kr__kernel *k) {
    (void)k;
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void *linux_map(const struct kr__kernel *k, size_t size, enum kr__map how) {
    (void)k;
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
    if ((how == KR__MAP_WIPE && madvise(pages, size, MADV_WIPEONFORK) < 0) ||
        (how == KR__MAP_KEEP && madvise(pages, size, MADV_DONTFORK) < 0)) {
        int error = errno;
        munmap(pages, size);
        errno = error;
        return NULL;
    }
    return pages;
}

static void linux_unmap(const struct kr__kernel *k, void *pages, size_t size) {
    (void)k;
    munmap(pages, size);
}

static int set_flag(int fd, int level, int name, bool wanted) {
    return wanted ? kr__sock_set_one(fd, level, name, 1) : 0;
}

/* Before it listens: a client's end of the connection has this from the moment it connects
 * (unix_stream_connect, net/unix/af_unix.c; observed on 6.18). */
static int set_fds(int fd, int family, bool refuse) {
    return refuse && family == AF_UNIX ? kr__sock_pass_fds(fd, false) : 0;
}

static int set_listen_flags(int fd, const struct kr__listen_plan *plan) {
    int family = plan->addr->u.sa.sa_family;
    if (family == AF_UNIX) { /* which hands none of these down, but says now what is refused */
        int error = kr__sock_set(fd, family, plan->conn);
        return error ? error : set_fds(fd, family, plan->refuse_fds);
    }
    int rc = set_flag(fd, SOL_SOCKET, SO_REUSEADDR, plan->reuse_addr);
    if (rc == 0)
        rc = set_flag(fd, SOL_SOCKET, SO_REUSEPORT, plan->reuse_port);
    if (rc == 0 && family == AF_INET6) /* whatever net.ipv6.bindv6only has made the default */
        rc = kr__sock_set_one(fd, IPPROTO_IPV6, IPV6_V6ONLY, plan->v6_only);
    if (rc == 0)
        rc = kr__sock_set(fd, family, plan->conn);
    return rc;
}

/* A path that fills sun_path is told with a size that counts a closing 0 behind it (unix_mkname_bsd,
 * net/unix/af_unix.c), and which no call takes. */
static void fit(struct kr_addr *addr) {
    if (addr->u.sa.sa_family == AF_UNIX && addr->size > sizeof addr->u.un)
        addr->size = sizeof addr->u.un;
}

static int name_of(int fd, struct kr_addr *ret) {
    ret->size = sizeof ret->u;
    if (getsockname(fd, &ret->u.sa, &ret->size) < 0)
        return -errno;
    fit(ret);
    return 0;
}

static int listen_once(const struct kr__listen_plan *plan, struct kr_addr *bound) {
    int fd = socket(plan->addr->u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    int rc = set_listen_flags(fd, plan);
    if (rc == 0)
        rc = kr__path_bind(fd, plan);
    bool has_path = rc == 0;
    if (rc == 0 && listen(fd, (int)plan->backlog) < 0)
        rc = -errno;
    if (rc == 0)
        rc = name_of(fd, bound);
    if (rc < 0) {
        if (has_path)
            kr__path_remove(plan->addr, NULL, -1);
        close(fd);
        return rc;
    }
    return fd;
}

#define PAUSE_FIRST_MS 1
#define PAUSE_LAST_MS 64

static void sleep_ms(int ms) {
    const struct timespec time = {.tv_nsec = ms * 1000000L};
    nanosleep(&time, NULL);
}

/* The file table of a ring outlives a process that was killed: a kernel thread takes it down, and
 * with it the listening sockets in it (io_ring_exit_work, io_uring/io_uring.c). Their addresses
 * were in use for 25 to 60 ms longer on an idle machine, up to 350 ms on a busy one (observed on
 * 6.18); those of plain descriptors with an accept in flight for 7 to 15 ms. */
static int linux_listen(const struct kr__kernel *k, const struct kr__listen_plan *plan,
                        struct kr_addr *bound) {
    int64_t until = linux_clock(k) + plan->patience_ns;
    int ms = PAUSE_FIRST_MS;
    for (;;) {
        int rc = listen_once(plan, bound);
        if (rc != -EADDRINUSE || linux_clock(k) >= until || !kr__path_may_fall_free(plan))
            return rc;
        sleep_ms(ms);
        ms = ms < PAUSE_LAST_MS ? 2 * ms : ms;
    }
}

static int socket_fact(int fd, int name, int *ret) {
    socklen_t size = sizeof *ret;
    return getsockopt(fd, SOL_SOCKET, name, ret, &size) < 0 ? -errno : 0;
}

/* 0: a stream socket of a family we know that listens. */
static int check_listens(int fd, int *family) {
    int type, listens;
    int rc = socket_fact(fd, SO_DOMAIN, family);
    if (rc == 0)
        rc = socket_fact(fd, SO_TYPE, &type);
    if (rc == 0)
        rc = socket_fact(fd, SO_ACCEPTCONN, &listens);
    if (rc < 0)
        return rc;
    bool known = *family == AF_INET || *family == AF_INET6 || *family == AF_UNIX;
    return known && type == SOCK_STREAM && listens ? 0 : -EINVAL;
}

static int linux_listen_fd(const struct kr__kernel *k, int fd, const struct kr__listen_plan *plan,
                           struct kr_addr *bound) {
    (void)k;
    int family;
    int rc = check_listens(fd, &family);
    if (rc < 0)
        return rc;
    kr__sock_own(fd, family, plan->refuse_fds);
    rc = kr__sock_set(fd, family, plan->conn);
    if (rc < 0)
        return rc;
    return listen(fd, (int)plan->backlog) < 0 ? -errno : name_of(fd, bound);
}

static int linux_path_id(const struct kr__kernel *k, const struct kr_addr *addr,
                         struct kr__path_id *ret) {
    (void)k;
    return kr__path_id(addr, ret);
}

static int linux_path_dir(const struct kr__kernel *k, const struct kr_addr *addr) {
    (void)k;
    return kr__path_dir(addr);
}

static void linux_path_remove(const struct kr__kernel *k, const struct kr_addr *addr,
                              const struct kr__path_id *id, int dir) {
    (void)k;
    kr__path_remove(addr, id, dir);
}

/* Port 0 is left open until connect, so that it need only be free for that destination (man ip,
 * IP_BIND_ADDRESS_NO_PORT; IPv6 sockets take it too). A port that was asked for may have been used
 * a minute ago. */
static int bind_source(int fd, const struct kr_addr *source) {
    int rc = 0;
    if (source->u.sa.sa_family != AF_UNIX && kr_addr_port(source))
        rc = set_flag(fd, SOL_SOCKET, SO_REUSEADDR, true);
    else if (source->u.sa.sa_family != AF_UNIX)
        rc = set_flag(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, true);
    if (rc == 0 && bind(fd, &source->u.sa, source->size) < 0)
        rc = -errno;
    return rc;
}

static int linux_socket(const struct kr__kernel *k, const struct kr__socket_plan *plan) {
    (void)k;
    bool local = plan->family == AF_UNIX;
    int fd = socket(plan->family, SOCK_STREAM | SOCK_CLOEXEC | (local ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0)
        return -errno;
    int rc = kr__sock_set(fd, plan->family, plan->conn);
    if (rc == 0)
        rc = set_fds(fd, plan->family, plan->refuse_fds);
    if (rc == 0 && plan->source)
        rc = bind_source(fd, plan->source);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}

/* What comes afterwards are requests, which wait in the kernel: the socket is made an ordinary
 * one. */
static int linux_connect(const struct kr__kernel *k, int fd, const struct kr_addr *addr) {
    (void)k;
    int off = 0;
    if (connect(fd, &addr->u.sa, addr->size) < 0 || ioctl(fd, FIONBIO, &off) < 0)
        return -errno;
    return 0;
}

static int linux_sock_stream(const struct kr__kernel *k, int fd) {
    (void)k;
    int type;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
        return -errno;
    if (type != SOCK_STREAM)
        return -ESOCKTNOSUPPORT;
    return 0;
}

/* A TCP socket whose both sides have ended, or whose peer has reset it, has no peer any more, but
 * gives what it has received first (inet_getname, net/ipv4/af_inet.c; observed on 6.18). */
static bool has_unread(int fd) {
    int unread = 0;
    return ioctl(fd, FIONREAD, &unread) == 0 && unread > 0;
}

static int linux_sock_addrs(const struct kr__kernel *k, int fd, struct kr_addr *peer,
                            struct kr_addr *local) {
    (void)k;
    int rc = name_of(fd, local);
    if (rc < 0)
        return rc;
    peer->size = sizeof peer->u;
    if (getpeername(fd, &peer->u.sa, &peer->size) == 0) {
        fit(peer);
        return 0;
    }
    int error = errno;
    if (error != ENOTCONN || !has_unread(fd))
        return -error;
    *peer = (struct kr_addr){.u.sa.sa_family = local->u.sa.sa_family};
    return 0;
}

static int linux_sock_set(const struct kr__kernel *k, int fd, const struct kr__sock_step *step) {
    (void)k;
    return kr__sock_set_one(fd, step->level, step->name, step->value);
}

static int linux_sock_equip(const struct kr__kernel *k, int fd, const struct kr_conn_opts *opts) {
    (void)k;
    return kr__sock_set(fd, AF_UNIX, opts);
}

static int linux_sock_end(const struct kr__kernel *k, int fd) {
    (void)k;
    return shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

static int linux_dup(const struct kr__kernel *k, int fd) {
    (void)k;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return copy < 0 ? -errno : copy;
}

static void linux_sock_own(const struct kr__kernel *k, int fd, int family, bool refuse_fds) {
    (void)k;
    kr__sock_own(fd, family, refuse_fds);
}

static bool linux_refuses_fds(const struct kr__kernel *k) {
    (void)k;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool refuses = kr__sock_pass_fds(fd, false) == 0;
    close(fd);
    return refuses;
}

static int linux_sock_unlinger(const struct kr__kernel *k, int fd) {
    (void)k;
    return kr__sock_unlinger(fd);
}

/* O_PATH and O_DIRECT are GNU's; the latter wants memory and offsets of its own liking (man
 * open). */
static int readable_at(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    if (flags & O_PATH || (flags & O_ACCMODE) == O_WRONLY)
        return -EBADF;
    return flags & O_DIRECT ? -EINVAL : 0;
}

static int linux_file_size(const struct kr__kernel *k, int fd, uint64_t *ret) {
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

static int linux_file_read(const struct kr__kernel *k, int fd, void *to, size_t size,
                           uint64_t offset) {
    (void)k;
    ssize_t n = pread(fd, to, size, (off_t)offset);
    return n < 0 ? -errno : (int)n;
}

static int linux_close(const struct kr__kernel *k, int fd) {
    (void)k;
    return close(fd) < 0 ? -errno : 0;
}

/* SO_LINGER without a time does not wait: it stays, since others may share the socket. */
static int linux_close_taken(const struct kr__kernel *k, int fd) {
    struct linger linger;
    socklen_t size = sizeof linger;
    if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size) == 0 && linger.l_onoff &&
        linger.l_linger)
        kr__sock_unlinger(fd);
    return k->file.close(k, fd);
}

static int linux_write(const struct kr__kernel *k, int fd, const void *data, size_t size) {
    (void)k;
    ssize_t n;
    do {
        n = write(fd, data, size);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : (int)n;
}

static int linux_wake_open(const struct kr__kernel *k) {
    (void)k;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

/* eventfd's write is async-signal-safe, as write is; errno is kept for the code it interrupted. */
static int linux_wake_send(const struct kr__kernel *k, int fd) {
    (void)k;
    int saved = errno;
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one);
    int rc = n < 0 ? -errno : 0;
    errno = saved;
    return rc;
}

/* Once for the process, as its threads and children have the same kernel. Where it cannot be tried
 * (a filter, a namespace without loopback) the next reactor tries again. */
static bool linux_reset_told(const struct kr__kernel *k) {
    (void)k;
    static int known = -1;
    int told = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (told < 0) {
        told = kr__reset_try();
        if (told >= 0)
            __atomic_store_n(&known, told, __ATOMIC_RELAXED);
    }
    return told > 0;
}

static void linux_yield(const struct kr__kernel *k) {
    (void)k;
    sched_yield();
}

static uint64_t soft_limit(__rlimit_resource_t which) {
    struct rlimit limit;
    return getrlimit(which, &limit) < 0 ? 0 : (uint64_t)limit.rlim_cur;
}

static uint64_t linux_limit_nofile(const struct kr__kernel *k) {
    (void)k;
    return soft_limit(RLIMIT_NOFILE);
}

static uint64_t linux_limit_memlock(const struct kr__kernel *k) {
    (void)k;
    return soft_limit(RLIMIT_MEMLOCK);
}

static uint64_t linux_limit_as(const struct kr__kernel *k) {
    (void)k;
    return soft_limit(RLIMIT_AS);
}

static uint64_t linux_limit_data(const struct kr__kernel *k) {
    (void)k;
    return soft_limit(RLIMIT_DATA);
}

/* The file is there since kernel 6.6. */
static int linux_sysctl_disabled(const struct kr__kernel *k) {
    (void)k;
    int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    char digit = 0;
    ssize_t n = read(fd, &digit, 1);
    close(fd);
    return n == 1 && digit >= '0' && digit <= '9' ? digit - '0' : -1;
}

const struct kr__kernel kr__linux = {
    .ring.open = linux_ring_open,
    .ring.bind = linux_ring_bind,
    .ring.close = linux_ring_close,
    .ring.enter = linux_enter,
    .ring.reg = linux_reg,

    .socket.listen = linux_listen,
    .socket.listen_fd = linux_listen_fd,
    .socket.path_id = linux_path_id,
    .socket.path_dir = linux_path_dir,
    .socket.path_remove = linux_path_remove,
    .socket.open = linux_socket,
    .socket.connect = linux_connect,
    .socket.is_stream = linux_sock_stream,
    .socket.addrs = linux_sock_addrs,
    .socket.shutdown = linux_sock_end,
    .socket.was_shut_down = kr__sock_ended,
    .socket.set_option = linux_sock_set,
    .socket.set_accepted = linux_sock_equip,
    .socket.set_adopted = linux_sock_own,
    .socket.unlinger = linux_sock_unlinger,
    .socket.refuses_fds = linux_refuses_fds,
    .socket.tells_reset = linux_reset_told,

    .file.dup = linux_dup,
    .file.close = linux_close,
    .file.close_received = linux_close_taken,
    .file.size = linux_file_size,
    .file.read = linux_file_read,
    .file.write = linux_write,
    .file.pipe_end = kr__pipe_end,
    .file.pipe_flags = kr__pipe_quiet,
    .file.pipe_reopen = kr__pipe_own,
    .file.wake_open = linux_wake_open,
    .file.wake_send = linux_wake_send,

    .process.clock = linux_clock,
    .process.yield = linux_yield,
    .process.map = linux_map,
    .process.unmap = linux_unmap,
    .process.limit_nofile = linux_limit_nofile,
    .process.limit_memlock = linux_limit_memlock,
    .process.limit_as = linux_limit_as,
    .process.limit_data = linux_limit_data,
    .process.sysctl_disabled = linux_sysctl_disabled,
};
