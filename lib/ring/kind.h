/* Kinds: what the turn has to know of whoever owns requests, or waits for a time.
 *
 * A kind is a row of functions, each of which may be NULL where it says so. The turn, the audit and
 * the dump go through the rows and name no kind. The rows stand in one table (roof/kinds.c), in the order
 * of enum kr__kind. */
#ifndef KR_RING_KIND_H
#define KR_RING_KIND_H

#include "ring/owner.h"

struct kr__deadline;
struct kr__dump;

/* The owners of a kind: `stride` bytes apart, in slots from `first` on. None for kinds that own no
 * requests. */
struct kr__owners {
    char *base;
    uint32_t first, count, stride;
};

/* The functions down to `dump` are NULL for kinds that own no requests. */
struct kr__kind_row {
    /* Its requests of this turn are about to be made, while some wait for a receive buffer. May be
     * NULL. */
    void (*waits)(struct kr_reactor *r, struct kr__owner *o);
    /* What it wants. */
    struct kr__wants (*wants)(struct kr_reactor *r, struct kr__owner *o);
    /* The last completion of a request has been handled. */
    void (*settle)(struct kr_reactor *r, struct kr__owner *o);
    /* Its CLOSE is done. NULL for a kind that is not closed. */
    void (*closed)(struct kr_reactor *r, struct kr__owner *o);
    /* Everyone of the kind has something that will move it on. Asserts. */
    void (*audit)(const struct kr_reactor *r);
    /* A line for each. */
    void (*dump)(struct kr__dump *d, const struct kr_reactor *r);

    /* A deadline of this kind, which has been taken out of its heap, is due. NULL for a kind that
     * has none. */
    void (*due)(struct kr_reactor *r, struct kr__deadline *d);
};

#endif
