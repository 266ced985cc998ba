/* Draining: an orderly end of all that a reactor serves, within a time.
 *
 *     static void drained(struct kr_reactor *r, void *user, unsigned cut_off) { kr_stop(r); }
 *     ... on SIGTERM: kr_drain(r, 10 * SECOND, drained, NULL);
 *
 * Nobody new is served from then on. Each connection is told (on_shutdown), so that it may finish
 * what it is at, or is closed with no byte lost that was queued. That says nothing of requests: one
 * that is still coming in, or is answered later, is dropped with a connection that has no
 * on_shutdown. What is left when the time is over is cut off.
 *
 * All functions: the reactor's thread, or before its first kr_run any one thread at a time. */
#ifndef KREACTOR_DRAIN_H
#define KREACTOR_DRAIN_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Called once for each kr_drain that returned 0, from a turn, when the last connection's on_close
 * has returned. `cut_off`: how many had to be ended when the time was over. The drain is over: new
 * listeners and connections may be made, also in here. Legal: everything. */
typedef void kr_drained_fn(struct kr_reactor *r, void *user, unsigned cut_off);

/* Closes all listeners at once, as kr_listener_close does (a client in a backlog is reset), but for
 * those that are being drained (kr_listener_drain): these go on to their own end, which is the end
 * of `grace_ns` at the latest, and whom they accept is told after that end, like the others. From
 * the next turn on goes through all connections, those that kr_connect is still making included:
 * one with an on_shutdown has that called, once, and goes on until it closes; any other is closed
 * with KR_CLOSE_LINGER. One that is closed already goes on closing. `grace_ns` (>= 0) after all have
 * been told, those that are left end with -ETIMEDOUT and KR_WHY_TIMEOUT (one that had
 * been closed with KR_CLOSE_NOW, and awaits only what `zerocopy_min` is about, keeps its own
 * reason). Then, or as soon as none is left, `fn` (NULL is allowed) is called. Connections in the
 * background (`background` in conn.h) are neither told nor waited for: they go on, are closed with
 * KR_CLOSE_NOW when the last of the others is gone, and are not counted as cut off.
 *
 * kr_run goes on until kr_stop; timers and posts run as ever. Meanwhile kr_listen, kr_connect and
 * their like answer -ESHUTDOWN. kr_reactor_free ends a drain without calling `fn`.
 *
 * Errors, with nothing done: -EALREADY while one is under way; -ENOMEM; -ESHUTDOWN once
 * kr_reactor_free has begun. */
KR_API int kr_drain(struct kr_reactor *r, int64_t grace_ns, kr_drained_fn *fn, void *user);

/* What may go on during a drain. Fill it with kr_drain_opts_init. */
struct kr_drain_opts {
    size_t size; /* sizeof(struct kr_drain_opts), set by kr_drain_opts_init */

    /* kr_connect and kr_conn_adopt work as ever, so that a proxy can serve, or try once more, what it
     * has taken. A connection made so is not told of the drain, which waits for it until the time is
     * over. Default false: -ESHUTDOWN. */
    bool connects;

    /* An end of a pair that is being forwarded and has no on_shutdown is not closed: the pair goes on
     * to its own end. What is left open then (keep_open) is closed as others were. Default false. */
    bool pairs;
};

/* Fills `opts` with the defaults. Any thread. `size`: as for kr_config_init_sized. */
KR_API void kr_drain_opts_init_sized(struct kr_drain_opts *opts, size_t size);
#define kr_drain_opts_init(opts_) kr_drain_opts_init_sized((opts_), sizeof *(opts_))

/* kr_drain with options, which are borrowed for the call (NULL: the defaults). Errors: the same. */
KR_API int kr_drain_with(struct kr_reactor *r, int64_t grace_ns, const struct kr_drain_opts *opts,
                         kr_drained_fn *fn, void *user);

#ifdef __cplusplus
}
#endif

#endif
