/* RECVMSG, as io_uring/net.c does it: once, or multishot into the ring's buffers.
 *
 * Happy path: bytes go to the message's pieces, or to one buffer; descriptors that come with them
 * to its control memory. Multishot, all of that goes to the buffer, behind a struct
 * io_uring_recvmsg_out: name, control and bytes, in places that follow from what the request asked
 * for. Failure: as a RECV's; a buffer that is smaller than what comes before the bytes (-EFAULT);
 * control memory that is (MSG_CTRUNC).
 *
 * Facts: the message header is read at submit, and its controllen and flags are written at the
 * completion (____sys_recvmsg, net/socket.c), where the program must still have it. The end of the
 * stream completes a multishot request with a buffer that has no bytes (io_recvmsg_multishot). */
#include "kernel/sim/control.h"
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

#include "base/poison.h"

#define RECVS_A_TURN 32u

/* What a receive has brought. */
struct taken {
    int64_t got;
    struct kr__sim_gift *gift;
    int flags; /* MSG_* */
};

static bool selects(const struct kr__sim_request *req) {
    return req->sqe.flags & IOSQE_BUFFER_SELECT;
}

static bool is_multishot(const struct kr__sim_request *req) {
    return req->sqe.ioprio & IORING_RECV_MULTISHOT;
}

static int pieces_check(const struct kr__sim_request *req) {
    if (selects(req))
        return req->msg.msg_iovlen > 1 ? -EINVAL : 0;
    return req->msg.msg_iovlen > 1024 ? -EMSGSIZE : 0;
}

static void pieces_take(struct kr__sim_request *req) {
    size_t count = req->msg.msg_iovlen;
    req->pieces = kr__sim_alloc(count * sizeof *req->pieces);
    if (count)
        memcpy(req->pieces, req->msg.msg_iov, count * sizeof *req->pieces);
    req->piece_count = (int)count;
    for (size_t i = 0; i < count; i++)
        req->size += req->pieces[i].iov_len;
}

/* io_recvmsg_prep. Not modelled: MSG_WAITALL and other flags, names. */
static int recvmsg_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    unsigned flags = MSG_CMSG_CLOEXEC | MSG_DONTWAIT | MSG_NOSIGNAL;
    if (sqe->file_index || sqe->addr2 || sqe->msg_flags & ~flags)
        return -EINVAL;
    if (sqe->ioprio & ~(IORING_RECVSEND_POLL_FIRST | IORING_RECV_MULTISHOT))
        return -EINVAL;
    if (is_multishot(req) && !selects(req))
        return -EINVAL;
    req->msg = *(const struct msghdr *)(uintptr_t)sqe->addr;
    int rc = pieces_check(req);
    if (rc == 0)
        pieces_take(req);
    return rc;
}

static int recvmsg_check(struct kr__sim_request *req) {
    return req->file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

static void recvmsg_wait(struct kr__sim_request *req) {
    if (req->sqe.msg_flags & MSG_DONTWAIT)
        kr__sim_end(req, -EAGAIN, 0);
    else
        kr__sim_wait(req, POLLIN);
}

static struct taken take(struct kr__sim_request *req, char *to, size_t size) {
    struct taken t = {0};
    if (size && kr__sim_chance(req->ring->sim, KR_SIM_SHORT_RECV))
        size = kr__sim_some(req->ring->sim, size);
    t.got = kr__sim_stream_recv_files(req->file, to, size, &t.gift);
    return t;
}

/* What is in the control memory then; its room is used up from the front. */
static size_t control_fill(struct kr__sim_request *req, struct taken *t, char *control,
                           size_t room) {
    bool truncated;
    size_t used = kr__sim_control_write(req->ring->sim, t->gift, control, room, &truncated);
    t->gift = NULL;
    t->flags = (int)(req->sqe.msg_flags & MSG_CMSG_CLOEXEC) | (truncated ? MSG_CTRUNC : 0);
    return used;
}

/* ---- once ---- */

static void scatter(const struct kr__sim_request *req, const char *from, size_t size) {
    for (int i = 0; size; i++) {
        size_t part = kr__min_size(size, req->pieces[i].iov_len);
        memcpy(req->pieces[i].iov_base, from, part);
        from += part;
        size -= part;
    }
}

/* Into the program's own memory. */
static struct taken take_own(struct kr__sim_request *req) {
    char *bytes = kr__sim_alloc(req->size);
    struct taken t = take(req, bytes, req->size);
    if (t.got > 0)
        scatter(req, bytes, (size_t)t.got);
    free(bytes);
    return t;
}

static struct taken take_selected(struct kr__sim_request *req, const struct io_uring_buf *buf) {
    char *to = (char *)(uintptr_t)buf->addr;
    size_t size = req->size ? kr__min_size(req->size, buf->len) : buf->len;
    kr__unpoison(to, size);
    struct taken t = take(req, to, size);
    kr__poison(to, size);
    return t;
}

static void run_once(struct kr__sim_request *req) {
    const struct io_uring_buf *buf = NULL;
    if (selects(req))
        buf = req->holds ? &req->buffer : kr__sim_bufs_next(&req->ring->bufs);
    if (selects(req) && !buf) {
        kr__sim_end(req, -ENOBUFS, 0);
        return;
    }
    struct taken t = buf ? take_selected(req, buf) : take_own(req);
    if (t.got == -EAGAIN) {
        recvmsg_wait(req);
        return;
    }
    if (t.got < 0) {
        kr__sim_end(req, t.got, 0);
        return;
    }
    struct msghdr *msg = (struct msghdr *)(uintptr_t)req->sqe.addr;
    msg->msg_controllen = control_fill(req, &t, req->msg.msg_control, req->msg.msg_controllen);
    msg->msg_flags = t.flags;
    uint32_t flags = kr__sim_nonempty(req);
    if (buf && t.got && !req->holds)
        flags |= IORING_CQE_F_BUFFER |
                 (uint32_t)kr__sim_bufs_use(&req->ring->bufs) << IORING_CQE_BUFFER_SHIFT;
    kr__sim_end(req, t.got, flags);
}

/* ---- multishot ---- */

static size_t head_size(const struct kr__sim_request *req) {
    return sizeof(struct io_uring_recvmsg_out) + req->msg.msg_namelen + req->msg.msg_controllen;
}

static void head_write(struct kr__sim_request *req, char *buffer, struct taken *t) {
    size_t before = sizeof(struct io_uring_recvmsg_out) + req->msg.msg_namelen;
    size_t used = control_fill(req, t, buffer + before, req->msg.msg_controllen);
    struct io_uring_recvmsg_out out = {
        .controllen = (uint32_t)used,
        .payloadlen = (uint32_t)t->got,
        .flags = (uint32_t)t->flags,
    };
    memcpy(buffer, &out, sizeof out);
}

/* True: there is more. */
static bool run_shot(struct kr__sim_request *req) {
    const struct io_uring_buf *buf = kr__sim_bufs_next(&req->ring->bufs);
    if (!buf || buf->len < head_size(req)) {
        kr__sim_end(req, buf ? -EFAULT : -ENOBUFS, 0);
        return false;
    }
    char *to = (char *)(uintptr_t)buf->addr;
    size_t size = buf->len;
    kr__unpoison(to, size);
    struct taken t = take(req, to + head_size(req), size - head_size(req));
    if (t.got >= 0)
        head_write(req, to, &t);
    kr__poison(to, size);
    if (t.got == -EAGAIN) {
        recvmsg_wait(req);
        return false;
    }
    if (t.got < 0) {
        kr__sim_end(req, t.got, 0);
        return false;
    }
    uint32_t flags = kr__sim_nonempty(req) | IORING_CQE_F_BUFFER |
                     (uint32_t)kr__sim_bufs_use(&req->ring->bufs) << IORING_CQE_BUFFER_SHIFT;
    int32_t res = (int32_t)((size_t)t.got + head_size(req));
    bool on = t.got && !kr__sim_chance(req->ring->sim, KR_SIM_RECV_END);
    if (!on || !kr__sim_ring_post(req->ring, req, res, flags | IORING_CQE_F_MORE)) {
        kr__sim_end(req, res, flags);
        return false;
    }
    return true;
}

static void run_many(struct kr__sim_request *req) {
    for (unsigned i = 0; i < RECVS_A_TURN; i++) {
        if (!run_shot(req))
            return;
    }
    kr__sim_wait(req, POLLIN);
    kr__sim_ring_queue(req->ring, req);
}

static void recvmsg_run(struct kr__sim_request *req) {
    kr__sim_stream_weather(req->file);
    if (is_multishot(req))
        run_many(req);
    else
        run_once(req);
}

static void recvmsg_start(struct kr__sim_request *req) {
    if (req->sqe.ioprio & IORING_RECVSEND_POLL_FIRST)
        kr__sim_wait(req, POLLIN);
    else
        recvmsg_run(req);
}

const struct kr__sim_verb kr__sim_recvmsg = {
    .needs_file = true,
    .prep = recvmsg_prep,
    .check = recvmsg_check,
    .start = recvmsg_start,
    .run = recvmsg_run,
};
