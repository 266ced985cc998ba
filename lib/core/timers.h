/* Due times: user timers, and the deadlines of connections and listeners, in one heap. */
#ifndef KR_CORE_TIMERS_H
#define KR_CORE_TIMERS_H

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
    struct kr__heap heap;
    struct kr__slab slab;
};

void kr__timers_init(struct kr__timers *timers, struct kr__mem *mem);
void kr__timers_free(struct kr__timers *timers);

/* For whoever embeds a deadline: promise once, then file and unfile at will. */
static inline int kr__deadline_promise(struct kr__timers *timers, struct kr__deadline *d,
                                       uint8_t kind) {
    *d = (struct kr__deadline){.node = {.place = KR__HEAP_OUT, .kind = kind}};
    return kr__heap_promise(&timers->heap);
}

static inline void kr__deadline_end(struct kr__timers *timers, struct kr__deadline *d) {
    kr__heap_remove(&timers->heap, &d->node);
    kr__heap_unpromise(&timers->heap);
}

static inline void kr__deadline_file(struct kr__timers *timers, struct kr__deadline *d,
                                     int64_t at) {
    kr__heap_file(&timers->heap, &d->node, at);
}

static inline void kr__deadline_unfile(struct kr__timers *timers, struct kr__deadline *d) {
    kr__heap_remove(&timers->heap, &d->node);
}

/* Calls a user timer that is due and has been taken out of the heap. */
void kr__timer_fire(struct kr_reactor *r, struct kr__deadline *d);

#endif
