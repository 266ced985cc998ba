/* Sockopt: sets an option of a connection's socket.
 *
 * Happy path: URING_CMD with SOCKET_URING_OP_SETSOCKOPT (kernel >= 6.7; asked for from 6.8 on, as
 * there is no other sign of it) is done at submit, so that what is submitted behind it goes with
 * the new value. The value is in the record, which stays until the completion. What is set already
 * is a NOP. Failure: the kernel's word (extra/sockopt.c). Never cancelled: it does not wait. */
#include "conn/op.h"
#include "extra/sockopt.h"

/* Where the fields stand in the SQE: liburing >= 2.6, struct io_uring_sqe. */
uint16_t kr__prep_sockopt(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    const struct kr__sockopt *opt = kr__sockopt_first(kr__owner_conn(o));
    if (opt->at >= opt->steps.count) {
        io_uring_prep_nop(sqe);
        return 0;
    }
    const struct kr__sock_step *step = &opt->steps.step[opt->at];
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->off = KR__SOCKET_SETSOCKOPT;
    sqe->addr = (uint32_t)step->level | (uint64_t)(uint32_t)step->name << 32;
    sqe->file_index = sizeof step->value;
    sqe->addr3 = (uint64_t)(uintptr_t)&step->value;
    return 0;
}

void kr__done_sockopt(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    kr__sockopt_answered(r, kr__owner_conn(o), how->res < 0 ? how->res : 0);
}
