/* Slots, chosen as the kernel chooses them: the next free one from the hint on, which is the slot
 * after the last one taken, or the last one given back (io_uring/filetable.c, filetable.h). So a
 * slot that is closed goes to the very next accept. The hint may lie outside the range, when a slot
 * there was closed: then the kernel looks from the start of the range up to the hint, and may find
 * a slot beyond its end. */
#include "kernel/sim/slots.h"

int kr__sim_slots_init(struct kr__sim_slots *slots, unsigned count) {
    if (slots->table)
        return -EBUSY;
    slots->table = kr__sim_alloc(count * sizeof(*slots->table));
    slots->count = slots->end = count;
    return 0;
}

void kr__sim_slots_end(struct kr__sim_slots *slots) {
    for (unsigned slot = 0; slot < slots->count; slot++)
        kr__sim_slots_put(slots, slot, NULL);
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
        kr__sim_file_unref(old);
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
