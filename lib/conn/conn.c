/* A connection's automaton: the one decision of what is wanted, waiting for buffers, the end.
 *
 * Happy path: (OPENING ->) OPEN -> end -> (LINGERING or FLUSHING) -> JOINING -> CLOSING, and then
 * conn/table.c.
 * Failure modes: a peer that reads nothing while its bytes are flushed, or does not end while we
 * linger (the flush deadline makes it NOW), or acknowledges nothing of what was sent by zero-copy
 * (the same deadline, and then a RESET, upon which the kernel lets go); a close made harder, or an
 * error, while one is under way. What may come of one that does not stand yet is in extra/connect.c. */
#include "conn/hooks.h"
#include "conn/zerocopy.h"
#include "pool/files.h"

void kr__conn_dirty(struct kr_reactor *r, struct kr__conn *c) {
    kr__owner_dirty(r, &c->owner);
}

/* The verbs by which it sends, or waits for room. */
static uint32_t verbs_of_send(const struct kr__conn *c) {
    if (kr__likely(!c->send_waits && !c->send_by_wake && !c->rests))
        return kr__conn_send_verb(c);
    if (c->rests)
        return c->owner.armed & (KR__VERBS_THAT_SEND | KR__SET(send_poll));
    bool polls = c->send_waits || c->send_by_wake;
    return (polls ? KR__SET(send_poll) : 0) | (c->send_waits ? 0 : kr__conn_send_verb(c));
}

/* What brings a queue on that is not empty. */
static uint32_t verbs_of_queue(const struct kr__conn *c) {
    if (kr__likely(!c->files))
        return verbs_of_send(c);
    return (kr__sendq_some(&c->queue) ? verbs_of_send(c) : 0) |
           (kr__files_want(c->more->files) ? KR__SET(read) : 0);
}

/* What brings it on to send what it has, and then to end its side. */
static inline uint32_t verbs_of_sending(const struct kr_reactor *r, const struct kr__conn *c,
                                        bool ends) {
    uint32_t end = ends && !c->fin ? KR__SET(shutdown) : 0;
    uint32_t desired = c->queued ? verbs_of_queue(c) : end;
    return kr__likely(!c->features) ? desired : kr__hooks_send(r, c, desired);
}

/* CLOSE comes last. */
static uint32_t verb_of_end(const struct kr__conn *c) {
    if (c->reset)
        return KR__SET(reset);
    if (kr__unlikely(c->lingers))
        return KR__SET(unlinger);
    return kr__unlikely(c->purges) ? KR__SET(purge) : KR__SET(close);
}

static inline uint32_t verbs_of_receiving(const struct kr__conn *c) {
    bool may = kr__conn_reads(c) && !c->starved && !kr__conn_ends_multishot(c);
    return may ? kr__conn_recv_verbs(c) : 0;
}

/* As one without special features. */
static uint32_t verbs_of_state(const struct kr_reactor *r, const struct kr__conn *c) {
    switch ((enum kr__conn_state)c->state) {
    case KR__CONN_OPEN:
        return verbs_of_receiving(c) | verbs_of_sending(r, c, c->half);
    case KR__CONN_LINGERING:
        return verbs_of_receiving(c) | verbs_of_sending(r, c, !c->eof);
    case KR__CONN_FLUSHING:
        return verbs_of_sending(r, c, false);
    case KR__CONN_JOINING:
        return c->reset && kr__conn_zc_pending(c) && !(c->owner.armed & ~KR__SET(reset))
                   ? KR__SET(reset)
                   : 0;
    case KR__CONN_CLOSING:
        return verb_of_end(c);
    case KR__CONN_OPENING:
    case KR__CONN_DETACHING:
    case KR__CONN_FREE:
        break;
    }
    return 0;
}

struct kr__wants kr__conn_wants(const struct kr_reactor *r, const struct kr__conn *c) {
    uint32_t desired = verbs_of_state(r, c);
    if (kr__unlikely(c->features))
        desired = kr__hooks_want(r, c, desired);
    return kr__owner_lacks(&c->owner, desired);
}

void kr__conn_vector_put(struct kr_reactor *r, struct kr__conn *c) {
    if (c->vector)
        kr__block_put(&r->blocks, c->vector, c->vector->room);
    c->vector = NULL;
}

void kr__conn_files_check(struct kr_reactor *r, struct kr__conn *c) {
    struct kr__files *files = c->more->files;
    if (files->count)
        return;
    kr__assert(!files->reading);
    c->files = false;
    c->more->files = NULL;
    kr__files_free(&r->blocks, files);
}

void kr__conn_show_later(struct kr_reactor *r, struct kr__conn *c) {
    bool something = c->kept_size || kr__conn_owes_eof(c);
    if (c->state != KR__CONN_OPEN || !something || kr__conn_stopped(c))
        return;
    kr__starve_leave(r, c);
    if (!kr__link_on(&c->wait))
        kr__list_push(&r->showing, &c->wait);
}

void kr__conn_hold(struct kr_reactor *r, struct kr__conn *c) {
    c->recv_goes_on = false; /* the read deadline counts anew from the next receive */
    kr__starve_leave(r, c);
    kr__link_off(&c->wait);
}

/* With a descriptor left the CLOSE would not be the end that the peer sees. Who was lent it may have
 * set SO_LINGER. */
static void leave_fd(struct kr_reactor *r, struct kr__conn *c) {
    if (!c->more || c->more->fd < 0)
        return;
    r->kernel->sock_unlinger(r->kernel, c->more->fd);
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
    c->state = c->owner.inflight ? KR__CONN_JOINING : KR__CONN_CLOSING;
    if (kr__conn_zc_pending(c))
        kr__conn_count(r, c, KR_DEADLINE_FLUSH);
    kr__conn_dirty(r, c);
}

static void conn_flush(struct kr_reactor *r, struct kr__conn *c, enum kr__conn_state state) {
    kr__mark(flushed_before_the_end);
    kr__conn_hold(r, c);
    c->state = (uint8_t)state;
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
    kr__mark_if(flush_lost, kr__conn_flushes(c) && error);
    KR__EACH_HOOK (r, c, closes)
        row->closes(r, c, error);
    if (!c->broken && (c->state < KR__CONN_LINGERING || (kr__conn_flushes(c) && error))) {
        c->error = (int16_t)error;
        c->why = (uint8_t)why;
    }
    if (how == KR_CLOSE_RESET && c->why != KR_WHY_DETACHED && !(c->owner.armed & KR__SET(close))) {
        c->reset = true;
        kr__conn_dirty(r, c);
    }
    kr__mark_if(reset_while_closing, c->state > KR__CONN_FLUSHING && c->reset);
    enum kr__conn_state state = state_of_end(c, how);
    if (state <= c->state) /* as hard already */
        return;
    if (state == KR__CONN_JOINING)
        conn_join(r, c);
    else
        conn_flush(r, c, state);
}

static bool is_flushed(const struct kr__conn *c) {
    bool sent = !c->queued && !(c->owner.armed & KR__VERBS_THAT_SEND) && !kr__conn_zc_pending(c);
    return sent && (c->state == KR__CONN_FLUSHING || (c->state == KR__CONN_LINGERING && c->eof));
}

/* What flew has landed, and its deadline is no more. */
static void conn_joined(struct kr_reactor *r, struct kr__conn *c) {
    c->state = KR__CONN_CLOSING;
    if (c->zerocopy)
        kr__deadline_unfile(&r->timers, &c->deadline);
}

/* Apart from what follows it, which is on the path of every byte. */
__attribute__((noinline)) static void settle_end(struct kr_reactor *r, struct kr__conn *c) {
    if (is_flushed(c))
        conn_join(r, c);
    else if (c->state == KR__CONN_JOINING && c->owner.inflight == 0)
        conn_joined(r, c);
    else
        KR__EACH_HOOK (r, c, settles)
            row->settles(r, c);
}

void kr__conn_settle(struct kr_reactor *r, struct kr__conn *c) {
    if (kr__unlikely(c->state > KR__CONN_OPEN))
        settle_end(r, c);
    struct kr__wants wants = kr__conn_wants(r, c);
    if (wants.start | wants.cancel)
        kr__conn_dirty(r, c);
}

/* By the first capability that says so; for one that waits for any. */
static bool hook_moves(const struct kr_reactor *r, const struct kr__conn *c) {
    KR__EACH_HOOK (r, c, moves)
        return row->moves(r, c);
    return false;
}

/* Its receive, or the poll in front of it, is in flight, or will be after a while. In its turn at the
 * buffers it is the receive. */
static bool receives(const struct kr__conn *c) {
    if (c->may_try)
        return c->owner.armed & KR__SET(recv);
    return (c->owner.armed & KR__VERBS_THAT_RECEIVE) || (c->rests && c->recv_waits);
}

bool kr__conn_queue_moves(const struct kr_reactor *r, const struct kr__conn *c) {
    if (c->rests)
        return true;
    uint32_t verbs = c->queued ? verbs_of_sending(r, c, false) : 0;
    return verbs && !(verbs & ~c->owner.armed);
}

bool kr__conn_moves(const struct kr_reactor *r, const struct kr__conn *c) {
    uint32_t armed = c->owner.armed;
    if (c->features & KR__CONNECTING)
        return hook_moves(r, c);
    switch ((enum kr__conn_state)c->state) {
    case KR__CONN_FREE:
        return c->owner.inflight == 0;
    case KR__CONN_OPENING:
        return false;
    case KR__CONN_OPEN:
        if ((c->queued || c->blocked) && !kr__conn_queue_moves(r, c))
            return false;
        if (verbs_of_sending(r, c, c->half) & ~armed)
            return false;
        if (c->starved)
            return !kr__bufs_some(&r->bufs);
        if (c->broken && c->eof && !kr__conn_has_unshown(r, c))
            return false;
        if (c->peer_full)
            return hook_moves(r, c);
        return c->paused || c->eof || (c->blocked && !c->forwarding) || receives(c);
    case KR__CONN_LINGERING:
        if (!(c->queued ? kr__conn_queue_moves(r, c)
                        : c->fin || c->eof || (armed & KR__SET(shutdown))))
            return false;
        if (!c->eof && !(c->starved ? !kr__bufs_some(&r->bufs) : receives(c)))
            return false;
        return kr__heap_filed(&c->deadline.node);
    case KR__CONN_FLUSHING:
        return (c->queued ? kr__conn_queue_moves(r, c) : kr__conn_zc_pending(c)) &&
               kr__heap_filed(&c->deadline.node);
    case KR__CONN_DETACHING:
        return hook_moves(r, c);
    case KR__CONN_JOINING:
    case KR__CONN_CLOSING:
        return c->owner.inflight > 0;
    }
    return false;
}
