/* Socket options of an open connection. The options that it starts with are in struct kr_conn_opts
 * (conn.h).
 *
 * Thread: all functions belong to the reactor's thread, or before its first kr_run to any one
 * thread at a time. None runs a callback. */
#ifndef KREACTOR_SOCKOPT_H
#define KREACTOR_SOCKOPT_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The options, and the range of the value of each. All but the last three are options of TCP. */
enum kr_sockopt {
    KR_SOCKOPT_NO_DELAY = 0,        /* TCP_NODELAY: 0 or 1 */
    /* SO_KEEPALIVE and TCP_KEEPIDLE: 1 to 32767 seconds; 0: no probes any more */
    KR_SOCKOPT_KEEP_IDLE_S = 1,
    KR_SOCKOPT_KEEP_EVERY_S = 2,    /* TCP_KEEPINTVL: 1 to 32767 seconds */
    KR_SOCKOPT_KEEP_PROBES = 3,     /* TCP_KEEPCNT: 1 to 127 probes */
    /* TCP_USER_TIMEOUT: 0 (the system's) to 2^31 - 1 milliseconds */
    KR_SOCKOPT_USER_TIMEOUT_MS = 4,
    /* SO_SNDBUF: 1 to 2^31 - 1 bytes; the kernel doubles it, within its limits */
    KR_SOCKOPT_SEND_BUF = 5,
    KR_SOCKOPT_RECV_BUF = 6,        /* SO_RCVBUF: the same */
    KR_SOCKOPT_MARK = 7,            /* SO_MARK: any value; needs CAP_NET_ADMIN */
};

/* The result of kr_conn_sockopt. `error` is 0, or the kernel's error, or -ECANCELED when the
 * connection ended first. Called once for each kr_conn_sockopt that returned 0, from a turn or from
 * kr_reactor_free, before on_close. `user` is the pointer given to kr_conn_sockopt. Legal:
 * everything. */
typedef void kr_sockopt_fn(struct kr_reactor *r, kr_conn conn, void *user, int error);

/* Sets an option of a connection.
 *   which  the option
 *   value  its value, in the range above
 *   done   called with the result, never within this call. NULL: no callback. Within the ranges
 *          above the kernel refuses only KR_SOCKOPT_MARK, unless a security module or a BPF program
 *          objects
 *   user   handed to done
 *
 * With keep_fd or a plain table (roof/reactor.h) the option is set within the call. Otherwise a request
 * sets it (kernel >= 6.8) in the next turn, or when the connection is established. It is set before
 * any byte is sent that is queued after this call, also when the connection is closed meanwhile in
 * a manner that sends the byte. Sending waits for the request, usually one turn an option. Options
 * are set in the order of the calls.
 *
 * Errors, with nothing done, and `done` is not called:
 *   -EINVAL       there is no such option, or its value is out of range
 *   -EPIPE        the connection is being closed or released
 *   -EOPNOTSUPP   the connection is a pipe; or an option of TCP on a Unix socket; or
 *                 KR_TABLE_REGISTERED on a kernel before 6.8 without keep_fd
 *   -EAGAIN       64 options of this connection wait to be set
 *   -ENOMEM
 *   others        the kernel's own, where the option is set within the call */
KR_API int kr_conn_sockopt(struct kr_reactor *r, kr_conn conn, enum kr_sockopt which,
                           unsigned value, kr_sockopt_fn *done, void *user);

#ifdef __cplusplus
}
#endif

#endif
