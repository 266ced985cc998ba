/* Timers: in nanoseconds of monotonic time, at most 1,048,576 a reactor. No timer is a kernel
 * object.
 *
 * A timer never fires early. It fires in the first turn after it is due. Timers fire in the order
 * of their due times; timers with equal due times fire in the order in which they were started. In
 * a turn timers fire before the deadlines of connections are judged, since those may have to wait
 * for bytes that are still to be read (conn.h).
 *
 * Thread: all functions belong to the reactor's thread, or before its first kr_run to any one
 * thread at a time. All are legal in any callback and for any timer, also for the timer that is
 * firing. None runs a callback. */
#ifndef KREACTOR_TIMER_H
#define KREACTOR_TIMER_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Called on the reactor's thread, from a turn, each time that the timer fires. `user` is the
 * pointer given to kr_timer_start. Legal: everything. */
typedef void kr_timer_fn(struct kr_reactor *r, kr_timer timer, void *user);

/* Starts a timer.
 *   ret       *ret is the handle of the timer. May be NULL
 *   in_ns     when it fires first, in nanoseconds from now, >= 0. 0: in the next turn of the loop,
 *             never within this call. A time in the far future (INT64_MAX) means never
 *   every_ns  its period after that, in nanoseconds, > 0. 0: it fires once. A periodic timer that
 *             is late skips the beats it has missed, and keeps to the beats of its start
 *   fn        called when it fires
 *   user      handed to fn
 *
 * A timer that fires once is gone when its `fn` has returned, unless `fn` restarted it.
 * kr_reactor_free ends timers without firing them.
 *
 * Errors, with nothing done: -EINVAL: a time is negative, or `fn` is NULL. -ENOMEM, also beyond
 * 1,048,576 timers. */
KR_API int kr_timer_start(struct kr_reactor *r, kr_timer *ret, int64_t in_ns, int64_t every_ns,
                          kr_timer_fn *fn, void *user);

/* Sets an existing timer anew. The times are as in kr_timer_start; `fn` and `user` stay. It
 * cannot fail for want of memory. Errors, with nothing done: -EINVAL: a time is negative. */
KR_API int kr_timer_restart(struct kr_reactor *r, kr_timer timer, int64_t in_ns, int64_t every_ns);

/* Ends a timer. Its `fn` does not run any more, and its handle is stale at once. */
KR_API int kr_timer_stop(struct kr_reactor *r, kr_timer timer);

#ifdef __cplusplus
}
#endif

#endif
