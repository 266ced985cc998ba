/* Listeners: the end that comes by itself.
 *
 * Happy path of a drain: no multishot is armed any more, which would go on for ever. Instead it is
 * asked, by a poll that is cancelled in the same submission, whether a client waits at this moment;
 * as long as one does, those who wait are accepted by requests of one shot, and then it is asked
 * again. When none waits, or when as many have come as can have waited at the call, the listener
 * ends.
 * Failure modes: clients keep coming (the count ends it: the queue is served in order, so that
 * whoever waited at the call has been accepted), there is no room for them (the deadline ends it),
 * or the socket will never be accepted from again (the listener ends at once, drained or not).
 *
 * Relies on: requests of one submission are issued in order; a poll looks at its file when it is
 * issued, and completes then if that is ready (io_poll_add, io_uring/poll.c), so that one which is
 * cancelled right behind it has seen nothing. One that was made earlier tells less: it may be
 * cancelled with its wake-up under way. */
#include "conn/reactor.h"
#include "listen/listener.h"

static void listener_file(struct kr_reactor *r, struct kr__listener *l) {
    int64_t at = l->backing_off && l->retry_at < l->drain_at ? l->retry_at : l->drain_at;
    if (at == KR__NEVER)
        kr__deadline_unfile(&r->timers, &l->deadline);
    else
        kr__deadline_file(&r->timers, &l->deadline, at);
}

void kr__listener_back_off(struct kr_reactor *r, struct kr__listener *l, int64_t for_ns) {
    l->backing_off = true;
    l->retry_at = kr__time_add(r->now, for_ns);
    listener_file(r, l);
}

void kr__listener_ends(struct kr_reactor *r, struct kr__listener *l, int error) {
    l->ends_itself = true;
    l->end_error = error;
    kr__listener_end(r, l);
}

void kr__listener_due(struct kr_reactor *r, struct kr__deadline *d) {
    struct kr__listener *l = kr__container_of(d, struct kr__listener, deadline);
    if (l->drain_at <= r->now) {
        kr__mark(listener_drain_overdue);
        kr__listener_ends(r, l, -ETIMEDOUT);
        return;
    }
    l->backing_off = l->backing_off && l->retry_at > r->now;
    listener_file(r, l);
    kr__owner_dirty(r, &l->owner);
}

void kr__listener_looked(struct kr__listener *l, int res) {
    if (res == -ECANCELED && l->looking)
        l->drained = true;
    l->looking = false;
}

bool kr__listener_is_drained(const struct kr__listener *l) {
    return l->draining && l->drained && !l->ones && !(l->owner.armed & KR__SET(accept));
}

void kr__listener_drain_one(struct kr__listener *l) {
    if (l->draining && --l->drain_left == 0)
        l->drained = true;
}

int kr_listener_drain(struct kr_reactor *r, kr_listener listener, int64_t within_ns) {
    struct kr__listener *l;
    int rc = kr__listener_door(r, listener, &l);
    if (rc < 0)
        return rc;
    if (within_ns < 0)
        return -EINVAL;
    if (l->draining)
        return -EALREADY;
    l->draining = true;
    l->paused = false;
    l->drain_left = l->opts.backlog + 1; /* man listen: the kernel lets one more wait */
    l->drain_at = kr__time_add(r->kernel->process.clock(r->kernel), within_ns);
    r->listeners->draining++;
    listener_file(r, l);
    kr__owner_dirty(r, &l->owner);
    return 0;
}
