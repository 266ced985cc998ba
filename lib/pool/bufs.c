/* The provided buffer ring.
 *
 * Happy path: take on a completion, unref when the callback and the sends are done, publish once a
 * turn.
 * Failure modes: all are out, and connections wait in a line (conn/starve.c) until one comes back; the
 * kernel has taken buffers without a completion, as a worker does that waits with one in its hands
 * (io_uring/kbuf.c): these do not count as published, and the reserve takes their place.
 *
 * Relies on: entries are consumed in the order of publishing, the tail is 16 bits and free-running,
 * the kernel does not check for more than `count` published (man io_uring_register_buf_ring). A
 * zero-length entry would look like the end of stream on a live connection (observed on 6.18),
 * hence the assert. The ring's memory is pinned, so a forked child must not have it: its
 * copy-on-write would part us from the page that the kernel reads. */
#include "pool/bufs.h"

#include "base/mark.h"
#include "base/poison.h"

#include <errno.h>

static size_t ring_bytes(unsigned count) {
    return ((size_t)count * sizeof(struct io_uring_buf) + 4095) / 4096 * 4096;
}

/* Buffers a power of two apart would begin in the same few sets of each cache, and small messages,
 * which use nothing but beginnings, would throw each other out: so a page and a line lie between
 * them. */
static size_t stride_of(size_t size) {
    size_t lines = (size + 63) / 64 * 64;
    return size < 4096 ? lines : lines + 4096 + 64;
}

/* How many published buffers keep KR__BUFS_WARM bytes in flight, as receives usually are. */
static unsigned warm_target(const struct kr__bufs *bufs) {
    size_t warm = KR__BUFS_WARM / (bufs->usual + 1);
    if (warm < KR__BUFS_TARGET_MIN)
        warm = KR__BUFS_TARGET_MIN;
    return warm < bufs->count ? (unsigned)warm : bufs->count;
}

static int bufs_map(struct kr__bufs *bufs) {
    const struct kr__kernel *k = bufs->kernel;
    bufs->ring = k->process.map(k, ring_bytes(bufs->count), KR__MAP_KEEP);
    bufs->base = k->process.map(k, bufs->count * bufs->stride, KR__MAP_PLAIN);
    bufs->free = kr__mem_get(bufs->mem, bufs->count * sizeof *bufs->free);
    bufs->refs = kr__mem_get_zeroed(bufs->mem, bufs->count * sizeof *bufs->refs);
    if (!bufs->ring || !bufs->base || !bufs->free || !bufs->refs)
        return -ENOMEM;
    kr__poison(bufs->base, bufs->count * bufs->stride);
    return 0;
}

int kr__bufs_init(struct kr__bufs *bufs, struct kr__ring *ring, struct kr__mem *mem, unsigned count,
                  size_t size) {
    *bufs = (struct kr__bufs){.kernel = ring->kernel, .mem = mem, .count = count, .mask = count - 1,
                              .size = size, .stride = stride_of(size)};
    int rc = bufs_map(bufs);
    if (rc == 0) {
        struct kr__buf_reg reg = {
            .ring_addr = (uint64_t)(uintptr_t)bufs->ring,
            .ring_entries = count,
            .group = KR__BUFS_GROUP,
        };
        rc = kr__ring_register(ring, IORING_REGISTER_PBUF_RING, &reg, 1);
    }
    if (rc < 0) {
        kr__bufs_free(bufs, false);
        return rc;
    }
    for (unsigned id = count; id-- > 0;)
        bufs->free[bufs->free_count++] = (uint16_t)id;
    bufs->usual = size; /* until it is known better: the first turn is not to be the longest */
    bufs->target = warm_target(bufs);
    kr__bufs_publish(bufs);
    return 0;
}

void kr__bufs_free(struct kr__bufs *bufs, bool child) {
    const struct kr__kernel *k = bufs->kernel;
    kr__mem_put(bufs->mem, bufs->free, bufs->count * sizeof *bufs->free);
    kr__mem_put(bufs->mem, bufs->refs, bufs->count * sizeof *bufs->refs);
    if (bufs->base) {
        kr__unpoison(bufs->base, bufs->count * bufs->stride);
        k->process.unmap(k, bufs->base, bufs->count * bufs->stride);
    }
    if (bufs->ring && !child)
        k->process.unmap(k, bufs->ring, ring_bytes(bufs->count));
    *bufs = (struct kr__bufs){.kernel = k, .mem = bufs->mem};
}

void kr__buf_take(struct kr__bufs *bufs, uint16_t id, size_t filled) {
    kr__assert(id < bufs->count && bufs->refs[id] == 0 && bufs->published > 0);
    bufs->published--;
    if (kr__unlikely(bufs->stuck > bufs->published))
        bufs->stuck = bufs->published;
    bufs->refs[id] = 1;
    kr__unpoison(kr__buf_at(bufs, id), filled);
    bufs->usual += (filled >> 4) - (bufs->usual >> 4);
}

void kr__buf_unref(struct kr__bufs *bufs, uint16_t id) {
    kr__assert(id < bufs->count && bufs->refs[id] > 0);
    if (--bufs->refs[id] > 0)
        return;
    kr__poison(kr__buf_at(bufs, id), bufs->stride);
    bufs->free[bufs->free_count++] = id;
}

/* However many starved in a turn, the target doubles once. */
static void adjust_target(struct kr__bufs *bufs) {
    unsigned warm = warm_target(bufs);
    kr__mark_if(bufs_doubled, bufs->starved && 2 * bufs->target <= warm);
    kr__mark_if(bufs_fell, bufs->target > warm);
    if (bufs->starved)
        bufs->target *= 2;
    bufs->starved = false;
    if (bufs->target > warm)
        bufs->target = warm;
}

/* A refusal of before the last publish says nothing of what was published then. */
void kr__bufs_reckon(struct kr__bufs *bufs, bool behind) {
    bool known = !behind && !bufs->behind;
    bool refused = bufs->refused;
    bufs->behind = behind;
    bufs->refused = false;
    if (kr__likely(!refused || !known))
        return;
    kr__mark_if(bufs_stuck, bufs->published);
    bufs->stuck = bufs->published;
}

void kr__bufs_publish(struct kr__bufs *bufs) {
    adjust_target(bufs);
    uint16_t tail = bufs->tail;
    while (kr__bufs_at_hand(bufs) < bufs->target && bufs->free_count) {
        uint16_t id = bufs->free[--bufs->free_count];
        struct io_uring_buf *entry = &bufs->ring->bufs[tail++ & bufs->mask];
        kr__assert(bufs->size > 0);
        entry->addr = (uint64_t)(uintptr_t)kr__buf_at(bufs, id);
        entry->len = (uint32_t)bufs->size;
        entry->bid = id;
        bufs->published++;
    }
    if (tail == bufs->tail)
        return;
    bufs->tail = tail;
    __atomic_store_n(&bufs->ring->tail, tail, __ATOMIC_RELEASE);
}
