/* Pipes as connections of one direction: what is refused, forwarded, and no pipe. */
#include "pipe/pipe.h"

/* ---- one direction ---- */

/* Ours: the other direction is at its end, and says so by the same codes as on a socket. */
TEST_EACH(pipe_has_one_direction) {
    struct kr_reactor *r = test_reactor(NULL);
    struct seen in = {0}, out = {0};
    struct kr_addr addr;
    void *room;
    int into = begin(r, &in, IN, 0, NULL), from = begin(r, &out, OUT, 0, NULL);
    CHECK_ERR(kr_conn_send(r, in.conn, "x", 1), EPIPE);
    CHECK_ERR(kr_conn_send_ref(r, in.conn, "x", 1, NULL, NULL), EPIPE);
    CHECK_ERR(kr_conn_reserve(r, in.conn, 1, &room), EPIPE);
    CHECK_ERR(kr_conn_send_fds(r, out.conn, "x", 1, &from, 1), EOPNOTSUPP);
    CHECK_ERR(kr_conn_forward(r, out.conn, in.conn, NULL, NULL, NULL), EPIPE);
    CHECK_ERR(kr_conn_sockopt(r, in.conn, KR_SOCKOPT_RECV_BUF, 4096, NULL, NULL), EOPNOTSUPP);
    CHECK_OK(kr_conn_shutdown(r, in.conn));
    CHECK_OK(kr_conn_pause(r, out.conn));
    CHECK_OK(kr_conn_resume(r, out.conn));
    CHECK_OK(kr_conn_swap(r, out.conn, &ops, &out));
    CHECK_ERR(kr_conn_peer(r, in.conn, &addr), ENODATA);
    CHECK_ERR(kr_conn_local(r, out.conn, &addr), ENODATA);
    test_settle(r);
    CHECK(!out.eofs && !out.closes && !in.closes);
    CHECK_OK(kr_conn_send(r, out.conn, "last", 4));
    CHECK_OK(kr_conn_shutdown(r, out.conn)); /* the end of the queue, and of the pipe */
    CHECK_ERR(kr_conn_send(r, out.conn, "x", 1), EPIPE);
    TEST_UNTIL(r, out.closes == 1);
    CHECK(out.error == 0 && out.eofs == 0);
    char bytes[8];
    CHECK_EQ(read(from, bytes, sizeof bytes), 4);
    CHECK_EQ(read(from, bytes, sizeof bytes), 0);
    test_close(into);
    test_close(from);
    TEST_UNTIL(r, in.closes == 1);
    CHECK_EQ(in.eofs, 1u);
    finish(r);
}

struct left {
    unsigned count;
    int fd, error;
    size_t unread, unsent;
    bool eof, shut;
};

static void released(struct kr_reactor *r, kr_conn conn, void *user,
                     const struct kr_detached *what) {
    struct left *l = user;
    UNUSED(r, conn);
    *l = (struct left){l->count + 1,      what->fd,  what->error, what->unread_size,
                       what->unsent_size, what->eof, what->shut};
}

/* Ours: both ends leave again as descriptors, with what was unread and unsent; kept ones have no
 * addresses. */
TEST_EACH(pipe_is_released) {
    static char bytes[1 << 20];
    for (unsigned keep = 0; keep < 2; keep++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct kr_conn_opts opts = test_conn_opts();
        opts.keep_fd = keep;
        struct seen in = {.hesitates = true}, out = {0};
        struct left left[2] = {{0}, {0}};
        struct kr_addr addr;
        int ends[2][2], before = tap_fd_count();
        for (unsigned i = 0; i < 2; i++) {
            CHECK_SYS(pipe2(ends[i], O_CLOEXEC | O_NONBLOCK));
            adopt_fd(r, i ? &out : &in, ends[i][i], &opts);
        }
        CHECK_EQ(tap_fd_count(), before + (keep ? 4 : 2) + 2 * test_slot_cost(r));
        CHECK_EQ(write(ends[IN][OUT], bytes, 1500), 1500);
        CHECK_OK(kr_conn_send(r, out.conn, bytes, sizeof bytes));
        TEST_UNTIL(r, in.shown == 1500 && kr_conn_queued(r, out.conn) < sizeof bytes);
        CHECK_ERR(kr_conn_peer(r, in.conn, &addr), ENODATA);
        CHECK_ERR(kr_conn_local(r, out.conn, &addr), ENODATA);
        int rc = kr_conn_detach(r, in.conn, released, &left[IN]);
        CHECK(rc == 0 || (rc == -EOPNOTSUPP && !keep));
        if (rc == 0) {
            CHECK_OK(kr_conn_detach(r, out.conn, released, &left[OUT]));
            TEST_UNTIL(r, in.closes == 1 && out.closes == 1);
            CHECK(left[IN].count == 1 && left[IN].error == 0 && left[IN].unread == 500 &&
                  left[IN].shut);
            CHECK(left[OUT].count == 1 && left[OUT].error == 0 && left[OUT].unsent &&
                  left[OUT].eof);
            CHECK_EQ(write(ends[IN][OUT], "x", 1), 1);
            CHECK_EQ(read(left[IN].fd, bytes, 10), 1);
            ssize_t got = 0, n;
            while ((n = read(ends[OUT][IN], bytes, sizeof bytes)) > 0)
                got += n;
            CHECK_EQ((size_t)got + left[OUT].unsent, sizeof bytes);
            CHECK_EQ(write(left[OUT].fd, "y", 1), 1);
            CHECK_EQ(read(ends[OUT][IN], bytes, 10), 1);
            test_close(left[IN].fd);
            test_close(left[OUT].fd);
        }
        test_reactor_free(r);
        test_close(ends[IN][OUT]);
        test_close(ends[OUT][IN]);
    }
}

/* Ours: each end closes in each manner, open or not yet; a lingering reader waits for the writers,
 * a flushing writer not longer than its deadline for the reader. */
TEST_EACH(pipe_closes_in_each_manner) {
    static const enum kr_close hows[] = {KR_CLOSE_LINGER, KR_CLOSE_FLUSH, KR_CLOSE_NOW,
                                         KR_CLOSE_RESET};
    static char bytes[1 << 20];
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_conn_opts opts = test_conn_opts();
    opts.flush_ns = 50 * MS;
    for (unsigned i = 0; i < 16; i++) {
        struct seen s = {0};
        int end = i % 2 ? IN : OUT;
        int fd = begin(r, &s, end, 0, &opts);
        bool full = i / 8 && end == OUT;
        if (full)
            CHECK_OK(kr_conn_send(r, s.conn, bytes, sizeof bytes));
        test_settle(r);
        CHECK_OK(kr_conn_close(r, s.conn, hows[i / 2 % 4]));
        TEST_UNTIL(r, s.closes == 1);
        bool late = hows[i / 2 % 4] == KR_CLOSE_LINGER ? full || end == IN
                                                       : hows[i / 2 % 4] == KR_CLOSE_FLUSH && full;
        CHECK_EQ(s.error, late ? -ETIMEDOUT : 0);
        test_close(fd);
    }
    for (unsigned i = 0; i < 8; i++) {
        struct seen s = {0};
        int ends[2];
        CHECK_SYS(pipe2(ends, O_CLOEXEC));
        adopt_fd(r, &s, ends[i % 2], &opts);
        CHECK_OK(kr_conn_close(r, s.conn, hows[i / 2]));
        TEST_UNTIL(r, s.closes == 1);
        CHECK_EQ(s.opens, 0u);
        test_close(ends[!(i % 2)]);
    }
    finish(r);
}

/* Ours: a reactor that is freed ends them, also with a write that waits. */
TEST_EACH(pipe_ends_with_the_reactor) {
    static char bytes[1 << 20];
    for (unsigned i = 0; i < 2; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen in = {0}, out = {0};
        int into = begin(r, &in, IN, 0, NULL), from = begin(r, &out, OUT, 0, NULL);
        CHECK_OK(kr_conn_send(r, out.conn, bytes, sizeof bytes));
        if (i)
            test_settle(r);
        test_reactor_free(r);
        CHECK(in.closes == 1 && out.closes == 1);
        test_close(into);
        test_close(from);
    }
}

/* Ours: deadlines of what it does. */
TEST_EACH(pipe_has_deadlines) {
    static char bytes[1 << 20];
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_conn_opts opts = test_conn_opts();
    opts.read_ns = opts.write_ns = 30 * MS;
    struct seen in = {0}, out = {0};
    int into = begin(r, &in, IN, 0, &opts), from = begin(r, &out, OUT, 0, &opts);
    TEST_UNTIL(r, in.closes == 1);
    CHECK(in.error == -ETIMEDOUT && in.why == KR_WHY_TIMEOUT);
    CHECK_EQ(out.closes, 0u); /* it has nothing to write, and never reads */
    CHECK_OK(kr_conn_send(r, out.conn, bytes, sizeof bytes));
    TEST_UNTIL(r, out.closes == 1);
    CHECK(out.error == -ETIMEDOUT && out.why == KR_WHY_TIMEOUT);
    test_close(into);
    test_close(from);
    finish(r);
}

/* ---- forwarding ---- */

static void forwarded(struct kr_reactor *r, kr_conn a, kr_conn b, void *user,
                      const struct kr_forwarded *what) {
    UNUSED(r, a, b);
    CHECK_EQ(what->error, 0);
    *(uint64_t *)user = what->bytes_ab;
}

/* Ours: from a pipe to a pipe, from a socket to a pipe and from a pipe to a socket; the end goes
 * with the bytes. */
TEST_EACH(pipe_is_forwarded) {
    static char bytes[LARGE], back[LARGE];
    test_pattern(bytes, sizeof bytes, 3, 0);
    for (unsigned i = 0; i < 6; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen a = {0}, b = {0};
        struct kr_forward_opts opts;
        kr_forward_opts_init(&opts);
        opts.one_way = true;
        opts.keep_open = i / 3;
        int pair[2], from, to;
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
        if (i % 3 == 1) {
            adopt_fd(r, &a, pair[0], NULL);
            to = pair[1];
        } else {
            to = begin(r, &a, IN, 0, NULL);
        }
        if (i % 3 == 2) {
            adopt_fd(r, &b, pair[0], NULL);
            from = pair[1];
        } else {
            from = begin(r, &b, OUT, 0, NULL);
        }
        uint64_t moved = 0;
        CHECK_OK(kr_conn_forward(r, a.conn, b.conn, &opts, forwarded, &moved));
        for (size_t sent = 0, got = 0; got < sizeof back;) {
            ssize_t n = write(to, bytes + sent, sizeof bytes - sent);
            sent += n > 0 ? (size_t)n : 0;
            if (n > 0 && sent == sizeof bytes)
                test_close(to);
            to = sent == sizeof bytes ? -1 : to;
            test_step(r, "bytes");
            n = read(from, back + got, sizeof back - got);
            CHECK(n > 0 || errno == EAGAIN);
            got += n > 0 ? (size_t)n : 0;
        }
        test_pattern_check(back, sizeof back, 3, 0);
        TEST_UNTIL(r, moved == sizeof bytes);
        if (opts.keep_open) {
            CHECK(!a.closes && !b.closes);
            CHECK_OK(kr_conn_close(r, a.conn, KR_CLOSE_FLUSH));
            CHECK_OK(kr_conn_close(r, b.conn, KR_CLOSE_FLUSH));
        }
        TEST_UNTIL(r, a.closes == 1 && b.closes == 1);
        CHECK_EQ(read(from, back, 1), 0);
        test_close(from);
        if (i % 3 == 0) {
            test_close(pair[0]);
            test_close(pair[1]);
        }
        finish(r);
    }
}

/* Ours: what a program writes to and reads from a child process. */
TEST_EACH(pipe_talks_to_a_child) {
    struct kr_reactor *r = test_reactor(NULL);
    static char bytes[1 << 20];
    struct seen in = {.seed = 4}, out = {0};
    int to[2], from[2];
    CHECK_SYS(pipe2(to, O_CLOEXEC));
    CHECK_SYS(pipe2(from, O_CLOEXEC));
    pid_t pid = CHECK_SYS(fork());
    if (pid == 0) {
        if (dup2(to[0], 0) < 0 || dup2(from[1], 1) < 0)
            _exit(1);
        execlp("cat", "cat", NULL);
        _exit(1);
    }
    test_close(to[0]);
    test_close(from[1]);
    adopt_fd(r, &in, from[0], NULL);
    adopt_fd(r, &out, to[1], NULL);
    test_pattern(bytes, sizeof bytes, 4, 0);
    CHECK_OK(kr_conn_send(r, out.conn, bytes, sizeof bytes));
    CHECK_OK(kr_conn_close(r, out.conn, KR_CLOSE_FLUSH));
    TEST_UNTIL(r, in.closes == 1);
    CHECK(in.eofs == 1 && in.got == sizeof bytes);
    int status;
    CHECK_SYS(waitpid(pid, &status, 0));
    CHECK_EQ(status, 0);
    finish(r);
}

static struct seen written; /* on the writing end of a pipe */

static void eof_forwards(struct kr_reactor *r, kr_conn conn, void *user) {
    ((struct seen *)user)->eofs++;
    CHECK_OK(kr_conn_forward(r, conn, written.conn, NULL, NULL, NULL));
}

static const struct kr_conn_ops late_ops = {
    .on_eof = eof_forwards, .on_data = on_data, .on_close = on_close};

/* Ours: a pair, both ways, that begins when its source has ended, and ends at a pipe: that is closed
 * behind its bytes, not shut down, which no pipe can be. */
TEST_EACH(pipe_is_forwarded_to_after_the_end) {
    struct kr_reactor *r = test_reactor(NULL);
    int from = begin(r, &written, OUT, 0, NULL), pair[2];
    struct seen source = {0};
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    CHECK_OK(kr_conn_adopt(r, &source.conn, pair[0], NULL, &late_ops, &source));
    test_close(pair[1]);
    CHECK_OK(kr_conn_send(r, written.conn, "last", 4));
    TEST_UNTIL(r, source.closes == 1 && written.closes == 1);
    CHECK(source.eofs == 1 && source.error == 0 && written.error == 0);
    char back[5];
    CHECK_EQ(read(from, back, 5), 4);
    CHECK_EQ(read(from, back, 5), 0);
    test_close(from);
    finish(r);
}

/* ---- a read that fails, and flags a buffer ---- */

static unsigned flagged;

/* As Linux 6.12 does it: the buffer is the next of the ring, and stays there. No read that succeeds
 * has come before, so that is the first. */
static void flag_failed_reads(struct io_uring *ring, uint16_t buf) {
    unsigned mask = *ring->cq.kring_mask;
    for (unsigned i = *ring->cq.khead; i != __atomic_load_n(ring->cq.ktail, __ATOMIC_ACQUIRE);
         i++) {
        struct io_uring_cqe *cqe = &ring->cq.cqes[i & mask];
        if (kr__tag_unpack(cqe->user_data).op != KR__VERB_recv || cqe->res >= 0 || cqe->flags)
            continue;
        cqe->flags = IORING_CQE_F_BUFFER | (uint32_t)buf << IORING_CQE_BUFFER_SHIFT;
        flagged++;
    }
}

static struct kr_reactor *flagging; /* NULL while it is being made */

static int flagging_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                          unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    int rc = kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
    if (flagging)
        flag_failed_reads(ring, flagging->bufs.ring->bufs[0].bid);
    return rc;
}

/* Ours: the buffer that a failed read flags is still the kernel's: it is not published a second
 * time, and the next bytes that come into it are whole. */
TEST_EACH(pipe_read_that_fails_takes_no_buffer) {
    struct kr__kernel kernel = kr__linux;
    kernel.ring.enter = flagging_enter;
    struct kr_reactor *r = flagging = test_reactor_on(&kernel, NULL);
    const struct kr__bufs *bufs = &r->bufs;
    unsigned published = bufs->published;
    uint16_t tail = bufs->tail;
    struct seen left = {0}, stays = {.seed = 5};
    int ends[] = {begin(r, &left, IN, 0, NULL), begin(r, &stays, IN, 0, NULL)};
    test_settle(r);
    CHECK_OK(kr_conn_close(r, left.conn, KR_CLOSE_NOW));
    TEST_UNTIL(r, left.closes == 1);
    CHECK_GE(flagged, 1u);
    CHECK_EQ(bufs->tail, tail); /* nothing was published a second time */
    CHECK_EQ(bufs->published, published);
    CHECK_EQ(bufs->published + bufs->free_count, bufs->count);

    static char bytes[300000];
    test_pattern(bytes, sizeof bytes, 5, 0);
    write_all(r, ends[1], bytes, sizeof bytes);
    test_close(ends[1]);
    TEST_UNTIL(r, stays.closes == 1);
    CHECK_EQ(stays.got, sizeof bytes);
    CHECK_EQ(stays.error, 0);
    test_close(ends[0]);
    finish(r);
}

/* ---- what is no pipe ---- */

static void refuse(struct kr_reactor *r, int fd, int error) {
    kr_conn conn = {.bits = 7};
    int before = tap_fd_count();
    CHECK_ERR(kr_conn_adopt(r, &conn, fd, NULL, &ops, NULL), error);
    CHECK_EQ(conn.bits, 7u);
    CHECK_EQ(tap_fd_count(), before);
}

/* Ours: other files, and a pipe opened for both, are refused, and stay their owner's. */
TEST_EACH(pipe_is_told_from_other_files) {
    struct kr_reactor *r = test_reactor(NULL);
    hush();
    char dir[] = "/tmp/kr-pipe-XXXXXX", path[64];
    CHECK(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/fifo", dir);
    CHECK_SYS(mkfifo(path, 0600));
    const int others[] = {
        CHECK_SYS(open("/dev/null", O_RDWR | O_CLOEXEC)),
        CHECK_SYS(open("/proc/self/stat", O_RDONLY | O_CLOEXEC)),
        CHECK_SYS(eventfd(0, EFD_CLOEXEC)),
        CHECK_SYS(open(path, O_RDWR | O_CLOEXEC)),
        CHECK_SYS(open(path, O_PATH | O_CLOEXEC)),
    };
    for (unsigned i = 0; i < COUNT(others); i++)
        /* O_PATH: no descriptor to read or write by */
        refuse(r, others[i], i == 4 ? EBADF : ENOTSUP);
    refuse(r, -1, EBADF);
    struct seen in = {0}, out = {0};
    int fds[2] = {CHECK_SYS(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)),
                  CHECK_SYS(open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK))};
    for (int64_t grants = 0; grants < 2; grants++) {
        for (unsigned i = 0; i < 2; i++) {
            test_reactor_refuse_memory(r, grants);
            refuse(r, fds[i], ENOMEM);
        }
        test_reactor_refuse_memory(r, -1);
    }
    for (unsigned i = 0; i < COUNT(others); i++)
        test_close(others[i]);
    adopt_fd(r, &in, fds[0], NULL); /* one with a name is like any other */
    adopt_fd(r, &out, fds[1], NULL);
    CHECK_OK(kr_conn_send(r, out.conn, "hello", 5));
    CHECK_OK(kr_conn_shutdown(r, out.conn));
    TEST_UNTIL(r, in.closes == 1 && out.closes == 1);
    CHECK_EQ(in.got, 5u);
    CHECK_SYS(unlink(path));
    CHECK_SYS(rmdir(dir));
    finish(r);
}
