/* Buffers, used in the order of publishing (man io_uring_register_buf_ring). What a kernel would
 * not notice, the simulated one does: a buffer published twice, one of no size, more than the ring
 * holds. A published buffer is written to at once, so that who still reads it reads wrong bytes. */
#include "kernel/sim/bufs.h"

#include "base/poison.h"

#define IDS 65536u
#define SCRIBBLE_MAX 4096u
#define SCRIBBLE 0xdb

int kr__sim_bufs_init(struct kr__sim_bufs *bufs, const struct kr__buf_reg *reg, unsigned count) {
    bool power = reg->ring_entries && !(reg->ring_entries & (reg->ring_entries - 1));
    if (count != 1 || !power || reg->ring_entries > 32768 || reg->ring_addr % 4096 || reg->flags)
        return -EINVAL;
    if (bufs->ring)
        return -EEXIST;
    bufs->ring = (struct io_uring_buf_ring *)(uintptr_t)reg->ring_addr;
    bufs->count = reg->ring_entries;
    bufs->ours = kr__sim_alloc(IDS * sizeof *bufs->ours);
    return 0;
}

void kr__sim_bufs_end(struct kr__sim_bufs *bufs) {
    free(bufs->ours);
    *bufs = (struct kr__sim_bufs){0};
}

static struct io_uring_buf *entry(struct kr__sim_bufs *bufs, uint16_t place) {
    return &bufs->ring->bufs[place & (bufs->count - 1)];
}

static void receive_one(struct kr__sim_bufs *bufs, const struct io_uring_buf *buf) {
    if (!buf->len)
        kr__sim_broken("buffer %u was published with no size", buf->bid);
    if (bufs->ours[buf->bid])
        kr__sim_broken("buffer %u was published twice", buf->bid);
    bufs->ours[buf->bid] = true;
    size_t size = kr__min_size(buf->len, SCRIBBLE_MAX);
    kr__unpoison((void *)(uintptr_t)buf->addr, size);
    memset((void *)(uintptr_t)buf->addr, SCRIBBLE, size);
    kr__poison((void *)(uintptr_t)buf->addr, size);
}

struct io_uring_buf *kr__sim_bufs_next(struct kr__sim_bufs *bufs) {
    if (!bufs->ring)
        return NULL;
    uint16_t tail = __atomic_load_n(&bufs->ring->tail, __ATOMIC_ACQUIRE);
    if ((uint16_t)(tail - bufs->head) > bufs->count)
        kr__sim_broken("%u buffers were published to a ring of %u", (uint16_t)(tail - bufs->head),
                       bufs->count);
    while (bufs->seen != tail)
        receive_one(bufs, entry(bufs, bufs->seen++));
    return bufs->head == tail ? NULL : entry(bufs, bufs->head);
}

uint16_t kr__sim_bufs_use(struct kr__sim_bufs *bufs) {
    uint16_t id = entry(bufs, bufs->head++)->bid;
    bufs->ours[id] = false;
    return id;
}
