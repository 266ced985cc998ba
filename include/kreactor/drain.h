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
 * with KR_CLOSE_LINGER. One that is closed already goes on closing. `grace_ns` (>= 0) from now,
 * when all have been told, those that are left end with -ETIMEDOUT and KR_WHY_TIMEOUT (one that had
 * been closed with KR_CLOSE_NOW, and awaits only what `zerocopy_min` is about, keeps its own
 * reason). Then, or as soon as none is left, `fn` (NULL is allowed) is called.
 *
 * kr_run goes on until kr_stop; timers and posts run as ever. Meanwhile kr_listen, kr_connect and
 * their like answer -ESHUTDOWN. kr_reactor_free ends a drain without calling `fn`.
 *
 * Errors, with nothing done: -EALREADY while one is under way; -ENOMEM; -ESHUTDOWN once
 * kr_reactor_free has begun. */
KR_API int kr_drain(struct kr_reactor *r, int64_t grace_ns, kr_drained_fn *fn, void *user);

#ifdef __cplusplus
}
#endif

#endif
