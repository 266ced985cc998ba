/* An allocator that grants as many allocations as a case says, for pieces below the reactor. */
#ifndef TEST_BANK_H
#define TEST_BANK_H

#include "base/mem.h"
#include "harness/tap.h"

#include <stdlib.h>

struct bank {
    int64_t left; /* allocations still granted; -1: all */
};

static inline void *bank_alloc(void *ctx, size_t size) {
    struct bank *bank = ctx;
    if (bank->left == 0)
        return NULL;
    if (bank->left > 0)
        bank->left--;
    return malloc(size);
}

static inline void bank_free(void *ctx, void *memory, size_t size) {
    UNUSED(ctx, size);
    free(memory);
}

static inline struct kr__mem mem_of(struct bank *bank) {
    return (struct kr__mem){.alloc = {.alloc = bank_alloc, .free = bank_free, .ctx = bank}};
}

#endif
