/* Poison: memory that nobody may touch for now, told to AddressSanitizer, so that a user of lent
 * memory who comes too late, or reaches too far, is caught in the act. Checked builds only, and
 * only if the sanitizer is there: its functions (sanitizer/asan_interface.h) are weak here, and
 * missing otherwise.
 *
 * The kernel is no instrumented code, and may write to a poisoned buffer: that is whose it is. */
#ifndef KR_BASE_POISON_H
#define KR_BASE_POISON_H

#include "base/util.h"

__attribute__((weak)) void __asan_poison_memory_region(void const volatile *memory, size_t size);
__attribute__((weak)) void __asan_unpoison_memory_region(void const volatile *memory, size_t size);

static inline void kr__poison(const void *memory, size_t size) {
    if (KR_CHECKED && __asan_poison_memory_region)
        __asan_poison_memory_region(memory, size);
}

static inline void kr__unpoison(const void *memory, size_t size) {
    if (KR_CHECKED && __asan_unpoison_memory_region)
        __asan_unpoison_memory_region(memory, size);
}

#endif
