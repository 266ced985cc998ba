/* The table of calls: every function of include/kreactor but those of the simulated kernel. A new
 * public function is a row here (random.c holds the table against the headers), with a function that
 * draws its arguments, says what it may answer, and keeps the books. */
#include "random/random.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE 9000u

/* The call, in which nothing may be called back. */
#define IN_CALL(w_, call_)                                                                         \
    ({                                                                                             \
        (w_)->in_call = true;                                                                      \
        __auto_type rc_ = (call_);                                                                 \
        (w_)->in_call = false;                                                                     \
        rc_;                                                                                       \
    })

#define SEND_ERRORS EPIPE, ENOBUFS, EMSGSIZE

/* ---- words and addresses ---- */

static void make_errname(struct world *w) {
    CHECK(kr_errname(-(int)chance_number(w, 200)));
}

static void make_whyname(struct world *w) {
    CHECK(kr_whyname((enum kr_why)chance_number(w, 12)));
}

static void make_table(struct world *w) {
    enum kr_table table = IN_CALL(w, kr_reactor_table(w->r));
    CHECK(table == w->table || (w->table == KR_TABLE_AUTO && table != KR_TABLE_AUTO));
}

static void make_version(struct world *w) {
    (void)w;
    CHECK(kr_version());
}

static void make_addr_ip(struct world *w) {
    struct kr_addr addr;
    uint16_t port = (uint16_t)chance_number(w, 65536);
    CHECK_OK(kr_addr_ip(&addr, chance(w, 512) ? "127.0.0.1" : "::1", port));
    CHECK_EQ(kr_addr_port(&addr), port);
}

static void make_addr_unix(struct world *w) {
    struct kr_addr addr;
    char path[200];
    size_t size = (size_t)chance_number(w, sizeof path);
    memset(path, 'p', size);
    path[size] = 0;
    ALLOW(kr_addr_unix(&addr, path), EINVAL, ENAMETOOLONG);
}

static void make_addr_text(struct world *w) {
    char text[KR_ADDR_TEXT_SIZE];
    struct kr_addr again;
    unsigned i = (unsigned)chance_number(w, LISTENERS);
    if (!w->addrs[i].size)
        return;
    CHECK_OK(kr_addr_text(&w->addrs[i], text, sizeof text));
    CHECK_OK(kr_addr_parse(&again, text));
    CHECK_EQ(again.size, w->addrs[i].size);
}

/* ---- options ---- */

/* Now and then with a field out of range, which is named. */
static void make_opts_check(struct world *w) {
    struct kr_failure why;
    struct kr_listen_opts listens;
    struct kr_connect_opts connects;
    kr_listen_opts_init(&listens);
    kr_connect_opts_init(&connects);
    listens.conn = connects.conn = w->conn_opts;
    bool bad = chance(w, 512);
    if (bad)
        listens.conn.inline_size = connects.conn.inline_size = SIZE_MAX;
    int rc = bad ? -EINVAL : 0;
    CHECK_EQ(IN_CALL(w, kr_conn_opts_check(&listens.conn, &why)), rc);
    CHECK(why.error == rc && !why.cause[0] == !bad);
    CHECK_EQ(IN_CALL(w, kr_listen_opts_check(&listens, &why)), rc);
    CHECK_EQ(IN_CALL(w, kr_connect_opts_check(&connects, NULL, NULL)), rc);
}

static void make_conn_opts_init(struct world *w) {
    struct kr_conn_opts opts;
    (void)w;
    kr_conn_opts_init(&opts);
    CHECK_EQ(opts.size, sizeof opts);
}

static void make_config_init(struct world *w) {
    struct kr_config config;
    (void)w;
    kr_config_init(&config);
    CHECK_EQ(config.size, sizeof config);
}

/* ---- the reactor ---- */

static void make_reactor_new(struct world *w) {
    struct kr_config config;
    struct kr_reactor *none = NULL;
    (void)w;
    kr_config_init(&config);
    config.buf_count = 3;
    CHECK_ERR(kr_reactor_new(&none, &config, NULL), EINVAL);
    CHECK(!none);
}

static void make_reactor_free(struct world *w) {
    if (w->deep)
        CHECK_ERR(kr_reactor_free(w->r), EBUSY);
}

static void make_run(struct world *w) {
    if (w->deep) {
        CHECK_ERR(kr_run(w->r), EBUSY);
        return;
    }
    kr_stop(w->r);
    CHECK_OK(kr_run(w->r));
}

static void make_step(struct world *w) {
    if (w->deep)
        CHECK_ERR(kr_step(w->r, 0), EBUSY);
    else
        CHECK_OK(kr_step(w->r, (int64_t)chance_number(w, 2) * MS / 4));
}

static void make_now(struct world *w) {
    int64_t now = tap_now_ns(), then = IN_CALL(w, kr_now(w->r));
    CHECK_GT(then, 0);
    CHECK_LE(then, tap_now_ns());
    CHECK_LT(now - then, INT64_C(60000) * MS);
}

static void make_stats_read(struct world *w) {
    struct kr_stats stats;
    CHECK_OK(IN_CALL(w, kr_stats_read(w->r, &stats, sizeof stats)));
    CHECK_LE(stats.waits, stats.enters);
}

static void make_dump(struct world *w) {
    CHECK_OK(IN_CALL(w, kr_dump(w->r, w->null)));
}

static void make_post(struct world *w) {
    int rc = IN_CALL(w, kr_post(w->r, program_posted, (void *)w->posts_made));
    ALLOW(rc, ENOBUFS, ESHUTDOWN);
    w->posts_made += rc == 0;
}

/* Once or more often before it is told of, which it is once. */
static void make_notify(struct world *w) {
    for (uint64_t left = chance_some(w, 3); left; left--)
        CHECK_OK(IN_CALL(w, kr_notify(w->r, &w->notice)));
    w->noticed = false;
}

static void make_after_fork(struct world *w) {
    CHECK_ERR(IN_CALL(w, kr_reactor_after_fork(w->r)), EPERM);
}

static void make_drain(struct world *w) {
    int64_t grace = (int64_t)chance_number(w, 20) * MS;
    struct kr_drain_opts opts;
    kr_drain_opts_init(&opts);
    opts.connects = chance(w, 500);
    opts.pairs = chance(w, 500);
    int rc = chance(w, 500) ? IN_CALL(w, kr_drain(w->r, grace, program_drained, w))
                            : IN_CALL(w, kr_drain_with(w->r, grace, &opts, program_drained, w));
    ALLOW(rc, EALREADY);
    CHECK_EQ(rc == -EALREADY, w->draining);
    if (rc < 0)
        return;
    w->draining = true;
    w->drains++;
    for (unsigned i = 0; i < w->link_count; i++)
        w->links[i].told_to_end = false;
    for (unsigned i = 0; i < LISTENERS; i++)
        w->listening[i] = false;
}

/* ---- timers ---- */

static void make_timer_start(struct world *w) {
    unsigned i = (unsigned)chance_number(w, TIMERS);
    if (w->timing[i])
        return;
    int64_t in_ns = (int64_t)chance_number(w, 3) * MS, every = chance(w, 200) ? MS : 0;
    CHECK_OK(IN_CALL(w, kr_timer_start(w->r, &w->timers[i], in_ns, every, program_timer, w)));
    w->timing[i] = true;
}

static void make_timer_restart(struct world *w) {
    unsigned i = (unsigned)chance_number(w, TIMERS);
    int rc = IN_CALL(w, kr_timer_restart(w->r, w->timers[i], (int64_t)chance_number(w, 3) * MS, 0));
    CHECK_EQ(rc, w->timing[i] ? 0 : -ESTALE);
}

static void make_timer_stop(struct world *w) {
    unsigned i = (unsigned)chance_number(w, TIMERS);
    int rc = IN_CALL(w, kr_timer_stop(w->r, w->timers[i]));
    CHECK_EQ(rc, w->timing[i] ? 0 : -ESTALE);
    w->timing[i] = false;
}

/* ---- listeners ---- */

static int listen_on(struct world *w, unsigned i, const struct kr_listen_opts *opts) {
    bool local = i == LISTENERS - 1;
    struct kr_addr addr;
    if (local)
        CHECK_OK(kr_addr_unix(&addr, w->name));
    else
        CHECK_OK(kr_addr_ip(&addr, w->host, 0));
    return IN_CALL(w, kr_listen(w->r, &w->listeners[i], &addr, opts, &program_accept_ops, w));
}

static int listen_handed_over(struct world *w, unsigned i, const struct kr_listen_opts *opts) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, w->host, 0));
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(bind(fd, &addr.u.sa, addr.size));
    CHECK_SYS(listen(fd, 8));
    int rc = IN_CALL(w, kr_listen_fd(w->r, &w->listeners[i], fd, opts, &program_accept_ops, w));
    test_close(fd);
    return rc;
}

static void make_listen_by(struct world *w,
                           int (*by)(struct world *, unsigned, const struct kr_listen_opts *)) {
    unsigned i = (unsigned)chance_number(w, LISTENERS - (by == listen_handed_over));
    if (w->listening[i])
        return;
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.conn = w->conn_opts;
    opts.backlog = (unsigned)chance_some(w, 16);
    opts.addresses = chance(w, 300);
    opts.conn_max = chance(w, 300) ? (unsigned)chance_some(w, 8) : 0;
    opts.turn_accepts = chance(w, 300) ? (unsigned)chance_some(w, 16) : 0;
    opts.on_end = program_listener_ends;
    int rc = by(w, i, &opts);
    /* a Unix name is free when the closed listener's socket is */
    ALLOW(rc, ENOSPC, ESHUTDOWN, EADDRINUSE);
    w->listening[i] = rc == 0;
    if (rc == 0)
        CHECK_OK(kr_listener_addr(w->r, w->listeners[i], &w->addrs[i]));
}

static void make_listen(struct world *w) {
    make_listen_by(w, listen_on);
}

static void make_listen_fd(struct world *w) {
    make_listen_by(w, listen_handed_over);
}

static void make_listener_addr(struct world *w) {
    unsigned i = (unsigned)chance_number(w, LISTENERS);
    struct kr_addr addr;
    int rc = IN_CALL(w, kr_listener_addr(w->r, w->listeners[i], &addr));
    if (w->listening[i])
        CHECK_EQ(rc, 0);
}

static void make_listener_pause(struct world *w) {
    unsigned i = (unsigned)chance_number(w, LISTENERS);
    if (!w->listening[i])
        return;
    if (kr_timer_start(w->r, NULL, MS, 0, program_resume, w) == 0)
        CHECK_OK(IN_CALL(w, kr_listener_pause(w->r, w->listeners[i])));
}

static void make_listener_resume(struct world *w) {
    unsigned i = (unsigned)chance_number(w, LISTENERS);
    if (w->listening[i])
        CHECK_OK(IN_CALL(w, kr_listener_resume(w->r, w->listeners[i])));
}

static void make_listener_close(struct world *w) {
    unsigned i = (unsigned)chance_number(w, LISTENERS);
    if (!w->listening[i])
        return;
    CHECK_OK(IN_CALL(w, kr_listener_close(w->r, w->listeners[i])));
    CHECK_ERR(kr_listener_close(w->r, w->listeners[i]), ESTALE);
    w->listening[i] = false;
}

static void make_listener_drain(struct world *w) {
    unsigned i = (unsigned)chance_number(w, LISTENERS);
    if (!w->listening[i])
        return;
    int64_t within = (int64_t)chance_number(w, 20) * MS;
    CHECK_OK(IN_CALL(w, kr_listener_drain(w->r, w->listeners[i], within)));
    CHECK_ERR(kr_listener_drain(w->r, w->listeners[i], 0), EALREADY);
    w->listening[i] = false;
}

/* ---- connections begin ---- */

/* To a socket of its own, so that it is known whose peer is accepted there; now and then nobody
 * listens. */
static void make_connect(struct world *w) {
    struct link *l = links_alive(w) < ALIVE_MAX ? link_new(w) : NULL;
    if (!l)
        return;
    struct kr_connect_opts opts;
    kr_connect_opts_init(&opts);
    opts.conn = w->conn_opts;
    opts.local_address = chance(w, 300);
    opts.timeout_ns = chance(w, 300) ? (int64_t)chance_some(w, 20) * MS : opts.timeout_ns;
    l->local = chance(w, 400);
    struct kr_addr ip;
    CHECK_OK(kr_addr_ip(&ip, w->host, 0));
    sa_family_t local = AF_UNIX; /* of a name that the kernel chooses */
    int fd = CHECK_SYS(socket(l->local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    CHECK_SYS(bind(fd, l->local ? (void *)&local : (void *)&ip.u, l->local ? sizeof local : ip.size));
    struct kr_addr addr = {.size = sizeof addr.u};
    socklen_t size = sizeof addr.u;
    CHECK_SYS(getsockname(fd, &addr.u.sa, &size));
    addr.size = size;
    if (chance(w, 900))
        CHECK_SYS(listen(fd, 1));
    int rc = IN_CALL(w, kr_connect(w->r, &l->conn, &addr, &opts, program_any_ops(w), l));
    ALLOW(rc, ENOSPC, ESHUTDOWN, ECONNREFUSED);
    l->known = rc == 0;
    if (rc == 0)
        l->listening = fd;
    else
        test_close(fd);
}

static void make_conn_adopt(struct world *w) {
    struct link *l = links_alive(w) < ALIVE_MAX ? link_new(w) : NULL;
    if (!l)
        return;
    int fds[2]; /* ours, the peer's */
    unsigned kind = (unsigned)chance_number(w, 4);
    l->reads = kind == 0; /* as the program sees it */
    l->writes = kind == 1;
    l->local = kind > 1;
    if (kind <= 1) {
        int ends[2];
        CHECK_SYS(pipe2(ends, O_CLOEXEC));
        fds[0] = ends[kind];
        fds[1] = ends[!kind];
    } else {
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
    }
    CHECK_SYS(fcntl(fds[1], F_SETFL, O_NONBLOCK));
    int rc = IN_CALL(w, kr_conn_adopt(w->r, &l->conn, fds[0], &w->conn_opts, program_any_ops(w), l));
    ALLOW(rc, ENOSPC, ESHUTDOWN, ENOSYS);
    l->known = rc == 0;
    l->fd = rc == 0 ? fds[1] : -1;
    if (rc < 0) {
        test_close(fds[0]);
        test_close(fds[1]);
    }
}

/* ---- connections send ---- */

static struct link *pick_sender(struct world *w) {
    struct link *l = link_pick(w);
    return l && stream_may_send(l) ? l : NULL;
}

/* The answer of a send; a connection that we know nothing bad of may be ending by itself. */
static void sent(struct link *l, int rc, size_t size) {
    ALLOW(rc, SEND_ERRORS);
    if (l->closing || l->half || l->reads)
        CHECK_EQ(rc, size || l->closing ? -EPIPE : rc);
    if (rc == 0)
        stream_sent(l, size);
}

static void make_conn_send(struct world *w) {
    struct link *l = pick_sender(w);
    if (!l)
        return;
    char bytes[PIECE];
    size_t size = (size_t)chance_some(w, sizeof bytes);
    stream_next(l, bytes, size);
    sent(l, IN_CALL(w, kr_conn_send(w->r, l->conn, bytes, size)), size);
    memset(bytes, 0xdd, sizeof bytes);
}

static void make_conn_sendv(struct world *w) {
    struct link *l = pick_sender(w);
    if (!l)
        return;
    char bytes[PIECE];
    size_t size = (size_t)chance_some(w, sizeof bytes), first = (size_t)chance_number(w, size);
    stream_next(l, bytes, size);
    struct iovec iov[] = {{bytes, first}, {bytes + first, size - first}};
    sent(l, IN_CALL(w, kr_conn_sendv(w->r, l->conn, iov, 2)), size);
}

static void make_conn_send_ref(struct world *w) {
    struct link *l = pick_sender(w);
    if (!l)
        return;
    struct loan *loan = malloc(sizeof *loan);
    size_t size = (size_t)chance_some(w, PIECE);
    CHECK(loan);
    *loan = (struct loan){l, malloc(size), size};
    CHECK(loan->bytes);
    stream_next(l, loan->bytes, size);
    int rc = IN_CALL(w, kr_conn_send_ref(w->r, l->conn, loan->bytes, size, program_loan_back, loan));
    sent(l, rc, size);
    l->owed += rc == 0;
    if (rc == 0)
        return;
    free(loan->bytes);
    free(loan);
}

static void make_conn_send_fds(struct world *w) {
    struct link *l = pick_sender(w);
    if (!l)
        return;
    char bytes[100];
    size_t size = (size_t)chance_some(w, sizeof bytes);
    stream_next(l, bytes, size);
    int fds[] = {w->null, w->file};
    int rc = IN_CALL(w, kr_conn_send_fds(w->r, l->conn, bytes, size, fds,
                                         1 + (unsigned)chance_number(w, 2)));
    ALLOW(rc, SEND_ERRORS, EOPNOTSUPP);
    CHECK(rc < 0 || l->local);
    if (rc == 0)
        stream_sent(l, size);
}

static void make_conn_send_file(struct world *w) {
    struct link *l = pick_sender(w);
    if (!l)
        return;
    uint64_t from = chance_number(w, FILE_SIZE), size = chance_some(w, FILE_SIZE - from);
    bool to_end = chance(w, 200);
    int rc = IN_CALL(w, kr_conn_send_file(w->r, l->conn, w->file, from, to_end ? KR_FILE_END : size,
                                          program_file_done, l));
    ALLOW(rc, SEND_ERRORS);
    if (rc < 0)
        return;
    l->owed++;
    size = to_end ? FILE_SIZE - from : size;
    stream_add(l, (struct span){.seed = FILE_SEED, .from = from, .size = size});
}

static void make_conn_reserve(struct world *w) {
    struct link *l = pick_sender(w);
    if (!l)
        return;
    void *room;
    size_t size = (size_t)chance_some(w, PIECE), part = (size_t)chance_number(w, size + 1);
    int rc = IN_CALL(w, kr_conn_reserve(w->r, l->conn, size, &room));
    ALLOW(rc, SEND_ERRORS);
    if (rc < 0)
        return;
    stream_next(l, room, size);
    if (chance(w, 200)) /* left open */
        return;
    CHECK_OK(IN_CALL(w, kr_conn_commit(w->r, l->conn, part)));
    stream_sent(l, part);
}

static void make_conn_queued(struct world *w) {
    const struct link *l = link_pick(w);
    if (l && l->reads)
        CHECK_EQ(IN_CALL(w, kr_conn_queued(w->r, l->conn)), 0u);
}

/* ---- connections are read, and end ---- */

static void make_conn_pause(struct world *w) {
    struct link *l = link_pick(w);
    if (!l || kr_timer_start(w->r, NULL, (int64_t)chance_some(w, 4) * MS, 0, program_resume, w) < 0)
        return;
    int rc = IN_CALL(w, kr_conn_pause(w->r, l->conn));
    ALLOW(rc, EPIPE);
    l->paused |= rc == 0;
}

static void make_conn_resume(struct world *w) {
    struct link *l = link_pick(w);
    if (!l)
        return;
    int rc = IN_CALL(w, kr_conn_resume(w->r, l->conn));
    ALLOW(rc, EPIPE);
    l->paused &= rc != 0;
}

static void make_conn_shutdown(struct world *w) {
    struct link *l = link_pick(w);
    if (!l)
        return;
    int rc = IN_CALL(w, kr_conn_shutdown(w->r, l->conn));
    ALLOW(rc, EPIPE);
    l->half |= rc == 0;
    if (rc == 0 && l->writes)
        program_closes(l, KR_CLOSE_FLUSH);
}

static void make_conn_close(struct world *w) {
    struct link *l = link_pick(w);
    if (!l)
        return;
    enum kr_close how = (enum kr_close)chance_number(w, 4);
    CHECK_OK(IN_CALL(w, kr_conn_close(w->r, l->conn, how)));
    program_closes(l, how);
    CHECK_ERR(kr_conn_send(w->r, l->conn, "x", 1), EPIPE);
}

static void make_conn_release(struct world *w) {
    struct link *l = link_pick(w);
    if (!l || l->stranger)
        return;
    int rc = IN_CALL(w, kr_conn_detach(w->r, l->conn, program_released, w));
    ALLOW(rc, EPIPE, ENOTCONN, EBUSY, EALREADY, EOPNOTSUPP);
    CHECK(rc < 0 || (!l->closing && !l->twin));
    if (rc == 0)
        l->releasing = l->closing = true;
}

static void make_conn_forward(struct world *w) {
    struct link *a = link_pick(w), *b = link_pick(w);
    if (!a || !b || a == b || !stream_may_send(a) || !stream_may_send(b))
        return;
    struct kr_forward_opts opts;
    kr_forward_opts_init(&opts);
    opts.one_way = chance(w, 300);
    opts.keep_open = chance(w, 400);
    opts.max_ab = chance(w, 300) ? chance_some(w, 5000) : 0;
    opts.max_ba = chance(w, 300) ? chance_some(w, 5000) : 0;
    int rc = IN_CALL(w, kr_conn_forward(w->r, a->conn, b->conn, &opts, program_forwarded, a));
    ALLOW(rc, EBUSY, EPIPE);
    CHECK(rc < 0 || (!a->twin && !b->twin && !a->closing && !b->closing));
    if (rc < 0)
        return;
    trace(w, "links %u and %u are a pair", a->index, b->index);
    a->twin = b;
    b->twin = a;
    a->feeds = true;
    b->feeds = !opts.one_way;
    a->keeps_open = opts.keep_open;
    stream_forward(a, b);
    if (b->feeds)
        stream_forward(b, a);
}

static void make_conn_forward_stop(struct world *w) {
    struct link *l = link_pick(w);
    if (!l)
        return;
    int rc = IN_CALL(w, kr_conn_forward_stop(w->r, l->conn));
    CHECK_EQ(rc, l->twin ? 0 : -EINVAL);
}

static void make_conn_swap(struct world *w) {
    struct link *l = link_pick(w);
    if (!l || l->stranger)
        return;
    int rc = IN_CALL(w, kr_conn_swap(w->r, l->conn, program_any_ops(w), l));
    ALLOW(rc, EPIPE);
    if (rc == 0) /* they are told again */
        l->eof = false;
}

/* ---- what connections know ---- */

static void make_conn_peer(struct world *w) {
    struct link *l = link_pick(w);
    struct kr_addr addr;
    if (l)
        ALLOW(IN_CALL(w, kr_conn_peer(w->r, l->conn, &addr)), ENODATA, ENOTCONN);
}

static void make_conn_local(struct world *w) {
    struct link *l = link_pick(w);
    struct kr_addr addr;
    if (l)
        ALLOW(IN_CALL(w, kr_conn_local(w->r, l->conn, &addr)), ENODATA, ENOTCONN);
}

static void make_conn_fd(struct world *w) {
    struct link *l = link_pick(w);
    if (!l)
        return;
    int fd = IN_CALL(w, kr_conn_fd(w->r, l->conn));
    ALLOW(fd, ENODATA);
    CHECK(fd < 0 || fcntl(fd, F_GETFD) >= 0);
}

/* Of one that is gone every call answers so. */
static void make_conn_user(struct world *w) {
    const struct link *l = &w->links[chance_number(w, LINKS)];
    if (l->known)
        CHECK(IN_CALL(w, kr_conn_user(w->r, l->conn)) == l);
    if (!l->was_open)
        return;
    CHECK(!kr_conn_user(w->r, l->conn) && !kr_conn_inline(w->r, l->conn));
    CHECK_ERR(kr_conn_send(w->r, l->conn, "x", 1), ESTALE);
    CHECK_ERR(kr_conn_close(w->r, l->conn, KR_CLOSE_NOW), ESTALE);
    CHECK_ERR(kr_conn_resume(w->r, l->conn), ESTALE);
    CHECK_ERR(kr_conn_shutdown(w->r, l->conn), ESTALE);
    CHECK_ERR(kr_conn_detach(w->r, l->conn, program_released, w), ESTALE);
}

static void make_conn_set_user(struct world *w) {
    struct link *l = link_pick(w);
    if (l)
        CHECK_OK(IN_CALL(w, kr_conn_set_user(w->r, l->conn, l)));
}

static void make_conn_inline(struct world *w) {
    struct link *l = link_pick(w);
    if (!l)
        return;
    char *memory = IN_CALL(w, kr_conn_inline(w->r, l->conn));
    CHECK_EQ(memory != NULL, w->conn_opts.inline_size > 0);
    if (memory)
        memset(memory, 0x5a, w->conn_opts.inline_size);
}

static void make_conn_deadline(struct world *w) {
    struct link *l = link_pick(w);
    if (!l)
        return;
    enum kr_deadline which = (enum kr_deadline)chance_number(w, KR_DEADLINE_FLUSH + 1);
    int64_t ns = chance(w, 700) ? (int64_t)chance_some(w, 200) * MS : 0;
    int rc = IN_CALL(w, kr_conn_deadline(w->r, l->conn, which, ns));
    ALLOW(rc, EPIPE, EINVAL);
    if (rc == -EINVAL)
        CHECK(which == KR_DEADLINE_FLUSH && ns == 0);
}

static void make_conn_sockopt(struct world *w) {
    struct link *l = link_pick(w);
    if (!l || l->stranger)
        return;
    static const unsigned least[] = {0, 1, 1, 1, 0, 4096, 4096, 0};
    enum kr_sockopt which = (enum kr_sockopt)chance_number(w, KR_SOCKOPT_MARK + 1);
    int rc = IN_CALL(w, kr_conn_sockopt(w->r, l->conn, which,
                                        least[which] + (unsigned)chance_number(w, 2), program_tuned,
                                        l));
    ALLOW(rc, EPIPE, EOPNOTSUPP, EAGAIN, EPERM);
    l->owed += rc == 0;
}

/* ---- leases ---- */

/* The bytes are those that they were. */
static void make_lease_return(struct world *w) {
    unsigned i = (unsigned)chance_number(w, LEASES);
    if (!w->leased[i])
        return;
    size_t size = 0;
    const char *data = IN_CALL(w, kr_lease_data(w->r, w->leases[i], &size));
    CHECK(data && size);
    test_pattern_check(data, size, w->lease_seed[i], w->lease_from[i]);
    CHECK_OK(IN_CALL(w, kr_lease_return(w->r, w->leases[i])));
    CHECK_ERR(kr_lease_return(w->r, w->leases[i]), ESTALE);
    w->leased[i] = false;
}

/* Of the program's own bytes; those of on_data: program.c. */
static void make_lease_take(struct world *w) {
    unsigned i = (unsigned)chance_number(w, LEASES);
    struct link *l = link_pick(w);
    if (!l || w->leased[i])
        return;
    char bytes[500];
    w->lease_seed[i] = 99;
    w->lease_from[i] = chance_number(w, 1000);
    test_pattern(bytes, sizeof bytes, 99, w->lease_from[i]);
    CHECK_OK(IN_CALL(w, kr_lease_take(w->r, l->conn, bytes, sizeof bytes, &w->leases[i])));
    w->leased[i] = true;
}

const struct call calls[] = {
    {"kr_addr_ip", make_addr_ip, 1},
    {"kr_addr_parse", make_addr_text, 1},
    {"kr_addr_port", make_addr_ip, 1},
    {"kr_addr_text", make_addr_text, 1},
    {"kr_addr_unix", make_addr_unix, 1},
    {"kr_config_init_sized", make_config_init, 1},
    {"kr_conn_adopt", make_conn_adopt, 25},
    {"kr_conn_close", make_conn_close, 6},
    {"kr_conn_commit", make_conn_reserve, 10},
    {"kr_conn_deadline", make_conn_deadline, 6},
    {"kr_conn_fd", make_conn_fd, 3},
    {"kr_conn_forward", make_conn_forward, 15},
    {"kr_conn_forward_stop", make_conn_forward_stop, 3},
    {"kr_conn_inline", make_conn_inline, 3},
    {"kr_conn_local", make_conn_local, 3},
    {"kr_conn_opts_check", make_opts_check, 1},
    {"kr_conn_opts_init_sized", make_conn_opts_init, 1},
    {"kr_conn_pause", make_conn_pause, 12},
    {"kr_conn_peer", make_conn_peer, 3},
    {"kr_conn_queued", make_conn_queued, 3},
    {"kr_conn_detach", make_conn_release, 8},
    {"kr_conn_reserve", make_conn_reserve, 10},
    {"kr_conn_resume", make_conn_resume, 12},
    {"kr_conn_send", make_conn_send, 40},
    {"kr_conn_send_fds", make_conn_send_fds, 10},
    {"kr_conn_send_file", make_conn_send_file, 6},
    {"kr_conn_send_ref", make_conn_send_ref, 20},
    {"kr_conn_sendv", make_conn_sendv, 20},
    {"kr_conn_set_user", make_conn_set_user, 3},
    {"kr_conn_shutdown", make_conn_shutdown, 4},
    {"kr_conn_sockopt", make_conn_sockopt, 8},
    {"kr_conn_swap", make_conn_swap, 6},
    {"kr_conn_user", make_conn_user, 8},
    {"kr_connect", make_connect, 20},
    {"kr_connect_opts_check", make_opts_check, 1},
    {"kr_connect_opts_init_sized", make_connect, 1},
    {"kr_drain", make_drain, 1},
    {"kr_drain_opts_init_sized", make_drain, 1},
    {"kr_drain_with", make_drain, 1},
    {"kr_dump", make_dump, 1},
    {"kr_errname", make_errname, 1},
    {"kr_forward_opts_init_sized", make_conn_forward, 1},
    {"kr_lease_data", make_lease_return, 4},
    {"kr_lease_return", make_lease_return, 10},
    {"kr_lease_take", make_lease_take, 4},
    {"kr_listen", make_listen, 10},
    {"kr_listen_fd", make_listen_fd, 5},
    {"kr_listen_opts_check", make_opts_check, 1},
    {"kr_listen_opts_init_sized", make_listen, 1},
    {"kr_listener_addr", make_listener_addr, 3},
    {"kr_listener_close", make_listener_close, 1},
    {"kr_listener_drain", make_listener_drain, 1},
    {"kr_listener_pause", make_listener_pause, 3},
    {"kr_listener_resume", make_listener_resume, 2},
    {"kr_notify", make_notify, 6},
    {"kr_now", make_now, 6},
    {"kr_post", make_post, 15},
    {"kr_reactor_after_fork", make_after_fork, 1},
    {"kr_reactor_free", make_reactor_free, 2},
    {"kr_reactor_new", make_reactor_new, 1},
    {"kr_reactor_table", make_table, 1},
    {"kr_run", make_run, 4},
    {"kr_stats_read", make_stats_read, 2},
    {"kr_step", make_step, 4},
    {"kr_stop", make_run, 1},
    {"kr_timer_restart", make_timer_restart, 5},
    {"kr_timer_start", make_timer_start, 10},
    {"kr_timer_stop", make_timer_stop, 4},
    {"kr_version", make_version, 1},
    {"kr_whyname", make_whyname, 1},
};
const unsigned call_count = sizeof calls / sizeof *calls;
uint64_t calls_made[sizeof calls / sizeof *calls];

static void call_one(struct world *w) {
    unsigned sum = 0;
    for (unsigned i = 0; i < call_count; i++)
        sum += calls[i].weight;
    uint64_t at = chance_number(w, sum);
    unsigned i = 0;
    for (; at >= calls[i].weight; i++)
        at -= calls[i].weight;
    calls_made[i]++;
    trace(w, "%s%s", w->deep ? "    " : "", calls[i].name);
    calls[i].make(w);
}

void calls_some(struct world *w) {
    for (uint64_t left = chance_number(w, 3); left && !w->ending; left--)
        call_one(w);
}
