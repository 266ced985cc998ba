/* Opening the ring by a ladder of flags, and the one enter.
 *
 * Happy path: SINGLE_ISSUER with COOP_TASKRUN or DEFER_TASKRUN, created disabled so that the thread
 * that runs it becomes its issuer; TASKRUN_FLAG so that pending work can be seen; SUBMIT_ALL so
 * that one bad SQE does not hold the others; CLAMP and CQSIZE for the sizes.
 * Failure: -EINVAL without NO_SQARRAY means a kernel before 6.1. Others pass through.
 *
 * Facts: all but NO_SQARRAY are there since 6.1 (man io_uring_setup). -ETIME and -EINTR of the wait
 * are reported only when nothing was submitted and no CQE is there (io_uring/io_uring.c), so the
 * caller decides by looking at the CQ and the clock. */
#include "ring/ring.h"

#include "base/mark.h"
#include "kernel/probe.h"

#include <errno.h>
#include <string.h>

#define PAGE 4096u

static size_t round_to_page(size_t size) {
    return (size + PAGE - 1) / PAGE * PAGE;
}

static size_t locked_bytes(unsigned sq_entries, unsigned cq_entries) {
    size_t sqes = (size_t)sq_entries * sizeof(struct io_uring_sqe);
    size_t rings = (size_t)cq_entries * sizeof(struct io_uring_cqe) + 128;
    return round_to_page(sqes) + round_to_page(rings + sq_entries * sizeof(unsigned));
}

/* What the kernel tells of itself, and what must be tried. */
static unsigned find_caps(struct kr__ring *ring, const struct io_uring_params *params,
                          unsigned mask) {
    const struct kr__kernel *k = ring->kernel;
    unsigned caps = kr__probe_caps(params) | kr__probe_ops(k, &ring->uring);
    if (!(caps & KR__CAP_FILE_TABLE))
        caps |= kr__probe_table(k, &ring->uring);
    if (mask & KR__CAP_RESET_TOLD && k->socket.tells_reset(k))
        caps |= KR__CAP_RESET_TOLD;
    if (mask & KR__CAP_REFUSES_FDS && k->socket.refuses_fds(k))
        caps |= KR__CAP_REFUSES_FDS;
    return caps & mask;
}

int kr__ring_open(struct kr__ring *ring, const struct kr__kernel *k,
                  const struct kr__ring_plan *plan) {
    *ring = (struct kr__ring){.kernel = k};
    ring->locked = locked_bytes(plan->sq_entries, plan->cq_entries);
    unsigned flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_TASKRUN_FLAG |
                     IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP |
                     IORING_SETUP_CQSIZE |
                     (plan->defer ? IORING_SETUP_DEFER_TASKRUN : IORING_SETUP_COOP_TASKRUN);
    unsigned newer = plan->caps_mask & KR__CAP_NO_SQARRAY ? KR__SETUP_NO_SQARRAY : 0;

    struct io_uring_params params = {.flags = flags | newer, .cq_entries = plan->cq_entries};
    int rc = k->ring.open(k, &ring->uring, plan->sq_entries, &params);
    if (rc == -EINVAL && newer) {
        kr__mark(older_ring);
        params = (struct io_uring_params){.flags = flags, .cq_entries = plan->cq_entries};
        rc = k->ring.open(k, &ring->uring, plan->sq_entries, &params);
    }
    if (rc < 0)
        return rc;
    ring->caps = find_caps(ring, &params, plan->caps_mask);
    ring->sq_entries = params.sq_entries;
    ring->sq_mask = params.sq_entries - 1;
    ring->cq_entries = params.cq_entries;
    ring->cq_mask = params.cq_entries - 1;
    ring->sq_tail = __atomic_load_n(ring->uring.sq.ktail, __ATOMIC_RELAXED);
    return 0;
}

int kr__ring_bind(struct kr__ring *ring) {
    kr__assert(!ring->bound);
    int rc = ring->kernel->ring.bind(ring->kernel, &ring->uring, &ring->registered);
    if (rc < 0)
        return rc;
    ring->bound = true;
    return 0;
}

void kr__ring_close(struct kr__ring *ring, bool child) {
    kr__plain_end(&ring->plain, child ? NULL : &ring->uring);
    ring->kernel->ring.close(ring->kernel, &ring->uring, ring->registered, child);
}

/* -EBADR itself is reported only by an enter that submits nothing (io_uring/io_uring.c), which may
 * be long in coming; the count of lost completions stands in the ring at once. */
static int ring_enter(struct kr__ring *ring, unsigned submit, unsigned wait_for, int64_t wait_ns) {
    unsigned flags = IORING_ENTER_GETEVENTS;
    if (ring->caps & KR__CAP_NO_IOWAIT)
        flags |= KR__ENTER_NO_IOWAIT;

    struct __kernel_timespec timeout = {.tv_sec = wait_ns / 1000000000,
                                        .tv_nsec = wait_ns % 1000000000};
    struct kr__getevents_arg arg = {.timespec = (uint64_t)(uintptr_t)&timeout};
    bool timed = wait_for && wait_ns >= 0;
    int rc = ring->kernel->ring.enter(ring->kernel, &ring->uring, submit, wait_for, flags,
                                      timed ? &arg : NULL);
    unsigned lost = __atomic_load_n(ring->uring.cq.koverflow, __ATOMIC_RELAXED);
    if (kr__unlikely(lost != ring->lost)) {
        ring->lost = lost;
        return -EBADR;
    }
    return rc < 0 && rc != -ETIME ? rc : 0;
}

int kr__ring_enter(struct kr__ring *ring, unsigned wait_for, int64_t wait_ns) {
    if (ring->plain.cells)
        kr__plain_translate(&ring->plain, &ring->uring, ring->sq_tail);
    __atomic_store_n(ring->uring.sq.ktail, ring->sq_tail, __ATOMIC_RELEASE);
    return ring_enter(ring, kr__ring_unsubmitted(ring), wait_for, wait_ns);
}

int kr__ring_rest(struct kr__ring *ring, int64_t wait_ns) {
    return ring_enter(ring, 0, 1, wait_ns);
}
