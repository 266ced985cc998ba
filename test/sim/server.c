/* The program under the storm: an echo whose every callback may do anything to anyone.
 *
 * Messages, where the scenario has them, are of 1 to 64 bytes, each ending where a byte of the
 * stream is below 4; what is behind the last end is left unconsumed until more comes, or the stream
 * ends. */
#include "conn/reactor.h"
#include "kernel/sim/file.h"
#include "sim/storm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MS INT64_C(1000000)
#define MESSAGE_MAX 64u

static const struct kr_conn_ops ops, adopted_ops, swapped_ops;

/* A handle without the number of its reactor, which is another one in each run of a process. */
static uint64_t of_any_reactor(uint64_t bits) {
    return bits & ~((uint64_t)KR__REACTOR_MAX << 48);
}

/* ---- what callbacks do beside their duty ---- */

static struct session *anyone(struct storm *s) {
    for (unsigned tries = 0; s->session_count && tries < 8; tries++) {
        struct session *x = &s->sessions[below(s, s->session_count)];
        if (x->open)
            return x;
    }
    return NULL;
}

/* A handle of the past is refused, whatever is in its slot now. */
static void use_stale(struct storm *s) {
    for (unsigned tries = 0; s->session_count && tries < 4; tries++) {
        const struct session *x = &s->sessions[below(s, s->session_count)];
        if (x->open)
            continue;
        mark(s, MARK_stale_handle);
        MUST(kr_conn_send(s->r, x->conn, "x", 1) == -ESTALE);
        MUST(kr_conn_close(s->r, x->conn, KR_CLOSE_NOW) == -ESTALE);
        MUST(kr_conn_pause(s->r, x->conn) == -ESTALE);
        return;
    }
}

static void session_close(struct storm *s, struct session *x, enum kr_close how) {
    if (x->closing)
        mark(s, MARK_close_twice);
    static const enum mark marks[] = {MARK_close_linger, MARK_close_flush, MARK_close_now,
                                      MARK_close_reset};
    mark(s, marks[how]);
    MUST(kr_conn_close(s->r, x->conn, how) == 0);
    x->closing = x->cut = s->closed_any = true;
}

/* Its deadline of that kind is not told before then. */
static void session_deadline(struct storm *s, struct session *x, enum kr_deadline which,
                             int64_t ns) {
    int64_t now = kr_sim_now(s->sim);
    int rc = kr_conn_deadline(s->r, x->conn, which, ns);
    MUST(rc == 0 || (rc == -ENOMEM && s->refuse) ||
         (rc == -EINVAL && ns == 0 && which == KR_DEADLINE_FLUSH));
    x->not_before[which] = now + (rc == 0 ? ns : 0);
}

/* Its bytes are another's: it is served only as an end of pairs. */
static bool is_proxied(const struct session *x) {
    return x->storm->scenario->proxy && !x->alone;
}

static void close_someone(struct storm *s, struct session *self, enum mark closing) {
    struct session *x = likely(s, 600) && self ? self : anyone(s);
    if (!x || !x->open)
        return;
    mark(s, x == self || !self ? closing : MARK_close_other);
    session_close(s, x, (enum kr_close)below(s, 4));
    if (likely(s, 200))
        session_close(s, x, (enum kr_close)below(s, 4));
}

static void close_everyone(struct storm *s) {
    for (unsigned i = 0; i < s->session_count; i++) {
        if (s->sessions[i].open && !s->sessions[i].closing)
            session_close(s, &s->sessions[i], (enum kr_close)below(s, 4));
    }
}

static void resume(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    struct session *x = user;
    if (!x->open || x->closing)
        return;
    int rc = kr_conn_resume(r, x->conn);
    MUST(rc == 0 || rc == -EPIPE); /* it may be ending by an error */
    x->paused = false;
}

/* Whoever pauses also sees to the resuming; without memory for that, at once. */
static void pause_someone(struct storm *s) {
    struct session *x = anyone(s);
    if (!x || x->closing || x->paused)
        return;
    mark(s, MARK_paused);
    int rc = kr_conn_pause(s->r, x->conn);
    if (rc == -EPIPE)
        return;
    MUST(rc == 0);
    x->paused = true;
    kr_timer timer;
    int64_t in_ns = (int64_t)some(s, (uint64_t)(5 * MS));
    if (kr_timer_start(s->r, &timer, in_ns, 0, resume, x) < 0)
        resume(s->r, timer, x);
}

void server_act_between(struct storm *s) {
    struct session *x = anyone(s);
    s->between = true;
    if (x && x->paused)
        resume(s->r, (kr_timer){0}, x);
    server_act(s, NULL, MARK_close_between);
    s->between = false;
}

static void close_later(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    struct session *x = user;
    if (!x->open || x->closing)
        return;
    x->closing = true;
    MUST(kr_conn_close(r, x->conn, KR_CLOSE_FLUSH) == 0);
}

/* Ends this side alone; the other one is read on, and all of it ends later. */
static void half_close(struct storm *s, struct session *x, enum mark why) {
    if (x->closing || x->half || !likely(s, s->scenario->half))
        return;
    if (kr_timer_start(s->r, NULL, (int64_t)some(s, (uint64_t)(20 * MS)), 0, close_later, x) < 0)
        return;
    int rc = kr_conn_shutdown(s->r, x->conn);
    MUST(rc == 0 || rc == -EPIPE);
    x->half = rc == 0;
    if (!x->half)
        return;
    mark(s, why);
    MUST(kr_conn_shutdown(s->r, x->conn) == 0);
    MUST(kr_conn_send(s->r, x->conn, "x", 1) == -EPIPE);
}

/* ---- timers: never early, never later than the first turn after they are due ---- */

static void fired(struct kr_reactor *r, kr_timer timer, void *user) {
    struct beat *b = user;
    struct storm *s = b->storm;
    mark(s, MARK_timer_fired);
    kr_sim_note(s->sim, "timer", of_any_reactor(timer.bits), 0);
    MUST(b->live && b->timer.bits == timer.bits);
    MUST(kr_sim_now(s->sim) >= b->not_before && kr_now(r) >= b->not_before);
    MUST(s->turn > b->started_in_turn); /* what a timer or a post starts fires in a later turn */
    b->live = false;
    server_act(s, NULL, MARK_close_in_timer);
}

static void beat_set(struct beat *b, int64_t before, int64_t in_ns) {
    b->live = true;
    b->not_before = in_ns ? before + in_ns : 0;
    b->due_by = kr_sim_now(b->storm->sim) + in_ns;
    b->started_in_turn = b->storm->in_callback ? b->storm->turn - 1 : b->storm->turn;
}

static void timer_act(struct storm *s) {
    struct beat *b = &s->beats[below(s, TIMERS_MAX)];
    int64_t before = kr_sim_now(s->sim);
    int64_t in_ns = likely(s, 200) ? 0 : (int64_t)some(s, (uint64_t)(20 * MS));
    b->storm = s;
    if (!b->live) {
        if (kr_timer_start(s->r, &b->timer, in_ns, 0, fired, b) == 0)
            beat_set(b, before, in_ns);
        return;
    }
    if (likely(s, 400)) {
        mark(s, MARK_timer_stopped);
        MUST(kr_timer_stop(s->r, b->timer) == 0);
        MUST(kr_timer_stop(s->r, b->timer) == -ESTALE);
        b->live = false;
        return;
    }
    mark(s, MARK_timer_restarted);
    MUST(kr_timer_restart(s->r, b->timer, in_ns, 0) == 0);
    beat_set(b, before, in_ns);
}

void server_check_beats(struct storm *s, int64_t since) {
    for (unsigned i = 0; i < TIMERS_MAX; i++) {
        const struct beat *b = &s->beats[i];
        if (b->live && b->due_by <= since && b->started_in_turn < s->turn)
            storm_fail(__FILE__, __LINE__,
                       "a timer due at %lld did not fire in the turn after %lld",
                       (long long)b->due_by, (long long)since);
    }
}

/* ---- posts: in order, each once ---- */

static struct storm *posting;

static void posted(struct kr_reactor *r, void *arg) {
    (void)r;
    struct storm *s = posting;
    mark(s, MARK_post_ran);
    kr_sim_note(s->sim, "post", (uint64_t)(uintptr_t)arg, 0);
    MUST((uintptr_t)arg == s->posts_ran);
    s->posts_ran++;
    if (!s->ending)
        server_act(s, NULL, MARK_close_in_timer);
}

static void post_act(struct storm *s) {
    posting = s;
    int rc = kr_post(s->r, posted, (void *)s->posts_made);
    MUST(rc == 0 || rc == -ENOBUFS || (rc == -ESHUTDOWN && s->ending));
    if (rc == 0)
        s->posts_made++;
    else
        mark(s, MARK_post_refused);
}

void server_post(struct kr_sim *sim, void *arg) {
    struct storm *s = arg;
    if (!s->r || s->ending)
        return;
    post_act(s);
    if (likely(s, 900))
        MUST_NOT_FAIL(kr_sim_at(sim, (int64_t)some(s, (uint64_t)(2 * MS)), server_post, s));
}

/* ---- listeners ---- */

/* Its handle is stale, and another may listen in its place. */
static void listener_ended(struct kr_reactor *r, kr_listener listener, void *user, int error) {
    struct storm *s = user;
    kr_sim_note(s->sim, "listener ended", of_any_reactor(listener.bits), (uint64_t)(int64_t)error);
    MUST(!s->in_callback && !s->ending && (error == 0 || error == -ETIMEDOUT));
    MUST(kr_listener_close(r, listener) == -ESTALE);
    mark(s, error ? MARK_backlog_left : MARK_backlog_served);
}

void server_listen(struct storm *s, unsigned i) {
    s->opts.on_end = listener_ended;
    struct kr_addr addr = storm_address(all_local(s) || (some_local(s) && i == 1));
    int rc = kr_listen(s->r, &s->listeners[i], &addr, &s->opts, &ops, s);
    MUST(rc == 0 || rc == -ENOMEM || rc == -ENOSPC ||
         (rc == -ESHUTDOWN && (s->ending || s->draining)));
    MUST(rc != 0 || !s->draining);
    s->listening[i] = rc == 0;
}

static void listener_resume(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    struct storm *s = user;
    for (unsigned i = 0; i < LISTENERS_MAX; i++) {
        if (s->listening[i])
            MUST(kr_listener_resume(r, s->listeners[i]) == 0);
    }
}

/* ---- the drain: everyone is told once, and the end comes when nobody is left ---- */

static void drained(struct kr_reactor *r, void *user, unsigned cut_off) {
    (void)r;
    struct storm *s = user;
    kr_sim_note(s->sim, "drained", cut_off, 0);
    MUST(!s->in_callback && s->draining && !s->ending && s->open == 0);
    mark(s, MARK_drain_over);
    s->draining = false;
}

static void drain(struct storm *s) {
    int rc = kr_drain(s->r, (int64_t)some(s, (uint64_t)(50 * MS)) - 1, drained, s);
    MUST(rc == 0 || (rc == -EALREADY && s->draining) || (rc == -ENOMEM && s->refuse) ||
         (rc == -ESHUTDOWN && s->ending));
    if (rc < 0)
        return;
    mark(s, MARK_drain_begun);
    s->draining = true;
    for (unsigned i = 0; i < LISTENERS_MAX; i++)
        s->listening[i] = false;
}

static void churn(struct storm *s) {
    unsigned i = (unsigned)below(s, LISTENERS_MAX);
    if (!s->listening[i]) {
        server_listen(s, i);
    } else if (likely(s, 300)) {
        MUST(kr_listener_drain(s->r, s->listeners[i], (int64_t)some(s, (uint64_t)(50 * MS)) - 1) ==
             0);
        MUST(kr_listener_drain(s->r, s->listeners[i], 0) == -EALREADY);
        s->listening[i] = false;
    } else if (likely(s, 512)) {
        mark(s, MARK_listener_closed);
        MUST(kr_listener_close(s->r, s->listeners[i]) == 0);
        MUST(kr_listener_close(s->r, s->listeners[i]) == -ESTALE);
        s->listening[i] = false;
    } else if (kr_timer_start(s->r, NULL, (int64_t)some(s, (uint64_t)(5 * MS)), 0, listener_resume,
                              s) == 0) {
        mark(s, MARK_listener_paused);
        MUST(kr_listener_pause(s->r, s->listeners[i]) == 0);
    }
}

/* ---- releases: what leaves is whole, and may come back ---- */

/* Back as another session, which goes on with the stream. Where something of it would wait for the
 * old one it is not, and its client is cut off. */
static bool adopt_again(struct storm *s, struct session *x, const struct kr_detached *what) {
    if (is_proxied(x) || what->unread_size || what->eof || x->half || x->hoards || s->ending || s->draining ||
        s->session_count + CLIENTS_MAX >= s->session_room || likely(s, 200))
        return false;
    struct session *y = &s->sessions[s->session_count];
    *y = *x;
    if (likely(s, 300)) { /* as if others had it for a while */
        mark(s, MARK_nonblock);
        kr__sim_fd_file(s->sim, what->fd)->nonblock = true;
    }
    int rc = kr_conn_adopt(s->r, &y->conn, what->fd, &s->opts.conn, &adopted_ops, y);
    MUST(rc == 0 || rc == -ENOSPC || rc == -ENOTCONN || (rc == -ENOMEM && s->refuse));
    if (rc < 0)
        return false;
    mark(s, MARK_adopted_again);
    s->session_count++;
    s->open++;
    *y = (struct session){.storm = s, .conn = y->conn, .open = true, .cut = x->cut, .alone = x->alone, .id = x->id, .consumed = x->consumed};
    x->consumed = 0; /* who looks for the client's session finds the other */
    rc = kr_conn_sendv(s->r, y->conn, what->unsent, (int)what->unsent_count);
    MUST(rc == 0 || (rc == -ENOMEM && s->refuse));
    if (rc < 0)
        session_close(s, y, KR_CLOSE_NOW);
    return true;
}

/* It goes on, and what passed it by as one that ends is made good. */
static void stays(struct storm *s, struct session *x) {
    mark(s, MARK_detach_refused);
    x->closing = false;
    if (x->paused)
        (void)kr_conn_resume(s->r, x->conn);
    x->paused = false;
    if (x->half || x->eof)
        session_close(s, x, KR_CLOSE_FLUSH);
}

static void check(struct session *x, const unsigned char *data, size_t size);

static void released(struct kr_reactor *r, kr_conn conn, void *user,
                     const struct kr_detached *what) {
    (void)r;
    struct session *x = user;
    struct storm *s = x->storm;
    kr_sim_note(s->sim, "released", of_any_reactor(conn.bits), (uint64_t)(int64_t)what->error);
    MUST(!s->in_callback && x->open && x->releasing && x->conn.bits == conn.bits);
    MUST((what->fd >= 0) == (what->error == 0));
    s->in_callback = true;
    x->releasing = false;
    bool of_the_peer = what->error == -EPIPE || what->error == -ECONNRESET;
    MUST(!what->open || what->error == -EMFILE || what->error == -ENOMEM ||
         what->error == -ETIMEDOUT || of_the_peer);
    if (what->open) {
        stays(s, x);
    } else if (what->error) {
        mark(s, MARK_detach_cancelled);
    } else {
        mark(s, MARK_released);
        if (what->unread_size)
            mark(s, MARK_released_with_unread);
        if (what->unsent_size)
            mark(s, MARK_released_with_unsent);
        MUST(what->unread_size >= x->shown);
        check(x, what->unread, what->unread_size);
        if (!adopt_again(s, x, what)) {
            x->cut = s->closed_any = true;
            MUST(kr_sim_fd_close(s->sim, what->fd) == 0);
        }
    }
    s->in_callback = false;
}

static void release(struct storm *s, struct session *self) {
    struct session *x = self ? self : anyone(s);
    if (!x || !x->open || x->closing)
        return;
    if (x->twin) {
        int rc = kr_conn_detach(s->r, x->conn, released, x);
        MUST(rc == -EBUSY || rc == -EPIPE || rc == -ENOTCONN);
        return;
    }
    int rc = kr_conn_detach(s->r, x->conn, released, x);
    bool able = s->opts.conn.keep_fd || s->r->ring.caps & KR__CAP_FD_INSTALL;
    MUST(rc == 0 || rc == -EPIPE || rc == -ENOTCONN || (rc == -ENOMEM && s->refuse) ||
         (rc == -EOPNOTSUPP && !able));
    if (rc < 0)
        return;
    MUST(kr_conn_detach(s->r, x->conn, released, x) == -EALREADY);
    x->closing = x->releasing = true;
}

/* ---- socket options: told of once, before the end ---- */

static void tuned(struct kr_reactor *r, kr_conn conn, void *user, int error) {
    (void)r;
    struct session *x = user;
    MUST(!x->storm->in_callback && x->open && x->tunings > 0 && x->conn.bits == conn.bits);
    MUST(error == 0 || error == -ECANCELED);
    x->tunings--;
    mark(x->storm, MARK_tuned);
}

static void tune(struct storm *s, struct session *x) {
    if (!x || !x->open)
        return;
    int rc =
        kr_conn_sockopt(s->r, x->conn, (enum kr_sockopt)below(s, KR_SOCKOPT_MARK), 1, tuned, x);
    bool able = s->opts.conn.keep_fd || s->r->ring.caps & KR__CAP_FD_INSTALL;
    MUST(rc == 0 || rc == -EPIPE || rc == -EAGAIN || (rc == -ENOMEM && s->refuse) ||
         (rc == -EOPNOTSUPP && (!able || some_local(s))));
    x->tunings += rc == 0;
}

/* ---- swaps: the other callbacks are told what they must know, and of an end once more ---- */

static void swap_someone(struct storm *s) {
    struct session *x = anyone(s);
    if (!x)
        return;
    int rc = kr_conn_swap(s->r, x->conn, likely(s, 512) ? &swapped_ops : &adopted_ops, x);
    MUST(rc == 0 || rc == -EPIPE);
    if (rc < 0)
        return;
    mark(s, MARK_swapped);
    if (x->twin)
        mark(s, MARK_swapped_forwarding);
    if (x->eof)
        mark(s, MARK_swapped_after_the_end);
    x->eof = false;
}

void server_act(struct storm *s, struct session *self, enum mark closing) {
    const struct scenario *how = s->scenario;
    if (likely(s, how->close))
        close_someone(s, self, closing);
    if (likely(s, how->close / 32))
        close_everyone(s);
    if (likely(s, how->release))
        release(s, self);
    if (likely(s, how->release))
        tune(s, self ? self : anyone(s));
    if (likely(s, how->pause))
        pause_someone(s);
    if (likely(s, how->swap))
        swap_someone(s);
    if (likely(s, how->timers))
        timer_act(s);
    if (likely(s, how->posts))
        post_act(s);
    if (likely(s, how->churn))
        churn(s);
    if (likely(s, how->drain))
        drain(s);
    if (likely(s, 20))
        use_stale(s);
    if (!s->between && likely(s, 20))
        MUST(kr_step(s->r, 0) == -EBUSY && kr_reactor_free(s->r) == -EBUSY);
    /* a leap is not its fault */
    if (self && self->open && !self->closing && likely(s, how->idle)) {
        enum kr_deadline which = (enum kr_deadline)below(s, KR_DEADLINE_FLUSH + 1);
        session_deadline(s, self, which, (int64_t)some(s, (uint64_t)(1000 * MS)));
    }
}

/* ---- the callbacks ---- */

static struct session *session_new(struct storm *s, kr_conn conn) {
    MUST(s->session_count < s->session_room);
    struct session *x = &s->sessions[s->session_count++];
    *x = (struct session){.storm = s, .conn = conn, .open = true, .hoards = likely(s, s->scenario->hoard)};
    const struct kr_conn_opts *o = &s->opts.conn;
    const int64_t limits[] = {o->idle_ns, o->read_ns, o->write_ns, o->life_ns};
    for (unsigned i = 0; i < sizeof limits / sizeof *limits; i++)
        x->not_before[i] = kr_now(s->r) + limits[i];
    s->open++;
    return x;
}

/* Every callback of a connection passes here: only a living one is called, and one at a time. */
static struct session *enter(struct storm *s, struct session *x, kr_conn conn, const char *what) {
    kr_sim_note(s->sim, what, of_any_reactor(conn.bits), 0);
    MUST(!s->in_callback);
    MUST(x->open && x->conn.bits == conn.bits);
    s->in_callback = true;
    s->callbacks++;
    return x;
}

static void leave(struct session *x) {
    x->storm->in_callback = false;
}

/* ---- a proxy between each two ---- */

static void forward_over(struct kr_reactor *r, kr_conn a, kr_conn b, void *user,
                         const struct kr_forwarded *what);

/* What is not forwarded whole is nothing that a client could miss. */
static struct kr_forward_opts forward_options(struct storm *s) {
    struct kr_forward_opts o;
    kr_forward_opts_init(&o);
    if (!likely(s, s->scenario->options))
        return o;
    s->closed_any = true;
    o.one_way = likely(s, 300);
    o.keep_open = likely(s, 512);
    o.max_ab = likely(s, 400) ? some(s, 4096) : 0;
    o.max_ba = likely(s, 400) ? some(s, 4096) : 0;
    return o;
}

static void pair_forward(struct storm *s, struct session *x, struct session *y) {
    struct kr_forward_opts o = forward_options(s);
    int rc = kr_conn_forward(s->r, x->conn, y->conn, &o, forward_over, x);
    MUST(rc == 0 || rc == -EPIPE || (rc == -ENOMEM && s->refuse));
    if (rc == 0) {
        x->twin = y;
        y->twin = x;
        x->feeds = true;
        y->feeds = !o.one_way;
        x->keeps_open = o.keep_open;
        if (o.max_ab || o.max_ba)
            mark(s, MARK_forward_limited);
        if (o.one_way)
            mark(s, MARK_forward_one_way);
        return;
    }
    if (!x->closing)
        session_close(s, x, KR_CLOSE_NOW);
    if (!y->closing)
        session_close(s, y, KR_CLOSE_NOW);
}

/* Both are the server's again: they are forwarded once more, or closed, now or later. */
static void goes_on(struct storm *s, struct session *x, struct session *y) {
    mark(s, MARK_forward_kept_open);
    if (!s->ending && !x->closing && !y->closing && likely(s, 512)) {
        mark(s, MARK_forward_again);
        pair_forward(s, x, y);
        return;
    }
    struct session *const both[] = {x, y};
    for (unsigned i = 0; i < 2; i++) {
        struct session *each = both[i];
        int64_t in_ns = (int64_t)some(s, (uint64_t)MS);
        if (each->closing || (likely(s, 512) &&
                              kr_timer_start(s->r, NULL, in_ns, 0, close_later, each) == 0))
            continue;
        session_close(s, each, (enum kr_close)below(s, 4));
    }
}

static void forward_over(struct kr_reactor *r, kr_conn a, kr_conn b, void *user,
                         const struct kr_forwarded *what) {
    struct session *x = user, *y = x->twin;
    struct storm *s = x->storm;
    kr_sim_note(s->sim, "forwarded", what->bytes_ab, what->bytes_ba);
    kr_sim_note(s->sim, "forward_error", (uint64_t)(int64_t)what->error, 0);
    MUST(!s->in_callback && y && y->twin == x && x->open && y->open);
    MUST(x->conn.bits == a.bits && y->conn.bits == b.bits);
    MUST(kr_conn_user(r, a) == x && kr_conn_user(r, b) == y);
    MUST(what->error <= 0);
    mark(s, what->error ? MARK_forward_cut : MARK_forwarded);
    s->in_callback = true;
    x->twin = y->twin = NULL;
    /* The far end of one way may have failed, and goes on to what its peer has left. */
    bool may_go_on = !y->feeds && what->error && what->error != -ECANCELED;
    x->feeds = y->feeds = false;
    if (x->keeps_open && what->error != -ENOMEM) {
        goes_on(s, x, y);
    } else { /* both follow */
        x->closing = true;
        y->closing = y->closing || !may_go_on;
    }
    if (!s->ending)
        server_act(s, NULL, MARK_close_in_timer);
    s->in_callback = false;
}

/* Who has found no other by now goes. */
static void lonely(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)r;
    (void)timer;
    struct session *x = user;
    if (x->storm->single == x)
        x->storm->single = NULL;
    if (x->open && !x->twin && !x->closing)
        session_close(x->storm, x, KR_CLOSE_NOW);
}

static void pair_up(struct storm *s, struct session *x) {
    struct session *y = s->single;
    if (!y || !y->open || y->closing) {
        s->single = x;
        if (kr_timer_start(s->r, NULL, 20 * MS, 0, lonely, x) < 0)
            lonely(s->r, (kr_timer){0}, x);
        return;
    }
    s->single = NULL;
    pair_forward(s, x, y);
}

static void stop_someone(struct storm *s) {
    struct session *x = anyone(s);
    if (!x || !x->twin || x->closing)
        return;
    mark(s, MARK_forward_stopped);
    MUST(kr_conn_forward_stop(s->r, x->conn) == 0);
    s->closed_any = true;
}

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct storm *s = user;
    struct session *x = session_new(s, conn);
    enter(s, x, conn, "on_open");
    MUST(kr_conn_set_user(r, conn, x) == 0);
    for (unsigned i = 0; i + 1 < s->session_count; i++)
        MUST(s->sessions[i].conn.bits != conn.bits);
    if (s->opts.conn.inline_size) {
        const char *memory = kr_conn_inline(r, conn);
        MUST(memory && memory[0] == 0 && !memcmp(memory, memory + 1, s->opts.conn.inline_size - 1));
        memset(kr_conn_inline(r, conn), 0x5a, s->opts.conn.inline_size);
    }
    struct kr_addr addr;
    int rc = kr_conn_peer(r, conn, &addr);
    MUST(rc == (s->opts.addresses || s->opts.conn.keep_fd ? 0 : -ENODATA) ||
         (rc == -ENOTCONN && s->opts.conn.keep_fd) || (rc == -ENODATA && s->opts.addresses));
    if (rc == 0)
        mark(s, MARK_accept_with_address);
    x->alone = s->scenario->proxy && likely(s, s->scenario->options / 2);
    if (is_proxied(x))
        pair_up(s, x);
    if (s->scenario->proxy && s->scenario->close && likely(s, 100))
        stop_someone(s);
    server_act(s, x, MARK_close_in_open);
    leave(x);
}

static void check(struct session *x, const unsigned char *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        uint64_t at = x->consumed + i;
        if (at >= 4 && x->consumed >= 4 && data[i] != stream_byte(x->id, at))
            storm_fail(__FILE__, __LINE__, "client %u: byte %llu came wrong", x->id,
                       (unsigned long long)at);
    }
}

static void consume(struct session *x, const unsigned char *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        uint64_t at = x->consumed + i;
        if (at < 4)
            x->id |= (uint32_t)data[i] << 8 * at;
        else if (data[i] != stream_byte(x->id, at))
            storm_fail(__FILE__, __LINE__, "client %u: byte %llu came wrong", x->id,
                       (unsigned long long)at);
    }
    x->consumed += size;
}

/* How much of it is whole messages. */
static size_t messages(const struct storm *s, const struct session *x, const unsigned char *data,
                       size_t size) {
    if (!s->scenario->messages)
        return size;
    (void)x;
    size_t whole = 0;
    for (size_t i = 0; i < size; i++) {
        if (data[i] < 4 || i - whole >= MESSAGE_MAX - 1)
            whole = i + 1;
    }
    return whole;
}

/* A loan comes back once, in a phase of its own, while its connection is still there. */
static void loan_end(struct kr_reactor *r, void *arg) {
    struct loan *loan = arg;
    struct session *x = loan->session;
    struct storm *s = x->storm;
    (void)r;
    kr_sim_note(s->sim, "loan_end", of_any_reactor(x->conn.bits), loan->size);
    MUST(!s->in_callback && x->open && x->loans > 0);
    x->loans--;
    memset(loan->bytes, 0xdd, loan->size);
    free(loan);
    if (!s->ending)
        server_act(s, NULL, MARK_close_in_timer);
}

static int lend(struct storm *s, struct session *x, const unsigned char *data, size_t size) {
    struct loan *loan = malloc(sizeof *loan + size);
    MUST(loan);
    *loan = (struct loan){.session = x, .size = size};
    memcpy(loan->bytes, data, size);
    int rc = kr_conn_send_ref(s->r, x->conn, loan->bytes, size, loan_end, loan);
    if (rc < 0) {
        free(loan);
        return rc;
    }
    mark(s, MARK_lent);
    x->loans++;
    return 0;
}

/* ---- descriptors: they go back with the bytes they came with, or are closed ---- */

static const struct client *client_of(const struct storm *s, uint32_t id) {
    for (unsigned i = 0; i < s->client_count; i++) {
        if (s->clients[i].id == id)
            return &s->clients[i];
    }
    return NULL;
}

static void fds_close(struct storm *s, struct session *x) {
    for (unsigned i = 0; i < x->fd_count; i++)
        MUST(kr_sim_fd_close(s->sim, x->fds[i]) == 0);
    x->fd_count = 0;
}

static void on_fds(struct kr_reactor *r, kr_conn conn, void *user, const int *fds, unsigned count,
                   bool truncated) {
    (void)r;
    struct session *x = user;
    struct storm *s = x->storm;
    enter(s, x, conn, "on_fds");
    mark(s, truncated ? MARK_fds_truncated : MARK_fds_came);
    MUST(s->scenario->fds && !x->closing && !x->paused && !x->eof && !x->twin);
    MUST(count <= s->opts.conn.recv_fds && (count || truncated));
    MUST(!truncated || count == s->opts.conn.recv_fds ||
         kr_sim_fault_hits(s->sim, KR_SIM_SCM_EMFILE));
    const struct client *c = x->consumed >= 4 ? client_of(s, x->id) : NULL;
    for (unsigned i = 0; i < count; i++)
        MUST(kr_sim_fd_same(s->sim, fds[i], c ? c->file : fds[0]));
    fds_close(s, x); /* those before, which could not be sent */
    memcpy(x->fds, fds, count * sizeof *fds);
    x->fd_count = count;
    server_act(s, x, MARK_close_in_fds);
    leave(x);
}

/* What it has goes with these bytes; -EMFILE is not in this world. */
static int send_fds(struct storm *s, struct session *x, const unsigned char *data, size_t size) {
    int rc = kr_conn_send_fds(s->r, x->conn, data, size, x->fds, x->fd_count);
    if (rc < 0)
        return rc;
    mark(s, MARK_fds_sent);
    fds_close(s, x);
    return 0;
}

/* As a loan. */
static void file_end(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    struct shipment *shipment = arg;
    struct session *x = shipment->session;
    struct storm *s = x->storm;
    (void)r;
    kr_sim_note(s->sim, "file_end", of_any_reactor(x->conn.bits), sent);
    MUST(!s->in_callback && x->open && x->loans > 0);
    MUST(sent <= shipment->size && (error || sent == shipment->size));
    MUST(!error || error == -ECANCELED || error == -EIO || error == -ENODATA);
    mark(s, !error ? MARK_file_sent : error == -ECANCELED ? MARK_file_cancelled : MARK_file_broken);
    x->loans--;
    MUST(kr_sim_fd_close(s->sim, shipment->fd) == 0);
    free(shipment);
    if (!s->ending)
        server_act(s, NULL, MARK_close_in_timer);
}

/* Something else stands before and behind the part that is sent; up to the end, only where that is
 * sure to be met where it is. */
static int ship(struct storm *s, struct session *x, const unsigned char *data, size_t size) {
    size_t before = below(s, 100),
           behind = below(s, 2) && !s->sim->weights[KR_SIM_READ_CUT] ? 0 : 10;
    unsigned char *bytes = malloc(before + size + behind);
    struct shipment *shipment = malloc(sizeof *shipment);
    MUST(bytes && shipment);
    memset(bytes, 0xee, before + size + behind);
    memcpy(bytes + before, data, size);
    *shipment = (struct shipment){x, size, kr_sim_file(s->sim, bytes, before + size + behind)};
    free(bytes);
    MUST(shipment->fd >= 0);
    int rc = kr_conn_send_file(s->r, x->conn, shipment->fd, before, behind ? size : KR_FILE_END,
                               file_end, shipment);
    if (rc < 0) {
        MUST(kr_sim_fd_close(s->sim, shipment->fd) == 0);
        free(shipment);
        return rc;
    }
    x->loans++;
    return 0;
}

/* One of the ways to send, all of which mean the same. */
static int send_somehow(struct storm *s, struct session *x, const unsigned char *data,
                        size_t size) {
    void *room;
    if (x->fd_count)
        return send_fds(s, x, data, size);
    if (likely(s, s->scenario->files))
        return ship(s, x, data, size);
    switch (below(s, 7)) {
    case 0: {
        int rc = kr_conn_reserve(s->r, x->conn, size, &room);
        if (rc < 0)
            return rc;
        mark(s, MARK_reserved);
        memcpy(room, data, size);
        return kr_conn_commit(s->r, x->conn, size);
    }
    case 1: {
        size_t half = size / 2;
        struct iovec iov[2] = {{(void *)(uintptr_t)data, half},
                               {(void *)(uintptr_t)(data + half), size - half}};
        mark(s, MARK_send_several);
        return kr_conn_sendv(s->r, x->conn, iov, 2);
    }
    case 2:
        if (likely(s, 50))
            (void)lend(s, x, data, 0);
        return lend(s, x, data, size);
    default:
        return kr_conn_send(s->r, x->conn, data, size);
    }
}

/* Sends until refused, so that what is left is shown again. Returns how much went. */
static size_t echo(struct storm *s, struct session *x, const unsigned char *data, size_t size) {
    size_t done = 0;
    while (done < size) {
        size_t queued = kr_conn_queued(s->r, x->conn);
        size_t room = s->opts.conn.send_cap > queued ? s->opts.conn.send_cap - queued : 1;
        size_t part = size - done < room ? size - done : room;
        if (likely(s, 300))
            part = some(s, part);
        int rc = send_somehow(s, x, data + done, part);
        if (rc == -EPIPE) { /* a send has failed: what still comes is only shown */
            mark(s, MARK_shown_after_failed_send);
            x->broken = x->cut = true;
            return size;
        }
        if (rc < 0) {
            MUST(rc == -ENOBUFS || (rc == -ENOMEM && s->refuse));
            mark(s, rc == -ENOMEM ? MARK_no_memory : MARK_send_refused);
            if (rc == -ENOMEM)
                session_close(s, x, KR_CLOSE_NOW);
            break;
        }
        done += part;
    }
    return done;
}

/* ---- leases: the bytes stay what they were ---- */

static void keepsake_end(struct storm *s, struct keepsake *k) {
    size_t size = 0;
    const unsigned char *data = kr_lease_data(s->r, k->lease, &size);
    MUST(data && size == k->size);
    for (size_t i = 0; i < size; i++)
        MUST(data[i] == stream_byte(k->id, k->at + i));
    MUST(kr_lease_return(s->r, k->lease) == 0);
    MUST(kr_lease_return(s->r, k->lease) == -ESTALE);
    k->live = false;
}

void server_return_leases(struct storm *s) {
    for (unsigned i = 0; i < LEASES_MAX; i++) {
        if (s->keepsakes[i].live)
            keepsake_end(s, &s->keepsakes[i]);
    }
}

/* One is taken, or given back if its place is taken. */
static void lease_act(struct storm *s, struct session *x, const unsigned char *data, size_t size) {
    struct keepsake *k = &s->keepsakes[below(s, LEASES_MAX)];
    if (k->live) {
        keepsake_end(s, k);
        return;
    }
    if (x->consumed < 4)
        return;
    size_t skip = below(s, size);
    *k = (struct keepsake){.id = x->id, .at = x->consumed + skip, .size = some(s, size - skip)};
    uint64_t held = s->r->bufs.held;
    int rc = kr_lease_take(s->r, x->conn, data + skip, k->size, &k->lease);
    MUST(rc == 0 || (rc == -ENOMEM && s->refuse));
    k->live = rc == 0;
    if (rc == 0)
        mark(s, s->r->bufs.held > held ? MARK_leased : MARK_leased_a_copy);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *bytes,
                      size_t size) {
    (void)r;
    struct session *x = user;
    struct storm *s = x->storm;
    const unsigned char *data = bytes;
    enter(s, x, conn, "on_data");
    if (is_proxied(x)) { /* nobody's but the other's to take, once there is one */
        MUST(!x->feeds);
        server_act(s, x, MARK_close_in_data);
        leave(x);
        return 0;
    }
    MUST(!x->closing && !x->paused && size > 0 && size >= x->shown);
    MUST(!x->eof || size == x->shown); /* what was left, as it was asked for */
    if (size > x->shown && x->shown)
        mark(s, MARK_kept);
    check(x, data, size);
    if (likely(s, s->scenario->lease))
        lease_act(s, x, data, size);
    bool early = likely(s, 512);
    if (early)
        server_act(s, x, MARK_close_in_data);
    if (likely(s, s->scenario->half / 64))
        half_close(s, x, MARK_half_early);
    x->cut |= x->half;
    size_t used = 0;
    if (!x->closing && !x->hoards)
        used = x->half || x->broken ? size : echo(s, x, data, messages(s, x, data, size));
    if (!early)
        server_act(s, x, MARK_close_in_data);
    consume(x, data, used);
    x->shown = size - used;
    kr_sim_note(s->sim, "consumed", used, size);
    leave(x);
    return used;
}

/* Of whole messages there is nothing left: what is, can only be the start of one. */
static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct session *x = user;
    struct storm *s = x->storm;
    enter(s, x, conn, "on_eof");
    MUST(!x->feeds);
    MUST(!x->closing && !x->paused && !x->eof);
    MUST(x->hoards || x->shown < (s->scenario->messages ? MESSAGE_MAX : 1));
    x->eof = true;
    x->cut |= x->shown > 0; /* the rest of a message that never came whole is not echoed */
    server_act(s, x, MARK_close_in_eof);
    half_close(s, x, MARK_half_at_end);
    if (!x->closing && !x->half) {
        MUST(kr_conn_close(r, conn, KR_CLOSE_FLUSH) == 0);
        x->closing = true;
    }
    leave(x);
}

static void on_writable(struct kr_reactor *r, kr_conn conn, void *user) {
    struct session *x = user;
    struct storm *s = x->storm;
    enter(s, x, conn, "on_writable");
    MUST(!x->twin);
    mark(s, MARK_drained);
    MUST(!x->closing && kr_conn_queued(r, conn) <= s->opts.conn.send_low);
    server_act(s, x, MARK_close_in_drain);
    leave(x);
}

static void on_timeout(struct kr_reactor *r, kr_conn conn, void *user, enum kr_deadline which) {
    struct session *x = user;
    struct storm *s = x->storm;
    enter(s, x, conn, "on_timeout");
    mark(s, which == KR_DEADLINE_IDLE ? MARK_idle_timeout
            : which == KR_DEADLINE_READ ? MARK_read_timeout
                                        : MARK_life_timeout);
    MUST(!x->closing &&
         (which == KR_DEADLINE_IDLE || which == KR_DEADLINE_READ || which == KR_DEADLINE_LIFE));
    MUST(which != KR_DEADLINE_READ || !x->paused);
    MUST(kr_now(r) >= x->not_before[which]);
    session_deadline(s, x, which, 0);
    if (likely(s, 512))
        session_close(s, x, KR_CLOSE_NOW);
    leave(x);
}

static void on_shutdown(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct session *x = user;
    struct storm *s = x->storm;
    enter(s, x, conn, "on_shutdown");
    MUST(s->draining && !x->closing && !x->told);
    x->told = x->cut = true;
    server_act(s, x, MARK_close_in_shutdown);
    if (!x->closing && likely(s, 512))
        session_close(s, x, (enum kr_close)below(s, 4));
    leave(x);
}

static void mark_end(struct storm *s, const struct session *x, int error, enum kr_why why) {
    if (why == KR_WHY_TIMEOUT)
        mark(s, MARK_flush_timeout);
    if (error == -EMSGSIZE) {
        mark(s, MARK_too_much_kept);
        MUST(x->hoards && x->shown > s->opts.conn.recv_cap);
    }
    if (error == -ENOMEM)
        mark(s, MARK_no_memory);
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct session *x = user;
    struct storm *s = x->storm;
    enter(s, x, conn, "on_close");
    MUST(!x->twin && !x->releasing && !x->tunings); /* told before */
    kr_sim_note(s->sim, kr_whyname(why), (uint64_t)(int64_t)error, 0);
    MUST((error == 0) == (why == KR_WHY_LOCAL || why == KR_WHY_PEER || why == KR_WHY_REACTOR ||
                          why == KR_WHY_DETACHED));
    MUST(kr_conn_user(r, conn) == x && x->loans == 0);
    storm_saw_close(s, conn);
    mark_end(s, x, error, why);
    MUST(!x->broken || error);
    x->cut = x->cut || error || why == KR_WHY_REACTOR;
    s->closed_any |= x->alone && error; /* pairs that end by an error are reset */
    s->closed_any |= why == KR_WHY_TIMEOUT;
    x->closing = true;
    x->closed_with = error;
    fds_close(s, x);
    if (!s->ending)
        server_act(s, x, MARK_close_in_close);
    MUST(kr_conn_send(r, conn, "x", 1) == -EPIPE);
    x->open = false;
    s->open--;
    leave(x);
}

/* Those of a session that has been here before. */
static const struct kr_conn_ops adopted_ops = {
    .on_data = on_data,
    .on_eof = on_eof,
    .on_writable = on_writable,
    .on_timeout = on_timeout,
    .on_shutdown = on_shutdown,
    .on_close = on_close,
};

/* Those of a session that has other callbacks from now on. It may be one that was adopted and is not
 * told of yet: no on_open, whose user is the storm. */
static const struct kr_conn_ops swapped_ops = {
    .on_data = on_data,
    .on_eof = on_eof,
    .on_writable = on_writable,
    .on_timeout = on_timeout,
    .on_shutdown = on_shutdown,
    .on_close = on_close,
    .on_fds = on_fds,
};

static const struct kr_conn_ops ops = {
    .on_open = on_open,
    .on_data = on_data,
    .on_eof = on_eof,
    .on_writable = on_writable,
    .on_timeout = on_timeout,
    .on_shutdown = on_shutdown,
    .on_close = on_close,
    .on_fds = on_fds,
};
