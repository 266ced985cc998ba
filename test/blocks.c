/* Blocks: memory by size class, kept for reuse, bounded. */
#include "harness/bank.h"
#include "harness/tap.h"

#include "pool/blocks.h"

#include <stdlib.h>
#include <string.h>

/* Gets a block, checks that all of it may be written, gives it back. Returns its room. */
static size_t room_of(struct kr__blocks *blocks, size_t size) {
    size_t room;
    char *block = kr__block_get(blocks, size, &room);
    CHECK(block != NULL);
    CHECK_GE(room, size);
    CHECK_EQ((uintptr_t)block % _Alignof(max_align_t), 0u);
    memset(block, 0xa5, room);
    kr__block_put(blocks, block, room);
    return room;
}

/* Ours: at each size about each power of two, and past the largest class, there is room for what
 * was asked and not twice as much (but for the smallest). */
TEST(blocks_have_the_room_asked_for) {
    struct bank bank = {.left = -1};
    struct kr__mem mem = mem_of(&bank);
    struct kr__blocks blocks;
    kr__blocks_init(&blocks, &mem);
    CHECK_EQ(room_of(&blocks, 1), KR__BLOCK_MIN);
    for (size_t power = KR__BLOCK_MIN; power <= (size_t)4 << 20; power *= 2) {
        for (size_t size = power - 1; size <= power + 1; size++) {
            size_t room = room_of(&blocks, size);
            CHECK(room == KR__BLOCK_MIN || room < 2 * size);
        }
    }
    kr__blocks_free(&blocks);
    CHECK_EQ(mem.bytes, 0);
}

/* Ours: two blocks never overlap, over random gets and puts with every byte of each written and
 * checked. */
TEST(blocks_never_overlap) {
    struct bank bank = {.left = -1};
    struct kr__mem mem = mem_of(&bank);
    struct kr__blocks blocks;
    struct {
        unsigned char *at;
        size_t room;
    } held[64] = {{0}};
    kr__blocks_init(&blocks, &mem);
    unsigned out = 0;
    for (int i = 0; i < 20000; i++) {
        size_t which = (size_t)tap_random_below(64);
        if (held[which].at) {
            for (size_t b = 0; b < held[which].room; b++)
                CHECK(held[which].at[b] == which);
            kr__block_put(&blocks, held[which].at, held[which].room);
            held[which].at = NULL;
            out--;
        } else {
            size_t size = (size_t)1 << tap_random_below(13);
            held[which].at =
                kr__block_get(&blocks, size + (size_t)tap_random_below(size), &held[which].room);
            memset(held[which].at, (int)which, held[which].room);
            out++;
        }
        CHECK_EQ(blocks.out, out);
    }
    for (size_t which = 0; which < 64; which++) {
        if (held[which].at)
            kr__block_put(&blocks, held[which].at, held[which].room);
    }
    CHECK_EQ(blocks.out, 0);
    kr__blocks_free(&blocks);
    CHECK_EQ(mem.bytes, 0);
}

/* Ours: after warm-up no allocator is called; the block last given back comes first. */
TEST(blocks_are_reused_last_in_first_out) {
    struct bank bank = {.left = -1};
    struct kr__mem mem = mem_of(&bank);
    struct kr__blocks blocks;
    size_t room;
    kr__blocks_init(&blocks, &mem);
    void *a = kr__block_get(&blocks, 1000, &room);
    void *b = kr__block_get(&blocks, 600, &room);
    uint64_t calls = mem.calls;
    kr__block_put(&blocks, a, 1024);
    kr__block_put(&blocks, b, 1024);
    CHECK(kr__block_get(&blocks, 1024, &room) == b);
    CHECK(kr__block_get(&blocks, 513, &room) == a);
    CHECK_EQ(mem.calls, calls);
    kr__block_put(&blocks, a, 1024);
    kr__block_put(&blocks, b, 1024);
    kr__blocks_free(&blocks);
    CHECK_EQ(mem.bytes, 0);
}

/* Ours: what is kept is bounded; the rest goes back to the allocator at once. */
TEST(blocks_keep_no_more_than_the_bound) {
    struct bank bank = {.left = -1};
    struct kr__mem mem = mem_of(&bank);
    struct kr__blocks blocks;
    static void *held[80];
    size_t room = 0;
    kr__blocks_init(&blocks, &mem);
    for (int i = 0; i < 80; i++)
        CHECK((held[i] = kr__block_get(&blocks, (size_t)512 << 10, &room)) != NULL);
    CHECK_EQ(mem.bytes, 80 * ((size_t)512 << 10));
    for (int i = 0; i < 80; i++)
        kr__block_put(&blocks, held[i], room);
    CHECK_EQ(mem.bytes, KR__BLOCKS_KEEP);
    CHECK_EQ(blocks.kept, KR__BLOCKS_KEEP);
    room_of(&blocks, (size_t)2 << 20);
    CHECK_EQ(mem.bytes, KR__BLOCKS_KEEP);
    kr__blocks_free(&blocks);
    CHECK_EQ(mem.bytes, 0);
}

/* Ours: refused memory is NULL, counts nothing, and what is kept can still be had. */
TEST(blocks_survive_refused_memory) {
    struct bank bank = {.left = 1};
    struct kr__mem mem = mem_of(&bank);
    struct kr__blocks blocks;
    size_t room;
    kr__blocks_init(&blocks, &mem);
    CHECK_EQ(room_of(&blocks, 100), 128u);
    CHECK(kr__block_get(&blocks, 200, &room) == NULL);
    CHECK(kr__block_get(&blocks, (size_t)2 << 20, &room) == NULL);
    CHECK_EQ(blocks.out, 0);
    CHECK_EQ(room_of(&blocks, 100), 128u);
    kr__blocks_free(&blocks);
    CHECK_EQ(mem.bytes, 0);
}

TAP_MAIN(blocks, 5)
