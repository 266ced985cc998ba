/* What the loop needs of recv beside its row. */
#ifndef KR_CONN_RECV_H
#define KR_CONN_RECV_H

#include "conn/reactor.h"

/* To be called where a receive, or a poll in front of it, is made: the read deadline counts from
 * when reading began, and the idle deadline too if that had to wait for a buffer. */
static inline void kr__recv_begins(struct kr_reactor *r, struct kr__conn *c) {
    if (kr__unlikely(kr__conn_opts(c)->read_ns) && !c->recv_goes_on)
        kr__conn_count(r, c, KR_DEADLINE_READ);
    if (kr__unlikely(c->may_try))
        kr__time_reach(&c->idle_from, r->now);
}

/* A poll comes before its next receive. It leaves the line: whoever waited there for a buffer and had
 * nothing to receive would keep those behind it from theirs. */
static inline void kr__recv_wait(struct kr_reactor *r, struct kr__conn *c) {
    c->recv_waits = true;
    kr__starve_leave(r, c);
}

#endif
