/* CLOSE, FILES_UPDATE and FIXED_FD_INSTALL: what changes the file table, or leads out of it, from
 * within the queue.
 *
 * Happy path: a slot is emptied, a descriptor gets one of the kernel's choice, a slot gets a
 * descriptor.
 * Failure: nothing is there, no slot is free, no descriptor is, and the errors of requests that are
 * ill-formed. */
#include "kernel/sim/ring.h"

/* io_close_prep, io_uring/openclose.c: a slot comes as file index, never with the fixed-file
 * flag. */
static void close_run(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (sqe->flags & IOSQE_FIXED_FILE)
        kr__sim_end(req, -EBADF, 0);
    else if (sqe->file_index && sqe->fd)
        kr__sim_end(req, -EINVAL, 0);
    else if (sqe->file_index)
        kr__sim_end(req, kr__sim_slots_close(&req->ring->slots, sqe->file_index - 1), 0);
    else
        kr__sim_end(req, kr__sim_fd_close(req->ring->sim, sqe->fd), 0);
}

static int install_one(struct kr__sim_request *req, int32_t *cell) {
    struct kr__sim_file *file = kr__sim_fd_file(req->ring->sim, *cell);
    if (!file)
        return -EBADF;
    if (kr__sim_chance(req->ring->sim, KR_SIM_INSTALL_FAIL))
        return -ENOMEM;
    int slot = kr__sim_slots_install(&req->ring->slots, file);
    if (slot >= 0)
        *cell = slot;
    return slot < 0 ? slot : 0;
}

/* io_files_update_with_index_alloc, io_uring/rsrc.c: the count of those installed, if any. The
 * offset is read as 32 bits. */
static void install_run(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if ((uint32_t)sqe->off != IORING_FILE_INDEX_ALLOC) {
        kr__sim_end(req, -EINVAL, 0);
        return;
    }
    int32_t *cells = (int32_t *)(uintptr_t)sqe->addr;
    unsigned done = 0;
    int rc = 0;
    while (done < sqe->len && (rc = install_one(req, &cells[done])) == 0)
        done++;
    kr__sim_end(req, done ? (int64_t)done : rc, 0);
}

/* io_install_fixed_fd_prep, io_uring/openclose.c. */
static int export_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (sqe->off || sqe->addr || sqe->len || sqe->buf_index || sqe->splice_fd_in || sqe->addr3)
        return -EINVAL;
    if (!(sqe->flags & IOSQE_FIXED_FILE))
        return -EBADF;
    return (unsigned)sqe->rw_flags & ~KR__FIXED_FD_NO_CLOEXEC ? -EINVAL : 0;
}

/* The same open file: both have to be closed. */
static void export_run(struct kr__sim_request *req) {
    struct kr_sim *sim = req->ring->sim;
    bool none = kr__sim_chance(sim, KR_SIM_EXPORT_EMFILE);
    kr__sim_end(req, none ? -EMFILE : kr__sim_fd_new(sim, kr__sim_file_ref(req->file)), 0);
}

const struct kr__sim_verb kr__sim_export = {
    .needs_file = true,
    .since = KR__SIM_LINUX(6, 8),
    .prep = export_prep,
    .run = export_run,
};
const struct kr__sim_verb kr__sim_close = {.run = close_run};
const struct kr__sim_verb kr__sim_update = {.run = install_run};
