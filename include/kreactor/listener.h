/* Listeners: they accept connections, as many as there is room for, and drop none.
 *
 * All functions: the reactor's thread, or before its first kr_run any one thread at a time. */
#ifndef KREACTOR_LISTENER_H
#define KREACTOR_LISTENER_H

#include <kreactor/addr.h>
#include <kreactor/conn.h>
#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Called once from a turn when a listener has ended by itself, from when its handle is stale:
 *   0            a kr_listener_drain is over, and all who waited at the call have been accepted
 *   -ETIMEDOUT   its time, or that of a kr_drain, was over first
 *   others       the kernel will never accept from its socket again, as when an administrator has
 *                killed it (`ss -K`) or another process has shut it down: -EINVAL, -EBADF,
 *                -ENOTSOCK
 * `user` is that of kr_listen. The address is free, so that kr_listen may take it again in here.
 * Legal: everything. */
typedef void kr_listener_end_fn(struct kr_reactor *r, kr_listener listener, void *user, int error);

/* How a listener listens, and what its connections start with. Fill it with kr_listen_opts_init. */
struct kr_listen_opts {
    size_t size;      /* sizeof(struct kr_listen_opts), set by kr_listen_opts_init */
    size_t conn_size; /* and sizeof(struct kr_conn_opts) */

    /* Connections that wait in the kernel to be accepted, 1 to 65535; 0: 1024. The kernel takes at most
     * net.core.somaxconn. Default 1024. */
    unsigned backlog;

    bool reuse_addr; /* SO_REUSEADDR. Default true */
    /* SO_REUSEPORT: a reactor a thread, each with a listener on the port. Default false */
    bool reuse_port;
    bool v6_only;    /* IPV6_V6ONLY: an IPv6 listener takes no IPv4. False: it takes both,
                      * whatever net.ipv6.bindv6only says. Default false */

    /* Make peer and local address known (kr_conn_peer, kr_conn_local), at the cost of three system
     * calls a connection and of a descriptor while it is being accepted. Default false. */
    bool addresses;

    /* Of a Unix socket with a path; of others they mean nothing.
     * unix_mode: the permissions of its file, 1 to 0777, whatever the umask; connecting takes the
     * one to write. 0 = what the umask leaves. Default 0.
     * unix_replace: a socket that is there already is replaced, if nobody listens there (connect(2)
     * is refused), as what a process left that was killed (see in_use_ns). Anything else that is there stays, and
     * is -EADDRINUSE. Of two who start at the same moment each may take the other for gone: a
     * daemon that must be alone has a lock. Default false.
     * unix_remove: the file is removed when the listener is closed, drained or freed, unless
     * another has taken its place; a relative path's too, after chdir(2) or chroot(2). Default
     * false. */
    unsigned unix_mode;
    bool unix_replace;
    bool unix_remove;

    /* How long kr_listen waits for an address that is in use, as one is for up to 350 ms after the
     * process that listened there was killed: the kernel tears down its ring in the background. The
     * calling thread sleeps, at most 64 ms at a time, and tries again. Only before the reactor's
     * first kr_run or kr_step: later, as in callbacks, the answer comes at once. Nor is anything
     * waited for at a path, unless unix_replace is set and the process that listens there has
     * ended. 0: 1 s; negative: nothing is waited for. Default 0. */
    int64_t in_use_ns;

    /* connections of this listener at a time; 0 = as many as the reactor's. Default 0 */
    unsigned conn_max;

    /* Clients accepted in a turn, at most, 1 to 16; 0: as many as wait, which is cheapest: others
     * are served when all of them, that is up to `backlog`, have been accepted (2 us each or so),
     * and each turn_cqes of them have been told of. Default 0. */
    unsigned turn_accepts;

    /* NULL: nobody is told, and the listener ends all the same. Not called after kr_listener_close,
     * for those that kr_drain closes, and once kr_reactor_free has begun. Default NULL. */
    kr_listener_end_fn *on_end;

    struct kr_conn_opts conn; /* what its connections start with; the last field */
};

/* Fills `opts` with the defaults. Any thread. `size` and `conn_size` are the program's own
 * sizeof(struct kr_listen_opts) and sizeof(struct kr_conn_opts): as for kr_config_init_sized. Nothing
 * is written where the first cannot hold the second. */
KR_API void kr_listen_opts_init_sized(struct kr_listen_opts *opts, size_t size, size_t conn_size);
#define kr_listen_opts_init(opts_)                                                                 \
    kr_listen_opts_init_sized((opts_), sizeof *(opts_), sizeof(struct kr_conn_opts))

/* Says why kr_listen and kr_listen_fd would answer -EINVAL to these options, as kr_conn_opts_check
 * does. Any thread. */
KR_API int kr_listen_opts_check(const struct kr_listen_opts *opts, struct kr_failure *why);

/* Listens on `addr`: IPv4, IPv6 (port 0: the kernel chooses, ask kr_listener_addr) or a Unix stream
 * socket, by path or abstract name (without either the kernel chooses an abstract one). `addr` and
 * `opts` (NULL = defaults) are borrowed for the call; `ops` until the last of its connections has
 * closed; `user` is handed to the callbacks of each connection. *ret may be NULL when the listener
 * shall live as long as the reactor. Accepting begins with the next turn. Before the first turn it
 * may sleep for as long as opts->in_use_ns says.
 *
 * Errors: those of socket, setsockopt, bind, listen and chmod (-EADDRINUSE, -EACCES,
 * -EADDRNOTAVAIL, -EMFILE, -EAFNOSUPPORT, -ENOENT of a path's directory ...); -EPERM also when
 * somebody has put another file in the place of the socket's before it had its unix_mode; -ENOSPC
 * when file_max files are in use; -ENOMEM; -ESHUTDOWN during a kr_drain and once kr_reactor_free
 * has begun. Uses no descriptor afterwards, but one of the path's directory with unix_remove. */
KR_API int kr_listen(struct kr_reactor *r, kr_listener *ret, const struct kr_addr *addr,
                     const struct kr_listen_opts *opts, const struct kr_conn_ops *ops, void *user);

/* Accepts from a socket that listens already: one that was inherited, as by socket activation
 * (systemd's sd_listen_fds), or handed over by a predecessor, whose clients in the backlog are then
 * served here. `fd` is borrowed for the call; the reactor has its own reference to the socket, so
 * that the caller may close its descriptor, or keep it for a successor. listen(2) is called on it
 * anew, with opts->backlog, and what opts->conn says of sockets is set; its name stays what it is,
 * so that reuse_*, v6_only and unix_* mean nothing. All else as kr_listen.
 *
 * What kr_conn_adopt takes back of a socket is taken back here, for all who share it. Accepted
 * sockets inherit what is set when they come: clients in the backlog, and those that come after
 * another owner has set an option again, have it. SO_LINGER is then taken from each connection
 * itself, before it is closed; on kernels before 6.8 when it is accepted, at the cost that
 * `addresses` has. TCP_DEFER_ACCEPT stays as it is: a client is accepted when it has sent
 * something.
 *
 * Errors: -EBADF, -ENOTSOCK; -EINVAL also when the socket does not listen, is no stream, or is
 * neither IPv4 nor IPv6 nor Unix; those of setsockopt and listen; -ENOSPC, -ENOMEM and -ESHUTDOWN
 * as kr_listen. */
KR_API int kr_listen_fd(struct kr_reactor *r, kr_listener *ret, int fd,
                        const struct kr_listen_opts *opts, const struct kr_conn_ops *ops,
                        void *user);

/* The address it is bound to. */
KR_API int kr_listener_addr(const struct kr_reactor *r, kr_listener listener, struct kr_addr *ret);

/* Stops, and lets go on, the accepting. Clients wait in the backlog meanwhile. Connections that the
 * kernel had already accepted may still open. Neither counts. */
KR_API int kr_listener_pause(struct kr_reactor *r, kr_listener listener);
KR_API int kr_listener_resume(struct kr_reactor *r, kr_listener listener);

/* Ends the listener; the handle is stale at once and no connection of it opens any more (those that
 * the kernel had accepted meanwhile are closed). Its open connections live on. Clients in the
 * backlog are reset by the kernel. The port is free after the next turn. */
KR_API int kr_listener_close(struct kr_reactor *r, kr_listener listener);

/* Serves the clients that wait in the backlog, whom kr_listener_close would have reset, and ends
 * the listener: when none waits any more, or when backlog + 1 have been accepted, as many as can
 * have waited at the call. Clients that come meanwhile queue up behind them (the kernel knows no
 * way to refuse these alone): they are served, or reset, by when they came. Clients wait for room
 * as ever; `within_ns` (>= 0) from now the listener ends in any case. Then on_end is called. A
 * paused listener is resumed. The handle is good until the end, for kr_listener_close as well,
 * which ends it at once and calls no on_end.
 *
 * For an orderly end of all: kr_listener_drain for each listener, then kr_drain, which waits for
 * them.
 * Errors, with nothing done: -EALREADY while it is being drained. */
KR_API int kr_listener_drain(struct kr_reactor *r, kr_listener listener, int64_t within_ns);

#ifdef __cplusplus
}
#endif

#endif
