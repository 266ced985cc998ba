/* Errors of one direction, and what they leave of the other.
 *
 * Happy path: a peer that refuses a request answers and closes while the rest of it is still being
 * sent, so that a send fails before the answer is read. The connection is broken then: its queue is
 * dropped, and it takes nothing more. It receives and shows what the peer has sent, up to the end of
 * the stream or an error, and then it ends, with the error of the send. A receive that fails while
 * bytes wait to be shown leaves a broken connection, too, which ends when they have been. A paused one
 * that is broken receives until something has come, which waits for the resume: if there was nothing,
 * it ends though it is paused, for its user may be waiting for that.
 * Failure modes: an error that says nothing about the peer (no memory, descriptors that cannot be
 * sent), after which the peer may be waiting for bytes that never come (the connection ends at
 * once); one that is being closed has nobody to show anything to (the same); one whose bytes are
 * forwarded (the way to it is over, the way from it goes on: extra/forward.c); one that is being
 * detached (it is not: extra/detach.c).
 *
 * Relies on: what came before a FIN or RST stays in the socket, and receives take it before they
 * fail (tcp_recvmsg_locked, net/ipv4/tcp.c; unix_stream_read_generic, net/unix/af_unix.c). An error
 * is told once, to the request that meets it first; a receive finds the end of the stream in its
 * place. That is the truth for EPIPE alone, which a reset leaves behind where the peer had ended
 * its side before (tcp_reset, net/ipv4/tcp_input.c). */
#include "conn/hooks.h"
#include "conn/queue.h"

bool kr__conn_has_unshown(const struct kr_reactor *r, const struct kr__conn *c) {
    KR__EACH_HOOK (r, c, holds)
        if (row->holds(c))
            return true;
    if (kr__conn_is_stopped(c) || kr__link_on(&c->wait))
        return c->kept_size;
    return kr__conn_owes_eof(c);
}

void kr__conn_broken_step(struct kr_reactor *r, struct kr__conn *c) {
    if (c->broken && c->eof && kr__conn_is_open(c) && !kr__conn_has_unshown(r, c))
        kr__conn_end(r, c, KR_CLOSE_NOW, c->error, KR_WHY_ERROR);
}

/* The error that ends it is the first one. */
static void conn_break(struct kr_reactor *r, struct kr__conn *c, int error) {
    kr__mark_if(broken_while_stopped, kr__conn_is_stopped(c));
    if (!c->broken) {
        c->error = (int16_t)error;
        c->why = KR_WHY_ERROR;
    }
    c->broken = c->half = c->fin = true;
    c->send_waits = false;
    c->queued = 0;
    kr__queue_drop(r, c);
    KR__EACH_HOOK (r, c, breaks)
        row->breaks(r, c, error);
    kr__queue_shrank(r, c, 0); /* who waits for room is not to wait for ever */
    kr__conn_show_later(r, c);
    kr__conn_dirty(r, c);
    kr__conn_broken_step(r, c);
}

/* True if the peer takes nothing more, be it that it has ended, reset, or cannot be reached. */
static bool is_of_the_peer(int error) {
    switch (-error) {
    case EPIPE:
    case ECONNRESET:
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENOTCONN:
        return true;
    default:
        return false;
    }
}

void kr__conn_send_failed(struct kr_reactor *r, struct kr__conn *c, int error) {
    if (kr__conn_is_heard(c) && is_of_the_peer(error))
        conn_break(r, c, error);
    else
        kr__conn_end(r, c, KR_CLOSE_NOW, error, KR_WHY_ERROR);
}

void kr__conn_recv_failed(struct kr_reactor *r, struct kr__conn *c, int error) {
    kr__starve_leave(r, c);
    c->eof = c->no_eof = true;
    bool waits = kr__conn_is_detaching(c) || kr__conn_has_unshown(r, c);
    if (kr__conn_is_heard(c) && waits)
        conn_break(r, c, error);
    else
        kr__conn_end(r, c, KR_CLOSE_NOW, error, KR_WHY_ERROR);
}
