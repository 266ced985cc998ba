/* The real kernel's sockets: made, listening, connected, asked for what they are. Their options are
 * in sockopt.c, paths of Unix sockets in path.c. */
#include "kernel/linux.h"

#include "kernel/path.h"
#include "kernel/reset.h"
#include "kernel/sockopt.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int set_flag(int fd, int level, int name, bool wanted) {
    return wanted ? kr__sock_set_one(fd, level, name, 1) : 0;
}

/* Called before the socket listens: an accepted socket takes this from its listener at the moment
 * the client connects (unix_stream_connect, net/unix/af_unix.c; observed on 6.18). */
static int set_fds(int fd, int family, bool refuse) {
    return refuse && family == AF_UNIX ? kr__sock_pass_fds(fd, false) : 0;
}

static int set_listen_flags(int fd, const struct kr__listen_plan *plan) {
    int family = plan->addr->u.sa.sa_family;
    if (family == AF_UNIX) { /* its connections inherit no option, but a refused one shows here */
        int error = kr__sock_set(fd, family, plan->conn);
        return error ? error : set_fds(fd, family, plan->refuse_fds);
    }
    int rc = set_flag(fd, SOL_SOCKET, SO_REUSEADDR, plan->reuse_addr);
    if (rc == 0)
        rc = set_flag(fd, SOL_SOCKET, SO_REUSEPORT, plan->reuse_port);
    if (rc == 0 && family == AF_INET6) /* net.ipv6.bindv6only may have changed the default */
        rc = kr__sock_set_one(fd, IPPROTO_IPV6, IPV6_V6ONLY, plan->v6_only);
    if (rc == 0)
        rc = kr__sock_set(fd, family, plan->conn);
    return rc;
}

/* For a path that fills sun_path the kernel returns a size that counts a closing 0 behind it
 * (unix_mkname_bsd, net/unix/af_unix.c). No call accepts that size. */
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

static int listen_once(const struct kr__kernel *k, const struct kr__listen_plan *plan,
                       struct kr_addr *bound) {
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
            kr__path_remove(k, plan->addr, NULL, -1);
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

/* A ring's file table outlives a process that is killed: a kernel thread takes the table down, and
 * with it the listening sockets in it (io_ring_exit_work, io_uring/io_uring.c). Observed on 6.18:
 * their addresses stay in use for 25 to 60 ms on an idle machine and for up to 350 ms on a busy one,
 * and those of plain descriptors with an accept in flight for 7 to 15 ms. */
int kr__linux_socket_listen(const struct kr__kernel *k, const struct kr__listen_plan *plan,
                            struct kr_addr *bound) {
    int64_t until = kr__linux_clock(k) + plan->patience_ns;
    int ms = PAUSE_FIRST_MS;
    for (;;) {
        int rc = listen_once(k, plan, bound);
        if (rc != -EADDRINUSE || kr__linux_clock(k) >= until || !kr__path_may_fall_free(plan))
            return rc;
        sleep_ms(ms);
        ms = ms < PAUSE_LAST_MS ? 2 * ms : ms;
    }
}

static int socket_fact(int fd, int name, int *ret) {
    socklen_t size = sizeof *ret;
    return getsockopt(fd, SOL_SOCKET, name, ret, &size) < 0 ? -errno : 0;
}

/* 0: it is a stream socket of a known family, and it listens. */
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

int kr__linux_socket_listen_fd(const struct kr__kernel *k, int fd,
                               const struct kr__listen_plan *plan, struct kr_addr *bound) {
    int family;
    int rc = check_listens(fd, &family);
    if (rc < 0)
        return rc;
    kr__sock_set_adopted(k, fd, family, plan->refuse_fds);
    rc = kr__sock_set(fd, family, plan->conn);
    if (rc < 0)
        return rc;
    return listen(fd, (int)plan->backlog) < 0 ? -errno : name_of(fd, bound);
}

/* Port 0 is chosen at connect, so that the port has to be free for that destination only (man ip,
 * IP_BIND_ADDRESS_NO_PORT; IPv6 sockets take it too). A port that the caller has chosen may still
 * be in TIME_WAIT: SO_REUSEADDR. */
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

int kr__linux_socket_open(const struct kr__kernel *k, const struct kr__socket_plan *plan) {
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

/* The requests that follow have to wait in the kernel, so the socket is made blocking again. */
int kr__linux_socket_connect(const struct kr__kernel *k, int fd, const struct kr_addr *addr) {
    (void)k;
    int off = 0;
    if (connect(fd, &addr->u.sa, addr->size) < 0 || ioctl(fd, FIONBIO, &off) < 0)
        return -errno;
    return 0;
}

int kr__linux_socket_is_stream(const struct kr__kernel *k, int fd) {
    (void)k;
    int type;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
        return -errno;
    if (type != SOCK_STREAM)
        return -ESOCKTNOSUPPORT;
    return 0;
}

/* A TCP socket that has ended both ways, or that the peer has reset, has no peer address any more.
 * The bytes that it has received can still be read (inet_getname, net/ipv4/af_inet.c; observed on
 * 6.18). */
static bool has_unread(int fd) {
    int unread = 0;
    return ioctl(fd, FIONREAD, &unread) == 0 && unread > 0;
}

int kr__linux_socket_addrs(const struct kr__kernel *k, int fd, struct kr_addr *peer,
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

int kr__linux_socket_shutdown(const struct kr__kernel *k, int fd) {
    (void)k;
    return shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

/* After shutdown(SHUT_WR) a send of no bytes is refused with EPIPE (tcp_sendmsg_locked,
 * net/ipv4/tcp.c; unix_stream_sendmsg, net/unix/af_unix.c). A socket with a pending error is not
 * tried: the send would consume the error, which a receive has to report. */
bool kr__linux_socket_was_shut_down(const struct kr__kernel *k, int fd) {
    (void)k;
    struct pollfd pollfd = {.fd = fd};
    if (poll(&pollfd, 1, 0) < 0 || pollfd.revents & POLLERR)
        return false;
    return send(fd, "", 0, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EPIPE;
}

bool kr__linux_socket_refuses_fds(const struct kr__kernel *k) {
    (void)k;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool refuses = kr__sock_pass_fds(fd, false) == 0;
    close(fd);
    return refuses;
}

/* Tried once a process, since its threads and children have the same kernel. Where it cannot be
 * tried (a seccomp filter, a namespace without loopback), the next reactor tries again. */
bool kr__linux_socket_tells_reset(const struct kr__kernel *k) {
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
