/* Send by zero-copy: the kernel sends from the lender's pages, and says when it refers to them no
 * more.
 *
 * Happy path: the large loans at the front of the queue go out in one SEND_ZC or SENDMSG_ZC; the
 * result, with F_MORE, consumes the queue as that of any send, and the next send may go; the
 * notification, which comes when the peer has acknowledged, gives the loans back. Only F_MORE says
 * whether a notification follows: one does after most errors, too.
 * Failure modes: memory may not be locked (-ENOMEM, or -ENOBUFS: the queue goes by copying, until a
 * notification has freed some, or the next queue begins); the socket cannot (-EOPNOTSUPP), or the
 * kernel had to copy all the same, as it does for every receiver on this machine (ZC_COPIED): not
 * tried again on this connection; any other error is as that of a send
 * (conn/error.c). A notification that does not come, because the peer acknowledges nothing:
 * after the close flush_ns bounds that (conn/life.c), by a reset.
 *
 * Relies on: kernel >= 6.1 for SENDMSG_ZC; REPORT_USAGE >= 6.2 (man io_uring_prep_send_zc). A
 * request of which nothing was sent reports its pages as copied (io_uring/notif.c: zc_report and
 * not zc_used), hence `failed`. tcp_disconnect frees what was sent and not acknowledged, and the
 * notifications come (observed on 6.18). Locked pages are charged to the user of a ring that was
 * made without CAP_IPC_LOCK (io_uring/notif.h). */
#include "conn/queue.h"
#include "conn/send.h"
#include "conn/zerocopy.h"
#include "kernel/probe.h"

static uint16_t usage(const struct kr_reactor *r) {
    return r->ring.caps & KR__CAP_ZC_REPORT ? KR__SEND_ZC_REPORT_USAGE : 0;
}

uint16_t kr__prep_send_zc(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    struct kr__conn *c = kr__owner_conn(o);
    struct kr__zc_sends *zc_sends = &c->more->zerocopy.zc_sends;
    unsigned run = kr__sendq_run(&c->queue, kr__zerocopy_min(c), KR__VECTOR_PIECES);
    unsigned count = kr__send_fill(r, c, sqe, run);
    sqe->opcode = sqe->opcode == IORING_OP_SEND ? IORING_OP_SEND_ZC : IORING_OP_SENDMSG_ZC;
    sqe->ioprio = usage(r);
    r->zc_sends++;
    kr__count(&r->stats.zerocopy_sends, 1);
    return o->number = kr__zc_send_start(zc_sends, &c->queue, count);
}

static void landed(struct kr_reactor *r, struct kr__conn *c, uint16_t number) {
    r->zc_sends--;
    kr__zc_send_end(&c->more->zerocopy.zc_sends, &r->sends, &c->queue, number);
}

static void notified(struct kr_reactor *r, struct kr__conn *c, const struct kr__completion *how) {
    struct kr__zerocopy *z = &c->more->zerocopy;
    bool flew = how->operand != z->failed;
    if (flew && (uint32_t)how->res & KR__NOTIF_ZC_COPIED) {
        kr__mark(flight_copied);
        z->off = true;
        kr__count(&r->stats.zerocopy_copied, 1);
    }
    if (flew)
        z->refused = false;
    kr__time_reach(&c->idle_from, r->now);
    kr__time_reach(&c->write_from, r->now);
    landed(r, c, how->operand);
}

/* Nothing was sent. */
static void refused(struct kr_reactor *r, struct kr__conn *c, const struct kr__completion *how) {
    struct kr__zerocopy *z = &c->more->zerocopy;
    z->failed = how->operand;
    switch (-how->res) {
    case 0:
    case ECANCELED:
    case EINTR:
        return; /* sent again if it is wanted */
    case EAGAIN:
        kr__send_met_full(r, c);
        return;
    case ENOMEM:
    case ENOBUFS:
        kr__mark(flight_refused);
        z->refused = true;
        return;
    case EOPNOTSUPP:
        z->off = true;
        return;
    default:
        kr__conn_send_failed(r, c, how->res);
    }
}

static void resulted(struct kr_reactor *r, struct kr__conn *c, const struct kr__completion *how) {
    kr__send_ended(r, c);
    if (c->broken)
        kr__queue_drop(r, c);
    else if (how->res > 0)
        kr__send_took(r, c, (size_t)how->res);
    else
        refused(r, c, how);
}

/* The kernel has lost it: nobody knows what was taken, so nothing can follow. */
static void result_lost(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark(flight_result_lost);
    kr__send_ended(r, c);
    kr__conn_end(r, c, KR_CLOSE_RESET, -EBADR, KR_WHY_ERROR);
}

/* Several may be in flight, but only one without a result: that is the armed one. */
void kr__done_send_zc(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    struct kr__conn *c = kr__owner_conn(o);
    bool notifies = how->flags & IORING_CQE_F_NOTIF;
    bool lost = notifies && o->armed & KR__SET(send_zc) && how->operand == o->number;
    if (!notifies || lost) {
        o->armed &= ~KR__SET(send_zc);
        o->cancelled &= ~KR__SET(send_zc);
    }
    if (lost)
        result_lost(r, c);
    if (notifies) {
        notified(r, c, how);
        return;
    }
    resulted(r, c, how);
    kr__mark_if(flight_without_notification, !(how->flags & IORING_CQE_F_MORE));
    if (how->flags & IORING_CQE_F_MORE)
        kr__conn_settle(r, c); /* the loop does it for the last completion only */
    else
        landed(r, c, how->operand);
}
