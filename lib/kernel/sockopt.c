/* Socket options of the real kernel.
 *
 * Most are set once: before connect, or on the listening socket, from which accept copies them
 * (sk_clone_lock, net/core/sock.c; tcp_create_openreq_child, net/ipv4/tcp_minisocks.c). So an
 * accepted connection costs no call for them. The table `living` has the options that a connection
 * may set later.
 * Failure: the first option that is refused; those before it stay set. */
#include "kernel/sockopt.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

int kr__sock_set_one(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value) < 0 ? -errno : 0;
}

struct option {
    int level, name;
    unsigned value; /* 0: left to the system */
};

static int set_all(int fd, const struct option *options, unsigned count) {
    int rc = 0;
    for (unsigned i = 0; i < count && rc == 0; i++) {
        if (options[i].value)
            rc = kr__sock_set_one(fd, options[i].level, options[i].name, (int)options[i].value);
    }
    return rc;
}

int kr__sock_set(int fd, int family, const struct kr_conn_opts *o) {
    if (!o)
        return 0;
    const struct option any[] = {
        {SOL_SOCKET, SO_SNDBUF, o->send_buf},
        {SOL_SOCKET, SO_RCVBUF, o->recv_buf},
        {SOL_SOCKET, SO_MARK, o->mark},
    };
    const struct option tcp[] = {
        {SOL_SOCKET, SO_OOBINLINE, 1}, /* RFC 6093: an urgent byte is a byte of the stream */
        {IPPROTO_TCP, TCP_NODELAY, o->no_delay},
        {SOL_SOCKET, SO_KEEPALIVE, o->keep_idle_s != 0},
        {IPPROTO_TCP, TCP_KEEPIDLE, o->keep_idle_s},
        {IPPROTO_TCP, TCP_KEEPINTVL, o->keep_every_s},
        {IPPROTO_TCP, TCP_KEEPCNT, o->keep_probes},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, o->user_timeout_ms},
    };
    int rc = set_all(fd, any, sizeof any / sizeof *any);
    if (rc == 0 && family != AF_UNIX)
        rc = set_all(fd, tcp, sizeof tcp / sizeof *tcp);
    return rc;
}

int kr__sock_unlinger(const struct kr__kernel *k, int fd) {
    (void)k;
    const struct linger off = {0};
    return setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off) < 0 ? -errno : 0;
}

/* A refusal is no failure: it means that this kernel, or this kind of socket, does not know the
 * option, so that nobody can have set it. */
static void reset_all(int fd, const struct option *options, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        kr__sock_set_one(fd, options[i].level, options[i].name, (int)options[i].value);
}

/* SO_RCVLOWAT hides fewer bytes than its value from a poll. TCP_CORK delays the last segment of a
 * reply by 200 ms (man tcp). SO_TIMESTAMP off clears its variants as well (sock_set_timestamp,
 * net/core/sock.c). Time stamps of sent data, and errors (IP_RECVERR), go to the socket's error
 * queue, which this library does not read; EPOLLERR stands until somebody reads it. */
static const struct option unsuitable[] = {
    {SOL_SOCKET, SO_RCVLOWAT, 1}, {SOL_SOCKET, SO_TIMESTAMP, 0}, {SOL_SOCKET, SO_TIMESTAMPING, 0},
    {IPPROTO_TCP, TCP_CORK, 0},   {IPPROTO_IP, IP_RECVERR, 0},   {IPPROTO_IPV6, IPV6_RECVERR, 0},
};

/* Of a Unix socket. All but the last bring control data with the bytes. */
static const struct option unsuitable_unix[] = {
    {SOL_SOCKET, SO_PASSCRED, 0}, {SOL_SOCKET, SO_PASSSEC, 0},  {SOL_SOCKET, KR__SO_PASSPIDFD, 0},
    {SOL_SOCKET, KR__SO_INQ, 0},  {SOL_SOCKET, SO_RCVLOWAT, 1},
};

static bool is_tcp(int fd) {
    int protocol;
    socklen_t size = sizeof protocol;
    return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 &&
           protocol == IPPROTO_TCP;
}

/* Empties the error queue, one entry a call. Only for TCP: a protocol without such a queue may take
 * the call for an ordinary receive. */
static void errors_drop(int fd) {
    struct msghdr msg = {0};
    while (recvmsg(fd, &msg, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0)
        msg = (struct msghdr){0};
}

int kr__sock_set_option(const struct kr__kernel *k, int fd, const struct kr__sock_step *step) {
    (void)k;
    return kr__sock_set_one(fd, step->level, step->name, step->value);
}

int kr__sock_set_accepted(const struct kr__kernel *k, int fd, const struct kr_conn_opts *opts) {
    (void)k;
    return kr__sock_set(fd, AF_UNIX, opts);
}

int kr__sock_pass_fds(int fd, bool takes) {
    return kr__sock_set_one(fd, SOL_SOCKET, KR__SO_PASSRIGHTS, takes);
}

void kr__sock_set_adopted(const struct kr__kernel *k, int fd, int family, bool refuse_fds) {
    kr__sock_unlinger(k, fd);
    if (family == AF_UNIX) {
        reset_all(fd, unsuitable_unix, sizeof unsuitable_unix / sizeof *unsuitable_unix);
        kr__sock_pass_fds(fd, !refuse_fds);
        return;
    }
    reset_all(fd, unsuitable, sizeof unsuitable / sizeof *unsuitable);
    if (!is_tcp(fd))
        return;
    kr__sock_set_one(fd, SOL_SOCKET, SO_OOBINLINE, 1); /* as kr__sock_set does */
    errors_drop(fd);
}

/* By enum kr_sockopt: the options that a connection may set while it is open. */
static const struct {
    int level, name;
    unsigned least, most;
} living[] = {
    [KR_SOCKOPT_NO_DELAY] = {IPPROTO_TCP, TCP_NODELAY, 0, 1},
    [KR_SOCKOPT_KEEP_IDLE_S] = {IPPROTO_TCP, TCP_KEEPIDLE, 0, 32767},
    [KR_SOCKOPT_KEEP_EVERY_S] = {IPPROTO_TCP, TCP_KEEPINTVL, 1, 32767},
    [KR_SOCKOPT_KEEP_PROBES] = {IPPROTO_TCP, TCP_KEEPCNT, 1, 127},
    [KR_SOCKOPT_USER_TIMEOUT_MS] = {IPPROTO_TCP, TCP_USER_TIMEOUT, 0, INT32_MAX},
    [KR_SOCKOPT_SEND_BUF] = {SOL_SOCKET, SO_SNDBUF, 1, INT32_MAX},
    [KR_SOCKOPT_RECV_BUF] = {SOL_SOCKET, SO_RCVBUF, 1, INT32_MAX},
    [KR_SOCKOPT_MARK] = {SOL_SOCKET, SO_MARK, 0, UINT32_MAX},
};

int kr__sock_steps(struct kr__sock_steps *ret, enum kr_sockopt which, unsigned value) {
    if ((unsigned)which > KR_SOCKOPT_MARK || value < living[which].least ||
        value > living[which].most)
        return -EINVAL;
    *ret = (struct kr__sock_steps){.tcp = living[which].level == IPPROTO_TCP};
    bool keep = which == KR_SOCKOPT_KEEP_IDLE_S;
    if (!keep || value)
        ret->step[ret->count++] =
            (struct kr__sock_step){living[which].level, living[which].name, (int)value};
    if (keep)
        ret->step[ret->count++] = (struct kr__sock_step){SOL_SOCKET, SO_KEEPALIVE, value != 0};
    return 0;
}
