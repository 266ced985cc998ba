/* A ring: two queues in memory that the program sees, and what the kernel keeps beside them. */
#ifndef KR_KERNEL_SIM_RING_H
#define KR_KERNEL_SIM_RING_H

#include "kernel/sim/bufs.h"
#include "kernel/sim/request.h"
#include "kernel/sim/slots.h"

struct kr__sim_ring {
    struct kr__link link; /* on the world's list */
    struct kr_sim *sim;
    struct io_uring *uring;
    unsigned setup; /* IORING_SETUP_* */
    bool disabled;
    bool lost; /* completions were, and nobody has been told */

    /* What the program sees. */
    unsigned sq_head, sq_tail, sq_flags, sq_mask, sq_entries, sq_dropped;
    unsigned cq_head, cq_tail, cq_flags, cq_mask, cq_entries, cq_overflow;

    struct kr__list alive;    /* requests */
    struct kr__list work;     /* of these, the ones that are to have their turn: task work */
    struct kr__list ended;    /* of these, the ones whose last completion is to be posted */
    struct kr__list overflow; /* completions for which there was no room */
    struct kr__list unheld;   /* requests for which there is no worker, `queued` */
    unsigned working, workers_most; /* that sleep in requests, and how many may */
    struct kr__sim_slots slots;
    struct kr__sim_bufs bufs;
};

static inline struct kr__sim_ring *kr__sim_ring_of(const struct io_uring *uring) {
    return uring->sq.ring_ptr;
}

int kr__sim_ring_open(struct kr_sim *sim, struct io_uring *uring, unsigned entries,
                      struct io_uring_params *params);
void kr__sim_ring_close(struct kr__sim_ring *ring);

/* io_uring_enter. `wait_ns` < 0: without end. */
int kr__sim_ring_enter(struct kr__sim_ring *ring, unsigned submit, unsigned wait_for,
                       unsigned flags, int64_t wait_ns);

/* Whether the program may be handed completions at any moment, and if so, that this is one. */
void kr__sim_ring_intrude(struct kr__sim_ring *ring);

/* A request has ended, or a slot was emptied: files that left the table may be let go. */
void kr__sim_ring_let_go(struct kr__sim_ring *ring);

/* A request is to have its turn. */
void kr__sim_ring_queue(struct kr__sim_ring *ring, struct kr__sim_request *req);

/* A completion of a request that goes on. False: there is no room, and the request must end. */
bool kr__sim_ring_post(struct kr__sim_ring *ring, struct kr__sim_request *req, int32_t res,
                       uint32_t flags);

/* The request's last completion, posted with the batch. */
void kr__sim_ring_end(struct kr__sim_ring *ring, struct kr__sim_request *req, int32_t res,
                      uint32_t flags);

#endif
