/* The drain: a reactor on its way to serving nobody. */
#ifndef KR_ROOF_DRAIN_H
#define KR_ROOF_DRAIN_H

#include "time/timers.h"

#include <kreactor/drain.h>

struct kr__conn;
struct kr__drain {
    bool walked;         /* every connection has been told, or closed */
    bool expects;        /* some may come yet, from listeners that are being drained */
    struct kr__conn *at; /* the last one that was; NULL: none yet */
    unsigned cut_off;
    struct kr_drain_opts opts;
    int64_t grace_ns; /* from when every connection has been told */
    bool bounded;     /* it is counting */
    struct kr__deadline deadline;
    kr_drained_fn *fn;
    void *user;
};

/* True while there are connections to be told. */
static inline bool kr__drain_has_work(const struct kr__drain *drain) {
    return !drain->walked;
}

/* Tells some more of them, and of the end. The last phase of a turn while a drain is under way;
 * returns how many were told of anything. */
unsigned kr__drain_step(struct kr_reactor *r);

/* The time is over. */
void kr__drain_due(struct kr_reactor *r);

#endif
