/* Listeners: they accept connections, as many as there is room for, and drop none.
 *
 * Thread: all functions belong to the reactor's thread, or before its first kr_run to any one
 * thread at a time. The functions that any thread may call say so. None runs a callback. */
#ifndef KREACTOR_LISTENER_H
#define KREACTOR_LISTENER_H

#include <kreactor/addr.h>
#include <kreactor/conn.h>
#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Called once, from a turn, when a listener has ended by itself. Its handle is stale by then.
 * `user` is that of kr_listen. `error`:
 *   0            a kr_listener_drain is over, and all clients that waited at the call were accepted
 *   -ETIMEDOUT   its time, or the time of a kr_drain, was over first
 *   others       the kernel will never accept from this socket again, for example because an
 *                administrator has killed it (`ss -K`) or another process has shut it down:
 *                -EINVAL, -EBADF, -ENOTSOCK
 * The address is free, so the callback may call kr_listen with the same address. Legal:
 * everything. */
typedef void kr_listener_end_fn(struct kr_reactor *r, kr_listener listener, void *user, int error);

/* How a listener listens, and what its connections start with. Fill it with kr_listen_opts_init. */
struct kr_listen_opts {
    size_t size;      /* sizeof(struct kr_listen_opts), set by kr_listen_opts_init */
    size_t conn_size; /* sizeof(struct kr_conn_opts), set by kr_listen_opts_init */

    /* Connections that wait in the kernel to be accepted, 1 to 65535; 0: 1024. The kernel takes at
     * most net.core.somaxconn. Default 1024. */
    unsigned backlog;

    bool reuse_addr; /* SO_REUSEADDR. Default true */
    /* SO_REUSEPORT: several listeners share a port, for example one of each thread's reactor.
     * Default false */
    bool reuse_port;
    bool v6_only;    /* IPV6_V6ONLY. True: an IPv6 listener takes no IPv4. False: it takes both,
                      * whatever net.ipv6.bindv6only says. Default false */

    /* Make the peer's and the local address of each connection known (kr_conn_peer, kr_conn_local).
     * It costs three system calls a connection, and a descriptor while the connection is being
     * accepted. Default false. */
    bool addresses;

    /* Of a Unix socket with a path; other sockets ignore them.
     *   unix_mode     the permissions of the socket's file, 1 to 0777, whatever the umask. A client
     *                 needs write permission to connect. 0: what the umask leaves. Default 0.
     *   unix_replace  replace a socket file at which nobody listens (connect(2) is refused), such
     *                 as a killed process leaves behind (see in_use_ns). Anything else at the path
     *                 stays, and kr_listen returns -EADDRINUSE. Of two daemons that start at the
     *                 same moment each may take the other for gone: a daemon that must be the only
     *                 one uses a lock. Default false.
     *   unix_remove   remove the file when the listener is closed, drained or freed, unless another
     *                 file has taken its place. It works for a relative path, too, also after
     *                 chdir(2) or chroot(2). Default false. */
    unsigned unix_mode;
    bool unix_replace;
    bool unix_remove;

    /* How long kr_listen waits for an address that is in use, in nanoseconds. 0: 1 s. Negative: it
     * does not wait. Default 0.
     *
     * An address stays in use for up to 350 ms after the process that listened there was killed,
     * because the kernel tears down its ring in the background (observed on 6.18). While it waits,
     * the calling thread sleeps and tries again, after 1 ms at first, then at most every 64 ms. It
     * waits only before the reactor's first kr_run or kr_step; later, and in callbacks, kr_listen
     * returns at once. At a path it waits only if unix_replace is set and the process that listens
     * there has ended. */
    int64_t in_use_ns;

    /* Connections of this listener at a time; 0: as many as the reactor's conn_max. Default 0 */
    unsigned conn_max;

    /* The largest number of clients that are accepted in a turn, 1 to 16. 0: all that wait. Default
     * 0.
     *
     * 0 is cheapest, but the other connections wait meanwhile: until all clients that wait, up to
     * `backlog`, have been accepted (about 2 us each) and on_open has run for them, turn_cqes at a
     * time. */
    unsigned turn_accepts;

    /* Called when the listener ends by itself. NULL: the listener ends without a callback. Not
     * called after kr_listener_close, for listeners that kr_drain closes, and after kr_reactor_free
     * has begun. Default NULL. */
    kr_listener_end_fn *on_end;

    struct kr_conn_opts conn; /* what its connections start with; the last field */
};

/* Fills `opts` with the defaults. Any thread. `size` and `conn_size` are the program's own
 * sizeof(struct kr_listen_opts) and sizeof(struct kr_conn_opts), used as in kr_config_init_sized.
 * If the first cannot hold the second, nothing is written. */
KR_API void kr_listen_opts_init_sized(struct kr_listen_opts *opts, size_t size, size_t conn_size);
#define kr_listen_opts_init(opts_)                                                                 \
    kr_listen_opts_init_sized((opts_), sizeof *(opts_), sizeof(struct kr_conn_opts))

/* Returns the -EINVAL that kr_listen and kr_listen_fd would return for these options, and says why,
 * as kr_conn_opts_check does; else 0. Any thread. */
KR_API int kr_listen_opts_check(const struct kr_listen_opts *opts, struct kr_failure *why);

/* Listens on an address.
 *   ret   *ret is the handle of the listener. May be NULL if the listener shall live as long as the
 *         reactor
 *   addr  IPv4, IPv6 (port 0: the kernel chooses one, see kr_listener_addr) or a Unix stream
 *         socket, by path or abstract name (without either the kernel chooses an abstract name).
 *         Borrowed for the call
 *   opts  NULL: defaults. Borrowed for the call
 *   ops   borrowed until the listener has ended and the last of its connections has closed
 *   user  handed to the callbacks of each connection, and to on_end
 *
 * Accepting begins with the next turn. Before the reactor's first turn the call may sleep for as
 * long as opts->in_use_ns says. Afterwards a listener uses no descriptor (but see KR_TABLE_PLAIN),
 * except with unix_remove one of the path's directory.
 *
 * Errors, with nothing begun:
 *   -EINVAL      also: `addr` is of no known family, or `ops` is not a table that kr_conn_swap
 *                would take
 *   -ENOSPC      listener_max files are in use
 *   -ENOMEM
 *   -ESHUTDOWN   a kr_drain is under way, or kr_reactor_free has begun
 *   -EPERM       also: another file was put in the place of the socket's before its unix_mode was
 *                set
 *   others       those of socket, setsockopt, bind, listen and chmod: -EADDRINUSE, -EACCES,
 *                -EADDRNOTAVAIL, -EMFILE, -EAFNOSUPPORT, -ENOENT of a path's directory ... */
KR_API int kr_listen(struct kr_reactor *r, kr_listener *ret, const struct kr_addr *addr,
                     const struct kr_listen_opts *opts, const struct kr_conn_ops *ops, void *user);

/* Accepts from a socket that listens already: one that was inherited, for example by socket
 * activation (systemd's sd_listen_fds), or one that a predecessor has handed over, whose clients in
 * the backlog are then served here.
 *
 * `fd` is borrowed for the call. The reactor has its own reference to the socket, so the caller may
 * close its descriptor or keep it for a successor. The library calls listen(2) on it anew, with
 * opts->backlog, and sets the socket options of opts->conn. The socket keeps its name, so reuse_*,
 * v6_only, unix_* and in_use_ns have no effect. The other parameters are as in kr_listen.
 *
 * The library takes back the socket options that kr_conn_adopt takes back (connect.h), for all
 * processes that share the socket. An accepted socket inherits the options that are set when its
 * client comes. So clients that were in the backlog, and clients that come after another owner has
 * set an option again, still have it. SO_LINGER is therefore taken from each connection itself:
 * before it is closed, or on kernels before 6.8 when it is accepted, at the cost that `addresses`
 * has. TCP_DEFER_ACCEPT stays as it is: a client is accepted when it has sent something.
 *
 * Errors; no listener is made, but options that were changed before the failure stay changed:
 *   -EBADF, -ENOTSOCK
 *   -EINVAL   also: the socket does not listen, is no stream, or is neither IPv4 nor IPv6 nor Unix
 *   -ENOSPC, -ENOMEM, -ESHUTDOWN   as kr_listen
 *   others    those of setsockopt and listen */
KR_API int kr_listen_fd(struct kr_reactor *r, kr_listener *ret, int fd,
                        const struct kr_listen_opts *opts, const struct kr_conn_ops *ops,
                        void *user);

/* Copies the address that the listener is bound to to *ret, with the port or name that the kernel
 * has chosen. */
KR_API int kr_listener_addr(const struct kr_reactor *r, kr_listener listener, struct kr_addr *ret);

/* kr_listener_pause() stops accepting, and kr_listener_resume() starts it again. While a listener
 * is paused, clients wait in the backlog. Connections that the kernel had already accepted may
 * still open. Calls do not nest: one kr_listener_resume() ends any number of pauses. */
KR_API int kr_listener_pause(struct kr_reactor *r, kr_listener listener);
KR_API int kr_listener_resume(struct kr_reactor *r, kr_listener listener);

/* Ends the listener. Its handle is stale at once, and no connection of it opens any more; the
 * library closes connections that the kernel had accepted meanwhile. Its open connections live on.
 * The kernel resets the clients in the backlog. The port is free after the next turn. */
KR_API int kr_listener_close(struct kr_reactor *r, kr_listener listener);

/* Serves the clients that wait in the backlog, which kr_listener_close would have reset, and then
 * ends the listener. It ends at the first of:
 *   - no client waits any more;
 *   - backlog + 1 clients have been accepted since the call: no more can have waited at the call;
 *   - `within_ns` nanoseconds (>= 0) have passed since the call. Clients wait for room in the table
 *     as always, so this may come first.
 * on_end is called then, with 0 or in the last case -ETIMEDOUT.
 *
 * Clients that come after the call queue behind those that waited, because the kernel has no way to
 * refuse only them. They are served or reset, depending on when they came. A paused listener is
 * resumed. The handle is valid until the end. kr_listener_close may still be called; it ends the
 * listener at once, without on_end.
 *
 * To end everything in an orderly way, call kr_listener_drain for each listener and then kr_drain,
 * which waits for them.
 *
 * Errors, with nothing done: -EINVAL: `within_ns` is negative. -EALREADY: the listener is being
 * drained. */
KR_API int kr_listener_drain(struct kr_reactor *r, kr_listener listener, int64_t within_ns);

#ifdef __cplusplus
}
#endif

#endif
