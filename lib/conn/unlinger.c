/* Unlinger: takes SO_LINGER from a connection's socket, before its CLOSE.
 *
 * Of sockets that others have made, or can reach: with a time to linger CLOSE would wait, in this
 * thread, until the peer has acknowledged all bytes or the time is over (inet_release,
 * net/ipv4/af_inet.c; observed on 6.18), and with none it would send RST and drop what is on its
 * way. An accepted socket has it from the one that listens as that was when the handshake ended
 * (sk_clone_lock, net/core/sock.c), so one that has waited in the backlog keeps what was taken from
 * the listener since; and whoever shares a socket may set it at any time.
 *
 * Happy path: URING_CMD with SOCKET_URING_OP_SETSOCKOPT (kernel >= 6.7; asked for from 6.8 on, as
 * in extra/sockopt_op.c) is done at submit. On older kernels such connections are accepted by descriptor,
 * on which it is done at once (listen/accept.c).
 * Failure: the kernel, or a filter of its (BPF), refuses; the CLOSE that follows may wait. */
#include "conn/op.h"

#include <sys/socket.h>

/* Where the fields stand in the SQE: liburing >= 2.6, struct io_uring_sqe. */
uint16_t kr__prep_unlinger(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    (void)o;
    static const struct linger off;
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->off = KR__SOCKET_SETSOCKOPT;
    sqe->addr = (uint64_t)SOL_SOCKET | (uint64_t)SO_LINGER << 32;
    sqe->file_index = sizeof off;
    sqe->addr3 = (uint64_t)(uintptr_t)&off;
    return 0;
}

void kr__done_unlinger(struct kr_reactor *r, struct kr__owner *o,
                       const struct kr__completion *how) {
    (void)r;
    kr__mark_if(unlinger_refused, how->res < 0);
    kr__owner_conn(o)->lingers = false;
}
