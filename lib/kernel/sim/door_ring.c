/* The ring of the simulated kernel's door: set-up, registrations and enter lead to ring.c, slots.c and
 * bufs.c. */
#include "kernel/sim/door.h"
#include "kernel/sim/ring.h"

struct kr_sim *kr__sim_entered(const struct kr__kernel *k) {
    struct kr_sim *sim = kr__sim_of(k);
    kr__sim_pass(sim);
    struct kr__link *head = &sim->rings.head;
    for (struct kr__link *link = head->next; link != head; link = link->next)
        kr__sim_ring_intrude(kr__container_of(link, struct kr__sim_ring, link));
    return sim;
}

int kr__door_ring_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                       struct io_uring_params *params) {
    return kr__sim_ring_open(kr__sim_entered(k), ring, entries, params);
}

int kr__door_ring_bind(const struct kr__kernel *k, struct io_uring *ring, bool *registered) {
    kr__sim_entered(k);
    if (!kr__sim_ring_of(ring)->disabled)
        return -EBADFD;
    kr__sim_ring_of(ring)->disabled = false;
    *registered = true;
    return 0;
}

void kr__door_ring_close(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                         bool child) {
    (void)k;
    (void)registered;
    (void)child; /* a forked process has a whole world of its own */
    kr__sim_ring_close(kr__sim_ring_of(ring));
}

int kr__door_ring_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                        unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    kr__sim_entered(k);
    int64_t wait_ns = -1;
    if (arg && arg->timespec) {
        const struct __kernel_timespec *ts = (const void *)(uintptr_t)arg->timespec;
        wait_ns = ts->tv_sec * 1000000000 + ts->tv_nsec;
    }
    return kr__sim_ring_enter(kr__sim_ring_of(ring), submit, wait_for, flags, wait_ns);
}

static int register_files(struct kr__sim_ring *ring, const void *arg, unsigned count) {
    const struct io_uring_rsrc_register *table = arg;
    if (count != sizeof *table || table->flags != IORING_RSRC_REGISTER_SPARSE || table->data)
        return -EINVAL;
    if (table->nr > KR__SIM_NOFILE) /* io_sqe_files_register, io_uring/rsrc.c */
        return -EMFILE;
    return kr__sim_slots_init(&ring->slots, table->nr, ring->sim->version < KR__SIM_LINUX(6, 13));
}

static int update_file(struct kr__sim_ring *ring, const void *arg, unsigned count) {
    const struct io_uring_files_update *update = arg;
    if (count != 1)
        return -EINVAL;
    int fd = *(const int *)(uintptr_t)update->fds;
    struct kr__sim_file *file = kr__sim_fd_file(ring->sim, fd);
    if (fd >= 0 && !file)
        return -EBADF;
    int rc = kr__sim_slots_put(&ring->slots, update->offset, file);
    kr__sim_ring_let_go(ring);
    return rc < 0 ? rc : 1;
}

/* io_probe, io_uring/register.c. Reports the opcodes that are modelled, which are those that the
 * library asks for, and BIND, by which it knows a kernel whose accept need not wait. */
static int probe(const struct kr_sim *sim, const void *arg, unsigned count) {
    struct io_uring_probe *probe = (struct io_uring_probe *)(uintptr_t)arg;
    if (count > 256)
        return -EINVAL;
    bool bind = sim->version >= KR__SIM_LINUX(6, 11);
    for (unsigned op = 0; op < count; op++) {
        bool known = kr__sim_verb_find(sim, op) || (op == KR__OP_BIND && bind);
        probe->ops[op] = (struct io_uring_probe_op){.op = (uint8_t)op,
                                                    .flags = known ? IO_URING_OP_SUPPORTED : 0};
        if (known)
            probe->last_op = (uint8_t)op;
    }
    probe->ops_len = (uint8_t)(count < 255 ? count : 255);
    return 0;
}

/* io_register_iowq_max_workers, io_uring/register.c: two bounds, for regular files and for all else.
 * 0 leaves a bound as it is, and the old bound is written back. Only the second is modelled. */
static int bound_workers(struct kr__sim_ring *ring, const void *arg) {
    unsigned *most = (unsigned *)(uintptr_t)arg, before = ring->workers_most;
    ring->workers_most = most[1] ? most[1] : before;
    most[1] = before;
    return 0;
}

int kr__door_ring_reg(const struct kr__kernel *k, struct io_uring *uring, unsigned opcode,
                      const void *arg, unsigned count) {
    kr__sim_entered(k);
    struct kr__sim_ring *ring = kr__sim_ring_of(uring);
    switch (opcode) {
    case IORING_REGISTER_FILES2:
        return register_files(ring, arg, count);
    case IORING_REGISTER_FILE_ALLOC_RANGE: {
        const struct io_uring_file_index_range *range = arg;
        return count ? -EINVAL : kr__sim_slots_range(&ring->slots, range->off, range->len);
    }
    case IORING_REGISTER_FILES_UPDATE:
        return update_file(ring, arg, count);
    case IORING_REGISTER_PROBE:
        return probe(ring->sim, arg, count);
    case KR__REGISTER_MEM_REGION: /* known, but no region is modelled */
        return ring->sim->version >= KR__SIM_LINUX(6, 13) ? -EFAULT : -EINVAL;
    case IORING_REGISTER_IOWQ_MAX_WORKERS:
        return count == 2 ? bound_workers(ring, arg) : -EINVAL;
    case IORING_REGISTER_PBUF_RING:
        return kr__sim_bufs_init(&ring->bufs, arg, count);
    default:
        return -EINVAL;
    }
}
