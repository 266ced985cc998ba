/* One request: from its SQE to its last completion. */
#ifndef KR_KERNEL_SIM_REQUEST_H
#define KR_KERNEL_SIM_REQUEST_H

#include "kernel/sim/file.h"

struct kr__sim_ring;

/* What a file may become ready for. */
#define KR__SIM_IN (1u << 0)
#define KR__SIM_OUT (1u << 1)

struct kr__sim_request {
    struct kr__link alive;   /* on its ring's list */
    struct kr__link waiting; /* on its file's list */
    struct kr__link queued;  /* on its ring's list of work, then of ended requests */
    struct kr__sim_ring *ring;
    struct kr__sim_file *file; /* a reference, held until its end: an armed request pins the file */
    struct io_uring_sqe sqe;
    unsigned waits_for;
    bool cancelled, ended;
    int32_t res;
    uint32_t flags;

    struct iovec *pieces; /* of a send; copied at submit, as IORING_FEAT_SUBMIT_STABLE promises */
    int piece_count;
    char *payload;        /* what it was at submit; the program's memory must still be so */
    size_t size, done;
};

/* Makes and issues a request. */
void kr__sim_request_start(struct kr__sim_ring *ring, const struct io_uring_sqe *sqe);

/* The request's turn, after it was woken, cancelled, or put off. */
void kr__sim_request_run(struct kr__sim_request *req);

/* Its completion has been posted, or its ring is no more. */
void kr__sim_request_free(struct kr__sim_request *req);

/* `file` is ready for `what`: those who wait for that have their turn later, as work of their task. */
void kr__sim_wake(struct kr__sim_file *file, unsigned what);

#endif
