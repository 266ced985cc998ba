/* A table of plain descriptors behind slots, for kernels whose registered table is of no use.
 *
 * Before 6.13 a file that is taken out of the registered table is let go only when every older
 * request on any file of the table has ended (io_uring/rsrc.c, "recycle ref nodes in order"; 6.1
 * waits another second): with a multishot accept or one idle receive armed, never. The peer of a
 * closed connection sees no end, and the port of a closed listener stays taken. Gone with "get rid
 * of per-ring io_rsrc_node list" (6.13).
 *
 * With this table the floors above make the same requests, by slot. Those that wait in the SQ are
 * translated when they are submitted: the slot becomes its descriptor, and the fixed-file flag
 * falls. A kernel behind the door that has no table at all can be used in the same way. */
#ifndef KR_KERNEL_PLAIN_H
#define KR_KERNEL_PLAIN_H

#include "kernel/kernel.h"

struct kr__plain {
    const struct kr__kernel *kernel;
    int32_t *cells; /* a slot's descriptor + 1; 0: none. NULL: there is no such table */
    unsigned count;
    unsigned translated; /* the SQ's tail up to which requests have been translated */
};

/* `count` empty slots. -EMFILE: more than RLIMIT_NOFILE, as a registered table answers; -ENOMEM. */
int kr__plain_init(struct kr__plain *p, const struct kr__kernel *k, unsigned count);

/* Closes what is in the slots, and what requests would have closed that stand in `uring` and will
 * not be submitted. NULL: a forked child's, which has not these requests. */
void kr__plain_end(struct kr__plain *p, const struct io_uring *uring);

/* A slot's descriptor, borrowed; -1: none. */
static inline int kr__plain_fd(const struct kr__plain *p, uint32_t slot) {
    return slot < p->count ? p->cells[slot] - 1 : -1;
}

/* The empty slot owns the descriptor. */
void kr__plain_give(struct kr__plain *p, uint32_t slot, int fd);

/* The empty slot gets a descriptor of its own for the same file: 0, or as dup. */
int kr__plain_put(struct kr__plain *p, uint32_t slot, int fd);

/* Closes the slot's descriptor, if it has one. */
void kr__plain_clear(struct kr__plain *p, uint32_t slot);

/* Translates the requests in the SQ up to `tail`. */
void kr__plain_translate(struct kr__plain *p, struct io_uring *uring, unsigned tail);

#endif
