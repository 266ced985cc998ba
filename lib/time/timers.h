/* Due times: user timers, and the deadlines of connections and listeners, a heap each, since the
 * latter may have to wait for what is still to be read (roof/catchup.c). */
#ifndef KR_TIME_TIMERS_H
#define KR_TIME_TIMERS_H

#include "base/handle.h"
#include "base/heap.h"
#include "base/slab.h"

#include <kreactor/timer.h>

/* A place in the heap; the node's `kind` (enum kr__kind) says in what it is embedded. */
struct kr__deadline {
    struct kr__heap_node node;
};

/* A user timer. Freed by stopping it, or after a one-shot's callback that has not filed it
 * again. */
struct kr__timer {
    struct kr__slab_head head;
    struct kr__deadline deadline;
    int64_t at, every_ns;
    kr_timer_fn *fn;
    void *user;
};

struct kr__timers {
    struct kr__heap heap;      /* what is to happen at a time: user timers, tries to connect */
    struct kr__heap deadlines; /* what a peer, or the kernel, is to have done by a time */
    struct kr__slab slab;
};

void kr__timers_init(struct kr__timers *timers, struct kr__mem *mem);
void kr__timers_free(struct kr__timers *timers);

static inline bool kr__deadline_happens(const struct kr__deadline *d) {
    return d->node.kind == KR__KIND_TIMER || d->node.kind == KR__KIND_CONNECT;
}

static inline struct kr__heap *kr__timers_heap(struct kr__timers *timers,
                                               const struct kr__deadline *d) {
    return kr__deadline_happens(d) ? &timers->heap : &timers->deadlines;
}

/* When a filed one is due. */
static inline int64_t kr__deadline_at(const struct kr__timers *timers,
                                      const struct kr__deadline *d) {
    const struct kr__heap *heap = kr__deadline_happens(d) ? &timers->heap : &timers->deadlines;
    return kr__heap_at(heap, &d->node);
}

/* The earliest time of both heaps; KR__NEVER when there is none. */
static inline int64_t kr__timers_next(const struct kr__timers *timers) {
    int64_t timer = kr__heap_next(&timers->heap), deadline = kr__heap_next(&timers->deadlines);
    return timer < deadline ? timer : deadline;
}

/* For whoever embeds a deadline: promise once, then file and unfile at will. */
static inline int kr__deadline_promise(struct kr__timers *timers, struct kr__deadline *d,
                                       uint8_t kind) {
    *d = (struct kr__deadline){.node = {.place = KR__HEAP_OUT, .kind = kind}};
    return kr__heap_promise(kr__timers_heap(timers, d));
}

static inline void kr__deadline_end(struct kr__timers *timers, struct kr__deadline *d) {
    kr__heap_remove(kr__timers_heap(timers, d), &d->node);
    kr__heap_unpromise(kr__timers_heap(timers, d));
}

static inline void kr__deadline_file(struct kr__timers *timers, struct kr__deadline *d,
                                     int64_t at) {
    kr__heap_file(kr__timers_heap(timers, d), &d->node, at);
}

static inline void kr__deadline_unfile(struct kr__timers *timers, struct kr__deadline *d) {
    kr__heap_remove(kr__timers_heap(timers, d), &d->node);
}

/* Calls a user timer that is due and has been taken out of the heap. */
void kr__timer_fire(struct kr_reactor *r, struct kr__deadline *d);

#endif
