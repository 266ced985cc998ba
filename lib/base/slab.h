/* A slab of equal items that never move, found by index and told apart by generation.
 *
 * Items live in chunks; an index names chunk and place. A freed item's generation rises, so that a
 * handle (index, generation) of an earlier life finds nothing. Freed items are reused last in,
 * first out, which keeps them warm. Generation 0 is never in use, so that a zeroed handle is never
 * good; the one after the last is 1 again (base/util.h). */
#ifndef KR_BASE_SLAB_H
#define KR_BASE_SLAB_H

#include "base/mem.h"

#include <errno.h>

#define KR__SLAB_CHUNK 256u
#define KR__SLAB_MAX (1u << 20) /* items; a handle has 20 bits for the index */
#define KR__SLAB_NONE UINT32_MAX

/* The first member of each item. */
struct kr__slab_head {
    uint32_t index;
    uint32_t generation;
    uint32_t next_free;
    bool used;
};

struct kr__slab {
    struct kr__mem *mem;
    size_t item_size;
    char **chunks;
    uint32_t chunk_count, chunk_room;
    uint32_t first_free;
    uint32_t used;
};

static inline void kr__slab_init(struct kr__slab *slab, struct kr__mem *mem, size_t item_size) {
    *slab = (struct kr__slab){.mem = mem, .item_size = item_size, .first_free = KR__SLAB_NONE};
}

static inline void kr__slab_free(struct kr__slab *slab) {
    for (uint32_t i = 0; i < slab->chunk_count; i++)
        kr__mem_put(slab->mem, slab->chunks[i], slab->item_size * KR__SLAB_CHUNK);
    kr__mem_put(slab->mem, slab->chunks, slab->chunk_room * sizeof *slab->chunks);
    kr__slab_init(slab, slab->mem, slab->item_size);
}

static inline struct kr__slab_head *kr__slab_at(const struct kr__slab *slab, uint32_t index) {
    char *chunk = slab->chunks[index / KR__SLAB_CHUNK];
    return (struct kr__slab_head *)(void *)(chunk + slab->item_size * (index % KR__SLAB_CHUNK));
}

static inline int kr__slab_grow_chunks(struct kr__slab *slab) {
    uint32_t room = slab->chunk_room ? slab->chunk_room * 2 : 8;
    char **chunks = kr__mem_get(slab->mem, room * sizeof *chunks);
    if (!chunks)
        return -ENOMEM;
    if (slab->chunk_count)
        memcpy(chunks, slab->chunks, slab->chunk_count * sizeof *chunks);
    kr__mem_put(slab->mem, slab->chunks, slab->chunk_room * sizeof *chunks);
    slab->chunks = chunks;
    slab->chunk_room = room;
    return 0;
}

static inline int kr__slab_grow(struct kr__slab *slab) {
    if (slab->chunk_count * KR__SLAB_CHUNK >= KR__SLAB_MAX)
        return -ENOMEM;
    if (slab->chunk_count == slab->chunk_room && kr__slab_grow_chunks(slab) < 0)
        return -ENOMEM;
    char *chunk = kr__mem_get_zeroed(slab->mem, slab->item_size * KR__SLAB_CHUNK);
    if (!chunk)
        return -ENOMEM;
    uint32_t base = slab->chunk_count * KR__SLAB_CHUNK;
    slab->chunks[slab->chunk_count++] = chunk;
    for (uint32_t i = KR__SLAB_CHUNK; i-- > 0;) {
        struct kr__slab_head *item = kr__slab_at(slab, base + i);
        *item = (struct kr__slab_head){base + i, 1, slab->first_free, false};
        slab->first_free = base + i;
    }
    return 0;
}

/* An item, of which only the head is filled; NULL when memory is refused. */
static inline void *kr__slab_get(struct kr__slab *slab) {
    if (slab->first_free == KR__SLAB_NONE && kr__slab_grow(slab) < 0)
        return NULL;
    struct kr__slab_head *item = kr__slab_at(slab, slab->first_free);
    kr__assert(!item->used);
    slab->first_free = item->next_free;
    item->used = true;
    slab->used++;
    return item;
}

static inline void kr__slab_put(struct kr__slab *slab, void *memory) {
    struct kr__slab_head *item = memory;
    kr__assert(item->used);
    item->used = false;
    item->generation = kr__generation_next(item->generation);
    item->next_free = slab->first_free;
    slab->first_free = item->index;
    slab->used--;
}

/* The living item of this index and generation; NULL when that life is over. */
static inline void *kr__slab_find(const struct kr__slab *slab, uint32_t index,
                                  uint32_t generation) {
    if (index >= slab->chunk_count * KR__SLAB_CHUNK)
        return NULL;
    struct kr__slab_head *item = kr__slab_at(slab, index);
    return item->used && item->generation == generation ? item : NULL;
}

#endif
