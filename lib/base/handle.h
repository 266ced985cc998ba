/* A handle's 64 bits: kind 4 | reactor 12 | slot 20 | generation 28.
 *
 * `reactor` is the number of the reactor that made it, so that any other one refuses it. `slot` finds the object, `generation` tells its lives apart: the handle of an earlier
 * life fits again after KR__GENERATION_MAX lives of that slot, which takes 45 minutes at 100,000
 * lives a second. Kind 0 and generation 0 are never given, so 0 is no handle. */
#ifndef KR_BASE_HANDLE_H
#define KR_BASE_HANDLE_H

#include "base/util.h"

#define KR__REACTOR_MAX 0xfffu
#define KR__HANDLE_SLOTS (1u << 20)

enum kr__kind {
    KR__KIND_NONE = 0,
    KR__KIND_CONN = 1,
    KR__KIND_LISTENER = 2,
    KR__KIND_TIMER = 3,
    KR__KIND_SELF = 4,
    KR__KIND_LEASE = 5,
    KR__KIND_CONNECT =
        6, /* of no handle: a time at which connect(2) is tried again (extra/connect.c) */
    KR__KIND_COUNT,
};

/* A number that no living reactor has, 1 to KR__REACTOR_MAX, until it is given back. -EUSERS: all
 * are taken. Any thread. */
int kr__reactor_number_take(void);
void kr__reactor_number_put(unsigned number);

static inline uint64_t kr__handle_pack(enum kr__kind kind, unsigned reactor, uint32_t slot,
                                       uint32_t generation) {
    return (uint64_t)kind << 60 | (uint64_t)reactor << 48 | (uint64_t)slot << 28 | generation;
}

/* Whether a handle is one of this kind and this reactor. */
static inline bool kr__handle_is(uint64_t bits, enum kr__kind kind, unsigned reactor) {
    return bits >> 48 == ((unsigned)kind << 12 | reactor);
}

static inline uint32_t kr__handle_slot(uint64_t bits) {
    return (uint32_t)(bits >> 28) & (KR__HANDLE_SLOTS - 1);
}

static inline uint32_t kr__handle_generation(uint64_t bits) {
    return (uint32_t)bits & KR__GENERATION_MAX;
}

#endif
