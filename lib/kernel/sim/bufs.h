/* The provided buffer ring, seen from the kernel. */
#ifndef KR_KERNEL_SIM_BUFS_H
#define KR_KERNEL_SIM_BUFS_H

#include "kernel/sim/world.h"

struct kr__sim_bufs {
    struct io_uring_buf_ring *ring;
    unsigned count;
    uint16_t head; /* the next to be used */
    uint16_t seen; /* the tail as it was when last looked at */
    bool *ours;    /* by buffer id: published and not yet used */
};

int kr__sim_bufs_init(struct kr__sim_bufs *bufs, const struct kr__buf_reg *reg, unsigned count);
void kr__sim_bufs_end(struct kr__sim_bufs *bufs);

/* The buffer that the next receive would use; NULL: the ring is empty. Not used up by the call. */
struct io_uring_buf *kr__sim_bufs_next(struct kr__sim_bufs *bufs);

/* The next buffer is used; returns its id. */
uint16_t kr__sim_bufs_use(struct kr__sim_bufs *bufs);

#endif
