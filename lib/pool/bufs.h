/* Receive buffers: one provided buffer ring, shared by all connections.
 *
 * The kernel walks the ring as a queue, so every published buffer is written to before the first is
 * used again: many published buffers are a cold cache (64 connections echoing 64 KiB: a third more
 * CPU with 512 than with 8). So only `target` are published, the last one given back goes out
 * first, and the rest is a reserve. The target doubles when connections starve and falls when
 * receives are large: it keeps about KR__BUFS_WARM bytes in flight, from the beginning on, when
 * each may be a whole buffer.
 *
 * A buffer is the kernel's (published), or out (refs > 0: lent to a callback, held by sends), or
 * free. */
#ifndef KR_POOL_BUFS_H
#define KR_POOL_BUFS_H

#include "base/mem.h"
#include "ring/ring.h"

#define KR__BUFS_GROUP 0
#define KR__BUFS_WARM ((size_t)512 << 10)
#define KR__BUFS_TARGET_MIN 4u

struct kr__bufs {
    struct io_uring_buf_ring *ring;
    char *base;
    size_t size;   /* of a buffer */
    size_t stride; /* from one to the next */
    unsigned count, mask;
    unsigned published, target;
    bool starved;       /* since the last publish */
    bool refused;       /* a receive, since the last publish, as the ring was empty */
    bool behind;        /* at the last publish, completions were still to be handled */
    unsigned stuck;     /* published ones that the kernel has taken without a completion */
    uint16_t tail;      /* of the ring; published by kr__bufs_publish */
    uint16_t *free;     /* a stack of buffer ids */
    unsigned free_count;
    uint16_t *refs;     /* by buffer id */
    size_t usual;       /* running mean of what a receive brings, bytes */
    uint64_t held;      /* references that sends hold */
    const struct kr__kernel *kernel;
    struct kr__mem *mem;
};

int kr__bufs_init(struct kr__bufs *bufs, struct kr__ring *ring, struct kr__mem *mem, unsigned count,
                  size_t size);
void kr__bufs_free(struct kr__bufs *bufs, bool child);

static inline char *kr__buf_at(const struct kr__bufs *bufs, uint16_t id) {
    return bufs->base + (size_t)id * bufs->stride;
}

/* The kernel has filled a buffer; the caller has one reference to it. */
void kr__buf_take(struct kr__bufs *bufs, uint16_t id, size_t filled);

static inline void kr__buf_ref(struct kr__bufs *bufs, uint16_t id) {
    kr__assert(bufs->refs[id] > 0 && bufs->refs[id] < UINT16_MAX);
    bufs->refs[id]++;
}

/* The one way back. */
void kr__buf_unref(struct kr__bufs *bufs, uint16_t id);

/* Hands free buffers to the kernel up to the target, with one store of the tail. */
void kr__bufs_publish(struct kr__bufs *bufs);

/* A receive found the ring empty. */
static inline void kr__bufs_refused(struct kr__bufs *bufs) {
    bufs->starved = bufs->refused = true;
}

/* More wait than there are buffers: the next publish raises the target, if there is a reserve. */
static inline void kr__bufs_starved(struct kr__bufs *bufs) {
    bufs->starved = true;
}

/* Published buffers that a receive can have. */
static inline unsigned kr__bufs_at_hand(const struct kr__bufs *bufs) {
    return bufs->published - bufs->stuck;
}

/* True while a buffer is there, or will be with the next publish. */
static inline bool kr__bufs_some(const struct kr__bufs *bufs) {
    return kr__bufs_at_hand(bufs) || bufs->free_count;
}

/* To be called before each publish: a receive was refused, and all completions have been handled
 * (else `behind`), so what counts as published is not in the ring. */
void kr__bufs_reckon(struct kr__bufs *bufs, bool behind);

/* Whether they are still out of the ring is found out by the next receive. */
static inline void kr__bufs_unstick(struct kr__bufs *bufs) {
    bufs->stuck = 0;
}

#endif
