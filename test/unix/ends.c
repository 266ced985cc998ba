/* The end of a path, and connections through one. */
#include "unix/unix.h"

/* ---- the end of a path ---- */

/* Ours: a relative path is removed where it was made, wherever the process has gone since; and not
 * what has the same name there. */
TEST_EACH(unix_remove_after_a_chdir) {
    struct place p = place_begin(), other = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    int back = CHECK_SYS(open(".", O_PATH | O_CLOEXEC));
    CHECK_SYS(chdir(p.dir));
    struct kr_addr addr;
    CHECK_OK(kr_addr_unix(&addr, "socket"));
    struct kr_listen_opts opts = default_opts();
    opts.unix_remove = true;
    struct test_server s = {0};
    kr_listener listener = listen_at(r, &addr, &opts, &s);
    CHECK_SYS(chdir(other.dir));
    test_close(CHECK_SYS(open("socket", O_CREAT | O_WRONLY | O_CLOEXEC, 0600)));
    CHECK_OK(kr_step(r, 0));
    CHECK_OK(kr_listener_close(r, listener));
    CHECK(!is_there(&p));
    CHECK(is_there(&other));
    CHECK_SYS(fchdir(back));
    test_close(back);
    test_reactor_free(r);
    place_end(&p);
    place_end(&other);
}

static struct kr_listen_opts removing_opts(void) {
    struct kr_listen_opts opts = default_opts();
    opts.unix_remove = true;
    return opts;
}

/* Ours: the file goes with the listener, at its close already: whoever comes then finds nobody. */
TEST_EACH(unix_removes_its_path_at_the_close) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = removing_opts();
    kr_listener listener = listen_at(r, &p.addr, &opts, &s);
    check_serves(r, &p.addr, &s);
    int fd = test_connect_addr(&p.addr, SOCK_NONBLOCK);
    TEST_UNTIL(r, s.open == 1);
    CHECK_OK(kr_listener_close(r, listener));
    CHECK(!is_there(&p));
    listener = listen_at(r, &p.addr, &opts, &s); /* the place is free at once */
    check_serves(r, &p.addr, &s);
    test_close(fd);
    TEST_UNTIL(r, s.open == 0);
    CHECK(is_there(&p));
    test_reactor_free(r);
    CHECK(!is_there(&p));
    place_end(&p);
}

TEST_EACH(unix_removes_its_path_at_the_end_of_the_reactor) {
    struct place p = place_begin();
    for (unsigned turns = 0; turns < 3; turns++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct test_server s = {0};
        struct kr_listen_opts opts = removing_opts();
        listen_at(r, &p.addr, &opts, &s);
        for (unsigned i = 0; i < turns; i++)
            CHECK_OK(kr_step(r, 0));
        test_reactor_free(r);
        CHECK(!is_there(&p));
    }
    place_end(&p);
}

/* Ours: a path that is somebody else's by now is left alone. */
TEST_EACH(unix_removes_no_path_of_others) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0}, heir = {0};
    struct kr_listen_opts opts = removing_opts();
    kr_listener listener = listen_at(r, &p.addr, &opts, &s);
    CHECK_SYS(unlink(p.path));
    kr_listener second = listen_at(r, &p.addr, NULL, &heir);
    CHECK_OK(kr_listener_close(r, listener));
    CHECK(is_there(&p));
    check_serves(r, &p.addr, &heir);
    CHECK_OK(kr_listener_close(r, second));
    test_reactor_end(r, (struct test_levels){.conns = 0});
    place_end(&p);
}

/* Ours: a forked child gives its copies back, and the parent's path stays. */
TEST_EACH(unix_path_outlives_a_forked_child) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = removing_opts();
    listen_at(r, &p.addr, &opts, &s);
    check_serves(r, &p.addr, &s);
    pid_t pid = CHECK_SYS(fork());
    if (pid == 0) {
        CHECK_OK(kr_reactor_free(r));
        _exit(0);
    }
    int status;
    CHECK_SYS(waitpid(pid, &status, 0));
    CHECK_EQ(status, 0);
    CHECK(is_there(&p));
    check_serves(r, &p.addr, &s);
    test_reactor_free(r);
    CHECK(!is_there(&p));
    place_end(&p);
}

/* Ours: what cannot be had is told, and leaves no file: no directory, a name that the kernel
 * refuses, no slot, no place in the table. */
static int refuse_update(const struct kr__kernel *k, struct io_uring *ring, unsigned opcode,
                         const void *arg, unsigned count) {
    (void)k;
    if (opcode == IORING_REGISTER_FILES_UPDATE)
        return -ENOMEM;
    return kr__linux.ring.reg(&kr__linux, ring, opcode, arg, count);
}

static int refuse_dup(const struct kr__kernel *k, int fd) {
    UNUSED(k, fd);
    return -ENOMEM;
}

TEST_EACH(unix_refusals_leave_no_file) {
    struct place p = place_begin();
    struct kr_config config = test_config();
    config.listener_max = 1;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s = {0};
    struct kr_addr bad;
    CHECK_OK(kr_addr_unix(&bad, "/tmp/kr-unix/there/is/no/such/directory"));
    CHECK_ERR(kr_listen(r, NULL, &bad, NULL, &test_server_echo_eof_ops, &s), ENOENT);
    CHECK_OK(kr_addr_unix(&bad, "/dev/null/socket"));
    CHECK_ERR(kr_listen(r, NULL, &bad, NULL, &test_server_echo_eof_ops, &s), ENOTDIR);
    struct kr_listen_opts opts = default_opts();
    opts.unix_mode = 01000;
    CHECK_ERR(kr_listen(r, NULL, &p.addr, &opts, &test_server_echo_eof_ops, &s), EINVAL);
    test_listen(r, NULL, NULL, &test_server_echo_eof_ops, &s);
    CHECK_ERR(kr_listen(r, NULL, &p.addr, NULL, &test_server_echo_eof_ops, &s), ENOSPC);
    CHECK(!is_there(&p));
    test_reactor_free(r);

    static struct kr__kernel refusing;
    refusing = kr__linux;
    refusing.ring.reg = refuse_update; /* of a registered table */
    refusing.file.dup = refuse_dup;    /* of a plain one */
    r = test_reactor_on(&refusing, NULL);
    CHECK_ERR(kr_listen(r, NULL, &p.addr, NULL, &test_server_echo_eof_ops, &s), ENOMEM);
    CHECK(!is_there(&p));
    test_reactor_free(r);
    place_end(&p);
}

/* ---- connections ---- */

/* Ours: with few slots nobody is dropped here either, whether a client is asked for its address or
 * not. */
static void check_limit(bool addresses) {
    struct place p = place_begin();
    struct kr_config config = test_config();
    config.conn_max = 3;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s = {0};
    struct kr_listen_opts opts = default_opts();
    opts.addresses = addresses;
    listen_at(r, &p.addr, &opts, &s);
    int fds[40];
    for (unsigned i = 0; i < 40; i++)
        fds[i] = test_connect_addr(&p.addr, SOCK_NONBLOCK);
    for (unsigned i = 0; i < 40; i++) {
        char back;
        test_send(r, fds[i], "x", 1);
        test_recv(r, fds[i], &back, 1);
        test_close(fds[i]);
    }
    TEST_UNTIL(r, s.closes == 40);
    CHECK_LE(s.most, 3u);
    CHECK_EQ(test_stats(r).accept_errors, 0u);
    test_reactor_free(r);
    place_end(&p);
}

TEST_EACH(unix_limits_drop_nobody) {
    check_limit(false);
    check_limit(true);
}

/* Ours, and the kernel's: a Unix socket cannot be reset: it closes, which its peer sees as the end,
 * or as a reset if bytes of its own were left unread (unix_release_sock, net/unix/af_unix.c). None
 * are where descriptors cannot be refused, and may lie among them. */
TEST_EACH(unix_reset_is_as_now) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    listen_at(r, &p.addr, NULL, &s);
    for (unsigned i = 0; i < 4; i++) {
        bool unread = i % 2;
        int fd = test_connect_addr(&p.addr, SOCK_NONBLOCK);
        TEST_UNTIL(r, s.opens == i + 1);
        if (unread) {
            CHECK_OK(kr_conn_pause(r, s.conn));
            CHECK_OK(kr_step(r, 0));
            CHECK_OK(kr_step(r, 0));
            test_send(NULL, fd, "unread", 6);
        }
        CHECK_OK(kr_conn_close(r, s.conn, i < 2 ? KR_CLOSE_RESET : KR_CLOSE_NOW));
        TEST_UNTIL(r, s.closes == i + 1);
        CHECK_EQ(s.error, 0);
        CHECK_EQ(s.why, KR_WHY_LOCAL);
        unread &= (r->ring.caps & KR__CAP_REFUSES_FDS) != 0;
        CHECK_EQ(test_recv_end(r, fd, NULL), unread ? ECONNRESET : 0);
        test_close(fd);
    }
    test_reactor_free(r);
    place_end(&p);
}

/* Ours: a relay of a megabyte through a small queue arrives whole. */
TEST_EACH(unix_echo_returns_every_byte) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = default_opts();
    opts.conn.send_low = 1000;
    opts.conn.send_high = 10000;
    opts.conn.send_cap = 100000;
    listen_at(r, &p.addr, &opts, &s);
    struct test_echo echo = {
        .fd = test_connect_addr(&p.addr, SOCK_NONBLOCK), .seed = 3, .total = 1 << 20};
    while (!test_echo_done(&echo)) {
        test_echo_move(&echo);
        test_step(r, "an echo");
    }
    test_close(echo.fd);
    TEST_UNTIL(r, s.closes == 1);
    test_reactor_free(r);
    place_end(&p);
}

/* Requests to receive that were submitted, and how many of them were multishot. */
static struct {
    struct kr__kernel kernel; /* first: the functions are given a pointer to it */
    unsigned receives, multishots;
} watched;

static int watch_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                       unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    (void)k;
    for (unsigned i = 0; i < submit; i++) {
        const struct io_uring_sqe *sqe =
            &ring->sq.sqes[(*ring->sq.khead + i) & *ring->sq.kring_mask];
        bool receives = sqe->opcode == IORING_OP_RECV || sqe->opcode == IORING_OP_RECVMSG;
        watched.receives += receives;
        watched.multishots += receives && sqe->ioprio & IORING_RECV_MULTISHOT;
    }
    return kr__linux.ring.enter(&kr__linux, ring, submit, wait_for, flags, arg);
}

/* Ours: on a Unix socket, whoever made it, no receive is multishot, as such a one may miss the end
 * of the stream (conn/recv.c); on TCP each is. */
TEST_EACH(unix_receives_are_of_one_shot) {
    struct place p = place_begin();
    watched.kernel = kr__linux;
    watched.kernel.ring.enter = watch_enter;
    watched.receives = watched.multishots = 0;
    struct kr_reactor *r = test_reactor_on(&watched.kernel, NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = default_opts();
    opts.addresses = true;
    kr_listener listener = listen_at(r, &p.addr, NULL, &s);
    check_serves(r, &p.addr, &s);
    CHECK_OK(kr_listener_close(r, listener));
    test_rest(r, (struct test_levels){.conns = 0});
    CHECK_SYS(unlink(p.path));
    listen_at(r, &p.addr, &opts, &s);
    check_serves(r, &p.addr, &s);
    kr_conn conn;
    CHECK_OK(kr_connect(r, &conn, &p.addr, NULL, &test_server_echo_eof_ops,
                        &s)); /* both ends are this reactor's */
    TEST_UNTIL(r, s.opens == 4);
    CHECK_OK(kr_conn_send(r, conn, "x", 1));
    size_t before = s.bytes;
    TEST_UNTIL(r, s.bytes > before + 10);
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
    int pair[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    CHECK_OK(kr_conn_adopt(r, &conn, pair[0], NULL, &test_server_echo_eof_ops, &s));
    TEST_UNTIL(r, s.opens == 5);
    test_send(r, pair[1], "hello", 5);
    before = s.bytes;
    TEST_UNTIL(r, s.bytes == before + 5);
    test_close(pair[1]);
    TEST_UNTIL(r, s.closes == 5);
    CHECK_GE(watched.receives, 5u);
    CHECK_EQ(watched.multishots, 0u);

    watched.receives = 0;
    uint16_t port = test_listen(r, NULL, NULL, &test_server_echo_eof_ops, &s);
    int fd = test_connect(port);
    TEST_UNTIL(r, s.opens == 6);
    test_close(fd);
    TEST_UNTIL(r, s.closes == 6);
    CHECK_EQ(watched.multishots, watched.receives);
    test_reactor_free(r);
    place_end(&p);
}

struct racer {
    struct kr_addr addr;
    unsigned count;
};

static void *race(void *arg) {
    const struct racer *racer = arg;
    for (unsigned i = 0; i < racer->count; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(fd >= 0);
        while (connect(fd, &racer->addr.u.sa, racer->addr.size) < 0)
            CHECK(errno == EAGAIN || errno == EINTR);
        CHECK_EQ(write(fd, "last words", 10), 10);
        CHECK_EQ(shutdown(fd, SHUT_WR), 0);
        char back[10];
        size_t got = 0;
        ssize_t n;
        while ((n = read(fd, back, sizeof back)) > 0)
            got += (size_t)n;
        CHECK_EQ(n, 0);
        CHECK_EQ(got, 10u);
        close(fd);
    }
    return NULL;
}

/* Ours: an end of stream right behind data is told, however the receive and the peer's shutdown
 * race. With multishot receives this fails once in a few thousand lives. */
TEST_EACH(unix_end_of_stream_is_never_missed, .deadline_s = 120) {
    struct place p = place_begin();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    listen_at(r, &p.addr, NULL, &s);
    struct racer racer = {.addr = p.addr, .count = tap_full() ? 20000 : 1500};
    pthread_t threads[2];
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, race, &racer), 0);
    TEST_UNTIL(r, s.eofs == 2 * racer.count && s.open == 0);
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    CHECK_EQ(s.bytes, 20u * racer.count);
    test_reactor_free(r);
    place_end(&p);
}
