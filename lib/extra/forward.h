/* Forwarding: pairs of connections, and the one or two ways between them. */
#ifndef KR_EXTRA_FORWARD_H
#define KR_EXTRA_FORWARD_H

#include "conn/conn.h"

#include <kreactor/forward.h>

/* From one end to the other. */
struct kr__way {
    bool used;     /* it is part of the pair */
    bool ended;    /* its source has ended, or its limit is reached */
    uint64_t left; /* bytes until the limit */
    uint64_t moved;
};

struct kr__forward {
    struct kr__link over; /* on the reactor's list of those that have ended and were not told yet */
    struct kr__conn *ends[2];
    struct kr__way ways[2]; /* [0] from ends[0] to ends[1], [1] back */
    bool keep_open;
    bool broken;    /* it ended by an error, not because this program said so */
    bool one_sided; /* one end could take nothing more, and was heard to its end */
    int error;      /* how it ended */
    kr_forward_fn *done;
    void *user;
};

/* Tells of those that have ended, and closes their ends. A phase of the turn. */
void kr__forwards_settle(struct kr_reactor *r);

/* Whether the pair of an end waits to be told of its own end. */
static inline bool kr__forward_is_over(const struct kr__conn *c) {
    return c->features & KR__PAIRED && kr__link_on(&c->more->forward->over);
}

#endif
