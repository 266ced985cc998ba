/* Posted work: the way into a reactor from other threads and from signal handlers. */
#ifndef KREACTOR_POST_H
#define KREACTOR_POST_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void kr_post_fn(struct kr_reactor *r, void *arg);

/* Has `fn(r, arg)` called on the reactor's thread, soon, exactly once. Posts of one thread run in
 * their order. Wakes the reactor if it sleeps. What was accepted is run by kr_reactor_free at the
 * latest, so `arg` always comes back. Allocates nothing, takes no lock and may be called in a
 * signal handler. Any thread, until kr_reactor_free is called. A post made by a posted call runs in
 * a later turn.
 *
 * Errors, with nothing done: -ENOBUFS when post_max calls wait already, try again later; -ESHUTDOWN
 * from a callback once kr_reactor_free has begun. Never -EPERM. */
KR_API int kr_post(struct kr_reactor *r, kr_post_fn *fn, void *arg);

#ifdef __cplusplus
}
#endif

#endif
