/* Fork: a child owns nothing, and what it inherits it may leave or free. */
#include "owner/owner.h"

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
    bool frees;     /* the child frees its copy in there */
    pid_t child;    /* -1: has not forked yet; 0: this is the child */
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

static const struct kr_conn_ops branch_ops = {
    .on_open = branch_open, .on_data = branch_data, .on_eof = branch_eof, .on_close = branch_close};

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
