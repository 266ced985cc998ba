/* User timers: a slab for the handles, a heap for the order. Failure: memory is refused at
 * start. */
#include "time/timers.h"

#include "conn/reactor.h"

void kr__timers_init(struct kr__timers *timers, struct kr__mem *mem) {
    kr__heap_init(&timers->heap, mem);
    kr__heap_init(&timers->deadlines, mem);
    kr__slab_init(&timers->slab, mem, sizeof(struct kr__timer));
}

void kr__timers_free(struct kr__timers *timers) {
    kr__heap_free(&timers->heap);
    kr__heap_free(&timers->deadlines);
    kr__slab_free(&timers->slab);
}

static kr_timer timer_handle(const struct kr_reactor *r, const struct kr__timer *t) {
    return (kr_timer){
        kr__handle_pack(KR__KIND_TIMER, r->number, t->head.index, t->head.generation)};
}

static struct kr__timer *timer_find(const struct kr_reactor *r, kr_timer timer) {
    if (!kr__handle_is(timer.bits, KR__KIND_TIMER, r->number))
        return NULL;
    return kr__slab_find(&r->timers.slab, kr__handle_slot(timer.bits),
                         kr__handle_generation(timer.bits));
}

static void timer_end(struct kr_reactor *r, struct kr__timer *t) {
    kr__deadline_end(&r->timers, &t->deadline);
    kr__slab_put(&r->timers.slab, t);
    kr__uncount(&r->stats.timers, 1);
}

static void timer_file(struct kr_reactor *r, struct kr__timer *t, int64_t at) {
    t->at = at;
    kr__deadline_file(&r->timers, &t->deadline, at);
}

/* The next beat after now, on the beats of the start: those that were missed are skipped. */
static int64_t next_beat(const struct kr__timer *t, int64_t now) {
    int64_t drain_missed = (now - t->at) / t->every_ns;
    kr__mark_if(beats_missed, drain_missed > 0);
    return kr__time_add(t->at + drain_missed * t->every_ns, t->every_ns);
}

void kr__timer_fire(struct kr_reactor *r, struct kr__deadline *d) {
    struct kr__timer *t = kr__container_of(d, struct kr__timer, deadline);
    kr_timer handle = timer_handle(r, t);
    if (t->every_ns)
        timer_file(r, t, next_beat(t, r->now));
    kr__count(&r->stats.timer_fires, 1);
    t->fn(r, handle, t->user);
    t = timer_find(r, handle); /* the callback may have stopped it */
    if (t && !kr__heap_filed(&t->deadline.node))
        timer_end(r, t);
}

static int64_t timer_now(const struct kr_reactor *r) {
    return r->kernel->process.clock(r->kernel);
}

/* From the real now, not the turn's: the time that callbacks took must not make a timer early. And
 * later than the turn's now, so that what a due timer starts is not due in the same turn. */
static int64_t timer_due(const struct kr_reactor *r, int64_t in_ns) {
    return kr__time_add(in_ns ? timer_now(r) : r->now + 1, in_ns);
}

int kr_timer_start(struct kr_reactor *r, kr_timer *ret, int64_t in_ns, int64_t every_ns,
                   kr_timer_fn *fn, void *user) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    if (in_ns < 0 || every_ns < 0 || !fn)
        return -EINVAL;
    struct kr__timer *t = kr__slab_get(&r->timers.slab);
    if (!t)
        return -ENOMEM;
    rc = kr__deadline_promise(&r->timers, &t->deadline, KR__KIND_TIMER);
    if (rc < 0) {
        kr__slab_put(&r->timers.slab, t);
        return rc;
    }
    t->every_ns = every_ns;
    t->fn = fn;
    t->user = user;
    timer_file(r, t, timer_due(r, in_ns));
    kr__count(&r->stats.timers, 1);
    if (ret)
        *ret = timer_handle(r, t);
    return 0;
}

int kr_timer_restart(struct kr_reactor *r, kr_timer timer, int64_t in_ns, int64_t every_ns) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    if (in_ns < 0 || every_ns < 0)
        return -EINVAL;
    struct kr__timer *t = timer_find(r, timer);
    if (!t)
        return -ESTALE;
    t->every_ns = every_ns;
    timer_file(r, t, timer_due(r, in_ns));
    return 0;
}

int kr_timer_stop(struct kr_reactor *r, kr_timer timer) {
    int rc = kr__guard(r);
    if (rc < 0)
        return rc;
    struct kr__timer *t = timer_find(r, timer);
    if (!t)
        return -ESTALE;
    timer_end(r, t);
    return 0;
}
