/* The process of the simulated kernel's door: virtual time, memory of the host, limits that are never
 * reached. */
#include "kernel/sim/door.h"

#define PAGE 4096u

int64_t kr__door_process_clock(const struct kr__kernel *k) {
    return kr__sim_entered(k)->now;
}

/* Page-aligned within a larger block of the host's. That block's address stands right before the
 * pages. */
void *kr__door_process_map(const struct kr__kernel *k, size_t size, enum kr__map how) {
    (void)how;
    kr__sim_entered(k);
    char *block = calloc(1, size + 2 * PAGE);
    if (!block)
        return NULL;
    char *pages = (char *)(((uintptr_t)block + 2 * PAGE - 1) & ~(uintptr_t)(PAGE - 1));
    memcpy(pages - sizeof block, &block, sizeof block);
    return pages;
}

void kr__door_process_unmap(const struct kr__kernel *k, void *pages, size_t size) {
    (void)k;
    (void)size;
    char *block;
    memcpy(&block, (char *)pages - sizeof block, sizeof block);
    free(block);
}

void kr__door_process_yield(const struct kr__kernel *k) {
    kr__sim_entered(k);
}

uint64_t kr__door_process_limit_nofile(const struct kr__kernel *k) {
    (void)k;
    return KR__SIM_NOFILE;
}

uint64_t kr__door_process_limit_memlock(const struct kr__kernel *k) {
    (void)k;
    return KR__SIM_MEMLOCK;
}

uint64_t kr__door_process_limit_none(const struct kr__kernel *k) {
    (void)k;
    return UINT64_MAX;
}

int kr__door_process_sysctl_disabled(const struct kr__kernel *k) {
    (void)k;
    return 0;
}
