/* Export: a descriptor for what is in a slot, which a connection leaves by (extra/detach.c).
 *
 * Happy path: FIXED_FD_INSTALL (kernel >= 6.8) completes with a new descriptor of the same open
 * file, close-on-exec; of a table of plain descriptors it is a copy of the slot's own. Failure:
 * -EMFILE, -ENFILE, -ENOMEM; -EPERM by a security module. It is done at submit, and so never
 * cancelled. */
#include "conn/op.h"
#include "extra/detach.h"

uint16_t kr__prep_export(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    kr__assert(o->inflight == 0);
    sqe->opcode = KR__OP_FIXED_FD_INSTALL;
    return 0;
}

void kr__done_export(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    kr__detach_answered(r, kr__owner_conn(o), kr__slots_exported(&r->slots, how->res, o->slot));
}
