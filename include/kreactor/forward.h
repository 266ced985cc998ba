/* Forwarding: what one connection receives is sent on another, without passing through callbacks.
 *
 * A proxy is: accept one, kr_connect another, kr_conn_forward the two. Received buffers are handed
 * to the sender as they are, small ones are copied. Back-pressure goes through: each end is read
 * only while the other's queue is below its send_high. The end of one stream becomes the end of the
 * other, when all bytes before it have been sent (not with keep_open). All functions: the reactor's thread. */
#ifndef KREACTOR_FORWARD_H
#define KREACTOR_FORWARD_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How to forward. Fill it with kr_forward_opts_init. */
struct kr_forward_opts {
    size_t size; /* sizeof(struct kr_forward_opts), set by kr_forward_opts_init */

    /* only from `a` to `b`; what `b` receives goes to its on_data as ever. Default false */
    bool one_way;

    /* Forward so many bytes, then no more; 0 = to the end of the stream. The bytes after the last
     * stay the connection's and are shown to its on_data when forwarding has ended. The other
     * end's stream is not ended by a limit. Default 0. */
    uint64_t max_ab, max_ba;

    /* When forwarding ends, leave both connections open to their users; else they are closed with
     * KR_CLOSE_FLUSH. When an error ended one, the other is flushed and then reset, so that its peer
     * does not take a part of a stream for the whole. When a peer has answered, ended its side, and
     * takes nothing more, the other is closed with KR_CLOSE_LINGER: what its peer is still sending is
     * dropped, and does not cost it the answer. With
     * keep_open the end of one stream is not made the end of the other, which would leave that one
     * half open. It only ends its way, as a limit does; when both ways are over, the on_eof of the
     * connection whose peer has ended is called behind `done`. Default false. */
    bool keep_open;
};

/* Fills `opts` with the defaults. Any thread. `size`: as for kr_config_init_sized. */
KR_API void kr_forward_opts_init_sized(struct kr_forward_opts *opts, size_t size);
#define kr_forward_opts_init(opts_) kr_forward_opts_init_sized((opts_), sizeof *(opts_))

/* What was forwarded, when it has ended. */
struct kr_forwarded {
    uint64_t bytes_ab, bytes_ba; /* received from one and queued to the other */

    /* 0: both streams, or the one, came to their end or limit, and everything was sent. An end that
     * can take nothing more is heard to its end first (on_close in conn.h); one way alone to it is
     * over at once, and what it says goes to its on_data. -ECANCELED:
     * by kr_conn_forward_stop, or because this program closed an end. Else the error that ended one
     * of them, as its on_close gets it; -ENOMEM. */
    int error;
};

/* Called once for each kr_conn_forward that returned 0, from a turn (or from kr_reactor_free),
 * before on_close of either end, whatever ended the pair and in which callback; both handles are
 * still good. With keep_open the connections are their users' again. Legal:
 * everything. */
typedef void kr_forward_fn(struct kr_reactor *r, kr_conn a, kr_conn b, void *user,
                           const struct kr_forwarded *what);

/* Forwards what `a` receives to `b`, and unless one_way what `b` receives to `a`. `opts` (NULL:
 * defaults) is borrowed for the call. `done` may be NULL. Both must be open or being connected
 * (kr_connect), not the same, and not forwarding already. Bytes that one of them has received and
 * its on_data has not consumed are forwarded first: a proxy that has parsed a header calls this in
 * on_data and returns the header's size.
 *
 * While it lasts neither on_data nor on_eof runs for a connection whose bytes are forwarded, nor
 * after kr_conn_swap, which such a connection allows; on_drain runs for neither; on_timeout and on_close run as ever, and idle deadlines see all
 * traffic. Pausing an end stops what comes from it. Descriptors that come with the bytes (on_fds)
 * are not forwarded but closed. Sending to an end beside what is forwarded is legal; the bytes are
 * put in between.
 *
 * Errors: -EBUSY when either is forwarding already; -EPIPE when either is being closed, or `b` (or
 * `a`, when both ways are forwarded) has been shut down; -ENOMEM. */
KR_API int kr_conn_forward(struct kr_reactor *r, kr_conn a, kr_conn b,
                           const struct kr_forward_opts *opts, kr_forward_fn *done, void *user);

/* Ends forwarding, with `conn` as either end; `done` runs in a turn that follows, with -ECANCELED.
 * What is queued by then will still be sent. -EINVAL: it does not forward. */
KR_API int kr_conn_forward_stop(struct kr_reactor *r, kr_conn conn);

#ifdef __cplusplus
}
#endif

#endif
