/* A connection's deadlines: how long it may be without what.
 *
 *   idle    from the last byte received or sent, or since it can receive, if it had to wait for a
 *           buffer
 *   read    from the last byte received, or since when there is a receive: stopped, or without a
 *           buffer, it has none
 *   write   from the last byte sent, or the first byte queued
 *   life    from the opening
 *   flush   while closing: from the last byte sent, or acknowledged of those sent by zero-copy, the
 *           end of this side, or the close; and while it is being detached, the same
 *
 * Happy path: one place in the heap, at the first of those that apply. Traffic only moves the time
 * from which one counts (to the turn's now, but not back behind a change made in the turn); when
 * the place comes up all are reckoned anew, and it is filed again if none has been reached. So a
 * busy connection costs the heap one operation a deadline, not a byte. What begins to apply in
 * between (a first byte queued, a receive made again) files it sooner, if it is filed for later.
 * Until a connection of kr_connect stands the place is extra/connect.c's.
 *
 * The place is also for a look at sockets, on kernels where a multishot receive may keep a reset to
 * itself that came together with bytes (kernel/reset.c): when nothing has come for KR__LOOK_NS
 * after bytes, it is cancelled and made again, and begins with a look. So a busy connection pays
 * nothing, a burst of bytes a receive more. To receive by one shot costs that for each message.
 *
 * A deadline is judged when what had come by its time has been read (roof/catchup.c). A connection
 * that waits for a receive buffer has not been read from, however many turns pass: it is not idle,
 * and one that lingers is given its flush deadline once more.
 *
 * Failure modes: none of its own; the place was promised when the connection was made. */
#include "conn/hooks.h"
#include "conn/tell.h"
#include "conn/zerocopy.h"

struct due {
    int64_t at;
    enum kr_deadline which;
    bool looks; /* no deadline of the user's, but a look at the socket */
};

static bool applies(const struct kr__conn *c, enum kr_deadline which) {
    bool open = kr__conn_is_open(c);
    switch (which) {
    case KR_DEADLINE_IDLE:
        return open;
    case KR_DEADLINE_READ:
        return open && !(kr__conn_reasons(c) & (KR__STOPS | KR__STARVED)) &&
               ((c->owner.armed & KR__VERBS_THAT_RECEIVE) || c->recv_goes_on);
    case KR_DEADLINE_WRITE:
        return open && c->queued;
    case KR_DEADLINE_LIFE:
        return open || kr__conn_is_flushing(c);
    case KR_DEADLINE_FLUSH:
        return kr__conn_waits_for_peer(c);
    }
    return false;
}

static int64_t *limit_of(struct kr_conn_opts *opts, enum kr_deadline which) {
    int64_t *const limits[] = {&opts->idle_ns, &opts->read_ns, &opts->write_ns, &opts->life_ns,
                               &opts->flush_ns};
    return limits[which];
}

static int64_t *since_of(struct kr__conn *c, enum kr_deadline which) {
    int64_t *const since[] = {&c->idle_from, &c->read_from, &c->write_from, &c->life_from,
                              &c->write_from};
    return since[which];
}

/* KR__NEVER: there is none. */
static int64_t due_at(struct kr__conn *c, enum kr_deadline which) {
    int64_t limit = *limit_of(&c->profile->opts, which);
    return limit ? kr__time_add(*since_of(c, which), limit) : KR__NEVER;
}

/* KR__NEVER: what it knows is all. */
static int64_t look_at(const struct kr__conn *c) {
    bool waits = c->unsure && c->streams && (c->owner.armed & KR__SET(recv));
    return waits ? kr__time_add(c->read_from, KR__LOOK_NS) : KR__NEVER;
}

/* The first to come of those that apply. */
static struct due first_due(struct kr__conn *c) {
    struct due first = {.at = look_at(c), .looks = true};
    for (enum kr_deadline which = KR_DEADLINE_IDLE; which <= KR_DEADLINE_FLUSH; which++) {
        int64_t at = due_at(c, which);
        if (at < first.at && applies(c, which))
            first = (struct due){.at = at, .which = which};
    }
    return first;
}

void kr__conn_watch(struct kr_reactor *r, struct kr__conn *c) {
    int64_t at = first_due(c).at;
    if (at == KR__NEVER)
        kr__deadline_unfile(&r->timers, &c->deadline);
    else
        kr__deadline_file(&r->timers, &c->deadline, at);
}

void kr__conn_stands(struct kr_reactor *r, struct kr__conn *c) {
    c->idle_from = c->read_from = c->write_from = c->life_from = r->now;
    kr__conn_watch(r, c);
}

/* From the real now: a turn may have been under way for long, or none is. */
void kr__conn_count(struct kr_reactor *r, struct kr__conn *c, enum kr_deadline which) {
    if (c->features & KR__CONNECTING) /* they begin when it stands */
        return;
    *since_of(c, which) = r->kernel->process.clock(r->kernel);
    int64_t at = due_at(c, which);
    bool filed = kr__heap_filed(&c->deadline.node);
    if (at == KR__NEVER || (filed && kr__heap_at(&r->timers.deadlines, &c->deadline.node) <= at))
        return;
    kr__mark_if(deadline_sooner, filed);
    kr__deadline_file(&r->timers, &c->deadline, at);
}

void kr__conn_look_later(struct kr_reactor *r, struct kr__conn *c) {
    c->unsure = true;
    int64_t at = kr__time_add(r->now, KR__LOOK_NS);
    bool filed = kr__heap_filed(&c->deadline.node);
    if (!filed || kr__heap_at(&r->timers.deadlines, &c->deadline.node) > at)
        kr__deadline_file(&r->timers, &c->deadline, at);
}

/* The multishot's cancel is wanted now, and then another. */
static void look(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark(looked_again);
    c->unsure = false;
    c->looks = true;
    kr__conn_dirty(r, c);
    kr__conn_watch(r, c);
}

/* Only a reset makes the kernel let go of what was sent by zero-copy and is not acknowledged. And a
 * peer that has got only a part of what was queued is told so by RST. */
void kr__conn_give_up(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark_if(reset_for_flights, !c->queued && kr__conn_zc_pending(c));
    enum kr_close how = c->queued || kr__conn_zc_pending(c) ? KR_CLOSE_RESET : KR_CLOSE_NOW;
    kr__conn_end(r, c, how, -ETIMEDOUT, KR_WHY_TIMEOUT);
}

/* Told, it is due again after now, so that a turn ends, however many of them are. */
static void timed_out(struct kr_reactor *r, struct kr__conn *c, enum kr_deadline which) {
    kr__count(&r->stats.timeouts, 1);
    bool told = kr__conn_is_open(c) && which != KR_DEADLINE_WRITE && c->ops->on_timeout;
    if (!told) {
        kr__mark_if(flush_overdue, which == KR_DEADLINE_FLUSH);
        kr__mark_if(deadline_ended, kr__conn_is_open(c) && which != KR_DEADLINE_WRITE);
        kr__mark_if(deadline_reset, c->queued);
        kr__conn_give_up(r, c);
        return;
    }
    kr__mark(deadline_told);
    *since_of(c, which) = r->kernel->process.clock(r->kernel);
    kr__conn_watch(r, c);
    kr__tell_timeout(r, c, which);
}

/* It is to be read from, and has not been yet: it is in the line at the receive buffers, or the
 * kernel has refused its poll. */
static bool awaits_reading(const struct kr__conn *c) {
    return kr__conn_may_receive(c) && (c->starved || c->may_try || (c->rests && c->recv_waits));
}

/* From when an idle deadline counts instead. While a pair does not read from it, for the sake of the
 * other end's queue, that is the last byte that the queue got rid of. */
static int64_t idle_since(const struct kr_reactor *r, const struct kr__conn *c) {
    if (awaits_reading(c))
        return r->now;
    if (c->peer_full)
        KR__EACH_HOOK (r, c, idle_from)
            return row->idle_from(c);
    return c->idle_from;
}

/* True if its peer may have done what it is waited for, unread, so that it is waited for once more.
 * To linger is bounded by nothing else than its deadline, so that is done once. */
static bool waits_on(struct kr_reactor *r, struct kr__conn *c, enum kr_deadline which) {
    int64_t *since = since_of(c, which), before = *since;
    bool receives = which == KR_DEADLINE_IDLE || which == KR_DEADLINE_READ;
    if (receives && before == r->catchup.held_from)
        kr__time_reach(since, r->catchup.held_to);
    if (which == KR_DEADLINE_IDLE) {
        kr__time_reach(since, idle_since(r, c));
    } else if (which == KR_DEADLINE_FLUSH && !c->spared && awaits_reading(c)) {
        c->spared = true;
        *since = r->now;
    }
    kr__mark_if(not_read_yet, *since > before);
    if (*since > before)
        kr__conn_watch(r, c);
    return *since > before;
}

static void due_now(struct kr_reactor *r, struct kr__conn *c, enum kr_deadline which) {
    KR__EACH_HOOK (r, c, overdue)
        if (row->overdue(r, c))
            return;
    if (!waits_on(r, c, which))
        timed_out(r, c, which);
}

void kr__conn_due(struct kr_reactor *r, struct kr__deadline *d) {
    struct kr__conn *c = kr__container_of(d, struct kr__conn, deadline);
    KR__EACH_HOOK (r, c, due)
        if (row->due(r, c))
            return;
    struct due first = first_due(c);
    bool over = first.at <= r->catchup.until;
    kr__mark_if(deadline_moved, !over);
    if (over && first.looks)
        look(r, c);
    else if (over)
        due_now(r, c, first.which);
    else if (first.at != KR__NEVER)
        kr__deadline_file(&r->timers, &c->deadline, first.at);
}

int kr_conn_deadline(struct kr_reactor *r, kr_conn conn, enum kr_deadline which, int64_t ns) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if ((unsigned)which > KR_DEADLINE_FLUSH || ns < (which == KR_DEADLINE_FLUSH))
        return -EINVAL;
    if (!kr__conn_is_usable(c))
        return -EPIPE;
    rc = kr__profile_own(&r->profiles, &c->profile);
    if (rc < 0)
        return rc;
    *limit_of(&c->profile->opts, which) = ns;
    if (c->features & KR__CONNECTING || which == KR_DEADLINE_FLUSH)
        return 0;
    *since_of(c, which) = r->kernel->process.clock(r->kernel);
    kr__conn_watch(r, c);
    return 0;
}
