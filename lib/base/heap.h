/* A 4-ary min-heap of due times, intrusive: a node knows its place, so that removing and re-filing
 * need no search. Four children a node make it half as deep as a binary heap, and the keys, which
 * stand in the array itself, of all four children lie within two cache lines.
 *
 * Equal times leave in the order of filing.
 *
 * Memory: whoever owns a node promises it first (kr__heap_promise, which may fail); after that
 * filing it can not fail. So a deadline can always be set on a path that has no way to report an
 * error. */
#ifndef KR_BASE_HEAP_H
#define KR_BASE_HEAP_H

#include "base/mem.h"

#include <errno.h>

#define KR__HEAP_OUT UINT32_MAX /* the place of a node that is not filed */

struct kr__heap_node {
    uint32_t place;
    uint32_t order : 24; /* of filing; it decides only between equal times, so it may wrap */
    uint32_t kind : 8;   /* the owner's: in what the node is embedded */
};

struct kr__heap_item {
    int64_t at;
    struct kr__heap_node *node;
};

struct kr__heap {
    struct kr__heap_item *items;
    uint32_t count, room, promised;
    uint32_t order;
    struct kr__mem *mem;
};

static inline void kr__heap_init(struct kr__heap *heap, struct kr__mem *mem) {
    *heap = (struct kr__heap){.mem = mem};
}

static inline void kr__heap_free(struct kr__heap *heap) {
    kr__mem_put(heap->mem, heap->items, heap->room * sizeof *heap->items);
    heap->items = NULL;
    heap->count = heap->room = 0;
}

/* Makes room for one more node. */
static inline int kr__heap_promise(struct kr__heap *heap) {
    if (heap->promised < heap->room) {
        heap->promised++;
        return 0;
    }
    uint32_t room = heap->room ? heap->room * 2 : 64;
    struct kr__heap_item *items = kr__mem_get(heap->mem, room * sizeof *items);
    if (!items)
        return -ENOMEM;
    if (heap->count)
        memcpy(items, heap->items, heap->count * sizeof *items);
    kr__mem_put(heap->mem, heap->items, heap->room * sizeof *items);
    heap->items = items;
    heap->room = room;
    heap->promised++;
    return 0;
}

static inline void kr__heap_unpromise(struct kr__heap *heap) {
    kr__assert(heap->promised > heap->count || heap->promised > 0);
    heap->promised--;
}

static inline bool kr__heap_before(const struct kr__heap_item *a, const struct kr__heap_item *b) {
    if (a->at != b->at)
        return a->at < b->at;
    uint32_t apart = (uint32_t)a->node->order - (uint32_t)b->node->order;
    return (int32_t)(apart << 8) < 0;
}

static inline void kr__heap_set(struct kr__heap *heap, uint32_t place, struct kr__heap_item item) {
    heap->items[place] = item;
    item.node->place = place;
}

static inline void kr__heap_rise(struct kr__heap *heap, uint32_t place) {
    struct kr__heap_item item = heap->items[place];
    while (place > 0) {
        uint32_t parent = (place - 1) / 4;
        if (!kr__heap_before(&item, &heap->items[parent]))
            break;
        kr__heap_set(heap, place, heap->items[parent]);
        place = parent;
    }
    kr__heap_set(heap, place, item);
}

static inline uint32_t kr__heap_least_child(const struct kr__heap *heap, uint32_t place) {
    uint32_t first = place * 4 + 1, least = first;
    for (uint32_t child = first + 1; child < first + 4 && child < heap->count; child++) {
        if (kr__heap_before(&heap->items[child], &heap->items[least]))
            least = child;
    }
    return least;
}

static inline void kr__heap_sink(struct kr__heap *heap, uint32_t place) {
    struct kr__heap_item item = heap->items[place];
    while (place * 4 + 1 < heap->count) {
        uint32_t child = kr__heap_least_child(heap, place);
        if (!kr__heap_before(&heap->items[child], &item))
            break;
        kr__heap_set(heap, place, heap->items[child]);
        place = child;
    }
    kr__heap_set(heap, place, item);
}

static inline bool kr__heap_filed(const struct kr__heap_node *node) {
    return node->place != KR__HEAP_OUT;
}

/* Takes a node out; one that is not filed stays so. */
static inline void kr__heap_remove(struct kr__heap *heap, struct kr__heap_node *node) {
    if (!kr__heap_filed(node))
        return;
    uint32_t place = node->place;
    kr__assert(place < heap->count && heap->items[place].node == node);
    node->place = KR__HEAP_OUT;
    struct kr__heap_item last = heap->items[--heap->count];
    if (place == heap->count)
        return;
    kr__heap_set(heap, place, last);
    kr__heap_sink(heap, place);
    kr__heap_rise(heap, last.node->place);
}

/* Files a promised node at a time, or files it anew. */
static inline void kr__heap_file(struct kr__heap *heap, struct kr__heap_node *node, int64_t at) {
    kr__heap_remove(heap, node);
    kr__assert(heap->count < heap->promised && heap->promised <= heap->room);
    uint32_t place = heap->count++;
    node->order = heap->order++ & 0xffffffu;
    kr__heap_set(heap, place, (struct kr__heap_item){at, node});
    kr__heap_rise(heap, place);
}

/* When a filed node is due. */
static inline int64_t kr__heap_at(const struct kr__heap *heap, const struct kr__heap_node *node) {
    kr__assert(heap->items[node->place].node == node);
    return heap->items[node->place].at;
}

/* The earliest time filed; KR__NEVER when there is none. */
static inline int64_t kr__heap_next(const struct kr__heap *heap) {
    return heap->count ? heap->items[0].at : KR__NEVER;
}

/* The earliest node, taken out, if it is due at `now`; NULL otherwise. */
static inline struct kr__heap_node *kr__heap_pop_due(struct kr__heap *heap, int64_t now) {
    if (!heap->count || heap->items[0].at > now)
        return NULL;
    struct kr__heap_node *node = heap->items[0].node;
    kr__heap_remove(heap, node);
    return node;
}

#endif
