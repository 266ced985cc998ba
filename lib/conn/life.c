/* A connection's life: the automaton of its states, and its end.
 *
 * Happy path: (OPENING ->) OPEN -> end -> (LINGERING or FLUSHING) -> JOINING -> CLOSING, and then
 * conn/table.c.
 * Failure modes: a peer that reads nothing while its bytes are flushed, or does not end while this
 * side lingers (the flush deadline makes the close KR_CLOSE_NOW), or acknowledges nothing of what
 * was sent by zero-copy (the same deadline, and then a RESET, upon which the kernel lets go); a
 * close made harder, or an error, while one is under way. What may come of a connection that is not
 * established yet is in extra/connect.c. */
#include "conn/hooks.h"
#include "conn/zerocopy.h"

/* 0: the event must not happen in this state. */
#define TO(state) (KR__CONN_##state + 1)
static const uint8_t automaton[KR__CONN_STATES][KR__CONN_EVENTS] = {
    [KR__CONN_FREE] = {[KR__MADE] = TO(OPENING), [KR__ACCEPTED] = TO(OPEN)},
    [KR__CONN_OPENING] = {[KR__ESTABLISHED] = TO(OPEN),
                          [KR__LINGERS] = TO(LINGERING),
                          [KR__FLUSHES] = TO(FLUSHING),
                          [KR__JOINS] = TO(JOINING),
                          [KR__JOINED] = TO(CLOSING),
                          [KR__LOST] = TO(CLOSING),
                          [KR__GONE] = TO(FREE)},
    [KR__CONN_OPEN] = {[KR__DETACHES] = TO(DETACHING),
                       [KR__LINGERS] = TO(LINGERING),
                       [KR__FLUSHES] = TO(FLUSHING),
                       [KR__JOINS] = TO(JOINING),
                       [KR__JOINED] = TO(CLOSING),
                       [KR__LOST] = TO(CLOSING)},
    [KR__CONN_DETACHING] = {[KR__KEPT] = TO(OPEN),
                            [KR__LINGERS] = TO(LINGERING),
                            [KR__FLUSHES] = TO(FLUSHING),
                            [KR__JOINS] = TO(JOINING),
                            [KR__JOINED] = TO(CLOSING),
                            [KR__LOST] = TO(CLOSING)},
    [KR__CONN_LINGERING] = {[KR__FLUSHES] = TO(FLUSHING),
                            [KR__JOINS] = TO(JOINING),
                            [KR__JOINED] = TO(CLOSING),
                            [KR__LOST] = TO(CLOSING)},
    [KR__CONN_FLUSHING] =
        {[KR__JOINS] = TO(JOINING), [KR__JOINED] = TO(CLOSING), [KR__LOST] = TO(CLOSING)},
    [KR__CONN_JOINING] = {[KR__JOINED] = TO(CLOSING), [KR__LOST] = TO(CLOSING)},
    [KR__CONN_CLOSING] = {[KR__LOST] = TO(CLOSING), [KR__GONE] = TO(FREE)},
};

void kr__conn_goes(struct kr__conn *c, enum kr__conn_event event) {
    uint8_t to = automaton[c->state][event];
    kr__assert(to);
    if (to)
        c->state = (uint8_t)(to - 1) & 0xfu;
}

/* With a descriptor left the CLOSE would not be the end that the peer sees. Who was lent it may have
 * set SO_LINGER. */
static void leave_fd(struct kr_reactor *r, struct kr__conn *c) {
    if (!c->more || c->more->fd < 0)
        return;
    r->kernel->socket.unlinger(r->kernel, c->more->fd);
    kr__conn_fd_drop(r, c);
}

/* No more than what is in flight keeps it now. */
static void conn_join(struct kr_reactor *r, struct kr__conn *c) {
    kr__conn_hold(r, c);
    if (c->promised)
        kr__deadline_unfile(&r->timers, &c->deadline);
    KR__EACH_HOOK (r, c, joins)
        row->joins(r, c);
    leave_fd(r, c);
    c->reset = c->reset || c->resets_after;
    kr__conn_goes(c, c->owner.inflight ? KR__JOINS : KR__JOINED);
    if (kr__conn_zc_pending(c))
        kr__conn_count(r, c, KR_DEADLINE_FLUSH);
    kr__conn_dirty(r, c);
}

static void conn_flush(struct kr_reactor *r, struct kr__conn *c, enum kr__conn_event event) {
    kr__mark(flushed_before_the_end);
    kr__conn_hold(r, c);
    kr__conn_goes(c, event);
    bool bounded = false;
    KR__EACH_HOOK (r, c, flushes)
        bounded |= row->flushes(r, c);
    if (!bounded)
        kr__conn_count(r, c, KR_DEADLINE_FLUSH);
    kr__conn_dirty(r, c);
}

/* The state in which what this manner still waits for is waited for. After its end the peer sends
 * nothing that would have to be dropped. */
static enum kr__conn_state state_of_end(const struct kr__conn *c, enum kr_close how) {
    bool nothing_to_say = c->features & KR__CONNECTING && !c->queued;
    if (how == KR_CLOSE_LINGER && !c->eof && !nothing_to_say)
        return KR__CONN_LINGERING;
    bool unsent = c->queued || kr__conn_zc_pending(c);
    return how <= KR_CLOSE_FLUSH && unsent ? KR__CONN_FLUSHING : KR__CONN_JOINING;
}

void kr__conn_end(struct kr_reactor *r, struct kr__conn *c, enum kr_close how, int error,
                  enum kr_why why) {
    kr__mark_if(flush_lost, kr__conn_is_flushing(c) && error);
    KR__EACH_HOOK (r, c, closes)
        row->closes(r, c, error);
    if (!c->broken && (c->state < KR__CONN_LINGERING || (kr__conn_is_flushing(c) && error))) {
        c->error = (int16_t)error;
        c->why = (uint8_t)why;
    }
    if (how == KR_CLOSE_RESET && c->why != KR_WHY_DETACHED && !(c->owner.armed & KR__SET(close))) {
        c->reset = true;
        kr__conn_dirty(r, c);
    }
    kr__mark_if(reset_while_closing, kr__conn_is_ending(c) && c->reset);
    enum kr__conn_state state = state_of_end(c, how);
    if (state <= c->state) /* as hard already */
        return;
    if (state == KR__CONN_JOINING)
        conn_join(r, c);
    else
        conn_flush(r, c, state == KR__CONN_LINGERING ? KR__LINGERS : KR__FLUSHES);
}

static bool is_flushed(const struct kr__conn *c) {
    bool sent = !c->queued && !(c->owner.armed & KR__VERBS_THAT_SEND) && !kr__conn_zc_pending(c);
    return sent && (c->state == KR__CONN_FLUSHING || (kr__conn_is_lingering(c) && c->eof));
}

/* What flew has landed, and its deadline is no more. */
static void conn_joined(struct kr_reactor *r, struct kr__conn *c) {
    kr__conn_goes(c, KR__JOINED);
    if (c->zerocopy)
        kr__deadline_unfile(&r->timers, &c->deadline);
}

void kr__conn_settle_end(struct kr_reactor *r, struct kr__conn *c) {
    if (is_flushed(c))
        conn_join(r, c);
    else if (c->state == KR__CONN_JOINING && c->owner.inflight == 0)
        conn_joined(r, c);
    else
        KR__EACH_HOOK (r, c, settles)
            row->settles(r, c);
}
