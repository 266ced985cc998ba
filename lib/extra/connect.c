/* Connecting: from kr_connect until the connection is established.
 *
 * Happy path: a socket is made and put into a slot; a CONNECT is wanted (extra/connect_op.c), and when it
 * is answered the connection is OPEN, with all that was queued meanwhile. A Unix socket makes no
 * request: connect(2) is tried in the turn after the call, and does not wait.
 * Failure modes: the kernel refuses (KR_WHY_CONNECT); it does not answer until the deadline
 * (KR_WHY_TIMEOUT); the connection is closed meanwhile (the request is cancelled, and nobody is told
 * that it was established, should it have been); a Unix listener's backlog is full (-EAGAIN: tried
 * again after 1, 2, 4 ... 40 ms).
 *
 * If the loop was held up since the call, the time counts from when the request is made, and a Unix
 * socket is tried once more before it is given up. The times of these tries are filed among the user
 * timers: they wait for nothing that is unread.
 *
 * Why a Unix socket makes no request: connect(2) there either succeeds at once or, with the backlog
 * full, would have to wait inside the system call, where it cannot be polled for
 * (unix_stream_connect, net/unix/af_unix.c; a socket that is not connected polls as writable). A
 * CONNECT request is tried 128 times in a row and then given to a kernel thread of its own, which
 * sleeps in it (observed on 6.18). A thousand clients of one slow listener would be a thousand
 * threads. */
#include "extra/connect.h"

#include "conn/hooks.h"
#include "conn/tell.h"
#include "kernel/probe.h"

#define RETRY_FIRST_MS 1u
#define RETRY_LAST_MS 40u

static int64_t connect_now(const struct kr_reactor *r) {
    return r->kernel->process.clock(r->kernel);
}

/* It has a place among the timers for that, as its user waits for it and not for a peer. */
static int poll_promise(struct kr_reactor *r, bool polls_connect) {
    return polls_connect ? kr__heap_promise(&r->timers.heap) : 0;
}

static void poll_unpromise(struct kr_reactor *r, bool polls_connect) {
    if (polls_connect)
        kr__heap_unpromise(&r->timers.heap);
}

static void poll_first(struct kr_reactor *r, struct kr__conn *c) {
    c->deadline.node.kind = KR__KIND_CONNECT;
    kr__deadline_file(&r->timers, &c->deadline, c->idle_from);
}

static void poll_last(struct kr_reactor *r, struct kr__conn *c) {
    kr__deadline_unfile(&r->timers, &c->deadline);
    c->deadline.node.kind = KR__KIND_CONN;
    poll_unpromise(r, true);
}

/* The descriptor is kept while connect(2) is tried by it, or if its own address is to be asked. */
static void connect_begin(struct kr_reactor *r, struct kr__conn *c,
                          const struct kr_connect_opts *opts, int fd) {
    c->features |= KR__CONNECTING;
    c->polls_connect = kr__connect_addr(c)->u.sa.sa_family == AF_UNIX;
    c->idle_from = connect_now(r);
    bool bounded = opts->timeout_ns > 0;
    c->more->until = bounded ? kr__time_add(c->idle_from, opts->timeout_ns) : KR__NEVER;
    if (c->polls_connect)
        poll_first(r, c);
    else if (bounded)
        kr__deadline_file(&r->timers, &c->deadline, c->more->until);
    if (c->polls_connect || opts->local_address || opts->conn.keep_fd)
        c->more->fd = fd;
    else
        r->kernel->file.close(r->kernel, fd);
    c->more->local = opts->local_address;
}

static int make(struct kr_reactor *r, const struct kr__conn_plan *plan, int fd, bool polls_connect,
                struct kr__conn **ret) {
    int rc = poll_promise(r, polls_connect);
    if (rc < 0)
        return rc;
    rc = kr__conn_make(r, plan, fd, ret);
    if (rc < 0)
        poll_unpromise(r, polls_connect);
    return rc;
}

int kr__connect_begin(struct kr_reactor *r, const struct kr_addr *addr,
                      const struct kr_connect_opts *opts, const struct kr_conn_ops *ops, void *user,
                      struct kr__conn **ret) {
    if (!r->slots.made.free_count)
        return -ENOSPC;
    struct kr__socket_plan socket = {
        .family = addr->u.sa.sa_family,
        .source = opts->source,
        .conn = &opts->conn,
        .refuse_fds = kr__refuses_fds(r, &opts->conn),
    };
    int fd = r->kernel->socket.open(r->kernel, &socket);
    if (fd < 0)
        return fd;
    const struct kr_addr addrs[2] = {*addr};
    struct kr__conn_plan plan = {.opts = &opts->conn, .ops = ops, .user = user, .addrs = addrs};
    int rc = make(r, &plan, fd, socket.family == AF_UNIX, ret);
    if (rc < 0) {
        r->kernel->file.close(r->kernel, fd);
        return rc;
    }
    connect_begin(r, *ret, opts, fd);
    return 0;
}

static int plan_socket(struct kr_reactor *r, int fd, struct kr__conn_plan *plan,
                       struct kr_addr *addrs) {
    int rc = r->kernel->socket.addrs(r->kernel, fd, &addrs[0], &addrs[1]);
    plan->addrs = addrs;
    return rc < 0 ? rc : r->kernel->socket.is_stream(r->kernel, fd);
}

static int plan_pipe(struct kr_reactor *r, int fd, struct kr__conn_plan *plan) {
    int rc = r->kernel->file.pipe_end(r->kernel, fd);
    if (rc < 0)
        return rc;
    plan->addrs = NULL;
    plan->pipe = rc ? KR__PIPE_WRITES : KR__PIPE_READS;
    if (rc)
        rc = r->kernel->file.pipe_flags(r->kernel, r->ring.caps & KR__CAP_QUIET_PIPES);
    if (rc < 0)
        return rc;
    plan->pipe_flags = rc | RWF_NOWAIT;
    return 0;
}

/* Of an open file of its own where reads of the given one may wait, if it can be had (kernel/pipe.c).
 * Pipes without a name do not wait from kernel 6.4 on; what is known of is 6.6. Where RWF_NOWAIT is
 * refused it is not even tried: on 6.1 each read that is refused costs a receive buffer, which
 * never comes back (observed on 6.1.192). */
static int make_pipe(struct kr_reactor *r, struct kr__conn_plan *plan, int fd,
                     struct kr__conn **ret) {
    bool old = !(r->ring.caps & KR__CAP_NO_SQARRAY);
    int own = r->kernel->file.pipe_reopen(r->kernel, fd, old);
    kr__mark_if(pipe_opened_anew, own >= 0);
    if (old || own >= 0)
        plan->pipe_flags &= ~RWF_NOWAIT;
    int rc = make(r, plan, own < 0 ? fd : own, true, ret);
    if (own >= 0)
        r->kernel->file.close(r->kernel, own);
    return rc;
}

/* Others may share the socket, and set SO_LINGER again. They may have ended this side of it. */
static void own(struct kr_reactor *r, struct kr__conn *c, int fd) {
    bool refuse_fds = kr__refuses_fds(r, kr__conn_opts(c));
    r->kernel->socket.set_adopted(r->kernel, fd, kr__connect_addr(c)->u.sa.sa_family, refuse_fds);
    c->lingers = !c->local && (r->ring.caps & KR__CAP_FD_INSTALL);
    c->half = c->fin = r->kernel->socket.was_shut_down(r->kernel, fd);
}

/* As a Unix socket that connects, and succeeds at its first try. */
int kr__connect_adopt(struct kr_reactor *r, int fd, const struct kr_conn_opts *opts,
                      const struct kr_conn_ops *ops, void *user, struct kr__conn **ret) {
    struct kr_addr addrs[2];
    struct kr__conn_plan plan = {.opts = opts, .ops = ops, .user = user, .foreign = true};
    int rc = plan_socket(r, fd, &plan, addrs);
    if (rc == -ENOTSOCK)
        rc = plan_pipe(r, fd, &plan);
    if (rc < 0)
        return rc;
    rc = plan.pipe ? make_pipe(r, &plan, fd, ret) : make(r, &plan, fd, true, ret);
    if (rc < 0)
        return rc;
    struct kr__conn *c = *ret;
    if (plan.addrs)
        own(r, c, fd);
    c->features |= KR__CONNECTING;
    c->polls_connect = c->more->adopted = true;
    c->more->until = KR__NEVER;
    c->idle_from = connect_now(r);
    poll_first(r, c);
    if (opts->keep_fd)
        c->more->fd = fd;
    else
        r->kernel->file.close(r->kernel, fd);
    return 0;
}

void kr__connect_asks(struct kr_reactor *r, struct kr__conn *c) {
    if (c->more->until == KR__NEVER)
        return;
    c->more->until = kr__time_add(c->more->until, connect_now(r) - c->idle_from);
    kr__deadline_file(&r->timers, &c->deadline, c->more->until);
}

static void call_ends(struct kr_reactor *r, struct kr__conn *c) {
    if (c->polls_connect)
        poll_last(r, c);
    c->features &= (uint8_t)~KR__CONNECTING;
    c->polls_connect = false;
    if (!kr__conn_opts(c)->keep_fd)
        kr__conn_fd_drop(r, c);
}

/* Should the peer have gone again already it is not known, and stays so. */
static void ask_local(struct kr_reactor *r, struct kr__conn *c) {
    struct kr_addr peer, local;
    if (r->kernel->socket.addrs(r->kernel, c->more->fd, &peer, &local) == 0)
        c->more->addrs[1] = local;
}

static void stands(struct kr_reactor *r, struct kr__conn *c) {
    if (c->more->local)
        ask_local(r, c);
    call_ends(r, c);
    kr__conn_dirty(r, c);
    kr__count(&r->stats.connects, 1);
    bool closed = kr__conn_is_flushing(c); /* meanwhile, but for what is queued */
    kr__mark_if(connect_established_flushing, closed);
    if (!closed)
        kr__conn_goes(c, KR__ESTABLISHED);
    kr__conn_stands(r, c);
    kr__conn_show_later(r, c); /* the end that the writing end of a pipe has from the start */
    if (!closed)
        kr__tell_open(r, c);
}

/* It is closed before it stands. */
static void connect_joins(struct kr_reactor *r, struct kr__conn *c) {
    call_ends(r, c);
    kr__count(&r->stats.connect_errors, 1);
}

void kr__connect_answered(struct kr_reactor *r, struct kr__conn *c, int error) {
    bool closed = !(c->features & KR__CONNECTING);
    kr__mark_if(connect_answered_too_late, closed);
    if (closed)
        return;
    if (error == 0)
        stands(r, c);
    else
        kr__conn_end(r, c, KR_CLOSE_NOW, error, KR_WHY_CONNECT);
}

static void poll_later(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark(connect_tried_again);
    struct kr__conn_more *more = c->more;
    more->backoff_ms = more->backoff_ms ? 2 * more->backoff_ms : RETRY_FIRST_MS;
    if (more->backoff_ms > RETRY_LAST_MS)
        more->backoff_ms = RETRY_LAST_MS;
    int64_t at = kr__time_add(r->now, more->backoff_ms * INT64_C(1000000));
    kr__deadline_file(&r->timers, &c->deadline, at < more->until ? at : more->until);
}

static void overdue(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark(connect_overdue);
    kr__conn_end(r, c, KR_CLOSE_NOW, -ETIMEDOUT, KR_WHY_TIMEOUT);
}

static void try_connect(struct kr_reactor *r, struct kr__conn *c) {
    if (c->more->adopted) {
        stands(r, c);
        return;
    }
    int rc = r->kernel->socket.connect(r->kernel, c->more->fd, kr__connect_addr(c));
    bool again = rc == -EAGAIN || rc == -EINTR;
    if (again && r->now >= c->more->until)
        overdue(r, c);
    else if (again)
        poll_later(r, c);
    else
        kr__connect_answered(r, c, rc);
}

/* The deadline has been reached, or the time to try again. */
static bool connect_due(struct kr_reactor *r, struct kr__conn *c) {
    if (c->polls_connect)
        try_connect(r, c);
    else if (r->catchup.until >= c->more->until)
        overdue(r, c);
    else
        kr__deadline_file(&r->timers, &c->deadline, c->more->until);
    return true;
}

/* It is closed, and may take no longer than flush_ns from now. */
static bool connect_flushes(struct kr_reactor *r, struct kr__conn *c) {
    int64_t now = connect_now(r), until = kr__time_add(now, kr__conn_opts(c)->flush_ns);
    if (until >= c->more->until)
        return true;
    c->idle_from = now;
    c->more->until = until;
    if (!c->polls_connect)
        kr__deadline_file(&r->timers, &c->deadline, until);
    return true;
}

/* Nothing else can be done before it stands. */
static uint32_t connect_wants(const struct kr__conn *c, uint32_t desired) {
    (void)desired;
    return c->polls_connect ? 0 : KR__SET(connect);
}

/* By the answer, by the next try, and once it is closed by its deadline in any case. */
static bool connect_moves(const struct kr_reactor *r, const struct kr__conn *c) {
    (void)r;
    bool filed = kr__heap_filed(&c->deadline.node);
    bool asked = c->polls_connect || (c->owner.armed & KR__SET(connect));
    return asked && (filed || (c->state == KR__CONN_OPENING && !c->polls_connect));
}

const struct kr__hooks kr__hooks_connect = {
    .wants = connect_wants,
    .moves = connect_moves,
    .due = connect_due,
    .flushes = connect_flushes,
    .joins = connect_joins,
};
