/* Receive poll: waits until there is something to receive, for receives of one shot.
 *
 * As sends (conn/send_poll.c), receives of one shot never wait in the kernel: one that is tried in
 * vain too often is given to a kernel worker, which sleeps with a receive buffer in its hands.
 * Multishot receives are never given to one (io_uring/poll.c), and need no poll.
 *
 * Happy path: a poll of one shot for POLLIN; at its completion the receive is made. On Unix sockets
 * and pipes it comes before each receive but the first, unless the last one filled its buffer.
 * Failure modes: another reason stands, so that a poll of one shot would complete at once for ever
 * (the connection goes over to a multishot poll, which tells of each wake-up, and is kept as long
 * as the connection reads; after each wake-up receives are made until one finds nothing); the poll
 * itself is refused (it is made again after a while).
 *
 * Relies on the same as conn/send_poll.c. */
#include "conn/op.h"
#include "conn/recv.h"

#include <poll.h>

uint16_t kr__prep_recv_poll(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    struct kr__conn *c = kr__owner_conn(o);
    kr__recv_begins(r, c);
    io_uring_prep_poll_add(sqe, 0, POLLIN);
    if (c->recv_by_wake)
        sqe->len = IORING_POLL_ADD_MULTI;
    return 0;
}

void kr__done_recv_poll(struct kr_reactor *r, struct kr__owner *o,
                        const struct kr__completion *how) {
    struct kr__conn *c = kr__owner_conn(o);
    c->recv_goes_on = how->res >= 0;
    if (how->res >= 0 && !(how->res & (POLLIN | POLLHUP | POLLRDHUP)))
        kr__recv_by_wake(c);
    c->recv_waits = false;
    if (how->res < 0 && how->res != -ECANCELED) {
        kr__recv_wait(r, c);
        kr__conn_rest(r, c);
    }
    if (how->flags & IORING_CQE_F_MORE)
        kr__conn_settle(r, c); /* the loop does it for the last completion only */
}
