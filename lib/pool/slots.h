/* The registered file table: one number is connection slot, file slot and tag slot.
 *
 * Three ranges: [0, accepted) is the kernel's to choose from when it accepts
 * (IORING_REGISTER_FILE_ALLOC_RANGE, kernel >= 6.0); then the library's own, for connections that
 * it makes, and for listeners. The kernel's must be the first: a slot that is cleared becomes its
 * hint where to look next, and one below the range would have it choose there
 * (io_uring/filetable.c). */
#ifndef KR_POOL_SLOTS_H
#define KR_POOL_SLOTS_H

#include "base/mem.h"
#include "ring/ring.h"

/* Slots that the library chooses from. */
struct kr__slot_range {
    uint32_t first;
    unsigned count;
    uint32_t *free; /* a stack of those that are free */
    unsigned free_count;
};

struct kr__slots {
    unsigned accepted;
    struct kr__slot_range made, files;
    struct kr__mem *mem;
    struct kr__ring *ring;
};

struct kr__slots_plan {
    unsigned accepted, made, files; /* how long each range is */
};

int kr__slots_init(struct kr__slots *slots, struct kr__ring *ring, struct kr__mem *mem,
                   const struct kr__slots_plan *plan);
void kr__slots_free(struct kr__slots *slots);

/* Takes a free slot of the range; -ENOSPC when there is none. */
int kr__slots_take(struct kr__slot_range *range);

/* Puts a descriptor's file into a slot that was taken; the caller may close the descriptor then. 0,
 * or the kernel's -errno. */
int kr__slots_put(struct kr__slots *slots, uint32_t slot, int fd);

/* Takes the file out at once, where no CLOSE can or need be made. */
void kr__slots_clear(struct kr__slots *slots, uint32_t slot);

/* The slot's file is gone, or was never put there; it may be taken again. One of the kernel's range
 * is not the library's to give back: nothing happens. */
void kr__slots_recycle(struct kr__slots *slots, uint32_t slot);

#endif
