/* Posted work: how other threads and signal handlers call into a reactor. */
#ifndef KREACTOR_POST_H
#define KREACTOR_POST_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Called on the reactor's thread, from a turn or from kr_reactor_free. Legal: everything. */
typedef void kr_post_fn(struct kr_reactor *r, void *arg);

/* Calls `fn(r, arg)` on the reactor's thread, soon and exactly once. Posts of one thread run in
 * their order. A post that a posted call makes runs in a later turn. kr_post wakes the reactor if
 * it sleeps. kr_reactor_free runs every accepted post at the latest, so `fn` always gets `arg`.
 *
 * kr_post allocates nothing and takes no lock. It may be called in a signal handler, but a handler
 * cannot wait for room; use kr_notify there. Any thread, until kr_reactor_free is called.
 *
 * Errors, with nothing done:
 *   -EINVAL      `r` or `fn` is NULL
 *   -ENOBUFS     post_max calls wait already. Try again later
 *   -ESHUTDOWN   post_max calls wait, and kr_run has returned, so that there is no room until
 *                kr_run or kr_step is called again. A thread that tries again until it succeeds
 *                gives up here. Or the caller is a callback, and kr_reactor_free has begun
 * Never -EPERM. */
KR_API int kr_post(struct kr_reactor *r, kr_post_fn *fn, void *arg);

/* A notice can be sent to a reactor any number of times (kr_notify). It is for signal handlers, and
 * for threads that have changed data which the reactor must look at again. The notice is the
 * caller's memory, so there is always room for it. Initialise it as {.fn = ..., .arg = ...}, all
 * else 0:
 *
 *     static struct kr_notice terminate = {.fn = on_terminate};
 *     static void on_sigterm(int signo) { kr_notify(reactor, &terminate); }
 */
struct kr_notice {
    kr_post_fn *fn;
    void *arg;
    struct kr_notice *next; /* used by the library */
    int pending;            /* used by the library */
};

/* Calls the notice's `fn(r, arg)` on the reactor's thread, soon: once for all kr_notify calls that
 * came before `fn` is called, and again if more come later, also while it runs. In a turn notices
 * run before posts. kr_notify wakes the reactor if it sleeps. It allocates nothing, takes no lock,
 * and is never refused for want of room, however many posts wait.
 *
 * Any thread, and signal handlers, until kr_reactor_free is called; kr_reactor_free calls pending
 * notices. Use a notice with one reactor only. The notice is borrowed until the `fn` that answers
 * the last kr_notify begins.
 *
 * Errors, with nothing done: -EINVAL: `r` or `notice` is NULL, or the notice has no `fn`.
 * -ESHUTDOWN: the caller is a callback, and kr_reactor_free has begun. Never -EPERM. */
KR_API int kr_notify(struct kr_reactor *r, struct kr_notice *notice);

#ifdef __cplusplus
}
#endif

#endif
