/* Adopted pipes: connections in one direction. */
#include "harness/server.h"

#include "kernel/probe.h"
#include "op/op.h"
#include "ring/tag.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LARGE ((size_t)4 << 20)

struct seen {
    kr_conn conn;
    unsigned opens, eofs, closes, drains;
    int error;
    enum kr_why why;
    size_t got;
    uint64_t seed;   /* of the bytes that come; 0: any */
    bool hesitates;  /* consumes only whole 1000s, and the rest at the end */
    size_t shown;
};

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct seen *s = user;
    UNUSED(r, conn);
    s->opens++;
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct seen *s = user;
    UNUSED(r, conn);
    CHECK(s->opens == 1 && !s->eofs && !s->closes);
    if (s->seed)
        test_pattern_check(data, size, s->seed, s->got);
    s->shown = s->got + size;
    size_t used = s->hesitates ? size / 1000 * 1000 : size;
    s->got += used;
    return used;
}

static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    ((struct seen *)user)->eofs++;
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static void on_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct seen *)user)->drains++;
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct seen *s = user;
    UNUSED(r, conn);
    s->closes++;
    s->error = error;
    s->why = why;
}

static const struct kr_conn_ops ops = {.on_open = on_open,
                                       .on_data = on_data,
                                       .on_eof = on_eof,
                                       .on_drain = on_drain,
                                       .on_close = on_close};

/* On a kernel, or a variant, that cannot write without it. */
static void hush(void) {
    bool quiet = tap_variant()->caps_mask & KR__CAP_QUIET_PIPES &&
                 kr__linux.pipe_quiet(&kr__linux, true) > 0;
    CHECK(signal(SIGPIPE, quiet ? SIG_DFL : SIG_IGN) != SIG_ERR);
}

enum { IN, OUT }; /* which end is adopted */

static void adopt_fd(struct kr_reactor *r, struct seen *s, int fd,
                     const struct kr_conn_opts *opts) {
    hush();
    *s = (struct seen){.seed = s->seed, .hesitates = s->hesitates};
    CHECK_OK(kr_conn_adopt(r, &s->conn, fd, opts, &ops, s));
}

/* Adopts one end of a new pipe; returns the other, which never blocks. */
static int begin(struct kr_reactor *r, struct seen *s, int end, int flags,
                 const struct kr_conn_opts *opts) {
    int ends[2], before = tap_fd_count();
    CHECK_SYS(pipe2(ends, O_CLOEXEC | flags));
    CHECK_SYS(fcntl(ends[!end], F_SETFL, O_NONBLOCK));
    adopt_fd(r, s, ends[end], opts);
    CHECK_EQ(tap_fd_count(), before + 1 + test_slot_cost(r));
    TEST_UNTIL(r, s->opens == 1);
    return ends[!end];
}

static void finish(struct kr_reactor *r) {
    test_reactor_end(r, (struct test_levels){0});
}

static void write_all(struct kr_reactor *r, int fd, const char *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = write(fd, data + done, 1 + tap_random_below(size - done));
        CHECK(n > 0 || errno == EAGAIN);
        done += n > 0 ? (size_t)n : 0;
        test_step(r, "room");
    }
}

static void read_all(struct kr_reactor *r, int fd, char *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, data + done, 1 + tap_random_below(size - done));
        CHECK(n > 0 || (n < 0 && errno == EAGAIN));
        done += n > 0 ? (size_t)n : 0;
        test_step(r, "bytes");
    }
}

/* ---- reading ---- */

/* Ours: all bytes come in order, then the end, whether the pipe is a blocking one or not. */
TEST_EACH(pipe_reads_to_the_end) {
    struct kr_reactor *r = test_reactor(NULL);
    static char bytes[LARGE];
    for (unsigned i = 0; i < 4; i++) {
        struct seen s = {.seed = 9, .hesitates = i / 2};
        int fd = begin(r, &s, IN, i % 2 ? O_NONBLOCK : 0, NULL);
        test_pattern(bytes, sizeof bytes, 9, 0);
        write_all(r, fd, bytes, sizeof bytes);
        test_close(fd);
        TEST_UNTIL(r, s.closes == 1);
        CHECK_EQ(s.shown, sizeof bytes);
        CHECK(s.eofs == 1 && s.error == 0);
        test_rest(r, (struct test_levels){0});
    }
    finish(r);
}

static unsigned thread_count(void) {
    struct stat st;
    CHECK_SYS(stat("/proc/self/task", &st));
    return (unsigned)st.st_nlink - 2;
}

/* The kernel's: a read that waits makes no requests and, of a pipe that does not block, no thread;
 * since 6.4 of no pipe. */
TEST_EACH(pipe_waits_in_silence) {
    struct kr_reactor *r = test_reactor(NULL);
    unsigned threads = thread_count();
    for (unsigned i = 0; i < 2; i++) {
        struct seen s = {0};
        int fd = begin(r, &s, IN, i ? O_NONBLOCK : 0, NULL);
        test_settle(r);
        uint64_t sqes = test_stats(r).sqes;
        for (unsigned k = 0; k < 20; k++)
            test_step(r, "nothing");
        CHECK_EQ(test_stats(r).sqes, sqes);
        CHECK(thread_count() == threads || !i);
        test_close(fd);
        TEST_UNTIL(r, s.closes == 1);
        CHECK_EQ(s.eofs, 1u);
    }
    finish(r);
}

/* Ours: paused, it reads nothing, and the writer finds it full; resumed, it goes on. */
TEST_EACH(pipe_pauses) {
    struct kr_reactor *r = test_reactor(NULL);
    static char bytes[1 << 20];
    test_pattern(bytes, sizeof bytes, 9, 0);
    struct seen s = {.seed = 9};
    int fd = begin(r, &s, IN, 0, NULL);
    CHECK_OK(kr_conn_pause(r, s.conn));
    test_settle(r);
    size_t sent = 0;
    ssize_t n;
    while ((n = write(fd, bytes + sent, sizeof bytes - sent)) > 0) {
        sent += (size_t)n;
        test_settle(r);
    }
    CHECK_EQ(s.got, 0u);
    CHECK_LT(sent, sizeof bytes);
    CHECK_OK(kr_conn_resume(r, s.conn));
    write_all(r, fd, bytes + sent, sizeof bytes - sent);
    test_close(fd);
    TEST_UNTIL(r, s.closes == 1);
    CHECK_EQ(s.got, sizeof bytes);
    finish(r);
}

/* Ours: more pipes than buffers, all of which end at once: each end takes a buffer, and gives it
 * back. */
TEST_EACH(pipe_ends_take_turns) {
    struct kr_config config = test_config();
    config.buf_count = 4;
    config.buf_size = 512;
    struct kr_reactor *r = test_reactor(&config);
    static struct seen s[40];
    int fds[40];
    char bytes[3000];
    test_pattern(bytes, sizeof bytes, 9, 0);
    for (unsigned i = 0; i < COUNT(s); i++) {
        s[i].seed = 9;
        fds[i] = begin(r, &s[i], IN, i % 2 ? O_NONBLOCK : 0, NULL);
    }
    for (unsigned i = 0; i < COUNT(s); i++) {
        CHECK_EQ(write(fds[i], bytes, sizeof bytes), (long)sizeof bytes);
        if (i % 3)
            test_close(fds[i]);
    }
    for (unsigned i = 0; i < COUNT(s); i++) {
        TEST_UNTIL(r, s[i].got == sizeof bytes);
        if (i % 3 == 0)
            test_close(fds[i]);
    }
    for (unsigned i = 0; i < COUNT(s); i++)
        TEST_UNTIL(r, s[i].closes == 1 && s[i].eofs == 1);
    finish(r);
}

/* ---- writing ---- */

/* Ours: what is queued comes out in order, in whatever pieces, as the reader takes it; then the
 * end. */
TEST_EACH(pipe_writes_in_order) {
    static char bytes[LARGE], back[LARGE];
    test_pattern(bytes, sizeof bytes, 3, 0);
    for (unsigned i = 0; i < 2; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {0};
        unsigned released = 0;
        struct kr_conn_opts opts = test_conn_opts();
        opts.zerocopy_min = i ? 1000 : 0; /* of which a pipe knows nothing */
        int fd = begin(r, &s, OUT, i ? O_NONBLOCK : 0, &opts);
        size_t at = 0;
        while (at < sizeof bytes / 2) {
            size_t size = 1 + (size_t)tap_random_below(30000);
            if (tap_random_below(2)) {
                CHECK_OK(kr_conn_send(r, s.conn, bytes + at, size));
            } else {
                CHECK_OK(kr_conn_send_ref(r, s.conn, bytes + at, size, test_count_call, &released));
                released--;
            }
            at += size;
        }
        CHECK_OK(kr_conn_send(r, s.conn, bytes + at, sizeof bytes - at));
        test_settle(r);
        CHECK_GT(kr_conn_queued(r, s.conn), 0u);
        read_all(r, fd, back, sizeof back / 3);
        CHECK_OK(kr_conn_close(r, s.conn, KR_CLOSE_FLUSH));
        read_all(r, fd, back + sizeof back / 3, sizeof back - sizeof back / 3);
        test_pattern_check(back, sizeof back, 3, 0);
        TEST_UNTIL(r, s.closes == 1);
        CHECK(s.error == 0 && s.eofs == 0 && released == 0);
        CHECK_EQ(read(fd, back, 1), 0);
        test_close(fd);
        finish(r);
    }
}

/* Ours: a file goes in its place. */
TEST_EACH(pipe_takes_a_file) {
    struct kr_reactor *r = test_reactor(NULL);
    static char bytes[1 << 20], back[(1 << 20) + 2];
    struct seen s = {0};
    int fd = begin(r, &s, OUT, 0, NULL), file = CHECK_SYS(memfd_create("kr-pipe", MFD_CLOEXEC));
    test_pattern(bytes, sizeof bytes, 3, 0);
    CHECK_EQ(write(file, bytes, sizeof bytes), (long)sizeof bytes);
    CHECK_OK(kr_conn_send(r, s.conn, "a", 1));
    CHECK_OK(kr_conn_send_file(r, s.conn, file, 0, KR_FILE_END, NULL, NULL));
    CHECK_OK(kr_conn_send(r, s.conn, "z", 1));
    CHECK_OK(kr_conn_close(r, s.conn, KR_CLOSE_FLUSH));
    read_all(r, fd, back, sizeof back);
    CHECK(back[0] == 'a' && back[sizeof back - 1] == 'z');
    test_pattern_check(back + 1, sizeof bytes, 3, 0);
    TEST_UNTIL(r, s.closes == 1);
    CHECK_EQ(s.error, 0);
    test_close(fd);
    test_close(file);
    finish(r);
}

/* Ours: marks and on_drain as on a socket. */
TEST_EACH(pipe_drains) {
    struct kr_reactor *r = test_reactor(NULL);
    static char bytes[1 << 20], back[1 << 20];
    struct seen s = {0};
    int fd = begin(r, &s, OUT, 0, NULL);
    CHECK_OK(kr_conn_send(r, s.conn, bytes, sizeof bytes));
    read_all(r, fd, back, sizeof back);
    TEST_UNTIL(r, s.drains == 1);
    CHECK_OK(kr_conn_close(r, s.conn, KR_CLOSE_NOW));
    TEST_UNTIL(r, s.closes == 1);
    test_close(fd);
    finish(r);
}

/* The kernel's, and ours: without readers a write ends the connection, and not this process. */
TEST_EACH(pipe_without_readers_ends_with_an_error) {
    static char bytes[1 << 20];
    for (unsigned i = 0; i < 4; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {0};
        int fd = begin(r, &s, OUT, i % 2 ? O_NONBLOCK : 0, NULL);
        if (i / 2) /* while a write waits for room */
            CHECK_OK(kr_conn_send(r, s.conn, bytes, sizeof bytes));
        test_settle(r);
        test_close(fd);
        if (i / 2 == 0) {
            test_settle(r);
            CHECK_EQ(s.closes, 0u);
            CHECK_OK(kr_conn_send(r, s.conn, "x", 1));
            CHECK_OK(kr_conn_send_ref(r, s.conn, "y", 1, NULL, NULL)); /* in pieces, too */
        }
        TEST_UNTIL(r, s.closes == 1);
        CHECK(s.error == -EPIPE && s.why == KR_WHY_ERROR);
        finish(r);
    }
}

/* Ours: where a write would raise SIGPIPE, an end that writes is taken only while that is
 * ignored. */
TEST_EACH(pipe_that_would_raise_a_signal_is_refused) {
    struct kr_reactor *r = test_reactor(NULL);
    struct seen s = {0};
    bool quiet = tap_variant()->caps_mask & KR__CAP_QUIET_PIPES &&
                 kr__linux.pipe_quiet(&kr__linux, true) > 0;
    int ends[2];
    CHECK_SYS(pipe2(ends, O_CLOEXEC));
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    int before = tap_fd_count(), rc = kr_conn_adopt(r, &s.conn, ends[OUT], NULL, &ops, &s);
    CHECK_EQ(rc, quiet ? 0 : -ENOSYS);
    if (rc < 0) {
        CHECK_EQ(tap_fd_count(), before);
        CHECK_EQ(write(ends[OUT], "x", 1), 1);
        CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
        CHECK_OK(kr_conn_adopt(r, &s.conn, ends[OUT], NULL, &ops, &s));
    }
    CHECK_OK(kr_conn_send(r, s.conn, "y", 1));
    test_close(ends[IN]);
    TEST_UNTIL(r, s.closes == 1);
    CHECK_EQ(s.error, -EPIPE);
    finish(r);
}

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
                     const struct kr_released *what) {
    struct left *l = user;
    UNUSED(r, conn);
    *l = (struct left){l->count + 1, what->fd, what->error, what->unread_size, what->unsent_size, what->eof, what->shut};
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
        int rc = kr_conn_release(r, in.conn, released, &left[IN]);
        CHECK(rc == 0 || (rc == -EOPNOTSUPP && !keep));
        if (rc == 0) {
            CHECK_OK(kr_conn_release(r, out.conn, released, &left[OUT]));
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

static const struct kr_conn_ops late_ops = {.on_eof = eof_forwards, .on_data = on_data, .on_close = on_close};

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
    for (unsigned i = *ring->cq.khead; i != __atomic_load_n(ring->cq.ktail, __ATOMIC_ACQUIRE); i++) {
        struct io_uring_cqe *cqe = &ring->cq.cqes[i & mask];
        if (kr__tag_unpack(cqe->user_data).op != KR__VERB_recv || cqe->res >= 0 || cqe->flags)
            continue;
        cqe->flags = IORING_CQE_F_BUFFER | (uint32_t)buf << IORING_CQE_BUFFER_SHIFT;
        flagged++;
    }
}

static struct kr_reactor *flagging; /* NULL while it is being made */

static int flagging_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                          unsigned wait_for, unsigned flags,
                          const struct kr__getevents_arg *arg) {
    int rc = kr__linux.enter(k, ring, submit, wait_for, flags, arg);
    if (flagging)
        flag_failed_reads(ring, flagging->bufs.ring->bufs[0].bid);
    return rc;
}

/* Ours: the buffer that a failed read flags is still the kernel's: it is not published a second
 * time, and the next bytes that come into it are whole. */
TEST_EACH(pipe_read_that_fails_takes_no_buffer) {
    struct kr__kernel kernel = kr__linux;
    kernel.enter = flagging_enter;
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

TAP_MAIN(pipe, 19 * 4)
