/* Connecting: connections that this program makes, or is given.
 *
 * Such a connection is a connection like any other (conn.h), except that its handle is valid before
 * it is established. The program may queue bytes to it at once. on_open runs when it is
 * established. If it never is, on_close says why, and on_open does not run.
 *
 * Thread: all functions belong to the reactor's thread, or before its first kr_run to any one
 * thread at a time. The functions that any thread may call say so. None runs a callback. */
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
    size_t conn_size; /* sizeof(struct kr_conn_opts), set by kr_connect_opts_init */

    /* The address that it comes from, of the same family as the destination. With port 0 the kernel
     * chooses a port among those that are free for this destination. Borrowed for the call. NULL:
     * the kernel chooses the address, too. Default NULL. */
    const struct kr_addr *source;

    /* How long the connection may take to be established, in nanoseconds. After that it ends with
     * -ETIMEDOUT and KR_WHY_TIMEOUT. 0: 30 s. Default 30 s. Negative: as long as the kernel tries:
     * for TCP about two minutes, for a Unix socket whose listener accepts no client without end.
     *
     * For TCP the time counts from when the kernel is asked, in the turn after the call. For a Unix
     * socket it counts from the call, and the library tries once more when it is over. */
    int64_t timeout_ns;

    /* Make this side's address known (kr_conn_local) once the connection is established. It costs
     * two system calls, and a descriptor until then. The peer's address is known in any case: it is
     * the one given. Default false. */
    bool local_address;

    struct kr_conn_opts conn; /* the last field */
};

/* Fills `opts` with the defaults. Any thread. `size` and `conn_size` are the program's own
 * sizeof(struct kr_connect_opts) and sizeof(struct kr_conn_opts), used as in kr_config_init_sized.
 * If the first cannot hold the second, nothing is written. */
KR_API void kr_connect_opts_init_sized(struct kr_connect_opts *opts, size_t size, size_t conn_size);
#define kr_connect_opts_init(opts_)                                                                \
    kr_connect_opts_init_sized((opts_), sizeof *(opts_), sizeof(struct kr_conn_opts))

/* Returns the -EINVAL that kr_connect to `addr` (NULL: to any address) would return for these
 * options, and says why, as kr_conn_opts_check does; else 0. Any thread. */
KR_API int kr_connect_opts_check(const struct kr_connect_opts *opts, const struct kr_addr *addr,
                                 struct kr_failure *why);

/* Connects to an address.
 *   ret   *ret is the handle, valid from the return until on_close has returned. May be NULL
 *   addr  IPv4, IPv6 or a Unix stream socket. Borrowed for the call
 *   opts  NULL: defaults. Borrowed for the call
 *   ops   borrowed until the connection has closed or is swapped (kr_conn_swap)
 *   user  handed to the callbacks
 *
 * In a later turn on_open runs, and the connection is one like any other from then on. Or on_close
 * runs, with the kernel's error and KR_WHY_CONNECT (-ECONNREFUSED, -ETIMEDOUT, -EHOSTUNREACH,
 * -ENETUNREACH, -ENOENT and -EACCES of a Unix path ...), or with -ETIMEDOUT and KR_WHY_TIMEOUT. If
 * the listener of a Unix socket has too many clients waiting, the library tries again until there
 * is room, after 1 ms at first, then at most every 40 ms.
 *
 * Before it is established, the connection may be sent to, paused, shut down and closed. A close
 * gives up the attempt, except KR_CLOSE_LINGER and KR_CLOSE_FLUSH with bytes in the queue: these go
 * on as they would on an established connection. flush_ns then bounds the time until it is
 * established, and counts anew from there.
 *
 * The connection uses no descriptor after the call (but see KR_TABLE_PLAIN), except with keep_fd,
 * and until it is established with local_address and on a Unix socket.
 *
 * Errors, with nothing begun:
 *   -EINVAL      also: `addr` is of no known family, or `ops` is not a table that kr_conn_swap
 *                would take
 *   -ENOSPC      connect_max connections of kr_connect and kr_conn_adopt exist. A connection counts
 *                until its on_close has returned
 *   -ENOMEM
 *   -ESHUTDOWN   a kr_drain is under way (unless `connects` is set, drain.h), or kr_reactor_free
 *                has begun
 *   others       those of socket, setsockopt and bind: -EMFILE, -ENFILE, -EAFNOSUPPORT;
 *                -EADDRINUSE, -EADDRNOTAVAIL, -EACCES of the source ... */
KR_API int kr_connect(struct kr_reactor *r, kr_conn *ret, const struct kr_addr *addr,
                      const struct kr_connect_opts *opts, const struct kr_conn_ops *ops,
                      void *user);

/* Takes over a connected stream socket, or an end of a pipe, that was made elsewhere: by another
 * library, by socketpair(2) or pipe(2), by a parent, or received through a Unix socket.
 *   ret   *ret is the handle, valid from the return until on_close has returned; the connection may
 *         be sent to at once. May be NULL
 *   fd    on success the library owns it: the table refers to the file, and the descriptor is
 *         closed, or kept with keep_fd. On failure it is untouched and still the caller's. It may
 *         be blocking or not; that makes no difference and is not changed, because no request waits
 *         in the socket
 *   opts  NULL: defaults. Borrowed for the call. Its socket options are not set
 *   ops, user   as for kr_connect
 *
 * on_open runs in a turn that follows. The addresses of a socket are known (kr_conn_peer,
 * kr_conn_local). The connection counts against connect_max (roof/reactor.h).
 *
 * Options. The library takes back socket options that would harm a reactor. That affects all
 * processes that share the socket, and lasts after kr_conn_detach:
 *   SO_LINGER                  closing would wait, or reset. It is taken back again before the
 *                              close (kernel >= 6.8), in case another process has set it meanwhile
 *   SO_RCVLOWAT, TCP_CORK, time stamps
 *   IP_RECVERR, IPV6_RECVERR   and the errors that lie in the socket's queue of errors are dropped
 *   SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD, SO_INQ   of a Unix socket
 * All other options stay as they are, and do no harm that is known: SO_RCVTIMEO, SO_SNDTIMEO and
 * SO_PEEK_OFF have no effect here.
 *
 * State. Bytes that have arrived before, peeked at or not, are received first. A side that was
 * ended before the call acts as if it ended now: on_eof runs, or sends fail with -EPIPE. A TCP
 * socket whose peer has reset, or whose both sides have ended, is not connected any more unless
 * unread bytes are left (-ENOTCONN): the stream is over, in order or not. A Unix socket in that
 * state is taken, and ends in a turn.
 *
 * Pipes. A pipe, also a named one, is a connection in one direction; it has no addresses
 * (-ENODATA).
 *   - The reading end returns -EPIPE from sends, as a connection that was shut down. on_eof runs
 *     when the last writer has gone. A named pipe that no process has opened for writing is at its
 *     end already.
 *   - The writing end never receives, as a connection whose peer has ended, but on_eof does not
 *     run. kr_conn_shutdown on it is kr_conn_close(KR_CLOSE_FLUSH), since a pipe cannot tell its
 *     reader otherwise. When the readers have gone, the next write ends the connection with -EPIPE.
 *   - Reads and writes of a named pipe on any kernel, and of any pipe before Linux 6.4, cannot be
 *     asked not to wait. The library therefore opens such an end anew through /proc/self/fd, with
 *     O_NONBLOCK, and uses that open file; no other holder of the pipe sees the flag. Where this is
 *     not possible (/proc is not mounted, the process may not open the pipe, a writing end has no
 *     reader), the library polls the end before each read and write, and writes at most 4,096 bytes
 *     at a time. If other readers then take the bytes first, the read waits in a kernel worker.
 *   - A write to a pipe without readers raises SIGPIPE. The library can prevent that on kernel >=
 *     6.18. On an older kernel it takes a writing end only while this process ignores SIGPIPE, and
 *     the process must go on to ignore it.
 *
 * Errors, with nothing begun:
 *   -EBADF
 *   -ESOCKTNOSUPPORT   a connected socket, but no stream
 *   -ENOTCONN          a socket that is not connected and has no bytes left to be read
 *   -ENOTSUP           neither a socket nor an end of a pipe: a file, a terminal, or a pipe opened
 *                      for both reading and writing
 *   -ENOSYS            a writing end, SIGPIPE is not ignored, and the kernel is older than 6.18
 *   -EMFILE, -ENFILE   a writing end: to find out about SIGPIPE takes two descriptors for a moment;
 *                      or with KR_TABLE_PLAIN no descriptor is left
 *   -EINVAL, -ENOSPC, -ENOMEM, -ESHUTDOWN   as for kr_connect */
KR_API int kr_conn_adopt(struct kr_reactor *r, kr_conn *ret, int fd,
                         const struct kr_conn_opts *opts, const struct kr_conn_ops *ops,
                         void *user);

#ifdef __cplusplus
}
#endif

#endif
