/* Clients of the world's listeners. Their functions are public: kreactor/sim.h. */
#ifndef KR_KERNEL_SIM_PEER_H
#define KR_KERNEL_SIM_PEER_H

#include "kernel/sim/file.h"

struct kr__sim_peer {
    struct kr__slab_head head;
    struct kr__sim_file *file;
};

/* NULL: it is gone. */
struct kr__sim_peer *kr__sim_peer_find(const struct kr_sim *sim, kr_sim_peer peer);

/* A client that is this end of a stream. Consumes the caller's reference. */
kr_sim_peer kr__sim_peer_new(struct kr_sim *sim, struct kr__sim_file *file);

/* A listener to which that address leads and whose backlog has room. -EAGAIN: none has;
 * -ECONNREFUSED: there is none; -ENOENT: nor its path. */
int kr__sim_listener_choose(struct kr_sim *sim, const struct kr_addr *to,
                            struct kr__sim_file **ret);

/* Closes all that are left. */
void kr__sim_peers_end(struct kr_sim *sim);

#endif
