/* Descriptors that come with the bytes of a Unix socket. */
#ifndef KR_CORE_FDS_H
#define KR_CORE_FDS_H

#include "core/conn.h"

/* Where a receive has them put, and where they stay until their user has them. A block. */
struct kr__fds {
    size_t room;      /* the block's size */
    bool asked;       /* the receive in flight has them put here */
    /* some have come, or were lost, and this is to be told when reading goes on */
    bool waiting;
    bool truncated;   /* not all have come */
    unsigned max;     /* with one receive, at most */
    unsigned count;   /* of those that have come and are nobody's else yet */
    int *fds;         /* within `control` */
    struct msghdr msg;
    _Alignas(struct cmsghdr) char control[];
};

/* Of a connection that begins: what its receives will need, if it is to take descriptors.
 * -ENOMEM. */
int kr__fds_ready(struct kr_reactor *r, struct kr__conn *c);

/* True while some wait for reading to go on. */
static inline bool kr__fds_wait(const struct kr__conn *c) {
    return kr__unlikely(c->takes_fds) && c->more->fds->waiting;
}

/* The message of a receive. */
struct msghdr *kr__fds_ask(struct kr__conn *c);

/* The receive has completed with that result; descriptors that came are told of, unless reading is
 * stopped. May run a callback. */
void kr__fds_came(struct kr_reactor *r, struct kr__conn *c, int res);

/* Those that came while reading was stopped are told of. May run a callback. */
void kr__fds_show(struct kr_reactor *r, struct kr__conn *c);

/* Those that wait are whoever's `what` is shown to. */
void kr__fds_hand_over(struct kr__conn *c, struct kr_released *what);

/* Closes those that wait: the connection is being closed. */
void kr__fds_close(struct kr_reactor *r, struct kr__conn *c);

/* Ends it, with all that its user never had. */
void kr__fds_drop(struct kr_reactor *r, struct kr__conn *c);

#endif
