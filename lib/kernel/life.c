/* Whether a thread has ended: it holds a robust mutex, which it never lets go.
 *
 * Happy path: the mutex is locked, so the thread lives; or its owner has died, so it does not.
 * Failure: no robust mutex is to be had, and the thread passes for living.
 *
 * Relies on: the kernel marks the robust mutexes of a thread that exits before it wakes whoever
 * joins it (futex_exit_release before clear_child_tid, mm_release in kernel/fork.c), so the answer
 * is right at once after pthread_join. tgkill(2) would not do: the thread is found for a while
 * longer, and its number may be another's by then. Up to 2,048 robust mutexes of one thread are
 * seen to (ROBUST_LIST_LIMIT, include/linux/futex.h). fork(2) leaves the child no such list (man
 * set_robust_list), so in a child the mutex is just memory. */
#include "kernel/life.h"

#include <errno.h>

void kr__life_watch(struct kr__life *life) {
    pthread_mutexattr_t robust;
    if (pthread_mutexattr_init(&robust) != 0)
        return;
    pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    life->begun = pthread_mutex_init(&life->held, &robust) == 0;
    pthread_mutexattr_destroy(&robust);
    if (life->begun)
        pthread_mutex_trylock(&life->held);
}

bool kr__life_is_over(struct kr__life *life) {
    if (!life->begun)
        return false;
    int rc = pthread_mutex_trylock(&life->held);
    if (rc == EOWNERDEAD)
        pthread_mutex_consistent(&life->held);
    else if (rc != 0)
        return false;
    pthread_mutex_unlock(&life->held);
    return true;
}

void kr__life_forget(struct kr__life *life) {
    if (!life->begun)
        return;
    life->begun = false;
    pthread_mutex_trylock(&life->held);
    pthread_mutex_unlock(&life->held);
    pthread_mutex_destroy(&life->held);
}
