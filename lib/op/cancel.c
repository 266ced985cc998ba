/* Cancel: ends another request, found by its tag, which costs one hash bucket; by descriptor it
 * would be a scan of everything (io_uring/poll.c).
 *
 * Happy path: the cancel leaves no completion of its own (CQE_SKIP_SUCCESS), the cancelled request
 * completes with -ECANCELED, or with what it had done already.
 * Failure: -ENOENT, it has completed meanwhile, and its completion is on the way; -EALREADY, it is
 * just running, and the cancel is made again; but not of a read, which runs on to its end. The loop
 * fills the SQE: only it knows the tag to cancel. */
#include "op/op.h"

uint16_t kr__prep_cancel(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    (void)o;
    io_uring_prep_cancel64(sqe, 0, 0);
    return 0;
}

void kr__done_cancel(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    kr__mark_if(cancel_came_late, how->res == -ENOENT);
    if (how->res != -EALREADY || how->operand == KR__VERB_read)
        return;
    kr__mark(cancel_again);
    o->cancelled &= ~(1u << how->operand);
    kr__owner_dirty(r, o);
}
