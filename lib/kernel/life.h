/* The life of a thread, as others can know of it. */
#ifndef KR_KERNEL_LIFE_H
#define KR_KERNEL_LIFE_H

#include <pthread.h>
#include <stdbool.h>

struct kr__life {
    pthread_mutex_t held; /* by the thread, until it ends */
    bool begun;
};

/* The calling thread's life is watched from now on, until it or its heir calls kr__life_forget. */
void kr__life_watch(struct kr__life *life);

/* Whether the watched thread has ended. Any other thread; true at once after pthread_join. */
bool kr__life_is_over(struct kr__life *life);

/* Watches no longer. The watched thread, or any other one when that has ended. */
void kr__life_forget(struct kr__life *life);

#endif
