/* The ring: SQEs one at a time, one enter, CQEs in place.
 *
 * Nothing here knows what an SQE is for. The owner thread alone touches it, but for
 * kr__ring_open. */
#ifndef KR_RING_RING_H
#define KR_RING_RING_H

#include "base/util.h"
#include "kernel/plain.h"

#include <string.h>

struct kr__ring {
    struct io_uring uring;
    const struct kr__kernel *kernel;
    unsigned sq_mask, sq_entries, sq_tail;
    unsigned cq_mask, cq_entries;
    unsigned caps;
    unsigned lost;   /* completions lost, as far as that was reported */
    bool bound;      /* a thread owns it */
    bool registered; /* that thread has its descriptor registered */
    size_t locked;   /* bytes that RLIMIT_MEMLOCK is charged with */
    struct kr__plain plain; /* in place of a registered file table */
};

struct kr__ring_plan {
    unsigned sq_entries, cq_entries;
    bool defer;
    unsigned caps_mask;
};

/* Opens a disabled ring. `locked` is filled even on failure, for the explanation. */
int kr__ring_open(struct kr__ring *ring, const struct kr__kernel *k,
                  const struct kr__ring_plan *plan);
int kr__ring_bind(struct kr__ring *ring);
void kr__ring_close(struct kr__ring *ring, bool child);

static inline int kr__ring_register(struct kr__ring *ring, unsigned opcode, const void *arg,
                                    unsigned count) {
    return ring->kernel->ring.reg(ring->kernel, &ring->uring, opcode, arg, count);
}

/* SQEs made and not yet taken by the kernel. Its head is read each time, so that what a short
 * submit left over is submitted by the next enter, in order. */
static inline unsigned kr__ring_unsubmitted(const struct kr__ring *ring) {
    return ring->sq_tail - __atomic_load_n(ring->uring.sq.khead, __ATOMIC_ACQUIRE);
}

/* The next SQE, zeroed; NULL when the SQ is full, which means "enter first", never an error. */
static inline struct io_uring_sqe *kr__ring_sqe(struct kr__ring *ring) {
    if (kr__unlikely(kr__ring_unsubmitted(ring) == ring->sq_entries))
        return NULL;
    struct io_uring_sqe *sqe = &ring->uring.sq.sqes[ring->sq_tail++ & ring->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

/* CQEs that are there to be handled. */
static inline unsigned kr__ring_ready(const struct kr__ring *ring) {
    return __atomic_load_n(ring->uring.cq.ktail, __ATOMIC_ACQUIRE) - *ring->uring.cq.khead;
}

/* The i-th of them. */
static inline const struct io_uring_cqe *kr__ring_cqe(const struct kr__ring *ring, unsigned i) {
    return &ring->uring.cq.cqes[(*ring->uring.cq.khead + i) & ring->cq_mask];
}

/* Gives `count` CQEs back; the kernel may overwrite them at once. */
static inline void kr__ring_advance(struct kr__ring *ring, unsigned count) {
    __atomic_store_n(ring->uring.cq.khead, *ring->uring.cq.khead + count, __ATOMIC_RELEASE);
}

/* Where the next CQE will be, and whether all in front of that have been handled. */
static inline unsigned kr__ring_posted(const struct kr__ring *ring) {
    return __atomic_load_n(ring->uring.cq.ktail, __ATOMIC_ACQUIRE);
}

static inline bool kr__ring_passed(const struct kr__ring *ring, unsigned mark) {
    return (int)(*ring->uring.cq.khead - mark) >= 0;
}

/* True when an enter would bring completions without waiting: deferred work or an overflown CQ. */
static inline bool kr__ring_pending(const struct kr__ring *ring) {
    unsigned flags = __atomic_load_n(ring->uring.sq.kflags, __ATOMIC_RELAXED);
    return flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

static inline bool kr__ring_overflown(const struct kr__ring *ring) {
    return __atomic_load_n(ring->uring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_CQ_OVERFLOW;
}

/* Submits all SQEs and, if `wait_for` is not 0, waits until that many CQEs are there or `wait_ns`
 * has passed (negative: without end). Returns 0, or the kernel's -errno; -ETIME is no error. */
int kr__ring_enter(struct kr__ring *ring, unsigned wait_for, int64_t wait_ns);

/* Submits nothing and waits for one CQE, `wait_ns` at most: for when the kernel takes no
 * requests. */
int kr__ring_rest(struct kr__ring *ring, int64_t wait_ns);

#endif
