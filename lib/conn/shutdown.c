/* Shutdown: ends this side of a stream, when all that was queued has been sent: because its user
 * wants so, or because a close lingers.
 *
 * Happy path: FIXED_FD_INSTALL (kernel >= 6.8) completes with a descriptor of the socket, by which
 * shutdown(2) sends FIN behind the last byte, and which is closed again; the receive in flight goes
 * on. A connection that has kept its descriptor, or has one in its slot, uses that one, when a NOP
 * has completed.
 * Failure modes: no descriptor can be made, or the kernel is older (SHUTDOWN in the ring); no
 * worker can be made for that (RLIMIT_NPROC, a pids cgroup: -ECANCELED, io_uring/io-wq.c; tried
 * again, by a descriptor first where the kernel has that: the second request waits in the kernel
 * until there is a worker, observed on 6.18); any other error ends the connection with it, since a
 * peer that waits for our end would wait for ever; but one that has reset (-ENOTCONN) is heard to
 * its end first (conn/error.c). A close while it is in flight waits for it: it is never
 * cancelled, as it ends by itself.
 *
 * Why not SHUTDOWN in the first place: it is always given to a kernel worker (io_shutdown_prep,
 * io_uring/net.c; observed on 6.18), a thread of its own for each of many that end at a time, which
 * a limit of processes refuses. By a descriptor it takes as much CPU: 9.0 us against 9.2 us singly,
 * 7.8 us against 5.8 us 64 at a time (6.18, medians). shutdown(2) does not wait for the peer (man 2
 * shutdown). CLOSE alone sends FIN too: this is for those who read on. */
#include "conn/hooks.h"
#include "conn/op.h"
#include "kernel/probe.h"

#include <sys/socket.h>

/* The tag's operand. */
enum way { BY_WORKER, BY_OWN, BY_FRESH };

/* Kept, or in the slot of a plain table; -1: neither. */
static int own_fd(const struct kr_reactor *r, const struct kr__conn *c) {
    return c->more && c->more->fd >= 0 ? c->more->fd : kr__slots_fd(&r->slots, c->owner.slot);
}

static enum way way_of(const struct kr_reactor *r, const struct kr__conn *c) {
    if (own_fd(r, c) >= 0)
        return BY_OWN;
    return r->ring.caps & KR__CAP_FD_INSTALL && !c->fd_refused ? BY_FRESH : BY_WORKER;
}

uint16_t kr__prep_shutdown(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    struct kr__conn *c = kr__owner_conn(o);
    kr__assert(!c->queued);
    enum way way = way_of(r, c);
    if (way == BY_WORKER)
        io_uring_prep_shutdown(sqe, 0, SHUT_WR);
    else
        sqe->opcode = way == BY_FRESH ? KR__OP_FIXED_FD_INSTALL : IORING_OP_NOP;
    return (uint16_t)way;
}

static int end_by(struct kr_reactor *r, int fd, bool fresh) {
    int rc = r->kernel->socket.shutdown(r->kernel, fd);
    if (fresh)
        r->kernel->file.close(r->kernel, fd);
    return rc;
}

/* What came of it, once what a completion has made possible is done. */
static int outcome(struct kr_reactor *r, const struct kr__conn *c,
                   const struct kr__completion *how) {
    if (how->res < 0 || how->operand == BY_WORKER)
        return how->res;
    bool fresh = how->operand == BY_FRESH;
    return end_by(r, fresh ? how->res : own_fd(r, c), fresh);
}

/* True if there is another way, by which it is made again. */
static bool try_otherwise(struct kr__conn *c, const struct kr__completion *how) {
    bool no_descriptor = how->operand == BY_FRESH && how->res < 0;
    bool no_worker = how->operand == BY_WORKER && how->res == -ECANCELED;
    kr__mark_if(shutdown_without_descriptor, no_descriptor);
    kr__mark_if(shutdown_without_worker, no_worker);
    if (no_descriptor || no_worker)
        c->fd_refused = no_descriptor;
    return no_descriptor || no_worker;
}

void kr__done_shutdown(struct kr_reactor *r, struct kr__owner *o,
                       const struct kr__completion *how) {
    struct kr__conn *c = kr__owner_conn(o);
    if (try_otherwise(c, how))
        return;
    int rc = outcome(r, c, how);
    kr__mark_if(shutdown_failed, rc < 0);
    if (rc < 0) {
        kr__conn_send_failed(r, c, rc);
        return;
    }
    c->fin = true;
    kr__time_reach(&c->write_from, r->now); /* from which one that lingers counts its patience */
    if (kr__unlikely(c->features))
        kr__hooks_sent(r, c);
}

int kr_conn_shutdown(struct kr_reactor *r, kr_conn conn) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!kr__conn_is_usable(c))
        return -EPIPE;
    if (c->write_only) { /* a pipe has no other way to tell */
        kr__conn_end(r, c, KR_CLOSE_FLUSH, 0, KR_WHY_LOCAL);
        return 0;
    }
    c->half = true;
    kr__conn_dirty(r, c);
    return 0;
}
