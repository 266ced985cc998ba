/* Owners: whoever has requests in flight. Connections, listeners, the reactor itself.
 *
 * An owner never touches the ring. Its state changes; it is marked dirty; once a turn the loop asks
 * what it wants (one function a kind decides, from state alone) and makes requests of the
 * difference to what is armed. So a full SQ is no error, and a wish cannot be lost: the owner stays
 * dirty until it has all. */
#ifndef KR_RING_OWNER_H
#define KR_RING_OWNER_H

#include "base/handle.h"
#include "base/list.h"
#include "ring/verbs.h"

struct kr__owner {
    struct kr__link dirty;
    uint32_t slot;
    uint32_t generation; /* of this life of the slot; never 0; the tag carries the low 16 bits */
    uint32_t inflight;   /* completions that the kernel owes; changed in roof/turn.c only */
    uint32_t armed;      /* the set of verbs in flight */
    uint32_t cancelled;  /* of these, the ones a cancel was made for */
    uint16_t number;     /* the operand of the last send_zc */
    uint16_t kind : 4;
    uint16_t reactor : 12; /* its number (base/handle.h) */
};

/* What an owner lacks: verbs to start, and armed ones to cancel. */
struct kr__wants {
    uint32_t start, cancel;
    bool again; /* to be asked once more in the next turn, which therefore comes without a wait */
};

static inline void kr__owner_init(struct kr__owner *o, enum kr__kind kind, unsigned reactor,
                                  uint32_t slot) {
    *o = (struct kr__owner){
        .kind = (uint16_t)(kind & 0xfu),
        .reactor = (uint16_t)(reactor & KR__REACTOR_MAX),
        .slot = slot,
        .generation = 1,
    };
}

/* Ends a life; handles and tags of it find nothing from now on. */
static inline void kr__owner_age(struct kr__owner *o) {
    kr__assert(o->inflight == 0 && o->armed == 0);
    o->cancelled = 0;
    o->generation = kr__generation_next(o->generation);
}

/* The common case: the whole difference between `desired` and what is armed. */
static inline struct kr__wants kr__owner_lacks(const struct kr__owner *o, uint32_t desired) {
    uint32_t surplus = o->armed & ~desired & ~o->cancelled;
    return (struct kr__wants){
        .start = desired & ~o->armed,
        .cancel = surplus & ~(uint32_t)KR__VERBS_AWAITED,
    };
}

static inline uint64_t kr__owner_handle(const struct kr__owner *o) {
    return kr__handle_pack((enum kr__kind)o->kind, o->reactor, o->slot, o->generation);
}

#endif
