/* Accept: three verbs for one act.
 *
 *   accept      multishot into slots that the kernel chooses: one request for all clients
 *   accept_one  one-shot, likewise; several in flight, never more than there are slots (core/listener.c)
 *   accept_fd   one-shot to a plain descriptor, whose addresses can be asked; then install.c
 *
 * Happy path: the result is the slot, the connection arrives there. Failure modes: see core/listener.c.
 * Relies on: a one-shot accept with IORING_FILE_INDEX_ALLOC returns the slot; direct sockets take no
 * SOCK_CLOEXEC (-EINVAL) and need no SOCK_NONBLOCK (observed on 6.18); no address is asked of a
 * multishot accept, as each client's would overwrite the last. */
#include "op/op.h"

#include <sys/socket.h>

uint16_t kr__prep_accept(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    (void)o;
    io_uring_prep_multishot_accept_direct(sqe, 0, NULL, NULL, 0);
    return 0;
}

static void accepted(struct kr_reactor *r, struct kr__listener *l, int32_t res) {
    if (res < 0)
        kr__listener_failed(r, l, res);
    else
        kr__conn_arrive(r, (uint32_t)res, l, NULL);
}

void kr__done_accept(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    accepted(r, kr__owner_listener(o), how->res);
}

uint16_t kr__prep_accept_one(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    kr__owner_listener(o)->ones++;
    io_uring_prep_accept(sqe, 0, NULL, NULL, 0);
    sqe->file_index = IORING_FILE_INDEX_ALLOC; /* liburing 2.3's direct helper would add 1, making it 0 */
    return 0;
}

/* One of several in flight has ended; the armed bit falls with the last. */
static void one_ended(struct kr__listener *l, enum kr__verb verb, unsigned left) {
    if (left == 0) {
        l->owner.armed &= (uint16_t)~(1u << verb);
        l->owner.cancelled &= (uint16_t)~(1u << verb);
    }
}

void kr__done_accept_one(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    struct kr__listener *l = kr__owner_listener(o);
    one_ended(l, KR__VERB_accept_one, --l->ones);
    accepted(r, l, how->res);
}

uint16_t kr__prep_accept_fd(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    struct kr__listener *l = kr__owner_listener(o);
    l->ones++;
    l->accepting++;
    io_uring_prep_accept(sqe, 0, NULL, NULL, SOCK_CLOEXEC);
    return 0;
}

static unsigned arrival_slot(const struct kr__listener *l) {
    unsigned i = 0;
    while (l->arrivals[i].fd >= 0)
        i++;
    kr__assert(i < KR__ACCEPT_ONES);
    return i;
}

/* A client that has gone again has no address: -ENOTCONN. It is one we need not serve. */
static void arrive_by_fd(struct kr_reactor *r, struct kr__listener *l, int fd) {
    unsigned i = arrival_slot(l);
    struct kr__arrival *a = &l->arrivals[i];
    *a = (struct kr__arrival){.fd = fd, .cell = fd};
    int rc = r->kernel->sock_addrs(r->kernel, fd, &a->addrs[0], &a->addrs[1]);
    if (rc < 0 || l->state != KR__LISTENER_OPEN)
        kr__arrival_drop(r, l, i);
}

void kr__done_accept_fd(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    struct kr__listener *l = kr__owner_listener(o);
    one_ended(l, KR__VERB_accept_fd, --l->accepting);
    if (how->res >= 0) {
        arrive_by_fd(r, l, how->res);
        return;
    }
    l->ones--;
    kr__listener_failed(r, l, how->res);
}
