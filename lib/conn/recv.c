/* Recv: one receive a connection, into the shared buffers: multishot, but on Unix sockets and
 * pipes, while some wait for a buffer, and of one that has more than its share of the turns.
 *
 * Happy path: a completion brings a buffer; its bytes are shown (conn/show.c); the buffer goes back
 * unless a send or a lease holds it.
 * Failure modes: no buffer (-ENOBUFS: it waits in the line; the kernel keeps its data); the
 * multishot ends with data (CQ overflow: armed again, only F_MORE says what is armed); the peer's
 * end (res 0, whatever F_SOCK_NONEMPTY says); an error (conn/error.c).
 *
 * Unix sockets: a multishot receive may miss what comes while it is being armed, the end of the
 * stream above all (liburing #1549; on 6.18 once or twice in 40,000 connections, of TCP never, with
 * one shot never). So there each receive is made anew, which looks at the socket first. If
 * descriptors may come with the bytes it is a RECVMSG, with a place for them (extra/descriptors.c).
 *
 * Where a multishot may keep a reset to itself that came with bytes (kernel/reset.c), it is made
 * again when nothing has followed them for a while (conn/clock.c). Any kernel may do so
 * after 32 receives in a row that left more in the socket (MULTISHOT_MAX_RETRY,
 * io_uring/net.c): it queues itself anew then, and a reset that comes meanwhile is not looked for when
 * the bytes before it have been taken (observed on 6.18.44 in both task-run modes: of 50 clients that
 * sent 60,000 bytes to buffers of 16 and reset, up to 18 were never told of).
 *
 * Pipes: a READ at a time, whose end takes a buffer too (observed on 6.18). One that fails takes none,
 * whatever its flags say: 6.12 flags the buffer at the head of the ring, which stays there (liburing
 * #1530; mended by "recycle buffers manually for non-mshot reads" in 6.17). To take that one would
 * be to publish it twice.
 *
 * Receives of one shot do not wait: what they wait for is conn/recv_poll.c.
 *
 * Relies on: man io_uring_prep_recv_multishot; `len` is 0 before kernel 6.17; a completion of
 * another receive with F_BUFFER hands the buffer over whatever its result. */
#include "conn/recv.h"

#include "conn/fair.h"
#include "conn/hooks.h"
#include "conn/op.h"
#include "conn/show.h"
#include "kernel/probe.h"

static void prep_read(const struct kr__conn *c, struct io_uring_sqe *sqe) {
    io_uring_prep_read(sqe, 0, NULL, 0, (uint64_t)-1);
    sqe->rw_flags = c->more->pipe_flags & RWF_NOWAIT;
}

/* In the line one turn is one receive. None of one shot waits in the kernel (conn/recv_poll.c). */
uint16_t kr__prep_recv(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    struct kr__conn *c = kr__owner_conn(o);
    kr__recv_begins(r, c);
    c->streams = kr__starve_empty(&r->starve) && !c->one_shot && !c->over_share;
    c->unsure = c->looks = false;
    struct msghdr *message = kr__unlikely(c->features) && !c->streams ? kr__hooks_ask(r, c) : NULL;
    if (kr__likely(c->streams))
        io_uring_prep_recv_multishot(sqe, 0, NULL, 0, 0);
    else if (message)
        io_uring_prep_recvmsg(sqe, 0, message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    else if (c->read_only)
        prep_read(c, sqe);
    else
        io_uring_prep_recv(sqe, 0, NULL, 0, MSG_DONTWAIT);
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->buf_group = KR__BUFS_GROUP;
    return 0;
}

/* Nothing is there to be received. When a poll had told of something, what stands for ever is
 * something else. */
static void met_nothing(struct kr_reactor *r, struct kr__conn *c, bool polled) {
    kr__mark(recv_met_nothing);
    kr__recv_wait(r, c);
    if (polled)
        kr__recv_by_wake(c);
}

static void failed(struct kr_reactor *r, struct kr__conn *c, int error, bool polled) {
    switch (-error) {
    case ENOBUFS:
        kr__bufs_refused(&r->bufs);
        kr__mark_if(starved_with_bytes_to_show,
                    kr__conn_is_open(c) && kr__link_on(&c->wait) && !c->may_try);
        kr__starve_refused(r, c);
        return;
    case EAGAIN:
        met_nothing(r, c, polled);
        return;
    case ECANCELED:
    case EINTR: /* armed again if it is wanted */
        if (kr__pipe_polls(c))
            kr__recv_wait(r, c);
        return;
    default:
        if (kr__pipe_refuses(c, error)) {
            kr__recv_wait(r, c);
            return;
        }
        kr__mark(recv_failed);
        kr__conn_recv_failed(r, c, error);
    }
}

/* Whether a buffer has left the ring with this completion. */
static bool brings_buffer(const struct kr__conn *c, const struct kr__completion *how) {
    bool flagged = how->flags & IORING_CQE_F_BUFFER, failed_read = how->res < 0 && c->read_only;
    kr__mark_if(read_flags_no_buffer, flagged && failed_read);
    return flagged && !failed_read;
}

/* A multishot that goes on after bytes may not have looked further: on some kernels after any, on all
 * after 32 that found more behind them each (see above). */
static void hides_a_reset(struct kr_reactor *r, struct kr__conn *c, uint32_t flags) {
    bool may = !(r->ring.caps & KR__CAP_RESET_TOLD) || flags & IORING_CQE_F_SOCK_NONEMPTY;
    if (may && c->streams && flags & IORING_CQE_F_MORE && !c->unsure)
        kr__conn_look_later(r, c);
}

void kr__done_recv(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    struct kr__conn *c = kr__owner_conn(o);
    size_t size = how->res > 0 ? (size_t)how->res : 0;
    bool filled = brings_buffer(c, how);
    uint16_t buf = (uint16_t)(how->flags >> IORING_CQE_BUFFER_SHIFT);
    if (filled)
        kr__buf_take(&r->bufs, buf, size);
    bool polled = c->recv_goes_on;
    c->recv_goes_on = how->res == -EAGAIN;
    if (kr__unlikely(c->one_shot) && size)
        c->recv_waits = !c->recv_by_wake && (size < r->bufs.size || kr__pipe_polls(c));
    if (kr__unlikely(c->features))
        kr__hooks_came(r, c, how->res);
    if (kr__likely(size)) {
        kr__assert(filled);
        kr__mark_if(recv_ended_with_data, c->streams && !(how->flags & IORING_CQE_F_MORE));
        kr__count(&r->stats.bytes_in, size);
        kr__fair_charge(r, c, size);
        if (kr__unlikely(how->flags & IORING_CQE_F_SOCK_NONEMPTY ||
                         !(r->ring.caps & KR__CAP_RESET_TOLD)))
            hides_a_reset(r, c, how->flags);
        kr__show_received(r, c, kr__buf_at(&r->bufs, buf), size, buf);
        if (kr__unlikely(!kr__starve_empty(&r->starve)))
            kr__starve_served(r, c);
    } else if (how->res == 0) {
        kr__show_end(r, c);
    } else {
        failed(r, c, how->res, polled);
    }
    if (filled)
        kr__buf_unref(&r->bufs, buf);
}
