/* Socket options that are to be set on living connections. */
#ifndef KR_EXTRA_SOCKOPT_H
#define KR_EXTRA_SOCKOPT_H

#include "conn/conn.h"
#include "kernel/sockopt.h"

#include <kreactor/sockopt.h>

/* One call's, a block: its steps are requests, one after the other. */
struct kr__sockopt {
    struct kr__sockopt *next;
    struct kr__sock_steps steps;
    /* the step that is next, or in flight; all are done: what is left is to tell of it */
    unsigned at;
    kr_sockopt_fn *done; /* NULL: nobody is told */
    void *user;
};

/* The first that waits; there is one while KR__SETS_OPTIONS. */
static inline struct kr__sockopt *kr__sockopt_first(const struct kr__conn *c) {
    return c->more->options.head;
}

/* The step of the first one has ended so. May run a callback. */
void kr__sockopt_answered(struct kr_reactor *r, struct kr__conn *c, int error);

#endif
