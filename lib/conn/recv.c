/* Recv: one receive a connection, into the shared buffers: multishot, but on Unix sockets and
 * pipes, while some wait for a buffer, and of one that has more than its share of the turns.
 *
 * Happy path: a completion brings a buffer; its bytes are lent to on_data; the buffer goes back
 * unless a send holds it. What on_data leaves is copied to the connection's kept bytes and shown
 * again with what follows, or when reading goes on.
 * Failure modes: no buffer (-ENOBUFS: it waits in the line; the kernel keeps its data); the
 * multishot ends with data (CQ overflow: armed again, only F_MORE says what is armed); the peer's
 * end (res 0, whatever F_SOCK_NONEMPTY says); an error (the connection ends); kept bytes outgrow
 * recv_cap.
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
#include "kernel/probe.h"

#define KEPT_SMALL 4096u /* bytes of a block that is not worth a smaller one */

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

/* How large a block to ask for. Beyond the size classes a block is as large as asked for: one that
 * grows takes half as much again, or each receive would move all that came before it. */
static size_t kept_room(const struct kr__conn *c, size_t need) {
    return c->kept && need > KR__BLOCK_CLASS_MOST ? need + need / 2 : need;
}

/* Makes room for `size` more kept bytes, by closing the gap in front or in a larger block. */
static int kept_ready(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    size_t need = c->kept_size + size, room;
    if (c->kept && c->kept_at + need <= c->kept_room)
        return 0;
    if (c->kept && need <= c->kept_room / 2) {
        kr__mark(kept_closed_up);
        memmove(c->kept, c->kept + c->kept_at, c->kept_size);
        c->kept_at = 0;
        return 0;
    }
    if (need > UINT32_MAX / 2)
        return -ENOMEM;
    char *kept = kr__block_get(&r->blocks, kept_room(c, need), &room);
    if (!kept)
        return -ENOMEM;
    if (c->kept) {
        kr__mark(kept_grown);
        memcpy(kept, c->kept + c->kept_at, c->kept_size);
        kr__block_put(&r->blocks, c->kept, c->kept_room);
    }
    c->kept = kept;
    c->kept_room = (uint32_t)room;
    c->kept_at = 0;
    return 0;
}

/* Keeps bytes; a refusal of memory ends the connection, since they could not be shown again. */
static void keep(struct kr_reactor *r, struct kr__conn *c, const char *data, size_t size) {
    if (kept_ready(r, c, size) < 0) {
        kr__mark(kept_refused);
        kr__conn_end(r, c, KR_CLOSE_NOW, -ENOMEM, KR_WHY_LIMIT);
        return;
    }
    memcpy(c->kept + c->kept_at + c->kept_size, data, size);
    c->kept_size += (uint32_t)size;
    kr__count(&r->stats.bytes_kept, size);
}

/* While reading is stopped the cap waits: the bytes had arrived before the peer could be told. */
static void check_cap(struct kr_reactor *r, struct kr__conn *c) {
    if (c->state != KR__CONN_OPEN || c->kept_size <= kr__conn_opts(c)->recv_cap ||
        kr__conn_stopped(c))
        return;
    kr__mark(kept_too_much);
    kr__conn_end(r, c, KR_CLOSE_NOW, -EMSGSIZE, KR_WHY_LIMIT);
}

/* True if nothing but more bytes will show what on_data has left: it has neither paused the
 * connection, nor closed it, nor given it to somebody else. */
static bool stays_behind(const struct kr__conn *c, const struct kr_conn_ops *ops,
                         const void *user) {
    bool same = c->ops == ops && c->user == user && !c->forwarding;
    return c->state == KR__CONN_OPEN && same && !kr__conn_stopped(c);
}

/* To its user, or to the other end. A user may have it forwarded from within on_data: then the rest
 * is. */
static size_t show(struct kr_reactor *r, struct kr__conn *c, const char *data, size_t size) {
    size_t used = 0;
    if (kr__likely(!c->forwarding)) {
        const struct kr_conn_ops *ops = c->ops;
        const void *user = c->user;
        r->shown = c;
        used = kr__min_size(c->ops->on_data(r, kr__conn_handle(c), c->user, data, size), size);
        r->shown = NULL;
        if (KR_CHECKED && used < size && stays_behind(c, ops, user))
            kr__count(&r->stats.left_unpaused, 1);
    }
    if (kr__unlikely(c->forwarding && !c->paused && used < size))
        KR__EACH_HOOK (r, c, data)
            return used + row->data(r, c, data + used, size - used);
    return used;
}

/* A block of which little is used any more is changed for a smaller one: each byte is moved for
 * three at least that were consumed. Without memory it stays. */
static void kept_fit(struct kr_reactor *r, struct kr__conn *c) {
    size_t room;
    if (c->kept_room <= KEPT_SMALL || c->kept_size > c->kept_room / 4)
        return;
    char *kept = kr__block_get(&r->blocks, c->kept_size, &room);
    if (!kept)
        return;
    kr__mark(kept_shrunk);
    memcpy(kept, c->kept + c->kept_at, c->kept_size);
    kr__block_put(&r->blocks, c->kept, c->kept_room);
    c->kept = kept;
    c->kept_at = 0;
    c->kept_room = (uint32_t)room;
}

static void show_kept(struct kr_reactor *r, struct kr__conn *c) {
    size_t size = c->kept_size;
    size_t used = show(r, c, c->kept + c->kept_at, size);
    c->kept_at += (uint32_t)used;
    c->kept_size -= (uint32_t)used;
    if (c->kept_size == 0) {
        kr__block_put(&r->blocks, c->kept, c->kept_room);
        c->kept = NULL;
    } else {
        kept_fit(r, c);
    }
    check_cap(r, c);
}

/* Lends the receive buffer itself, so that a send of these bytes need not copy them. */
static void show_buffer(struct kr_reactor *r, struct kr__conn *c, const char *data, size_t size,
                        uint16_t buf) {
    const struct kr_conn_ops *ops = c->ops;
    const void *user = c->user;
    r->lent = (struct kr__lent){c, data, size, buf};
    size_t used = show(r, c, data, size);
    r->lent.conn = NULL;
    if (kr__likely(used >= size) || !kr__conn_keeps(c))
        return;
    keep(r, c, data + used, size - used);
    check_cap(r, c);
    if (kr__unlikely(c->ops != ops || c->user != user)) /* whoever took over begins with the rest */
        kr__conn_show_later(r, c);
}

static void deliver(struct kr_reactor *r, struct kr__conn *c, const char *data, size_t size,
                    uint16_t buf) {
    kr__mark_if(received_while_closing, c->state != KR__CONN_OPEN);
    kr__mark_if(detach_keeps, c->state == KR__CONN_DETACHING);
    if (c->state != KR__CONN_OPEN) {
        if (kr__unlikely(c->state == KR__CONN_DETACHING))
            keep(r, c, data, size);
        return;
    }
    kr__time_reach(&c->idle_from, r->now);
    kr__time_reach(&c->read_from, r->now);
    /* while the other end is full, what has come is passed on all the same */
    bool flows = !kr__conn_stopped(c) || (c->forwarding && !c->paused);
    if (kr__likely(!c->kept_size && flows)) {
        show_buffer(r, c, data, size, buf);
        return;
    }
    keep(r, c, data, size);
    if (!kr__conn_stopped(c) && c->state == KR__CONN_OPEN)
        show_kept(r, c);
}

static void tell_eof(struct kr_reactor *r, struct kr__conn *c) {
    if (c->forwarding)
        KR__EACH_HOOK (r, c, eof) {
            row->eof(r, c);
            return;
        }
    c->eof_told = true;
    if (c->ops->on_eof) {
        c->ops->on_eof(r, kr__conn_handle(c), c->user);
        return;
    }
    kr__conn_end(r, c, KR_CLOSE_FLUSH, 0, KR_WHY_PEER);
    kr__mark_if(eof_behind_unconsumed, c->kept_size);
    if (c->kept_size && !c->broken)
        c->error = -ENODATA;
}

/* The end of the stream comes after all bytes: not before those that are held back. */
static void ended(struct kr_reactor *r, struct kr__conn *c) {
    c->eof = true;
    c->no_eof = c->broken && c->error != -EPIPE;
    kr__starve_leave(r, c);
    kr__mark_if(eof_held_back, c->state == KR__CONN_OPEN && kr__conn_stopped(c));
    kr__conn_settle(r, c); /* one that lingers has waited for that, whatever F_MORE says */
    bool may = c->state == KR__CONN_OPEN && !kr__conn_stopped(c) && !kr__link_on(&c->wait);
    if (may && kr__conn_owes_eof(c))
        tell_eof(r, c);
    if (kr__unlikely(c->broken))
        kr__conn_broken_step(r, c);
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
                    c->state == KR__CONN_OPEN && kr__link_on(&c->wait) && !c->may_try);
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
        deliver(r, c, kr__buf_at(&r->bufs, buf), size, buf);
        if (kr__unlikely(!kr__starve_empty(&r->starve)))
            kr__starve_served(r, c);
    } else if (how->res == 0) {
        ended(r, c);
    } else {
        failed(r, c, how->res, polled);
    }
    if (filled)
        kr__buf_unref(&r->bufs, buf);
}

/* What waited while reading was stopped: kept bytes, then the end of the stream. The turn's own
 * phase. */
void kr__recv_show(struct kr_reactor *r, struct kr__conn *c) {
    kr__assert(c->state == KR__CONN_OPEN && !kr__conn_stopped(c));
    KR__EACH_HOOK (r, c, shows) {
        row->shows(r, c);
        kr__conn_dirty(r, c); /* which has waited for that */
    }
    if (c->kept_size && c->state == KR__CONN_OPEN && !kr__conn_stopped(c))
        show_kept(r, c);
    if (c->state == KR__CONN_OPEN && kr__conn_owes_eof(c) && !kr__conn_stopped(c))
        tell_eof(r, c);
    if (kr__unlikely(c->broken))
        kr__conn_broken_step(r, c);
}

static int set_paused(struct kr_reactor *r, kr_conn conn, bool paused) {
    struct kr__conn *c;
    int rc = kr__conn_door(r, conn, &c);
    if (rc < 0)
        return rc;
    if (!kr__conn_lives(c))
        return -EPIPE;
    if (c->paused && !paused && kr__conn_opts(c)->read_ns)
        kr__conn_count(r, c, KR_DEADLINE_READ); /* the receive may have been in flight all along */
    c->paused = paused;
    if (paused)
        kr__conn_hold(r, c);
    else if (r->shown != c) /* what a running on_data leaves it does not want now */
        kr__conn_show_later(r, c);
    kr__conn_dirty(r, c);
    return 0;
}

int kr_conn_pause(struct kr_reactor *r, kr_conn conn) {
    return set_paused(r, conn, true);
}

int kr_conn_resume(struct kr_reactor *r, kr_conn conn) {
    return set_paused(r, conn, false);
}
