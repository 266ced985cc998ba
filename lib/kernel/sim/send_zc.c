/* SEND_ZC and SENDMSG_ZC, as io_uring/net.c and notif.c do them.
 *
 * Happy path: the result comes as a send's, with IORING_CQE_F_MORE; a second completion, with
 * IORING_CQE_F_NOTIF, says that the bytes are free. Failure: as a send's, also with both
 * completions, but for the few things that are refused before the notification exists; no memory
 * for that; memory that may not be locked (RLIMIT_MEMLOCK), which is -ENOMEM with both.
 *
 * Facts: loopback copies, and tells at once (observed on 6.18). A network keeps the bytes until the
 * far end has acknowledged them, which here is to have read them, or until the connection is reset;
 * the descriptor, the slot and the stream may be gone by then. The notification is not found by a
 * cancel. */
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

#define SOON_NS 20000u
#define LATE_NS UINT64_C(1000000000)

static struct kr__sim_request *notif_new(struct kr__sim_request *req) {
    struct kr__sim_request *notif = kr__sim_request_new(req->ring, &req->sqe, &kr__sim_notif);
    notif->passing = true;
    notif->copied = true;
    return notif;
}

/* Before kernel 6.2 an unknown flag was refused before the notification was made, as nearly all is
 * since. */
static int flags_check(struct kr__sim_request *req) {
    bool reports = req->ring->sim->version >= KR__SIM_LINUX(6, 2);
    unsigned known = IORING_RECVSEND_POLL_FIRST | (reports ? KR__SEND_ZC_REPORT_USAGE : 0);
    if (req->sqe.ioprio & ~known) {
        req->notif = reports ? notif_new(req) : NULL;
        return -EINVAL;
    }
    return 0;
}

/* io_send_zc_prep. Registered buffers are not modelled. */
static int zc_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (sqe->addr3 || sqe->__pad2[0] || sqe->flags & IOSQE_CQE_SKIP_SUCCESS)
        return -EINVAL;
    int rc = flags_check(req);
    if (rc < 0)
        return rc;
    if (kr__sim_chance(req->ring->sim, KR_SIM_ZC_NO_NOTIF))
        return -ENOMEM;
    req->notif = notif_new(req);
    req->notif->report = sqe->ioprio & KR__SEND_ZC_REPORT_USAGE;
    if (sqe->opcode == IORING_OP_SENDMSG_ZC && (sqe->addr2 || sqe->file_index))
        return -EINVAL;
    return kr__sim_payload_take(req);
}

/* Of the sockets known here, TCP can (SOCK_SUPPORT_ZC). */
static int zc_check(struct kr__sim_request *req) {
    if (req->file->kind != KR__SIM_STREAM)
        return -ENOTSOCK;
    return req->file->stream.local ? -EOPNOTSUPP : 0;
}

static void notif_run(struct kr__sim_request *notif) {
    kr__sim_payload_check(notif);
    bool copied = notif->report && notif->copied;
    kr__sim_end(notif, copied ? (int32_t)KR__NOTIF_ZC_COPIED : 0, IORING_CQE_F_NOTIF);
}

static void notif_due(struct kr_sim *sim, void *arg) {
    (void)sim;
    struct kr__sim_request *notif = arg;
    notif->work = NULL;
    kr__sim_ring_queue(notif->ring, notif);
}

void kr__sim_notif_release(struct kr__sim_request *notif) {
    struct kr_sim *sim = notif->ring->sim;
    kr__link_off(&notif->waiting);
    bool late = kr__sim_chance(sim, KR_SIM_ZC_LATE);
    int64_t in_ns = (int64_t)kr_sim_random(sim, late ? LATE_NS : SOON_NS);
    notif->work = kr__sim_event_new(sim, in_ns, notif_due, notif);
}

/* The network keeps what was sent for the far end. */
static bool is_held(struct kr__sim_request *req) {
    struct kr__sim_stream *s = req->file ? &req->file->stream : NULL;
    return req->done && !s->dead && s->other && kr__sim_chance(req->ring->sim, KR_SIM_ZC_HELD);
}

static void notif_start(struct kr__sim_request *req, struct kr__sim_request *notif) {
    if (!is_held(req)) {
        kr__sim_notif_release(notif);
        return;
    }
    struct kr__sim_stream *far = &req->file->stream.other->stream;
    notif->copied = false;
    notif->until = far->taken + far->size;
    kr__list_push(&far->held, &notif->waiting);
}

/* The bytes are the notification's to check now. */
static void payload_move(struct kr__sim_request *to, struct kr__sim_request *from) {
    to->pieces = from->pieces;
    to->piece_count = from->piece_count;
    to->payload = from->payload;
    from->pieces = NULL;
    from->piece_count = 0;
    from->payload = NULL;
}

static void zc_end(struct kr__sim_request *req, int res) {
    struct kr__sim_request *notif = req->notif;
    kr__sim_payload_check(req);
    kr__sim_end(req, req->done ? (int64_t)req->done : res, notif ? IORING_CQE_F_MORE : 0);
    if (!notif)
        return;
    req->notif = NULL;
    payload_move(notif, req);
    notif_start(req, notif);
}

static void zc_run(struct kr__sim_request *req) {
    if (!req->done && kr__sim_chance(req->ring->sim, KR_SIM_ZC_NO_MEMORY)) {
        zc_end(req, -ENOMEM);
        return;
    }
    int64_t sent = kr__sim_payload_send(req);
    bool all = req->sqe.msg_flags & MSG_WAITALL || req->working;
    bool on = sent >= 0 && req->done < req->size && all;
    if ((sent == -EAGAIN || on) && !(req->sqe.msg_flags & MSG_DONTWAIT))
        kr__sim_wait(req, POLLOUT);
    else
        zc_end(req, (int)sent);
}

static void zc_start(struct kr__sim_request *req) {
    if (req->sqe.ioprio & IORING_RECVSEND_POLL_FIRST)
        kr__sim_wait(req, POLLOUT);
    else
        zc_run(req);
}

const struct kr__sim_verb kr__sim_send_zc = {
    .needs_file = true,
    .prep = zc_prep,
    .check = zc_check,
    .start = zc_start,
    .run = zc_run,
    .fail = zc_end,
};
const struct kr__sim_verb kr__sim_notif = {.run = notif_run};
