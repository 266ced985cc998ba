/* Whose reactor it is: threads, forked children, many reactors, and signals that interrupt its
 * waits.
 *
 * What must hold: only the owner's thread gets anything done, everyone else an error and no effect;
 * a forked child can neither use nor harm the parent's reactor; reactors do not know of each other
 * and leave nothing behind. This suite also runs under TSan. */
#include "owner/owner.h"

static pthread_t thread_start(void *(*fn)(void *), void *arg) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, fn, arg), 0);
    return thread;
}

static void thread_join(pthread_t thread) {
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

void child_join(pid_t child) {
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

/* ---- a reactor with one of each thing ---- */

static void things_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct things *t = user;
    t->conn = conn;
    t->opens++;
}

static void things_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                         enum kr_why why) {
    UNUSED(r, conn);
    struct things *t = user;
    t->closes++;
    t->error = error;
    t->why = why;
}

const struct kr_conn_ops things_ops = {
    .on_open = things_open, .on_data = test_send_back, .on_close = things_close};

void never(struct kr_reactor *r, kr_timer timer, void *user) {
    UNUSED(r, timer, user);
    FAIL("a timer of the far future fired");
}

void nothing(struct kr_reactor *r, void *arg) {
    UNUSED(r, arg);
}

void echo_once(struct things *t, const char *text) {
    char back[64];
    size_t size = strlen(text);
    test_send(t->r, t->fd, text, size);
    test_recv(t->r, t->fd, back, size);
    CHECK_MEM_EQ(back, text, size);
}

void things_make(struct things *t) {
    *t = (struct things){.r = test_reactor(NULL)};
    struct kr_listen_opts opts = test_listen_opts();
    opts.addresses = true;
    opts.conn.inline_size = 16;
    t->port = test_listen(t->r, &t->listener, &opts, &things_ops, t);
    CHECK_OK(kr_timer_start(t->r, &t->timer, HOUR, 0, never, NULL));
    t->fd = test_connect(t->port);
    TEST_UNTIL(t->r, t->opens == 1);
    echo_once(t, "before");
}

void things_check_unharmed(struct things *t) {
    echo_once(t, "after");
    struct kr_stats stats = test_stats(t->r);
    CHECK_EQ(stats.conns, 1u);
    CHECK_EQ(stats.listeners, 1u);
    CHECK_EQ(stats.timers, 1u);
    CHECK_EQ(t->opens, 1u);
    CHECK_EQ(t->closes, 0u);
}

void things_end(struct things *t) {
    test_close(t->fd);
    test_reactor_free(t->r);
    CHECK_EQ(t->closes, 1u);
}

static int run_stopped(struct kr_reactor *r) {
    kr_stop(r);
    return kr_run(r);
}

/* Every function that answers with an error, called as it would succeed on its own thread. The last
 * ones end things, so that the table can also be run through there. kr_reactor_free, kr_post,
 * kr_stop and kr_stats_read have rules of their own and are not here. */
#define CALLS(X)                                                                                   \
    X(kr_conn_send, kr_conn_send(t->r, t->conn, "x", 1))                                           \
    X(kr_conn_send_nothing, kr_conn_send(t->r, t->conn, "", 0))                                    \
    X(kr_conn_send_ref, kr_conn_send_ref(t->r, t->conn, "x", 1, NULL, NULL))                       \
    X(kr_conn_send_file, kr_conn_send_file(t->r, t->conn, file, 0, 0, NULL, NULL))                 \
    X(kr_conn_sendv, kr_conn_sendv(t->r, t->conn, &(struct iovec){(void *)(uintptr_t)"x", 1}, 1))  \
    X(kr_conn_reserve, kr_conn_reserve(t->r, t->conn, 8, &room))                                   \
    X(kr_conn_commit, kr_conn_commit(t->r, t->conn, 0))                                            \
    X(kr_conn_pause, kr_conn_pause(t->r, t->conn))                                                 \
    X(kr_conn_resume, kr_conn_resume(t->r, t->conn))                                               \
    X(kr_conn_peer, kr_conn_peer(t->r, t->conn, &addr))                                            \
    X(kr_conn_local, kr_conn_local(t->r, t->conn, &addr))                                          \
    X(kr_conn_set_user, kr_conn_set_user(t->r, t->conn, kr_conn_user(t->r, t->conn)))              \
    X(kr_conn_deadline, kr_conn_deadline(t->r, t->conn, KR_DEADLINE_IDLE, 0))                      \
    X(kr_listen, kr_listen(t->r, &listener, &loopback, NULL, &things_ops, NULL))                   \
    X(kr_listener_addr, kr_listener_addr(t->r, t->listener, &addr))                                \
    X(kr_listener_pause, kr_listener_pause(t->r, t->listener))                                     \
    X(kr_listener_resume, kr_listener_resume(t->r, t->listener))                                   \
    X(kr_timer_start, kr_timer_start(t->r, NULL, HOUR, 0, never, NULL))                            \
    X(kr_timer_restart, kr_timer_restart(t->r, t->timer, HOUR, 0))                                 \
    X(kr_dump, kr_dump(t->r, sink))                                                                \
    X(kr_step, kr_step(t->r, 0))                                                                   \
    X(kr_run, run_stopped(t->r))                                                                   \
    X(kr_timer_stop, kr_timer_stop(t->r, t->timer))                                                \
    X(kr_listener_drain, kr_listener_drain(t->r, t->listener, HOUR))                               \
    X(kr_listener_close, kr_listener_close(t->r, t->listener))                                     \
    X(kr_conn_shutdown, kr_conn_shutdown(t->r, t->conn))                                           \
    X(kr_conn_close, kr_conn_close(t->r, t->conn, KR_CLOSE_NOW))                                   \
    X(kr_drain, kr_drain(t->r, HOUR, NULL, NULL))

/* Calls them all. Each must answer `error`, or succeed when that is 0. */
static void check_calls(const struct things *t, int error) {
    struct kr_addr addr, loopback;
    kr_listener listener;
    void *room;
    int sink = CHECK_SYS(open("/dev/null", O_WRONLY | O_CLOEXEC));
    int file = CHECK_SYS(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    CHECK_OK(kr_addr_ip(&loopback, "127.0.0.1", 0));
#define X(name, call)                                                                              \
    if (error)                                                                                     \
        CHECK_ERR(call, error);                                                                    \
    else                                                                                           \
        CHECK_OK(call);
    CALLS(X)
#undef X
    CHECK_SYS(close(sink));
    CHECK_SYS(close(file));
}

void check_refused(const struct things *t, int error) {
    check_calls(t, error);
    CHECK_EQ(kr_conn_queued(t->r, t->conn), 0u);
    CHECK(!kr_conn_user(t->r, t->conn));
    CHECK(!kr_conn_inline(t->r, t->conn));
    CHECK_EQ(kr_now(t->r), 0);
}

static void *stranger_main(void *arg) {
    struct things *t = arg;
    check_refused(t, EPERM);
    CHECK_ERR(kr_reactor_free(t->r), EPERM);
    struct kr_stats stats;
    CHECK_OK(kr_stats_read(t->r, &stats, sizeof stats));
    CHECK_EQ(stats.conns, 1u);
    CHECK_OK(kr_post(t->r, nothing, NULL));
    kr_stop(t->r);
    return NULL;
}

/* Ours: from another thread every call but three answers -EPERM, kr_reactor_free too, and has no
 * effect: the connection, listener and timer that were to be ended live on, and no byte was
 * sent. */
TEST_EACH(another_thread_is_refused_everything) {
    struct things t;
    things_make(&t);
    thread_join(thread_start(stranger_main, &t));
    CHECK_EQ(kr_run(t.r), 0);
    things_check_unharmed(&t);
    things_end(&t);
}

/* Ours: the table of the two cases around is not refused for what is in it: on its own thread each
 * call is good. Else a wrong argument could pass for a refused thread. */
TEST_EACH(its_own_thread_is_refused_nothing) {
    struct things t;
    things_make(&t);
    check_calls(&t, 0);
    TEST_UNTIL(t.r, test_stats(t.r).conns == 0 && t.closes == 1);
    things_end(&t);
}

/* ---- threads ---- */

struct runner {
    struct things things;
    pthread_barrier_t over; /* nobody may still be inside a call when the reactor is freed */
};

static void *runner_main(void *arg) {
    struct runner *runner = arg;
    CHECK_EQ(kr_run(runner->things.r), 0);
    pthread_barrier_wait(&runner->over);
    test_reactor_free(runner->things.r);
    return NULL;
}

/* Ours: a reactor that was made and set up on one thread runs on another, which then alone may use
 * it. */
TEST_EACH(made_on_one_thread_and_run_on_another) {
    struct runner runner = {.things.r = test_reactor(NULL)};
    struct things *t = &runner.things;
    struct kr_reactor *r = t->r;
    CHECK_EQ(pthread_barrier_init(&runner.over, NULL, 2), 0);
    t->port = test_listen(r, &t->listener, NULL, &things_ops, t);
    CHECK_OK(kr_timer_start(r, &t->timer, HOUR, 0, never, NULL));
    pthread_t thread = thread_start(runner_main, &runner);

    t->fd = test_connect(t->port);
    test_send(NULL, t->fd, "hello", 5);
    CHECK_RECV(NULL, t->fd, "hello");
    CHECK_ERR(kr_timer_stop(r, t->timer), EPERM);
    CHECK_ERR(kr_listener_close(r, t->listener), EPERM);
    kr_stop(r);
    pthread_barrier_wait(&runner.over);
    thread_join(thread);
    pthread_barrier_destroy(&runner.over);
    CHECK_EQ(t->closes, 1u);
    test_close(t->fd);
}

static void *maker_main(void *arg) {
    things_make(arg);
    struct things *t = arg;
    things_end(t);
    return NULL;
}

/* Ours: threads come and go; what one has left behind in thread-locals and tables is no trouble to
 * the next. */
TEST_EACH(reactors_of_threads_one_after_another) {
    for (unsigned i = 0; i < 20; i++) {
        struct things t;
        thread_join(thread_start(maker_main, &t));
    }
}

#define RING 64
#define ROUNDS 20

/* A reactor of a ring of reactors, through which a token is passed. */
struct member {
    struct kr_reactor *r;
    struct member *next;
    unsigned passes;
};

void small_config(struct kr_config *config) {
    kr_config_init(config);
    config->sq_entries = 8;
    config->cq_entries = 16;
    config->conn_max = 16;
    config->listener_max = 4;
    config->buf_count = 4;
    config->buf_size = 4096;
    config->post_max = 16;
}

struct kr_reactor *variant_reactor(const struct kr_config *config,
                                   const struct kr__kernel *kernel) {
    struct kr_config own = *config;
    own.taskrun = (enum kr_taskrun)tap_variant()->mode;
    struct kr_reactor *r;
    struct kr_failure why;
    CHECK_OK(kr__reactor_new(&r, &own, &why, kernel, (unsigned)tap_variant()->caps_mask));
    return r;
}

static void pass_on(struct kr_reactor *r, void *arg) {
    struct member *m = arg;
    CHECK_EQ(m->r, r);
    if (++m->passes < ROUNDS || m->next->passes < ROUNDS)
        CHECK_OK(kr_post(m->next->r, pass_on, m->next));
    if (m->passes >= ROUNDS)
        kr_stop(r);
}

struct together {
    struct member members[RING];
    pthread_barrier_t made, over;
};

struct seat {
    struct together *all;
    unsigned index;
};

static void *member_main(void *arg) {
    struct seat *seat = arg;
    struct member *m = &seat->all->members[seat->index];
    struct kr_config config;
    small_config(&config);
    m->r = variant_reactor(&config, &kr__linux);
    pthread_barrier_wait(&seat->all->made);
    if (seat->index == 0)
        CHECK_OK(kr_post(m->r, pass_on, m));
    CHECK_EQ(kr_run(m->r), 0);
    pthread_barrier_wait(&seat->all->over);
    CHECK_OK(kr_reactor_free(m->r));
    return NULL;
}

/* Ours: 64 threads with a reactor each, which wake each other in a ring. A lost wake-up stops the
 * token. */
TEST_EACH(sixty_four_threads_with_a_reactor_each) {
    static struct together all;
    static struct seat seats[RING];
    pthread_t threads[RING];
    CHECK_EQ(pthread_barrier_init(&all.made, NULL, RING), 0);
    CHECK_EQ(pthread_barrier_init(&all.over, NULL, RING), 0);
    for (unsigned i = 0; i < RING; i++) {
        all.members[i].next = &all.members[(i + 1) % RING];
        seats[i] = (struct seat){&all, i};
        threads[i] = thread_start(member_main, &seats[i]);
    }
    for (unsigned i = 0; i < RING; i++)
        thread_join(threads[i]);
    for (unsigned i = 0; i < RING; i++)
        CHECK_EQ(all.members[i].passes, ROUNDS);
    pthread_barrier_destroy(&all.made);
    pthread_barrier_destroy(&all.over);
}

/* ---- a thread that ends without freeing its reactor ---- */

static void *leaver_main(void *arg) {
    things_make(arg);
    return NULL;
}

bool port_refuses(uint16_t port) {
    struct kr_addr addr = test_loopback(port);
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int error = connect(fd, &addr.u.sa, addr.size) < 0 ? errno : 0;
    CHECK(error == 0 || error == ECONNREFUSED || error == ECONNRESET);
    test_close(fd);
    return error == ECONNREFUSED;
}

/* Ours: whoever has joined the thread that ran a reactor may free it, and nothing else: all that is
 * owed is told, once, posts that were accepted after the thread's end run, peers see their end, and
 * the port is free. */
TEST_EACH(thread_has_ended_and_another_frees) {
    struct things t;
    thread_join(thread_start(leaver_main, &t));
    check_refused(&t, EPERM);
    unsigned ran = 0;
    CHECK_OK(kr_post(t.r, test_count_call, &ran));
    CHECK_EQ(t.closes, 0u);
    test_reactor_free(t.r);
    CHECK_EQ(ran, 1u);
    CHECK_EQ(t.closes, 1u);
    CHECK_EQ(t.error, 0);
    CHECK_EQ(t.why, KR_WHY_REACTOR);
    test_recv_end(NULL, t.fd, NULL);
    test_close(t.fd);
    while (!port_refuses(t.port))
        usleep(1000);
}

struct debts {
    struct things things;
    int far[2], near[2];
    kr_conn ends[2];
    unsigned released, forwarded, given;
};

static void debt_released(struct kr_reactor *r, void *arg) {
    (void)r;
    ((struct debts *)arg)->released++;
}

static void debt_forwarded(struct kr_reactor *r, kr_conn a, kr_conn b, void *user,
                           const struct kr_forwarded *what) {
    UNUSED(r, a, b, what);
    ((struct debts *)user)->forwarded++;
}

static void *debtor_main(void *arg) {
    static char much[15 << 20]; /* more than loopback keeps */
    struct debts *d = arg;
    things_make(&d->things);
    struct kr_reactor *r = d->things.r;
    CHECK_OK(kr_conn_send_ref(r, d->things.conn, much, sizeof much, debt_released, d));
    CHECK_OK(kr_conn_send_ref(r, d->things.conn, "last", 4, debt_released, d));
    for (unsigned i = 0; i < 2; i++) {
        int pair[2];
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
        CHECK_OK(kr_conn_adopt(r, &d->ends[i], pair[0], NULL, &things_ops, &d->things));
        d->far[i] = pair[1];
    }
    while (d->things.opens < 3)
        test_step(r, "three connections");
    CHECK_OK(kr_conn_forward(r, d->ends[0], d->ends[1], NULL, debt_forwarded, d));
    kr_step(r, 0);
    return NULL;
}

/* Ours: the same of what is lent and what is paired: a loan that is under way and one that waits
 * behind it come back, and a forwarding pair is told of its end. */
TEST_EACH(thread_has_ended_with_requests_under_way) {
    static struct debts d;
    thread_join(thread_start(debtor_main, &d));
    CHECK_EQ(d.released, 0u);
    test_reactor_free(d.things.r);
    CHECK_EQ(d.released, 2u);
    CHECK_EQ(d.forwarded, 1u);
    CHECK_EQ(d.things.closes, 3u);
    test_recv_end(NULL, d.things.fd, NULL);
    test_close(d.things.fd);
    for (unsigned i = 0; i < 2; i++) {
        test_recv_end(NULL, d.far[i], NULL);
        test_close(d.far[i]);
    }
}

struct heir {
    struct things *old;
    struct things own;
};

static void *heir_main(void *arg) {
    struct heir *heir = arg;
    things_make(&heir->own);
    check_refused(heir->old, EPERM);
    test_reactor_free(heir->old->r);
    things_check_unharmed(&heir->own);
    things_end(&heir->own);
    return NULL;
}

/* Ours: a thread that comes after another, to which glibc gives the same stack and thread-locals
 * and the kernel the same place for its registered ring, is another thread all the same: it is
 * refused, and when it frees the reactor that was left its own one is not disturbed. */
TEST_EACH(thread_after_another_is_another) {
    struct things t;
    thread_join(thread_start(leaver_main, &t));
    struct heir heir = {.old = &t};
    thread_join(thread_start(heir_main, &heir));
    CHECK_EQ(t.closes, 1u);
    test_close(t.fd);
}

static void leave(struct kr_reactor *r, void *arg) {
    UNUSED(r, arg);
    pthread_exit(NULL);
}

static void *deserter_main(void *arg) {
    CHECK_OK(kr_post(arg, leave, NULL));
    kr_run(arg);
    return NULL;
}

/* Ours: a thread that ends within a callback leaves a turn half done, and the reactor is not freed
 * then. (The case ends the turn by hand, to give all back.) */
TEST_EACH(thread_that_ends_in_a_callback_is_not_inherited) {
    struct kr_reactor *r = test_reactor(NULL);
    thread_join(thread_start(deserter_main, r));
    CHECK_ERR(kr_reactor_free(r), EBUSY);
    CHECK_ERR(kr_reactor_free(r), EBUSY);
    r->in_turn = false;
    test_reactor_free(r);
}

/* Ours: more reactors on one thread than it can register ring descriptors (16,
 * io_uring/register.c); each has its own connections, and freeing some does not disturb the
 * others. */
TEST_EACH(twenty_reactors_on_one_thread) {
    static struct things all[20];
    for (unsigned i = 0; i < 20; i++)
        things_make(&all[i]);
    for (unsigned i = 0; i < 20; i += 2)
        things_end(&all[i]);
    for (unsigned i = 1; i < 20; i += 2)
        things_check_unharmed(&all[i]);
    for (unsigned i = 0; i < 20; i += 2)
        things_make(&all[i]);
    for (unsigned i = 0; i < 20; i++) {
        things_check_unharmed(&all[i]);
        things_end(&all[i]);
    }
}

/* Ours: a freed reactor gives back its place among the thread's registered ring descriptors, so
 * that the next one still has the cheaper way into the kernel. A thread has 16 such places
 * (IO_RINGFD_REG_MAX, since 5.18). */
TEST_EACH(registered_descriptors_are_given_back) {
    for (unsigned i = 0; i < 40; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        CHECK_EQ(kr_step(r, 0), 0);
        CHECK(r->ring.registered);
        test_reactor_free(r);
    }
}

TAP_MAIN(owner, 100)
