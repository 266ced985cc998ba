/* Install: gives an accepted descriptor a slot of the table, which the kernel chooses.
 *
 * Happy path: IORING_OP_FILES_UPDATE with IORING_FILE_INDEX_ALLOC (kernel >= 6.0) writes the slot
 * over the descriptor in our memory and completes with 1; a table of plain descriptors takes a copy
 * of it then. The descriptor is closed, or kept by the connection, which arrives.
 * Failure: the table is full or memory is short; the descriptor is closed, which the client sees.
 * It does not happen for want of slots, as one was set aside. */
#include "conn/op.h"
#include "listen/listener.h"

uint16_t kr__prep_install(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    struct kr__listener *l = kr__owner_listener(o);
    unsigned i = 0;
    while (l->arrivals[i].fd < 0 || l->arrivals[i].installing)
        i++;
    kr__assert(i < KR__ACCEPT_ONES);
    l->arrivals[i].installing = true;
    l->installing++;
    io_uring_prep_files_update(sqe, &l->arrivals[i].cell, 1, (int)IORING_FILE_INDEX_ALLOC);
    return (uint16_t)i;
}

void kr__done_install(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    struct kr__listener *l = kr__owner_listener(o);
    if (--l->installing == 0)
        o->armed &= ~KR__SET(install);
    struct kr__arrival a = l->arrivals[how->operand];
    int slot = kr__slots_installed(&r->slots, how->res, a.cell);
    bool kept = slot >= 0 && l->opts.conn.keep_fd;
    if (kept)
        l->arrivals[how->operand].fd = -1;
    kr__arrival_drop(r, l, how->operand);
    if (slot < 0) {
        kr__mark(install_failed);
        kr__listener_failed(r, l, slot);
        return;
    }
    kr__conn_arrive(r, (uint32_t)slot, l, l->opts.addresses ? a.addrs : NULL, kept ? a.fd : -1);
}
