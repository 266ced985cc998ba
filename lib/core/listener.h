/* Listeners: how many connections each may accept, and by which verb. */
#ifndef KR_CORE_LISTENER_H
#define KR_CORE_LISTENER_H

#include "core/owner.h"
#include "core/timers.h"

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

/* With `addresses`: a descriptor between accept and its slot in the table. */
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
    bool short_of_room; /* on the list of those who wait for a connection to close */
    struct kr__link short_link;

    unsigned conns;    /* open ones of this listener */
    unsigned promised; /* slots set aside for armed accepts */
    unsigned ones;     /* one-shot accepts in flight, and arrivals */
    unsigned accepting, installing; /* accept_fd and install in flight */
    unsigned backoff_ms;
    struct kr__deadline deadline;
    struct kr__arrival *arrivals; /* KR__ACCEPT_ONES of them, with `addresses` */

    struct kr_listen_opts opts;
    const struct kr_conn_ops *ops;
    void *user;
    struct kr_addr bound;
};

struct kr__listeners {
    struct kr__listener *table; /* mapped */
    unsigned max, first_slot;
    struct kr__list short_of_room;
};

int kr__listeners_init(struct kr__listeners *ls, struct kr_reactor *r, unsigned max, unsigned first_slot);
void kr__listeners_free(struct kr__listeners *ls, struct kr_reactor *r);

/* The listener of a handle, while it is open; NULL otherwise. */
struct kr__listener *kr__listener_find(const struct kr_reactor *r, uint64_t bits);

/* What it wants, from its state alone; sets slots aside for what it will be granted. */
struct kr__wants kr__listener_wants(struct kr_reactor *r, struct kr__listener *l);

/* An accept failed with `error`: again at once, or after a while. */
void kr__listener_failed(struct kr_reactor *r, struct kr__listener *l, int error);
void kr__listener_due(struct kr_reactor *r, struct kr__deadline *d);

/* Closes the descriptor of an arrival; whoever it was for has its slot, or does not want one. */
void kr__arrival_drop(struct kr_reactor *r, struct kr__listener *l, unsigned index);

/* A connection of the listener `bits` (which may be gone) came to be, or is no more. */
void kr__listener_opened(struct kr_reactor *r, struct kr__listener *l);
void kr__listener_left(struct kr_reactor *r, uint64_t bits);

void kr__listener_end(struct kr_reactor *r, struct kr__listener *l);
void kr__listener_gone(struct kr_reactor *r, struct kr__listener *l);

#endif
