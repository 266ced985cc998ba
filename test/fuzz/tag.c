/* The tag's codec: each eight bytes are a user_data as the kernel might return it. */
#include "fuzz/fuzz.h"

#include "ring/tag.h"

static void check(uint64_t bits) {
    struct kr__tag tag = kr__tag_unpack(bits);
    MUST(tag.slot <= KR__SLOT_MAX);
    MUST(kr__tag_pack(tag) == bits);
    struct kr__tag back = kr__tag_unpack(kr__tag_pack(tag));
    MUST(back.op == tag.op && back.slot == tag.slot);
    MUST(back.generation == tag.generation && back.operand == tag.operand);
}

/* Fields that do not come from 64 bits: a slot wider than its field must not reach the others. */
static void check_fields(struct tape *t) {
    struct kr__tag tag = {
        .op = tape_byte(t),
        .slot = (uint32_t)tape_number(t, 4),
        .generation = (uint16_t)tape_number(t, 2),
        .operand = (uint16_t)tape_number(t, 2),
    };
    struct kr__tag back = kr__tag_unpack(kr__tag_pack(tag));
    MUST(back.op == tag.op && back.slot == (tag.slot & KR__SLOT_MAX));
    MUST(back.generation == tag.generation && back.operand == tag.operand);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct tape t = {data, size};
    while (t.left) {
        struct tape again = t;
        check_fields(&again);
        check(tape_number(&t, 8));
    }
    return 0;
}
