/* What the parts of the suite post share: posts that are surely taken, and threads. See
 * test/post.c. */
#pragma once

#include "harness/server.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/time.h>

pthread_t thread_start(void *(*fn)(void *), void *arg);
void thread_join(pthread_t thread);

#define THREADS 8

/* What the handler posts to, and how many of its posts were taken and ran. */
struct storm {
    struct kr_reactor *r;
    _Atomic unsigned taken, refused;
    _Atomic int other; /* any result but these two */
    unsigned ran;
    _Atomic bool stop;
};

extern struct storm storm;
void handle(int signo, void (*handler)(int));
void storm_timer(long every_us);
