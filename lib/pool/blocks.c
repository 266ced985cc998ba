/* Size classes of memory. Happy path: pop from the class's list. Failure: the user's allocator
 * refuses, and the caller gets NULL, with nothing changed. */
#include "pool/blocks.h"

#include "base/mark.h"
#include "base/poison.h"

void kr__blocks_init(struct kr__blocks *blocks, struct kr__mem *mem) {
    *blocks = (struct kr__blocks){.mem = mem};
}

static size_t class_room(unsigned class) {
    return (size_t)KR__BLOCK_MIN << class;
}

/* KR__BLOCK_CLASSES for what is larger than the largest class. */
static unsigned class_of(size_t size) {
    if (size <= KR__BLOCK_MIN)
        return 0;
    unsigned bits = 64u - (unsigned)__builtin_clzll((unsigned long long)size - 1);
    unsigned class = bits - 6;
    return class < KR__BLOCK_CLASSES ? class : KR__BLOCK_CLASSES;
}

size_t kr__block_room(size_t size) {
    unsigned class = class_of(size);
    return class == KR__BLOCK_CLASSES ? size : class_room(class);
}

void kr__blocks_free(struct kr__blocks *blocks) {
    kr__assert(blocks->out == 0);
    for (unsigned class = 0; class < KR__BLOCK_CLASSES; class++) {
        while (blocks->free[class]) {
            void *block = blocks->free[class];
            kr__unpoison(block, class_room(class));
            blocks->free[class] = *(void **)block;
            kr__mem_put(blocks->mem, block, class_room(class));
        }
    }
    blocks->kept = 0;
}

void *kr__block_get(struct kr__blocks *blocks, size_t size, size_t *room) {
    unsigned class = class_of(size);
    *room = kr__block_room(size);
    void *block;
    if (class < KR__BLOCK_CLASSES && kr__likely(blocks->free[class] != NULL)) {
        block = blocks->free[class];
        kr__unpoison(block, *room);
        blocks->free[class] = *(void **)block;
        blocks->kept -= *room;
    } else {
        block = kr__mem_get(blocks->mem, *room);
    }
    if (block)
        kr__count(&blocks->out, 1);
    return block;
}

void kr__block_put(struct kr__blocks *blocks, void *block, size_t room) {
    kr__uncount(&blocks->out, 1);
    kr__unpoison(block, room);
    unsigned class = class_of(room);
    kr__mark_if(block_not_kept,
                class != KR__BLOCK_CLASSES && blocks->kept + room > KR__BLOCKS_KEEP);
    if (class == KR__BLOCK_CLASSES || blocks->kept + room > KR__BLOCKS_KEEP) {
        kr__mem_put(blocks->mem, block, room);
        return;
    }
    kr__assert(room == class_room(class));
    *(void **)block = blocks->free[class];
    blocks->free[class] = block;
    blocks->kept += room;
    kr__poison(block, room);
}
