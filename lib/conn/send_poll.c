/* Send poll: waits until a socket or pipe takes more bytes, after a send that found it full.
 *
 * Sends never wait in the kernel. One that is starved there is tried anew whenever the socket is
 * ready for another reason, and after 128 tries in vain a kernel worker blocks in it (on 6.1 after
 * one; APOLL_MAX_RETRY, io_uring/poll.c). Such reasons stand for ever: the peer has ended its side
 * (EPOLLRDHUP), an urgent byte (EPOLLPRI), an error queue that nobody reads (EPOLLERR). So sends say
 * MSG_DONTWAIT, and this poll waits.
 *
 * Happy path: a poll of one shot for POLLOUT; at its completion the queue is sent again.
 * Failure modes: another reason stands, so that a poll of one shot would complete at once for ever
 * (the connection goes over to a multishot poll, which tells of each wake-up, and keeps it as long
 * as anything is queued); the poll said that there is room, and the send met none (conn/send.c); the
 * poll itself is refused (the send is tried after a while).
 *
 * Relies on: a poll always tells of EPOLLERR, EPOLLHUP and EPOLLRDHUP, asked for or not
 * (IO_POLL_UNMASK, io_uring/poll.c). A multishot poll reports what is ready when it is armed and at
 * each wake-up after that; a full socket wakes its waiters when it has room again
 * (sk_stream_write_space, net/core/stream.c; unix_write_space, net/unix/af_unix.c). A send is tried
 * as it is submitted, so the completion that tells it was refused is in front of that of any
 * wake-up after it. */
#include "conn/op.h"

#include <poll.h>

uint16_t kr__prep_send_poll(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    io_uring_prep_poll_add(sqe, 0, POLLOUT);
    if (kr__owner_conn(o)->send_by_wake)
        sqe->len = IORING_POLL_ADD_MULTI;
    return 0;
}

/* An error, or the end of both sides, may have come with it, which the send will tell. */
static void is_ready(struct kr__conn *c, unsigned events) {
    c->send_room = events & POLLOUT;
    kr__mark_if(send_by_wake, !c->send_room && !c->send_by_wake);
    if (!c->send_room)
        c->send_by_wake = true;
    if (events & (POLLOUT | POLLERR | POLLHUP | POLLNVAL))
        c->send_waits = false;
}

void kr__done_send_poll(struct kr_reactor *r, struct kr__owner *o,
                        const struct kr__completion *how) {
    struct kr__conn *c = kr__owner_conn(o);
    if (how->res >= 0) {
        is_ready(c, (unsigned)how->res);
    } else if (how->res != -ECANCELED) {
        c->send_waits = c->send_room = false;
        kr__conn_rest(r, c);
    }
    if (how->flags & IORING_CQE_F_MORE)
        kr__conn_settle(r, c); /* the loop does it for the last completion only */
}
