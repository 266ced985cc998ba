/* Shutdown: ends this side of a stream, when all that was queued has been sent: because its user
 * wants so, or because a close lingers.
 *
 * Happy path: SHUTDOWN of the writing half sends FIN behind the last byte; the receive in flight
 * goes on.
 * Failure modes: any error ends the connection with it, since a peer that waits for our end would
 * wait for ever (-ENOTCONN: the peer has reset; -ECANCELED: the kernel could not make a worker,
 * io_uring/io-wq.c). A close while it is in flight waits for it: it is never cancelled, as it ends
 * by itself.
 *
 * Relies on: SHUTDOWN is always given to a kernel worker (io_shutdown_prep, io_uring/net.c;
 * observed on 6.18), so it completes later than what is submitted with it, and may complete after
 * the cancel of a receive has. CLOSE alone sends FIN too, without a worker: this is for those who
 * read on. */
#include "core/forward.h"
#include "op/op.h"

#include <sys/socket.h>

uint16_t kr__prep_shutdown(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    kr__assert(!kr__owner_conn(o)->queued);
    io_uring_prep_shutdown(sqe, 0, SHUT_WR);
    return 0;
}

void kr__done_shutdown(struct kr_reactor *r, struct kr__owner *o,
                       const struct kr__completion *how) {
    struct kr__conn *c = kr__owner_conn(o);
    kr__mark_if(shutdown_failed, how->res < 0);
    if (how->res < 0) {
        kr__conn_end(r, c, KR_CLOSE_NOW, how->res, KR_WHY_ERROR);
        return;
    }
    c->fin = true;
    kr__time_reach(&c->write_from, r->now); /* from which one that lingers counts its patience */
    if (c->paired)
        kr__forward_sent(r, c);
}

int kr_conn_shutdown(struct kr_reactor *r, kr_conn conn) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!kr__conn_lives(c))
        return -EPIPE;
    if (c->deaf) { /* a pipe has no other way to tell */
        kr__conn_end(r, c, KR_CLOSE_FLUSH, 0, KR_WHY_LOCAL);
        return 0;
    }
    c->half = true;
    kr__conn_dirty(r, c);
    return 0;
}
