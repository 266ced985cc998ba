/* The user's allocator, counted. All library memory that is not a page-aligned table comes from
 * here. */
#ifndef KR_BASE_MEM_H
#define KR_BASE_MEM_H

#include "base/util.h"

#include <kreactor/reactor.h>

#include <string.h>

struct kr__mem {
    struct kr_alloc alloc;
    uint64_t calls; /* of alloc */
    uint64_t bytes; /* held now */
    bool refused;   /* the allocator has said no at least once */
};

static inline void *kr__mem_get(struct kr__mem *mem, size_t size) {
    kr__assert(size > 0);
    kr__count(&mem->calls, 1);
    void *memory = mem->alloc.alloc(mem->alloc.ctx, size);
    if (memory)
        kr__count(&mem->bytes, size);
    else
        mem->refused = true;
    return memory;
}

static inline void *kr__mem_get_zeroed(struct kr__mem *mem, size_t size) {
    void *memory = kr__mem_get(mem, size);
    if (memory)
        memset(memory, 0, size);
    return memory;
}

/* NULL is allowed, as with free. */
static inline void kr__mem_put(struct kr__mem *mem, void *memory, size_t size) {
    if (!memory)
        return;
    kr__uncount(&mem->bytes, size);
    mem->alloc.free(mem->alloc.ctx, memory, size);
}

#endif
