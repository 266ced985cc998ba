/* RECV, as io_uring/net.c does it.
 *
 * Happy path: each piece goes into the next buffer of the ring and is a completion of its own. Failure:
 * no buffer is left, the stream has ended, no completion queue entry is free. */
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

#include "base/poison.h"

/* MULTISHOT_MAX_RETRY, io_uring/net.c, kernel >= 6.8. */
#define RECVS_A_TURN 32u

static size_t recv_size(struct kr__sim_request *req, const struct io_uring_buf *buf) {
    struct kr_sim *sim = req->ring->sim;
    return kr__sim_chance(sim, KR_SIM_SHORT_RECV) ? kr__sim_some(sim, buf->len) : buf->len;
}

/* One receive into the next buffer. False: the request has ended, or waits. The buffer is chosen first:
 * an empty ring is -ENOBUFS even if there is nothing to receive (liburing #1275). The end of a TCP
 * stream carries SOCK_NONEMPTY, as does data before it, if it has come with FIN (tcp_inq_hint,
 * net/ipv4/tcp.c; observed on 6.18). */
static bool recv_one(struct kr__sim_request *req) {
    const struct io_uring_buf *buf = kr__sim_bufs_next(&req->ring->bufs);
    if (!buf) {
        kr__sim_end(req, -ENOBUFS, 0);
        return false;
    }
    char *to = (char *)(uintptr_t)buf->addr;
    size_t size = recv_size(req, buf);
    kr__unpoison(to, size); /* ours to write */
    int64_t got = kr__sim_stream_recv(req->file, to, size);
    kr__poison(to, size);
    if (got == -EAGAIN) {
        kr__sim_wait(req, KR__SIM_IN);
        return false;
    }
    if (got <= 0) {
        bool fin = got == 0 && req->file->stream.fin_in;
        kr__sim_end(req, got, fin ? IORING_CQE_F_SOCK_NONEMPTY : 0);
        return false;
    }
    bool more = req->file->stream.size || req->file->stream.fin_in;
    uint32_t flags = (uint32_t)kr__sim_bufs_use(&req->ring->bufs) << IORING_CQE_BUFFER_SHIFT |
                     IORING_CQE_F_BUFFER | (more ? IORING_CQE_F_SOCK_NONEMPTY : 0);
    bool multishot = req->sqe.ioprio & IORING_RECV_MULTISHOT;
    if (!multishot || kr__sim_chance(req->ring->sim, KR_SIM_RECV_END) ||
        !kr__sim_ring_post(req->ring, req, (int32_t)got, flags | IORING_CQE_F_MORE)) {
        kr__sim_end(req, got, flags);
        return false;
    }
    if (!more)
        kr__sim_wait(req, KR__SIM_IN);
    return more;
}

static void recv_run(struct kr__sim_request *req) {
    kr__sim_stream_weather(req->file);
    for (unsigned i = 0; i < RECVS_A_TURN; i++) {
        if (!recv_one(req))
            return;
    }
    kr__sim_wait(req, KR__SIM_IN);
    kr__sim_ring_queue(req->ring, req);
}

/* io_recvmsg_prep, io_uring/net.c; a multishot receive with a length is refused before 6.17, one of one
 * shot with a length, or without the ring of buffers, is not modelled. */
static int recv_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (!(sqe->flags & IOSQE_BUFFER_SELECT) || sqe->len || sqe->msg_flags & MSG_WAITALL)
        return -EINVAL;
    return 0;
}

static int recv_check(struct kr__sim_request *req) {
    return req->file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

const struct kr__sim_verb kr__sim_recv = {
    .needs_file = true,
    .prep = recv_prep,
    .check = recv_check,
    .run = recv_run,
};
