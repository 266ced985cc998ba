/* The sparse file table, registered raw: liburing's io_uring_register_files_sparse raises the process's
 * RLIMIT_NOFILE without asking; the raw call answers -EMFILE instead (observed, liburing src/register.c). */
#include "pool/slots.h"

#include <errno.h>

int kr__slots_init(struct kr__slots *slots, struct kr__ring *ring, struct kr__mem *mem, unsigned conns,
                   unsigned files) {
    *slots = (struct kr__slots){.ring = ring, .mem = mem, .conns = conns, .files = files};
    struct io_uring_rsrc_register table = {.nr = conns + files, .flags = IORING_RSRC_REGISTER_SPARSE};
    int rc = kr__ring_register(ring, IORING_REGISTER_FILES2, &table, sizeof table);
    if (rc < 0)
        return rc;
    struct io_uring_file_index_range range = {.off = 0, .len = conns};
    rc = kr__ring_register(ring, IORING_REGISTER_FILE_ALLOC_RANGE, &range, 0);
    if (rc < 0)
        return rc;
    slots->free = kr__mem_get(mem, files * sizeof *slots->free);
    if (!slots->free)
        return -ENOMEM;
    for (unsigned i = files; i-- > 0;)
        slots->free[slots->free_count++] = conns + i;
    return 0;
}

void kr__slots_free(struct kr__slots *slots) {
    kr__mem_put(slots->mem, slots->free, slots->files * sizeof *slots->free);
    slots->free = NULL;
}

static int slots_update(struct kr__slots *slots, uint32_t slot, int fd) {
    struct io_uring_files_update update = {.offset = slot, .fds = (uint64_t)(uintptr_t)&fd};
    int rc = kr__ring_register(slots->ring, IORING_REGISTER_FILES_UPDATE, &update, 1);
    return rc < 0 ? rc : 0;
}

int kr__slots_put_file(struct kr__slots *slots, int fd) {
    if (!slots->free_count)
        return -ENOSPC;
    uint32_t slot = slots->free[slots->free_count - 1];
    int rc = slots_update(slots, slot, fd);
    if (rc < 0)
        return rc;
    slots->free_count--;
    return (int)slot;
}

void kr__slots_clear(struct kr__slots *slots, uint32_t slot) {
    slots_update(slots, slot, -1);
}

void kr__slots_recycle(struct kr__slots *slots, uint32_t slot) {
    kr__assert(slot >= slots->conns && slots->free_count < slots->files);
    slots->free[slots->free_count++] = slot;
}
