/* Ranges of slots, and what is in them.
 *
 * The sparse table is registered raw: liburing's io_uring_register_files_sparse raises the
 * process's RLIMIT_NOFILE without asking; the raw call answers -EMFILE instead (observed, liburing
 * src/register.c).
 *
 * Failure modes: the kernel chooses a slot beyond the range; none is free for what was accepted;
 * no descriptor is left for a slot's own. */
#include "pool/slots.h"

#include "base/mark.h"

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

static bool is_plain(const struct kr__slots *slots) {
    return slots->ring->plain.cells != NULL;
}

static unsigned total(const struct kr__slots_plan *plan) {
    return plan->accepted + plan->made + plan->files;
}

static int table_register(struct kr__ring *ring, const struct kr__slots_plan *plan) {
    struct io_uring_rsrc_register table = {
        .nr = total(plan),
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
    *slots = (struct kr__slots){.ring = ring, .mem = mem};
    int rc = plan->plain ? kr__plain_init(&ring->plain, ring->kernel, total(plan))
                         : table_register(ring, plan);
    if (rc == 0)
        rc = range_init(&slots->accepted, mem, 0, plan->plain ? plan->accepted : 0);
    if (rc == 0)
        rc = range_init(&slots->made, mem, plan->accepted, plan->made);
    if (rc == 0)
        rc = range_init(&slots->files, mem, plan->accepted + plan->made, plan->files);
    return rc;
}

void kr__slots_free(struct kr__slots *slots) {
    range_free(&slots->accepted, slots->mem);
    range_free(&slots->made, slots->mem);
    range_free(&slots->files, slots->mem);
}

int kr__slots_take(struct kr__slot_range *range) {
    return range->free_count ? (int)range->free[--range->free_count] : -ENOSPC;
}

static int table_update(struct kr__slots *slots, uint32_t slot, int fd) {
    struct io_uring_files_update update = {.offset = slot, .fds = (uint64_t)(uintptr_t)&fd};
    int rc = kr__ring_register(slots->ring, IORING_REGISTER_FILES_UPDATE, &update, 1);
    return rc < 0 ? rc : 0;
}

int kr__slots_put(struct kr__slots *slots, uint32_t slot, int fd) {
    if (is_plain(slots))
        return kr__plain_put(&slots->ring->plain, slot, fd);
    return table_update(slots, slot, fd);
}

void kr__slots_clear(struct kr__slots *slots, uint32_t slot) {
    if (is_plain(slots))
        kr__plain_clear(&slots->ring->plain, slot);
    else
        table_update(slots, slot, -1);
}

static struct kr__slot_range *range_of(struct kr__slots *slots, uint32_t slot) {
    if (slot < slots->made.first)
        return &slots->accepted;
    return slot < slots->files.first ? &slots->made : &slots->files;
}

void kr__slots_recycle(struct kr__slots *slots, uint32_t slot) {
    struct kr__slot_range *range = range_of(slots, slot);
    if (range->count == 0)
        return;
    kr__assert(range->free_count < range->count);
    range->free[range->free_count++] = slot;
}

/* Some kernels choose beyond the range when it is full and the last slot cleared was not in it
 * (io_uring/filetable.c). That is not to happen, as slots are set aside; if it does, it is a full
 * table. */
static int in_range(struct kr__slots *slots, uint32_t slot) {
    if (slot < slots->made.first)
        return (int)slot;
    kr__mark(accepted_beyond_the_range);
    kr__slots_clear(slots, slot);
    return -ENFILE;
}

int kr__slots_accepted(struct kr__slots *slots, int32_t res) {
    if (res < 0)
        return res;
    if (!is_plain(slots))
        return in_range(slots, (uint32_t)res);
    int slot = kr__slots_take(&slots->accepted);
    if (slot < 0) {
        kr__mark(accepted_without_a_slot);
        slots->ring->kernel->file.close(slots->ring->kernel, res);
        return -ENFILE;
    }
    kr__plain_give(&slots->ring->plain, (uint32_t)slot, res);
    return slot;
}

int kr__slots_installed(struct kr__slots *slots, int32_t res, int32_t cell) {
    if (res < 0 || !is_plain(slots))
        return res < 0 ? res : cell;
    int fd = slots->ring->kernel->file.dup(slots->ring->kernel, cell);
    return fd < 0 ? fd : kr__slots_accepted(slots, fd);
}

int kr__slots_exported(struct kr__slots *slots, int32_t res, uint32_t slot) {
    if (res < 0 || !is_plain(slots))
        return res;
    return slots->ring->kernel->file.dup(slots->ring->kernel, kr__slots_fd(slots, slot));
}

int kr__slots_fd(const struct kr__slots *slots, uint32_t slot) {
    return is_plain(slots) ? kr__plain_fd(&slots->ring->plain, slot) : -1;
}
