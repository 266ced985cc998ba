/* The inbox: work, notices and stop requests from other threads, and the waking of a sleeping
 * reactor. */
#ifndef KR_ROOF_POST_H
#define KR_ROOF_POST_H

#include "base/mem.h"
#include "base/mpsc.h"
#include "kernel/kernel.h"

#include <kreactor/post.h>

struct kr__inbox {
    struct kr__mpsc queue;
    struct kr_notice *notices; /* pending, the last one first */
    unsigned room;
    int wake_fd;
    bool asleep; /* the reactor is about to wait, or waits: whoever clears this wakes it */
    bool stop;
    bool rests;      /* kr_run has returned, and nothing runs since */
    bool closed;     /* kr_reactor_free has begun */
    unsigned inside; /* callers that are within kr_post or kr_stop */
    const struct kr__kernel *kernel;
    struct kr__mem *mem;
};

int kr__inbox_init(struct kr__inbox *inbox, const struct kr__kernel *k, struct kr__mem *mem,
                   unsigned room);
void kr__inbox_free(struct kr__inbox *inbox);

/* Closes its descriptor; nobody can be woken any more. */
void kr__inbox_close_wake(struct kr__inbox *inbox);

/* Takes no more posts, and waits for callers that are still on their way out: who is released by a
 * kr_stop of another thread may free the reactor before that thread has returned from it. */
void kr__inbox_close(struct kr__inbox *inbox);

/* Announces a wait. False when something has come meanwhile: do not wait. */
bool kr__inbox_may_sleep(struct kr__inbox *inbox);
void kr__inbox_awake(struct kr__inbox *inbox);

/* Whether anything waits to be run. */
static inline bool kr__inbox_ready(struct kr__inbox *inbox) {
    return kr__mpsc_ready(&inbox->queue) || __atomic_load_n(&inbox->notices, __ATOMIC_SEQ_CST);
}

/* Whether somebody is there to run what waits. */
static inline void kr__inbox_rests(struct kr__inbox *inbox, bool rests) {
    if (__atomic_load_n(&inbox->rests, __ATOMIC_RELAXED) != rests)
        __atomic_store_n(&inbox->rests, rests, __ATOMIC_RELAXED);
}

/* Runs the notices, and at most `budget` posted calls, that were there at the start; returns how
 * many. */
unsigned kr__inbox_run(struct kr_reactor *r, unsigned budget);

/* True once for each kr_stop. */
bool kr__inbox_take_stop(struct kr__inbox *inbox);

#endif
