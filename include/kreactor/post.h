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
 * signal handler; but a handler cannot wait for room: see kr_notify. Any thread, until
 * kr_reactor_free is called. A post made by a posted call runs in a later turn.
 *
 * Errors, with nothing done: -ENOBUFS when post_max calls wait already: try again later. -ESHUTDOWN
 * when post_max calls wait and kr_run has returned, so that nothing makes room until it, or
 * kr_step, is called again: a thread that tries again until it succeeds ends here. -ESHUTDOWN from
 * a callback once kr_reactor_free has begun. Never -EPERM. */
KR_API int kr_post(struct kr_reactor *r, kr_post_fn *fn, void *arg);

/* Something to tell a reactor of, as often as one likes: for signal handlers, and for threads that
 * have changed what the reactor is to look at. It is the caller's memory, so that there is always
 * room for it. Begins as {.fn = ..., .arg = ...}, all else 0:
 *
 *     static struct kr_notice terminate = {.fn = on_terminate};
 *     static void on_sigterm(int signo) { kr_notify(reactor, &terminate); }
 */
struct kr_notice {
    kr_post_fn *fn;
    void *arg;
    struct kr_notice *next; /* the library's */
    int pending;            /* the library's */
};

/* Has the notice's `fn(r, arg)` called on the reactor's thread, soon, once for all notifications
 * that came before it is called, and again for those that come later, also while it runs. Wakes the
 * reactor if it sleeps, allocates nothing, takes no lock, and is never refused for want of room,
 * however many posts wait. Notices come before the posts of a turn. Any thread, and signal
 * handlers, until kr_reactor_free is called, which calls what is pending. A notice is for one
 * reactor.
 *
 * The notice is borrowed until the `fn` that answers the last notification begins.
 *
 * Errors, with nothing done: -EINVAL without `fn`; -ESHUTDOWN from a callback once kr_reactor_free
 * has begun. Never -EPERM. */
KR_API int kr_notify(struct kr_reactor *r, struct kr_notice *notice);

#ifdef __cplusplus
}
#endif

#endif
