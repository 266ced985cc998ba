/* Blocks: memory for queues, by size class, kept for reuse.
 *
 * What connections need for a moment (bytes to be sent, bytes unconsumed, vectors, inline memory)
 * comes in powers of two from 64 bytes to 1 MiB. A block given back waits on its class's list, last
 * in first out, so that after warm-up no allocator is called and the memory is warm. Kept blocks
 * are bounded: above KR__BLOCKS_KEEP they go back to the user's allocator. */
#ifndef KR_POOL_BLOCKS_H
#define KR_POOL_BLOCKS_H

#include "base/mem.h"

#define KR__BLOCK_MIN 64u
#define KR__BLOCK_CLASSES 15u /* 64 << 14 = 1 MiB */
#define KR__BLOCK_CLASS_MOST ((size_t)KR__BLOCK_MIN << (KR__BLOCK_CLASSES - 1))
#define KR__BLOCKS_KEEP ((size_t)16 << 20)

struct kr__blocks {
    struct kr__mem *mem;
    void *free[KR__BLOCK_CLASSES]; /* the first word of a free block leads to the next */
    size_t kept;                   /* bytes on those lists */
    uint64_t out;                  /* blocks in use */
};

void kr__blocks_init(struct kr__blocks *blocks, struct kr__mem *mem);
void kr__blocks_free(struct kr__blocks *blocks);

/* How large a block for `size` bytes is. */
size_t kr__block_room(size_t size);

/* A block of at least `size` bytes (1 and more), and how large it is, which kr__block_put wants to
 * hear again; NULL when memory is refused. */
void *kr__block_get(struct kr__blocks *blocks, size_t size, size_t *room);
void kr__block_put(struct kr__blocks *blocks, void *block, size_t room);

#endif
