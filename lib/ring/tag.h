/* The tag: what user_data says about a completion. op 8 | slot 24 | aux 32, where aux is
 * generation 16 | operand 16.
 *
 * `op` finds the row of the op table, and `slot` the owner: a connection by its slot in the
 * registered sparse file table, a listener, the reactor itself. Of aux, `generation` (the low bits
 * of the owner's) is the life of the slot, and `operand` is the op's own. A receive's buffer, of
 * the provided buffer ring, is named by the completion's flags. All is in 64 bits, so that a
 * completion finds its owner with one index and no lookup. */
#ifndef KR_RING_TAG_H
#define KR_RING_TAG_H

#include <stdint.h>

#define KR__SLOT_MAX 0xffffffu
#define KR__SLOT_SELF KR__SLOT_MAX /* the reactor itself: its wake-ups, its NOPs */

struct kr__tag {
    uint8_t op;
    uint32_t slot; /* 24 bits */
    uint16_t generation;
    uint16_t operand;
};

static inline uint64_t kr__tag_pack(struct kr__tag tag) {
    return (uint64_t)tag.op << 56 | (uint64_t)(tag.slot & KR__SLOT_MAX) << 32 |
           (uint64_t)tag.generation << 16 | tag.operand;
}

static inline struct kr__tag kr__tag_unpack(uint64_t bits) {
    return (struct kr__tag){
        .op = (uint8_t)(bits >> 56),
        .slot = (uint32_t)(bits >> 32) & KR__SLOT_MAX,
        .generation = (uint16_t)(bits >> 16),
        .operand = (uint16_t)bits,
    };
}

#endif
