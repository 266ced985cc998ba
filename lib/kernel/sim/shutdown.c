/* SHUTDOWN, as io_uring/net.c does it: always by a worker. */
#include "kernel/sim/request.h"
#include "kernel/sim/stream.h"

/* io_shutdown_prep. */
static int shutdown_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    bool more = sqe->off || sqe->addr || sqe->rw_flags || sqe->buf_index || sqe->splice_fd_in;
    return more ? -EINVAL : 0;
}

static int shutdown_check(struct kr__sim_request *req) {
    return req->file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

static int64_t shutdown_work(struct kr__sim_request *req) {
    return kr__sim_stream_shutdown(req->file, (int)req->sqe.len);
}

const struct kr__sim_verb kr__sim_shutdown = {
    .needs_file = true,
    .work = shutdown_work,
    .prep = shutdown_prep,
    .check = shutdown_check,
};
