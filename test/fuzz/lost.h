/* A descriptor that was accepted by a lost completion is nobody's: a process's end closes it, and
 * so does the end of a target's world. */
#ifndef FUZZ_LOST_H
#define FUZZ_LOST_H

#include "fuzz/fuzz.h"
#include "kernel/sim/world.h"

static inline void close_what_was_lost(struct kr_sim *sim) {
    for (unsigned fd = 0; fd < sim->fd_room; fd++) {
        if (sim->fds[fd]) {
            MUST(kr_sim_fault_hits(sim, KR_SIM_LOST) > 0);
            MUST(sim->door.file.close(&sim->door, (int)fd) == 0);
        }
    }
}

#endif
