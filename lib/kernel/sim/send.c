/* SEND and SENDMSG, as io_uring/net.c does them.
 *
 * Happy path: what there is room for is taken, and the count is the result. Failure: the stream has ended;
 * and the program has changed what it had lent, which ends the process. */
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

/* The program may not touch what is being sent until the completion. */
static void payload_compare(const struct kr__sim_request *req) {
    size_t at = 0;
    for (int i = 0; i < req->piece_count; i++) {
        size_t size = req->pieces[i].iov_len;
        if (memcmp(req->payload + at, req->pieces[i].iov_base, size))
            kr__sim_broken("bytes were changed while they were being sent: request %#llx",
                           (unsigned long long)req->sqe.user_data);
        at += size;
    }
}

static void send_end(struct kr__sim_request *req, int64_t res) {
    payload_compare(req);
    kr__sim_end(req, req->done ? (int64_t)req->done : res, 0);
}

/* Takes what there is room for, and completes with that count. The library asks for no MSG_WAITALL, by
 * which the kernel would go on by itself (io_send, io_uring/net.c). */
static void send_run(struct kr__sim_request *req) {
    kr__sim_stream_weather(req->file);
    struct kr_sim *sim = req->ring->sim;
    size_t part = req->size - req->done;
    if (kr__sim_chance(sim, KR_SIM_SHORT_SEND))
        part = kr__sim_some(sim, part);
    int64_t sent = kr__sim_stream_send(req->file, req->payload + req->done, part);
    if (sent == -EAGAIN) {
        kr__sim_wait(req, KR__SIM_OUT);
        return;
    }
    if (sent < 0) {
        send_end(req, sent);
        return;
    }
    req->done += (size_t)sent;
    send_end(req, 0);
}

static void send_pieces(struct kr__sim_request *req, const struct iovec *pieces, size_t count) {
    req->pieces = kr__sim_alloc(count * sizeof *pieces);
    memcpy(req->pieces, pieces, count * sizeof *pieces);
    req->piece_count = (int)count;
    for (size_t i = 0; i < count; i++)
        req->size += pieces[i].iov_len;
    req->payload = kr__sim_alloc(req->size);
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(req->payload + at, pieces[i].iov_base, pieces[i].iov_len);
        at += pieces[i].iov_len;
    }
}

static int send_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (sqe->msg_flags & MSG_WAITALL)
        return -EINVAL; /* not modelled */
    void *memory = (void *)(uintptr_t)sqe->addr;
    if (sqe->opcode == IORING_OP_SEND) {
        send_pieces(req, &(struct iovec){memory, sqe->len}, 1);
    } else {
        const struct msghdr *msg = memory;
        if (msg->msg_iovlen > 1024) /* UIO_MAXIOV */
            return -EMSGSIZE;
        send_pieces(req, msg->msg_iov, msg->msg_iovlen);
    }
    return 0;
}

static int send_check(struct kr__sim_request *req) {
    return req->file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

static void send_cancel(struct kr__sim_request *req) {
    if (req->payload)
        send_end(req, -ECANCELED);
    else
        kr__sim_end(req, -ECANCELED, 0);
}

const struct kr__sim_verb kr__sim_send = {
    .needs_file = true,
    .prep = send_prep,
    .check = send_check,
    .run = send_run,
    .cancel = send_cancel,
};
