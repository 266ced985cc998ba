/* The receive buffers: each is the kernel's, or out, or free, and never two of these.
 *
 * The kernel is played here: it walks the ring's entries in the order of publishing. */
#include "harness/bank.h"
#include "harness/tap.h"

#include "pool/bufs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct bank bank = {.left = -1};

static int register_result;
static struct kr__buf_reg registered;

static int play_register(const struct kr__kernel *k, struct io_uring *ring, unsigned opcode,
                         const void *arg, unsigned count) {
    UNUSED(k, ring);
    CHECK_EQ(opcode, IORING_REGISTER_PBUF_RING);
    CHECK_EQ(count, 1u);
    memcpy(&registered, arg, sizeof registered);
    return register_result;
}

static int maps_out, maps_left;

static void *play_map(const struct kr__kernel *k, size_t size, enum kr__map how) {
    if (maps_left == 0)
        return NULL;
    maps_left--;
    maps_out++;
    return kr__linux.process.map(k, size, how);
}

static void play_unmap(const struct kr__kernel *k, void *pages, size_t size) {
    maps_out--;
    kr__linux.process.unmap(k, pages, size);
}

/* A buffer pool with the kernel's side of it. */
struct pool {
    struct kr__kernel kernel;
    struct kr__ring ring;
    struct kr__mem mem;
    struct kr__bufs bufs;
    uint16_t head; /* how far the kernel has come */
};

static int pool_open(struct pool *p, unsigned count, size_t size) {
    *p = (struct pool){.kernel = kr__linux};
    p->kernel.ring.reg = play_register;
    p->kernel.process.map = play_map;
    p->kernel.process.unmap = play_unmap;
    p->ring.kernel = &p->kernel;
    p->mem = mem_of(&bank);
    return kr__bufs_init(&p->bufs, &p->ring, &p->mem, count, size);
}

static void pool_init(struct pool *p, unsigned count, size_t size) {
    bank.left = -1;
    maps_left = 1000;
    register_result = 0;
    CHECK_OK(pool_open(p, count, size));
}

static void pool_free(struct pool *p) {
    kr__bufs_free(&p->bufs, false);
    CHECK_EQ(p->mem.bytes, 0);
    CHECK_EQ(maps_out, 0);
}

static unsigned pool_published(const struct pool *p) {
    return (uint16_t)(p->bufs.ring->tail - p->head);
}

/* The kernel fills the next published buffer; checks its entry. Returns its id. */
static uint16_t pool_fill(struct pool *p, size_t filled) {
    CHECK_GT(pool_published(p), 0u);
    const struct io_uring_buf *entry = &p->bufs.ring->bufs[p->head & (p->bufs.count - 1)];
    p->head++;
    CHECK_EQ(entry->len, p->bufs.size);
    CHECK_EQ(entry->addr, (uint64_t)(uintptr_t)kr__buf_at(&p->bufs, entry->bid));
    uint16_t id = entry->bid;
    kr__buf_take(&p->bufs, id, filled);
    return id;
}

/* Ours: the ring is registered as the kernel wants it, and what is published first are whole
 * buffers. */
TEST(bufs_are_registered_and_published) {
    struct pool p;
    pool_init(&p, 16, 4096);
    CHECK_EQ(registered.ring_entries, 16u);
    CHECK_EQ(registered.group, KR__BUFS_GROUP);
    CHECK_EQ(registered.flags, 0u);
    CHECK_EQ(registered.ring_addr, (uint64_t)(uintptr_t)p.bufs.ring);
    CHECK_EQ(registered.ring_addr % 4096, 0u);
    CHECK_EQ(pool_published(&p), p.bufs.published);
    CHECK_GT(p.bufs.published, 0u);
    CHECK(kr__bufs_some(&p.bufs));
    pool_free(&p);
}

/* Checks that no buffer is in two places and none is lost. */
static void check_owners(const struct pool *p, const unsigned *refs, unsigned count) {
    unsigned places[64] = {0}, out = 0;
    for (uint16_t at = p->head; at != p->bufs.ring->tail; at++)
        places[p->bufs.ring->bufs[at & (count - 1)].bid]++;
    for (unsigned i = 0; i < p->bufs.free_count; i++)
        places[p->bufs.free[i]]++;
    for (unsigned id = 0; id < count; id++) {
        CHECK_EQ(p->bufs.refs[id], refs[id]);
        out += refs[id] > 0;
        CHECK_EQ(places[id] + (refs[id] > 0), 1u);
    }
    CHECK_EQ(p->bufs.published, pool_published(p));
    CHECK_EQ(out + p->bufs.published + p->bufs.free_count, count);
    CHECK_EQ(kr__bufs_some(&p->bufs), out < count);
}

/* One random step of the model. */
static void step(struct pool *p, unsigned *refs, unsigned count) {
    unsigned id = (unsigned)tap_random_below(count);
    switch (tap_random_below(5)) {
    case 0:
    case 1:
        if (pool_published(p))
            refs[pool_fill(p, (size_t)tap_random_below(p->bufs.size + 1))] = 1;
        break;
    case 2:
        if (refs[id] > 0 && refs[id] < 100) {
            kr__buf_ref(&p->bufs, (uint16_t)id);
            refs[id]++;
        }
        break;
    case 3:
        for (; refs[id] > 0; refs[id]--)
            kr__buf_unref(&p->bufs, (uint16_t)id);
        break;
    default:
        if (!pool_published(p))
            kr__bufs_starved(&p->bufs);
        kr__bufs_publish(&p->bufs);
    }
}

/* Ours: over random takes, references, returns and publishes, rings of 1 to 64 buffers never
 * lose or double one; long enough that the 16-bit tail goes round more than once. */
TEST(bufs_have_one_owner, .deadline_s = 60) {
    for (unsigned count = 1; count <= 64; count *= 2) {
        struct pool p;
        unsigned refs[64] = {0};
        pool_init(&p, count, 4096);
        uint64_t published = 0;
        uint16_t tail = p.bufs.ring->tail;
        for (uint64_t i = 0; published < 140000; i++) {
            step(&p, refs, count);
            published += (uint16_t)(p.bufs.ring->tail - tail);
            tail = p.bufs.ring->tail;
            if (i % 64 == 0)
                check_owners(&p, refs, count);
            CHECK_GT(tap_remaining_ns(), 0);
        }
        check_owners(&p, refs, count);
        pool_free(&p);
    }
}

/* Ours: while there is any free buffer, starving connections get one published; for each size of
 * ring and of what receives usually bring, and with none free there is none. */
TEST(bufs_starving_ends_when_one_comes_back) {
    static const size_t usual[] = {1, 64, 4096, 65536};
    for (unsigned count = 1; count <= 64; count *= 2) {
        for (size_t u = 0; u < sizeof usual / sizeof *usual; u++) {
            struct pool p;
            pool_init(&p, count, 65536);
            unsigned out = 0;
            uint16_t last = 0;
            while (out < count) {
                while (pool_published(&p)) {
                    last = pool_fill(&p, usual[u]);
                    out++;
                }
                kr__bufs_starved(&p.bufs);
                CHECK_EQ(kr__bufs_some(&p.bufs), out < count);
                kr__bufs_publish(&p.bufs);
                CHECK_EQ(pool_published(&p) > 0, out < count);
            }
            CHECK(!kr__bufs_some(&p.bufs));
            kr__buf_unref(&p.bufs, last);
            kr__bufs_starved(&p.bufs);
            CHECK(kr__bufs_some(&p.bufs));
            kr__bufs_publish(&p.bufs);
            CHECK_EQ(pool_published(&p), 1u);
            pool_free(&p);
        }
    }
}

/* Ours: what counts as published although the ring was found empty makes way for the reserve, unless
 * completions that may tell of it are still to be handled; it counts again when it has come. */
TEST(bufs_that_are_stuck_make_way) {
    struct pool p;
    pool_init(&p, 64, 65536);
    unsigned target = p.bufs.published;
    CHECK_LT(target, 32u);
    kr__bufs_refused(&p.bufs);
    kr__bufs_reckon(&p.bufs, true);
    CHECK_EQ(p.bufs.stuck, 0u);
    kr__bufs_refused(&p.bufs); /* which may be of before the last publish */
    kr__bufs_reckon(&p.bufs, false);
    CHECK_EQ(p.bufs.stuck, 0u);
    kr__bufs_refused(&p.bufs);
    kr__bufs_reckon(&p.bufs, false);
    CHECK_EQ(p.bufs.stuck, target);
    CHECK_EQ(kr__bufs_at_hand(&p.bufs), 0u);
    kr__bufs_publish(&p.bufs);
    CHECK_EQ(kr__bufs_at_hand(&p.bufs), target);
    uint16_t ids[64];
    unsigned out = 0;
    while (p.bufs.published)
        ids[out++] = pool_fill(&p, 1);
    CHECK_EQ(p.bufs.stuck, 0u);
    while (out)
        kr__buf_unref(&p.bufs, ids[--out]);
    pool_free(&p);
}

/* Ours: a crowd that starves in one turn asks for twice the buffers, not for all there are. */
TEST(bufs_of_one_turn_double_the_target_once) {
    struct pool p;
    pool_init(&p, 1024, 4096);
    for (int i = 0; i < 200; i++) { /* so that more would be published for receives of this size */
        kr__buf_unref(&p.bufs, pool_fill(&p, 64));
        kr__bufs_publish(&p.bufs);
    }
    unsigned target = p.bufs.target;
    for (int i = 0; i < 100; i++)
        kr__bufs_starved(&p.bufs);
    kr__bufs_publish(&p.bufs);
    CHECK_EQ(p.bufs.target, 2 * target);
    kr__bufs_publish(&p.bufs);
    CHECK_EQ(p.bufs.target, 2 * target);
    pool_free(&p);
}

/* Ours: and gives them up when receives turn out large. */
TEST(bufs_of_large_receives_are_fewer) {
    struct pool p;
    pool_init(&p, 1024, 4096);
    for (int i = 0; i < 400; i++) {
        kr__buf_unref(&p.bufs, pool_fill(&p, i < 200 ? 64 : 4096));
        kr__bufs_starved(&p.bufs);
        kr__bufs_publish(&p.bufs);
        CHECK(i != 199 || p.bufs.target == 1024);
    }
    CHECK_LE(p.bufs.target, KR__BUFS_WARM / 4000);
    pool_free(&p);
}

/* Ours: before anything is known the first turn may bring no more than any later one, whole
 * buffers. */
TEST(bufs_begin_as_if_all_were_filled) {
    struct pool p;
    pool_init(&p, 1024, 65536);
    CHECK_LE(pool_published(&p), KR__BUFS_WARM / 65536);
    CHECK_GE(pool_published(&p), KR__BUFS_TARGET_MIN);
    pool_free(&p);
    pool_init(&p, 1024, 16);
    CHECK_EQ(pool_published(&p), 1024u);
    pool_free(&p);
}

/* Ours: however large the receives are, four buffers are published: with fewer, one busy connection
 * would starve the others. */
TEST(bufs_of_a_mebibyte_are_four_at_least) {
    struct pool p;
    pool_init(&p, 8, 1 << 20);
    for (int i = 0; i < 200; i++) {
        kr__buf_unref(&p.bufs, pool_fill(&p, 1 << 20));
        kr__bufs_publish(&p.bufs);
    }
    CHECK_EQ(p.bufs.target, KR__BUFS_TARGET_MIN);
    CHECK_EQ(pool_published(&p), KR__BUFS_TARGET_MIN);
    pool_free(&p);
}

/* Ours: what came back last goes out first, for it is warm: a lone connection of large messages
 * moves within as many buffers as the target, not through the whole ring. */
TEST(bufs_reuse_the_warmest) {
    struct pool p;
    bool seen[256] = {false};
    pool_init(&p, 256, 65536);
    for (int i = 0; i < 2000; i++) {
        uint16_t id = pool_fill(&p, 65536);
        if (i >= 1000)
            seen[id] = true;
        kr__buf_unref(&p.bufs, id);
        kr__bufs_publish(&p.bufs);
    }
    unsigned distinct = 0;
    for (int i = 0; i < 256; i++)
        distinct += seen[i];
    CHECK_LE(distinct, KR__BUFS_WARM / 65536 + 1);
    pool_free(&p);
}

/* Ours: whichever allocation, mapping or registration is refused, the error is told and nothing
 * is left. */
TEST(bufs_refused_leave_nothing) {
    for (int64_t g = 0; g < 2; g++) {
        struct pool p;
        bank.left = g;
        maps_left = 1000;
        register_result = 0;
        CHECK_ERR(pool_open(&p, 8, 4096), ENOMEM);
        CHECK_EQ(p.mem.bytes, 0);
        CHECK_EQ(maps_out, 0);
    }
    bank.left = -1;
    for (int m = 0; m < 2; m++) {
        struct pool p;
        maps_left = m;
        CHECK_ERR(pool_open(&p, 8, 4096), ENOMEM);
        CHECK_EQ(p.mem.bytes, 0);
        CHECK_EQ(maps_out, 0);
    }
    maps_left = 1000;
    register_result = -EPERM;
    struct pool p;
    CHECK_ERR(pool_open(&p, 8, 4096), EPERM);
    CHECK_EQ(p.mem.bytes, 0);
    CHECK_EQ(maps_out, 0);
}

TAP_MAIN(bufs, 10)
