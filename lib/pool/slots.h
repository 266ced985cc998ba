/* The registered file table: one number is connection slot, file slot and tag slot.
 *
 * Two ranges: [0, conns) is the kernel's to choose from when it accepts (IORING_REGISTER_FILE_ALLOC_RANGE,
 * kernel >= 6.0), [conns, conns + files) is the library's own, for listeners. */
#ifndef KR_POOL_SLOTS_H
#define KR_POOL_SLOTS_H

#include "base/mem.h"
#include "ring/ring.h"

struct kr__slots {
    unsigned conns, files;
    uint32_t *free; /* a stack of free file slots */
    unsigned free_count;
    struct kr__mem *mem;
    struct kr__ring *ring;
};

int kr__slots_init(struct kr__slots *slots, struct kr__ring *ring, struct kr__mem *mem, unsigned conns,
                   unsigned files);
void kr__slots_free(struct kr__slots *slots);

/* Puts a descriptor into a free file slot; the caller may close the descriptor then. Returns the slot;
 * -ENOSPC when all are taken, else the kernel's -errno. */
int kr__slots_put_file(struct kr__slots *slots, int fd);

/* Takes the file out at once, for a ring that nobody has run yet. */
void kr__slots_clear(struct kr__slots *slots, uint32_t slot);

/* The slot's file is gone; it may be used again. */
void kr__slots_recycle(struct kr__slots *slots, uint32_t slot);

#endif
