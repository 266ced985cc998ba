/* Connections that make some of their requests only after a while.
 *
 * Happy path: the kernel has refused a send, or a poll, for want of something whose return no
 * completion tells, as memory is; the connection sends and polls no more until all that rest are
 * woken, REST_NS after the first of them. It receives meanwhile if it can.
 * Failure modes: the connection ends meanwhile (its slot's next life does not rest). */
#include "conn/reactor.h"

#define REST_NS INT64_C(10000000)

void kr__conn_rest(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark(rested);
    if (r->rest_until == KR__NEVER)
        r->rest_until = kr__time_add(r->kernel->process.clock(r->kernel), REST_NS);
    c->rests = true;
}

void kr__conns_wake(struct kr_reactor *r) {
    r->rest_until = KR__NEVER;
    for (struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));) {
        if (kr__conn_is_free(c) || !c->rests)
            continue;
        c->rests = false;
        kr__conn_dirty(r, c);
    }
}
