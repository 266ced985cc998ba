/* Slots, chosen as the kernel chooses them: the next free one from the hint on, which is the slot
 * after the last one taken, or the last one given back (io_uring/filetable.c, filetable.h). So a
 * slot that is closed goes to the very next accept. The hint may lie outside the range, when a slot
 * there was closed: then the kernel looks from the start of the range up to the hint, and may find
 * a slot beyond its end.
 *
 * Before 6.13 a file that leaves the table is let go when each request has ended that found any
 * file in the table before that, and all that left earlier have gone: it is put on the node that
 * these requests refer to, and nodes are freed in order (io_rsrc_node_ref_zero, io_uring/rsrc.c;
 * observed on 6.1.192 and 6.12.117). 6.1 waits another second, which is not modelled. */
#include "kernel/sim/slots.h"

struct kept {
    struct kr__link link;
    struct kr__sim_file *file;
    uint64_t taken; /* requests up to this one keep it */
};

int kr__sim_slots_init(struct kr__sim_slots *slots, unsigned count, bool keeps) {
    if (slots->table)
        return -EBUSY;
    slots->table = kr__sim_alloc(count * sizeof(*slots->table));
    slots->count = slots->end = count;
    slots->keeps = keeps;
    kr__list_init(&slots->kept);
    return 0;
}

static void take_out(struct kr__sim_slots *slots, struct kr__sim_file *file) {
    if (!slots->keeps) {
        kr__sim_file_unref(file);
        return;
    }
    struct kept *kept = kr__sim_alloc(sizeof *kept);
    *kept = (struct kept){.file = file, .taken = slots->taken};
    kr__list_push(&slots->kept, &kept->link);
}

void kr__sim_slots_let_go(struct kr__sim_slots *slots, uint64_t oldest) {
    while (slots->table && !kr__list_empty(&slots->kept)) {
        struct kept *kept = kr__container_of(slots->kept.head.next, struct kept, link);
        if (kept->taken >= oldest)
            return;
        kr__link_off(&kept->link);
        kr__sim_file_unref(kept->file);
        free(kept);
    }
}

void kr__sim_slots_end(struct kr__sim_slots *slots) {
    for (unsigned slot = 0; slot < slots->count; slot++)
        kr__sim_slots_put(slots, slot, NULL);
    kr__sim_slots_let_go(slots, UINT64_MAX);
    free(slots->table);
    *slots = (struct kr__sim_slots){0};
}

int kr__sim_slots_range(struct kr__sim_slots *slots, unsigned first, unsigned count) {
    if (first + count > slots->count || first + count < first)
        return -EINVAL;
    slots->first = slots->hint = first;
    slots->end = first + count;
    return 0;
}

static unsigned next_free(const struct kr__sim_slots *slots, unsigned from, unsigned end) {
    while (from < end && slots->table[from])
        from++;
    return from;
}

static int slot_choose(struct kr__sim_slots *slots) {
    unsigned end = slots->end;
    for (;;) {
        unsigned slot = next_free(slots, slots->hint, end);
        if (slot < end)
            return (int)slot;
        if (slots->hint == slots->first)
            return -ENFILE;
        end = slots->hint;
        slots->hint = slots->first;
    }
}

int kr__sim_slots_install(struct kr__sim_slots *slots, struct kr__sim_file *file) {
    int slot = slot_choose(slots);
    if (slot < 0)
        return slot;
    slots->table[slot] = kr__sim_file_ref(file);
    slots->hint = (unsigned)slot + 1;
    return slot;
}

int kr__sim_slots_put(struct kr__sim_slots *slots, unsigned slot, struct kr__sim_file *file) {
    if (slot >= slots->count)
        return -EINVAL;
    struct kr__sim_file *old = slots->table[slot];
    slots->table[slot] = file ? kr__sim_file_ref(file) : NULL;
    slots->hint = file ? slot + 1 : slot;
    if (old)
        take_out(slots, old);
    return 0;
}

int kr__sim_slots_close(struct kr__sim_slots *slots, unsigned slot) {
    if (slot >= slots->count)
        return -EINVAL;
    return slots->table[slot] ? kr__sim_slots_put(slots, slot, NULL) : -EBADF;
}

struct kr__sim_file *kr__sim_slots_file(const struct kr__sim_slots *slots, unsigned slot) {
    return slot < slots->count ? slots->table[slot] : NULL;
}
