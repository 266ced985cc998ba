/* Listeners: how many connections each may accept, and by which verb. */
#ifndef KR_LISTEN_LISTENER_H
#define KR_LISTEN_LISTENER_H

#include "conn/options.h"
#include "kernel/kernel.h"
#include "ring/owner.h"
#include "time/timers.h"

#include <kreactor/listener.h>

/* One-shot accepts that may be in flight at a time. */
#define KR__ACCEPT_ONES 16u

enum kr__listener_state {
    KR__LISTENER_FREE = 0,
    /* Accepts while there is room, it is not paused, and no error is being waited out. */
    KR__LISTENER_OPEN,
    /* Accepts are cancelled and joined, then CLOSE. Left at its completion, to FREE. */
    KR__LISTENER_CLOSING,
};

/* With `addresses`, `keep_fd` or `equips`, and of a foreign listener on kernels before 6.8: a
 * descriptor between accept and its slot in the table. */
struct kr__arrival {
    int fd;       /* -1: free */
    int32_t cell; /* the kernel reads the descriptor here and writes the slot */
    bool installing;
    struct kr_addr addrs[2]; /* peer, local */
};

struct kr__listener {
    struct kr__owner owner;
    uint8_t state; /* enum kr__listener_state */
    bool paused, backing_off;
    bool short_of_room;        /* not a single slot is free for it */
    struct kr__link room_link; /* on the list of those who would do more with more room */

    unsigned conns;    /* open ones of this listener */
    unsigned promised; /* slots set aside for armed accepts */

    bool ready;                     /* a client is waiting, says the poll */
    unsigned batch;                 /* one-shot accepts to be made at the next client */
    unsigned to_start;              /* of the batch, not yet made */
    unsigned accepting, installing; /* requests in flight: one-shot accepts, installs */
    unsigned ones;                  /* one-shot accepts in flight, and arrivals */
    unsigned batch_size, taken;     /* of the running batch: accepts made, clients got */
    uint64_t batch_turn;

    /* Being drained (listener_end.c). */
    bool draining;
    bool looking; /* the poll in flight was made since */
    bool drained; /* nobody waits who did at the call: to be ended when nothing is under way */
    unsigned drain_left;
    int64_t drain_at; /* its end in any case; KR__NEVER: none */

    bool ends_itself; /* so that on_end is owed, with end_error */
    int end_error;

    unsigned backoff_ms;
    int64_t retry_at; /* while backing off */
    struct kr__deadline deadline;
    struct kr__arrival *arrivals; /* KR__ACCEPT_ONES of them, if clients come by descriptor */

    struct kr_listen_opts opts;
    struct kr__profile *profile; /* of its connections */
    const struct kr_conn_ops *ops;
    void *user;
    struct kr_addr bound;
    bool foreign; /* others made the socket, and may share it still */
    bool removes; /* the file that it is bound to, when it ends */
    struct kr__path_id path;
    int dir;     /* while `removes`: the directory it is in */
    bool equips; /* each client's socket is given its options, if it is a Unix one */
};

struct kr__listeners {
    struct kr__listener *table; /* mapped */
    unsigned max, first_slot;
    unsigned draining; /* of them */
    struct kr__list want_room;
    uint64_t multishot_room; /* free slots with which all of them may arm multishot accepts */
};

int kr__listeners_init(struct kr__listeners *ls, struct kr_reactor *r, unsigned max,
                       unsigned first_slot);
void kr__listeners_free(struct kr__listeners *ls, struct kr_reactor *r);

/* The listener of a handle, while it is open; NULL otherwise. And at a public door: 0, or the error
 * to return. */
struct kr__listener *kr__listener_find(const struct kr_reactor *r, uint64_t bits);
int kr__listener_door(const struct kr_reactor *r, kr_listener listener, struct kr__listener **ret);

/* What it wants, from its state alone; sets slots aside for what it will be granted. */
struct kr__wants kr__listener_wants(struct kr_reactor *r, struct kr__listener *l);

/* A one-shot accept of it has ended, with a client or without. */
void kr__listener_tried(struct kr__listener *l, bool took);

/* A client was not had, because of `error`: again at once, or after a while. Of an accept or poll
 * that failed: or never. */
void kr__listener_failed(struct kr_reactor *r, struct kr__listener *l, int error);
void kr__listener_accept_failed(struct kr_reactor *r, struct kr__listener *l, int error);
void kr__listener_back_off(struct kr_reactor *r, struct kr__listener *l, int64_t for_ns);
void kr__listener_due(struct kr_reactor *r, struct kr__deadline *d);

/* The end that comes by itself: with `error`, or 0 when it is drained. What came of the poll;
 * whether it is drained; one more client is had. */
void kr__listener_ends(struct kr_reactor *r, struct kr__listener *l, int error);
void kr__listener_looked(struct kr__listener *l, int res);
bool kr__listener_is_drained(const struct kr__listener *l);
void kr__listener_drain_one(struct kr__listener *l);

/* Closes the descriptors of all arrivals, in a forked child. */
void kr__arrivals_close(struct kr_reactor *r, struct kr__listener *l);

/* Closes the descriptor of an arrival, if it has not been taken; whoever it was for has its slot,
 * or does not want one. */
void kr__arrival_drop(struct kr_reactor *r, struct kr__listener *l, unsigned index);

/* An accept of it has filled one of the slots set aside. */
void kr__listener_took_slot(struct kr_reactor *r, struct kr__listener *l);

/* It is there, and others may have to make do with less; it ends, and a multishot's share of the
 * table is theirs; it is gone, with all that was set aside for it. */
void kr__listener_claim_room(struct kr_reactor *r, struct kr__listener *l);
void kr__listener_yield_room(struct kr_reactor *r, struct kr__listener *l);
void kr__listener_leave_room(struct kr_reactor *r, struct kr__listener *l);

/* A connection of the listener, in `bits` one that may be gone, came to be, or is no more. */
void kr__listener_opened(struct kr__listener *l);
void kr__listener_left(struct kr_reactor *r, uint64_t bits);

void kr__listener_end(struct kr_reactor *r, struct kr__listener *l);

/* Removes its path from the file system, if that is its business. */
void kr__listener_unname(struct kr_reactor *r, struct kr__listener *l);
void kr__listener_gone(struct kr_reactor *r, struct kr__listener *l);

/* For the audit at each wait: each accepts, or something will let it. */
void kr__listeners_audit(const struct kr_reactor *r);

static inline struct kr__listener *kr__owner_listener(struct kr__owner *o) {
    kr__assert(o->kind == KR__KIND_LISTENER);
    return kr__container_of(o, struct kr__listener, owner);
}

#endif
