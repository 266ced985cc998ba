/* Socket options, set once: before connect, or on the listening socket, from which accept copies them
 * (sk_clone_lock, net/core/sock.c; tcp_create_openreq_child, net/ipv4/tcp_minisocks.c), so that no
 * accepted connection pays for them, and no direct descriptor has to be asked.
 * Failure: the first option that is refused. */
#include "kernel/sock.h"

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
