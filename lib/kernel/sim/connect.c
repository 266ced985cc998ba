/* CONNECT, as io_uring/net.c does it.
 *
 * Happy path: the call is in progress, the request waits until the socket can be written to, and
 * asks again how it went. Failure: whatever connect(2) says; a wait that is cancelled, which leaves
 * the call under way until the socket is closed. To AF_UNSPEC it disconnects, and TCP sends RST.
 *
 * A Unix socket whose listener's backlog is full has a worker sleep until there is room (observed
 * on 6.18); here it looks every millisecond. */
#include "kernel/sim/remote.h"
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

#define KNOCK_NS 1000000

/* io_connect_prep; move_addr_to_kernel, net/socket.c. The address is copied at submit. */
static int connect_prep(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (sqe->len || sqe->buf_index || sqe->rw_flags || sqe->splice_fd_in)
        return -EINVAL;
    if (sqe->off > sizeof req->address)
        return -EINVAL;
    memcpy(&req->address, (const void *)(uintptr_t)sqe->addr, sqe->off);
    return 0;
}

static int connect_check(struct kr__sim_request *req) {
    return req->file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

static void connect_start(struct kr__sim_request *req);

static void knock(struct kr_sim *sim, void *arg) {
    (void)sim;
    struct kr__sim_request *req = arg;
    req->work = NULL;
    connect_start(req);
}

/* io_connect: -ECONNABORTED, which is a failure that somebody else was told of, has it try once
 * more. */
static void connect_start(struct kr__sim_request *req) {
    int rc = kr__sim_dial(req->file, (struct sockaddr *)&req->address, req->sqe.off);
    bool aborted = rc == -ECONNABORTED && !req->aborted;
    req->aborted |= aborted;
    if (rc == -EAGAIN)
        req->work = kr__sim_event_new(req->ring->sim, KNOCK_NS, knock, req);
    else if (rc == -EINPROGRESS || aborted)
        kr__sim_wait(req, POLLOUT);
    else
        kr__sim_end(req, rc, 0);
}

/* Which of them a kernel is. A call that has failed is told
 *   KEEPS   since 6.16 from the socket's error alone, so that the socket stays dead until the next
 *           connect
 *   RESETS  in 6.14 and 6.15, and in older stable kernels of those months, as -ECONNRESET
 *   ASKS    before, by connect itself, which makes the socket new
 * (io_connect: "don't retry connect operation on EPOLLERR" and "fix POLLERR handling"). */
enum failing { KEEPS, RESETS, ASKS };

static enum failing failing_of(const struct kr__sim_request *req) {
    struct kr_sim *sim = req->ring->sim;
    if (req->file->stream.fate >= 0) /* by a fault: all kernels in one */
        return (enum failing)kr_sim_random(sim, 3);
    return sim->version >= KR__SIM_LINUX(6, 16)   ? KEEPS
           : sim->version >= KR__SIM_LINUX(6, 14) ? RESETS
                                                  : ASKS;
}

/* Asking too early would be -EALREADY, but poll looks at the socket first (io_poll_check_events,
 * io_uring/poll.c). */
static void connect_run(struct kr__sim_request *req) {
    struct kr__sim_stream *s = &req->file->stream;
    if (!kr__sim_ready(req)) {
        kr__sim_wait(req, POLLOUT);
        return;
    }
    enum failing how = s->error ? failing_of(req) : ASKS;
    if (how == ASKS)
        connect_start(req);
    else
        kr__sim_end(req, how == RESETS ? -ECONNRESET : -kr__sim_stream_error(s), 0);
}

const struct kr__sim_verb kr__sim_connect = {
    .needs_file = true,
    .prep = connect_prep,
    .check = connect_check,
    .start = connect_start,
    .run = connect_run,
};
