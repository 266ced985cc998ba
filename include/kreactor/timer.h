/* Timers: monotonic nanoseconds, as many as memory holds, none of them a kernel object.
 *
 * A timer never fires early. It fires in the first turn after it is due, in the order of due times,
 * and of starting among equals, before the deadlines of connections are judged, which may have to
 * wait for what is still to be read (conn.h). All functions: the reactor's thread, or before its
 * first kr_run any one thread at a time; all are legal in any callback, for any timer, the one that
 * is firing too. */
#ifndef KREACTOR_TIMER_H
#define KREACTOR_TIMER_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void kr_timer_fn(struct kr_reactor *r, kr_timer timer, void *user);

/* Calls `fn` in `in_ns` (>= 0; one in the far future is as good as never), and if `every_ns` is not
 * 0 (> 0) every `every_ns` after that. A periodic timer that is late skips the beats it missed; it
 * does not fire them in a row. *ret may be NULL. A one-shot timer is gone when its `fn` has
 * returned, unless that restarted it. In 0 ns means when timers next have their turn, never inside
 * this call, and when a timer's callback asks for it, not before the next turn of the loop.
 * -ENOMEM, also beyond 1,048,576 timers. */
KR_API int kr_timer_start(struct kr_reactor *r, kr_timer *ret, int64_t in_ns, int64_t every_ns,
                          kr_timer_fn *fn, void *user);

/* Sets a live timer anew, as kr_timer_start does, with its `fn` and `user`. */
KR_API int kr_timer_restart(struct kr_reactor *r, kr_timer timer, int64_t in_ns, int64_t every_ns);

/* Ends a timer; its `fn` runs no more. */
KR_API int kr_timer_stop(struct kr_reactor *r, kr_timer timer);

#ifdef __cplusplus
}
#endif

#endif
