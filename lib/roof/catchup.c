/* Catching up.
 *
 * A deadline is about what a peer, or the kernel, did not do. When the loop was held up (a long
 * callback, SIGSTOP, a debugger, the cgroup freezer), what they did meanwhile waits to be read, and
 * the next turn reads a part of it only. So a deadline is judged when all has been read that had
 * come by its time.
 *
 * Happy path: nothing waits when the turn's completions have been handled, so a deadline that is due
 * is judged in this very turn.
 * Failure mode: something waits, on a busy reactor always. Then some passes are made. A pass is over
 * when all has been handled that waited as it began: requests to be made, the kernel's work, the
 * completions of both. One pass reads one step of what a peer has done, and it may take several
 * steps to get at its bytes: a receive that met nothing, the poll that follows, the receive after
 * that. PASSES is more than the longest chain has steps. Each pass is a bounded number of turns,
 * and turns go on as ever meanwhile: timers fire, posts run. A quiet peer is late by the passes.
 *
 * A byte counts from the time of the turn that handles it. When a callback in front of it held up
 * that turn, its peer has waited for the reactor meanwhile. So the longest turn of late is
 * remembered, and what was handled in it counts from its end, when it comes to be judged.
 *
 * Relies on: IORING_SQ_TASKRUN is set as long as work waits (IORING_SETUP_TASKRUN_FLAG, man
 * io_uring_setup). Work is run in the order in which it came: with COOP_TASKRUN all of it in any
 * enter, with DEFER_TASKRUN at least 20 pieces in each (IO_LOCAL_TW_DEFAULT_MAX,
 * io_uring/io_uring.c, kernel >= 6.13; before that all). Completions are posted in the order in
 * which work is run, those beyond the CQ's end included. A request has at most two of them still to
 * come when the CQ overflows: a multishot ends then (io_uring/io_uring.c). */
#include "time/catchup.h"

#include "conn/reactor.h"

/* The longest chain: a send that was refused, its poll, the send that makes room in a pair's queue,
 * the other end's receive that meets nothing, its poll, its receive. */
#define PASSES 6u
#define DEFER_BATCH 20u

void kr__catchup_init(struct kr__catchup *catchup) {
    *catchup = (struct kr__catchup){.asked = KR__NEVER};
}

/* Nothing that is wanted is still to be asked of the kernel, and it has no work to be run. */
static bool all_is_asked(const struct kr_reactor *r) {
    return kr__list_empty(&r->dirty) && kr__list_empty(&r->again) &&
           !kr__ring_unsubmitted(&r->ring) && !kr__ring_pending(&r->ring);
}

/* In so many all that waits is run, and each of the dirty has had its place in the SQ. */
static unsigned turns_for_all(const struct kr_reactor *r) {
    bool defers = r->config.taskrun == KR_TASKRUN_DEFER;
    unsigned work = defers ? (unsigned)(r->stats.inflight / DEFER_BATCH) : 0;
    return 1 + work + 2 * r->conns.open / r->ring.sq_entries;
}

static unsigned mark_of_all(const struct kr_reactor *r) {
    unsigned posted = kr__ring_posted(&r->ring);
    return kr__ring_overflown(&r->ring) ? posted + 2 * (unsigned)r->stats.inflight : posted;
}

static void pass_begin(struct kr_reactor *r, struct kr__catchup *up) {
    up->turns = turns_for_all(r);
    up->marked = false;
}

/* One that is forgotten too early makes a deadline early by less than its own length. */
void kr__catchup_held_up(struct kr_reactor *r, int64_t from, int64_t to) {
    struct kr__catchup *up = &r->catchup;
    int64_t length = up->held_to - up->held_from;
    bool first_turn = from == 0;
    if (first_turn || (to - from < length && to - up->held_to < length))
        return;
    kr__mark(held_up);
    up->held_from = from;
    up->held_to = to;
}

void kr__catchup_due(struct kr_reactor *r) {
    struct kr__catchup *up = &r->catchup;
    if (kr__likely(all_is_asked(r) && !kr__ring_ready(&r->ring))) {
        up->until = r->now;
        up->asked = KR__NEVER;
        return;
    }
    kr__mark(catches_up);
    if (kr__catchup_passes(up))
        return;
    up->asked = r->now;
    up->passes = PASSES;
    pass_begin(r, up);
}

/* True once the place is known behind which nothing lies that waited when the pass began. */
static bool is_marked(struct kr_reactor *r, struct kr__catchup *up) {
    if (up->marked)
        return true;
    if (!all_is_asked(r) && --up->turns)
        return false;
    up->mark = mark_of_all(r);
    return up->marked = true;
}

void kr__catchup_pass(struct kr_reactor *r) {
    struct kr__catchup *up = &r->catchup;
    while (is_marked(r, up) && kr__ring_passed(&r->ring, up->mark)) {
        if (--up->passes == 0) {
            kr__mark(caught_up_under_load);
            up->until = up->asked;
            up->asked = KR__NEVER;
            return;
        }
        pass_begin(r, up);
    }
}
