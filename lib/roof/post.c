/* The inbox.
 *
 * Happy path: a poster pushes, then wakes the reactor if it sleeps; the reactor announces its
 * sleep, then looks whether something has come. Each side writes before it reads, with a full fence
 * between, so at least one of them sees the other (the classical store-buffer pair): no wake-up is
 * lost.
 * Failure: the queue is full, and the poster is told, and whether there is hope; the wake cannot be
 * sent, and the next post tries again. A notice brings its own room: a list of those that are
 * pending, pushed by whoever makes one pending, taken whole by the reactor.
 *
 * The waker is an eventfd that the ring polls and that nobody ever reads: a multishot poll
 * completes at each write (kernel >= 5.13), so a wake costs no request at all. */
#include "roof/post.h"

#include "base/tsan.h"
#include "conn/reactor.h"

int kr__inbox_init(struct kr__inbox *inbox, const struct kr__kernel *k, struct kr__mem *mem,
                   unsigned room) {
    *inbox = (struct kr__inbox){.kernel = k, .mem = mem, .room = room, .wake_fd = -1};
    struct kr__mpsc_cell *cells = kr__mem_get(mem, room * sizeof *cells);
    if (!cells)
        return -ENOMEM;
    kr__mpsc_init(&inbox->queue, cells, room);
    inbox->wake_fd = k->file.wake_open(k);
    return inbox->wake_fd < 0 ? inbox->wake_fd : 0;
}

void kr__inbox_free(struct kr__inbox *inbox) {
    kr__mem_put(inbox->mem, inbox->queue.cells, inbox->room * sizeof *inbox->queue.cells);
    inbox->queue.cells = NULL;
    kr__inbox_close_wake(inbox);
}

void kr__inbox_close_wake(struct kr__inbox *inbox) {
    if (inbox->wake_fd >= 0)
        inbox->kernel->file.close(inbox->kernel, inbox->wake_fd);
    inbox->wake_fd = -1;
}

bool kr__inbox_may_sleep(struct kr__inbox *inbox) {
    __atomic_store_n(&inbox->asleep, true, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!kr__inbox_ready(inbox) && !__atomic_load_n(&inbox->stop, __ATOMIC_SEQ_CST))
        return true;
    kr__mark(sleep_forestalled);
    kr__inbox_awake(inbox);
    return false;
}

void kr__inbox_awake(struct kr__inbox *inbox) {
    __atomic_store_n(&inbox->asleep, false, __ATOMIC_RELAXED);
}

bool kr__inbox_take_stop(struct kr__inbox *inbox) {
    bool stop = __atomic_load_n(&inbox->stop, __ATOMIC_RELAXED) &&
                __atomic_exchange_n(&inbox->stop, false, __ATOMIC_ACQ_REL);
    if (stop)
        kr__tsan_acquire(inbox);
    return stop;
}

/* All at once, the first one first. */
static struct kr_notice *take_notices(struct kr__inbox *inbox) {
    struct kr_notice *first = NULL;
    struct kr_notice *last = __atomic_exchange_n(&inbox->notices, NULL, __ATOMIC_ACQUIRE);
    kr__tsan_acquire(inbox);
    while (last) {
        struct kr_notice *before = last->next;
        last->next = first;
        first = last;
        last = before;
    }
    return first;
}

/* From the exchange on it may be pending anew, and from the call on it may be gone. */
static unsigned run_notices(struct kr_reactor *r) {
    struct kr_notice *next = take_notices(r->inbox);
    unsigned ran = 0;
    while (next && !kr__in_child(r)) {
        struct kr_notice *notice = next;
        next = notice->next;
        kr_post_fn *fn = notice->fn;
        void *arg = notice->arg;
        __atomic_exchange_n(&notice->pending, 0, __ATOMIC_ACQ_REL);
        kr__tsan_acquire(r->inbox); /* those that found it pending */
        ran++;
        kr__count(&r->stats.posts, 1);
        fn(r, arg);
    }
    return ran;
}

unsigned kr__inbox_run(struct kr_reactor *r, unsigned budget) {
    uint64_t end = __atomic_load_n(&r->inbox->queue.push, __ATOMIC_RELAXED);
    unsigned notices = 0;
    if (kr__unlikely(__atomic_load_n(&r->inbox->notices, __ATOMIC_RELAXED)))
        notices = run_notices(r);
    unsigned ran = 0;
    void (*fn)(void);
    void *arg;
    while (ran < budget && !kr__in_child(r) && r->inbox->queue.pop != end &&
           kr__mpsc_pop(&r->inbox->queue, &fn, &arg)) {
        kr__tsan_acquire(r->inbox);
        ran++;
        kr__count(&r->stats.posts, 1);
        ((kr_post_fn *)fn)(r, arg);
    }
    kr__mark_if(turn_posts_spent, ran == budget && r->inbox->queue.pop != end);
    return notices + ran;
}

static void inbox_wake(struct kr__inbox *inbox) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(&inbox->asleep, __ATOMIC_SEQ_CST) &&
        __atomic_exchange_n(&inbox->asleep, false, __ATOMIC_SEQ_CST) &&
        inbox->kernel->file.wake_send(inbox->kernel, inbox->wake_fd) < 0) {
        kr__mark(wake_failed);
        __atomic_store_n(&inbox->asleep, true, __ATOMIC_SEQ_CST); /* the next one tries again */
    }
}

void kr__inbox_close(struct kr__inbox *inbox) {
    __atomic_store_n(&inbox->closed, true, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&inbox->inside, __ATOMIC_ACQUIRE))
        inbox->kernel->process.yield(inbox->kernel);
    kr__mark_if(stop_left_over, inbox->stop);
    (void)kr__inbox_take_stop(inbox); /* there is no run to end, and no turn could sleep */
}

/* The door of what any thread may call. After success, leave() is owed. */
static int visit(struct kr_reactor *r) {
    if (!r)
        return -EINVAL;
    if (kr__in_child(r))
        return -ECHILD;
    __atomic_fetch_add(&r->inbox->inside, 1, __ATOMIC_SEQ_CST);
    kr__tsan_release(r->inbox);
    return 0;
}

static void leave(struct kr_reactor *r) {
    __atomic_fetch_sub(&r->inbox->inside, 1, __ATOMIC_RELEASE);
}

static int post(struct kr__inbox *inbox, kr_post_fn *fn, void *arg) {
    if (__atomic_load_n(&inbox->closed, __ATOMIC_SEQ_CST)) {
        kr__mark(post_after_the_end);
        return -ESHUTDOWN;
    }
    if (!kr__mpsc_push(&inbox->queue, (void (*)(void))fn, arg)) {
        bool rests = __atomic_load_n(&inbox->rests, __ATOMIC_RELAXED);
        kr__mark(inbox_full);
        kr__mark_if(inbox_full_at_rest, rests);
        return rests ? -ESHUTDOWN : -ENOBUFS;
    }
    inbox_wake(inbox);
    return 0;
}

int kr_post(struct kr_reactor *r, kr_post_fn *fn, void *arg) {
    if (!fn)
        return -EINVAL;
    int rc = visit(r);
    if (rc < 0)
        return rc;
    rc = post(r->inbox, fn, arg);
    leave(r);
    return rc;
}

/* A handler may interrupt this anywhere, and notify of the same: the one that makes it pending puts
 * it on the list. */
static int notify(struct kr__inbox *inbox, struct kr_notice *notice) {
    if (__atomic_load_n(&inbox->closed, __ATOMIC_SEQ_CST))
        return -ESHUTDOWN;
    if (__atomic_exchange_n(&notice->pending, 1, __ATOMIC_ACQ_REL)) {
        kr__mark(notice_coalesced);
        return 0;
    }
    notice->next = __atomic_load_n(&inbox->notices, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(&inbox->notices, &notice->next, notice, true,
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
    }
    inbox_wake(inbox);
    return 0;
}

int kr_notify(struct kr_reactor *r, struct kr_notice *notice) {
    if (!notice || !notice->fn)
        return -EINVAL;
    int rc = visit(r);
    if (rc < 0)
        return rc;
    rc = notify(r->inbox, notice);
    leave(r);
    return rc;
}

void kr_stop(struct kr_reactor *r) {
    if (visit(r) < 0)
        return;
    if (!__atomic_load_n(&r->inbox->closed, __ATOMIC_SEQ_CST)) {
        __atomic_store_n(&r->inbox->stop, true, __ATOMIC_SEQ_CST);
        inbox_wake(r->inbox);
    }
    leave(r);
}
