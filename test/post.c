/* Posted work and kr_stop: the two ways into a reactor from other threads and from signal handlers.
 *
 * What must hold: each accepted post runs exactly once, on the reactor's thread, in its thread's
 * order; the reactor never sleeps on an accepted post; a full queue is an answer; kr_reactor_free
 * runs what is left. This suite also runs under TSan. */
#include "post/post.h"

/* Posts until it is taken: -ENOBUFS says "try again later". */
static void post_surely(struct kr_reactor *r, kr_post_fn *fn, void *arg) {
    for (;;) {
        int rc = kr_post(r, fn, arg);
        if (rc == 0)
            return;
        CHECK_ERR(rc, ENOBUFS);
        CHECK_GT(tap_remaining_ns(), 0);
        sched_yield();
    }
}

pthread_t thread_start(void *(*fn)(void *), void *arg) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, fn, arg), 0);
    return thread;
}

void thread_join(pthread_t thread) {
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

/* ---- threads ---- */

/* A posting thread. `next` is the reactor thread's: the number that must come next. */
struct poster {
    struct kr_reactor *r;
    unsigned count, next;
    _Atomic unsigned *left;
    struct mark {
        struct poster *poster;
        unsigned number;
    } *marks;
};

static void mark_run(struct kr_reactor *r, void *arg) {
    struct mark *mark = arg;
    struct poster *p = mark->poster;
    CHECK_EQ(mark->number, p->next);
    if (++p->next == p->count && atomic_fetch_sub(p->left, 1) == 1)
        kr_stop(r);
}

static void *poster_main(void *arg) {
    struct poster *p = arg;
    for (unsigned i = 0; i < p->count; i++)
        post_surely(p->r, mark_run, &p->marks[i]);
    return NULL;
}

static void post_from_threads(struct kr_reactor *r, unsigned each) {
    static struct mark marks[THREADS][20000];
    struct poster posters[THREADS];
    pthread_t threads[THREADS];
    _Atomic unsigned left = THREADS;
    CHECK_LE(each, 20000u);
    for (unsigned t = 0; t < THREADS; t++) {
        posters[t] = (struct poster){.r = r, .count = each, .left = &left, .marks = marks[t]};
        for (unsigned i = 0; i < each; i++)
            marks[t][i] = (struct mark){&posters[t], i};
        threads[t] = thread_start(poster_main, &posters[t]);
    }
    CHECK_EQ(kr_run(r), 0);
    for (unsigned t = 0; t < THREADS; t++) {
        thread_join(threads[t]);
        CHECK_EQ(posters[t].next, each);
    }
    CHECK_EQ(test_stats(r).posts, (uint64_t)each * THREADS);
}

/* Ours: eight threads at once; each thread's posts run in its order, none is lost, none runs twice.
 * The run ends by kr_stop in the last of them. */
TEST_EACH(eight_threads_keep_their_order) {
    struct kr_reactor *r = test_reactor(NULL);
    post_from_threads(r, 20000);
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: the same with a queue of two, so that nearly every post meets a full queue. */
TEST_EACH(eight_threads_at_a_tiny_queue) {
    struct kr_config config = test_config();
    config.post_max = 2;
    struct kr_reactor *r = test_reactor(&config);
    post_from_threads(r, tap_full() ? 20000 : 1000);
    test_reactor_free(r);
}

/* ---- bounds and turns ---- */

static void fill_and_drain(unsigned post_max, unsigned room) {
    struct kr_config config = test_config();
    config.post_max = post_max;
    struct kr_reactor *r = test_reactor(&config);
    for (unsigned round = 0; round < 5; round++) {
        unsigned ran = 0, taken = 0;
        int rc;
        while ((rc = kr_post(r, test_count_call, &ran)) == 0)
            CHECK_LE(++taken, room);
        CHECK_ERR(rc, ENOBUFS);
        CHECK_EQ(taken, room);
        CHECK_EQ(ran, 0u);
        TEST_UNTIL(r, ran == taken);
        CHECK_EQ(kr_step(r, 0), 0);
        CHECK_EQ(ran, taken);
    }
    test_reactor_free(r);
}

/* Ours: a full queue refuses with -ENOBUFS, takes nothing and loses nothing, and takes posts again
 * once some have run. */
TEST_EACH(full_queue_refuses_and_recovers) {
    fill_and_drain(4, 4);
    fill_and_drain(5, 8);
}

/* Ours: the least queue is no special case: what it has taken runs, whatever it rounds its size up
 * to. */
TEST_EACH(least_queue_loses_nothing) {
    struct kr_config config = test_config();
    config.post_max = 1;
    struct kr_reactor *r = test_reactor(&config);
    unsigned ran = 0, taken = 0;
    for (unsigned i = 0; i < 64; i++)
        taken += kr_post(r, test_count_call, &ran) == 0;
    CHECK_GE(taken, 1u);
    CHECK_LE(taken, 2u);
    TEST_UNTIL(r, ran == taken);
    CHECK_EQ(kr_step(r, 0), 0);
    CHECK_EQ(ran, taken);
    test_reactor_free(r);
}

/* A call that posts itself again until it is told to end. */
struct again {
    unsigned ran;
    bool over;
};

static void count_and_post_again(struct kr_reactor *r, void *arg) {
    struct again *again = arg;
    again->ran++;
    if (!again->over)
        CHECK_OK(kr_post(r, count_and_post_again, again));
}

/* Ours: a post made by a posted call runs in a later turn, so that a turn always ends. */
TEST_EACH(post_from_a_post_runs_in_a_later_turn) {
    struct kr_reactor *r = test_reactor(NULL);
    struct again again = {0};
    CHECK_OK(kr_post(r, count_and_post_again, &again));
    for (unsigned i = 0; i < 100; i++) {
        CHECK_OK(kr_step(r, MS));
        CHECK_LE(again.ran, i + 1);
    }
    CHECK_GE(again.ran, 50u);
    again.over = true;
    test_reactor_free(r);
}

/* Ours: no more than turn_posts calls run before the timers get their turn. */
TEST_EACH(turn_posts_bounds_a_turn) {
    struct kr_config config = test_config();
    config.turn_posts = 3;
    struct kr_reactor *r = test_reactor(&config);
    unsigned ran = 0;
    for (unsigned i = 0; i < 20; i++)
        CHECK_OK(kr_post(r, test_count_call, &ran));
    while (ran < 20) {
        unsigned before = ran;
        test_step(r, "posts");
        CHECK_LE(ran, before + 3);
    }
    test_reactor_free(r);
}

static void beat(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    *(int64_t *)user = kr_now(r);
}

/* Ours: posts that never end do not keep a timer from firing in the first turn after it is due. */
TEST_EACH(posts_do_not_starve_timers) {
    struct kr_config config = test_config();
    config.turn_posts = 2;
    struct kr_reactor *r = test_reactor(&config);
    unsigned beats = 0;
    struct again again = {0};
    for (unsigned i = 0; i < 64; i++)
        CHECK_OK(kr_post(r, count_and_post_again, &again));
    int64_t fired_at = kr_now(r);
    CHECK_OK(kr_timer_start(r, NULL, 0, 100000, beat, &fired_at));
    while (beats < 50) {
        int64_t before = tap_now_ns(), last = fired_at;
        CHECK_OK(kr_step(r, -1));
        CHECK(before <= last + 100000 || fired_at > last);
        beats += fired_at > last;
    }
    CHECK_GE(again.ran, beats);
    again.over = true;
    test_reactor_free(r);
}

/* ---- wake-ups ---- */

struct pingpong {
    struct kr_reactor *r;
    unsigned rounds;
    _Atomic unsigned ran;
};

static void pong(struct kr_reactor *r, void *arg) {
    (void)r;
    atomic_fetch_add(&((struct pingpong *)arg)->ran, 1);
}

/* After each post that ran, the poster dawdles for 0 to 4 us, so that the next meets the reactor at
 * every point of its way to sleep. */
static void *pingpong_main(void *arg) {
    struct pingpong *p = arg;
    uint64_t random = 1;
    for (unsigned i = 0; i < p->rounds; i++) {
        CHECK_OK(kr_post(p->r, pong, p));
        while (atomic_load(&p->ran) == i)
            sched_yield();
        random = random * 6364136223846793005u + 1442695040888963407u;
        int64_t until = tap_now_ns() + (int64_t)(random >> 52);
        while (tap_now_ns() < until)
            ;
    }
    kr_stop(p->r);
    return NULL;
}

/* Ours: no wake-up is lost. Each post is made when the one before has run, while the reactor falls
 * asleep without end; one lost wake-up and nothing ever moves again. */
TEST_EACH(no_lost_wakeup, .deadline_s = 120) {
    struct kr_reactor *r = test_reactor(NULL);
    struct pingpong p = {.r = r, .rounds = tap_full() ? 1000000 : 20000};
    pthread_t thread = thread_start(pingpong_main, &p);
    CHECK_EQ(kr_run(r), 0);
    thread_join(thread);
    CHECK_EQ(atomic_load(&p.ran), p.rounds);
    CHECK_GT(test_stats(r).waits, 0u);
    test_reactor_end(r, (struct test_levels){0});
}

/* ---- signal handlers ---- */

struct storm storm;

static void storm_ran(struct kr_reactor *r, void *arg) {
    UNUSED(r, arg);
    storm.ran++;
}

static void storm_handler(int signo) {
    (void)signo;
    int saved = errno;
    int rc = kr_post(storm.r, storm_ran, NULL);
    if (rc == 0)
        atomic_fetch_add(&storm.taken, 1);
    else if (rc == -ENOBUFS)
        atomic_fetch_add(&storm.refused, 1);
    else
        atomic_store(&storm.other, rc);
    errno = saved;
}

void handle(int signo, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    CHECK_SYS(sigaction(signo, &action, NULL));
}

void storm_timer(long every_us) {
    struct itimerval timer = {.it_interval.tv_usec = every_us, .it_value.tv_usec = every_us};
    CHECK_SYS(setitimer(ITIMER_REAL, &timer, NULL));
}

/* Ours: kr_post is safe in a handler that interrupts the reactor's own thread wherever it is, in
 * callbacks and in its sleep, and wakes it from that sleep. */
TEST_EACH(signal_handler_on_the_reactors_thread) {
    struct kr_reactor *r = test_reactor(NULL);
    storm.r = r;
    handle(SIGALRM, storm_handler);
    storm_timer(150);
    unsigned ran = 0;
    while (atomic_load(&storm.taken) < 500) {
        post_surely(r, test_count_call, &ran);
        CHECK_OK(kr_step(r, -1));
    }
    storm_timer(0);
    TEST_UNTIL(r, storm.ran == atomic_load(&storm.taken));
    CHECK_EQ(kr_step(r, 0), 0);
    CHECK_EQ(storm.ran, atomic_load(&storm.taken));
    CHECK_EQ(atomic_load(&storm.other), 0);
    test_reactor_free(r);
}

/* Shoots at the posting thread until 2000 of the handler's posts were taken. */
struct shooter {
    pthread_t target;
};

static void *shooter_main(void *arg) {
    struct shooter *s = arg;
    while (atomic_load(&storm.taken) < 2000 && tap_remaining_ns() > 0) {
        CHECK_EQ(pthread_kill(s->target, SIGUSR1), 0);
        sched_yield();
    }
    atomic_store(&storm.stop, true);
    CHECK_EQ(pthread_join(s->target, NULL), 0);
    kr_stop(storm.r);
    return NULL;
}

static void mark_run_endless(struct kr_reactor *r, void *arg) {
    (void)r;
    struct mark *mark = arg;
    CHECK_EQ(mark->number, mark->poster->next++);
}

/* Posts without end; its marks are used again, as the queue holds far fewer than there are. */
static void *endless_main(void *arg) {
    struct poster *p = arg;
    for (unsigned i = 0; !atomic_load(&storm.stop); i++) {
        struct mark *mark = &p->marks[i % 20000];
        *mark = (struct mark){p, i};
        post_surely(p->r, mark_run_endless, mark);
        p->count = i + 1;
    }
    return NULL;
}

/* Ours: a handler may post over a kr_post that it has interrupted. One thread does nothing but
 * post, another shoots signals at it, whose handler posts as well; both kinds run exactly once, the
 * first in order. */
TEST_EACH(signal_handler_interrupts_a_post) {
    static struct mark marks[20000];
    struct kr_reactor *r = test_reactor(NULL);
    storm.r = r;
    handle(SIGUSR1, storm_handler);
    struct poster p = {.r = r, .marks = marks};
    struct shooter s = {.target = thread_start(endless_main, &p)};
    pthread_t shooter = thread_start(shooter_main, &s);
    CHECK_EQ(kr_run(r), 0);
    thread_join(shooter);
    TEST_UNTIL(r, storm.ran == atomic_load(&storm.taken) && p.next == p.count);
    CHECK_EQ(kr_step(r, 0), 0);
    CHECK_EQ(storm.ran, atomic_load(&storm.taken));
    CHECK_EQ(p.next, p.count);
    CHECK_EQ(atomic_load(&storm.other), 0);
    test_reactor_free(r);
}

TAP_MAIN(post, 100)
