/* What all verbs share, as io_uring/io_uring.c does it.
 *
 * Happy path: issue tries at once; what would block waits at its file; being woken queues the
 * request as work of its task; work tries again. Failure: a file that is not there, a verb that is
 * not known, and what a verb's check refuses (each names what it follows). */
#include "kernel/sim/request.h"

#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

static const struct kr__sim_verb *const verbs[] = {
    [IORING_OP_ACCEPT] = &kr__sim_accept,
    [IORING_OP_ASYNC_CANCEL] = &kr__sim_cancel,
    [IORING_OP_CLOSE] = &kr__sim_close,
    [IORING_OP_CONNECT] = &kr__sim_connect,
    [IORING_OP_FILES_UPDATE] = &kr__sim_update,
    [IORING_OP_NOP] = &kr__sim_nop,
    [IORING_OP_POLL_ADD] = &kr__sim_poll,
    [IORING_OP_POLL_REMOVE] = &kr__sim_poll_remove,
    [IORING_OP_READ] = &kr__sim_read,
    [IORING_OP_RECV] = &kr__sim_recv,
    [IORING_OP_RECVMSG] = &kr__sim_recvmsg,
    [IORING_OP_SEND] = &kr__sim_send,
    [IORING_OP_SENDMSG] = &kr__sim_send,
    [IORING_OP_SENDMSG_ZC] = &kr__sim_send_zc,
    [IORING_OP_SEND_ZC] = &kr__sim_send_zc,
    [IORING_OP_SHUTDOWN] = &kr__sim_shutdown,
    [IORING_OP_URING_CMD] = &kr__sim_cmd,
    [KR__OP_FIXED_FD_INSTALL] = &kr__sim_export,
};

const struct kr__sim_verb *kr__sim_verb_find(const struct kr_sim *sim, unsigned opcode) {
    const struct kr__sim_verb *verb = opcode < sizeof verbs / sizeof *verbs ? verbs[opcode] : NULL;
    return verb && verb->since <= sim->version ? verb : NULL;
}

void kr__sim_end(struct kr__sim_request *req, int64_t res, uint32_t flags) {
    kr__link_off(&req->waiting);
    if (req->working) {
        kr__sim_worker_end(req, res, flags);
        return;
    }
    kr__sim_ring_end(req->ring, req, (int32_t)res, flags);
}

void kr__sim_request_fail(struct kr__sim_request *req, int res) {
    if (req->verb && req->verb->fail)
        req->verb->fail(req, res);
    else
        kr__sim_end(req, res, 0);
}

void kr__sim_request_run(struct kr__sim_request *req) {
    req->passing = false;
    req->woken = true;
    req->missed = false;
    if (req->worked)
        kr__sim_end(req, req->res, req->flags);
    else if (req->cancelled)
        kr__sim_request_fail(req, -ECANCELED);
    else if (req->verb->work)
        kr__sim_end(req, req->res, 0);
    else
        req->verb->run(req);
}

static struct kr__sim_file *file_of(struct kr__sim_request *req) {
    struct kr__sim_ring *ring = req->ring;
    if (!(req->sqe.flags & IOSQE_FIXED_FILE))
        return kr__sim_fd_file(ring->sim, req->sqe.fd);
    req->by_slot = ++ring->slots.taken;
    return kr__sim_slots_file(&ring->slots, (unsigned)req->sqe.fd);
}

int kr__sim_request_file(struct kr__sim_request *req) {
    struct kr__sim_file *file = file_of(req);
    if (!file)
        return -EBADF;
    req->file = kr__sim_file_ref(file);
    return req->verb->check ? req->verb->check(req) : 0;
}

static int prepare(struct kr__sim_request *req) {
    if (!req->verb)
        return -EINVAL;
    int rc = req->verb->prep ? req->verb->prep(req) : 0;
    bool now = req->verb->needs_file && !req->verb->work;
    return rc < 0 || !now ? rc : kr__sim_request_file(req);
}

static void issue(struct kr__sim_request *req) {
    if (req->verb->work)
        kr__sim_worker_start(req);
    else if (req->verb->start)
        req->verb->start(req);
    else
        req->verb->run(req);
}

struct kr__sim_request *kr__sim_request_new(struct kr__sim_ring *ring,
                                            const struct io_uring_sqe *sqe,
                                            const struct kr__sim_verb *verb) {
    struct kr__sim_request *req = kr__sim_alloc(sizeof *req);
    req->ring = ring;
    req->sqe = *sqe;
    req->verb = verb;
    kr__list_push(&ring->alive, &req->alive);
    ring->sim->requests++;
    return req;
}

void kr__sim_request_start(struct kr__sim_ring *ring, const struct io_uring_sqe *sqe) {
    const struct kr__sim_verb *verb = kr__sim_verb_find(ring->sim, sqe->opcode);
    struct kr__sim_request *req = kr__sim_request_new(ring, sqe, verb);
    int rc = prepare(req);
    if (rc < 0)
        kr__sim_request_fail(req, rc);
    else
        issue(req);
}

void kr__sim_request_free(struct kr__sim_request *req) {
    kr__link_off(&req->alive);
    kr__link_off(&req->waiting);
    kr__link_off(&req->queued);
    kr__sim_worker_drop(req);
    req->ring->sim->working -= req->working;
    req->ring->sim->requests--;
    if (req->file)
        kr__sim_file_unref(req->file);
    kr__sim_ring_let_go(req->ring);
    free(req->pieces);
    free(req->payload);
    free(req->control);
    free(req);
}
