/* Owners: whoever has requests in flight. Connections, listeners, the reactor itself.
 *
 * An owner never touches the ring. Its state changes; it is marked dirty; once a turn the loop asks
 * what it wants (one function a kind decides, from state alone) and makes requests of the
 * difference to what is armed. So a full SQ is no error, and a wish cannot be lost: the owner stays
 * dirty until it has all. */
#ifndef KR_CORE_OWNER_H
#define KR_CORE_OWNER_H

#include "base/list.h"
#include "core/verbs.h"

enum kr__kind {
    KR__KIND_NONE = 0,
    KR__KIND_CONN = 1,
    KR__KIND_LISTENER = 2,
    KR__KIND_TIMER = 3,
    KR__KIND_SELF = 4,
    KR__KIND_LEASE = 5,
};

struct kr__owner {
    struct kr__link dirty;
    uint32_t slot;
    uint32_t generation; /* of this life of the slot; never 0; the tag carries the low 16 bits */
    uint32_t inflight;   /* completions that the kernel owes; changed in loop.c only */
    uint32_t armed;      /* the set of verbs in flight */
    uint32_t cancelled;  /* of these, the ones a cancel was made for */
    uint16_t number;     /* the operand of the last request of a numbered verb */
    uint8_t kind;
};

/* What an owner lacks: verbs to start, and armed ones to cancel. */
struct kr__wants {
    uint32_t start, cancel;
    bool again; /* to be asked once more in the next turn, which therefore comes without a wait */
};

static inline void kr__owner_init(struct kr__owner *o, enum kr__kind kind, uint32_t slot) {
    *o = (struct kr__owner){.kind = (uint8_t)kind, .slot = slot, .generation = 1};
}

/* Ends a life; handles and tags of it find nothing from now on. */
static inline void kr__owner_age(struct kr__owner *o) {
    kr__assert(o->inflight == 0 && o->armed == 0);
    o->cancelled = 0;
    if (++o->generation == 0)
        o->generation = 1;
}

/* Those that end by themselves and soon: they are awaited, not cancelled. */
#define KR__UNCANCELLED                                                                            \
    (KR__SET(close) | KR__SET(reset) | KR__SET(install) | KR__SET(shutdown) | KR__SET(export) |    \
     KR__SET(sockopt))

/* The common case: the whole difference between `desired` and what is armed. */
static inline struct kr__wants kr__owner_lacks(const struct kr__owner *o, uint32_t desired) {
    uint32_t surplus = o->armed & ~desired & ~o->cancelled;
    return (struct kr__wants){
        .start = desired & ~o->armed,
        .cancel = surplus & ~KR__UNCANCELLED,
    };
}

static inline uint64_t kr__handle_pack(enum kr__kind kind, uint32_t slot, uint32_t generation) {
    return (uint64_t)kind << 56 | (uint64_t)slot << 32 | generation;
}

static inline enum kr__kind kr__handle_kind(uint64_t bits) {
    return (enum kr__kind)(bits >> 56);
}

static inline uint32_t kr__handle_slot(uint64_t bits) {
    return (uint32_t)(bits >> 32) & 0xffffffu;
}

static inline uint32_t kr__handle_generation(uint64_t bits) {
    return (uint32_t)bits;
}

#endif
