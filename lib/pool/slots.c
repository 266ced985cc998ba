/* The sparse file table, registered raw: liburing's io_uring_register_files_sparse raises the
 * process's RLIMIT_NOFILE without asking; the raw call answers -EMFILE instead (observed, liburing
 * src/register.c). */
#include "pool/slots.h"

#include <errno.h>

static int range_init(struct kr__slot_range *range, struct kr__mem *mem, uint32_t first,
                      unsigned count) {
    *range = (struct kr__slot_range){.first = first, .count = count};
    if (count == 0)
        return 0;
    range->free = kr__mem_get(mem, count * sizeof *range->free);
    if (!range->free)
        return -ENOMEM;
    for (unsigned i = count; i-- > 0;)
        range->free[range->free_count++] = first + i;
    return 0;
}

static void range_free(struct kr__slot_range *range, struct kr__mem *mem) {
    kr__mem_put(mem, range->free, range->count * sizeof *range->free);
    range->free = NULL;
}

static int table_register(struct kr__ring *ring, const struct kr__slots_plan *plan) {
    struct io_uring_rsrc_register table = {
        .nr = plan->accepted + plan->made + plan->files,
        .flags = IORING_RSRC_REGISTER_SPARSE,
    };
    int rc = kr__ring_register(ring, IORING_REGISTER_FILES2, &table, sizeof table);
    if (rc < 0)
        return rc;
    struct io_uring_file_index_range range = {.off = 0, .len = plan->accepted};
    return kr__ring_register(ring, IORING_REGISTER_FILE_ALLOC_RANGE, &range, 0);
}

int kr__slots_init(struct kr__slots *slots, struct kr__ring *ring, struct kr__mem *mem,
                   const struct kr__slots_plan *plan) {
    *slots = (struct kr__slots){.ring = ring, .mem = mem, .accepted = plan->accepted};
    int rc = table_register(ring, plan);
    if (rc == 0)
        rc = range_init(&slots->made, mem, plan->accepted, plan->made);
    if (rc == 0)
        rc = range_init(&slots->files, mem, plan->accepted + plan->made, plan->files);
    return rc;
}

void kr__slots_free(struct kr__slots *slots) {
    range_free(&slots->made, slots->mem);
    range_free(&slots->files, slots->mem);
}

int kr__slots_take(struct kr__slot_range *range) {
    return range->free_count ? (int)range->free[--range->free_count] : -ENOSPC;
}

int kr__slots_put(struct kr__slots *slots, uint32_t slot, int fd) {
    struct io_uring_files_update update = {.offset = slot, .fds = (uint64_t)(uintptr_t)&fd};
    int rc = kr__ring_register(slots->ring, IORING_REGISTER_FILES_UPDATE, &update, 1);
    return rc < 0 ? rc : 0;
}

void kr__slots_clear(struct kr__slots *slots, uint32_t slot) {
    kr__slots_put(slots, slot, -1);
}

void kr__slots_recycle(struct kr__slots *slots, uint32_t slot) {
    if (slot < slots->accepted)
        return;
    struct kr__slot_range *range = slot < slots->files.first ? &slots->made : &slots->files;
    kr__assert(range->free_count < range->count);
    range->free[range->free_count++] = slot;
}
