/* Purge: takes what lies unread in a Unix socket, before its CLOSE, which would drop descriptors
 * among it in this thread (extra/descriptors.c).
 *
 * Happy path: descriptors are refused from now on (URING_CMD with SOCKET_URING_OP_SETSOCKOPT, as in
 * extra/sockopt_op.c, on kernels that can: >= 6.16), then RECVMSG, which does not wait, until nothing is
 * there. On older kernels a peer that goes on sending may leave one behind.
 * Failure: whatever the kernel answers but bytes, the CLOSE follows. */
#include "conn/op.h"
#include "extra/descriptors.h"

/* Where the fields stand in the SQE: liburing >= 2.6, struct io_uring_sqe. */
static void prep_refuse(struct io_uring_sqe *sqe) {
    static const int off;
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->off = KR__SOCKET_SETSOCKOPT;
    sqe->addr = (uint64_t)SOL_SOCKET | (uint64_t)KR__SO_PASSRIGHTS << 32;
    sqe->file_index = sizeof off;
    sqe->addr3 = (uint64_t)(uintptr_t)&off;
}

uint16_t kr__prep_purge(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    struct kr__conn *c = kr__owner_conn(o);
    if (c->more->fds->refused)
        io_uring_prep_recvmsg(sqe, 0, kr__fds_ask_purge(c), MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    else
        prep_refuse(sqe);
    return 0;
}

void kr__done_purge(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    struct kr__conn *c = kr__owner_conn(o);
    if (c->more->fds->refused)
        kr__fds_purged(r, c, how->res);
    else
        c->more->fds->refused = true;
}
