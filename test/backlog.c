/* Listeners that end by themselves: drained, their time over, or killed. Each tells of it once,
 * those who waited have been served if there was time, and the address is free. */
#include "harness/net.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define WAITING 50u

static struct place {
    struct kr_reactor *r;
    kr_listener listener;
    struct kr_listen_opts opts;
    uint16_t port;
    unsigned opens, closes, shutdowns, ends, drains;
    int end_error;
    bool relisten; /* and then `relistened` */
    unsigned relistened;
    int fds[4 * WAITING];
} place;

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    CHECK(user == &place);
    CHECK_EQ(place.ends, 0u);
    place.opens++;
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)user;
    CHECK_OK(kr_conn_send(r, conn, data, size));
    return size;
}

static void on_shutdown(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn, user);
    place.shutdowns++;
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    UNUSED(r, conn, user, error, why);
    place.closes++;
}

static const struct kr_conn_ops ops = {
    .on_open = on_open, .on_data = on_data, .on_shutdown = on_shutdown, .on_close = on_close};

/* The handle is stale, and the address can be taken at once. */
static void on_end(struct kr_reactor *r, kr_listener listener, void *user, int error) {
    CHECK(r == place.r && user == &place);
    CHECK_EQ(listener.bits, place.listener.bits);
    CHECK_ERR(kr_listener_resume(r, listener), ESTALE);
    place.ends++;
    place.end_error = error;
    if (!place.relisten)
        return;
    struct kr_addr addr = test_loopback(place.port);
    CHECK_OK(kr_listen(r, NULL, &addr, &place.opts, &ops, &place));
    place.ends = 0;
    place.relistened++;
}

static void begin(const struct kr_config *config) {
    place = (struct place){.r = test_reactor(config)};
    kr_listen_opts_init(&place.opts);
    place.opts.backlog = 256;
    place.opts.on_end = on_end;
}

static void listen_now(void) {
    place.port = test_listen(place.r, &place.listener, &place.opts, &ops, &place);
}

/* A turn or two without a client, so that all that is wanted is armed. */
static void settle(void) {
    for (unsigned i = 0; i < 3; i++)
        test_step(place.r, "the listener to settle");
}

static void queue_up(unsigned count) {
    for (unsigned i = 0; i < count; i++)
        place.fds[i] = test_connect(place.port);
}

/* Each asks, has its answer, and leaves. */
static void serve_in_turn(unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        char byte;
        test_send(place.r, place.fds[i], "x", 1);
        test_recv(place.r, place.fds[i], &byte, 1);
        test_close(place.fds[i]);
    }
}

static void expect_end(int error) {
    TEST_UNTIL(place.r, place.ends == 1);
    CHECK_EQ(place.end_error, error);
    CHECK_ERR(kr_listener_drain(place.r, place.listener, 0), ESTALE);
    CHECK_EQ(test_stats(place.r).listeners, 0u);
}

static void end(void) {
    test_rest(place.r, (struct test_levels){.conns = 0});
    CHECK_EQ(place.opens, place.closes);
    CHECK_LE(place.ends, 1u);
    test_reactor_free(place.r);
}

/* Ours: whoever waited is served, nobody is reset, and then the port is closed. */
static void all_are_served(void) {
    listen_now();
    CHECK_OK(kr_listener_pause(place.r, place.listener));
    settle();
    queue_up(WAITING);
    settle();
    CHECK_EQ(place.opens, 0u);
    CHECK_OK(kr_listener_drain(place.r, place.listener, HOUR));
    serve_in_turn(WAITING);
    expect_end(0);
    CHECK_EQ(place.opens, WAITING);
    struct kr_addr addr = test_loopback(place.port);
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_EQ(connect(fd, &addr.u.sa, addr.size), -1);
    CHECK_EQ(errno, ECONNREFUSED);
    test_close(fd);
    end();
}

TEST_EACH(backlog_is_served) {
    begin(NULL);
    all_are_served();
}

TEST_EACH(backlog_is_served_with_addresses) {
    begin(NULL);
    place.opts.addresses = true;
    all_are_served();
}

/* Ours: also when there is room for a few at a time only, the one who leaves making it for the
 * next. */
TEST_EACH(backlog_is_served_in_a_small_room) {
    begin(NULL);
    place.opts.conn_max = 3;
    all_are_served();
}

/* Ours: those whom an armed multishot has just got, and those who come when it is cancelled, as
 * well. */
TEST_EACH(backlog_is_served_while_accepting) {
    begin(NULL);
    listen_now();
    settle();
    queue_up(WAITING);
    CHECK_OK(kr_listener_drain(place.r, place.listener, HOUR));
    serve_in_turn(WAITING);
    expect_end(0);
    CHECK_EQ(place.opens, WAITING);
    end();
}

/* Ours: nobody waits, and that is the end. */
TEST_EACH(backlog_of_none) {
    begin(NULL);
    listen_now();
    settle();
    uint64_t turns = test_stats(place.r).turns;
    CHECK_OK(kr_listener_drain(place.r, place.listener, HOUR));
    CHECK_EQ(place.ends, 0u); /* not within the call */
    expect_end(0);
    CHECK_LE(test_stats(place.r).turns - turns, 8u);
    end();
}

/* Ours: the same of a Unix socket. */
TEST_EACH(backlog_of_a_unix_socket) {
    begin(NULL);
    struct kr_addr addr;
    char path[64];
    snprintf(path, sizeof path, "/tmp/kr-backlog-%d", (int)getpid());
    unlink(path);
    CHECK_OK(kr_addr_unix(&addr, path));
    place.opts.unix_remove = true;
    CHECK_OK(kr_listen(place.r, &place.listener, &addr, &place.opts, &ops, &place));
    CHECK_OK(kr_listener_pause(place.r, place.listener));
    settle();
    for (unsigned i = 0; i < WAITING; i++) {
        place.fds[i] = CHECK_SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        CHECK_SYS(connect(place.fds[i], &addr.u.sa, addr.size));
    }
    CHECK_OK(kr_listener_drain(place.r, place.listener, HOUR));
    serve_in_turn(WAITING);
    expect_end(0);
    CHECK_EQ(place.opens, WAITING);
    CHECK_EQ(access(path, F_OK), -1);
    end();
}

/* Ours: clients who never stop coming do not hold it up: as many as can have waited at the call are
 * served, and those who still wait then are let go. */
TEST_EACH(backlog_of_a_stream_of_clients) {
    begin(NULL);
    place.opts.backlog = 16;
    listen_now();
    CHECK_OK(kr_listener_pause(place.r, place.listener));
    settle();
    unsigned count = 0, served = 0;
    for (; count < 16; count++)
        place.fds[count] = test_connect_begin(place.port);
    CHECK_OK(kr_listener_drain(place.r, place.listener, HOUR));
    while (!place.ends) {
        for (unsigned i = 0; i < 20 && count < 4 * WAITING; i++)
            place.fds[count++] = test_connect_begin(place.port);
        test_step(place.r, "the listener to end");
    }
    CHECK_EQ(place.end_error, 0);
    CHECK_GE(place.opens, 16u);
    CHECK_LE(place.opens, 17u + 16u); /* with those whom accepts in flight had got */
    for (unsigned i = 0; i < count; i++) {
        char byte;
        served += test_send_some(place.fds[i], "x", 1) == 1;
        test_step(place.r, "an answer");
        test_step(place.r, "an answer");
        CHECK(i >= 16 || test_recv_some(place.fds[i], &byte, 1) == 1); /* who waited at the call */
        test_close(place.fds[i]);
    }
    CHECK_GE(served, 16u);
    end();
}

/* Ours: when there is no room for them, the time ends it. */
TEST_EACH(backlog_without_room_has_its_time) {
    begin(NULL);
    place.opts.conn_max = 1;
    listen_now();
    queue_up(4);
    TEST_UNTIL(place.r, place.opens == 1);
    int64_t began = tap_now_ns();
    CHECK_OK(kr_listener_drain(place.r, place.listener, 30 * MS));
    expect_end(-ETIMEDOUT);
    CHECK_GE(tap_now_ns() - began, 30 * MS);
    CHECK_EQ(place.opens, 1u);
    for (unsigned i = 1; i < 4; i++)
        CHECK_EQ(test_recv_end(place.r, place.fds[i], NULL), ECONNRESET);
    for (unsigned i = 0; i < 4; i++)
        test_close(place.fds[i]);
    end();
}

static void drained(struct kr_reactor *r, void *user, unsigned cut_off) {
    UNUSED(r, user, cut_off);
    place.drains++;
}

/* Ours: kr_drain waits for those who wait; each of them opens, is told once, and served. */
TEST_EACH(backlog_before_a_drain) {
    begin(NULL);
    listen_now();
    int early = test_connect(place.port);
    TEST_UNTIL(place.r, place.opens == 1);
    CHECK_OK(kr_listener_pause(place.r, place.listener));
    settle();
    queue_up(WAITING);
    CHECK_OK(kr_listener_drain(place.r, place.listener, HOUR));
    CHECK_OK(kr_drain(place.r, HOUR, drained, NULL));
    expect_end(0);
    TEST_UNTIL(place.r, place.shutdowns == WAITING + 1);
    CHECK_EQ(place.drains, 0u);
    serve_in_turn(WAITING);
    test_close(early);
    TEST_UNTIL(place.r, place.drains == 1);
    CHECK_EQ(place.shutdowns, WAITING + 1);
    end();
}

/* Ours: the time of the drain is that of the listener, too. */
TEST_EACH(backlog_beyond_a_drains_time) {
    begin(NULL);
    place.opts.conn_max = 2;
    listen_now();
    queue_up(10);
    TEST_UNTIL(place.r, place.opens == 2);
    CHECK_OK(kr_listener_drain(place.r, place.listener, HOUR));
    CHECK_OK(kr_drain(place.r, 20 * MS, drained, NULL));
    TEST_UNTIL(place.r, place.drains == 1);
    TEST_UNTIL(place.r, place.ends == 1);
    CHECK_EQ(place.end_error, -ETIMEDOUT);
    CHECK_EQ(place.opens, 2u);
    CHECK_EQ(place.shutdowns, 2u);
    for (unsigned i = 0; i < 10; i++)
        test_close(place.fds[i]);
    end();
}

/* Ours: who came from the backlog meanwhile is told before it is cut off. */
TEST_EACH(backlog_is_told_at_the_end_of_a_drain) {
    begin(NULL);
    place.opts.conn_max = 3;
    listen_now();
    int early = test_connect(place.port);
    TEST_UNTIL(place.r, place.opens == 1);
    CHECK_OK(kr_listener_pause(place.r, place.listener));
    settle();
    queue_up(10);
    CHECK_OK(kr_listener_drain(place.r, place.listener, HOUR));
    CHECK_OK(kr_drain(place.r, 200 * MS, drained, NULL));
    TEST_UNTIL(place.r, place.opens == 3);
    CHECK_EQ(place.shutdowns, 1u);
    TEST_UNTIL(place.r, place.drains == 1);
    CHECK_EQ(place.opens, 3u);
    CHECK_EQ(place.shutdowns, 3u);
    for (unsigned i = 0; i < 10; i++)
        test_close(place.fds[i]);
    test_close(early);
    end();
}

/* Ours: what is wrong is refused and changes nothing; a close ends it, and nobody is told of
 * that. */
TEST_EACH(backlog_refusals) {
    begin(NULL);
    place.opts.conn_max = 1;
    listen_now();
    queue_up(2);
    TEST_UNTIL(place.r, place.opens == 1);
    CHECK_ERR(kr_listener_drain(place.r, place.listener, -1), EINVAL);
    CHECK_ERR(kr_listener_drain(place.r, (kr_listener){0}, 1), ESTALE);
    CHECK_OK(kr_listener_drain(place.r, place.listener, HOUR));
    CHECK_ERR(kr_listener_drain(place.r, place.listener, 0), EALREADY);
    settle();
    CHECK_EQ(place.ends, 0u);
    CHECK_OK(kr_listener_close(place.r, place.listener));
    CHECK_EQ(test_recv_end(place.r, place.fds[1], NULL), ECONNRESET);
    test_close(place.fds[0]);
    test_close(place.fds[1]);
    end();
    CHECK_EQ(place.ends, 0u);
}

/* Ours: nor is anybody told when the reactor is freed in the middle. */
TEST_EACH(backlog_of_a_reactor_that_is_freed) {
    begin(NULL);
    place.opts.conn_max = 1;
    listen_now();
    queue_up(3);
    TEST_UNTIL(place.r, place.opens == 1);
    CHECK_OK(kr_listener_drain(place.r, place.listener, 0));
    test_reactor_free(place.r);
    CHECK_EQ(place.ends, 0u);
    for (unsigned i = 0; i < 3; i++)
        test_close(place.fds[i]);
}

/* The kernel's promise: accept answers EINVAL when the socket does not listen any more. Ours: the
 * listener ends, tries no more, tells why, and its connections live on. */
static void end_for_good(void) {
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct kr_addr addr = test_loopback(0);
    CHECK_SYS(bind(fd, &addr.u.sa, addr.size));
    CHECK_SYS(listen(fd, 16));
    CHECK_OK(kr_listen_fd(place.r, &place.listener, fd, &place.opts, &ops, &place));
    CHECK_OK(kr_listener_addr(place.r, place.listener, &addr));
    place.port = kr_addr_port(&addr);
    int client = test_connect(place.port);
    TEST_UNTIL(place.r, place.opens == 1);
    settle();
    CHECK_SYS(shutdown(fd, SHUT_RDWR));
    test_close(fd);
    expect_end(-EINVAL);
    uint64_t errors = test_stats(place.r).accept_errors;
    CHECK_LE(errors, 16u); /* one of each accept that was in flight */
    char byte;
    test_send(place.r, client, "x", 1);
    test_recv(place.r, client, &byte, 1);
    CHECK_EQ(test_stats(place.r).accept_errors, errors);
    test_close(client);
    end();
}

TEST_EACH(backlog_of_a_socket_that_is_shut_down) {
    begin(NULL);
    end_for_good();
}

TEST_EACH(backlog_of_a_socket_that_is_shut_down_with_addresses) {
    begin(NULL);
    place.opts.addresses = true;
    end_for_good();
}

TEST_EACH(backlog_of_a_socket_that_is_shut_down_in_a_small_room) {
    begin(NULL);
    place.opts.conn_max = 3;
    end_for_good();
}

/* Ours: in on_end the address is free. */
TEST_EACH(backlog_ends_and_begins_anew) {
    begin(NULL);
    place.relisten = true;
    listen_now();
    int fd = test_connect(place.port);
    TEST_UNTIL(place.r, place.opens == 1);
    CHECK_OK(kr_listener_drain(place.r, place.listener, HOUR));
    TEST_UNTIL(place.r, place.relistened == 1);
    int other = test_connect(place.port);
    TEST_UNTIL(place.r, place.opens == 2);
    test_close(fd);
    test_close(other);
    test_reactor_end(place.r, (struct test_levels){.listeners = 1});
}

TAP_MAIN(backlog, 68)
