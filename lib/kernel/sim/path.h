/* Paths of Unix sockets: a file that stays when its socket is gone, until it is removed. */
#ifndef KR_KERNEL_SIM_PATH_H
#define KR_KERNEL_SIM_PATH_H

#include "kernel/sim/world.h"

struct kr__sim_path {
    struct kr__link link; /* on the world's list */
    struct kr_addr addr;
    uint64_t inode;
};

/* Whether it names a file: not a port, not an abstract name. */
bool kr__sim_path_is(const struct kr_addr *addr);

/* NULL: no such file. */
struct kr__sim_path *kr__sim_path_find(const struct kr_sim *sim, const struct kr_addr *addr);

/* bind(2): a file that is new; its number, or -EADDRINUSE. One at which nobody listens is replaced,
 * if so asked. */
int kr__sim_path_bind(struct kr_sim *sim, const struct kr_addr *addr, bool replace,
                      uint64_t *inode);

void kr__sim_path_remove(struct kr__sim_path *path);

void kr__sim_paths_end(struct kr_sim *sim);

#endif
