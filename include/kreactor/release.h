/* Release: a connection becomes a plain descriptor again, with nothing of its stream lost.
 *
 * For handing a client to a child process, to another library, or through a Unix socket to another
 * daemon; what kr_conn_adopt is the way back of. All functions: the reactor's thread. */
#ifndef KREACTOR_RELEASE_H
#define KREACTOR_RELEASE_H

#include <kreactor/types.h>

#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Descriptors of kr_conn_send_fds that go with byte `at` of the unsent. Duplicates; they are closed
 * by the library. */
struct kr_released_fds {
    size_t at;
    const int *fds;
    unsigned count;
};

/* What there was when it was released. All of it is lent until the callback returns, but for `fd`
 * and `fds`. No pointer is NULL, also where there is nothing. */
struct kr_released {
    /* 0; else the connection was not released, and what follows `open` is -1, empty and false */
    int error;
    bool open; /* it was not, and goes on here as before; else on_close follows */
    int fd;    /* is the callee's now, to be closed with close(2); a blocking one, as a rule */

    /* Received, and not consumed by on_data: comes before what the descriptor will read. */
    const void *unread;
    size_t unread_size;

    /* Queued, and not taken by the kernel: comes before what is written to the descriptor. */
    const struct iovec *unsent;
    unsigned unsent_count;
    size_t unsent_size; /* the sum */

    /* Of a Unix socket. Came with bytes of the unread, and on_fds was not told: the callee's now,
     * as there. */
    const int *fds;
    unsigned fds_count;
    bool fds_truncated;
    const struct kr_released_fds *unsent_fds; /* in order */
    unsigned unsent_fds_count;

    /* the peer's end was received already; the descriptor reads it again; or it writes to a pipe */
    bool eof;
    /* this side has been ended: nothing more can be written; or it reads from a pipe */
    bool shut;
    /* kr_conn_shutdown was called, and has yet to follow the unsent bytes: shutdown(2) */
    bool shutting;
};

/* Called once for each kr_conn_release that returned 0, from a turn, before on_close; `user` is the
 * one given there. Legal: everything.
 *
 * error 0: the connection is over here, and takes no more calls (-EPIPE). What kr_conn_send_ref has
 * borrowed and was not sent is among `unsent`, and is released after this callback. on_close
 * follows, with error 0 and KR_WHY_RELEASED; the peer notices nothing. Descriptors among
 * `unsent_fds` are closed by then.
 *
 * An error without `open`: the connection ended before it could be released: -ECANCELED when this
 * program closed it, else what it failed with. on_close follows, and tells the same.
 *
 * An error with `open`: there is no descriptor to be had (-EMFILE, -ENFILE), or no memory for the
 * list of pieces (-ENOMEM), or the peer has not acknowledged within flush_ns what was sent by
 * zero-copy (-ETIMEDOUT). Nothing was lost: the connection is open as before, and goes on after
 * this callback, also with what came meanwhile. Or a send or a receive has failed (-EPIPE,
 * -ECONNRESET ...): what the peer had sent before is shown, and on_close follows with that error, as
 * without the release (on_close in conn.h). */
typedef void kr_released_fn(struct kr_reactor *r, kr_conn conn, void *user,
                            const struct kr_released *what);

/* Gives the connection back as a descriptor. Reading and sending stop, what is under way in the
 * kernel is called back, and `done` is called. No other callback of the connection runs from this
 * call on, but on_close; sends and the like answer -EPIPE, and kr_conn_close ends the connection as
 * ever. Within on_data what that does not consume is among the unread; leases are not concerned.
 *
 * The descriptor is the one that was kept (keep_fd, conn.h), else a new one: of a registered table
 * kernel >= 6.8 makes it (IORING_OP_FIXED_FD_INSTALL). It is close-on-exec, and blocking unless it
 * was adopted otherwise; `unread` aside it is as if the connection had never been here.
 *
 * Errors, with nothing begun: -EOPNOTSUPP with KR_TABLE_REGISTERED on a kernel before 6.8 without
 * keep_fd; -ENOTCONN when it does not stand yet; -EBUSY when it is forwarding, or has a file in its queue; -EALREADY when it
 * is being released; -EPIPE once it is being closed, or a send has failed; -EINVAL without `done`; -ENOMEM. */
KR_API int kr_conn_release(struct kr_reactor *r, kr_conn conn, kr_released_fn *done, void *user);

#ifdef __cplusplus
}
#endif

#endif
