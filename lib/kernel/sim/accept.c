/* ACCEPT, as io_uring/net.c does it.
 *
 * Happy path: a client of the backlog gets a descriptor or a slot. Failure: no descriptor, no slot,
 * a client that has gone; the two of the table are the kernel's, the others are asked for by
 * fault. */
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

static struct kr__sim_file *backlog_take(struct kr__sim_file *file) {
    struct kr__link *link = kr__list_pop(&file->listener.queue);
    file->listener.queued--;
    return kr__container_of(link, struct kr__sim_file, in_backlog);
}

/* Gives the stream a place, or drops it: a full table costs the client its connection (observed on
 * 6.18). */
static int accept_place(struct kr__sim_request *req, struct kr__sim_file *stream) {
    if (!req->sqe.file_index)
        return kr__sim_fd_new(req->ring->sim, stream);
    int slot = kr__sim_slots_install(&req->ring->slots, stream);
    kr__sim_file_unref(stream);
    return slot;
}

/* Without a file the client stays in the backlog (man accept; observed on 6.18). */
static int accept_refused(struct kr__sim_request *req) {
    if (kr__sim_chance(req->ring->sim, KR_SIM_ACCEPT_EMFILE))
        return -EMFILE;
    if (kr__sim_chance(req->ring->sim, KR_SIM_ACCEPT_ENFILE))
        return -ENFILE;
    if (!kr__sim_chance(req->ring->sim, KR_SIM_ACCEPT_ABORT))
        return 0;
    struct kr__sim_file *stream = backlog_take(req->file);
    kr__sim_stream_reset(stream);
    kr__sim_file_unref(stream);
    return -ECONNABORTED;
}

/* A multishot accept takes the whole backlog: io_uring/net.c has no limit there. Since 6.10 each
 * tells whether more wait (observed on 6.18). */
static void accept_run(struct kr__sim_request *req) {
    bool multishot = req->sqe.ioprio & IORING_ACCEPT_MULTISHOT;
    while (req->file->listener.queued) {
        int rc = accept_refused(req);
        if (rc == 0)
            rc = accept_place(req, backlog_take(req->file));
        bool goes_on = rc >= 0 && multishot && !kr__sim_chance(req->ring->sim, KR_SIM_ACCEPT_END);
        uint32_t flags = rc >= 0 && req->file->listener.queued ? IORING_CQE_F_SOCK_NONEMPTY : 0;
        if (!goes_on || !kr__sim_ring_post(req->ring, req, rc, flags | IORING_CQE_F_MORE)) {
            kr__sim_end(req, rc, flags);
            return;
        }
    }
    if (req->sqe.ioprio & KR__ACCEPT_DONTWAIT)
        kr__sim_end(req, -EAGAIN, 0);
    else
        kr__sim_wait(req, POLLIN);
}

/* io_accept_prep, io_uring/net.c. */
static int accept_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (sqe->file_index && (sqe->accept_flags & SOCK_CLOEXEC))
        return -EINVAL;
    if (sqe->ioprio & IORING_ACCEPT_MULTISHOT && sqe->file_index &&
        sqe->file_index != IORING_FILE_INDEX_ALLOC)
        return -EINVAL;
    return 0;
}

static int accept_check(struct kr__sim_request *req) {
    if (req->file->kind == KR__SIM_LISTENER)
        return 0;
    return req->file->kind == KR__SIM_STREAM ? -EINVAL : -ENOTSOCK;
}

const struct kr__sim_verb kr__sim_accept = {
    .needs_file = true,
    .prep = accept_prep,
    .check = accept_check,
    .run = accept_run,
};
