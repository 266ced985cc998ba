/* Close: gives a slot back to the kernel, when nothing else of its owner is in flight.
 *
 * Happy path: CLOSE of the direct descriptor, without the fixed-file flag, by file index
 * (io_uring/openclose.c). The kernel drops the last reference to the socket, so that the peer sees
 * FIN. Before 6.13 it does not, if older requests are armed (kernel/plain.h): there the slot is a
 * plain descriptor, which is closed.
 * Failure: an error of CLOSE means that the slot was empty; the owner is as gone. */
#include "conn/op.h"

uint16_t kr__prep_close(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    kr__assert(o->inflight == 0);
    io_uring_prep_close(sqe, 0);
    return 0;
}

void kr__done_close(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    (void)how;
    r->kinds[o->kind].closed(r, o);
}

int kr_conn_close(struct kr_reactor *r, kr_conn conn, enum kr_close how) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if ((unsigned)how > KR_CLOSE_RESET)
        return -EINVAL;
    kr__conn_end(r, c, how, 0, KR_WHY_LOCAL);
    return 0;
}
