/* Send: one in flight a stream, of all that is queued.
 *
 * Happy path: the queue's pieces go out in one SEND (one piece) or SENDMSG (several, up to what the
 * kernel takes); the completion consumes the front of the queue. Descriptors go with the first byte
 * of a SENDMSG, so the bytes that they were queued with begin one, and those queued before end the
 * one before. Bytes that were lent by kr_conn_send_ref are pieces like others; their users are told
 * in a phase of the turn (roof/turn.c), before on_close.
 * Failure modes: a short result (the peer reads slowly): the rest is sent next, from the right
 * offset, as the queue only loses what was taken. MSG_WAITALL would have the kernel go on by
 * itself, but then nobody could tell a slow reader from a dead one: deadlines live on seeing bytes
 * move. An error (conn/error.c); the queue rises above send_high (reading stops until it is
 * down to send_low), above send_cap (the caller is refused).
 *
 * Relies on: two sends in flight on one stream may overtake each other (liburing #1001), hence one;
 * payload is borrowed by the kernel until the completion, msghdr and pieces until the submit
 * (IORING_FEAT_SUBMIT_STABLE), which a full SQ may delay, so they are kept until the completion
 * too. */
#include "conn/send.h"

#include "conn/hooks.h"
#include "conn/op.h"
#include "conn/queue.h"
#include "conn/zerocopy.h"
#include "pool/files.h"

#include <limits.h>
#include <sys/socket.h>

void kr__conn_vector_put(struct kr_reactor *r, struct kr__conn *c) {
    if (c->vector)
        kr__block_put(&r->blocks, c->vector, c->vector->room);
    c->vector = NULL;
}

static struct kr__vector *vector_new(struct kr_reactor *r, unsigned pieces) {
    size_t room;
    struct kr__vector *v = kr__block_get(&r->blocks, sizeof *v + pieces * sizeof *v->pieces, &room);
    if (v)
        v->room = room;
    return v;
}

/* The list of the first pieces, `count` of them at most: with less memory fewer go. Returns how
 * many; 1 needs no list. */
static unsigned vector_ready(struct kr_reactor *r, struct kr__conn *c, unsigned count) {
    kr__mark_if(vector_full, count == KR__VECTOR_PIECES);
    struct kr__vector *v;
    while (!(v = vector_new(r, count))) {
        kr__mark(vector_refused);
        if ((count /= 2) < 2)
            return 1;
    }
    c->vector = v;
    kr__sendq_pieces(&c->queue, v->pieces, (int)count);
    v->msg = (struct msghdr){.msg_iov = v->pieces, .msg_iovlen = count};
    return count;
}

static void prep_one(const struct kr__conn *c, struct io_uring_sqe *sqe, int flags) {
    struct iovec piece;
    kr__sendq_pieces(&c->queue, &piece, 1);
    io_uring_prep_send(sqe, 0, piece.iov_base, piece.iov_len, flags);
}

static bool file_goes_on(const struct kr__conn *c) {
    return c->files && c->more->files->first && c->more->files->first->expected;
}

/* What one send does not cover is sent next and at once, so all sends but the last of them say
 * MSG_MORE, and the seams leave in whole segments. What is queued later is not waited for: nothing
 * stays corked. */
unsigned kr__send_fill(struct kr_reactor *r, struct kr__conn *c, struct io_uring_sqe *sqe,
                       unsigned count) {
    if (count > 1)
        count = vector_ready(r, c, count);
    bool more = kr__sendq_run(&c->queue, SIZE_MAX, count + 1) > count || file_goes_on(c);
    int flags = more ? KR__SEND_FLAGS | MSG_MORE : KR__SEND_FLAGS;
    if (c->vector)
        io_uring_prep_sendmsg(sqe, 0, &c->vector->msg, (unsigned)flags);
    else
        prep_one(c, sqe, flags);
    return count;
}

/* The same to a pipe. One that cannot be asked not to wait has room for PIPE_BUF bytes when a poll
 * has said so, and is given no more (man 7 pipe). */
static void prep_write(struct kr_reactor *r, struct kr__conn *c, struct io_uring_sqe *sqe) {
    bool polls = kr__pipe_polls(c);
    unsigned count = polls ? 1 : kr__sendq_run(&c->queue, SIZE_MAX, KR__VECTOR_PIECES);
    if (count > 1)
        count = vector_ready(r, c, count);
    struct iovec piece;
    kr__sendq_pieces(&c->queue, &piece, 1);
    if (polls && piece.iov_len > PIPE_BUF)
        piece.iov_len = PIPE_BUF;
    if (c->vector)
        io_uring_prep_writev(sqe, 0, c->vector->pieces, count, (uint64_t)-1);
    else
        io_uring_prep_write(sqe, 0, piece.iov_base, (unsigned)piece.iov_len, (uint64_t)-1);
    sqe->rw_flags = c->more->pipe_flags;
}

uint16_t kr__prep_send(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    struct kr__conn *c = kr__owner_conn(o);
    kr__assert(c->queued && !c->vector);
    if (kr__unlikely(c->write_only))
        prep_write(r, c, sqe);
    else if (kr__unlikely(kr__sendq_gives(&c->queue)))
        io_uring_prep_sendmsg(sqe, 0, kr__sendq_message(&c->queue), KR__SEND_FLAGS);
    else if (c->queue.head->next)
        kr__send_fill(r, c, sqe, kr__sendq_run(&c->queue, kr__zerocopy_min(c), KR__VECTOR_PIECES));
    else
        prep_one(c, sqe, KR__SEND_FLAGS);
    return 0;
}

void kr__send_took(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    c->send_room = false;
    if (kr__unlikely(c->write_only))
        c->send_waits = kr__pipe_polls(c);
    kr__time_reach(&c->idle_from, r->now);
    kr__time_reach(&c->write_from, r->now);
    kr__count(&r->stats.bytes_out, size);
    struct kr__sent sent = kr__sendq_consume(&r->sends, &c->queue, size);
    c->held = (uint16_t)(c->held - sent.lent);
    if (kr__unlikely(c->files))
        kr__conn_files_check(r, c);
    kr__queue_shrank(r, c, sent.uncounted);
    if (kr__unlikely(c->features))
        kr__hooks_sent(r, c);
}

/* A reservation's room may go with the bytes in front of it. */
void kr__send_ended(struct kr_reactor *r, struct kr__conn *c) {
    kr__conn_vector_put(r, c);
    kr__mark_if(reservation_ended_by_a_send, r->reservation.conn == c);
    if (kr__unlikely(r->reservation.conn == c))
        kr__reservation_drop(r);
}

/* A poll had found room all the same: the kernel is short of memory, and no wake-up tells when it
 * is not (sk_stream_wait_memory, net/core/stream.c, has a timer for that). */
void kr__send_met_full(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark(send_met_full);
    kr__mark_if(send_had_room, c->send_room);
    if (c->send_room)
        kr__conn_rest(r, c);
    else
        c->send_waits = true;
    c->send_room = false;
}

void kr__done_send(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    struct kr__conn *c = kr__owner_conn(o);
    kr__send_ended(r, c);
    if (kr__unlikely(c->broken)) { /* by a receive: nothing of this matters any more */
        kr__queue_drop(r, c);
        return;
    }
    if (kr__likely(how->res >= 0)) {
        kr__send_took(r, c, (size_t)how->res);
        return;
    }
    if (how->res == -EAGAIN) {
        kr__send_met_full(r, c);
        return;
    }
    if (how->res == -ECANCELED || how->res == -EINTR || kr__pipe_refuses(c, how->res)) {
        c->send_waits = c->send_waits || kr__pipe_polls(c);
        return; /* sent again if it is wanted */
    }
    kr__mark(send_failed);
    kr__conn_send_failed(r, c, how->res);
}

struct bytes {
    const struct iovec *iov;
    int count;
    size_t total;
};

static inline int put_bytes(struct kr_reactor *r, struct kr__conn *c, const void *what) {
    const struct bytes *b = what;
    return kr__queue_hold_or_copy(r, c, c, b->iov, b->count, b->total);
}

/* Inline: a copy for each of its two callers, the hot one of which has one piece. */
static inline int queue_bytes(struct kr_reactor *r, struct kr__conn *c, const struct bytes *b) {
    if (kr__unlikely(!b->total))
        return kr__conn_may_queue(c) ? 0 : -EPIPE;
    return kr__queue_put(r, c, b->total, KR__ADMIT_WHOLE, put_bytes, b);
}

int kr_conn_send(struct kr_reactor *r, kr_conn conn, const void *data, size_t size) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!data && size)
        return -EINVAL;
    struct iovec piece = {(void *)(uintptr_t)data, size};
    return queue_bytes(r, c, &(struct bytes){&piece, 1, size});
}

int kr_conn_sendv(struct kr_reactor *r, kr_conn conn, const struct iovec *iov, int count) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (count < 0 || (count && !iov))
        return -EINVAL;
    size_t total = 0;
    for (int i = 0; i < count; i++) {
        if (!iov[i].iov_base && iov[i].iov_len)
            return -EINVAL;
        if (__builtin_add_overflow(total, iov[i].iov_len, &total))
            return -EINVAL;
    }
    return queue_bytes(r, c, &(struct bytes){iov, count, total});
}

struct loan {
    const void *data;
    size_t size;
    kr_release_fn *release;
    void *arg;
};

static inline int put_loan(struct kr_reactor *r, struct kr__conn *c, const void *what) {
    const struct loan *l = what;
    int rc = kr__sendq_ref(&r->sends, &c->queue, l->data, l->size, l->release, l->arg);
    if (rc < 0)
        return rc;
    kr__count(&r->stats.bytes_borrowed, l->size);
    if (l->size)
        kr__zerocopy_offer(r, c, l->size);
    return 0;
}

int kr_conn_send_ref(struct kr_reactor *r, kr_conn conn, const void *data, size_t size,
                     kr_release_fn *release, void *arg) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!data && size)
        return -EINVAL;
    return kr__queue_put(r, c, size, KR__ADMIT_WHOLE, put_loan,
                         &(struct loan){data, size, release, arg});
}
