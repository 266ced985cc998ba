/* Connecting: connections that this program makes.
 *
 * A connection made here is a connection like any other (conn.h), except that it begins before it
 * stands: its handle is good at once, bytes may be queued to it at once, and on_open runs when it
 * stands. If it never does, on_close says why, and there was no on_open.
 *
 * All functions: the reactor's thread, or before its first kr_run any one thread at a time. */
#ifndef KREACTOR_CONNECT_H
#define KREACTOR_CONNECT_H

#include <kreactor/addr.h>
#include <kreactor/conn.h>
#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How a connection is made, and what it starts with. Fill it with kr_connect_opts_init. */
struct kr_connect_opts {
    size_t size;      /* sizeof(struct kr_connect_opts), set by kr_connect_opts_init */
    size_t conn_size; /* and sizeof(struct kr_conn_opts) */

    /* Where it comes from: an address of the same family. Port 0 lets the kernel choose, among
     * those that are free for this destination. Borrowed for the call; NULL: the kernel chooses.
     * Default NULL. */
    const struct kr_addr *source;

    /* How long it may take until it stands, after which it ends with -ETIMEDOUT and KR_WHY_TIMEOUT;
     * negative: as long as the kernel tries, which for TCP is some two minutes, and for a Unix
     * socket whose listener accepts nobody without end. 0: 30 s. Default 30 s. Counts from when the
     * kernel is asked, in the turn after the call. A Unix socket is tried once more at its end. */
    int64_t timeout_ns;

    /* Make this side's address known (kr_conn_local) once it stands, at the cost of two system
     * calls and of a descriptor until then. The peer's is known in any case: it is the one given.
     * Default false. */
    bool local_address;

    struct kr_conn_opts conn; /* the last field */
};

/* Fills `opts` with the defaults. Any thread. `size` and `conn_size` are the program's own
 * sizeof(struct kr_connect_opts) and sizeof(struct kr_conn_opts): as for kr_config_init_sized. Nothing
 * is written where the first cannot hold the second. */
KR_API void kr_connect_opts_init_sized(struct kr_connect_opts *opts, size_t size, size_t conn_size);
#define kr_connect_opts_init(opts_)                                                                \
    kr_connect_opts_init_sized((opts_), sizeof *(opts_), sizeof(struct kr_conn_opts))

/* Says why kr_connect to `addr` (NULL: to any) would answer -EINVAL to these options, as
 * kr_conn_opts_check does. Any thread. */
KR_API int kr_connect_opts_check(const struct kr_connect_opts *opts, const struct kr_addr *addr,
                                 struct kr_failure *why);

/* Connects to `addr`: IPv4, IPv6 or a Unix stream socket. `addr` and `opts` (NULL = defaults) are
 * borrowed for the call; `ops` until the connection has closed; `user` is handed to its callbacks.
 * *ret, which may be NULL, is its handle, good from now until on_close has returned. No callback
 * runs inside the call.
 *
 * What follows, in a later turn: on_open, after which it is a connection like any other; or
 * on_close with the kernel's error and KR_WHY_CONNECT (-ECONNREFUSED, -ETIMEDOUT, -EHOSTUNREACH,
 * -ENETUNREACH, -ENOENT and -EACCES of a Unix path ...), or with -ETIMEDOUT and KR_WHY_TIMEOUT. A
 * Unix socket whose listener has too many clients waiting is tried again until there is room.
 *
 * Before it stands it may be sent to, paused, shut down and closed. Closing it gives up the
 * attempt, except that KR_CLOSE_LINGER and KR_CLOSE_FLUSH with bytes in the queue go on as they
 * would on one that stands; flush_ns bounds the wait until it does, and begins anew then.
 *
 * Errors, with nothing begun: those of socket, setsockopt and bind (-EMFILE, -ENFILE,
 * -EAFNOSUPPORT; -EADDRINUSE, -EADDRNOTAVAIL, -EACCES of the source ...); -ENOSPC when connect_max
 * connections of this kind are not yet closed (one whose on_close is running is not); -ENOMEM;
 * -ESHUTDOWN during a kr_drain and once kr_reactor_free has begun. Uses no descriptor afterwards,
 * but with keep_fd, and for local_address and for a Unix socket until it stands. */
KR_API int kr_connect(struct kr_reactor *r, kr_conn *ret, const struct kr_addr *addr,
                      const struct kr_connect_opts *opts, const struct kr_conn_ops *ops,
                      void *user);

/* Takes over a connected stream socket, or an end of a pipe, that was made elsewhere: by another
 * library, by socketpair(2) or pipe(2), handed over by a parent or through a Unix socket. `fd` is
 * consumed on success (the table refers to the file, the descriptor is closed, or kept with
 * keep_fd) and untouched on failure. `opts` (NULL = defaults) is borrowed for the call; its socket
 * options are not set. `ops` and `user` as for kr_connect.
 *
 * What others have set on a socket and would harm a reactor is taken back, for all who share the
 * socket, and stays so after kr_conn_release: SO_LINGER (closing would wait, or reset; it is taken
 * back again before the close, on kernels >= 6.8, should somebody have set it meanwhile),
 * SO_RCVLOWAT, TCP_CORK, time stamps, IP_RECVERR and IPV6_RECVERR, with what lies in the queue of
 * errors; of a Unix socket SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD and SO_INQ. All other options stay
 * as they are, and do no harm that is known of: SO_RCVTIMEO and SO_SNDTIMEO mean nothing here, nor
 * does SO_PEEK_OFF. Bytes that have come before, peeked at or not, are received first; a side that
 * was ended before is as if it ended now: on_eof, or sends that fail with -EPIPE. A TCP socket
 * whose peer has reset, and has left no bytes, is not connected any more (-ENOTCONN).
 *
 * *ret, which may be NULL, is its handle, good and to be sent to at once; on_open runs in a turn
 * that follows. Its addresses are known (kr_conn_peer, kr_conn_local). Whether it is a non-blocking
 * one does not matter and is not changed: no request waits in the socket. It counts against
 * connect_max (reactor.h).
 *
 * A pipe, also one with a name, is a connection in one direction. The reading end answers sends
 * with -EPIPE, as one that was shut down; on_eof runs when the last writer has gone. The writing
 * end never receives, as one whose peer has ended, but on_eof does not run; kr_conn_shutdown on it
 * is KR_CLOSE_FLUSH, since a pipe cannot tell its reader otherwise. That the readers have gone
 * shows in the next write, which ends the connection with -EPIPE. There are no addresses
 * (-ENODATA). A named pipe that nobody has opened for writing is at its end already. A named pipe
 * on any kernel, and any pipe before Linux 6.4, cannot be read without waiting unless it was opened
 * with O_NONBLOCK: the library polls it first, and a kernel worker makes each read. It then writes
 * 4,096 bytes at a time. That flag is shared with all who hold the same end, so it is yours to set.
 *
 * A write to a pipe without readers raises SIGPIPE. Linux 6.18 can do without; on an older one the
 * writing end is taken only while this process ignores the signal, and must go on to.
 *
 * Errors, with nothing begun: -EBADF; -ESOCKTNOSUPPORT when it is a socket, but no stream;
 * -ENOTCONN when it is not connected, and has no bytes left to be read; -ENOTSUP when it is neither a socket nor an end of a pipe,
 * but a file, a terminal, or a pipe opened for both reading and writing; -ENOSYS when it writes,
 * SIGPIPE is not ignored, and the kernel is older than 6.18; -EMFILE and -ENFILE, as finding that
 * out takes two descriptors; -ENOSPC, -ENOMEM and -ESHUTDOWN as for kr_connect. */
KR_API int kr_conn_adopt(struct kr_reactor *r, kr_conn *ret, int fd,
                         const struct kr_conn_opts *opts, const struct kr_conn_ops *ops,
                         void *user);

#ifdef __cplusplus
}
#endif

#endif
