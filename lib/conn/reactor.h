/* One reactor: its rooms by value, its lists, its thread. */
#ifndef KR_CONN_REACTOR_H
#define KR_CONN_REACTOR_H

#include "base/mark.h"
#include "base/thread.h"
#include "conn/conn.h"
#include "conn/options.h"
#include "conn/starve.h"
#include "kernel/life.h"
#include "kernel/probe.h"
#include "pool/slots.h"
#include "ring/kind.h"
#include "time/catchup.h"
#include "time/timers.h"

#include <kreactor/stats.h>

#include <errno.h>

/* What on_data is being lent, so that kr_conn_send can hold the buffer instead of copying. */
struct kr__lent {
    const struct kr__conn *conn; /* NULL: nothing is lent from a receive buffer */
    const char *data;
    size_t size;
    uint16_t buf;
};

/* The room last given by kr_conn_reserve, until the turn ends. */
struct kr__reservation {
    const struct kr__conn *conn; /* NULL: none is open */
    size_t size;
    struct kr__send *fresh; /* a record of its own, or NULL: room in the queue's tail */
};

struct kr__drain;
struct kr__hooks;
struct kr__inbox;
struct kr__leases;
struct kr__listeners;

struct kr_reactor {
    /* First what each call looks at: whose thread this is, and whether this is a forked child. */
    uint64_t thread;       /* kr__thread of the one that runs it; 0 before */
    const uint32_t *alive; /* a page that reads 0 in a forked child */
    uint16_t number;       /* among the reactors of this process (base/handle.h) */
    bool in_turn, freeing;
    bool telling; /* a callback of a connection is running; checked builds only (conn/tell.h) */
    bool draining, drain_connects; /* a drain is under way; connections may be made meanwhile */
    bool lost;                     /* the kernel has lost completions: some may never come */
    bool freed_inside;   /* by a forked child, in a callback: to be razed when that has returned */
    unsigned vain_turns; /* in a row; checked builds only (roof/turn.c) */
    uint64_t progress;   /* what had been done before them */
    unsigned zc_sends;   /* zero-copy notifications owed */

    int64_t now;
    int64_t waits_from; /* when this turn began to wait; 0: it did not */
    struct kr__catchup catchup;
    unsigned share_receives; /* in a turn; more of them are more than a share */
    /* The last turn that brought bytes, and the one before; and in each of them, the connections
     * that are known to keep to their share (conn/fair.c). */
    uint64_t share_turn, share_turn_before;
    unsigned within_share, within_share_before;
    const struct kr__kind_row *kinds; /* a row each (ring/kind.h) */
    struct kr__owners owners[KR__KIND_COUNT];
    const struct kr__hooks *const *hooks; /* a row each (conn/hooks.h) */
    struct kr__list dirty, again, showing, forwards_over, detaching;
    int64_t
        rest_until; /* when those connections that rest go on (conn/rest.c); KR__NEVER: none does */
    struct kr__starve starve;
    struct kr__lent lent;
    const struct kr__conn *shown; /* whose on_data is running; NULL: nobody's */
    struct kr__reservation reservation;

    const struct kr__kernel *kernel;
    struct kr__ring ring;
    struct kr__conns conns;
    struct kr__bufs bufs;
    struct kr__blocks blocks;
    struct kr__sends sends;
    struct kr__timers timers;
    struct kr__profiles profiles;
    /* of the rooms above, which the roof has made room for */
    struct kr__leases *leases;
    struct kr__listeners *listeners;
    struct kr__drain *drain;
    struct kr__inbox *inbox;
    struct kr__slots slots;
    struct kr__owner self; /* owns the wake-up */
    struct kr__mem mem;
    struct kr_config config; /* with defaults resolved */
    struct kr_stats stats;
    struct kr__life life; /* of the thread that runs it */
};

/* True in a forked child, which has neither the ring's pages nor those of the ring of buffers. */
static inline bool kr__in_child(const struct kr_reactor *r) {
    return __atomic_load_n(r->alive, __ATOMIC_RELAXED) == 0;
}

/* The guard at the public door: 0, -ECHILD, or -EPERM. */
static inline int kr__guard(const struct kr_reactor *r) {
    if (kr__unlikely(!r))
        return -EINVAL;
    if (kr__unlikely(kr__in_child(r)))
        return -ECHILD;
    uint64_t thread = __atomic_load_n(&r->thread, __ATOMIC_RELAXED);
    if (kr__unlikely(thread != kr__thread && thread))
        return -EPERM;
    return 0;
}

/* True while nobody new may be served. */
static inline bool kr__shutting_down(const struct kr_reactor *r) {
    return r->freeing || r->draining;
}

/* True while no connection may be made. */
static inline bool kr__connects_shut(const struct kr_reactor *r) {
    return r->freeing || (r->draining && !r->drain_connects);
}

/* The connection of a handle, for the door of a public function: 0, or the error to return. */
static inline int kr__conn_door(const struct kr_reactor *r, kr_conn conn, struct kr__conn **ret) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    *ret = kr__conn_find(r, conn);
    return *ret ? 0 : -ESTALE;
}

/* Whether `data` is a part of what this connection is being lent. */
static inline bool kr__lent_has(const struct kr_reactor *r, const struct kr__conn *c,
                                const char *data, size_t size) {
    const struct kr__lent *lent = &r->lent;
    size_t at = (uintptr_t)data - (uintptr_t)lent->data; /* huge where data is below */
    return lent->conn == c && at <= lent->size && size <= lent->size - at;
}

/* Whether a connection may keep one more buffer: as long as none keeps more than its share, and all
 * of them leave some for receiving. */
static inline bool kr__may_hold(const struct kr_reactor *r, const struct kr__conn *c) {
    const struct kr__bufs *bufs = &r->bufs;
    size_t share = kr__max_size(1, bufs->count / 8);
    kr__mark_if(own_share_reached, c->held >= share);
    kr__mark_if(share_of_all_reached, c->held < share && bufs->held >= bufs->count - share);
    return c->held < share && bufs->held < bufs->count - share;
}

/* Whether a socket of connections with these limits is to refuse descriptors. */
static inline bool kr__refuses_fds(const struct kr_reactor *r, const struct kr_conn_opts *opts) {
    return !opts->recv_fds && (r->ring.caps & KR__CAP_REFUSES_FDS);
}

/* Forgets the open reservation, if there is one. */
static inline void kr__reservation_drop(struct kr_reactor *r) {
    if (kr__likely(!r->reservation.conn))
        return;
    kr__send_discard(&r->sends, r->reservation.fresh);
    kr__sendq_seal(&r->reservation.conn->queue);
    r->reservation = (struct kr__reservation){0};
}

static inline void kr__owner_dirty(struct kr_reactor *r, struct kr__owner *o) {
    if (!kr__link_on(&o->dirty))
        kr__list_push(&r->dirty, &o->dirty);
}

/* To be looked at by the turn's arming phase. */
static inline void kr__conn_dirty(struct kr_reactor *r, struct kr__conn *c) {
    kr__owner_dirty(r, &c->owner);
}

/* The kernel has refused a send or a poll for a reason that no completion tells the end of: both are
 * made again after a while. */
void kr__conn_rest(struct kr_reactor *r, struct kr__conn *c);
void kr__conns_wake(struct kr_reactor *r);

#endif
