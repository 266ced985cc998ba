/* URING_CMD at sockets: options, and how much is there, as io_uring/cmd_net.c and net/core/sock.c
 * do it.
 *
 * Happy path: a value is kept, and given back; those that a connection's end can tell by are
 * followed: SO_LINGER with no time has CLOSE reset. All is done at submit. Failure: a level or name
 * that is not known here; a length that does not fit; a kernel before 6.7, or 6.5 for how much is
 * there.
 *
 * Facts: only SOL_SOCKET can be asked for, and the result is the length; a buffer size is doubled
 * (man socket); SO_PEERNAME wants no more room than the address has (sk_getsockopt). */
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

#include <netinet/tcp.h>

#define CMD_SIOCINQ 0u
#define CMD_SIOCOUTQ 1u

/* Options that are a number, and of which sockets. */
static const struct option {
    int level, name, least;
    bool doubles;
} options[] = {
    {SOL_SOCKET, SO_KEEPALIVE, 0, false},        {SOL_SOCKET, SO_SNDBUF, 2304, true},
    {SOL_SOCKET, SO_RCVBUF, 1152, true},         {SOL_SOCKET, SO_REUSEADDR, 0, false},
    {SOL_SOCKET, SO_REUSEPORT, 0, false},        {SOL_SOCKET, SO_PRIORITY, 0, false},
    {SOL_SOCKET, SO_MARK, 0, false},             {SOL_SOCKET, SO_RCVLOWAT, 0, false},
    {IPPROTO_TCP, TCP_NODELAY, 0, false},        {IPPROTO_TCP, TCP_CORK, 0, false},
    {IPPROTO_TCP, TCP_QUICKACK, 0, false},       {IPPROTO_TCP, TCP_KEEPIDLE, 0, false},
    {IPPROTO_TCP, TCP_KEEPINTVL, 0, false},      {IPPROTO_TCP, TCP_KEEPCNT, 0, false},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, 0, false},   {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0, false},
    {IPPROTO_IP, IP_TOS, 0, false},              {SOL_SOCKET, SO_OOBINLINE, 0, false},
};
#define OPTIONS (sizeof options / sizeof *options)
_Static_assert(OPTIONS <= KR__SIM_OPTIONS, "a file has room for all of them");

struct demand {
    int level, name;
    uint32_t size;
    void *value;
};

/* Where the fields stand in the SQE: liburing >= 2.6, struct io_uring_sqe. */
static struct demand demand_of(const struct io_uring_sqe *sqe) {
    return (struct demand){
        .level = (int)(uint32_t)sqe->addr,
        .name = (int)(sqe->addr >> 32),
        .size = sqe->file_index,
        .value = (void *)(uintptr_t)sqe->addr3,
    };
}

static int option_find(const struct kr__sim_file *file, const struct demand *d, unsigned *ret) {
    bool local = file->kind == KR__SIM_STREAM && file->stream.local;
    if (local && d->level != SOL_SOCKET)
        return -EOPNOTSUPP;
    for (unsigned i = 0; i < OPTIONS; i++) {
        if (options[i].level == d->level && options[i].name == d->name) {
            *ret = i;
            return 0;
        }
    }
    return -ENOPROTOOPT;
}

static int linger_set(struct kr__sim_file *file, const struct demand *d) {
    struct linger linger;
    if (d->size < sizeof linger)
        return -EINVAL;
    memcpy(&linger, d->value, sizeof linger);
    file->resets = linger.l_onoff && !linger.l_linger;
    return 0;
}

static int rights_set(struct kr__sim_file *file, const struct demand *d) {
    int value;
    if (file->sim->version < KR__SIM_LINUX(6, 16))
        return -ENOPROTOOPT;
    if (file->kind != KR__SIM_STREAM || !file->stream.local)
        return -EOPNOTSUPP;
    if (d->size < sizeof value)
        return -EINVAL;
    memcpy(&value, d->value, sizeof value);
    file->refuses = !value;
    return 0;
}

static int option_set(struct kr__sim_file *file, const struct demand *d) {
    if (d->level == SOL_SOCKET && d->name == SO_LINGER)
        return linger_set(file, d);
    if (d->level == SOL_SOCKET && d->name == KR__SO_PASSRIGHTS)
        return rights_set(file, d);
    unsigned i;
    int rc = option_find(file, d, &i), value;
    if (rc < 0)
        return rc;
    if (d->size < sizeof value)
        return -EINVAL;
    memcpy(&value, d->value, sizeof value);
    value = options[i].doubles ? 2 * value : value;
    file->options[i] = value > options[i].least ? value : options[i].least;
    if (d->level == SOL_SOCKET && d->name == SO_OOBINLINE)
        file->inlines = value;
    return 0;
}

static int given(const struct demand *d, const void *value, size_t size) {
    size = kr__min_size(size, d->size);
    memcpy(d->value, value, size);
    return (int)size;
}

static int number(const struct demand *d, int value) {
    return given(d, &value, sizeof value);
}

static int peer_name(const struct kr__sim_file *file, const struct demand *d) {
    const struct kr__sim_stream *s = &file->stream;
    if (file->kind != KR__SIM_STREAM || s->phase != KR__SIM_JOINED || s->dead)
        return -ENOTCONN;
    return d->size > s->there.size ? -EINVAL : given(d, &s->there.u, d->size);
}

static int peer_cred(const struct kr__sim_file *file, const struct demand *d) {
    bool local = file->kind == KR__SIM_STREAM && file->stream.local;
    struct ucred cred =
        local ? (struct ucred){1000, 1000, 1000} : (struct ucred){0, (uid_t)-1, (gid_t)-1};
    return given(d, &cred, sizeof cred);
}

static int option_get(struct kr__sim_file *file, const struct demand *d) {
    if (d->level != SOL_SOCKET)
        return -EOPNOTSUPP;
    switch (d->name) {
    case SO_ERROR:
        return number(d, kr__sim_stream_error(&file->stream));
    case SO_TYPE:
        return number(d, SOCK_STREAM);
    case SO_ACCEPTCONN:
        return number(d, file->kind == KR__SIM_LISTENER);
    case SO_PEERNAME:
        return peer_name(file, d);
    case SO_PEERCRED:
        return peer_cred(file, d);
    default:
        break;
    }
    unsigned i;
    int rc = option_find(file, d, &i);
    return rc < 0 ? rc : number(d, file->options[i]);
}

int kr__sim_option_set(struct kr__sim_file *file, const struct kr__sock_step *step) {
    int value = step->value;
    return option_set(file, &(struct demand){step->level, step->name, sizeof value, &value});
}

/* What has come and was not read; and what has gone and not come, of which there is nothing on one
 * host. */
static int how_much(const struct kr__sim_file *file, unsigned cmd) {
    if (file->kind != KR__SIM_STREAM)
        return -EINVAL;
    return cmd == CMD_SIOCINQ ? (int)file->stream.size : 0;
}

static int answer(struct kr__sim_request *req) {
    unsigned version = req->ring->sim->version;
    bool is_socket = req->file->kind == KR__SIM_STREAM || req->file->kind == KR__SIM_LISTENER;
    if (!is_socket || version < KR__SIM_LINUX(6, 5))
        return -EOPNOTSUPP;
    struct demand d = demand_of(&req->sqe);
    unsigned cmd = (uint32_t)req->sqe.off;
    if (cmd == CMD_SIOCINQ || cmd == CMD_SIOCOUTQ)
        return how_much(req->file, cmd);
    if (version < KR__SIM_LINUX(6, 7))
        return -EOPNOTSUPP;
    if (cmd == KR__SOCKET_GETSOCKOPT)
        return option_get(req->file, &d);
    return cmd == KR__SOCKET_SETSOCKOPT ? option_set(req->file, &d) : -EOPNOTSUPP;
}

static void cmd_run(struct kr__sim_request *req) {
    kr__sim_end(req, answer(req), 0);
}

/* io_uring_cmd_prep. */
static int cmd_prep(struct kr__sim_request *req) {
    return req->sqe.off >> 32 || req->sqe.rw_flags ? -EINVAL : 0;
}

const struct kr__sim_verb kr__sim_cmd = {.needs_file = true, .prep = cmd_prep, .run = cmd_run};
