/* Whose reactor it is: threads, forked children, many reactors, and signals that interrupt its
 * waits.
 *
 * What must hold: only the owner's thread gets anything done, everyone else an error and no effect;
 * a forked child can neither use nor harm the parent's reactor; reactors do not know of each other
 * and leave nothing behind. This suite also runs under TSan. */
#include "harness/server.h"

#include "core/reactor.h"
#include "reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static pthread_t thread_start(void *(*fn)(void *), void *arg) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, fn, arg), 0);
    return thread;
}

static void thread_join(pthread_t thread) {
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

/* Waits for a forked child and checks that it ended well. */
static void child_join(pid_t child) {
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

/* ---- a reactor with one of each thing ---- */

struct things {
    struct kr_reactor *r;
    kr_conn conn;
    kr_listener listener;
    kr_timer timer;
    uint16_t port;
    int fd;
    unsigned opens, closes;
    int error; /* of the last close */
    enum kr_why why;
};

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

static const struct kr_conn_ops things_ops = {
    .on_open = things_open, .on_data = test_send_back, .on_close = things_close};

static void never(struct kr_reactor *r, kr_timer timer, void *user) {
    UNUSED(r, timer, user);
    FAIL("a timer of the far future fired");
}

static void nothing(struct kr_reactor *r, void *arg) {
    UNUSED(r, arg);
}

static void echo_once(struct things *t, const char *text) {
    char back[64];
    size_t size = strlen(text);
    test_send(t->r, t->fd, text, size);
    test_recv(t->r, t->fd, back, size);
    CHECK_MEM_EQ(back, text, size);
}

static void things_make(struct things *t) {
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

static void things_check_unharmed(struct things *t) {
    echo_once(t, "after");
    struct kr_stats stats = test_stats(t->r);
    CHECK_EQ(stats.conns, 1u);
    CHECK_EQ(stats.listeners, 1u);
    CHECK_EQ(stats.timers, 1u);
    CHECK_EQ(t->opens, 1u);
    CHECK_EQ(t->closes, 0u);
}

static void things_end(struct things *t) {
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

static void check_refused(const struct things *t, int error) {
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

static void small_config(struct kr_config *config) {
    kr_config_init(config);
    config->sq_entries = 8;
    config->cq_entries = 16;
    config->conn_max = 16;
    config->file_max = 4;
    config->buf_count = 4;
    config->buf_size = 4096;
    config->post_max = 16;
}

/* A reactor of the running variant, over a kernel of the case's own, with malloc for its
 * allocator. */
static struct kr_reactor *variant_reactor(const struct kr_config *config,
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

/* Whether nobody listens there. A listener that goes just then resets whom it has in its backlog, maybe
 * before connect(2) has returned. */
static bool port_refuses(uint16_t port) {
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

/* ---- fork ---- */

/* Ours: in a forked child every call answers -ECHILD, kr_post and kr_stats_read too, and has no
 * effect on the parent, who is in the middle of things. */
TEST_EACH(forked_child_is_refused_everything) {
    struct things t;
    things_make(&t);
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        check_refused(&t, ECHILD);
        struct kr_stats stats;
        CHECK_ERR(kr_stats_read(t.r, &stats, sizeof stats), ECHILD);
        CHECK_ERR(kr_post(t.r, nothing, NULL), ECHILD);
        kr_stop(t.r);
        tap_exit_child(0);
    }
    child_join(child);
    things_check_unharmed(&t);
    things_end(&t);
}

/* Ours: kr_reactor_free in the child closes the child's copies of the descriptors and gives its
 * memory back, runs no callback, and the parent does not notice: its connection, timer and listener
 * go on. */
TEST_EACH(forked_child_frees_its_copies) {
    int before = tap_fd_count();
    struct things t;
    things_make(&t);
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        test_reactor_free(t.r);
        test_close(t.fd);
        CHECK_EQ(t.closes, 0u);
        CHECK_EQ(tap_fd_count(), before);
        tap_exit_child(0);
    }
    child_join(child);
    things_check_unharmed(&t);
    int fd = t.fd;
    t.fd = test_connect(t.port);
    echo_once(&t, "a second connection");
    test_close(fd);
    TEST_UNTIL(t.r, t.closes == 1);
    t.closes = 0;
    things_end(&t);
}

/* Ours: a reservation that is open when the process forks is given back by the child with the rest
 * of its copy, and is the parent's to commit. */
TEST_EACH(forked_child_gives_an_open_reservation_back) {
    struct things t;
    things_make(&t);
    void *room;
    CHECK_OK(kr_conn_reserve(t.r, t.conn, 5000, &room));
    memcpy(room, "kept", 4);
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        test_reactor_free(t.r);
        test_close(t.fd);
        tap_exit_child(0);
    }
    child_join(child);
    CHECK_OK(kr_conn_commit(t.r, t.conn, 4));
    CHECK_RECV(t.r, t.fd, "kept");
    things_check_unharmed(&t);
    things_end(&t);
}

/* Ours: a reactor made before the fork and never run is the parent's all the same; the child may
 * make its own. */
TEST_EACH(forked_child_makes_its_own) {
    struct things t = {.r = test_reactor(NULL)};
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        CHECK_ERR(kr_step(t.r, 0), ECHILD);
        struct things own;
        things_make(&own);
        things_end(&own);
        test_reactor_free(t.r);
        tap_exit_child(0);
    }
    child_join(child);
    t.port = test_listen(t.r, &t.listener, NULL, &things_ops, &t);
    t.fd = test_connect(t.port);
    echo_once(&t, "the parent's");
    things_end(&t);
}

/* ---- a child that returns from the callback that forked ---- */

enum place {
    IN_OPEN,
    IN_DATA,
    IN_EOF,
    IN_CLOSE,
    IN_TIMER,
    IN_POST,
    IN_RELEASE,
    IN_DRAINED,
    PLACES
};

/* Forks once, in the callback of its place. */
struct brancher {
    struct kr_reactor *r;
    enum place place;
    bool frees; /* the child frees its copy in there */
    pid_t child; /* -1: has not forked yet; 0: this is the child */
    unsigned after; /* callbacks that ran in the child later */
};

static void branch(struct brancher *b, enum place place) {
    b->after += b->child == 0;
    if (b->child >= 0 || place != b->place)
        return;
    int before = tap_fd_count();
    b->child = CHECK_SYS(fork());
    if (b->child > 0)
        return;
    CHECK_ERR(kr_timer_start(b->r, NULL, 0, 0, never, NULL), ECHILD);
    if (b->frees) {
        CHECK_OK(kr_reactor_free(b->r));
        CHECK_LT(tap_fd_count(), before);
    }
}

static void branch_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct brancher *b = user;
    if (b->place == IN_RELEASE)
        CHECK_OK(kr_conn_send_ref(r, conn, "lent", 4, NULL, NULL));
    branch(b, IN_OPEN);
}

static size_t branch_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    UNUSED(r, conn, data);
    branch(user, IN_DATA);
    return size / 2;
}

static void branch_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    branch(user, IN_EOF);
    kr_conn_close(r, conn, KR_CLOSE_NOW);
}

static void branch_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                         enum kr_why why) {
    UNUSED(r, conn, error, why);
    branch(user, IN_CLOSE);
}

static const struct kr_conn_ops branch_ops = {.on_open = branch_open,
                                              .on_data = branch_data,
                                              .on_eof = branch_eof,
                                              .on_close = branch_close};

static void branch_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    UNUSED(r, timer);
    branch(user, IN_TIMER);
}

static void branch_post(struct kr_reactor *r, void *arg) {
    (void)r;
    branch(arg, IN_POST);
}

static void branch_released(struct kr_reactor *r, void *arg) {
    (void)r;
    branch(arg, IN_RELEASE);
}

static void branch_drained(struct kr_reactor *r, void *user, unsigned cut_off) {
    UNUSED(r, cut_off);
    branch(user, IN_DRAINED);
}

/* Two clients come, say something and go, beside a timer, a post, a loan and at last a drain: in
 * one of these the process forks. The child comes out of kr_step with -ECHILD. */
static void branch_at(enum place place, bool frees) {
    struct brancher b = {.r = test_reactor(NULL), .place = place, .frees = frees, .child = -1};
    uint16_t port = test_listen(b.r, NULL, NULL, &branch_ops, &b);
    CHECK_OK(kr_timer_start(b.r, NULL, MS, 0, branch_timer, &b));
    CHECK_OK(kr_timer_start(b.r, NULL, MS, 0, branch_timer, &b));
    CHECK_OK(kr_post(b.r, branch_post, &b));
    CHECK_OK(kr_post(b.r, branch_post, &b));
    kr_conn lender;
    int pair[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    CHECK_OK(kr_conn_adopt(b.r, &lender, pair[0], NULL, &branch_ops, &b));
    CHECK_OK(kr_conn_send_ref(b.r, lender, "lent", 4, branch_released, &b));
    int fds[] = {test_connect(port), test_connect(port), pair[1]};
    for (unsigned i = 0; i < 3; i++) {
        test_send(NULL, fds[i], "hello", 5);
        CHECK_SYS(shutdown(fds[i], SHUT_WR));
    }
    int rc = 0;
    for (unsigned turn = 0; rc >= 0 && b.child < 0; turn++) {
        if (turn == 20)
            CHECK_OK(kr_drain(b.r, HOUR, branch_drained, &b));
        rc = kr_step(b.r, MS);
    }
    if (b.child == 0) {
        CHECK_EQ(rc, -ECHILD);
        CHECK_EQ(b.after, 0u);
        if (!frees)
            CHECK_OK(kr_reactor_free(b.r));
        tap_exit_child(0);
    }
    CHECK_GE(rc, 0);
    child_join(b.child);
    TEST_UNTIL(b.r, test_stats(b.r).conns == 0);
    test_reactor_free(b.r);
    for (unsigned i = 0; i < 3; i++)
        test_close(fds[i]);
}

/* Ours: the child of a fork inside a callback may return from it: it comes out of kr_step with
 * -ECHILD, runs no further callback and touches nothing of the parent's, which goes on. In every
 * phase of the turn. */
TEST_EACH(forked_child_returns_from_its_callback) {
    for (enum place place = 0; place < PLACES; place++)
        branch_at(place, false);
}

/* Ours: it may free its copy in there, which closes the descriptors at once, and the rest when the
 * callback has returned. */
TEST_EACH(forked_child_frees_inside_its_callback) {
    for (enum place place = 0; place < PLACES; place++)
        branch_at(place, true);
}

static void branch_closed_by_free(struct kr_reactor *r, kr_conn conn, void *user, int error,
                                  enum kr_why why) {
    CHECK_EQ(why, KR_WHY_REACTOR);
    branch_close(r, conn, user, error, why);
}

static const struct kr_conn_ops freed_ops = {.on_data = branch_data,
                                             .on_close = branch_closed_by_free};

static void branch_in_free(bool ran) {
    struct brancher b = {.r = test_reactor(NULL), .place = IN_CLOSE, .child = -1};
    int far[2];
    for (unsigned i = 0; i < 2; i++) {
        int pair[2];
        kr_conn conn;
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
        CHECK_OK(kr_conn_adopt(b.r, &conn, pair[0], NULL, &freed_ops, &b));
        far[i] = pair[1];
    }
    if (ran)
        CHECK_GE(kr_step(b.r, 0), 0);
    struct kr_reactor *r = b.r;
    CHECK_OK(kr_reactor_free(r));
    if (b.child == 0) {
        CHECK_EQ(b.after, 0u);
        tap_exit_child(0);
    }
    child_join(b.child);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(test_recv_end(NULL, far[i], NULL), 0);
        test_close(far[i]);
    }
}

/* Ours: so in kr_reactor_free, of a reactor that has run and of one that never has, whose ring the
 * child could still change: the parent's peers see their end by the parent's doing. */
TEST_EACH(forked_child_returns_into_free) {
    branch_in_free(true);
    branch_in_free(false);
}

/* ---- a child that lives on ---- */

static struct kr_reactor *parents;

static void let_go(void) {
    CHECK_OK(kr_reactor_after_fork(parents));
    CHECK_OK(kr_reactor_after_fork(parents));
}

/* A daemon of one connection, whose child outlives it. */
static void daemon_main(int said, int hold) {
    struct things t = {.r = test_reactor(NULL)};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.keep_fd = true;
    t.port = test_listen(t.r, &t.listener, &opts, &things_ops, &t);
    CHECK_EQ(write(said, &t.port, sizeof t.port), (ssize_t)sizeof t.port);
    TEST_UNTIL(t.r, t.opens == 1 && test_stats(t.r).bytes_in == 1);
    parents = t.r;
    CHECK_EQ(pthread_atfork(NULL, NULL, let_go), 0);
    if (CHECK_SYS(fork()) == 0) {
        check_refused(&t, ECHILD);
        char byte;
        CHECK_EQ(read(hold, &byte, 1), 0); /* until the case lets it end */
        CHECK_OK(kr_reactor_free(t.r));
        tap_exit_child(0);
    }
    CHECK_EQ(write(said, "", 1), 1);
    for (;;)
        pause();
}

/* Ours: a child that has called kr_reactor_after_fork, which may be in a handler of pthread_atfork,
 * holds nothing of the parent's open, neither its connections, also with keep_fd, nor its port:
 * when the parent is killed the peer sees its end, although the child lives. */
TEST_EACH(child_that_lets_go_keeps_no_peer_waiting) {
    int said[2], hold[2];
    CHECK_SYS(pipe2(said, O_CLOEXEC));
    CHECK_SYS(pipe2(hold, O_CLOEXEC));
    pid_t daemon = CHECK_SYS(fork());
    if (daemon == 0) {
        CHECK_SYS(close(hold[1]));
        daemon_main(said[1], hold[0]);
    }
    uint16_t port;
    char byte;
    CHECK_EQ(read(said[0], &port, sizeof port), (ssize_t)sizeof port);
    int fd = test_connect(port);
    test_send(NULL, fd, "x", 1);
    CHECK_EQ(read(said[0], &byte, 1), 1);
    CHECK_SYS(kill(daemon, SIGKILL));
    int status;
    CHECK_EQ(waitpid(daemon, &status, 0), daemon);
    test_recv_end(NULL, fd, NULL);
    test_close(fd);
    while (!port_refuses(port))
        usleep(1000);
    for (unsigned i = 0; i < 2; i++) {
        test_close(said[i]);
        test_close(hold[i]);
    }
}

/* Ours: in a process that is no forked child it is refused, and nothing is closed. */
TEST_EACH(after_fork_is_for_children) {
    struct things t;
    things_make(&t);
    CHECK_ERR(kr_reactor_after_fork(NULL), EINVAL);
    CHECK_ERR(kr_reactor_after_fork(t.r), EPERM);
    things_check_unharmed(&t);
    things_end(&t);
}

struct forker {
    unsigned beats;
};

static void fork_in_callback(struct kr_reactor *r, kr_timer timer, void *user) {
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        CHECK_ERR(kr_timer_stop(r, timer), ECHILD);
        CHECK_ERR(kr_step(r, 0), ECHILD);
        tap_exit_child(0);
    }
    child_join(child);
    ((struct forker *)user)->beats++;
}

/* Ours: forking inside a callback, amid traffic, is no different; bytes are neither lost nor
 * doubled by the children's copies of the rings. */
TEST_EACH(fork_inside_callbacks_amid_traffic) {
    struct things t;
    things_make(&t);
    struct forker forker = {0};
    CHECK_OK(kr_timer_start(t.r, NULL, 0, MS, fork_in_callback, &forker));
    struct test_echo echo = {.fd = t.fd, .seed = 5, .total = 1 << 20, .send_piece = 4096};
    while (forker.beats < 10 || !test_echo_done(&echo)) {
        test_echo_move(&echo);
        test_step(t.r, "an echo beside forks");
    }
    things_end(&t);
}

/* Ours: no descriptor of a reactor is inherited by a program that the process executes. */
TEST_EACH(descriptors_are_closed_on_exec) {
    struct kr_reactor *r = test_reactor(NULL);
    test_listen(r, NULL, NULL, &things_ops, NULL);
    CHECK_EQ(kr_step(r, 0), 0);
    unsigned found = 0;
    for (int fd = 3; fd < 64; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0)
            continue;
        CHECK(flags & FD_CLOEXEC);
        found++;
    }
    CHECK_EQ(found, 2u + (unsigned)test_slot_cost(r));
    test_reactor_free(r);
}

/* ---- made and freed, many times ---- */

/* The real kernel, with what is opened and mapped counted. */
static struct {
    long rings, mapped, wakes;
    size_t bytes;
} held;

static int counted_ring_open(const struct kr__kernel *k, struct io_uring *ring, unsigned entries,
                             struct io_uring_params *params) {
    int rc = kr__linux.ring_open(k, ring, entries, params);
    held.rings += rc >= 0;
    return rc;
}

static void counted_ring_close(const struct kr__kernel *k, struct io_uring *ring, bool registered,
                               bool child) {
    kr__linux.ring_close(k, ring, registered, child);
    held.rings--;
}

static void *counted_map(const struct kr__kernel *k, size_t size, enum kr__map how) {
    void *pages = kr__linux.map(k, size, how);
    held.mapped += pages != NULL;
    held.bytes += pages ? size : 0;
    return pages;
}

static void counted_unmap(const struct kr__kernel *k, void *pages, size_t size) {
    kr__linux.unmap(k, pages, size);
    held.mapped--;
    held.bytes -= size;
}

static unsigned count_ring_mappings(void) {
    FILE *maps = fopen("/proc/self/maps", "re");
    CHECK(maps);
    char line[512];
    unsigned count = 0;
    while (fgets(line, sizeof line, maps))
        count += strstr(line, "[io_uring]") != NULL;
    fclose(maps);
    return count;
}

static void make_use_and_free(const struct kr__kernel *kernel, const struct kr_config *config,
                              unsigned i) {
    struct kr_reactor *r = variant_reactor(config, kernel);
    struct things t = {.r = r, .fd = -1};
    if (i % 8 == 1)
        CHECK_OK(kr_timer_start(r, NULL, 0, 0, never, NULL));
    if (i % 8 == 2 || i % 8 == 3)
        t.port = test_listen(r, NULL, NULL, &things_ops, &t);
    if (i % 8 == 3) {
        t.fd = test_connect(t.port);
        TEST_UNTIL(r, t.opens == 1);
    }
    if (i % 8 == 4)
        CHECK_EQ(kr_step(r, 0), 0);
    CHECK_OK(kr_reactor_free(r));
    CHECK_EQ(t.closes, t.opens);
    if (t.fd >= 0)
        test_close(t.fd);
}

/* Ours: reactors made and freed one after another, run or not, with listeners and connections or
 * without, leave no descriptor, mapping, ring or byte behind. */
TEST_EACH(thousands_made_and_freed, .deadline_s = 120) {
    struct kr__kernel counted = kr__linux;
    counted.ring_open = counted_ring_open;
    counted.ring_close = counted_ring_close;
    counted.map = counted_map;
    counted.unmap = counted_unmap;
    struct kr_config small, usual;
    small_config(&small);
    kr_config_init(&usual);

    int before = tap_fd_count();
    unsigned count = tap_full() ? 10000 : 400;
    for (unsigned i = 0; i < count; i++) {
        make_use_and_free(&counted, i % 10 == 9 ? &usual : &small, i);
        CHECK_EQ(tap_fd_count(), before);
        CHECK_EQ(held.rings, 0);
        CHECK_EQ(held.mapped, 0);
        CHECK_EQ(held.bytes, 0u);
    }
    CHECK_EQ(count_ring_mappings(), 0u);
}

/* ---- signals ---- */

static void ignore(int signo) {
    (void)signo;
}

static void storm(long every_us) {
    struct sigaction action = {.sa_handler = ignore};
    CHECK_SYS(sigaction(SIGALRM, &action, NULL));
    struct itimerval timer = {.it_interval.tv_usec = every_us, .it_value.tv_usec = every_us};
    CHECK_SYS(setitimer(ITIMER_REAL, &timer, NULL));
}

struct driver {
    struct test_echo echoes[16];
    unsigned beats;
};

static void drive(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    struct driver *d = user;
    bool done = ++d->beats > 200;
    for (unsigned i = 0; i < 16; i++) {
        test_echo_move(&d->echoes[i]);
        done = done && test_echo_done(&d->echoes[i]);
    }
    if (done)
        kr_stop(r);
}

/* Ours: signals that interrupt every wait end no run, lose no byte and no timer. kr_run is left
 * only by the kr_stop that follows the last echo. */
TEST_EACH(signal_storm_ends_no_run) {
    struct things t = {.r = test_reactor(NULL)};
    t.port = test_listen(t.r, NULL, NULL, &things_ops, &t);
    static struct driver d;
    for (unsigned i = 0; i < 16; i++)
        d.echoes[i] = (struct test_echo){
            .fd = test_connect(t.port), .seed = i, .total = 256 * 1024, .send_piece = 3000};
    kr_timer timer;
    CHECK_OK(kr_timer_start(t.r, &timer, 0, 100000, drive, &d));
    storm(100);
    CHECK_EQ(kr_run(t.r), 0);
    storm(0);
    CHECK_OK(kr_timer_stop(t.r, timer));
    for (unsigned i = 0; i < 16; i++) {
        CHECK(test_echo_done(&d.echoes[i]));
        test_close(d.echoes[i].fd);
    }
    test_reactor_end(t.r, (struct test_levels){.listeners = 1});
}

/* Ours: a signal may end the wait of a kr_step, which then answers 0, never an error. */
TEST_EACH(signal_storm_fails_no_step) {
    struct kr_reactor *r = test_reactor(NULL);
    kr_timer timer;
    CHECK_OK(kr_timer_start(r, &timer, HOUR, 0, never, NULL));
    storm(200);
    for (int64_t until = tap_now_ns() + 100 * MS; tap_now_ns() < until;)
        CHECK_EQ(kr_step(r, 10 * MS), 0);
    storm(0);
    CHECK_OK(kr_timer_stop(r, timer));
    test_reactor_free(r);
}

TAP_MAIN(owner, 96)
