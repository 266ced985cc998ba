/* The end of the reactor with posts left, notices, and kr_stop. */
#include "post/post.h"

/* ---- shutdown ---- */

/* Ours: what was accepted before kr_reactor_free runs in it, exactly once, even if the reactor
 * never ran a turn. */
TEST_EACH(free_runs_what_was_accepted) {
    struct kr_reactor *r = test_reactor(NULL);
    unsigned ran = 0;
    for (unsigned i = 0; i < 100; i++)
        CHECK_OK(kr_post(r, test_count_call, &ran));
    test_reactor_free(r);
    CHECK_EQ(ran, 100u);
}

struct chain {
    unsigned taken, ran;
};

static void chain_run(struct kr_reactor *r, void *arg) {
    struct chain *chain = arg;
    chain->ran++;
    if (chain->ran < 10)
        chain->taken += kr_post(r, chain_run, chain) == 0;
}

/* Ours: a post that a posted call makes during kr_reactor_free is either refused or run, never
 * lost. */
TEST_EACH(post_during_free_is_run_or_refused) {
    struct kr_reactor *r = test_reactor(NULL);
    struct chain chain = {.taken = 1};
    CHECK_OK(kr_post(r, chain_run, &chain));
    test_reactor_free(r);
    CHECK_EQ(chain.ran, chain.taken);
}

/* Posts until told to end; counts what was taken. */
struct late {
    struct kr_reactor *r;
    _Atomic bool *end;
    unsigned taken;
    unsigned *ran;
};

static void *late_main(void *arg) {
    struct late *late = arg;
    while (!atomic_load(late->end)) {
        int rc = kr_post(late->r, test_count_call, late->ran);
        if (rc < 0)
            CHECK(rc == -ENOBUFS || rc == -ESHUTDOWN);
        else
            late->taken++;
    }
    return NULL;
}

/* Ours: eight threads post while the reactor stops; what was taken after its last turn runs in
 * kr_reactor_free. */
TEST_EACH(posts_during_shutdown_all_run) {
    struct kr_reactor *r = test_reactor(NULL);
    _Atomic bool end = false;
    unsigned ran = 0, taken = 0;
    struct late late[THREADS];
    pthread_t threads[THREADS];
    for (unsigned t = 0; t < THREADS; t++) {
        late[t] = (struct late){.r = r, .end = &end, .ran = &ran};
        threads[t] = thread_start(late_main, &late[t]);
    }
    TEST_UNTIL(r, ran > 1000);
    kr_stop(r);
    CHECK_EQ(kr_run(r), 0);
    atomic_store(&end, true);
    for (unsigned t = 0; t < THREADS; t++) {
        thread_join(threads[t]);
        taken += late[t].taken;
    }
    CHECK_LE(ran, taken);
    test_reactor_free(r);
    CHECK_EQ(ran, taken);
}

struct worker {
    struct kr_reactor *r;
    unsigned *ran;
    unsigned taken;
    int last;
};

/* As one writes it: again until it is taken. */
static void *worker_main(void *arg) {
    struct worker *w = arg;
    for (;;) {
        while ((w->last = kr_post(w->r, test_count_call, w->ran)) == -ENOBUFS)
            sched_yield();
        if (w->last < 0)
            return NULL;
        w->taken++;
    }
}

/* Ours: when kr_run has returned a full queue answers -ESHUTDOWN, so that threads which try again
 * until they succeed come to an end; what was taken runs when there is another run, in which a full
 * queue is -ENOBUFS again. */
TEST_EACH(full_queue_at_rest_is_shut_down) {
    struct kr_config config = test_config();
    config.post_max = 4;
    struct kr_reactor *r = test_reactor(&config);
    unsigned ran = 0, taken = 0;
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    for (unsigned t = 0; t < THREADS; t++) {
        workers[t] = (struct worker){.r = r, .ran = &ran};
        threads[t] = thread_start(worker_main, &workers[t]);
    }
    TEST_UNTIL(r, ran > 100);
    kr_stop(r);
    CHECK_EQ(kr_run(r), 0);
    for (unsigned t = 0; t < THREADS; t++) {
        thread_join(threads[t]);
        CHECK_EQ(workers[t].last, -ESHUTDOWN);
        taken += workers[t].taken;
    }
    TEST_UNTIL(r, ran == taken);
    while (kr_post(r, test_count_call, &ran) == 0)
        taken++;
    CHECK_ERR(kr_post(r, test_count_call, &ran), ENOBUFS);
    test_reactor_free(r);
    CHECK_EQ(ran, taken);
}

/* ---- notices ---- */

/* What is changed by whoever notifies, and what the notice's call has seen of it. */
struct watch {
    struct kr_notice notice;
    _Atomic unsigned value;
    _Atomic unsigned seen;
    unsigned calls;
    struct watch *then; /* notified within the call */
};

static void watch_look(struct kr_reactor *r, void *arg) {
    struct watch *w = arg;
    w->calls++;
    atomic_store(&w->seen, atomic_load(&w->value));
    if (w->then)
        CHECK_OK(kr_notify(r, &w->then->notice));
    w->then = NULL;
}

static void watch_init(struct watch *w) {
    *w = (struct watch){.notice = {.fn = watch_look, .arg = w}};
}

static struct watch *handler_watch;
static struct kr_reactor *handler_reactor;

static void handler_notifies(int signo) {
    (void)signo;
    int saved = errno;
    atomic_fetch_add(&handler_watch->value, 1);
    if (kr_notify(handler_reactor, &handler_watch->notice) < 0)
        abort();
    errno = saved;
}

/* Ours: a notice is taken however full the queue is, and called before the posts that fill it: of
 * signals that come one at a time each is seen. */
TEST_EACH(notice_finds_room_beside_a_full_queue) {
    struct kr_config config = test_config();
    config.post_max = 4;
    struct kr_reactor *r = test_reactor(&config);
    struct watch w;
    watch_init(&w);
    handler_watch = &w;
    handler_reactor = r;
    handle(SIGTERM, handler_notifies);
    unsigned ran = 0, taken = 0;
    for (unsigned i = 1; i <= 26; i++) {
        while (kr_post(r, test_count_call, &ran) == 0)
            taken++;
        CHECK_SYS(raise(SIGTERM));
        CHECK_EQ(w.calls, i - 1);
        CHECK_GT(kr_step(r, -1), 0);
        CHECK_EQ(w.calls, i);
        CHECK_EQ(atomic_load(&w.seen), i);
    }
    TEST_UNTIL(r, ran == taken);
    test_reactor_free(r);
}

/* Ours: notifications that come before the call are answered by one call, in the order of the first
 * ones; one that comes during the call is answered by another, in a later turn. */
TEST_EACH(notices_coalesce) {
    struct kr_reactor *r = test_reactor(NULL);
    struct watch a, b;
    watch_init(&a);
    watch_init(&b);
    for (unsigned i = 0; i < 10; i++) {
        CHECK_OK(kr_notify(r, &a.notice));
        CHECK_OK(kr_notify(r, &b.notice));
    }
    a.then = &a;
    b.then = &a;
    CHECK_EQ(kr_step(r, -1), 2);
    CHECK_EQ(a.calls, 1u);
    CHECK_EQ(b.calls, 1u);
    CHECK_EQ(kr_step(r, -1), 1);
    CHECK_EQ(a.calls, 2u);
    CHECK_EQ(kr_step(r, 0), 0);
    CHECK_ERR(kr_notify(r, NULL), EINVAL);
    CHECK_ERR(kr_notify(r, &(struct kr_notice){.arg = &a}), EINVAL);
    CHECK_ERR(kr_notify(NULL, &a.notice), EINVAL);
    test_reactor_end(r, (struct test_levels){0});
}

struct notifier {
    struct kr_reactor *r;
    struct watch *watch;
    unsigned rounds;
    _Atomic unsigned *left;
};

static void *notifier_main(void *arg) {
    struct notifier *n = arg;
    for (unsigned i = 0; i < n->rounds; i++) {
        unsigned value = atomic_fetch_add(&n->watch->value, 1) + 1;
        CHECK_OK(kr_notify(n->r, &n->watch->notice));
        while (i % 16 == 0 && atomic_load(&n->watch->seen) < value)
            sched_yield();
    }
    if (atomic_fetch_sub(n->left, 1) == 1)
        kr_stop(n->r);
    return NULL;
}

/* Ours: what a thread has written before it notifies is seen by a call that follows, whether the
 * notice was pending already or not, and whether the reactor sleeps or not: eight threads at one
 * notice, which wait for that now and then. */
TEST_EACH(notices_of_threads_are_all_seen) {
    struct kr_reactor *r = test_reactor(NULL);
    struct watch w;
    watch_init(&w);
    _Atomic unsigned left = THREADS;
    struct notifier notifiers[THREADS];
    pthread_t threads[THREADS];
    unsigned rounds = tap_full() ? 20000 : 2000;
    for (unsigned t = 0; t < THREADS; t++) {
        notifiers[t] = (struct notifier){r, &w, rounds, &left};
        threads[t] = thread_start(notifier_main, &notifiers[t]);
    }
    CHECK_EQ(kr_run(r), 0);
    for (unsigned t = 0; t < THREADS; t++)
        thread_join(threads[t]);
    TEST_UNTIL(r, atomic_load(&w.seen) == THREADS * rounds);
    test_reactor_free(r);
}

/* Ours: a handler may interrupt the reactor's thread anywhere, in a kr_notify of the same notice
 * too: nothing that it wanted seen stays unseen. */
TEST_EACH(notices_of_a_signal_handler_are_all_seen) {
    struct kr_reactor *r = test_reactor(NULL);
    struct watch w;
    watch_init(&w);
    handler_watch = &w;
    handler_reactor = r;
    handle(SIGALRM, handler_notifies);
    storm_timer(150);
    while (atomic_load(&w.value) < 2000) {
        for (unsigned i = 0; i < 100; i++)
            CHECK_OK(kr_notify(r, &w.notice));
        CHECK_OK(kr_step(r, -1));
    }
    storm_timer(0);
    TEST_UNTIL(r, atomic_load(&w.seen) == atomic_load(&w.value));
    test_reactor_free(r);
}

static void notify_in_free(struct kr_reactor *r, void *arg) {
    struct watch *w = arg;
    w->calls++;
    CHECK_ERR(kr_notify(r, &w->notice), ESHUTDOWN);
}

/* Ours: kr_reactor_free calls what is pending, and takes no more. */
TEST_EACH(notice_that_is_pending_is_called_by_free) {
    for (unsigned ran = 0; ran < 2; ran++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct watch w;
        watch_init(&w);
        w.notice.fn = notify_in_free;
        if (ran)
            CHECK_EQ(kr_step(r, 0), 0);
        CHECK_OK(kr_notify(r, &w.notice));
        test_reactor_free(r);
        CHECK_EQ(w.calls, 1u);
    }
}

/* ---- kr_stop ---- */

/* Ours: kr_stop is not refused when the queue is full. */
TEST_EACH(stop_beside_a_full_queue) {
    struct kr_reactor *r = test_reactor(NULL);
    unsigned ran = 0;
    while (kr_post(r, test_count_call, &ran) == 0) {
    }
    kr_stop(r);
    CHECK_EQ(kr_run(r), 0);
    test_reactor_free(r);
}

/* Ours: kr_stop before kr_run ends that run before it waits, and just that one. */
TEST_EACH(stop_before_run_ends_the_next_run) {
    struct kr_reactor *r = test_reactor(NULL);
    for (unsigned i = 0; i < 3; i++) {
        kr_stop(r);
        CHECK_EQ(kr_run(r), 0);
    }
    unsigned ran = 0;
    CHECK_EQ(kr_step(r, 0), 0);
    CHECK_OK(kr_post(r, test_count_call, &ran));
    CHECK_EQ(kr_step(r, -1), 1);
    CHECK_EQ(ran, 1u);
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: kr_stop ends a kr_step that waits without end, which then answers 0. */
TEST_EACH(stop_ends_a_step) {
    struct kr_reactor *r = test_reactor(NULL);
    CHECK_EQ(kr_step(r, 0), 0);
    kr_stop(r);
    CHECK_EQ(kr_step(r, -1), 0);
    test_reactor_free(r);
}

struct stopper {
    struct kr_reactor *r;
    _Atomic unsigned runs;
    unsigned rounds;
};

static void *stopper_main(void *arg) {
    struct stopper *s = arg;
    for (unsigned i = 0; i < s->rounds; i++) {
        kr_stop(s->r);
        while (atomic_load(&s->runs) == i)
            sched_yield();
    }
    return NULL;
}

/* Ours: one stop from another thread ends one run, whether it sleeps, is about to, or has not
 * begun. */
TEST_EACH(stop_from_a_thread_ends_one_run_each) {
    struct kr_reactor *r = test_reactor(NULL);
    struct stopper s = {.r = r, .rounds = 5000};
    pthread_t thread = thread_start(stopper_main, &s);
    for (unsigned i = 0; i < s.rounds; i++) {
        CHECK_EQ(kr_run(r), 0);
        atomic_fetch_add(&s.runs, 1);
    }
    thread_join(thread);
    test_reactor_free(r);
}

static void stop_handler(int signo) {
    (void)signo;
    kr_stop(storm.r);
}

/* Ours: kr_stop in a signal handler ends a run that sleeps without end; the signal interrupts that
 * very sleep. */
TEST_EACH(stop_from_a_signal_handler) {
    struct kr_reactor *r = test_reactor(NULL);
    storm.r = r;
    handle(SIGALRM, stop_handler);
    for (unsigned i = 0; i < 20; i++) {
        struct itimerval once = {.it_value.tv_usec = 1000 + 100 * i};
        CHECK_SYS(setitimer(ITIMER_REAL, &once, NULL));
        CHECK_EQ(kr_run(r), 0);
    }
    test_reactor_free(r);
}

static void stop_and_count(struct kr_reactor *r, void *arg) {
    test_count_call(r, arg);
    kr_stop(r);
}

/* Ours: kr_stop in a callback ends the run after the turn it is in: the other posts of the turn
 * still run. */
TEST_EACH(stop_in_a_callback_lets_the_turn_end) {
    struct kr_reactor *r = test_reactor(NULL);
    unsigned ran = 0;
    CHECK_OK(kr_post(r, stop_and_count, &ran));
    CHECK_OK(kr_post(r, test_count_call, &ran));
    CHECK_EQ(kr_run(r), 0);
    CHECK_EQ(ran, 2u);
    test_reactor_free(r);
}
