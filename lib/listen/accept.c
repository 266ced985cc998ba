/* Accept: four verbs for one act.
 *
 *   accept       multishot into slots that the kernel chooses: one request for all clients
 *   accept_poll  one-shot poll: is a client waiting? For when slots are few (listen/listener.c)
 *   accept_one   one-shot accept into a slot that the kernel chooses
 *   accept_fd    one-shot accept to a plain descriptor, whose addresses can be asked, or which is
 *                kept, or from which SO_LINGER is taken that others have set (conn/unlinger.c), or
 *                whose options are set (listen/listener.c); then install.c
 *
 * Happy path: the result is the slot, or a descriptor that gets one (pool/slots.c); the connection
 * arrives there. Failure modes: see listen/listener.c.
 * Relies on: a one-shot accept with IORING_FILE_INDEX_ALLOC returns the slot; direct sockets take
 * no SOCK_CLOEXEC (-EINVAL) and need no SOCK_NONBLOCK (observed on 6.18); no address is asked of a
 * multishot accept, as each client's would overwrite the last; a poll completes at once if a client
 * waits already when it is made (man io_uring_enter, IORING_OP_POLL_ADD). */
#include "conn/op.h"
#include "listen/listener.h"

#include <poll.h>
#include <sys/socket.h>

uint16_t kr__prep_accept(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    (void)o;
    io_uring_prep_multishot_accept_direct(sqe, 0, NULL, NULL, 0);
    return 0;
}

static void accepted(struct kr_reactor *r, struct kr__listener *l, int32_t res) {
    int slot = kr__slots_accepted(&r->slots, res);
    if (slot < 0)
        kr__listener_accept_failed(r, l, slot);
    else
        kr__conn_arrive(r, (uint32_t)slot, l, NULL, -1);
}

void kr__done_accept(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    accepted(r, kr__owner_listener(o), how->res);
}

uint16_t kr__prep_accept_poll(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    struct kr__listener *l = kr__owner_listener(o);
    l->looking = l->draining;
    io_uring_prep_poll_add(sqe, 0, POLLIN);
    return 0;
}

/* An error of the listening socket shows as readiness, too; the accept will name it. */
void kr__done_accept_poll(struct kr_reactor *r, struct kr__owner *o,
                          const struct kr__completion *how) {
    struct kr__listener *l = kr__owner_listener(o);
    kr__listener_looked(l, how->res);
    if (how->res < 0)
        kr__listener_accept_failed(r, l, how->res);
    else
        l->ready = true;
}

static void one_begins(struct kr__listener *l) {
    kr__assert(l->to_start > 0);
    l->ones++;
    l->accepting++;
    l->to_start--;
}

/* One of several in flight has ended; the armed bit falls with the last. */
static void one_ended(struct kr__listener *l, enum kr__verb verb, bool took) {
    if (--l->accepting == 0) {
        l->owner.armed &= ~(1u << verb);
        l->owner.cancelled &= ~(1u << verb);
    }
    kr__listener_tried(l, took);
}

/* Others may accept from the same socket, and take the client that the poll has told of. An accept
 * that waits for the next one would be tried in vain whenever they do, and be given to a kernel
 * worker in the end (conn/send_poll.c). */
static void do_not_wait(const struct kr_reactor *r, struct io_uring_sqe *sqe) {
    if (r->ring.caps & KR__CAP_ACCEPT_DONTWAIT)
        sqe->ioprio |= KR__ACCEPT_DONTWAIT;
}

uint16_t kr__prep_accept_one(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    one_begins(kr__owner_listener(o));
    io_uring_prep_accept(sqe, 0, NULL, NULL, 0);
    do_not_wait(r, sqe);
    /* liburing 2.3's direct helper would add 1, making it 0 */
    sqe->file_index = IORING_FILE_INDEX_ALLOC;
    return 0;
}

void kr__done_accept_one(struct kr_reactor *r, struct kr__owner *o,
                         const struct kr__completion *how) {
    struct kr__listener *l = kr__owner_listener(o);
    l->ones--;
    one_ended(l, KR__VERB_accept_one, how->res >= 0);
    accepted(r, l, how->res);
}

uint16_t kr__prep_accept_fd(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    one_begins(kr__owner_listener(o));
    io_uring_prep_accept(sqe, 0, NULL, NULL, SOCK_CLOEXEC);
    do_not_wait(r, sqe);
    return 0;
}

static unsigned arrival_slot(const struct kr__listener *l) {
    unsigned i = 0;
    while (l->arrivals[i].fd >= 0)
        i++;
    kr__assert(i < KR__ACCEPT_ONES);
    return i;
}

/* A client that has gone again, and has left no bytes, has no address: -ENOTCONN. It is one we need
 * not serve. */
static void arrive_by_fd(struct kr_reactor *r, struct kr__listener *l, int fd) {
    unsigned i = arrival_slot(l);
    struct kr__arrival *a = &l->arrivals[i];
    *a = (struct kr__arrival){.fd = fd, .cell = fd};
    if (l->foreign)
        r->kernel->socket.unlinger(r->kernel, fd);
    int rc = 0;
    if (l->equips && l->bound.u.sa.sa_family == AF_UNIX)
        rc = r->kernel->socket.set_accepted(r->kernel, fd, &l->opts.conn);
    if (rc == 0 && l->opts.addresses)
        rc = r->kernel->socket.addrs(r->kernel, fd, &a->addrs[0], &a->addrs[1]);
    kr__mark_if(arrival_dropped, rc < 0 || l->state != KR__LISTENER_OPEN);
    if (rc < 0 || l->state != KR__LISTENER_OPEN)
        kr__arrival_drop(r, l, i);
}

void kr__done_accept_fd(struct kr_reactor *r, struct kr__owner *o,
                        const struct kr__completion *how) {
    struct kr__listener *l = kr__owner_listener(o);
    one_ended(l, KR__VERB_accept_fd, how->res >= 0);
    if (how->res >= 0) {
        arrive_by_fd(r, l, how->res);
        return;
    }
    l->ones--;
    kr__listener_accept_failed(r, l, how->res);
}
