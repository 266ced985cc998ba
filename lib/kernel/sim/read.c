/* READ of a regular file, as io_uring/rw.c does it, and pread.
 *
 * Happy path: what is in memory is read as the request is submitted, the rest when the disk has
 * brought it. Behind the end there are 0 bytes. Failure: a file that has no offsets; as faults have
 * it fewer bytes, an error of the disk, an end of the file that was not there before, no worker for
 * a read that has to wait (io_wq_enqueue, io_uring/io-wq.c); it is cancelled while it waits. */
#include "kernel/sim/ring.h"

#define DISK_NS 5000000u

static int read_check(struct kr__sim_request *req) {
    if (req->sqe.ioprio || req->sqe.rw_flags)
        return -EINVAL;
    return req->file->kind == KR__SIM_REGULAR ? 0 : -ESPIPE;
}

int64_t kr__sim_file_read(const struct kr__sim_file *file, void *to, size_t size,
                          uint64_t offset) {
    struct kr_sim *sim = file->sim;
    if (file->kind != KR__SIM_REGULAR)
        return -ESPIPE;
    if (kr__sim_chance(sim, KR_SIM_READ_ERROR))
        return -EIO;
    if (offset >= file->regular.size || kr__sim_chance(sim, KR_SIM_READ_CUT))
        return 0;
    size = kr__min_size(size, file->regular.size - (size_t)offset);
    if (size && kr__sim_chance(sim, KR_SIM_SHORT_READ))
        size = kr__sim_some(sim, size);
    memcpy(to, file->regular.bytes + offset, size);
    return (int64_t)size;
}

static void read_run(struct kr__sim_request *req) {
    kr__sim_worker_drop(req);
    const struct io_uring_sqe *sqe = &req->sqe;
    void *to = (void *)(uintptr_t)sqe->addr;
    kr__sim_end(req, kr__sim_file_read(req->file, to, sqe->len, sqe->off), 0);
}

static void read_due(struct kr_sim *sim, void *arg) {
    (void)sim;
    struct kr__sim_request *req = arg;
    req->work = NULL;
    kr__sim_ring_queue(req->ring, req);
}

static void read_start(struct kr__sim_request *req) {
    struct kr_sim *sim = req->ring->sim;
    if (!kr__sim_chance(sim, KR_SIM_READ_WAITS))
        read_run(req);
    else if (kr__sim_chance(sim, KR_SIM_NO_WORKER))
        kr__sim_end(req, -ECANCELED, 0);
    else
        req->work = kr__sim_event_new(sim, 1 + (int64_t)kr_sim_random(sim, DISK_NS), read_due, req);
}

const struct kr__sim_verb kr__sim_read = {
    .needs_file = true,
    .check = read_check,
    .start = read_start,
    .run = read_run,
};
