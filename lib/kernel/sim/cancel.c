/* ASYNC_CANCEL, as io_uring/cancel.c and poll.c do it.
 *
 * Happy path: who waits is queued, and ends with -ECANCELED by its next turn. Failure: nobody of
 * that user_data; one that is just running; one whose event comes in the same moment, and completes
 * after all. */
#include "kernel/sim/ring.h"

/* 0, or -EALREADY with nothing done. What is cancelled late has its turn first, as if its event and
 * the cancel had come in the same moment. */
static int cancel_one(struct kr__sim_request *target) {
    struct kr_sim *sim = target->ring->sim;
    if (kr__sim_chance(sim, KR_SIM_CANCEL_BUSY))
        return -EALREADY;
    /* its worker has begun (IO_WQ_CANCEL_RUNNING): one that sleeps is interrupted */
    if (target->working) {
        kr__sim_worker_interrupt(target);
        return -EALREADY;
    }
    if (target->work && kr__sim_chance(sim, KR_SIM_CANCEL_LATE))
        return -EALREADY;
    kr__sim_worker_drop(target);
    if (target->file && kr__sim_ready(target) &&
        kr__sim_chance(sim, KR_SIM_CANCEL_LATE)) {
        kr__link_off(&target->queued);
        kr__sim_request_run(target);
    }
    if (target->ended)
        return 0;
    kr__sim_worker_drop(target);
    target->cancelled = true;
    if (target->tries) /* it may wait for a worker */
        kr__link_off(&target->queued);
    kr__sim_ring_queue(target->ring, target);
    return 0;
}

static struct kr__sim_request *cancel_find(const struct kr__sim_request *req) {
    struct kr__link *head = &req->ring->alive.head;
    for (struct kr__link *link = head->next; link != head; link = link->next) {
        struct kr__sim_request *target = kr__container_of(link, struct kr__sim_request, alive);
        bool same = target != req && target->sqe.user_data == req->sqe.addr;
        if (same && !target->ended && !target->cancelled && !target->passing)
            return target;
    }
    return NULL;
}

/* By user_data. With ALL the result is how many, and none is no error (man
 * io_uring_prep_cancel). */
static void cancel_run(struct kr__sim_request *req) {
    bool all = req->sqe.cancel_flags & IORING_ASYNC_CANCEL_ALL;
    int found = 0;
    struct kr__sim_request *target;
    while ((all || !found) && (target = cancel_find(req))) {
        int rc = cancel_one(target);
        if (rc < 0) {
            kr__sim_end(req, rc, 0);
            return;
        }
        found++;
    }
    kr__sim_end(req, all ? found : found ? 0 : -ENOENT, 0);
}

const struct kr__sim_verb kr__sim_cancel = {.run = cancel_run};
