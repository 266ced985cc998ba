/* The file table: one number is connection slot, file slot and tag slot.
 *
 * Three ranges: the first is for what is accepted; then the library's own, for connections that it
 * makes, and for listeners.
 *
 * The table is registered with the kernel, which then chooses from the first range when it accepts
 * (IORING_REGISTER_FILE_ALLOC_RANGE, kernel >= 6.0). That range must be the first: a slot that is
 * cleared becomes the kernel's hint where to look next, and one below the range would have it
 * choose there (io_uring/filetable.c).
 *
 * Or it is a table of plain descriptors (kernel/plain.h). Then the slots of the first range are
 * chosen here, too, when an accept has completed. */
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
    /* the first is empty while the kernel chooses */
    struct kr__slot_range accepted, made, files;
    struct kr__mem *mem;
    struct kr__ring *ring;
};

struct kr__slots_plan {
    unsigned accepted, made, files; /* how long each range is */
    bool plain;
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

/* The slot's file is gone, or was never put there; it may be taken again. One that the kernel
 * chooses is not the library's to give back: nothing happens. */
void kr__slots_recycle(struct kr__slots *slots, uint32_t slot);

/* What requests that change the table, or lead out of it, have come to: each is handed the result
 * of its completion. An error is returned as it is.
 *
 * accepted   the slot of what an accept has brought; -ENFILE: none is free, and it has been closed
 * installed  the slot of a descriptor that was to be installed, with what the request has left in
 *            its cell; -ENFILE, or as dup
 * exported   the descriptor that was asked for what is in the slot */
int kr__slots_accepted(struct kr__slots *slots, int32_t res);
int kr__slots_installed(struct kr__slots *slots, int32_t res, int32_t cell);
int kr__slots_exported(struct kr__slots *slots, int32_t res, uint32_t slot);

/* The slot's own descriptor, borrowed; -1: it has none, as the table is a registered one. */
int kr__slots_fd(const struct kr__slots *slots, uint32_t slot);

#endif
