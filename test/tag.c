/* The tag: four fields in 64 bits, none of which may touch another. */
#include "harness/tap.h"

#include "ring/tag.h"

#include <stddef.h>

static const uint8_t ops[] = {0, 1, 0x7f, 0x80, 0xff};
static const uint32_t slots[] = {0,       1,        0xff,     0x100,    0xffff,
                                 0x10000, 0x7fffff, 0x800000, 0xfffffe, KR__SLOT_SELF};
static const uint16_t words[] = {0, 1, 0xff, 0x100, 0x7fff, 0x8000, 0xfffe, 0xffff};

static void check_round_trip(struct kr__tag tag) {
    struct kr__tag back = kr__tag_unpack(kr__tag_pack(tag));
    CHECK_EQ(back.op, tag.op);
    CHECK_EQ(back.slot, tag.slot);
    CHECK_EQ(back.generation, tag.generation);
    CHECK_EQ(back.operand, tag.operand);
}

/* Ours: what goes in comes out, for every edge of every field beside every edge of the others. */
TEST(tag_round_trips_every_edge) {
    for (size_t o = 0; o < COUNT(ops); o++)
        for (size_t s = 0; s < COUNT(slots); s++)
            for (size_t g = 0; g < COUNT(words); g++)
                for (size_t w = 0; w < COUNT(words); w++)
                    check_round_trip((struct kr__tag){ops[o], slots[s], words[g], words[w]});
}

/* Ours: and for a million random ones. */
TEST(tag_round_trips_random_fields) {
    for (int i = 0; i < 1000000; i++) {
        uint64_t bits = tap_random();
        CHECK_EQ(kr__tag_pack(kr__tag_unpack(bits)), bits);
    }
}

/* Ours: the layout is op 8 | slot 24 | generation 16 | operand 16, as tag.h says. */
TEST(tag_layout_is_as_written) {
    CHECK_EQ(kr__tag_pack((struct kr__tag){.op = 0xab}), 0xab00000000000000u);
    CHECK_EQ(kr__tag_pack((struct kr__tag){.slot = 0xcdef01}), 0x00cdef0100000000u);
    CHECK_EQ(kr__tag_pack((struct kr__tag){.generation = 0x2345}), 0x0000000023450000u);
    CHECK_EQ(kr__tag_pack((struct kr__tag){.operand = 0x6789}), 0x6789u);
}

/* Ours: a slot too large for its field does not reach into the op. */
TEST(tag_slot_does_not_spill) {
    uint64_t bits = kr__tag_pack((struct kr__tag){.op = 3, .slot = 0xff000001u});
    CHECK_EQ(kr__tag_unpack(bits).op, 3);
    CHECK_EQ(kr__tag_unpack(bits).slot, 1u);
}

TAP_MAIN(tag, 4)
