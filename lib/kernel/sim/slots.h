/* The registered file table of a ring. */
#ifndef KR_KERNEL_SIM_SLOTS_H
#define KR_KERNEL_SIM_SLOTS_H

#include "kernel/sim/file.h"

struct kr__sim_slots {
    struct kr__sim_file **table; /* one reference each; NULL: free */
    unsigned count;
    unsigned first, end, hint; /* what the kernel may choose from, and where it looks first */

    bool keeps;              /* before 6.13: what is taken out waits for older requests to end */
    struct kr__list kept;    /* what waits, oldest first */
    uint64_t taken;          /* requests that have found their file here, ever */
};

int kr__sim_slots_init(struct kr__sim_slots *slots, unsigned count, bool keeps);
void kr__sim_slots_end(struct kr__sim_slots *slots);
int kr__sim_slots_range(struct kr__sim_slots *slots, unsigned first, unsigned count);

/* A slot of the kernel's choice gets a reference of its own; -ENFILE: none is free. */
int kr__sim_slots_install(struct kr__sim_slots *slots, struct kr__sim_file *file);

/* Replaces what is in the slot, silently (NULL: clears it). -EINVAL: no such slot. */
int kr__sim_slots_put(struct kr__sim_slots *slots, unsigned slot, struct kr__sim_file *file);

/* Closes the slot. -EINVAL: no such slot; -EBADF: it is free. */
int kr__sim_slots_close(struct kr__sim_slots *slots, unsigned slot);

/* What was taken out is let go, as far as it waits for none of the requests from `oldest` on, a
 * number of `taken`. */
void kr__sim_slots_let_go(struct kr__sim_slots *slots, uint64_t oldest);

/* Borrowed; NULL: nothing there. */
struct kr__sim_file *kr__sim_slots_file(const struct kr__sim_slots *slots, unsigned slot);

#endif
