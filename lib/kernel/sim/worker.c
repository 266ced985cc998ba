/* Requests that a worker thread does, as io_uring/io-wq.c has it.
 *
 * Happy path: some time later, and in any order, the request is done by another thread; its
 * completion is work of its task. Failure: it is cancelled before its worker has begun; no worker
 * can be made, which has the same result (io_wq_enqueue).
 *
 * Facts: the worker looks the slot up when it begins, not when the request was submitted: it may
 * find another file there, or none (io_wq_submit_work, io_uring/io_uring.c; observed on 6.18). When
 * it is done no cancel finds it. */
#include "kernel/sim/ring.h"

#define SOON_NS 20000u
#define LATE_NS 5000000u

static void done(struct kr_sim *sim, void *arg) {
    (void)sim;
    struct kr__sim_request *req = arg;
    req->work = NULL;
    req->passing = true;
    int64_t rc = kr__sim_request_file(req);
    req->res = (int32_t)(rc < 0 ? rc : req->verb->work(req));
    kr__sim_ring_queue(req->ring, req);
}

void kr__sim_worker_start(struct kr__sim_request *req) {
    struct kr_sim *sim = req->ring->sim;
    if (kr__sim_chance(sim, KR_SIM_NO_WORKER)) {
        req->cancelled = true;
        kr__sim_ring_queue(req->ring, req);
        return;
    }
    bool late = kr__sim_chance(sim, KR_SIM_LATE_WORKER);
    int64_t in_ns = 1 + (int64_t)kr_sim_random(sim, late ? LATE_NS : SOON_NS);
    req->work = kr__sim_event_new(sim, in_ns, done, req);
}

void kr__sim_worker_drop(struct kr__sim_request *req) {
    if (req->work)
        kr__sim_event_drop(req->ring->sim, req->work);
    req->work = NULL;
}
