/* How requests wait for their files, as io_uring/poll.c has it.
 *
 * Happy path: a request that would block is armed, which means that it stands among its file's
 * waiters; a wake-up whose key is among what it waits for queues it as work of its task. Failure:
 * what it waits for is there already when it is armed; it was armed too often, and a worker gets it.
 *
 * Facts: whoever waits is also woken by POLLERR and POLLHUP, whatever was asked for
 * (IO_POLL_UNMASK), and what is tried again also by POLLRDHUP and POLLPRI (io_arm_poll_handler).
 * Those may stand for ever, while the request would block: then it is tried until it has been armed
 * 127 times, and goes to a worker (APOLL_MAX_RETRY; before 6.3 once, unless it has got some). A
 * multishot request is armed once, and so never does. A wake-up has a key, or none when a state has
 * changed, and then all look for themselves; POLLPRI alone wakes nobody (io_poll_wake,
 * IO_ASYNC_POLL_COMMON). */
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

#define TRIES 128u

unsigned kr__sim_file_poll(struct kr__sim_file *file) {
    switch (file->kind) {
    case KR__SIM_WAKER:
        return file->counter ? POLLIN : 0;
    case KR__SIM_LISTENER:
        return file->listener.queued ? POLLIN | POLLRDNORM : 0;
    case KR__SIM_REGULAR: /* DEFAULT_POLLMASK, include/linux/poll.h */
        return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
    case KR__SIM_STREAM:
        return kr__sim_stream_poll(file);
    }
    return 0;
}

unsigned kr__sim_ready(const struct kr__sim_request *req) {
    return kr__sim_file_poll(req->file) & req->events;
}

static bool is_multishot(const struct io_uring_sqe *sqe) {
    switch (sqe->opcode) {
    case IORING_OP_ACCEPT:
        return sqe->ioprio & IORING_ACCEPT_MULTISHOT;
    case IORING_OP_RECV:
    case IORING_OP_RECVMSG:
        return sqe->ioprio & IORING_RECV_MULTISHOT;
    case IORING_OP_POLL_ADD:
        return sqe->len & IORING_POLL_ADD_MULTI;
    default:
        return false;
    }
}

void kr__sim_arm(struct kr__sim_request *req) {
    if (!kr__link_on(&req->waiting))
        kr__list_push(&req->file->waiters, &req->waiting);
}

/* A multishot request that is armed already looks only for what it would meet by itself ("ensure we
 * loop once more", io_poll_check_events). */
void kr__sim_wait_for_news(struct kr__sim_request *req, unsigned what) {
    bool again = is_multishot(&req->sqe) && kr__link_on(&req->waiting);
    req->events = what | POLLERR | POLLHUP | POLLRDHUP | POLLPRI;
    unsigned looks = again ? what | POLLHUP : req->events;
    req->missed = kr__sim_file_poll(req->file) & looks;
    kr__sim_arm(req);
}

/* IO_APOLL_ABORTED. */
static bool is_worn_out(struct kr__sim_request *req) {
    if (is_multishot(&req->sqe))
        return false;
    req->tries++;
    bool patient = req->ring->sim->version >= KR__SIM_LINUX(6, 3);
    return patient ? req->tries >= TRIES : req->tries > 1 && !req->done;
}

/* Sends and receives of one piece call the socket themselves, and do not look. */
static bool may_not_block(const struct kr__sim_request *req) {
    switch (req->sqe.opcode) {
    case IORING_OP_ACCEPT:
    case IORING_OP_CONNECT:
    case IORING_OP_RECVMSG:
    case IORING_OP_SENDMSG:
    case IORING_OP_SENDMSG_ZC:
        return req->file->nonblock;
    default:
        return false;
    }
}

/* Arming looks whether the file is ready already, and then leaves a one-shot request out of the
 * table that cancel looks at (__io_arm_poll_handler). */
void kr__sim_wait(struct kr__sim_request *req, unsigned what) {
    if (!req->working && is_worn_out(req)) {
        kr__sim_worker_hold(req);
        return;
    }
    if (req->working && may_not_block(req)) {
        kr__sim_request_fail(req, -EAGAIN);
        return;
    }
    kr__sim_wait_for_news(req, what);
    if (req->working && kr__sim_file_poll(req->file) & what)
        kr__sim_worker_wake(req);
    if (req->working || !req->missed)
        return;
    req->missed = false;
    req->passing = !is_multishot(&req->sqe);
    kr__sim_ring_queue(req->ring, req);
}

/* Of several accepts only one is woken (EPOLLEXCLUSIVE: poll_exclusive in io_uring/opdef.c), beside
 * all that poll. At a stream the newest waiter may be woken first or last (add_wait_queue puts it
 * in front, task work turns the order round), and so a send may be told of a reset before the
 * receive. What a wake-up says is forgotten when another one follows, of which one-shot requests do
 * not hear any more (io_poll_check_events). */
void kr__sim_wake(struct kr__sim_file *file, unsigned key) {
    struct kr__link *head = &file->waiters.head;
    bool woken = false, back = file->kind == KR__SIM_STREAM && kr_sim_random(file->sim, 2);
    for (struct kr__link *link = back ? head->prev : head->next; link != head;
         link = back ? link->prev : link->next) {
        struct kr__sim_request *req = kr__container_of(link, struct kr__sim_request, waiting);
        if (key && !(key & req->events & ~(unsigned)POLLPRI))
            continue;
        if (req->working) {
            kr__sim_worker_wake(req);
            continue;
        }
        if (kr__link_on(&req->queued)) {
            req->told = is_multishot(&req->sqe) ? 0 : req->told;
            continue;
        }
        bool exclusive = req->sqe.opcode == IORING_OP_ACCEPT;
        if (exclusive && woken)
            continue;
        woken |= exclusive;
        req->told = key;
        kr__sim_ring_queue(req->ring, req);
    }
}
