/* Clients of the world's listeners. Their functions are public: kreactor/sim.h. */
#ifndef KR_KERNEL_SIM_PEER_H
#define KR_KERNEL_SIM_PEER_H

#include "kernel/sim/file.h"

struct kr__sim_peer {
    struct kr__slab_head head;
    struct kr__sim_file *file;
};

/* Closes all that are left. */
void kr__sim_peers_end(struct kr_sim *sim);

#endif
