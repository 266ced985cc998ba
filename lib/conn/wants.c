/* What a connection wants of the kernel, and whether it has what will bring it on.
 *
 * Both are read off its state alone. What a connection wants is what it is in the way of, less the
 * reasons why it does not receive (enum kr__reason); the audit asks whether each that receives
 * nothing has such a reason, or a request in flight. */
#include "conn/hooks.h"
#include "conn/zerocopy.h"
#include "pool/files.h"

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
    bool may = kr__conn_may_receive(c) && !c->starved && !kr__conn_ends_multishot(c);
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

/* Apart from the path of most bytes, which is to need no registers for it. */
__attribute__((noinline)) static uint32_t verbs_of_others(const struct kr_reactor *r,
                                                          const struct kr__conn *c) {
    uint32_t desired = verbs_of_state(r, c);
    return kr__unlikely(c->features) ? kr__hooks_want(r, c, desired) : desired;
}

struct kr__wants kr__conn_wants(const struct kr_reactor *r, const struct kr__conn *c) {
    uint32_t desired = KR__SET(recv) | (c->queued ? KR__SET(send) : 0);
    if (kr__unlikely(!kr__conn_is_plain(c)))
        desired = verbs_of_others(r, c);
    return kr__owner_lacks(&c->owner, desired);
}

/* On the path of every byte. */
void kr__conn_settle(struct kr_reactor *r, struct kr__conn *c) {
    if (kr__unlikely(c->state > KR__CONN_OPEN))
        kr__conn_settle_end(r, c);
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
        return (kr__conn_reasons(c) & (KR__STOPS | KR__ENDED)) || receives(c);
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
