/* The program: callbacks that check that they may be called, do their duty, and make calls.
 *
 * Everything that is called back is told what it needs by the link, or finds it by the handle, so
 * that a callback too many, or too late, is met. */
#include "random/random.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Every callback passes here: never within a call, one at a time. */
static void enter(struct world *w) {
    CHECK(!w->in_call && !w->deep);
    w->deep = true;
}

static void leave(struct world *w) {
    w->deep = false;
}

/* Those of a connection: it is known, it is this one's, and its close has not begun. */
static struct link *enter_open(struct link *l, kr_conn conn) {
    enter(l->w);
    CHECK(l->known && l->conn.bits == conn.bits);
    CHECK(!l->closing);
    return l;
}

void program_closes(struct link *l, enum kr_close how) {
    l->flushing = !l->closing && how <= KR_CLOSE_FLUSH && !l->twin;
    l->closing = true;
    trace(l->w, "link %u: close %d", l->index, (int)how);
}

/* ---- who it is ---- */

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct link *l = user;
    enter_open(l, conn);
    (void)r;
    CHECK(!l->stands);
    l->stands = true;
    calls_some(l->w);
    leave(l->w);
}

/* An accepted one comes as a stranger; without a record for it, it goes. */
static void on_accept(struct kr_reactor *r, kr_conn conn, void *user) {
    struct world *w = user;
    enter(w);
    struct link *l = link_new(w);
    if (!l) {
        CHECK_OK(kr_conn_set_user(r, conn, NULL));
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
        leave(w);
        return;
    }
    l->conn = conn;
    l->known = l->stands = l->stranger = true;
    CHECK_OK(kr_conn_set_user(r, conn, l));
    calls_some(w);
    leave(w);
}

/* The record of the client becomes the connection's. */
static struct link *recognise(struct link *stranger, const void *data) {
    struct world *w = stranger->w;
    uint32_t id;
    memcpy(&id, data, sizeof id);
    CHECK_LT(id, w->link_count);
    struct link *l = &w->links[id];
    CHECK(!l->known && !l->was_open);
    l->conn = stranger->conn;
    l->known = l->stands = true;
    l->paused = stranger->paused;
    l->half = stranger->half;
    l->told_to_end = stranger->told_to_end;
    stranger->known = false;
    CHECK_OK(kr_conn_set_user(w->r, l->conn, l));
    return l;
}

/* ---- bytes ---- */

static size_t take(struct link *l, const void *data, size_t size) {
    struct world *w = l->w;
    stream_shown(l, data, size);
    calls_some(w);
    unsigned i = (unsigned)chance_number(w, LEASES);
    if (!w->leased[i] && chance(w, 100)) {
        size_t skip = (size_t)chance_number(w, size);
        int rc = kr_lease_take(w->r, l->conn, (const char *)data + skip, size - skip, &w->leases[i]);
        ALLOW(rc, ESTALE);
        w->leased[i] = rc == 0;
        w->lease_seed[i] = l->in_seed;
        w->lease_from[i] = l->in_taken + skip;
    }
    size_t used = chance(w, 700) ? size : (size_t)chance_number(w, size + 1);
    if (!l->closing && !l->twin && chance(w, 300) && stream_may_send(l)) { /* what was lent, lent */
        size_t part = (size_t)chance_some(w, size);
        int rc = kr_conn_send(w->r, l->conn, data, part);
        ALLOW(rc, ENOBUFS, EPIPE, EMSGSIZE);
        if (rc == 0)
            stream_add(l, (struct span){.seed = l->in_seed, .from = l->in_taken, .size = part});
    }
    if (l->feeds) /* a pair has begun in here, and begins with what is not consumed */
        used = 0;
    l->in_taken += used;
    trace(w, "link %u: %zu of %zu taken, now %llu", l->index, used, size,
          (unsigned long long)l->in_taken);
    return used;
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct link *l = user;
    (void)r;
    enter_open(l, conn);
    CHECK(l->stands && !l->paused && !l->feeds && size > 0);
    size_t used = 0;
    if (!l->stranger) {
        used = take(l, data, size);
    } else if (size >= sizeof(uint32_t)) {
        l = recognise(l, data);
        used = sizeof(uint32_t);
        if (size > used)
            used += take(l, (const char *)data + used, size - used);
    }
    leave(l->w);
    return used;
}

/* All that the peer has sent was shown. */
static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct link *l = user;
    enter_open(l, conn);
    CHECK(!l->paused && !l->eof && !l->feeds);
    if (!l->stranger)
        CHECK_EQ(l->in_shown, l->in_sent);
    l->eof = true;
    calls_some(l->w);
    if (!l->closing && chance(l->w, 900)) {
        enum kr_close how = (enum kr_close)chance_number(l->w, 4);
        CHECK_OK(kr_conn_close(r, conn, how));
        program_closes(l, how);
    }
    leave(l->w);
}

static void on_writable(struct kr_reactor *r, kr_conn conn, void *user) {
    struct link *l = user;
    enter_open(l, conn);
    CHECK(!l->twin);
    CHECK_LE(kr_conn_queued(r, conn), l->w->conn_opts.send_low);
    calls_some(l->w);
    leave(l->w);
}

static void on_timeout(struct kr_reactor *r, kr_conn conn, void *user, enum kr_deadline which) {
    struct link *l = user;
    enter_open(l, conn);
    CHECK(which == KR_DEADLINE_IDLE || which == KR_DEADLINE_READ || which == KR_DEADLINE_LIFE);
    if (chance(l->w, 512)) {
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
        program_closes(l, KR_CLOSE_NOW);
    } else {
        CHECK_OK(kr_conn_deadline(r, conn, which, 0));
    }
    leave(l->w);
}

static void on_shutdown(struct kr_reactor *r, kr_conn conn, void *user) {
    struct link *l = user;
    enter_open(l, conn);
    (void)r;
    CHECK(l->w->draining && !l->told_to_end);
    l->told_to_end = true;
    calls_some(l->w);
    leave(l->w);
}

static void on_fds(struct kr_reactor *r, kr_conn conn, void *user, const int *fds, unsigned count,
                   bool truncated) {
    struct link *l = user;
    (void)r;
    enter_open(l, conn);
    CHECK(l->local || l->stranger);
    CHECK(!l->paused && (count || truncated));
    CHECK_LE(count, l->w->conn_opts.recv_fds);
    for (unsigned i = 0; i < count; i++)
        test_close(fds[i]);
    leave(l->w);
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct link *l = user;
    if (!l) /* never had a record */
        return;
    struct world *w = l->w;
    enter(w);
    CHECK(l->known && l->conn.bits == conn.bits);
    CHECK(!l->twin && !l->releasing && !l->owed); /* told of first */
    bool fine = why == KR_WHY_LOCAL || why == KR_WHY_PEER || why == KR_WHY_REACTOR ||
                why == KR_WHY_DETACHED;
    CHECK(error == 0 ? fine : !fine || (why == KR_WHY_PEER && error == -ENODATA));
    CHECK(kr_conn_user(r, conn) == l);
    CHECK_ERR(kr_conn_send(r, conn, "x", 1), EPIPE);
    l->closing = true;
    l->known = false;
    l->delivered = l->flushing && error == 0 && why == KR_WHY_LOCAL;
    trace(w, "link %u: closed, %s, %s, delivered %d", l->index, kr_errname(error), kr_whyname(why),
          l->delivered);
    stream_check_whole(l);
    w->closes++;
    if (!w->ending)
        calls_some(w);
    l->was_open = true;
    leave(w);
}

const struct kr_conn_ops program_ops = {
    .on_open = on_open,
    .on_data = on_data,
    .on_eof = on_eof,
    .on_writable = on_writable,
    .on_timeout = on_timeout,
    .on_close = on_close,
    .on_shutdown = on_shutdown,
    .on_fds = on_fds,
};

const struct kr_conn_ops program_bare_ops = {.on_open = on_open, .on_data = on_data, .on_close = on_close};

const struct kr_conn_ops program_accept_ops = {
    .on_open = on_accept,
    .on_data = on_data,
    .on_eof = on_eof,
    .on_writable = on_writable,
    .on_timeout = on_timeout,
    .on_close = on_close,
    .on_shutdown = on_shutdown,
    .on_fds = on_fds,
};

/* ---- what comes back beside ---- */

void program_loan_back(struct kr_reactor *r, void *arg) {
    struct loan *loan = arg;
    struct link *l = loan->link;
    (void)r;
    enter(l->w);
    CHECK(l->owed);
    l->owed--;
    memset(loan->bytes, 0xdd, loan->size);
    free(loan->bytes);
    free(loan);
    if (!l->w->ending)
        calls_some(l->w);
    leave(l->w);
}

void program_file_done(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    struct link *l = arg;
    (void)r;
    enter(l->w);
    CHECK(l->owed && sent <= FILE_SIZE && error <= 0);
    l->owed--;
    if (!l->w->ending)
        calls_some(l->w);
    leave(l->w);
}

void program_tuned(struct kr_reactor *r, kr_conn conn, void *user, int error) {
    struct link *l = user;
    (void)r;
    enter(l->w);
    CHECK(l->owed && l->known && l->conn.bits == conn.bits);
    CHECK(error == 0 || error == -ECANCELED || error == -EPERM || error == -EINVAL);
    l->owed--;
    leave(l->w);
}

/* Both are open again, or are being closed behind this. */
void program_forwarded(struct kr_reactor *r, kr_conn a, kr_conn b, void *user,
                       const struct kr_forwarded *what) {
    struct link *from = user, *to = from->twin;
    struct world *w = from->w;
    enter(w);
    CHECK(to && to->twin == from && from->known && to->known);
    CHECK(from->conn.bits == a.bits && to->conn.bits == b.bits);
    CHECK(kr_conn_user(r, a) == from && kr_conn_user(r, b) == to);
    trace(w, "links %u and %u: pair over, %llu and %llu, %d", from->index, to->index,
          (unsigned long long)what->bytes_ab, (unsigned long long)what->bytes_ba, what->error);
    stream_forwarded(from, to, what->bytes_ab);
    bool fed_back = to->feeds;
    if (fed_back)
        stream_forwarded(to, from, what->bytes_ba);
    from->twin = to->twin = NULL;
    from->feeds = to->feeds = false;
    bool kept_open = from->keeps_open && what->error != -ENOMEM;
    if (!w->ending)
        calls_some(w);
    /* Behind this; an error has both reset. But the far end of one way may have failed, and goes on
     * to what its peer has left. */
    bool may_go_on = !fed_back && what->error && what->error != -ECANCELED;
    if (!kept_open) {
        from->closing = true;
        to->closing = to->closing || !may_go_on;
    }
    if (!kept_open && what->error)
        from->flushing = to->flushing = false;
    leave(w);
}

/* What is read from it again, and goes on as another, if nothing of it is left here. */
static bool adopt_again(struct link *l, const struct kr_detached *what) {
    struct world *w = l->w;
    bool whole = !what->unread_size && !what->eof && !what->shut && !what->fds_count &&
                 !what->unsent_fds_count && !l->stranger;
    struct link *next = whole && !w->ending && chance(w, 700) ? link_new(w) : NULL;
    if (!next)
        return false;
    unsigned index = next->index;
    int rc = kr_conn_adopt(w->r, &next->conn, what->fd, &w->conn_opts, program_any_ops(w), next);
    ALLOW(rc, ENOSPC, ESHUTDOWN, ENOTCONN);
    if (rc < 0)
        return false;
    kr_conn conn = next->conn;
    *next = *l;
    next->index = index;
    next->conn = conn;
    next->known = true;
    next->stands = next->closing = next->flushing = next->paused = next->eof = false;
    next->told_to_end = next->releasing = false;
    next->owed = 0;
    l->fd = l->listening = -1;
    rc = kr_conn_sendv(w->r, conn, what->unsent, (int)what->unsent_count);
    ALLOW(rc, ENOBUFS, EMSGSIZE, EPIPE);
    CHECK(!what->shut || rc == -EPIPE);
    next->half = rc == -EPIPE; /* a reset that was told before ends this side, too */
    if (next->half)
        return true;
    if (rc < 0) {
        CHECK_OK(kr_conn_close(w->r, conn, KR_CLOSE_NOW));
        program_closes(next, KR_CLOSE_NOW);
    }
    return true;
}

void program_released(struct kr_reactor *r, kr_conn conn, void *user,
                      const struct kr_detached *what) {
    struct link *l = link_of(user, conn);
    (void)r;
    CHECK(l && l->releasing);
    enter(l->w);
    CHECK_EQ(what->fd >= 0, what->error == 0);
    l->releasing = false;
    l->closing = !what->open;
    l->flushing = false;
    if (what->unread_size && !l->stranger)
        stream_shown(l, what->unread, what->unread_size);
    for (unsigned i = 0; i < what->fds_count; i++)
        test_close(what->fds[i]);
    if (what->fd >= 0 && !adopt_again(l, what))
        test_close(what->fd);
    leave(l->w);
}

void program_listener_ends(struct kr_reactor *r, kr_listener listener, void *user, int error) {
    struct world *w = user;
    enter(w);
    CHECK(error == 0 || error == -ETIMEDOUT);
    CHECK_ERR(kr_listener_close(r, listener), ESTALE);
    leave(w);
}

void program_drained(struct kr_reactor *r, void *user, unsigned cut_off) {
    struct world *w = user;
    UNUSED(r, cut_off);
    enter(w);
    CHECK(w->draining);
    w->draining = false;
    w->drained++;
    for (unsigned i = 0; i < w->link_count; i++)
        CHECK(!w->links[i].known);
    leave(w);
}

void program_posted(struct kr_reactor *r, void *arg) {
    struct world *w = world_now;
    (void)r;
    enter(w);
    CHECK_EQ((uintptr_t)arg, w->posts_ran);
    w->posts_ran++;
    if (!w->ending)
        calls_some(w);
    leave(w);
}

void program_noticed(struct kr_reactor *r, void *arg) {
    struct world *w = arg;
    (void)r;
    enter(w);
    CHECK(!w->noticed);
    w->noticed = true;
    if (!w->ending)
        calls_some(w);
    leave(w);
}

void program_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    struct world *w = user;
    (void)r;
    enter(w);
    unsigned i = 0;
    while (i < TIMERS && !(w->timing[i] && w->timers[i].bits == timer.bits))
        i++;
    CHECK_LT(i, TIMERS);
    w->timing[i] = false;
    CHECK_OK(kr_timer_stop(r, timer)); /* it may be one that beats */
    calls_some(w);
    leave(w);
}

/* Whatever was paused is resumed, of those that are still there. */
void program_resume(struct kr_reactor *r, kr_timer timer, void *user) {
    struct world *w = user;
    (void)timer;
    enter(w);
    for (unsigned i = 0; i < w->link_count; i++) {
        struct link *l = &w->links[i];
        if (!l->known || !l->paused || l->closing)
            continue;
        ALLOW(kr_conn_resume(r, l->conn), EPIPE);
        l->paused = false;
    }
    for (unsigned i = 0; i < LISTENERS; i++) {
        if (w->listening[i])
            CHECK_OK(kr_listener_resume(r, w->listeners[i]));
    }
    leave(w);
}

const struct kr_conn_ops *program_any_ops(struct world *w) {
    return chance(w, 700) ? &program_ops : &program_bare_ops;
}
