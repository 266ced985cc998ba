/* The verbs, as io_uring/net.c, poll.c, cancel.c and openclose.c do them.
 *
 * Happy path: issue tries at once; what would block waits at its file; being woken queues the request
 * as work of its task; work tries again. Failure: whatever the fault weights ask for, and the errors
 * of requests that are ill-formed (each check names what it follows). */
#include "kernel/sim/request.h"

#include "base/poison.h"
#include "kernel/sim/ring.h"
#include "kernel/sim/stream.h"

#include <poll.h>

/* MULTISHOT_MAX_RETRY, io_uring/net.c, kernel >= 6.8. */
#define RECVS_A_TURN 32u

static struct kr_sim *sim_of(const struct kr__sim_request *req) {
    return req->ring->sim;
}

static void end(struct kr__sim_request *req, int64_t res, uint32_t flags) {
    kr__link_off(&req->waiting);
    kr__sim_ring_end(req->ring, req, (int32_t)res, flags);
}

static bool is_ready(const struct kr__sim_file *file, unsigned what) {
    switch (file->kind) {
    case KR__SIM_WAKER:
        return file->counter;
    case KR__SIM_LISTENER:
        return file->listener.queued;
    case KR__SIM_STREAM:
        return (what & KR__SIM_IN && kr__sim_stream_readable(file)) ||
               (what & KR__SIM_OUT && kr__sim_stream_writable(file));
    }
    return false;
}

static void queue(struct kr__sim_request *req) {
    kr__sim_ring_queue(req->ring, req);
}

/* Arming looks whether the file is ready already (__io_arm_poll_handler, io_uring/poll.c). */
static void wait_at_file(struct kr__sim_request *req, unsigned what) {
    req->waits_for = what;
    if (!kr__link_on(&req->waiting))
        kr__list_push(&req->file->waiters, &req->waiting);
    if (is_ready(req->file, what))
        queue(req);
}

/* Of several accepts only one is woken (EPOLLEXCLUSIVE: poll_exclusive in io_uring/opdef.c), beside all
 * that poll. At a stream the newest waiter may be woken first or last (add_wait_queue puts it in front,
 * task work turns the order round), and so a send may be told of a reset before the receive. */
void kr__sim_wake(struct kr__sim_file *file, unsigned what) {
    struct kr__link *head = &file->waiters.head;
    bool woken = false, back = file->kind == KR__SIM_STREAM && kr_sim_random(file->sim, 2);
    for (struct kr__link *link = back ? head->prev : head->next; link != head;
         link = back ? link->prev : link->next) {
        struct kr__sim_request *req = kr__container_of(link, struct kr__sim_request, waiting);
        if (!(req->waits_for & what) || kr__link_on(&req->queued))
            continue;
        bool exclusive = req->sqe.opcode == IORING_OP_ACCEPT;
        if (exclusive && woken)
            continue;
        woken |= exclusive;
        queue(req);
    }
}

/* ---- NOP, POLL ---- */

static void nop_run(struct kr__sim_request *req) {
    bool inject = (unsigned)req->sqe.rw_flags & KR__NOP_INJECT_RESULT;
    end(req, inject ? (int32_t)req->sqe.len : 0, 0);
}

static void poll_run(struct kr__sim_request *req) {
    bool multishot = req->sqe.len & IORING_POLL_ADD_MULTI;
    if (!is_ready(req->file, KR__SIM_IN))
        wait_at_file(req, KR__SIM_IN);
    else if (!multishot || !kr__sim_ring_post(req->ring, req, POLLIN, IORING_CQE_F_MORE))
        end(req, POLLIN, 0);
}

/* Armed at a ready file, a one-shot poll completes at once, a multishot one by its first work; it tells
 * of each wake-up (__io_arm_poll_handler, io_uring/poll.c). */
static void poll_start(struct kr__sim_request *req) {
    if (req->sqe.len & IORING_POLL_ADD_MULTI)
        wait_at_file(req, KR__SIM_IN);
    else
        poll_run(req);
}

/* ---- ACCEPT ---- */

static struct kr__sim_file *backlog_take(struct kr__sim_file *file) {
    struct kr__link *link = kr__list_pop(&file->listener.queue);
    file->listener.queued--;
    return kr__container_of(link, struct kr__sim_file, in_backlog);
}

/* Gives the stream a place, or drops it: a full table costs the client its connection (observed on 6.18). */
static int accept_place(struct kr__sim_request *req, struct kr__sim_file *stream) {
    if (!req->sqe.file_index)
        return kr__sim_fd_new(sim_of(req), stream);
    int slot = kr__sim_slots_install(&req->ring->slots, stream);
    kr__sim_file_unref(stream);
    return slot;
}

/* Without a file the client stays in the backlog (man accept; observed on 6.18). */
static int accept_refused(struct kr__sim_request *req) {
    if (kr__sim_chance(sim_of(req), KR_SIM_ACCEPT_EMFILE))
        return -EMFILE;
    if (kr__sim_chance(sim_of(req), KR_SIM_ACCEPT_ENFILE))
        return -ENFILE;
    if (!kr__sim_chance(sim_of(req), KR_SIM_ACCEPT_ABORT))
        return 0;
    struct kr__sim_file *stream = backlog_take(req->file);
    kr__sim_stream_reset(stream);
    kr__sim_file_unref(stream);
    return -ECONNABORTED;
}

/* A multishot accept takes the whole backlog: io_uring/net.c has no limit there. Since 6.10 each tells
 * whether more wait (observed on 6.18). */
static void accept_run(struct kr__sim_request *req) {
    bool multishot = req->sqe.ioprio & IORING_ACCEPT_MULTISHOT;
    while (req->file->listener.queued) {
        int rc = accept_refused(req);
        if (rc == 0)
            rc = accept_place(req, backlog_take(req->file));
        bool goes_on = rc >= 0 && multishot && !kr__sim_chance(sim_of(req), KR_SIM_ACCEPT_END);
        uint32_t flags = rc >= 0 && req->file->listener.queued ? IORING_CQE_F_SOCK_NONEMPTY : 0;
        if (!goes_on || !kr__sim_ring_post(req->ring, req, rc, flags | IORING_CQE_F_MORE)) {
            end(req, rc, flags);
            return;
        }
    }
    wait_at_file(req, KR__SIM_IN);
}

/* io_accept_prep, io_uring/net.c. */
static int accept_check(const struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (req->file->kind != KR__SIM_LISTENER)
        return -EINVAL;
    if (sqe->file_index && (sqe->accept_flags & SOCK_CLOEXEC))
        return -EINVAL;
    if (sqe->ioprio & IORING_ACCEPT_MULTISHOT && sqe->file_index &&
        sqe->file_index != IORING_FILE_INDEX_ALLOC)
        return -EINVAL;
    return 0;
}

/* ---- RECV ---- */

/* The network may end a connection at any time that somebody looks at it. */
static void network(struct kr__sim_request *req) {
    if (kr__sim_chance(sim_of(req), KR_SIM_NET_TIMEOUT))
        kr__sim_stream_cut(req->file, ETIMEDOUT);
    if (kr__sim_chance(sim_of(req), KR_SIM_NET_RESET))
        kr__sim_stream_cut(req->file, ECONNRESET);
}

static size_t recv_size(struct kr__sim_request *req, const struct io_uring_buf *buf) {
    size_t size = buf->len;
    return kr__sim_chance(sim_of(req), KR_SIM_SHORT_RECV) ? kr__sim_some(sim_of(req), size) : size;
}

/* One receive into the next buffer. False: the request has ended, or waits. The buffer is chosen first:
 * an empty ring is -ENOBUFS even if there is nothing to receive (liburing #1275). The end of a TCP
 * stream carries SOCK_NONEMPTY, as does data before it (tcp_inq counts FIN; observed on 6.18). */
static bool recv_one(struct kr__sim_request *req) {
    const struct io_uring_buf *buf = kr__sim_bufs_next(&req->ring->bufs);
    if (!buf) {
        end(req, -ENOBUFS, 0);
        return false;
    }
    char *to = (char *)(uintptr_t)buf->addr;
    size_t size = recv_size(req, buf);
    kr__unpoison(to, size); /* ours to write */
    int64_t got = kr__sim_stream_recv(req->file, to, size);
    kr__poison(to, size);
    if (got == -EAGAIN) {
        wait_at_file(req, KR__SIM_IN);
        return false;
    }
    if (got <= 0) {
        end(req, got, got == 0 ? IORING_CQE_F_SOCK_NONEMPTY : 0);
        return false;
    }
    bool more = req->file->stream.size || req->file->stream.fin_in;
    uint32_t flags = (uint32_t)kr__sim_bufs_use(&req->ring->bufs) << IORING_CQE_BUFFER_SHIFT |
                     IORING_CQE_F_BUFFER | (more ? IORING_CQE_F_SOCK_NONEMPTY : 0);
    if (kr__sim_chance(sim_of(req), KR_SIM_RECV_END) ||
        !kr__sim_ring_post(req->ring, req, (int32_t)got, flags | IORING_CQE_F_MORE)) {
        end(req, got, flags);
        return false;
    }
    if (!more)
        wait_at_file(req, KR__SIM_IN);
    return more;
}

static void recv_run(struct kr__sim_request *req) {
    network(req);
    for (unsigned i = 0; i < RECVS_A_TURN; i++) {
        if (!recv_one(req))
            return;
    }
    wait_at_file(req, KR__SIM_IN);
    queue(req);
}

/* io_recvmsg_prep, io_uring/net.c; a multishot receive with a length is refused before 6.17. */
static int recv_check(const struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    bool multishot = sqe->ioprio & IORING_RECV_MULTISHOT && sqe->flags & IOSQE_BUFFER_SELECT;
    if (!multishot || sqe->len || sqe->msg_flags & MSG_WAITALL)
        return -EINVAL;
    return req->file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

/* ---- SEND, SENDMSG ---- */

/* The program may not touch what is being sent until the completion. */
static void payload_compare(const struct kr__sim_request *req) {
    size_t at = 0;
    for (int i = 0; i < req->piece_count; i++) {
        size_t size = req->pieces[i].iov_len;
        if (memcmp(req->payload + at, req->pieces[i].iov_base, size))
            kr__sim_broken("bytes were changed while they were being sent: request %#llx",
                           (unsigned long long)req->sqe.user_data);
        at += size;
    }
}

static void send_end(struct kr__sim_request *req, int64_t res) {
    payload_compare(req);
    end(req, req->done ? (int64_t)req->done : res, 0);
}

/* Takes what there is room for, and completes with that count. The library asks for no MSG_WAITALL, by
 * which the kernel would go on by itself (io_send, io_uring/net.c). */
static void send_run(struct kr__sim_request *req) {
    network(req);
    size_t left = req->size - req->done;
    size_t part = kr__sim_chance(sim_of(req), KR_SIM_SHORT_SEND) ? kr__sim_some(sim_of(req), left) : left;
    int64_t sent = kr__sim_stream_send(req->file, req->payload + req->done, part);
    if (sent == -EAGAIN) {
        wait_at_file(req, KR__SIM_OUT);
        return;
    }
    if (sent < 0) {
        send_end(req, sent);
        return;
    }
    req->done += (size_t)sent;
    send_end(req, 0);
}

static void send_pieces(struct kr__sim_request *req, const struct iovec *pieces, size_t count) {
    req->pieces = kr__sim_alloc(count * sizeof *pieces);
    memcpy(req->pieces, pieces, count * sizeof *pieces);
    req->piece_count = (int)count;
    for (size_t i = 0; i < count; i++)
        req->size += pieces[i].iov_len;
    req->payload = kr__sim_alloc(req->size);
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(req->payload + at, pieces[i].iov_base, pieces[i].iov_len);
        at += pieces[i].iov_len;
    }
}

static int send_check(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (sqe->msg_flags & MSG_WAITALL)
        return -EINVAL; /* not modelled */
    void *memory = (void *)(uintptr_t)sqe->addr;
    if (sqe->opcode == IORING_OP_SEND) {
        send_pieces(req, &(struct iovec){memory, sqe->len}, 1);
    } else {
        const struct msghdr *msg = memory;
        if (msg->msg_iovlen > 1024) /* UIO_MAXIOV */
            return -EMSGSIZE;
        send_pieces(req, msg->msg_iov, msg->msg_iovlen);
    }
    return req->file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

/* ---- CONNECT ---- */

/* To AF_UNSPEC: disconnects, and TCP sends RST (net/ipv4/af_inet.c, tcp_disconnect in net/ipv4/tcp.c). */
static void connect_run(struct kr__sim_request *req) {
    const struct sockaddr *to = (const struct sockaddr *)(uintptr_t)req->sqe.addr;
    if (to->sa_family != AF_UNSPEC) {
        end(req, -EAFNOSUPPORT, 0);
        return;
    }
    kr__sim_stream_reset(req->file);
    end(req, 0, 0);
}

static int stream_check(const struct kr__sim_request *req) {
    return req->file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

/* ---- CLOSE, FILES_UPDATE ---- */

/* io_close_prep, io_uring/openclose.c: a slot comes as file index, never with the fixed-file flag. */
static void close_run(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if (sqe->flags & IOSQE_FIXED_FILE)
        end(req, -EBADF, 0);
    else if (sqe->file_index && sqe->fd)
        end(req, -EINVAL, 0);
    else if (sqe->file_index)
        end(req, kr__sim_slots_close(&req->ring->slots, sqe->file_index - 1), 0);
    else
        end(req, kr__sim_fd_close(sim_of(req), sqe->fd), 0);
}

static int install_one(struct kr__sim_request *req, int32_t *cell) {
    struct kr__sim_file *file = kr__sim_fd_file(sim_of(req), *cell);
    if (!file)
        return -EBADF;
    if (kr__sim_chance(sim_of(req), KR_SIM_INSTALL_FAIL))
        return -ENOMEM;
    int slot = kr__sim_slots_install(&req->ring->slots, file);
    if (slot >= 0)
        *cell = slot;
    return slot < 0 ? slot : 0;
}

/* io_files_update_with_index_alloc, io_uring/rsrc.c: the count of those installed, if any. The offset is
 * read as 32 bits. */
static void install_run(struct kr__sim_request *req) {
    const struct io_uring_sqe *sqe = &req->sqe;
    if ((uint32_t)sqe->off != IORING_FILE_INDEX_ALLOC) {
        end(req, -EINVAL, 0);
        return;
    }
    int32_t *cells = (int32_t *)(uintptr_t)sqe->addr;
    unsigned done = 0;
    int rc = 0;
    while (done < sqe->len && (rc = install_one(req, &cells[done])) == 0)
        done++;
    end(req, done ? (int64_t)done : rc, 0);
}

/* ---- ASYNC_CANCEL ---- */

/* 0, or -EALREADY with nothing done. What is cancelled late has its turn first, as if its event and the
 * cancel had come in the same moment. */
static int cancel_one(struct kr__sim_request *target) {
    struct kr_sim *sim = sim_of(target);
    if (kr__sim_chance(sim, KR_SIM_CANCEL_BUSY))
        return -EALREADY;
    if (is_ready(target->file, target->waits_for) && kr__sim_chance(sim, KR_SIM_CANCEL_LATE)) {
        kr__link_off(&target->queued);
        kr__sim_request_run(target);
    }
    if (target->ended)
        return 0;
    target->cancelled = true;
    queue(target);
    return 0;
}

static struct kr__sim_request *cancel_find(const struct kr__sim_request *req) {
    struct kr__link *head = &req->ring->alive.head;
    for (struct kr__link *link = head->next; link != head; link = link->next) {
        struct kr__sim_request *target = kr__container_of(link, struct kr__sim_request, alive);
        bool same = target != req && target->sqe.user_data == req->sqe.addr;
        if (same && !target->ended && !target->cancelled)
            return target;
    }
    return NULL;
}

/* By user_data. With ALL the result is how many, and none is no error (man io_uring_prep_cancel). */
static void cancel_run(struct kr__sim_request *req) {
    bool all = req->sqe.cancel_flags & IORING_ASYNC_CANCEL_ALL;
    int found = 0;
    struct kr__sim_request *target;
    while ((all || !found) && (target = cancel_find(req))) {
        int rc = cancel_one(target);
        if (rc < 0) {
            end(req, rc, 0);
            return;
        }
        found++;
    }
    end(req, all ? found : found ? 0 : -ENOENT, 0);
}

/* ---- all ---- */

void kr__sim_request_run(struct kr__sim_request *req) {
    if (req->cancelled) {
        if (req->payload)
            send_end(req, -ECANCELED);
        else
            end(req, -ECANCELED, 0);
        return;
    }
    switch (req->sqe.opcode) {
    case IORING_OP_NOP:
        nop_run(req);
        break;
    case IORING_OP_POLL_ADD:
        poll_run(req);
        break;
    case IORING_OP_ACCEPT:
        accept_run(req);
        break;
    case IORING_OP_RECV:
        recv_run(req);
        break;
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
        send_run(req);
        break;
    case IORING_OP_CONNECT:
        connect_run(req);
        break;
    case IORING_OP_CLOSE:
        close_run(req);
        break;
    case IORING_OP_FILES_UPDATE:
        install_run(req);
        break;
    case IORING_OP_ASYNC_CANCEL:
        cancel_run(req);
        break;
    default:
        end(req, -EINVAL, 0);
    }
}

static bool needs_file(const struct io_uring_sqe *sqe) {
    switch (sqe->opcode) {
    case IORING_OP_POLL_ADD:
    case IORING_OP_ACCEPT:
    case IORING_OP_RECV:
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
    case IORING_OP_CONNECT:
        return true;
    default:
        return false;
    }
}

static int check(struct kr__sim_request *req) {
    switch (req->sqe.opcode) {
    case IORING_OP_ACCEPT:
        return accept_check(req);
    case IORING_OP_RECV:
        return recv_check(req);
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
        return send_check(req);
    case IORING_OP_CONNECT:
        return stream_check(req);
    case IORING_OP_POLL_ADD:
        return req->file->kind == KR__SIM_STREAM ? -EINVAL : 0; /* not modelled */
    default:
        return 0;
    }
}

static struct kr__sim_file *file_of(struct kr__sim_ring *ring, const struct io_uring_sqe *sqe) {
    if (sqe->flags & IOSQE_FIXED_FILE)
        return kr__sim_slots_file(&ring->slots, (unsigned)sqe->fd);
    return kr__sim_fd_file(ring->sim, sqe->fd);
}

static int prepare(struct kr__sim_request *req) {
    if (!needs_file(&req->sqe))
        return 0;
    struct kr__sim_file *file = file_of(req->ring, &req->sqe);
    if (!file)
        return -EBADF;
    req->file = kr__sim_file_ref(file);
    return check(req);
}

void kr__sim_request_start(struct kr__sim_ring *ring, const struct io_uring_sqe *sqe) {
    struct kr__sim_request *req = kr__sim_alloc(sizeof *req);
    req->ring = ring;
    req->sqe = *sqe;
    kr__list_push(&ring->alive, &req->alive);
    ring->sim->requests++;
    int rc = prepare(req);
    if (rc < 0)
        end(req, rc, 0);
    else if (sqe->opcode == IORING_OP_POLL_ADD)
        poll_start(req);
    else
        kr__sim_request_run(req);
}

void kr__sim_request_free(struct kr__sim_request *req) {
    kr__link_off(&req->alive);
    kr__link_off(&req->waiting);
    kr__link_off(&req->queued);
    req->ring->sim->requests--;
    if (req->file)
        kr__sim_file_unref(req->file);
    free(req->pieces);
    free(req->payload);
    free(req);
}
