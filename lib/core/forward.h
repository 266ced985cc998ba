/* Forwarding: pairs of connections, and the one or two ways between them. */
#ifndef KR_CORE_FORWARD_H
#define KR_CORE_FORWARD_H

#include "core/conn.h"

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
    bool broken; /* it ended by an error, not because this program said so */
    bool one_sided; /* one end could take nothing more, and was heard to its end */
    int error;   /* how it ended */
    kr_forward_fn *done;
    void *user;
};

/* Queues bytes of a forwarding connection to its other end; returns how many of them, as on_data
 * would. */
size_t kr__forward_data(struct kr_reactor *r, struct kr__conn *c, const char *data, size_t size);

/* The stream of a forwarding connection has ended. */
void kr__forward_eof(struct kr_reactor *r, struct kr__conn *c);

/* The queue of an end has risen above its high mark; has come down to its low mark; is perhaps
 * empty. */
void kr__forward_dam(struct kr_reactor *r, struct kr__conn *c);
void kr__forward_undam(struct kr_reactor *r, struct kr__conn *c);
void kr__forward_sent(struct kr_reactor *r, struct kr__conn *c);

/* Whether what an end receives is the pair's. */
bool kr__forward_from(const struct kr__conn *c);

/* An end takes nothing more: what comes from it is forwarded to its end. */
void kr__forward_deafened(struct kr_reactor *r, struct kr__conn *c, int error);

/* An end is being closed. */
void kr__forward_cut(struct kr_reactor *r, struct kr__conn *c, int error);

/* Forgets the pair of an end that is left to release with the table (kr__conns_free): nobody is
 * told. */
void kr__forward_drop(struct kr_reactor *r, struct kr__conn *c);

/* Tells of those that have ended, and closes their ends. A phase of the turn. */
void kr__forwards_settle(struct kr_reactor *r);

/* Whether the pair of an end waits to be told of its own end. */
static inline bool kr__forward_is_over(const struct kr__conn *c) {
    return c->paired && kr__link_on(&c->more->forward->over);
}

/* When the queue that dams an end last got rid of bytes. */
int64_t kr__forward_sent_at(const struct kr__conn *c);

/* For the audit: will something let a dammed end read on? */
bool kr__forward_moves(const struct kr__conn *c);

#endif
