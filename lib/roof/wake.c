/* Wake: a multishot poll on the inbox's eventfd, armed as long as the reactor lives.
 *
 * Happy path: another thread writes, the poll completes, the wait ends; what was posted is run by
 * the turn's inbox phase. Failure: the multishot ends (CQ overflow) and is armed again; the counter
 * of an eventfd that is never read stays readable, so that the new poll completes at once and
 * nothing is lost. */
#include "conn/op.h"
#include "roof/post.h"

#include <poll.h>

uint16_t kr__prep_wake(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)o;
    io_uring_prep_poll_multishot(sqe, r->inbox->wake_fd, POLLIN);
    return 0;
}

void kr__done_wake(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    (void)r;
    (void)o;
    (void)how;
}
