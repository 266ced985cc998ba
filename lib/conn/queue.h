/* The send queue of a connection: the one way in, and what follows when it grows and shrinks.
 *
 * Bytes, borrowed bytes, descriptors, files, reserved memory and forwarded bytes all enter through
 * kr__queue_put, so that the bound, the open reservation, the write deadline, the high mark and the
 * send of this turn are seen to in one place. */
#ifndef KR_CONN_QUEUE_H
#define KR_CONN_QUEUE_H

#include "conn/reactor.h"

/* What is checked before something enters the queue. */
enum kr__admission {
    /* All or nothing: -EPIPE, -EMSGSIZE when even an empty queue could not take it, -ENOBUFS. */
    KR__ADMIT_WHOLE,
    /* The same, but an empty queue takes it whatever it counts for: a file, which is read part by
     * part. */
    KR__ADMIT_PARTS,
    /* The reservation's bytes, which were admitted with it: -EPIPE. */
    KR__ADMIT_RESERVED,
    /* What the peer of a pair has sent already, and back-pressure bounds: -EPIPE when this side is
     * to end. */
    KR__ADMIT_FORWARDED,
};

/* Puts something behind all that is queued: 0, or an error with the queue as it was. */
typedef int kr__queue_fn(struct kr_reactor *r, struct kr__conn *c, const void *what);

/* -ENOBUFS when the queue cannot take `size` more bytes. That counts as a rise above send_high, so
 * that a caller who then consumes nothing is shown the same bytes again when there is room. */
int kr__queue_refuses(struct kr_reactor *r, struct kr__conn *c, size_t size);

/* So many bytes were added: the write deadline counts, a queue above send_high stops reading, and a
 * send is made in this turn. */
void kr__queue_grew(struct kr_reactor *r, struct kr__conn *c, size_t size);

/* What feeds the queue is not read until the queue is down to send_low: its own peer, or the other
 * end of a pair. */
void kr__queue_block(struct kr_reactor *r, struct kr__conn *c);

/* The queue is down to send_low after it was blocked. Runs callbacks. */
void kr__queue_unblock(struct kr_reactor *r, struct kr__conn *c);

/* Drops what a broken connection was to send, unless a send or a read of a file is in flight: its
 * completion does that then. */
void kr__queue_drop(struct kr_reactor *r, struct kr__conn *c);

/* Whether `size` more bytes may enter. A reservation of this connection ends, unless the bytes are
 * its own. */
static inline int kr__queue_admit(struct kr_reactor *r, struct kr__conn *c, size_t size,
                                  enum kr__admission how) {
    if (how == KR__ADMIT_FORWARDED ? c->half : !kr__conn_may_queue(c))
        return -EPIPE;
    if (how == KR__ADMIT_RESERVED)
        return 0;
    if (how == KR__ADMIT_WHOLE || (how == KR__ADMIT_PARTS && c->queued)) {
        size_t cap = kr__conn_opts(c)->send_cap;
        if (kr__unlikely(how == KR__ADMIT_WHOLE && size > cap))
            return -EMSGSIZE;
        if (kr__unlikely(size > cap || c->queued > cap - size))
            return kr__queue_refuses(r, c, size);
    }
    if (kr__unlikely(r->reservation.conn == c))
        kr__reservation_drop(r);
    return 0;
}

/* The one way into the queue. `size` is what it counts for; with 0 the queue does not grow. `put` and
 * `how` are constants at each caller, so that all of this is compiled into it. */
static inline __attribute__((always_inline)) int kr__queue_put(struct kr_reactor *r,
                                                               struct kr__conn *c, size_t size,
                                                               enum kr__admission how,
                                                               kr__queue_fn *put,
                                                               const void *what) {
    int rc = kr__queue_admit(r, c, size, how);
    if (rc == 0)
        rc = put(r, c, what);
    if (rc == 0 && size)
        kr__queue_grew(r, c, size);
    return rc;
}

/* Received bytes of `from` enter in the buffer that they lie in, if that is lent and they are not few;
 * all others are copied. Returns 0, or -ENOMEM. */
static inline int kr__queue_hold_or_copy(struct kr_reactor *r, struct kr__conn *c,
                                         const struct kr__conn *from, const struct iovec *iov,
                                         int count, size_t total) {
    if (count == 1 && kr__worth_holding(total) && kr__lent_has(r, from, iov->iov_base, total) &&
        kr__may_hold(r, c)) {
        int rc = kr__sendq_lend(&r->sends, &c->queue, iov->iov_base, total, r->lent.buf);
        c->held = (uint16_t)(c->held + (rc == 0));
        return rc;
    }
    int rc = kr__sendq_copy(&r->sends, &c->queue, iov, count, total);
    kr__count(&r->stats.bytes_copied, rc == 0 ? total : 0);
    return rc;
}

/* So many bytes less are queued. Runs callbacks. */
static inline void kr__queue_shrank(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    c->queued -= (uint32_t)size;
    if (c->blocked && c->queued <= kr__conn_opts(c)->send_low && kr__conn_is_open(c))
        kr__queue_unblock(r, c);
}

#endif
