/* The queues: requests are taken in order, completions posted in the kernel's order, what finds no
 * room is kept, and a wait lets the world go on.
 *
 * Facts. Completions of requests that go on are posted at once, last ones with their batch; so the
 * former may overtake the latter (before 6.16; KR_SIM_OVERTAKE). While completions are kept for
 * want of room no other is posted, and requests that would go on end (io_uring/io_uring.c). With
 * COOP_TASKRUN work runs at any transition into the kernel; with DEFER_TASKRUN only when the
 * program asks for events, 20 at a time (kernel >= 6.13; observed on 6.18), once more if it has
 * submitted anything (io_uring_enter). A wait that took requests reports their count, not how it
 * ended; one that could not take all does not wait. */
#include "kernel/sim/ring.h"

#include <limits.h>

#define SQ_MAX 32768u
#define CQ_MAX 65536u
#define DEFER_BATCH 20u
#define RING_FD 1000000
#define TAKEN 0xa5 /* what an SQE reads once it was taken */

#define KNOWN_FLAGS                                                                                \
    (IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL |   \
     IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER |              \
     IORING_SETUP_DEFER_TASKRUN | KR__SETUP_NO_SQARRAY)

struct kept {
    struct kr__link link;
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

static bool defers(const struct kr__sim_ring *ring) {
    return ring->setup & IORING_SETUP_DEFER_TASKRUN;
}

/* ---- setting up ---- */

static unsigned power_of_two(unsigned n, unsigned most) {
    n = kr__power_of_two(n);
    return n < most ? n : most;
}

/* io_uring_setup's checks, io_uring/io_uring.c. */
static int sizes(const struct kr_sim *sim, struct io_uring_params *params, unsigned entries) {
    unsigned known =
        sim->version >= KR__SIM_LINUX(6, 6) ? KNOWN_FLAGS : KNOWN_FLAGS & ~KR__SETUP_NO_SQARRAY;
    bool issuer_lacks = params->flags & IORING_SETUP_DEFER_TASKRUN &&
                        !(params->flags & IORING_SETUP_SINGLE_ISSUER);
    if (params->flags & ~known || !entries || issuer_lacks)
        return -EINVAL;
    if (!(params->flags & IORING_SETUP_CLAMP) && entries > SQ_MAX)
        return -EINVAL;
    params->sq_entries = power_of_two(entries, SQ_MAX);
    unsigned wanted =
        params->flags & IORING_SETUP_CQSIZE ? params->cq_entries : 2 * params->sq_entries;
    params->cq_entries = wanted ? power_of_two(wanted, CQ_MAX) : 0;
    return params->cq_entries < params->sq_entries ? -EINVAL : 0;
}

static void show_sq(struct kr__sim_ring *ring, struct io_uring_sq *sq) {
    *sq = (struct io_uring_sq){
        .khead = &ring->sq_head,
        .ktail = &ring->sq_tail,
        .kring_mask = &ring->sq_mask,
        .kring_entries = &ring->sq_entries,
        .kflags = &ring->sq_flags,
        .kdropped = &ring->sq_dropped,
        .sqes = kr__sim_alloc(ring->sq_entries * sizeof(struct io_uring_sqe)),
        .ring_ptr = ring,
        .ring_mask = ring->sq_mask,
        .ring_entries = ring->sq_entries,
    };
    if (ring->setup & KR__SETUP_NO_SQARRAY)
        return;
    sq->array = kr__sim_alloc(ring->sq_entries * sizeof *sq->array);
    for (unsigned i = 0; i < ring->sq_entries; i++)
        sq->array[i] = i;
}

static void show_cq(struct kr__sim_ring *ring, struct io_uring_cq *cq) {
    *cq = (struct io_uring_cq){
        .khead = &ring->cq_head,
        .ktail = &ring->cq_tail,
        .kring_mask = &ring->cq_mask,
        .kring_entries = &ring->cq_entries,
        .kflags = &ring->cq_flags,
        .koverflow = &ring->cq_overflow,
        .cqes = kr__sim_alloc(ring->cq_entries * sizeof(struct io_uring_cqe)),
        .ring_mask = ring->cq_mask,
        .ring_entries = ring->cq_entries,
    };
}

static unsigned features(const struct kr_sim *sim) {
    return IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_EXT_ARG |
           (sim->version >= KR__SIM_LINUX(6, 3) ? KR__FEAT_REG_REG_RING : 0) |
           (sim->version >= KR__SIM_LINUX(6, 12) ? KR__FEAT_MIN_TIMEOUT : 0) |
           (sim->version >= KR__SIM_LINUX(6, 14) ? KR__FEAT_RW_ATTR : 0) |
           (sim->version >= KR__SIM_LINUX(6, 15) ? KR__FEAT_NO_IOWAIT : 0);
}

int kr__sim_ring_open(struct kr_sim *sim, struct io_uring *uring, unsigned entries,
                      struct io_uring_params *params) {
    int rc = sizes(sim, params, entries);
    if (rc < 0)
        return rc;
    params->features = features(sim);
    struct kr__sim_ring *ring = kr__sim_alloc(sizeof *ring);
    *ring = (struct kr__sim_ring){
        .sim = sim,
        .uring = uring,
        .setup = params->flags,
        .disabled = params->flags & IORING_SETUP_R_DISABLED,
        .sq_entries = params->sq_entries,
        .sq_mask = params->sq_entries - 1,
        .cq_entries = params->cq_entries,
        .cq_mask = params->cq_entries - 1,
        .workers_most = UINT_MAX,
    };
    kr__list_init(&ring->alive);
    kr__list_init(&ring->work);
    kr__list_init(&ring->ended);
    kr__list_init(&ring->overflow);
    kr__list_init(&ring->unheld);
    kr__list_push(&sim->rings, &ring->link);
    *uring = (struct io_uring){.flags = params->flags, .features = params->features,
                               .ring_fd = RING_FD, .enter_ring_fd = RING_FD};
    show_sq(ring, &uring->sq);
    show_cq(ring, &uring->cq);
    return 0;
}

void kr__sim_ring_close(struct kr__sim_ring *ring) {
    struct kr__link *link;
    while (!kr__list_empty(&ring->alive)) {
        ring->sim->torn++;
        kr__sim_request_free(
            kr__container_of(ring->alive.head.next, struct kr__sim_request, alive));
    }
    while ((link = kr__list_pop(&ring->overflow)))
        free(kr__container_of(link, struct kept, link));
    kr__sim_slots_end(&ring->slots);
    kr__sim_bufs_end(&ring->bufs);
    free(ring->uring->sq.sqes);
    free(ring->uring->sq.array);
    free(ring->uring->cq.cqes);
    kr__link_off(&ring->link);
    free(ring);
}

void kr__sim_ring_let_go(struct kr__sim_ring *ring) {
    if (!ring->slots.keeps || kr__list_empty(&ring->slots.kept))
        return;
    uint64_t oldest = UINT64_MAX;
    struct kr__link *head = &ring->alive.head;
    for (struct kr__link *link = head->next; link != head; link = link->next) {
        struct kr__sim_request *req = kr__container_of(link, struct kr__sim_request, alive);
        if (req->by_slot && req->by_slot < oldest)
            oldest = req->by_slot;
    }
    kr__sim_slots_let_go(&ring->slots, oldest);
}

/* ---- completions ---- */

static void flag_set(struct kr__sim_ring *ring, unsigned flag, bool on) {
    unsigned flags = on ? ring->sq_flags | flag : ring->sq_flags & ~flag;
    __atomic_store_n(&ring->sq_flags, flags, __ATOMIC_RELAXED);
}

static unsigned cq_ready(const struct kr__sim_ring *ring) {
    return ring->cq_tail - __atomic_load_n(&ring->cq_head, __ATOMIC_ACQUIRE);
}

static void cq_write(struct kr__sim_ring *ring, uint64_t user_data, int32_t res, uint32_t flags) {
    struct io_uring_cqe *cqe = &ring->uring->cq.cqes[ring->cq_tail & ring->cq_mask];
    cqe->user_data = user_data;
    cqe->res = res;
    cqe->flags = flags;
    __atomic_store_n(&ring->cq_tail, ring->cq_tail + 1, __ATOMIC_RELEASE);
    ring->sim->starved = res == -ENOBUFS ? ring->sim->starved + 1 : 0;
    kr__sim_note(ring->sim, "cqe", user_data, (uint64_t)(int64_t)res, flags);
}

static bool cq_has_room(const struct kr__sim_ring *ring) {
    return kr__list_empty(&ring->overflow) && cq_ready(ring) < ring->cq_entries;
}

/* io_cqring_event_overflow, io_uring/io_uring.c: without memory the completion is lost. */
static void cq_keep(struct kr__sim_ring *ring, const struct kr__sim_request *req) {
    if (kr__sim_chance(ring->sim, KR_SIM_LOST)) {
        ring->lost = true;
        ring->cq_overflow++;
        return;
    }
    struct kept *kept = kr__sim_alloc(sizeof *kept);
    *kept = (struct kept){.user_data = req->sqe.user_data, .res = req->res, .flags = req->flags};
    kr__list_push(&ring->overflow, &kept->link);
    flag_set(ring, IORING_SQ_CQ_OVERFLOW, true);
}

/* __io_cqring_overflow_flush: in order, as far as there is room. */
static void cq_flush(struct kr__sim_ring *ring) {
    while (!kr__list_empty(&ring->overflow) && cq_ready(ring) < ring->cq_entries) {
        struct kept *kept = kr__container_of(kr__list_pop(&ring->overflow), struct kept, link);
        cq_write(ring, kept->user_data, kept->res, kept->flags);
        free(kept);
        if (kr__sim_chance(ring->sim, KR_SIM_LATE_FLUSH))
            break;
    }
    flag_set(ring, IORING_SQ_CQ_OVERFLOW, !kr__list_empty(&ring->overflow));
}

static void ended_post(struct kr__sim_ring *ring, struct kr__sim_request *req) {
    if (req->sqe.flags & IOSQE_CQE_SKIP_SUCCESS && req->res >= 0)
        return;
    if (cq_has_room(ring))
        cq_write(ring, req->sqe.user_data, req->res, req->flags);
    else
        cq_keep(ring, req);
}

/* __io_submit_flush_completions: the batch's last completions, then the requests let go of their
 * files. */
static void ended_flush(struct kr__sim_ring *ring) {
    struct kr__link *head = &ring->ended.head;
    for (struct kr__link *link = head->next; link != head; link = link->next)
        ended_post(ring, kr__container_of(link, struct kr__sim_request, queued));
    struct kr__link *link;
    while ((link = kr__list_pop(&ring->ended)))
        kr__sim_request_free(kr__container_of(link, struct kr__sim_request, queued));
}

void kr__sim_ring_end(struct kr__sim_ring *ring, struct kr__sim_request *req, int32_t res,
                      uint32_t flags) {
    kr__assert(!req->ended);
    req->ended = true;
    req->res = res;
    req->flags = flags;
    kr__link_off(&req->queued);
    kr__list_push(&ring->ended, &req->queued);
}

bool kr__sim_ring_post(struct kr__sim_ring *ring, struct kr__sim_request *req, int32_t res,
                       uint32_t flags) {
    if (!kr__list_empty(&ring->ended) && !kr__sim_chance(ring->sim, KR_SIM_OVERTAKE))
        ended_flush(ring);
    if (!cq_has_room(ring))
        return false;
    cq_write(ring, req->sqe.user_data, res, flags);
    return true;
}

/* ---- task work ---- */

void kr__sim_ring_queue(struct kr__sim_ring *ring, struct kr__sim_request *req) {
    if (req->ended || kr__link_on(&req->queued))
        return;
    kr__list_push(&ring->work, &req->queued);
    flag_set(ring, IORING_SQ_TASKRUN, true);
}

/* Polls of streams tell of each wake-up, so theirs are made by what happens only. So are those of
 * accepts where a single one in vain is too many, which only another process could make. */
static bool may_wake(const struct kr__sim_request *req) {
    if (!req->file || !kr__link_on(&req->waiting) || req->working || req->missed)
        return false;
    bool tells = req->verb == &kr__sim_poll && req->file->kind == KR__SIM_STREAM;
    bool old = req->ring->sim->version < KR__SIM_LINUX(6, 3);
    return !tells && !(old && req->verb == &kr__sim_accept);
}

static void wake_some(struct kr__sim_ring *ring) {
    if (kr__list_empty(&ring->alive) || !kr__sim_chance(ring->sim, KR_SIM_SPURIOUS_WAKE))
        return;
    struct kr__sim_request *first =
        kr__container_of(ring->alive.head.next, struct kr__sim_request, alive);
    if (may_wake(first))
        kr__sim_ring_queue(ring, first);
    kr__link_off(&first->alive);
    kr__list_push(&ring->alive, &first->alive);
}

/* With DEFER_TASKRUN what is queued meanwhile is of the next batch (__io_run_local_work,
 * io_uring/io_uring.c), otherwise all is done at once (tctx_task_work). */
static void work_run(struct kr__sim_ring *ring, unsigned most) {
    wake_some(ring);
    const struct kr__link *last = defers(ring) ? ring->work.head.prev : NULL;
    for (unsigned i = 0; i < most && !kr__list_empty(&ring->work); i++) {
        struct kr__link *link = kr__list_pop(&ring->work);
        kr__sim_request_run(kr__container_of(link, struct kr__sim_request, queued));
        if (link == last)
            break;
    }
    ended_flush(ring);
    flag_set(ring, IORING_SQ_TASKRUN, !kr__list_empty(&ring->work));
}

void kr__sim_ring_intrude(struct kr__sim_ring *ring) {
    if (defers(ring) || ring->disabled || kr__list_empty(&ring->work))
        return;
    if (kr__sim_chance(ring->sim, KR_SIM_TASK_WORK))
        work_run(ring, UINT32_MAX);
}

/* ---- enter ---- */

static const struct io_uring_sqe *sqe_at(const struct kr__sim_ring *ring, unsigned head) {
    const struct io_uring_sq *sq = &ring->uring->sq;
    unsigned place = head & ring->sq_mask;
    return &sq->sqes[sq->array ? sq->array[place] : place];
}

static void sqe_forget(struct kr__sim_ring *ring, unsigned head) {
    memset((void *)(uintptr_t)sqe_at(ring, head), TAKEN, sizeof(struct io_uring_sqe));
}

/* io_submit_sqes: without memory for a request, the rest stays in the queue. */
static int submit_all(struct kr__sim_ring *ring, unsigned wanted) {
    unsigned head = ring->sq_head;
    unsigned there = __atomic_load_n(&ring->sq_tail, __ATOMIC_ACQUIRE) - head;
    unsigned count = wanted < there ? wanted : there;
    if (count && kr__sim_chance(ring->sim, KR_SIM_BUSY))
        return -EBUSY;
    if (count && kr__sim_chance(ring->sim, KR_SIM_SHORT_SUBMIT)) {
        count = (unsigned)kr_sim_random(ring->sim, count);
        if (!count)
            return -EAGAIN;
    }
    for (unsigned i = 0; i < count; i++) {
        kr__sim_request_start(ring, sqe_at(ring, head + i));
        sqe_forget(ring, head + i);
    }
    __atomic_store_n(&ring->sq_head, head + count, __ATOMIC_RELEASE);
    ended_flush(ring);
    return (int)count;
}

static unsigned batch_of(const struct kr__sim_ring *ring, unsigned wait_for) {
    if (!defers(ring))
        return UINT32_MAX;
    return wait_for > DEFER_BATCH ? wait_for : DEFER_BATCH;
}

/* io_cqring_wait. */
static int await(struct kr__sim_ring *ring, unsigned wait_for, int64_t wait_ns) {
    struct kr_sim *sim = ring->sim;
    int64_t deadline = wait_ns < 0 ? KR__NEVER : kr__time_add(sim->now, wait_ns);
    unsigned asleep = 0;
    unsigned batch = batch_of(ring, wait_for);
    wait_for = wait_for < ring->cq_entries ? wait_for : ring->cq_entries;
    for (;;) {
        work_run(ring, batch);
        cq_flush(ring);
        if (ring->lost)
            return -EBADR;
        if (cq_ready(ring) >= wait_for)
            return 0;
        if (ring->sq_flags & IORING_SQ_TASKRUN)
            continue;
        if (!asleep++ && kr__sim_chance(sim, KR_SIM_INTERRUPT))
            return -EINTR;
        if (sim->now >= deadline)
            return -ETIME;
        if (!kr__sim_next(sim, deadline))
            return -EDEADLK;
    }
}

int kr__sim_ring_enter(struct kr__sim_ring *ring, unsigned submit, unsigned wait_for,
                       unsigned flags, int64_t wait_ns) {
    if (ring->disabled)
        return -EBADFD;
    int taken = submit_all(ring, submit);
    if (taken < 0 || (unsigned)taken < submit || !(flags & IORING_ENTER_GETEVENTS))
        return taken;
    if (taken && defers(ring))
        work_run(ring, batch_of(ring, wait_for));
    int rc = await(ring, wait_for, wait_ns);
    if (taken && rc != -EDEADLK)
        return taken;
    ring->lost = ring->lost && rc != -EBADR;
    return rc;
}
