/* Draining: an orderly end of everything that a reactor serves, within a time.
 *
 *     static void drained(struct kr_reactor *r, void *user, unsigned cut_off) { kr_stop(r); }
 *     ... on SIGTERM: kr_drain(r, 10 * SECOND, drained, NULL);
 *
 * From then on the reactor accepts no new connection. Each open connection is told (on_shutdown)
 * and may finish its work, or it is closed without the loss of a queued byte. That holds for bytes,
 * not for requests: a request that is still coming in, or would be answered later, is dropped with
 * a connection that has no on_shutdown. Connections that are left when the time is over are cut
 * off.
 *
 * Thread: all functions belong to the reactor's thread, or before its first kr_run to any one
 * thread at a time. The functions that any thread may call say so. None runs a callback. */
#ifndef KREACTOR_DRAIN_H
#define KREACTOR_DRAIN_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Called once for each kr_drain that returned 0, from a turn, when the last connection's on_close
 * has returned. `user` is the pointer given to kr_drain. `cut_off` is the number of connections
 * that were ended because the time was over. The drain is over: new listeners and connections may
 * be made, also in this callback. Legal: everything. */
typedef void kr_drained_fn(struct kr_reactor *r, void *user, unsigned cut_off);

/* Drains the reactor.
 *   grace_ns  nanoseconds, >= 0: the time that connections have after all of them were told
 *   fn        called when the drain is over. NULL: no callback
 *   user      handed to fn
 *
 * The steps:
 *   1. Within the call, all listeners are closed as kr_listener_close closes them (the kernel
 *      resets a client in a backlog). A listener that is being drained (kr_listener_drain) goes on
 *      to its own end, but at most to the end of `grace_ns`. The connections it accepts are told
 *      after its end.
 *   2. From the end of the current turn on (the next turn, if none is running) all connections are
 *      told, at most turn_cqes a turn, also those that kr_connect is still making. A connection
 *      with an on_shutdown gets that call once, and goes on until it closes. Any other connection
 *      is closed with KR_CLOSE_LINGER. A connection that is being closed already goes on closing. A
 *      connection that is being released is told if the release fails.
 *   3. `grace_ns` after all have been told, the connections that are left end with -ETIMEDOUT and
 *      KR_WHY_TIMEOUT, and are reset if bytes are queued. They count as cut off. A connection that
 *      had been closed with KR_CLOSE_NOW and only awaits the acknowledgements of zero-copy sends
 *      (`zerocopy_min`) keeps its own error and reason.
 *   4. When no connection and no listener that is being drained is left, `fn` is called.
 *
 * Background connections (`background` in conn.h) are neither told nor waited for. They go on, are
 * closed with KR_CLOSE_NOW when the last of the others is gone, and do not count as cut off.
 *
 * kr_run goes on until kr_stop. Timers and posts run as always. During the drain kr_listen,
 * kr_listen_fd, kr_connect and kr_conn_adopt return -ESHUTDOWN. kr_reactor_free ends a drain
 * without calling `fn`.
 *
 * Errors, with nothing done: -EINVAL: `grace_ns` is negative. -EALREADY: a drain is under way.
 * -ENOMEM. -ESHUTDOWN: kr_reactor_free has begun. */
KR_API int kr_drain(struct kr_reactor *r, int64_t grace_ns, kr_drained_fn *fn, void *user);

/* What may go on during a drain. Fill it with kr_drain_opts_init. */
struct kr_drain_opts {
    size_t size; /* sizeof(struct kr_drain_opts), set by kr_drain_opts_init */

    /* kr_connect and kr_conn_adopt work as always, so that a proxy can serve, or try once more, a
     * request that it has accepted. A connection that is made during the drain is not told of it.
     * The drain waits for it until the time is over. Default false: -ESHUTDOWN. */
    bool connects;

    /* An end of a forwarding pair that has no on_shutdown is not closed: the pair goes on to its
     * own end. A connection that the pair then leaves open (keep_open) is told or closed as the
     * others were. Default false. */
    bool pairs;
};

/* Fills `opts` with the defaults. Any thread. `size`: as for kr_config_init_sized. */
KR_API void kr_drain_opts_init_sized(struct kr_drain_opts *opts, size_t size);
#define kr_drain_opts_init(opts_) kr_drain_opts_init_sized((opts_), sizeof *(opts_))

/* kr_drain with options. `opts` is borrowed for the call; NULL: the defaults. Errors: as kr_drain;
 * -EINVAL also when the `size` of `opts` is not one that this library knows. */
KR_API int kr_drain_with(struct kr_reactor *r, int64_t grace_ns, const struct kr_drain_opts *opts,
                         kr_drained_fn *fn, void *user);

#ifdef __cplusplus
}
#endif

#endif
