/* What a send sends.
 *
 * Happy path: bytes and their list are copied at submit (IORING_FEAT_SUBMIT_STABLE), and go out
 * from the copy. Failure: the program has changed the original before it was told that it may,
 * which on a real kernel may send anything: that ends the process. */
#include "kernel/sim/control.h"
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

static void pieces_take(struct kr__sim_request *req, const struct iovec *pieces, size_t count) {
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

int kr__sim_payload_take(struct kr__sim_request *req) {
    void *memory = (void *)(uintptr_t)req->sqe.addr;
    if (req->sqe.opcode == IORING_OP_SEND || req->sqe.opcode == IORING_OP_SEND_ZC) {
        pieces_take(req, &(struct iovec){memory, req->sqe.len}, 1);
        return 0;
    }
    req->msg = *(const struct msghdr *)memory;
    if (req->msg.msg_iovlen > 1024) /* UIO_MAXIOV */
        return -EMSGSIZE;
    pieces_take(req, req->msg.msg_iov, req->msg.msg_iovlen);
    req->control = kr__sim_alloc(req->msg.msg_controllen);
    if (req->msg.msg_controllen)
        memcpy(req->control, req->msg.msg_control, req->msg.msg_controllen);
    return 0;
}

static void changed(const struct kr__sim_request *req) {
    kr__sim_broken("bytes were changed while they were being sent: request %#llx",
                   (unsigned long long)req->sqe.user_data);
}

void kr__sim_payload_check(const struct kr__sim_request *req) {
    size_t at = 0;
    for (int i = 0; i < req->piece_count; i++) {
        size_t size = req->pieces[i].iov_len;
        if (memcmp(req->payload + at, req->pieces[i].iov_base, size))
            changed(req);
        at += size;
    }
    if (req->control && req->msg.msg_controllen &&
        memcmp(req->control, req->msg.msg_control, req->msg.msg_controllen))
        changed(req);
}

/* With the files that go with the first byte. The kernel looks control data up at each try
 * (sr->msg_control, io_uring/net.c), so descriptors must stay open until the completion. */
static int64_t send_part(struct kr__sim_request *req, size_t part) {
    const char *data = req->payload + req->done;
    if (!req->msg.msg_controllen || req->done)
        return kr__sim_stream_send(req->file, data, part);
    struct kr__sim_gift *gift = NULL;
    int64_t rc = 0;
    if (req->file->stream.local)
        rc = kr__sim_control_read(req->ring->sim, req->msg.msg_control, req->msg.msg_controllen,
                                  &gift);
    if (rc == 0)
        rc = kr__sim_stream_send_files(req->file, data, part, gift);
    if (rc <= 0)
        kr__sim_gift_free(gift);
    return rc;
}

int64_t kr__sim_payload_send(struct kr__sim_request *req) {
    kr__sim_stream_weather(req->file);
    struct kr_sim *sim = req->ring->sim;
    size_t part = req->size - req->done;
    if (part && kr__sim_chance(sim, KR_SIM_SHORT_SEND))
        part = kr__sim_some(sim, part);
    int64_t sent = send_part(req, part);
    if (sent > 0)
        req->done += (size_t)sent;
    bool noted = sent > 0 && !req->file->stream.local;
    if (noted && kr__sim_chance(sim, KR_SIM_ERROR_QUEUE))
        kr__sim_stream_note(req->file); /* its time stamp, maybe */
    return sent;
}
