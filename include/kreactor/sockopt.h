/* Socket options of a living connection. Those that it starts with are in struct kr_conn_opts
 * (conn.h). All functions: the reactor's thread. */
#ifndef KREACTOR_SOCKOPT_H
#define KREACTOR_SOCKOPT_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Which, and the range of its value. All but the last three are of TCP. */
enum kr_sockopt {
    KR_SOCKOPT_NO_DELAY = 0,        /* TCP_NODELAY: 0 or 1 */
    /* SO_KEEPALIVE and TCP_KEEPIDLE: 1 to 32767; 0: probe no more */
    KR_SOCKOPT_KEEP_IDLE_S = 1,
    KR_SOCKOPT_KEEP_EVERY_S = 2,    /* TCP_KEEPINTVL: 1 to 32767 */
    KR_SOCKOPT_KEEP_PROBES = 3,     /* TCP_KEEPCNT: 1 to 127 */
    KR_SOCKOPT_USER_TIMEOUT_MS = 4, /* TCP_USER_TIMEOUT: 0 (the system's) to 2^31 - 1 */
    /* SO_SNDBUF: 1 to 2^31 - 1 bytes; the kernel doubles it, within its limits */
    KR_SOCKOPT_SEND_BUF = 5,
    KR_SOCKOPT_RECV_BUF = 6,        /* SO_RCVBUF: the same */
    KR_SOCKOPT_MARK = 7,            /* SO_MARK: any; needs CAP_NET_ADMIN */
};

/* What came of it: 0, or the kernel's error. Called once for each kr_conn_sockopt that returned 0,
 * from a turn, before on_close; -ECANCELED when the connection ended first. Legal: everything. */
typedef void kr_sockopt_fn(struct kr_reactor *r, kr_conn conn, void *user, int error);

/* Sets an option. With keep_fd, or a plain table (reactor.h), at once; else by request (kernel >=
 * 6.8) in the next turn, or when the connection stands, and then before any byte that is queued
 * after this call is sent, also when the connection is closed meanwhile in a manner that sends it.
 * Sending waits for that, for a turn an option as a rule. What is set is in order of the calls.
 * `done` may be NULL: what the ranges above allow the kernel does not
 * refuse, but for MARK, and what a security module or a BPF program may say.
 *
 * Errors, with nothing done: -EINVAL, a value out of its range; -EOPNOTSUPP, any on a pipe, one of
 * TCP on a Unix socket, or KR_TABLE_REGISTERED on a kernel before 6.8 without keep_fd; -EAGAIN when
 * 64 of this connection wait; -EPIPE once it is being closed or released; -ENOMEM; where it is done
 * at once the kernel's own. */
KR_API int kr_conn_sockopt(struct kr_reactor *r, kr_conn conn, enum kr_sockopt which,
                           unsigned value, kr_sockopt_fn *done, void *user);

#ifdef __cplusplus
}
#endif

#endif
