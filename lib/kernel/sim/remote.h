/* Hosts beyond the daemon's: what a connection that it makes meets. Their functions are public:
 * kreactor/sim.h. */
#ifndef KR_KERNEL_SIM_REMOTE_H
#define KR_KERNEL_SIM_REMOTE_H

#include "kernel/sim/file.h"

struct kr__sim_remote {
    struct kr__link link; /* on the world's list */
    struct kr_addr addr;
    enum kr_sim_answer answer;
    int64_t after_ns;
    struct kr__list queue; /* streams by `in_backlog`, one reference each, until kr_sim_accept */
};

/* Whether `to` leads to `bound`: by port, or if one is a Unix socket by its name. */
bool kr__sim_addr_leads(const struct kr_addr *to, const struct kr_addr *bound);

/* What was said of it; NULL: nothing. */
struct kr__sim_remote *kr__sim_remote_find(const struct kr_sim *sim, const struct kr_addr *addr);

/* socket(family, SOCK_STREAM): a descriptor; -EAFNOSUPPORT. */
int kr__sim_socket(struct kr_sim *sim, int family);

/* connect(2) on a nonblocking stream socket: 0, or -EINPROGRESS and so on. */
int kr__sim_dial(struct kr__sim_file *file, const struct sockaddr *to, size_t size);

/* Forgets all, and resets who was never accepted. */
void kr__sim_remotes_end(struct kr_sim *sim);

#endif
