/* Leases: received bytes kept for the user, in their buffer or in a copy. */
#ifndef KR_EXTRA_LEASE_H
#define KR_EXTRA_LEASE_H

#include "base/slab.h"

#include <kreactor/lease.h>

struct kr__lease {
    struct kr__slab_head head;
    char *data;
    size_t size;
    kr_conn conn; /* whose share it counts against */
    size_t room;  /* of the block that `data` is, when it was copied; else 0 */
    uint16_t buf; /* else the receive buffer in which it is */
};

struct kr__leases {
    struct kr__slab slab;
};

static inline void kr__leases_init(struct kr__leases *leases, struct kr__mem *mem) {
    kr__slab_init(&leases->slab, mem, sizeof(struct kr__lease));
}

/* Ends them all. */
void kr__leases_free(struct kr__leases *leases, struct kr_reactor *r);

#endif
