/* kr_dump: the state of a reactor in text, as it is, at any moment, changing nothing. */
#include "harness/server.h"
#include "harness/tap.h"

#include "conn/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEXT_SIZE 65536

static char text[TEXT_SIZE];

/* What a dump says now, read back from a socket pair that is large enough for it. */
static void dump(const struct kr_reactor *r) {
    int pair[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    CHECK_OK(kr_dump(r, pair[0]));
    close(pair[0]);
    size_t size = 0;
    ssize_t n;
    while ((n = read(pair[1], text + size, sizeof text - 1 - size)) > 0)
        size += (size_t)n;
    CHECK_EQ(n, 0);
    text[size] = 0;
    close(pair[1]);
}

static void check_says(const char *words) {
    if (!strstr(text, words))
        FAIL("the dump does not say \"%s\": %s", words, text);
}

struct seen {
    kr_conn conn;
    bool open, dumped;
};

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct seen *seen = user;
    seen->conn = conn;
    seen->open = true;
    dump(r);
    check_says(" in-turn");
    seen->dumped = true;
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    UNUSED(r, conn, user, data);
    return size - 1;
}

static const struct kr_conn_ops ops = {.on_open = on_open, .on_data = on_data};

static kr_listener listen_here(struct kr_reactor *r, struct seen *seen, struct kr_addr *addr) {
    kr_listener listener;
    CHECK_OK(kr_addr_ip(addr, "127.0.0.1", 0));
    CHECK_OK(kr_listen(r, &listener, addr, NULL, &ops, seen));
    CHECK_OK(kr_listener_addr(r, listener, addr));
    return listener;
}

/* Ours: each connection's state, what is armed, bytes kept and queued, and pauses are told as they
 * are. */
TEST_EACH(dump_tells_what_is) {
    struct kr_reactor *r = test_reactor(NULL);
    struct seen seen = {0};
    struct kr_addr addr;
    kr_listener listener = listen_here(r, &seen, &addr);
    dump(r);
    check_says("conns 0 of");

    int fd = test_connect_addr(&addr, 0);
    while (!seen.open)
        CHECK_LE(0, kr_step(r, tap_remaining_ns()));
    CHECK(seen.dumped);
    CHECK_SYS(write(fd, "hello", 5));
    struct kr_stats stats = {0};
    while (stats.bytes_in < 5) {
        CHECK_LE(0, kr_step(r, tap_remaining_ns()));
        CHECK_OK(kr_stats_read(r, &stats, sizeof stats));
    }
    CHECK_OK(kr_conn_send(r, seen.conn, "abc", 3));
    CHECK_OK(kr_conn_pause(r, seen.conn));
    dump(r);
    check_says("conn 0 open life 1 inflight 1 armed:recv");
    check_says("wants:send unwants:recv queued 3 held 0 kept 1");
    check_says(" paused");
    check_says("conns 1 of");
    char where[KR_ADDR_TEXT_SIZE + 32];
    snprintf(where, sizeof where, "open 127.0.0.1:%u", kr_addr_port(&addr));
    check_says(where);
    CHECK(!strstr(text, "STUCK"));

    CHECK_OK(kr_listener_close(r, listener));
    close(fd);
    test_reactor_free(r);
}

/* Ours: an error of the descriptor is the answer, and nothing else comes of it. */
TEST(dump_passes_an_error_on) {
    struct kr_reactor *r = test_reactor(NULL);
    CHECK_ERR(kr_dump(r, -1), EBADF);
    CHECK_ERR(kr_dump(NULL, 2), EINVAL);
    dump(r);
    check_says("kreactor ");
    test_reactor_free(r);
}

/* The words of one line of the dump, which begins with `head`. */
static void check_line(const char *head, const char *words) {
    char want[64];
    snprintf(want, sizeof want, "\n%s ", head);
    const char *line = strstr(text, want);
    const char *end = line ? strchr(line + 1, '\n') : NULL;
    if (!end)
        FAIL("the dump has no line of %s: %s", head, text);
    if (!memmem(line, (size_t)(end - line), words, strlen(words)))
        FAIL("the line of %s does not say \"%s\": %s", head, words, text);
}

struct crowd {
    kr_conn conns[64];
    unsigned opens, closes;
    bool look_at_close, keep_at_eof, ended;
    const char *at_eof; /* words that the dump must say in on_eof */
};

static void crowd_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct crowd *crowd = user;
    (void)r;
    crowd->conns[crowd->opens++] = conn;
}

static void crowd_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct crowd *crowd = user;
    dump(r);
    if (crowd->at_eof)
        check_says(crowd->at_eof);
    crowd->ended = true;
    if (!crowd->keep_at_eof)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static void crowd_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                        enum kr_why why) {
    struct crowd *crowd = user;
    UNUSED(conn, error, why);
    crowd->closes++;
    if (!crowd->look_at_close)
        return;
    dump(r);
    check_says(" in-turn freeing");
}

static const struct kr_conn_ops crowd_ops = {
    .on_open = crowd_open, .on_data = test_take_all, .on_eof = crowd_eof, .on_close = crowd_close};

/* Ours: what holds a connection up is told in its line: a peer that reads nothing, an end that the
 * peer has sent, a close that is under way, in whichever manner. */
TEST_EACH(dump_tells_what_holds_a_connection_up) {
    struct kr_reactor *r = test_reactor(NULL);
    struct crowd crowd = {.keep_at_eof = true, .at_eof = " eof"};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.send_low = opts.conn.send_high = 1;
    uint16_t port = test_listen(r, NULL, &opts, &crowd_ops, &crowd);
    int fds[4];
    for (unsigned i = 0; i < 4; i++) {
        fds[i] = test_connect_sized(port, 0, 4096);
        TEST_UNTIL(r, crowd.opens == i + 1);
    }
    CHECK_SYS(shutdown(fds[3], SHUT_WR));
    TEST_UNTIL(r, crowd.ended);
    static const char much[4 << 20];
    for (unsigned i = 0; i < 2; i++)
        CHECK_OK(kr_conn_send(r, crowd.conns[i], much, sizeof much));
    for (unsigned i = 0; i < 2; i++)
        TEST_UNTIL(r, r->conns.table[i].owner.armed & KR__SET(send_poll));
    dump(r);
    check_line("conn 0", " open ");
    check_line("conn 0", " armed:send_poll queued ");
    check_line("conn 0", " blocked");
    check_line("conn 3", " eof");
    CHECK_OK(kr_conn_close(r, crowd.conns[1], KR_CLOSE_FLUSH));
    CHECK_OK(kr_conn_close(r, crowd.conns[2], KR_CLOSE_RESET));
    dump(r);
    check_line("conn 1", " flushing ");
    check_line("conn 2", " joining ");
    check_line("conn 2", " unwants:recv ");
    check_line("conn 2", " reset");
    CHECK(!strstr(text, "STUCK"));
    for (unsigned i = 0; i < 4; i++)
        test_close(fds[i]);
    crowd.look_at_close = true;
    test_reactor_free(r);
    CHECK_EQ(crowd.closes, 4u);
}

/* Ours: who waits for a receive buffer is told as starved. Of three peers the first has the one
 * buffer there is, the second finds none, and the end of the third is where one can look. */
TEST_EACH(dump_tells_who_waits_for_a_buffer) {
    struct kr_config config = test_config();
    config.buf_count = 1;
    config.buf_size = 64;
    struct kr_reactor *r = test_reactor(&config);
    struct crowd crowd = {.at_eof = " starved"};
    uint16_t port = test_listen(r, NULL, NULL, &crowd_ops, &crowd);
    int fds[3];
    for (unsigned i = 0; i < 3; i++) {
        fds[i] = test_connect(port);
        TEST_UNTIL(r, crowd.opens == i + 1);
    }
    test_step(r, "the receives to be armed");
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(test_send_some(fds[i], "hello", 5), 5);
    CHECK_SYS(shutdown(fds[2], SHUT_WR));
    TEST_UNTIL(r, crowd.ended);
    for (unsigned i = 0; i < 3; i++)
        test_close(fds[i]);
    test_reactor_free(r);
}

/* Ours: what keeps a listener from accepting is told in its line: no free slot for a client who
 * waits, a pause, its own end, and an error that is waited out (real: no descriptor is left). */
TEST_EACH(dump_tells_what_holds_a_listener_up) {
    struct kr_config config = test_config();
    config.conn_max = 1;
    struct kr_reactor *r = test_reactor(&config);
    struct crowd crowd = {.opens = 0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.addresses = true;
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, &opts, &crowd_ops, &crowd);
    int fd = test_connect(port);
    struct rlimit limit, few;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
    few = (struct rlimit){.rlim_cur = (rlim_t)tap_fd_count(), .rlim_max = limit.rlim_max};
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &few));
    TEST_UNTIL(r, test_stats(r).accept_errors > 0);
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    dump(r);
    check_says(" backing-off");

    TEST_UNTIL(r, crowd.opens == 1);
    int other = test_connect(port);
    TEST_UNTIL(r, test_stats(r).accept_pauses > 0);
    dump(r);
    check_says(" ready short-of-room");
    CHECK_OK(kr_listener_pause(r, listener));
    dump(r);
    check_says(" ready paused");
    CHECK_OK(kr_listener_close(r, listener));
    dump(r);
    check_says(" closing 127.0.0.1:");
    test_close(fd);
    test_close(other);
    test_reactor_free(r);
}

/* Ours: of many connections each has its line, however long that makes the text. */
TEST_EACH(dump_of_many_is_whole) {
    struct kr_reactor *r = test_reactor(NULL);
    struct crowd crowd = {.opens = 0};
    uint16_t port = test_listen(r, NULL, NULL, &crowd_ops, &crowd);
    int fds[60];
    for (unsigned i = 0; i < 60; i++)
        fds[i] = test_connect(port);
    TEST_UNTIL(r, crowd.opens == 60);
    dump(r);
    CHECK_GT(strlen(text), 2 * 2048u);
    for (unsigned i = 0; i < 60; i++) {
        char head[16];
        snprintf(head, sizeof head, "conn %u", i);
        check_line(head, " open ");
    }
    for (unsigned i = 0; i < 60; i++)
        test_close(fds[i]);
    test_reactor_free(r);
}

/* A wedge, made by hand and taken back; it must be told. */
#define CHECK_STUCK(c_, field_, value_)                                                             \
    do {                                                                                           \
        struct kr__conn was = *(c_);                                                               \
        (c_)->field_ = (value_);                                                                   \
        dump(r);                                                                                   \
        *(c_) = was;                                                                               \
        check_line("conn 0", " STUCK");                                                            \
    } while (0)

/* Ours: a connection that nothing will ever move on is told as stuck, in each state that it may be
 * in. The audit of each wait asks the same question. */
TEST_EACH(dump_tells_who_is_stuck) {
    struct kr_reactor *r = test_reactor(NULL);
    struct crowd crowd = {.opens = 0};
    uint16_t port = test_listen(r, NULL, NULL, &crowd_ops, &crowd);
    int fd = test_connect_sized(port, 0, 4096);
    TEST_UNTIL(r, crowd.opens == 1);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    struct kr__conn *c = &r->conns.table[0];
    CHECK_STUCK(c, owner.armed, 0);
    CHECK_STUCK(c, queued, 1);
    CHECK_STUCK(c, blocked, true);
    CHECK_STUCK(c, half, true);
    CHECK_STUCK(c, state, KR__CONN_FLUSHING);
    CHECK_STUCK(c, state, KR__CONN_LINGERING);

    static const char much[4 << 20];
    CHECK_OK(kr_conn_send(r, crowd.conns[0], much, sizeof much));
    CHECK_OK(kr_conn_close(r, crowd.conns[0], KR_CLOSE_FLUSH));
    TEST_UNTIL(r, c->owner.armed == KR__SET(send_poll));
    dump(r);
    CHECK(!strstr(text, "STUCK"));
    CHECK_STUCK(c, owner.armed, 0);
    CHECK_STUCK(c, deadline.node.place, KR__HEAP_OUT);
    uint32_t inflight = c->owner.inflight;
    c->state = KR__CONN_JOINING;
    CHECK_STUCK(c, owner.inflight, 0);
    c->state = KR__CONN_FLUSHING;
    CHECK_EQ(c->owner.inflight, inflight);
    test_close(fd);
    test_reactor_free(r);
}

static void on_alarm(int signo) {
    (void)signo;
}

/* Reads a little at a time, and at last says how much it was. */
static void slow_reader(int fd, int result) {
    size_t total = 0;
    char some[64];
    ssize_t n;
    while ((n = read(fd, some, sizeof some)) > 0) {
        total += (size_t)n;
        usleep(200);
    }
    if (write(result, &total, sizeof total) != (ssize_t)sizeof total)
        tap_exit_child(1);
    tap_exit_child(0);
}

/* Ours: signals that interrupt the writing cost no byte of the text. The reader is slow and the
 * pipe is full, so that each write waits, and an alarm ends most waits. */
TEST(dump_goes_on_after_a_signal) {
    struct kr_reactor *r = test_reactor(NULL);
    dump(r);
    size_t size = strlen(text);
    int pipe_fds[2], result[2];
    CHECK_SYS(pipe2(pipe_fds, O_CLOEXEC));
    CHECK_SYS(pipe2(result, O_CLOEXEC));
    CHECK_SYS(fcntl(pipe_fds[1], F_SETPIPE_SZ, 4096));
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        CHECK_SYS(close(pipe_fds[1]));
        slow_reader(pipe_fds[0], result[1]);
    }
    CHECK_SYS(close(pipe_fds[0]));
    CHECK_SYS(close(result[1]));
    CHECK_SYS(sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL));
    struct itimerval often = {{.tv_usec = 500}, {.tv_usec = 500}};
    CHECK_SYS(setitimer(ITIMER_REAL, &often, NULL));
    size_t texts = 40;
    for (size_t i = 0; i < texts; i++)
        CHECK_OK(kr_dump(r, pipe_fds[1]));
    CHECK_SYS(setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL));
    CHECK_SYS(close(pipe_fds[1]));
    size_t got = 0;
    CHECK_EQ(read(result[0], &got, sizeof got), (ssize_t)sizeof got);
    CHECK_EQ(got, texts * size);
    CHECK_SYS(close(result[0]));
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    test_reactor_free(r);
}

TAP_MAIN(dump, 26)
