/* NOP and POLL. Happy path: a poll waits until its file is ready for reading, and tells so, once or
 * each time. Failure: a stream, whose polling is not modelled. */
#include "kernel/sim/ring.h"

#include <poll.h>

static void nop_run(struct kr__sim_request *req) {
    bool inject = (unsigned)req->sqe.rw_flags & KR__NOP_INJECT_RESULT;
    kr__sim_end(req, inject ? (int32_t)req->sqe.len : 0, 0);
}

static void poll_run(struct kr__sim_request *req) {
    bool multishot = req->sqe.len & IORING_POLL_ADD_MULTI;
    if (!kr__sim_is_ready(req->file, KR__SIM_IN))
        kr__sim_wait(req, KR__SIM_IN);
    else if (!multishot || !kr__sim_ring_post(req->ring, req, POLLIN, IORING_CQE_F_MORE))
        kr__sim_end(req, POLLIN, 0);
}

/* Armed at a ready file, a one-shot poll completes at once, a multishot one by its first work; it
 * tells of each wake-up (__io_arm_poll_handler, io_uring/poll.c). */
static void poll_start(struct kr__sim_request *req) {
    if (req->sqe.len & IORING_POLL_ADD_MULTI)
        kr__sim_wait(req, KR__SIM_IN);
    else
        poll_run(req);
}

static int poll_check(struct kr__sim_request *req) {
    return req->file->kind == KR__SIM_STREAM ? -EINVAL : 0;
}

const struct kr__sim_verb kr__sim_nop = {.run = nop_run};
const struct kr__sim_verb kr__sim_poll = {
    .needs_file = true,
    .check = poll_check,
    .start = poll_start,
    .run = poll_run,
};
