/* Zero-copy sending of one connection: what may go so, and what is still under way. */
#ifndef KR_CONN_ZEROCOPY_H
#define KR_CONN_ZEROCOPY_H

#include "conn/conn.h"

/* Loans of so many bytes are sent by zero-copy now; SIZE_MAX: none. */
static inline size_t kr__zerocopy_min(const struct kr__conn *c) {
    if (kr__likely(!c->zerocopy))
        return SIZE_MAX;
    const struct kr__zerocopy *z = &c->more->zerocopy;
    bool may = !z->off && !z->refused && kr__zc_sends_room(&z->zc_sends, &c->queue);
    return may ? kr__conn_opts(c)->zerocopy_min : SIZE_MAX;
}

/* The verb of the send that is in flight, or is to be made. The queue is not empty. */
static inline uint32_t kr__conn_send_verb(const struct kr__conn *c) {
    if (kr__likely(!c->zerocopy))
        return KR__SET(send);
    uint32_t armed = c->owner.armed & KR__VERBS_THAT_SEND;
    if (armed)
        return armed;
    return kr__send_is_large(c->queue.head, kr__zerocopy_min(c)) ? KR__SET(send_zc) : KR__SET(send);
}

/* A loan of so many bytes is being queued; without memory, or to a pipe, it will be copied. To lock
 * memory is tried anew for each queue. */
static inline void kr__zerocopy_offer(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    size_t min = kr__conn_opts(c)->zerocopy_min;
    if (kr__likely(!min || size < min) || c->write_only || !kr__conn_more(r, c))
        return;
    c->zerocopy = true;
    if (!c->queued)
        c->more->zerocopy.refused = false;
}

/* True while the kernel owes notifications. */
static inline bool kr__conn_zc_pending(const struct kr__conn *c) {
    return c->zerocopy && c->more->zerocopy.zc_sends.count;
}

/* True of one that is on its way out and waits for its peer: a flush deadline bounds that. */
static inline bool kr__conn_waits_for_peer(const struct kr__conn *c) {
    bool leaves = c->state == KR__CONN_JOINING || kr__conn_is_detaching(c);
    return kr__conn_is_flushing(c) || (leaves && kr__conn_zc_pending(c));
}

#endif
