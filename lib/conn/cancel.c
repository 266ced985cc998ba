/* Cancel: ends another request, found by its tag, which costs one hash bucket; by descriptor it
 * would be a scan of everything (io_uring/poll.c).
 *
 * Happy path: the cancel leaves no completion of its own (CQE_SKIP_SUCCESS), the cancelled request
 * completes with -ECANCELED, or with what it had done already.
 * Failure: -ENOENT, it has completed, and its completion is on the way, or it is between two tries
 * of its own, where no cancel finds it (io_poll_check_events, io_uring/poll.c; observed on 6.18);
 * -EALREADY, it is just running. In either case the cancel is made again, until the completion has
 * come; but not of a read that a worker has begun, which runs on to its end, and not after the
 * kernel has lost completions, of which that may be one. Where a cancel is for
 * several requests its completion says how many it has found, and those that it has not found are
 * cancelled again. The loop fills the SQE: only it knows the tag to cancel. */
#include "conn/op.h"

uint16_t kr__prep_cancel(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    (void)o;
    io_uring_prep_cancel64(sqe, 0, 0);
    return 0;
}

void kr__done_cancel(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    kr__mark_if(cancel_came_late, how->res == -ENOENT);
    bool begun = how->res == -EALREADY && 1u << how->operand & KR__VERBS_THAT_RUN_ON;
    if (begun || r->lost || !(o->armed & o->cancelled & 1u << how->operand))
        return;
    kr__mark(cancel_again);
    o->cancelled &= ~(1u << how->operand);
    kr__owner_dirty(r, o);
}
