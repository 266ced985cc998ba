/* SEND and SENDMSG, as io_uring/net.c does them.
 *
 * Happy path: what there is room for is taken, and the count is the result; with MSG_WAITALL the
 * request waits for more room until all is, with MSG_DONTWAIT it never waits (REQ_F_NOWAIT).
 * Failure: the stream has ended, or the wait is cancelled; if some was taken, that count is the
 * result all the same. */
#include "kernel/sim/ring.h"

/* io_sendmsg_prep. */
static int send_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (sqe->ioprio & ~IORING_RECVSEND_POLL_FIRST)
        return -EINVAL;
    if (sqe->opcode == IORING_OP_SENDMSG && (sqe->addr2 || sqe->file_index))
        return -EINVAL;
    return kr__sim_payload_take(req);
}

static int send_check(struct kr__sim_request *req) {
    return req->file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

static void send_end(struct kr__sim_request *req, int res) {
    kr__sim_payload_check(req);
    kr__sim_end(req, req->done ? (int64_t)req->done : res, 0);
}

static void send_run(struct kr__sim_request *req) {
    int64_t sent = kr__sim_payload_send(req);
    bool all = req->sqe.msg_flags & MSG_WAITALL || req->working;
    bool on = sent >= 0 && req->done < req->size && all;
    if ((sent == -EAGAIN || on) && !(req->sqe.msg_flags & MSG_DONTWAIT))
        kr__sim_wait(req, POLLOUT);
    else
        send_end(req, (int)sent);
}

static void send_start(struct kr__sim_request *req) {
    if (req->sqe.ioprio & IORING_RECVSEND_POLL_FIRST)
        kr__sim_wait(req, POLLOUT);
    else
        send_run(req);
}

const struct kr__sim_verb kr__sim_send = {
    .needs_file = true,
    .prep = send_prep,
    .check = send_check,
    .start = send_start,
    .run = send_run,
    .fail = send_end,
};
