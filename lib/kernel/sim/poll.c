/* NOP, POLL_ADD and POLL_REMOVE, as io_uring/poll.c does the latter.
 *
 * Happy path: a poll waits until its file reports what was asked for, and tells so, once or each
 * time. Failure: it asks for nothing that the file could ever report; it is removed, or cancelled.
 *
 * Facts: a one-shot poll of a file that is ready completes at once, a multishot one by its first
 * work (__io_arm_poll_handler). A multishot poll tells of wake-ups, not of states: what stands is
 * told once. A wake-up is told by its key, but after several, or a change of state, by what the file
 * reports then (io_poll_check_events). POLLERR, POLLHUP and POLLRDHUP are always told
 * (IO_POLL_UNMASK), level trigger is refused (observed on 6.18). */
#include "kernel/sim/ring.h"

static void nop_run(struct kr__sim_request *req) {
    bool inject = (unsigned)req->sqe.rw_flags & KR__NOP_INJECT_RESULT;
    kr__sim_end(req, inject ? (int32_t)req->sqe.len : 0, 0);
}

static bool goes_on(const struct kr__sim_request *req) {
    return req->sqe.len & IORING_POLL_ADD_MULTI;
}

/* io_poll_add_prep. */
static int poll_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (sqe->buf_index || sqe->off || sqe->addr || sqe->len & ~IORING_POLL_ADD_MULTI)
        return -EINVAL;
    if (goes_on(req) && sqe->flags & IOSQE_CQE_SKIP_SUCCESS)
        return -EINVAL;
    req->events = (sqe->poll32_events & 0xffff) | POLLERR | POLLHUP | POLLNVAL | POLLRDHUP;
    return 0;
}

/* Woken for nothing it waits on. */
static void poll_run(struct kr__sim_request *req) {
    unsigned mask = req->told & req->events;
    req->told = 0;
    if (!mask)
        mask = kr__sim_ready(req);
    if (!mask)
        return;
    if (!goes_on(req) || !kr__sim_ring_post(req->ring, req, (int32_t)mask, IORING_CQE_F_MORE))
        kr__sim_end(req, mask, 0);
}

static void poll_start(struct kr__sim_request *req) {
    unsigned mask = kr__sim_ready(req);
    if (req->file->kind == KR__SIM_REGULAR) { /* it has no wake-ups */
        kr__sim_end(req, mask ? (int64_t)mask : -EINVAL, 0);
        return;
    }
    if (mask && !goes_on(req)) {
        kr__sim_end(req, mask, 0);
        return;
    }
    kr__sim_arm(req);
    req->told = mask;
    if (mask)
        kr__sim_ring_queue(req->ring, req);
}

/* io_poll_remove_prep. Updates are not modelled. */
static int remove_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    bool more = sqe->buf_index || sqe->splice_fd_in || sqe->len || sqe->off || sqe->poll32_events;
    return more ? -EINVAL : 0;
}

static struct kr__sim_request *poll_find(const struct kr__sim_request *req) {
    struct kr__link *head = &req->ring->alive.head;
    for (struct kr__link *link = head->next; link != head; link = link->next) {
        struct kr__sim_request *target = kr__container_of(link, struct kr__sim_request, alive);
        if (target->verb == &kr__sim_poll && target->sqe.user_data == req->sqe.addr &&
            !target->ended && !target->cancelled)
            return target;
    }
    return NULL;
}

/* io_poll_remove; -EALREADY: it has been woken, and will tell of that (io_poll_disarm). */
static void remove_run(struct kr__sim_request *req) {
    struct kr__sim_request *target = poll_find(req);
    if (!target) {
        kr__sim_end(req, -ENOENT, 0);
    } else if (kr__link_on(&target->queued)) {
        kr__sim_end(req, -EALREADY, 0);
    } else {
        target->cancelled = true;
        kr__sim_ring_queue(target->ring, target);
        kr__sim_end(req, 0, 0);
    }
}

const struct kr__sim_verb kr__sim_nop = {.run = nop_run};
const struct kr__sim_verb kr__sim_poll = {
    .needs_file = true,
    .prep = poll_prep,
    .start = poll_start,
    .run = poll_run,
};
const struct kr__sim_verb kr__sim_poll_remove = {.prep = remove_prep, .run = remove_run};
