/* Adopted pipes: connections in one direction. */
#include "pipe/pipe.h"

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct seen *s = user;
    UNUSED(r, conn);
    s->opens++;
}

size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
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

static void on_writable(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct seen *)user)->drains++;
}

void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct seen *s = user;
    UNUSED(r, conn);
    s->closes++;
    s->error = error;
    s->why = why;
}

const struct kr_conn_ops ops = {.on_open = on_open,
                                .on_data = on_data,
                                .on_eof = on_eof,
                                .on_writable = on_writable,
                                .on_close = on_close};

void hush(void) {
    bool quiet = tap_variant()->caps_mask & KR__CAP_QUIET_PIPES &&
                 kr__linux.file.pipe_flags(&kr__linux, true) > 0;
    CHECK(signal(SIGPIPE, quiet ? SIG_DFL : SIG_IGN) != SIG_ERR);
}

void adopt_fd(struct kr_reactor *r, struct seen *s, int fd, const struct kr_conn_opts *opts) {
    hush();
    *s = (struct seen){.seed = s->seed, .hesitates = s->hesitates};
    CHECK_OK(kr_conn_adopt(r, &s->conn, fd, opts, &ops, s));
}

int begin(struct kr_reactor *r, struct seen *s, int end, int flags,
          const struct kr_conn_opts *opts) {
    int ends[2], before = tap_fd_count();
    CHECK_SYS(pipe2(ends, O_CLOEXEC | flags));
    CHECK_SYS(fcntl(ends[!end], F_SETFL, O_NONBLOCK));
    adopt_fd(r, s, ends[end], opts);
    CHECK_EQ(tap_fd_count(), before + 1 + test_slot_cost(r));
    TEST_UNTIL(r, s->opens == 1);
    return ends[!end];
}

void finish(struct kr_reactor *r) {
    test_reactor_end(r, (struct test_levels){0});
}

void write_all(struct kr_reactor *r, int fd, const char *data, size_t size) {
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

/* Ours: marks and on_writable as on a socket. */
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
                 kr__linux.file.pipe_flags(&kr__linux, true) > 0;
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

TAP_MAIN(pipe, 19 * 4)
