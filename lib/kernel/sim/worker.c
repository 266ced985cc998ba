/* Requests that a worker thread does, as io_uring/io-wq.c has it.
 *
 * Happy path: some time later, and in any order, the request is done by another thread; its
 * completion is work of its task. Failure: it is cancelled before its worker has begun; no worker
 * can be made, which has the same result (io_wq_enqueue); all that there may be are busy, and it
 * waits for one.
 *
 * Facts: the worker looks the slot up when it begins, not when the request was submitted: it may
 * find another file there, or none (io_wq_submit_work, io_uring/io_uring.c; observed on 6.18). When
 * it is done no cancel finds it.
 *
 * A request that was tried in vain too often blocks its worker as the system call would: a send
 * until all is taken, of which nothing is seen before. A receive takes a buffer of the ring first,
 * and tells of it whatever the result. A cancel answers -EALREADY, and interrupts it: -EINTR, or
 * what was done. What goes by way of ____sys_sendmsg and its kin looks at O_NONBLOCK, and does not
 * block then: -EAGAIN (observed on 6.18). */
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

/* ---- one that blocks ---- */

static struct kr__sim_request *request_of(struct kr__link *link) {
    return kr__container_of(link, struct kr__sim_request, queued);
}

static void begin(struct kr_sim *sim, void *arg);

static void begin_soon(struct kr__sim_request *req) {
    struct kr_sim *sim = req->ring->sim;
    bool late = kr__sim_chance(sim, KR_SIM_LATE_WORKER);
    int64_t in_ns = 1 + (int64_t)kr_sim_random(sim, late ? 4 * LATE_NS : SOON_NS);
    req->work = kr__sim_event_new(sim, in_ns, begin, req);
}

void kr__sim_worker_hold(struct kr__sim_request *req) {
    struct kr_sim *sim = req->ring->sim;
    kr__link_off(&req->waiting);
    kr__sim_note(sim, "worker", req->sqe.user_data, 0, 0);
    sim->punts++;
    sim->accept_punts += req->verb == &kr__sim_accept;
    if (kr__sim_chance(sim, KR_SIM_NO_WORKER)) {
        req->cancelled = true;
        kr__sim_ring_queue(req->ring, req);
        return;
    }
    begin_soon(req);
}

static bool takes_buffer(struct kr__sim_request *req) {
    const struct io_uring_buf *buf = kr__sim_bufs_next(&req->ring->bufs);
    if (!buf)
        return false;
    req->buffer = *buf;
    req->holds = true;
    (void)kr__sim_bufs_use(&req->ring->bufs);
    return true;
}

static void begin(struct kr_sim *sim, void *arg) {
    struct kr__sim_request *req = arg;
    struct kr__sim_ring *ring = req->ring;
    req->work = NULL;
    if (ring->working >= ring->workers_most) {
        kr__list_push(&ring->unheld, &req->queued);
        return;
    }
    ring->working++;
    sim->working++;
    req->working = true;
    if (req->sqe.flags & IOSQE_BUFFER_SELECT && !takes_buffer(req))
        kr__sim_end(req, -ENOBUFS, 0);
    else
        req->verb->run(req);
}

static void go_on(struct kr_sim *sim, void *arg) {
    (void)sim;
    struct kr__sim_request *req = arg;
    req->work = NULL;
    req->verb->run(req);
}

void kr__sim_worker_wake(struct kr__sim_request *req) {
    struct kr_sim *sim = req->ring->sim;
    if (!req->work)
        req->work = kr__sim_event_new(sim, 1 + (int64_t)kr_sim_random(sim, SOON_NS), go_on, req);
}

void kr__sim_worker_interrupt(struct kr__sim_request *req) {
    kr__sim_request_fail(req, -EINTR);
}

void kr__sim_worker_end(struct kr__sim_request *req, int64_t res, uint32_t flags) {
    struct kr__sim_ring *ring = req->ring;
    kr__sim_worker_drop(req);
    req->working = false;
    req->worked = req->passing = true;
    ring->working--;
    ring->sim->working--;
    req->res = (int32_t)res;
    req->flags = flags;
    if (req->holds)
        req->flags |= IORING_CQE_F_BUFFER | (uint32_t)req->buffer.bid << IORING_CQE_BUFFER_SHIFT;
    kr__sim_ring_queue(ring, req);
    struct kr__link *next = kr__list_pop(&ring->unheld);
    if (next)
        begin_soon(request_of(next));
}
