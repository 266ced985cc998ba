/* The kinds: one row each. */
#include "roof/kinds.h"

#include "conn/op.h"
#include "listen/listener.h"
#include "ring/tag.h"
#include "roof/drain.h"
#include "roof/dump.h"

/* ---- connections ---- */

static void conn_waits(struct kr_reactor *r, struct kr__owner *o) {
    kr__starve_up(r, kr__owner_conn(o));
}

static struct kr__wants conn_wants(struct kr_reactor *r, struct kr__owner *o) {
    return kr__conn_wants(r, kr__owner_conn(o));
}

static void conn_settle(struct kr_reactor *r, struct kr__owner *o) {
    kr__conn_settle(r, kr__owner_conn(o));
}

static void conn_closed(struct kr_reactor *r, struct kr__owner *o) {
    kr__conn_gone(r, kr__owner_conn(o));
}

/* ---- listeners ---- */

static struct kr__wants listener_wants(struct kr_reactor *r, struct kr__owner *o) {
    return kr__listener_wants(r, kr__owner_listener(o));
}

static void listener_settle(struct kr_reactor *r, struct kr__owner *o) {
    kr__owner_dirty(r, o); /* what it wants is reckoned anew */
}

static void listener_closed(struct kr_reactor *r, struct kr__owner *o) {
    kr__listener_gone(r, kr__owner_listener(o));
}

/* ---- the reactor itself, which owns its wake-up and the time of its drain ---- */

static struct kr__wants self_wants(struct kr_reactor *r, struct kr__owner *o) {
    return kr__owner_lacks(o, r->freeing ? 0 : KR__SET(wake));
}

static void self_due(struct kr_reactor *r, struct kr__deadline *d) {
    (void)d;
    kr__drain_due(r);
}

const struct kr__kind_row kr__kind_rows[KR__KIND_COUNT] = {
    [KR__KIND_CONN] =
        {
            .waits = conn_waits,
            .wants = conn_wants,
            .settle = conn_settle,
            .closed = conn_closed,
            .audit = kr__conns_audit,
            .dump = kr__dump_conns,
            .due = kr__conn_due,
        },
    [KR__KIND_LISTENER] =
        {
            .wants = listener_wants,
            .settle = listener_settle,
            .closed = listener_closed,
            .audit = kr__listeners_audit,
            .dump = kr__dump_listeners,
            .due = kr__listener_due,
        },
    [KR__KIND_SELF] =
        {
            .wants = self_wants,
            .settle = kr__owner_dirty,
            .dump = kr__dump_self,
            .due = self_due,
        },
    [KR__KIND_TIMER] = {.due = kr__timer_fire},
    [KR__KIND_CONNECT] = {.due = kr__conn_due},
};

void kr__kinds_init(struct kr_reactor *r) {
    const struct kr__conns *conns = &r->conns;
    const struct kr__listeners *ls = r->listeners;
    r->owners[KR__KIND_CONN] = (struct kr__owners){
        .base = (char *)conns->table,
        .count = conns->max,
        .stride = sizeof *conns->table,
    };
    r->owners[KR__KIND_LISTENER] = (struct kr__owners){
        .base = (char *)ls->table,
        .first = ls->first_slot,
        .count = ls->max,
        .stride = sizeof *ls->table,
    };
    r->owners[KR__KIND_SELF] =
        (struct kr__owners){.base = (char *)&r->self, .first = KR__SLOT_SELF, .count = 1};
}

_Static_assert(offsetof(struct kr__conn, owner) == 0 && offsetof(struct kr__listener, owner) == 0,
               "an owner stands first in what it owns requests for");
