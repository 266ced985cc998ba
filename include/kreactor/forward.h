/* Forwarding: bytes that one connection receives are sent on another, without callbacks in between.
 *
 * A proxy accepts one connection, makes another with kr_connect, and calls kr_conn_forward with the
 * two. Received buffers are handed to the sender as they are; small pieces are copied.
 * Back-pressure goes through: each end is read only while the other end's queue is below its
 * send_high. When all bytes before it have been sent, the end of one stream becomes the end of the
 * other (not with keep_open).
 *
 * Thread: all functions belong to the reactor's thread, or before its first kr_run to any one
 * thread at a time. The functions that any thread may call say so. None runs a callback. */
#ifndef KREACTOR_FORWARD_H
#define KREACTOR_FORWARD_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How to forward. Fill it with kr_forward_opts_init. */
struct kr_forward_opts {
    size_t size; /* sizeof(struct kr_forward_opts), set by kr_forward_opts_init */

    /* Forward only from `a` to `b`; bytes that `b` receives go to its on_data as always. Default
     * false */
    bool one_way;

    /* Forward at most so many bytes from `a` to `b`, and from `b` to `a`. 0: to the end of the
     * stream. Bytes beyond the limit stay with the connection that received them and are shown to
     * its on_data when forwarding has ended. A limit does not end the other end's stream.
     * Default 0. */
    uint64_t max_ab, max_ba;

    /* When forwarding ends, leave both connections open to their users. Default false.
     *
     * False: both connections are closed with KR_CLOSE_FLUSH, except:
     *   - If an error ended one end, the other end is flushed and then reset, so that its peer does
     *     not take a part of a stream for the whole. Flushed means that the kernel has taken the
     *     bytes; the reset drops those that it has not sent yet to a peer that does not read.
     *   - If the peer of one end has answered, ended its side, and takes nothing more, the other
     *     end is closed with KR_CLOSE_LINGER: bytes that its peer is still sending are dropped, and
     *     do not cost that peer the answer.
     *
     * True: the end of one stream does not become the end of the other, which would leave that one
     * half open. The end of a stream only ends its way, as a limit does. When both ways are over,
     * on_eof of the connection whose peer has ended is called after `done`. When memory was refused
     * (-ENOMEM), bytes are missing, and both connections are flushed and then reset all the
     * same. */
    bool keep_open;
};

/* Fills `opts` with the defaults. Any thread. `size`: as for kr_config_init_sized. */
KR_API void kr_forward_opts_init_sized(struct kr_forward_opts *opts, size_t size);
#define kr_forward_opts_init(opts_) kr_forward_opts_init_sized((opts_), sizeof *(opts_))

/* The result of forwarding. */
struct kr_forwarded {
    uint64_t bytes_ab, bytes_ba; /* received from one end and queued to the other */

    /* Why forwarding ended:
     *   0            all streams that were forwarded came to their end or limit, and everything was
     *                sent
     *   -ECANCELED   kr_conn_forward_stop was called, or this program closed an end
     *   -ENOMEM      memory was refused
     *   others       the error that ended one of the connections, as its on_close gets it
     * An end that can take nothing more is read to its own end first, and its bytes are forwarded
     * (on_close in conn.h). With one_way, forwarding to such an end is over at once, and bytes that
     * it receives go to its on_data. */
    int error;
};

/* Called once for each kr_conn_forward that returned 0, from a turn or from kr_reactor_free, before
 * on_close of either end, whatever ended the pair and in which callback. Both handles are still
 * valid. `user` is the pointer given to kr_conn_forward; `what` is lent until the callback returns.
 * With keep_open the connections are their users' again. Legal: everything. */
typedef void kr_forward_fn(struct kr_reactor *r, kr_conn a, kr_conn b, void *user,
                           const struct kr_forwarded *what);

/* Forwards bytes that `a` receives to `b`, and unless one_way is set, bytes that `b` receives to
 * `a`.
 *   a, b   two different connections, open or being connected (kr_connect), neither of them
 *          forwarding
 *   opts   NULL: defaults. Borrowed for the call
 *   done   called when forwarding has ended. NULL: no callback
 *   user   handed to done
 *
 * Bytes that an end has received and its on_data has not consumed are forwarded first. So a proxy
 * that has parsed a header calls kr_conn_forward in on_data and returns the size of the header.
 *
 * While a connection's bytes are forwarded, neither its on_data nor its on_eof runs. kr_conn_swap
 * is allowed, and does not change that. on_writable runs for neither end. on_timeout and on_close run
 * as always, and idle deadlines see all traffic. Pausing an end stops the bytes that come from it.
 * Descriptors that come with the bytes (on_fds) are not forwarded but closed. Sending to an end in
 * the meantime is legal; these bytes are put between the forwarded ones.
 *
 * Errors, with nothing begun:
 *   -EINVAL   also: `a` and `b` are the same
 *   -EPIPE    either is being closed or released; or `b` (or `a`, when both ways are forwarded) has
 *             been shut down or cannot be sent to
 *   -EBUSY    either is forwarding already
 *   -ENOMEM */
KR_API int kr_conn_forward(struct kr_reactor *r, kr_conn a, kr_conn b,
                           const struct kr_forward_opts *opts, kr_forward_fn *done, void *user);

/* Ends forwarding; `conn` is either end. `done` runs with -ECANCELED, in a later phase of this turn
 * or in the next turn. Bytes that are queued by then are still sent.
 *
 * Errors, with nothing done: -EINVAL: `conn` does not forward. */
KR_API int kr_conn_forward_stop(struct kr_reactor *r, kr_conn conn);

#ifdef __cplusplus
}
#endif

#endif
