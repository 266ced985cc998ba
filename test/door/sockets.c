/* Answers to sockets: listening, connecting, and what is asked of a descriptor. */
#include "door/door.h"
#include "roof/post.h"

/* ---- listening ---- */

/* man socket, setsockopt, bind, listen, getsockname. */
static const int listen_errors[] = {
    EACCES, EADDRINUSE,  EADDRNOTAVAIL, EAFNOSUPPORT, EBADF,  EDOM,
    EFAULT, EINVAL,      EMFILE,        ENETDOWN,     ENFILE, ENOBUFS,
    ENOMEM, ENOPROTOOPT, ENOTSOCK,      EOPNOTSUPP,   EPERM,  EPROTONOSUPPORT,
};

/* man io_uring_register, of IORING_REGISTER_FILES_UPDATE. */
static const int file_errors[] = {
    EACCES, EAGAIN, EBADF, EBADFD,     EBUSY,     EFAULT, EINTR,
    EINVAL, ENOMEM, ENXIO, EOPNOTSUPP, EOVERFLOW, EPERM,
};

/* What puts a descriptor's file into a slot. */
static enum call table_call(void) {
    return test_slot_cost(NULL) ? DUP : REG_FILE;
}

static void check_listen_refused(enum call call, const char *name, int error) {
    row_begin(name, error, 0, 6);
    struct door *d = door_open();
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    int held = d->held;
    struct seen seen = {0};
    uint16_t port;
    door_fail(d, call, error, 0, 6); /* more often than there are file slots: none may be lost */
    for (int i = 0; i < 6; i++)
        CHECK_ERR(listen_rc(r, i % 2, &seen, &port), error);
    CHECK_EQ(test_stats(r).listeners, 0u);
    CHECK_LE(d->held, held + 2); /* the heap of deadlines, and limits kept for the next listener */
    for (int i = 0; i < 4; i++)
        check_works(r);
    CHECK_ERR(listen_rc(r, false, &seen, &port), ENOSPC);
    free_all(d, r);
}

/* Ours: an error of the socket's making is the caller's to see, and leaves neither descriptor nor
 * slot behind. */
TEST_EACH(listen_when_the_socket_fails) {
    for (size_t i = 0; i < COUNT(listen_errors); i++)
        check_listen_refused(LISTEN, "listen", listen_errors[i]);
}

TEST_EACH(listen_when_the_table_fails) {
    for (size_t i = 0; i < COUNT(file_errors); i++)
        check_listen_refused(table_call(), "the file table's update", file_errors[i]);
}

static int unix_listener(struct kr_addr *addr) {
    int fd = CHECK_SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_un any = {.sun_family = AF_UNIX};
    /* a name of the kernel's choice */
    CHECK_SYS(bind(fd, (struct sockaddr *)&any, sizeof any.sun_family));
    CHECK_SYS(listen(fd, 8));
    addr->size = sizeof addr->u;
    CHECK_SYS(getsockname(fd, &addr->u.sa, &addr->size));
    return fd;
}

static void check_taking_over_refused(enum call call, const char *name, int error) {
    row_begin(name, error, 0, 6);
    struct door *d = door_open();
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    int held = d->held;
    struct kr_addr addr;
    int fd = unix_listener(&addr);
    struct seen seen = {0};
    kr_listener listener = {7};
    door_fail(d, call, error, 0, 6);
    for (int i = 0; i < 6; i++)
        CHECK_ERR(kr_listen_fd(r, &listener, fd, NULL, &seen_ops, &seen), error);
    CHECK_EQ(listener.bits, 7u);
    CHECK_LE(d->held, held + 2);
    for (int i = 0; i < 4; i++)
        CHECK_OK(kr_listen_fd(r, NULL, fd, NULL, &seen_ops, &seen));
    CHECK_ERR(kr_listen_fd(r, NULL, fd, NULL, &seen_ops, &seen), ENOSPC);
    free_all(d, r);
    test_close(fd);
}

/* Ours: a socket that cannot be taken over is the caller's as before, and costs no slot. */
TEST_EACH(listen_when_taking_over_fails) {
    for (size_t i = 0; i < COUNT(listen_errors); i++)
        check_taking_over_refused(LISTEN_FD, "taking a socket over", listen_errors[i]);
    for (size_t i = 0; i < COUNT(file_errors); i++)
        check_taking_over_refused(table_call(), "the file table's update", file_errors[i]);
}

/* man lstat. */
static const int path_errors[] = {EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, EOVERFLOW};

/* Ours: a listener whose file cannot be known again listens, but does not remove what it does not
 * know. */
TEST_EACH(listen_when_the_path_fails) {
    for (size_t i = 0; i < COUNT(path_errors); i++) {
        row_begin("lstat", path_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        char path[] = "/tmp/kr-door-XXXXXX";
        test_close(CHECK_SYS(mkstemp(path)));
        CHECK_SYS(unlink(path));
        struct kr_addr addr;
        CHECK_OK(kr_addr_unix(&addr, path));
        struct kr_listen_opts opts = test_listen_opts();
        opts.unix_remove = true;
        struct seen seen = {0};
        door_fail(d, PATH_ID, path_errors[i], 0, 1);
        CHECK_OK(kr_listen(r, NULL, &addr, &opts, &seen_ops, &seen));
        CHECK_EQ(d->struck, 1u);
        CHECK_OK(kr_step(r, 0));
        free_all(d, r);
        CHECK_SYS(unlink(path));
    }
}

/* man open. */
static const int dir_errors[] = {EACCES, EMFILE, ENFILE, ENOMEM};

/* Ours: a listener that could not remove its file is refused, and leaves none. */
TEST_EACH(listen_when_the_directory_fails) {
    for (size_t i = 0; i < COUNT(dir_errors); i++) {
        row_begin("open of the directory", dir_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        char path[] = "/tmp/kr-door-XXXXXX";
        test_close(CHECK_SYS(mkstemp(path)));
        CHECK_SYS(unlink(path));
        struct kr_addr addr;
        CHECK_OK(kr_addr_unix(&addr, path));
        struct kr_listen_opts opts = test_listen_opts();
        opts.unix_remove = true;
        struct seen seen = {0};
        door_fail(d, PATH_DIR, dir_errors[i], 0, 1);
        CHECK_ERR(kr_listen(r, NULL, &addr, &opts, &seen_ops, &seen), dir_errors[i]);
        CHECK_EQ(d->struck, 1u);
        CHECK_EQ(access(path, F_OK), -1);
        free_all(d, r);
    }
}

/* Ours: a reactor that never ran takes its listeners out of the table by itself; the ring's end
 * does it as well. */
TEST_EACH(free_when_the_table_fails, .needs = KR__CAP_FILE_TABLE) {
    for (size_t i = 0; i < COUNT(file_errors); i++) {
        row_begin("the file table's update", file_errors[i], 0, FOR_EVER);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        uint16_t port;
        CHECK_OK(listen_rc(r, false, &seen, &port));
        door_fail(d, REG_FILE, file_errors[i], 0, FOR_EVER);
        free_all(d, r);
        CHECK_EQ(d->struck, 1u);
    }
}

/* ---- connecting ---- */

/* man socket, setsockopt, bind. */
static const int socket_errors[] = {
    EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EBADF,    EFAULT, EINVAL,          EMFILE,
    ENFILE, ENOBUFS,    ENOMEM,        ENOPROTOOPT,  ENOTSOCK, EPERM,  EPROTONOSUPPORT,
};

static void check_connect_refused(enum call call, const char *name, int error) {
    row_begin(name, error, 0, 20);
    struct door *d = door_open();
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    struct seen seen = {0};
    uint16_t port;
    CHECK_OK(listen_rc(r, false, &seen, &port));
    struct kr_addr addr = test_loopback(port);
    int held = d->held;
    kr_conn conn = {7};
    door_fail(d, call, error, 0, 20); /* more often than there are slots: none may be lost */
    for (int i = 0; i < 20; i++)
        CHECK_ERR(kr_connect(r, &conn, &addr, NULL, &seen_ops, &seen), error);
    CHECK_EQ(conn.bits, 7u);
    CHECK_EQ(test_stats(r).conns, 0u);
    CHECK_LE(d->held, held + 3); /* limits, and blocks, kept for the next one */
    for (unsigned i = 0; i < r->config.connect_max; i++)
        CHECK_OK(kr_connect(r, &conn, &addr, NULL, &seen_ops, &seen));
    CHECK_ERR(kr_connect(r, &conn, &addr, NULL, &seen_ops, &seen), ENOSPC);
    TEST_UNTIL(r, test_stats(r).connects == 4);
    free_all(d, r);
    CHECK_EQ(seen.closes, seen.opens);
}

/* Ours: an error of the socket's making is the caller's to see, and leaves neither descriptor nor
 * slot behind. */
TEST_EACH(connect_when_the_socket_fails) {
    for (size_t i = 0; i < COUNT(socket_errors); i++)
        check_connect_refused(SOCKET, "socket", socket_errors[i]);
}

TEST_EACH(connect_when_the_table_fails) {
    for (size_t i = 0; i < COUNT(file_errors); i++)
        check_connect_refused(table_call(), "the file table's update", file_errors[i]);
}

/* man connect, of a Unix socket. What passes is tried again. */
static const int knock_errors[] = {
    EACCES, EBADF,  ECONNREFUSED, EFAULT, EINVAL, EISCONN,    ELOOP,     ENAMETOOLONG,
    ENOENT, ENOMEM, ENOTDIR,      EPERM,  EPIPE,  EPROTOTYPE, ETIMEDOUT,
};
static const int knock_passing[] = {EAGAIN, EINTR};

/* Ours: a Unix socket's error is told by on_close; one that passes costs a few milliseconds. */
TEST_EACH(connect_when_the_knock_fails) {
    for (size_t i = 0; i < COUNT(knock_errors) + COUNT(knock_passing); i++) {
        bool passes = i >= COUNT(knock_errors);
        int error = passes ? knock_passing[i - COUNT(knock_errors)] : knock_errors[i];
        row_begin("connect", error, 0, 3);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct kr_addr addr;
        int fd = unix_listener(&addr);
        struct seen seen = {0};
        door_fail(d, CONNECT, error, 0, passes ? 3 : 1);
        CHECK_OK(kr_connect(r, NULL, &addr, NULL, &seen_ops, &seen));
        TEST_UNTIL(r, seen.opens + seen.closes == 1);
        CHECK_EQ(seen.opens, passes);
        CHECK_EQ(d->struck, passes ? 3u : 1u);
        if (!passes)
            CHECK_EQ(seen.error, -error);
        free_all(d, r);
        CHECK_EQ(seen.closes, 1u);
        test_close(fd);
    }
}

/* ---- addresses, close, wake ---- */

/* man getpeername, getsockname. */
static const int addrs_errors[] = {EBADF, EFAULT, EINVAL, ENOBUFS, ENOMEM, ENOTCONN, ENOTSOCK};

/* Ours: a client whose address cannot be had is let go, unannounced; the next one is served. */
TEST_EACH(accept_when_the_addresses_fail) {
    for (size_t i = 0; i < COUNT(addrs_errors); i++) {
        row_begin("getpeername", addrs_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        uint16_t port;
        CHECK_OK(listen_rc(r, true, &seen, &port));
        door_fail(d, SOCK_ADDRS, addrs_errors[i], 0, 1);
        int fd = test_connect(port);
        CHECK_EQ(test_recv_end(r, fd, NULL), 0);
        test_close(fd);
        CHECK_EQ(seen.opens, 0u);
        check_serves(r, port, &seen);
        CHECK_EQ(seen.opens, 1u);
        free_all(d, r);
    }
}

/* Ours: a connection of our own whose address cannot be had stands all the same, without it. */
TEST_EACH(connect_when_the_addresses_fail) {
    for (size_t i = 0; i < COUNT(addrs_errors); i++) {
        row_begin("getsockname", addrs_errors[i], 0, 1);
        struct door *d = door_open();
        d->dials = true;
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        uint16_t port;
        CHECK_OK(listen_rc(r, false, &seen, &port));
        struct kr_addr addr = test_loopback(port);
        struct kr_connect_opts opts = test_connect_opts();
        opts.local_address = true;
        door_fail(d, SOCK_ADDRS, addrs_errors[i], 0, 1);
        kr_conn conn;
        CHECK_OK(kr_connect(r, &conn, &addr, &opts, &seen_ops, &seen));
        TEST_UNTIL(r, test_stats(r).connects == 1);
        CHECK_EQ(d->struck, 1u);
        CHECK_ERR(kr_conn_local(r, conn, &addr), ENODATA);
        CHECK_OK(kr_conn_peer(r, conn, &addr));
        free_all(d, r);
    }
}

/* man fcntl, F_DUPFD_CLOEXEC. */
static const int dup_errors[] = {EBADF, EINVAL, EMFILE, ENFILE, ENOMEM, EPERM};

/* Ours: descriptors that cannot be duplicated are the caller's to know of; those that were before
 * are closed, and the connection goes on. */
TEST_EACH(send_when_duplicating_fails) {
    for (size_t i = 0; i < COUNT(dup_errors) * 3; i++) {
        int error = dup_errors[i % COUNT(dup_errors)];
        unsigned which = (unsigned)(i / COUNT(dup_errors));
        row_begin("fcntl", error, which, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        int ends[2];
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
        kr_conn conn;
        CHECK_OK(kr_conn_adopt(r, &conn, ends[0], NULL, &seen_ops, &seen));
        CHECK_OK(kr_conn_send(r, conn, "a", 1));
        CHECK_ERR(kr_conn_send_fds(r, conn, "bc", 2, &(int){-1}, 1), EBADF); /* the block is kept */
        int held = d->held;
        door_fail(d, DUP, error, which, 1);
        CHECK_ERR(kr_conn_send_fds(r, conn, "bc", 2, (const int[]){ends[1], ends[1], ends[1]}, 3),
                  error);
        CHECK_EQ(d->held, held);
        CHECK_EQ(d->struck, 1u);
        CHECK_EQ(kr_conn_queued(r, conn), 1u);
        TEST_UNTIL(r, seen.opens == 1 && kr_conn_queued(r, conn) == 0);
        free_all(d, r);
        test_close(ends[1]);
    }
}

/* man fstat, man fcntl. */
static const int file_size_errors[] = {EBADF, EIO, ENOMEM, EOVERFLOW, EPERM, ESTALE};

/* Ours: a file that cannot be looked at is not queued, and the connection goes on. */
TEST_EACH(send_file_when_looking_fails) {
    for (size_t i = 0; i < COUNT(file_size_errors); i++) {
        row_begin("fstat", file_size_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        int ends[2], file = CHECK_SYS(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
        kr_conn conn;
        CHECK_OK(kr_conn_adopt(r, &conn, ends[0], NULL, &seen_ops, &seen));
        int held = d->held;
        door_fail(d, FILE_SIZE, file_size_errors[i], 0, 1);
        CHECK_ERR(kr_conn_send_file(r, conn, file, 0, 1, NULL, NULL), file_size_errors[i]);
        CHECK_EQ(d->held, held);
        CHECK_EQ(d->struck, 1u);
        CHECK_EQ(kr_conn_queued(r, conn), 0u);
        CHECK_OK(kr_conn_send_file(r, conn, file, 0, 1, NULL, NULL));
        TEST_UNTIL(r, seen.opens == 1 && kr_conn_queued(r, conn) == 0);
        free_all(d, r);
        test_close(file);
        test_close(ends[1]);
    }
}

/* man shutdown; ENOTCONN: the peer has reset. */
static const int end_errors[] = {EBADF, EINVAL, ENOTCONN, ENOTSOCK};

/* Ours: a side that cannot be ended ends the connection with the reason, and nothing is left. */
TEST_EACH(half_when_ending_fails) {
    for (size_t i = 0; i < COUNT(end_errors); i++) {
        row_begin("shutdown", end_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        if (!r->ring.plain.cells && !(r->ring.caps & KR__CAP_FD_INSTALL))
            tap_skip("needs kernel 6.8");
        struct seen seen = {0};
        int ends[2];
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
        kr_conn conn;
        CHECK_OK(kr_conn_adopt(r, &conn, ends[0], NULL, &seen_ops, &seen));
        TEST_UNTIL(r, seen.opens == 1);
        int held = d->held;
        door_fail(d, SOCK_END, end_errors[i], 0, 1);
        CHECK_OK(kr_conn_shutdown(r, conn));
        if (end_errors[i] == ENOTCONN) { /* what the peer has said is heard first */
            TEST_UNTIL(r, d->struck);
            CHECK_EQ(seen.closes, 0u);
            CHECK_SYS(shutdown(ends[1], SHUT_WR));
        }
        TEST_UNTIL(r, seen.closes == 1);
        CHECK_EQ(seen.error, -end_errors[i]);
        CHECK_EQ(d->struck, 1u);
        CHECK_LE(d->held, held);
        free_all(d, r);
        test_close(ends[1]);
    }
}

/* man pread. */
static const int file_read_errors[] = {EIO, ENXIO, EISDIR, EAGAIN};

static void file_told(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    (void)r;
    CHECK_EQ(sent, 0u);
    *(int *)arg = error;
}

/* Ours: a file that this thread reads for want of a worker, and that has an error. */
TEST_EACH(send_file_when_reading_fails) {
    for (size_t i = 0; i < COUNT(file_read_errors); i++) {
        row_begin("pread", file_read_errors[i], 0, FOR_EVER);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        int ends[2], file = CHECK_SYS(memfd_create("door", MFD_CLOEXEC)), error = 0;
        CHECK_SYS(ftruncate(file, 1000));
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
        kr_conn conn;
        CHECK_OK(kr_conn_adopt(r, &conn, ends[0], NULL, &seen_ops, &seen));
        TEST_UNTIL(r, seen.opens == 1);
        door_fail(d, FILE_READ, file_read_errors[i], 0, FOR_EVER);
        test_threads_none();
        CHECK_OK(kr_conn_send_file(r, conn, file, 0, 1000, file_told, &error));
        TEST_UNTIL(r, seen.closes == 1);
        test_threads_again();
        CHECK_EQ(error, -file_read_errors[i]);
        CHECK_EQ(seen.error, error);
        CHECK_LE(1u, d->struck);
        free_all(d, r);
        test_close(file);
        test_close(ends[1]);
    }
}

/* man fstat, fcntl, pipe, and what we make of them. */
static const struct {
    enum call call;
    int error;
} pipe_answers[] = {{PIPE_END, EBADF},   {PIPE_END, EFAULT},   {PIPE_END, ENOMEM},
                    {PIPE_END, ENOTSUP}, {PIPE_QUIET, EMFILE}, {PIPE_QUIET, ENFILE},
                    {PIPE_QUIET, ENOSYS}};

/* Ours: a pipe that cannot be looked at, or not written to in peace, stays its owner's. */
TEST_EACH(adopt_when_a_pipe_fails) {
    CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
    for (size_t i = 0; i < COUNT(pipe_answers); i++) {
        row_begin("of a pipe", pipe_answers[i].error, 0, 1);
        struct door *d = door_open();
        d->dials = true;
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        int ends[2], held = d->held;
        CHECK_SYS(pipe2(ends, O_CLOEXEC));
        kr_conn conn = {7};
        door_fail(d, pipe_answers[i].call, pipe_answers[i].error, 0, 1);
        CHECK_ERR(kr_conn_adopt(r, &conn, ends[1], NULL, &seen_ops, &seen), pipe_answers[i].error);
        CHECK_EQ(d->held, held);
        CHECK_EQ(d->struck, 1u);
        CHECK_EQ(conn.bits, 7u);
        own(d, ends[1]); /* the descriptor is the reactor's then */
        CHECK_OK(kr_conn_adopt(r, &conn, ends[1], NULL, &seen_ops, &seen));
        CHECK_OK(kr_conn_send(r, conn, "a", 1));
        TEST_UNTIL(r, seen.opens == 1 && kr_conn_queued(r, conn) == 0);
        free_all(d, r);
        test_close(ends[0]);
    }
}

/* Ours: a pipe that cannot be opened anew is used as it is. With a name it refuses RWF_NOWAIT. */
TEST_EACH(adopt_when_a_pipe_cannot_be_opened) {
    struct door *d = door_open();
    d->dials = true;
    struct kr_reactor *r;
    CHECK_OK(make(d, &r, NULL));
    struct seen seen = {0};
    char dir[] = "/tmp/kr-door-XXXXXX", path[64];
    CHECK(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/fifo", dir);
    CHECK_SYS(mkfifo(path, 0600));
    int ends[2] = {CHECK_SYS(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)),
                   CHECK_SYS(open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK))};
    CHECK_SYS(unlink(path));
    CHECK_SYS(rmdir(dir));
    kr_conn conn;
    door_fail(d, PIPE_OWN, EACCES, 0, 1);
    own(d, ends[0]);
    CHECK_OK(kr_conn_adopt(r, &conn, ends[0], NULL, &seen_ops, &seen));
    CHECK_EQ(d->struck, 1u);
    CHECK_EQ(write(ends[1], "a", 1), 1);
    test_close(ends[1]);
    TEST_UNTIL(r, seen.closes == 1);
    free_all(d, r);
}

/* man close. */
static const int close_errors[] = {EDQUOT, EINTR, EIO, ENOSPC};

/* Ours: what close reports changes nothing, as the descriptor is gone: a listener's own, an
 * accepted one's, the eventfd's at the end. */
TEST_EACH(close_fails_wherever_it_is_called) {
    for (size_t i = 0; i < COUNT(close_errors) * 3; i++) {
        int error = close_errors[i % COUNT(close_errors)];
        unsigned which = (unsigned)(i / COUNT(close_errors));
        row_begin("close", error, which, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        door_fail(d, CLOSE, error, which, 1);
        struct seen seen = {0};
        uint16_t port;
        CHECK_OK(listen_rc(r, true, &seen, &port));
        check_serves(r, port, &seen);
        free_all(d, r);
        CHECK_EQ(d->struck, 1u);
    }
}

/* man write of an eventfd. */
static const int wake_errors[] = {EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, ENOSPC, EPIPE};

/* Runs and frees the reactor, and returns what kr_run did. */
static void *run_main(void *arg) {
    int rc = kr_run(arg);
    CHECK_OK(kr_reactor_free(arg));
    return (void *)(intptr_t)rc;
}

static void await_sleep(struct kr_reactor *r) {
    while (!__atomic_load_n(&r->inbox->asleep, __ATOMIC_SEQ_CST)) {
        if (tap_remaining_ns() == 0)
            FAIL("the reactor does not sleep");
        sched_yield();
    }
}

/* Ours: a wake that could not be sent takes nothing back of what it was for, and does not keep the
 * next post or stop from waking the reactor. */
TEST_EACH(post_when_the_wake_fails) {
    for (size_t i = 0; i < COUNT(wake_errors); i++) {
        row_begin("eventfd write", wake_errors[i], 0, 1);
        struct door *d = door_open();
        struct kr_reactor *r;
        CHECK_OK(make(d, &r, NULL));
        struct seen seen = {0};
        door_fail(d, WAKE_SEND, wake_errors[i], 0, 1);
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, run_main, r), 0);
        unsigned posts = 0;
        do { /* one that finds it just awake needs no wake */
            await_sleep(r);
            CHECK_OK(kr_post(r, seen_post, &seen));
            posts++;
        } while (!__atomic_load_n(&d->struck, __ATOMIC_ACQUIRE));
        CHECK_OK(kr_post(r, seen_post, &seen));
        posts++;
        while (__atomic_load_n(&seen.posts, __ATOMIC_ACQUIRE) < posts) {
            if (tap_remaining_ns() == 0)
                FAIL("a post does not wake the reactor after one that could not");
            sched_yield();
        }
        kr_stop(r);
        void *rc;
        CHECK_EQ(pthread_join(thread, &rc), 0);
        CHECK_EQ((intptr_t)rc, 0);
        CHECK_EQ(d->held, 0);
    }
}

const unsigned socket_row_count = COUNT(listen_errors) + COUNT(file_errors) * 2 +
                                  COUNT(addrs_errors) * 2 + COUNT(close_errors) * 3 +
                                  COUNT(socket_errors) + COUNT(path_errors) + COUNT(listen_errors) +
                                  COUNT(file_errors) + COUNT(file_errors) + COUNT(knock_errors) +
                                  COUNT(knock_passing) + COUNT(wake_errors);
