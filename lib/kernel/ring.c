/* The real kernel's ring, by liburing.
 *
 * Relies on: a ring that was created with IORING_SETUP_R_DISABLED takes registrations from any
 * thread, and belongs to the thread that enables it (man io_uring_setup; observed on 6.18).
 * liburing 2.3's shared library has no io_uring_enable_rings, so io_uring_register does that. Its
 * io_uring_queue_init_params writes an index array, which a ring with IORING_SETUP_NO_SQARRAY does
 * not have: so set-up and mmap are separate calls, and the array is filled here where there is
 * one. */
#include "kernel/linux.h"

#include "base/tsan.h"

#include <string.h>
#include <unistd.h>

/* How many kernel workers of each kind a reactor's thread may have. Shutdowns and reads of files
 * need workers. */
#define KR__WORKERS_MOST 16u

int kr__linux_ring_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                        struct io_uring_params *params) {
    (void)k;
    int fd = io_uring_setup(entries, params);
    if (fd < 0)
        return fd;
    memset(ring, 0, sizeof *ring);
    int rc = io_uring_queue_mmap(fd, params, ring);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    kr__maps_acquire();
    ring->features = params->features;
    if (!(params->flags & KR__SETUP_NO_SQARRAY)) {
        for (unsigned i = 0; i < params->sq_entries; i++)
            ring->sq.array[i] = i;
    }
    rc = io_uring_ring_dontfork(ring);
    if (rc < 0)
        io_uring_queue_exit(ring);
    return rc;
}

/* Without this the kernel's bounds are RLIMIT_NPROC for requests on sockets and pipes, and four a
 * CPU for others (io_wq_create, io_uring/io-wq.c). A bound belongs to the thread, not to the ring. A
 * kernel that does not know this registration keeps its own bounds. */
static void bound_workers(struct io_uring *ring) {
    unsigned most[2] = {KR__WORKERS_MOST, KR__WORKERS_MOST};
    io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_IOWQ_MAX_WORKERS, most, 2);
}

/* A registered ring descriptor saves a reference count in each enter. A thread has 16 places for
 * them; when all are taken, the plain descriptor is used. A place's index is the thread's own: in
 * another thread it names another ring, or none (io_uring/register.c). liburing is not told of the
 * registration, because it would undo it in whichever thread closes the ring. */
int kr__linux_ring_bind(const struct kr__kernel *k, struct io_uring *ring, bool *registered) {
    (void)k;
    int rc = io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (rc < 0)
        return rc;
    struct io_uring_rsrc_update place = {.offset = UINT32_MAX, .data = (unsigned)ring->ring_fd};
    rc = io_uring_register((unsigned)ring->ring_fd, IORING_REGISTER_RING_FDS, &place, 1);
    *registered = rc == 1;
    if (*registered)
        ring->enter_ring_fd = (int)place.offset;
    bound_workers(ring);
    return 0;
}

static void unregister_ring_fd(struct io_uring *ring) {
    struct io_uring_rsrc_update place = {.offset = (uint32_t)ring->enter_ring_fd};
    io_uring_register((unsigned)ring->ring_fd, IORING_UNREGISTER_RING_FDS, &place, 1);
    ring->enter_ring_fd = ring->ring_fd;
}

/* A forked child never had the ring's pages (dontfork): to unmap them would hit whatever the child
 * has there now. */
void kr__linux_ring_close(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                          bool child) {
    (void)k;
    if (child) {
        if (ring->ring_fd >= 0)
            close(ring->ring_fd);
        ring->ring_fd = -1;
        return;
    }
    if (registered)
        unregister_ring_fd(ring);
    kr__maps_release();
    io_uring_queue_exit(ring);
}

int kr__linux_ring_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                         unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    (void)k;
    int fd = ring->ring_fd;
    if (ring->enter_ring_fd != fd) {
        fd = ring->enter_ring_fd;
        flags |= IORING_ENTER_REGISTERED_RING;
    }
    if (!arg)
        return io_uring_enter2((unsigned)fd, submit, wait_for, flags, NULL, 0);
    return io_uring_enter2((unsigned)fd, submit, wait_for, flags | IORING_ENTER_EXT_ARG,
                           (sigset_t *)(uintptr_t)arg, sizeof *arg);
}

int kr__linux_ring_reg(const struct kr__kernel *k, struct io_uring *ring, unsigned opcode,
                       const void *arg, unsigned count) {
    (void)k;
    return io_uring_register((unsigned)ring->ring_fd, opcode, arg, count);
}
