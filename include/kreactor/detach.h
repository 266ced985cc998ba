/* Detaching: a connection becomes a plain descriptor again, and nothing of its stream is lost.
 *
 * It serves to hand a client to a child process, to another library, or through a Unix socket to
 * another daemon. kr_conn_adopt is the way back.
 *
 * Thread: all functions belong to the reactor's thread, or before its first kr_run to any one
 * thread at a time. None runs a callback. */
#ifndef KREACTOR_DETACH_H
#define KREACTOR_DETACH_H

#include <kreactor/types.h>

#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Descriptors of kr_conn_send_fds that go with byte `at` of the unsent bytes. They are duplicates;
 * the library closes them. */
struct kr_detached_fds {
    size_t at;       /* index of the byte, from 0 */
    const int *fds;  /* `count` descriptors */
    unsigned count;
};

/* The state of a connection when it was detached. All of it is lent until the callback returns,
 * except `fd` and the descriptors in `fds`. No pointer is NULL, even where its count is 0. */
struct kr_detached {
    /* 0; or else the connection was not detached, and the fields after `open` are -1, empty and
     * false */
    int error;
    /* true: the connection was not detached and goes on here as before. False: on_close follows */
    bool open;
    /* The callee owns it and releases it with close(2). It is blocking unless it was adopted
     * otherwise */
    int fd;

    /* Bytes that were received and that on_data has not consumed. They precede the bytes that can
     * be read from the descriptor. */
    const void *unread;
    size_t unread_size;

    /* Bytes that were queued and that the kernel has not taken, in `unsent_count` pieces. They
     * precede the bytes that are written to the descriptor. */
    const struct iovec *unsent;
    unsigned unsent_count;
    size_t unsent_size; /* the sum */

    /* Of a Unix socket: descriptors that came with bytes of `unread` and were not passed to on_fds.
     * The callee owns them, as in on_fds. */
    const int *fds;
    unsigned fds_count;
    bool fds_truncated; /* as `truncated` in on_fds */
    const struct kr_detached_fds *unsent_fds; /* in order */
    unsigned unsent_fds_count;

    /* The peer's end was received already; the descriptor reads it again. True also of the writing
     * end of a pipe. */
    bool eof;
    /* This side has been ended, and nothing more can be written. True also of the reading end of a
     * pipe. */
    bool shut;
    /* kr_conn_shutdown was called and has not been done yet: the callee writes the unsent bytes and
     * then calls shutdown(2) */
    bool shutting;
};

/* Called once for each kr_conn_detach that returned 0, from a turn or from kr_reactor_free, before
 * on_close. `user` is the pointer given to kr_conn_detach. Legal: everything.
 *
 * `error` 0: the connection is over here and takes no more calls (-EPIPE). Bytes that
 * kr_conn_send_ref has borrowed and that were not sent are among `unsent`; they are released after
 * this callback. on_close follows, with error 0 and KR_WHY_DETACHED. The peer notices nothing. The
 * library has closed the descriptors in `unsent_fds` by the time of on_close.
 *
 * An `error`, and `open` false: the connection ended before it could be detached. -ECANCELED: this
 * program closed it. Otherwise it is the error that ended the connection. on_close follows and gets
 * the same cause.
 *
 * An `error`, and `open` true: the connection was not detached. Nothing was lost. It goes on after
 * this callback as before, also with bytes that came meanwhile.
 *   -EMFILE, -ENFILE   there is no descriptor to be had
 *   -ENOMEM            there is no memory for the list of pieces
 *   -ETIMEDOUT         the peer has not acknowledged within flush_ns the bytes sent by zero-copy
 *   others             a send or a receive has failed (-EPIPE, -ECONNRESET ...). Bytes that the
 *                      peer had sent before are shown, and on_close follows with that error, as
 *                      without detaching (on_close in conn.h) */
typedef void kr_detached_fn(struct kr_reactor *r, kr_conn conn, void *user,
                            const struct kr_detached *what);

/* Gives the connection back as a descriptor. Reading and sending stop, requests in flight are
 * cancelled, and `done` is called from a turn. It must not be NULL. `user` is handed to it.
 *
 * From this call on, no other callback of the connection's table runs but on_close. Sends and the
 * like return -EPIPE. kr_conn_close ends the connection as always. When kr_conn_detach is called
 * within on_data, bytes that on_data does not consume are among the unread ones. Leases are not
 * affected.
 *
 * The descriptor is the one that was kept (keep_fd, conn.h), otherwise a new one, which takes
 * kernel >= 6.8 for a registered table (IORING_OP_FIXED_FD_INSTALL). It is close-on-exec. It is
 * blocking unless it was adopted otherwise. Apart from `unread` and `unsent`, it is as if the
 * connection had never been here.
 *
 * Errors, with nothing begun:
 *   -EINVAL       `done` is NULL
 *   -ENOTCONN     the connection is not established yet
 *   -EBUSY        it is forwarding, or has a file in its queue
 *   -EALREADY     it is being detached
 *   -EPIPE        it is being closed, or a send has failed
 *   -EOPNOTSUPP   KR_TABLE_REGISTERED on a kernel before 6.8, without keep_fd
 *   -ENOMEM */
KR_API int kr_conn_detach(struct kr_reactor *r, kr_conn conn, kr_detached_fn *done, void *user);

#ifdef __cplusplus
}
#endif

#endif
