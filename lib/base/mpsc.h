/* A bounded queue with many pushers and one popper.
 *
 * Dmitry Vyukov's bounded queue: each cell carries the turn in which it may next be written or
 * read. A pusher claims a place with one compare-and-swap, writes, then publishes the cell; it
 * takes no lock and allocates nothing, so a signal handler may push, also over a push that it has
 * interrupted.
 *
 * The popper stops at a cell that is claimed but not yet published, even if later ones are: order
 * is kept, and the pusher that is late will wake the reactor again when it is done.
 *
 * Turns are counted by two, 2n free for the n-th push and 2n + 1 published, so that a queue of one
 * cell can tell full from free too. */
#ifndef KR_BASE_MPSC_H
#define KR_BASE_MPSC_H

#include "base/util.h"

struct kr__mpsc_cell {
    uint64_t turn;
    void (*fn)(void);
    void *arg;
};

struct kr__mpsc {
    struct kr__mpsc_cell *cells;
    uint64_t mask;
    char apart_1[64]; /* what all pushers write, what the popper writes: no two on one cache line */
    uint64_t push;
    char apart_2[64];
    uint64_t pop;
    char apart_3[64];
};

/* `count` is a power of two; the cells are the caller's. */
static inline void kr__mpsc_init(struct kr__mpsc *q, struct kr__mpsc_cell *cells, uint64_t count) {
    *q = (struct kr__mpsc){.cells = cells, .mask = count - 1};
    for (uint64_t i = 0; i < count; i++)
        cells[i] = (struct kr__mpsc_cell){.turn = 2 * i};
}

/* False when the queue is full. Any thread, any signal handler. */
static inline bool kr__mpsc_push(struct kr__mpsc *q, void (*fn)(void), void *arg) {
    uint64_t place = __atomic_load_n(&q->push, __ATOMIC_RELAXED);
    for (;;) {
        struct kr__mpsc_cell *cell = &q->cells[place & q->mask];
        uint64_t turn = __atomic_load_n(&cell->turn, __ATOMIC_ACQUIRE);
        if (turn == 2 * place) {
            if (__atomic_compare_exchange_n(&q->push, &place, place + 1, true, __ATOMIC_RELAXED,
                                            __ATOMIC_RELAXED)) {
                cell->fn = fn;
                cell->arg = arg;
                __atomic_store_n(&cell->turn, 2 * place + 1, __ATOMIC_RELEASE);
                return true;
            }
        } else if ((int64_t)(turn - 2 * place) < 0) {
            return false;
        } else {
            place = __atomic_load_n(&q->push, __ATOMIC_RELAXED);
        }
    }
}

/* True when the next cell is published. The popper's thread. */
static inline bool kr__mpsc_ready(struct kr__mpsc *q) {
    struct kr__mpsc_cell *cell = &q->cells[q->pop & q->mask];
    return __atomic_load_n(&cell->turn, __ATOMIC_ACQUIRE) == 2 * q->pop + 1;
}

/* False when nothing is ready. The popper's thread. */
static inline bool kr__mpsc_pop(struct kr__mpsc *q, void (**fn)(void), void **arg) {
    if (!kr__mpsc_ready(q))
        return false;
    struct kr__mpsc_cell *cell = &q->cells[q->pop & q->mask];
    *fn = cell->fn;
    *arg = cell->arg;
    __atomic_store_n(&cell->turn, 2 * (q->pop + q->mask + 1), __ATOMIC_RELEASE);
    q->pop++;
    return true;
}

#endif
