/* RECV, as io_uring/net.c does it: multishot into the ring's buffers, or once, into one of them or
 * into the program's own memory.
 *
 * Happy path: each piece goes into the next buffer of the ring and is a completion of its own; of
 * one shot, the first piece is, and with MSG_WAITALL as many as fill the memory. Failure: no buffer
 * is left, the stream has ended, no completion queue entry is free; a wait that is cancelled, which
 * tells what had come.
 *
 * Facts: the buffer is chosen first, so an empty ring is -ENOBUFS even if there is nothing to
 * receive (liburing #1275), but with POLL_FIRST when there is (observed on 6.18). The end of a TCP
 * stream carries SOCK_NONEMPTY, as does data before it, if it has come with FIN (tcp_inq_hint,
 * net/ipv4/tcp.c). */
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

#include "base/poison.h"

/* MULTISHOT_MAX_RETRY, io_uring/net.c, kernel >= 6.8. */
#define RECVS_A_TURN 32u

struct place {
    char *to;
    size_t size;
};

static bool selects(const struct kr__sim_request *req) {
    return req->sqe.flags & IOSQE_BUFFER_SELECT;
}

static bool is_multishot(const struct kr__sim_request *req) {
    return req->sqe.ioprio & IORING_RECV_MULTISHOT;
}

static bool wants_all(const struct kr__sim_request *req) {
    return req->sqe.msg_flags & MSG_WAITALL;
}

/* Where the next bytes go. False: the ring has no buffer. A length bounds what goes into one
 * buffer. */
static bool place_find(struct kr__sim_request *req, struct place *ret) {
    struct kr_sim *sim = req->ring->sim;
    if (selects(req)) {
        const struct io_uring_buf *buf =
            req->holds ? &req->buffer : kr__sim_bufs_next(&req->ring->bufs);
        if (!buf)
            return false;
        size_t most = req->sqe.len ? kr__min_size(req->sqe.len, buf->len) : buf->len;
        *ret = (struct place){(char *)(uintptr_t)buf->addr, most};
    } else {
        *ret = (struct place){(char *)(uintptr_t)req->sqe.addr + req->done, req->sqe.len - req->done};
    }
    if (ret->size && kr__sim_chance(sim, KR_SIM_SHORT_RECV))
        ret->size = kr__sim_some(sim, ret->size);
    return true;
}

/* A buffer of the ring stays poisoned, for it is the program that must not look yet. */
static int64_t receive(struct kr__sim_request *req, struct place place) {
    kr__unpoison(place.to, place.size);
    int64_t got = kr__sim_stream_recv(req->file, place.to, place.size);
    if (selects(req))
        kr__poison(place.to, place.size);
    return got;
}

/* Unix sockets tell since 6.17 (SO_INQ, net/unix/af_unix.c), and count urgent bytes that were
 * skipped for ever (observed on 6.18). */
uint32_t kr__sim_nonempty(const struct kr__sim_request *req) {
    const struct kr__sim_stream *s = &req->file->stream;
    if (s->local && req->ring->sim->version < KR__SIM_LINUX(6, 17))
        return 0;
    bool more = s->size || s->fin_in || (s->local && s->skipped);
    return more ? IORING_CQE_F_SOCK_NONEMPTY : 0;
}

/* What had come before is told instead of a failure. */
static void recv_fail(struct kr__sim_request *req, int res) {
    kr__sim_end(req, req->done ? (int64_t)req->done : res, 0);
}

static void recv_wait(struct kr__sim_request *req) {
    if (req->sqe.msg_flags & MSG_DONTWAIT)
        recv_fail(req, -EAGAIN);
    else
        kr__sim_wait(req, POLLIN);
}

/* The end of the stream, or an error. */
static void recv_over(struct kr__sim_request *req, int res) {
    kr__sim_end(req, req->done ? (int64_t)req->done : res, res == 0 ? kr__sim_nonempty(req) : 0);
}

/* Something has come into the program's own memory. */
static void own_filled(struct kr__sim_request *req, size_t got) {
    req->done += got;
    if (wants_all(req) && req->done < req->sqe.len)
        recv_wait(req);
    else
        kr__sim_end(req, (int64_t)req->done, kr__sim_nonempty(req));
}

/* A multishot has emptied the socket. When its poll is woken twice before it runs, kernels with the
 * fault take that for once (kernel/reset.c): a reset that was the second is not looked for. Armed
 * just now, it is. */
static void recv_wait_for_more(struct kr__sim_request *req) {
    if (req->woken && !kr__sim_tells_resets(req->ring->sim))
        kr__sim_wait_for_news(req, POLLIN);
    else
        recv_wait(req);
}

/* Something has come into a buffer of the ring. True: there is more, whether that can be told or
 * not. */
static bool buffer_filled(struct kr__sim_request *req, int64_t got) {
    uint32_t more = kr__sim_nonempty(req);
    if (req->holds) {
        kr__sim_end(req, got, more);
        return false;
    }
    uint32_t flags = (uint32_t)kr__sim_bufs_use(&req->ring->bufs) << IORING_CQE_BUFFER_SHIFT |
                     IORING_CQE_F_BUFFER | more;
    if (!is_multishot(req) || kr__sim_chance(req->ring->sim, KR_SIM_RECV_END) ||
        !kr__sim_ring_post(req->ring, req, (int32_t)got, flags | IORING_CQE_F_MORE)) {
        kr__sim_end(req, got, flags);
        return false;
    }
    if (!more && !req->file->stream.size)
        recv_wait_for_more(req);
    return more || req->file->stream.size;
}

/* False: the request has ended, or waits. */
static bool recv_one(struct kr__sim_request *req) {
    struct place place;
    if (!place_find(req, &place)) {
        kr__sim_end(req, -ENOBUFS, 0);
        return false;
    }
    int64_t got = receive(req, place);
    if (got > 0 && selects(req))
        return buffer_filled(req, got);
    if (got > 0)
        own_filled(req, (size_t)got);
    else if (got == -EAGAIN)
        recv_wait(req);
    else
        recv_over(req, (int)got);
    return false;
}

static void recv_run(struct kr__sim_request *req) {
    kr__sim_stream_weather(req->file);
    for (unsigned i = 0; i < RECVS_A_TURN; i++) {
        if (!recv_one(req))
            return;
    }
    kr__sim_wait(req, POLLIN);
    kr__sim_ring_queue(req->ring, req);
}

static void recv_start(struct kr__sim_request *req) {
    if (req->sqe.ioprio & IORING_RECVSEND_POLL_FIRST)
        kr__sim_wait(req, POLLIN);
    else
        recv_run(req);
}

/* io_recvmsg_prep, io_uring/net.c. Not modelled: MSG_WAITALL into a buffer of the ring, MSG_PEEK
 * and other flags, the bound on a multishot's sum that came with 6.17, as did one on each of its
 * pieces. */
static int recv_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (sqe->file_index || sqe->addr2)
        return -EINVAL;
    if (sqe->ioprio & ~(IORING_RECVSEND_POLL_FIRST | IORING_RECV_MULTISHOT))
        return -EINVAL;
    if (sqe->msg_flags & ~(unsigned)(MSG_WAITALL | MSG_DONTWAIT | MSG_NOSIGNAL))
        return -EINVAL;
    if (selects(req) && wants_all(req))
        return -EINVAL;
    if (!is_multishot(req))
        return 0;
    bool bounded = sqe->len && req->ring->sim->version < KR__SIM_LINUX(6, 17);
    return selects(req) && !bounded ? 0 : -EINVAL;
}

static int recv_check(struct kr__sim_request *req) {
    return req->file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

const struct kr__sim_verb kr__sim_recv = {
    .needs_file = true,
    .prep = recv_prep,
    .check = recv_check,
    .start = recv_start,
    .run = recv_run,
    .fail = recv_fail,
};
