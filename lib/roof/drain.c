/* Draining.
 *
 * Happy path: the listeners are closed in the call, but for those that are being drained, and then
 * who comes by them is told when they have ended; the turns that follow go through the table, some
 * connections a turn, and tell each or close it; at the end of the turn in which the last one is
 * gone the drain is over, and told of. Those in the background go last.
 * Failure modes: connections that stay (cut off when the time is over); the reactor is freed
 * meanwhile (its own end takes the connections). */
#include "roof/drain.h"

#include "base/sized.h"
#include "conn/hooks.h"
#include "conn/tell.h"
#include "conn/zerocopy.h"
#include "listen/listener.h"

void kr_drain_opts_init_sized(struct kr_drain_opts *opts, size_t size) {
    const struct kr_drain_opts defaults = {.size = sizeof defaults};
    kr__sized_give(opts, size, &defaults, sizeof defaults);
}

/* Whether it is told later, as one that leaves, or an end of a pair that goes on to its own end. */
static bool is_told_later(const struct kr_reactor *r, const struct kr__conn *c) {
    bool goes_on = r->drain->opts.pairs && c->features & KR__PAIRED && !c->ops->on_shutdown;
    kr__mark_if(drain_leaves_a_pair, goes_on);
    return kr__conn_is_detaching(c) || goes_on;
}

static bool in_background(const struct kr__conn *c) {
    return c->profile && kr__conn_opts(c)->background;
}

static void tell(struct kr_reactor *r, struct kr__conn *c) {
    c->drain_told = true;
    if (c->ops->on_shutdown)
        kr__tell_shutdown(r, c);
    else
        kr__conn_end(r, c, KR_CLOSE_LINGER, 0, KR_WHY_LOCAL);
}

/* As many as a turn may handle completions: the others are to be served meanwhile. */
static unsigned walk(struct kr_reactor *r) {
    struct kr__drain *d = r->drain;
    unsigned told = 0;
    for (unsigned left = r->config.turn_cqes; left > 0 && !d->walked && !kr__in_child(r); left--) {
        d->at = kr__conns_next(&r->conns, d->at);
        d->walked = !d->at;
        if (d->walked || d->at->drain_told || in_background(d->at))
            continue;
        d->at->drain_missed = is_told_later(r, d->at);
        if (d->at->drain_missed || !kr__conn_is_usable(d->at))
            continue;
        tell(r, d->at);
        told++;
    }
    kr__mark_if(drain_walks_on, !d->walked);
    return told;
}

/* One that was passed over at its turn is back, or its pair is over: it is told. */
static void drain_rejoins(struct kr_reactor *r, struct kr__conn *c) {
    if (c->features & KR__PAIRED)
        return;
    bool drain_missed = c->drain_missed && kr__conn_is_usable(c);
    c->drain_missed = false;
    if (drain_missed)
        tell(r, c);
}

const struct kr__hooks kr__hooks_drain = {.rejoins = drain_rejoins};

static void finish(struct kr_reactor *r) {
    struct kr__drain over = *r->drain;
    kr__deadline_end(&r->timers, &r->drain->deadline);
    *r->drain = (struct kr__drain){0};
    r->draining = r->drain_connects = false;
    if (over.fn)
        over.fn(r, over.user, over.cut_off);
}

/* Who came from a backlog meanwhile is told when that is empty. */
static void walk_again(struct kr__drain *d) {
    kr__mark(drain_walks_again);
    d->walked = d->expects = false;
    d->at = NULL;
}

static void end_background(struct kr_reactor *r) {
    for (struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));) {
        if (kr__conn_is_served(c))
            kr__conn_end(r, c, KR_CLOSE_NOW, 0, KR_WHY_LOCAL);
    }
}

/* Should the loop have been held up since the call, nobody could do anything before. */
static void bound(struct kr_reactor *r, struct kr__drain *d) {
    int64_t due = kr__time_add(r->kernel->process.clock(r->kernel), d->grace_ns);
    if (due != KR__NEVER)
        kr__deadline_file(&r->timers, &d->deadline, due);
    d->bounded = true;
}

unsigned kr__drain_step(struct kr_reactor *r) {
    struct kr__drain *d = r->drain;
    unsigned told = walk(r);
    if (!d->walked)
        return told;
    if (!d->bounded)
        bound(r, d);
    if (r->listeners->draining) {
        d->expects = true;
    } else if (d->expects) {
        walk_again(d);
    } else if (r->conns.open == 0) {
        finish(r);
        told++;
    } else if (r->conns.open == r->conns.background) {
        end_background(r);
    }
    return told;
}

static void cut_off(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark(drain_cuts_off);
    kr__conn_give_up(r, c);
    r->drain->cut_off++;
}

/* Everyone is told first, if there was time for a word or not. */
void kr__drain_due(struct kr_reactor *r) {
    for (unsigned i = 0; i < r->listeners->max; i++) {
        struct kr__listener *l = &r->listeners->table[i];
        if (l->state == KR__LISTENER_OPEN)
            kr__listener_ends(r, l, -ETIMEDOUT);
    }
    if (r->drain->expects)
        walk_again(r->drain);
    while (!r->drain->walked)
        walk(r);
    for (struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));) {
        if ((kr__conn_is_served(c) || kr__conn_waits_for_peer(c)) && !in_background(c))
            cut_off(r, c);
    }
}

static void end_listeners(struct kr_reactor *r) {
    for (unsigned i = 0; i < r->listeners->max; i++) {
        if (r->listeners->table[i].state == KR__LISTENER_OPEN && !r->listeners->table[i].draining)
            kr__listener_end(r, &r->listeners->table[i]);
    }
}

int kr_drain(struct kr_reactor *r, int64_t grace_ns, kr_drained_fn *fn, void *user) {
    return kr_drain_with(r, grace_ns, NULL, fn, user);
}

int kr_drain_with(struct kr_reactor *r, int64_t grace_ns, const struct kr_drain_opts *opts,
                  kr_drained_fn *fn, void *user) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    struct kr_drain_opts taken;
    kr_drain_opts_init(&taken);
    if (grace_ns < 0 || (opts && !kr__sized_take(&taken, sizeof taken, opts)))
        return -EINVAL;
    if (r->freeing)
        return -ESHUTDOWN;
    if (r->draining)
        return -EALREADY;
    rc = kr__deadline_promise(&r->timers, &r->drain->deadline, KR__KIND_SELF);
    if (rc < 0)
        return rc;
    r->draining = true;
    r->drain_connects = taken.connects;
    r->drain->opts = taken;
    r->drain->fn = fn;
    r->drain->user = user;
    r->drain->grace_ns = grace_ns;
    end_listeners(r);
    return 0;
}
