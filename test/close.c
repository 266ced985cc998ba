/* Ends of connections: by this side in four manners, from every callback, of others, twice; by
 * the peer in all of its ways; and what must not outlive them.
 *
 * Each connection of these cases has a record of its life, and the record's own rules are
 * checked at every callback: on_open first, on_close once and last, nothing between a close and
 * on_close. */
#include "harness/net.h"

#include "core/reactor.h"
#include "loop.h"
#include "op/nop.h"
#include "ring/tag.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum event { OPEN, DATA, END, DRAIN, TIMEOUT, CLOSE, EVENTS };

#define LIVES 600

struct life {
    kr_conn conn;
    unsigned events[EVENTS];
    size_t bytes;
    bool closing; /* by this side */
    int error;
    enum kr_why why;
};

/* What a case's connections do. */
struct house {
    struct life lives[LIVES];
    unsigned count;
    int close_in; /* an enum event, or EVENTS for none */
    enum kr_close how;
    bool close_others; /* instead of itself */
    size_t greeting;   /* bytes sent in on_open */
    bool echo;
    unsigned closed;
};

static struct house house;

static void close_life(struct kr_reactor *r, struct life *life, enum kr_close how) {
    CHECK_OK(kr_conn_close(r, life->conn, how));
    life->closing = true;
    CHECK_ERR(kr_conn_send(r, life->conn, "x", 1), EPIPE);
    void *room;
    CHECK_ERR(kr_conn_reserve(r, life->conn, 1, &room), EPIPE);
    CHECK_ERR(kr_conn_pause(r, life->conn), EPIPE);
    CHECK_ERR(kr_conn_resume(r, life->conn), EPIPE);
}

static void happen(struct kr_reactor *r, kr_conn conn, struct life *life, enum event event) {
    CHECK_EQ(conn.bits, life->conn.bits);
    CHECK_EQ(life->events[CLOSE], 0u);
    CHECK(event == CLOSE || !life->closing);
    CHECK(event == OPEN || life->events[OPEN] == 1);
    life->events[event]++;
    if (house.close_in != (int)event)
        return;
    if (house.close_others) {
        for (unsigned i = 0; i < house.count; i++) {
            struct life *other = &house.lives[i];
            if (other != life && !other->closing && !other->events[CLOSE])
                close_life(r, other, house.how);
        }
    } else if (event == CLOSE) {
        CHECK_OK(kr_conn_close(r, conn, house.how));
    } else {
        close_life(r, life, house.how);
    }
}

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    CHECK(user == &house);
    CHECK_LT(house.count, LIVES);
    struct life *life = &house.lives[house.count++];
    *life = (struct life){.conn = conn};
    CHECK_OK(kr_conn_set_user(r, conn, life));
    if (house.greeting) {
        char *bytes = calloc(1, house.greeting);
        CHECK(bytes != NULL);
        test_pattern(bytes, house.greeting, 1, 0);
        CHECK_OK(kr_conn_send(r, conn, bytes, house.greeting));
        free(bytes);
    }
    happen(r, conn, life, OPEN);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct life *life = user;
    life->bytes += size;
    if (house.echo)
        CHECK_OK(kr_conn_send(r, conn, data, size));
    happen(r, conn, life, DATA);
    return size;
}

static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    happen(r, conn, user, END);
}

static void on_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    happen(r, conn, user, DRAIN);
}

static void on_timeout(struct kr_reactor *r, kr_conn conn, void *user, enum kr_deadline which) {
    CHECK_EQ(which, KR_DEADLINE_IDLE);
    happen(r, conn, user, TIMEOUT);
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct life *life = user;
    happen(r, conn, life, CLOSE);
    CHECK(kr_conn_user(r, conn) == user);
    CHECK_ERR(kr_conn_send(r, conn, "x", 1), EPIPE);
    life->error = error;
    life->why = why;
    house.closed++;
}

static const struct kr_conn_ops ops = {.on_open = on_open,
                                       .on_data = on_data,
                                       .on_eof = on_eof,
                                       .on_drain = on_drain,
                                       .on_timeout = on_timeout,
                                       .on_close = on_close};

/* Without on_eof and on_timeout: the defaults. */
static const struct kr_conn_ops plain_ops = {
    .on_open = on_open, .on_data = on_data, .on_drain = on_drain, .on_close = on_close};

static void house_init(void) {
    house = (struct house){.close_in = EVENTS};
}

/* The i-th life, over, for this cause. */
static void check_closed(struct kr_reactor *r, unsigned i, int error, enum kr_why why) {
    struct life *life = &house.lives[i];
    TEST_UNTIL(r, life->events[CLOSE] > 0);
    CHECK_EQ(life->error, error);
    CHECK_EQ(life->why, why);
    CHECK_EQ(life->events[CLOSE], 1u);
    CHECK_ERR(kr_conn_send(r, life->conn, "x", 1), ESTALE);
    CHECK_ERR(kr_conn_close(r, life->conn, KR_CLOSE_RESET), ESTALE);
    CHECK_ERR(kr_conn_pause(r, life->conn), ESTALE);
    CHECK(kr_conn_user(r, life->conn) == NULL);
    CHECK_EQ(kr_conn_queued(r, life->conn), 0u);
}

/* The first connection of a fresh house. */
static int open_one(struct kr_reactor *r, uint16_t port) {
    unsigned before = house.count;
    int fd = test_connect(port);
    TEST_UNTIL(r, house.count == before + 1);
    return fd;
}

/* ---- closing from inside callbacks ---- */

/* Brings the event about for a new connection, which closes in it. */
static void close_in_event(struct kr_reactor *r, const struct kr_listen_opts *opts,
                           enum event event, enum kr_close how) {
    house_init();
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, opts, &ops, &house);
    house.close_in = (int)event;
    house.how = how;
    house.greeting = event == DRAIN ? 200000 : 0;
    int fd = test_connect(port);
    if (event == DATA || event == CLOSE)
        test_send(r, fd, "abc", 3);
    if (event == END || how == KR_CLOSE_LINGER)
        CHECK_SYS(shutdown(fd, SHUT_WR));
    TEST_UNTIL(r, house.count == 1);
    if (event == DRAIN) {
        static char bytes[200000];
        test_recv(r, fd, bytes, sizeof bytes);
        test_pattern_check(bytes, sizeof bytes, 1, 0);
    }
    if (event == CLOSE) {
        TEST_UNTIL(r, house.lives[0].events[DATA] > 0);
        close_life(r, &house.lives[0], KR_CLOSE_NOW);
    }
    check_closed(r, 0, 0, KR_WHY_LOCAL);
    CHECK_EQ(house.lives[0].events[event], 1u);
    int end = test_recv_end(r, fd, NULL);
    bool reset = how == KR_CLOSE_RESET && event != CLOSE;
    CHECK_EQ(end, reset ? ECONNRESET : 0);
    CHECK_OK(kr_listener_close(r, listener));
    test_rest(r, (struct test_levels){.conns = 0});
    test_close(fd);
}

/* Ours: close is legal in every callback, in every manner; on_close follows once, and no other
 * callback. The peer sees FIN, or RST for KR_CLOSE_RESET. */
TEST_EACH(close_inside_every_callback) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts;
    for (int event = OPEN; event < EVENTS; event++) {
        for (int how = KR_CLOSE_LINGER; how <= KR_CLOSE_RESET; how++) {
            kr_listen_opts_init(&opts);
            opts.conn.send_low = 0;
            opts.conn.send_high = 1000;
            opts.conn.idle_ns = event == TIMEOUT ? 2000000 : 0;
            close_in_event(r, &opts, (enum event)event, (enum kr_close)how);
        }
    }
    test_reactor_free(r);
}

static void batch_of(struct kr_reactor *r, uint16_t port, unsigned count, enum kr_close how) {
    int fds[32];
    house_init();
    for (unsigned i = 0; i < count; i++)
        fds[i] = open_one(r, port);
    test_rest(r, (struct test_levels){.conns = count, .listeners = 1});
    house.close_in = DATA;
    house.close_others = true;
    house.how = how;
    for (unsigned i = 0; i < count; i++)
        test_send(NULL, fds[i], "abc", 3);
    TEST_UNTIL(r, house.closed == count - 1);
    unsigned datas = 0, survivor = 0;
    for (unsigned i = 0; i < count; i++) {
        datas += house.lives[i].events[DATA];
        if (!house.lives[i].closing)
            survivor = i;
    }
    CHECK_EQ(datas, 1u);
    CHECK_EQ(house.lives[survivor].events[DATA], 1u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    for (unsigned i = 0; i < count; i++) {
        if (i != survivor)
            test_recv_end(r, fds[i], NULL);
        test_close(fds[i]);
    }
    TEST_UNTIL(r, house.lives[survivor].events[END] == 1);
    house.close_in = EVENTS;
    close_life(r, &house.lives[survivor], KR_CLOSE_NOW);
    test_rest(r, (struct test_levels){.listeners = 1});
}

/* Ours: of 32 connections whose bytes arrive in one batch, the first to be called closes all
 * others: none of them is called with data any more, and their buffers come back. */
TEST_EACH(close_of_others_in_the_same_batch) {
    struct kr_config config;
    kr_config_init(&config);
    config.buf_count = 64;
    struct kr_reactor *r = test_reactor(&config);
    uint16_t port = test_listen(r, NULL, NULL, &ops, &house);
    for (int how = KR_CLOSE_FLUSH; how <= KR_CLOSE_RESET; how++)
        batch_of(r, port, 32, (enum kr_close)how);
    test_reactor_free(r);
}

/* ---- manners ---- */

/* A connection with more queued than the peer takes: its send is parked in the kernel. */
static int open_stalled(struct kr_reactor *r, uint16_t port) {
    unsigned before = house.count;
    house.greeting = 8 << 20;
    int fd = test_connect_sized(port, 0, 4096);
    TEST_UNTIL(r, house.count == before + 1);
    house.greeting = 0;
    kr_conn conn = house.lives[before].conn;
    for (unsigned idle = 0; idle < 5;)
        idle = test_step(r, "the send to stall") == 0 ? idle + 1 : 0;
    CHECK_GT(kr_conn_queued(r, conn), 0u);
    return fd;
}

/* Ours: FLUSH delivers what is queued, then FIN. */
TEST_EACH(close_flush_delivers_queued_bytes) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = open_stalled(r, test_listen(r, NULL, NULL, &ops, &house));
    close_life(r, &house.lives[0], KR_CLOSE_FLUSH);
    static char bytes[8 << 20];
    test_recv(r, fd, bytes, sizeof bytes);
    test_pattern_check(bytes, sizeof bytes, 1, 0);
    CHECK_EQ(test_recv_end(r, fd, NULL), 0);
    check_closed(r, 0, 0, KR_WHY_LOCAL);
    CHECK_EQ(house.lives[0].events[DRAIN], 0u);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: NOW drops what is queued, though a send is in flight and the peer reads nothing;
 * on_close comes without the peer's doing. */
TEST_EACH(close_now_drops_queued_bytes) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = open_stalled(r, test_listen(r, NULL, NULL, &ops, &house));
    close_life(r, &house.lives[0], KR_CLOSE_NOW);
    check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_rest(r, (struct test_levels){.listeners = 1});
    size_t got;
    CHECK_EQ(test_recv_end(r, fd, &got), 0);
    CHECK_LT(got, 8u << 20);
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: RESET is seen as ECONNRESET by the peer, whatever was queued. */
TEST_EACH(close_reset_is_seen_by_the_peer) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    uint16_t port = test_listen(r, NULL, NULL, &ops, &house);
    int idle = open_one(r, port), stalled = open_stalled(r, port);
    close_life(r, &house.lives[0], KR_CLOSE_RESET);
    close_life(r, &house.lives[1], KR_CLOSE_RESET);
    CHECK_EQ(test_recv_end(r, idle, NULL), ECONNRESET);
    CHECK_EQ(test_recv_end(r, stalled, NULL), ECONNRESET);
    check_closed(r, 0, 0, KR_WHY_LOCAL);
    check_closed(r, 1, 0, KR_WHY_LOCAL);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_close(idle);
    test_close(stalled);
    test_reactor_free(r);
}

/* Closes a stalled connection in one manner, lets `turns` turns pass, then in another. Returns
 * the end that the peer sees. */
static int close_twice(struct kr_reactor *r, uint16_t port, enum kr_close first,
                       enum kr_close second, unsigned turns) {
    house_init();
    int fd = open_stalled(r, port);
    struct life *life = &house.lives[0];
    close_life(r, life, first);
    for (unsigned i = 0; i < turns; i++)
        test_step(r, "nothing");
    int rc = kr_conn_close(r, life->conn, second);
    CHECK(rc == 0 || (rc == -ESTALE && life->events[CLOSE]));
    enum kr_close harder = first > second ? first : second;
    int end;
    if (harder <= KR_CLOSE_FLUSH) {
        static char bytes[8 << 20];
        test_recv(r, fd, bytes, sizeof bytes);
        test_pattern_check(bytes, sizeof bytes, 1, 0);
        end = test_recv_end(r, fd, NULL);
        if (harder == KR_CLOSE_LINGER) {
            CHECK_EQ(life->events[CLOSE], 0u);
            CHECK_SYS(shutdown(fd, SHUT_WR));
        }
    } else {
        TEST_UNTIL(r, life->events[CLOSE] == 1);
        size_t got;
        end = test_recv_end(r, fd, &got);
        CHECK_LT(got, 8u << 20);
    }
    check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_close(fd);
    return end;
}

/* Ours: closing again in a harder manner counts, in a softer or the same one changes nothing; at
 * once and a turn or two later. */
TEST_EACH(close_twice_takes_the_harder_manner, .deadline_s = 60) {
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, NULL, &ops, &house);
    for (unsigned turns = 0; turns < 3; turns++) {
        for (int first = KR_CLOSE_LINGER; first <= KR_CLOSE_RESET; first++) {
            for (int second = KR_CLOSE_LINGER; second <= KR_CLOSE_RESET; second++) {
                int end = close_twice(r, port, (enum kr_close)first, (enum kr_close)second, turns);
                if (first == KR_CLOSE_RESET)
                    CHECK_EQ(end, ECONNRESET);
                else if (second != KR_CLOSE_RESET)
                    CHECK_EQ(end, 0);
                else if (turns == 0 || first <= KR_CLOSE_FLUSH)
                    CHECK_EQ(end, ECONNRESET);
            }
        }
    }
    test_reactor_free(r);
}

/* Ours: a peer that reads nothing delays a FLUSH for flush_ns and no longer. */
TEST_EACH(close_flush_has_a_deadline) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.conn.flush_ns = 30 * 1000000;
    house_init();
    int fd = open_stalled(r, test_listen(r, NULL, &opts, &ops, &house));
    int64_t before = tap_now_ns();
    close_life(r, &house.lives[0], KR_CLOSE_FLUSH);
    check_closed(r, 0, -ETIMEDOUT, KR_WHY_TIMEOUT);
    CHECK_GE(tap_now_ns() - before, opts.conn.flush_ns - 2000000);
    CHECK_EQ(house.lives[0].events[TIMEOUT], 0u);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: a peer that is reset, or resets, while a FLUSH is under way ends it. */
TEST_EACH(close_flush_ends_with_the_peer) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = open_stalled(r, test_listen(r, NULL, NULL, &ops, &house));
    close_life(r, &house.lives[0], KR_CLOSE_FLUSH);
    test_step(r, "nothing");
    test_close_reset(fd);
    TEST_UNTIL(r, house.closed == 1);
    CHECK_EQ(house.lives[0].events[CLOSE], 1u);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* Ours: closing in the instant in which data arrives ends in the one way or the other, and
 * nothing is left: no buffer, no request. The data is sent between the turns, so that the cancel
 * finds the receive done. */
TEST_EACH(close_races_with_data) {
    struct kr_config config;
    kr_config_init(&config);
    config.buf_count = 8;
    struct kr_reactor *r = test_reactor(&config);
    uint16_t port = test_listen(r, NULL, NULL, &ops, &house);
    char bytes[20000] = {0};
    for (unsigned i = 0; i < 200; i++) {
        house_init();
        house.echo = i % 2;
        int fd = open_one(r, port);
        for (unsigned turns = i % 3; turns > 0; turns--)
            test_step(r, "nothing");
        size_t size = 1 + (size_t)tap_random_below(sizeof bytes);
        if (i % 5 < 3)
            test_send_some(fd, bytes, size);
        close_life(r, &house.lives[0], (enum kr_close)(i % 4));
        if (i % 5 >= 2)
            test_send_some(fd, bytes, size);
        if (i % 4 == KR_CLOSE_LINGER)
            CHECK_SYS(shutdown(fd, SHUT_WR));
        check_closed(r, 0, 0, KR_WHY_LOCAL);
        test_rest(r, (struct test_levels){.listeners = 1});
        test_recv_end(r, fd, NULL);
        test_close(fd);
    }
    test_reactor_free(r);
}

/* Ours: a connection closed while it is paused, and while bytes are kept unconsumed, ends as
 * any. */
static size_t keep_all(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                       size_t size) {
    (void)data;
    (void)size;
    happen(r, conn, user, DATA);
    return 0;
}

static const struct kr_conn_ops keeping_ops = {
    .on_open = on_open, .on_data = keep_all, .on_close = on_close};

TEST_EACH(close_while_paused_and_with_bytes_kept) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    uint16_t port = test_listen(r, NULL, NULL, &keeping_ops, &house);
    for (unsigned i = 0; i < 8; i++) {
        int fd = open_one(r, port);
        struct life *life = &house.lives[i];
        test_send(r, fd, "abc", 3);
        TEST_UNTIL(r, life->events[DATA] == 1);
        if (i % 2) {
            CHECK_OK(kr_conn_pause(r, life->conn));
            test_rest(r,
                      (struct test_levels){.conns = 1, .listeners = 1, .paused = 1, .blocks = 1});
        }
        close_life(r, life, (enum kr_close)(i / 2));
        if (i / 2 == KR_CLOSE_LINGER)
            CHECK_SYS(shutdown(fd, SHUT_WR));
        check_closed(r, i, 0, KR_WHY_LOCAL);
        CHECK_EQ(test_recv_end(r, fd, NULL), i / 2 == KR_CLOSE_RESET ? ECONNRESET : 0);
        test_rest(r, (struct test_levels){.listeners = 1});
        test_close(fd);
    }
    test_reactor_free(r);
}

/* ---- ends by the peer ---- */

/* Ours: a peer that is gone before its connection was accepted is announced and ends as by any
 * FIN; what it sent with its FIN is shown first. */
TEST_EACH(close_by_a_peer_that_is_gone_already) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    uint16_t port = test_listen(r, NULL, NULL, &plain_ops, &house);
    int silent = test_connect(port);
    test_close(silent);
    int brief = test_connect(port);
    test_send(NULL, brief, "farewell", 8);
    test_close(brief);
    TEST_UNTIL(r, house.closed == 2);
    check_closed(r, 0, 0, KR_WHY_PEER);
    check_closed(r, 1, 0, KR_WHY_PEER);
    CHECK_EQ(house.lives[0].bytes + house.lives[1].bytes, 8u);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* Ours: without on_eof, the peer's FIN ends the connection after the queue: an echo's last bytes
 * still arrive, for every size about that of a buffer. */
TEST_EACH(close_by_fin_with_data_still_answers) {
    struct kr_config config;
    kr_config_init(&config);
    config.buf_size = 256;
    config.buf_count = 16;
    struct kr_reactor *r = test_reactor(&config);
    house_init();
    house.echo = true;
    uint16_t port = test_listen(r, NULL, NULL, &plain_ops, &house);
    char bytes[800], back[800];
    for (unsigned i = 0; i < 80; i++) {
        size_t size = 1 + i * 10;
        int fd = test_connect(port);
        test_pattern(bytes, size, i, 0);
        test_send(NULL, fd, bytes, size);
        CHECK_SYS(shutdown(fd, SHUT_WR));
        test_recv(r, fd, back, size);
        test_pattern_check(back, size, i, 0);
        CHECK_EQ(test_recv_end(r, fd, NULL), 0);
        check_closed(r, i, 0, KR_WHY_PEER);
        CHECK_EQ(house.lives[i].bytes, size);
        test_close(fd);
    }
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* Ours: after the peer's half-close this side may go on sending as long as it likes; nothing is
 * owed by the kernel meanwhile but the wake-up. The end is told once, also to who pauses and resumes. */
TEST_EACH(close_half_by_the_peer_then_reply) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = open_one(r, test_listen(r, NULL, NULL, &ops, &house));
    struct life *life = &house.lives[0];
    test_send(r, fd, "question", 8);
    CHECK_SYS(shutdown(fd, SHUT_WR));
    TEST_UNTIL(r, life->events[END] == 1);
    CHECK_EQ(life->bytes, 8u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1});
    for (int i = 0; i < 20; i++) {
        CHECK_OK(kr_conn_send(r, life->conn, "answer", 6));
        char bytes[6];
        test_recv(r, fd, bytes, 6);
        CHECK_MEM_EQ(bytes, "answer", 6);
    }
    CHECK_OK(kr_conn_pause(r, life->conn));
    CHECK_OK(kr_conn_resume(r, life->conn));
    test_step(r, "the resumption");
    CHECK_EQ(life->events[END], 1u);
    CHECK_OK(kr_conn_send(r, life->conn, "end", 3));
    close_life(r, life, KR_CLOSE_FLUSH);
    char bytes[3];
    test_recv(r, fd, bytes, 3);
    CHECK_EQ(test_recv_end(r, fd, NULL), 0);
    check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: a FIN that arrives while the connection is paused is told after resume, after the bytes
 * before it. */
TEST_EACH(close_by_fin_while_paused_is_told_later) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = open_one(r, test_listen(r, NULL, NULL, &ops, &house));
    struct life *life = &house.lives[0];
    CHECK_OK(kr_conn_pause(r, life->conn));
    test_send(r, fd, "abc", 3);
    test_close(fd);
    for (unsigned idle = 0; idle < 5;)
        idle = test_step(r, "nothing to happen") == 0 ? idle + 1 : 0;
    CHECK_EQ(life->events[DATA] + life->events[END], 0u);
    CHECK_OK(kr_conn_resume(r, life->conn));
    TEST_UNTIL(r, life->events[END] == 1);
    CHECK_EQ(life->bytes, 3u);
    close_life(r, life, KR_CLOSE_NOW);
    check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_reactor_free(r);
}

/* Ours: bytes that are unconsumed at the peer's FIN are dropped after on_eof, and the connection
 * lives on. */
TEST_EACH(close_by_fin_drops_unconsumed_bytes) {
    static const struct kr_conn_ops eof_ops = {
        .on_open = on_open, .on_data = keep_all, .on_eof = on_eof, .on_close = on_close};
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = open_one(r, test_listen(r, NULL, NULL, &eof_ops, &house));
    test_send(r, fd, "abc", 3);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .blocks = 1});
    CHECK_SYS(shutdown(fd, SHUT_WR));
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1});
    CHECK_EQ(house.lives[0].events[END], 1u);
    CHECK_EQ(house.lives[0].events[DATA], 1u);
    close_life(r, &house.lives[0], KR_CLOSE_FLUSH);
    check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_close(fd);
    test_reactor_free(r);
}

/* Consumes nothing while `holding`, and pauses. */
static bool holding;

static size_t hold_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    struct life *life = user;
    CHECK_MEM_EQ((const char *)data, "farewell", size);
    happen(r, conn, life, DATA);
    if (!holding)
        return size;
    CHECK_OK(kr_conn_pause(r, conn));
    return 0;
}

static const struct kr_conn_ops holding_ops = {
    .on_open = on_open, .on_data = hold_data, .on_eof = on_eof, .on_close = on_close};

/* Ours: a FIN in the same batch as the bytes in whose callback the connection is paused waits
 * for resume, and for the bytes that were left: they are shown again first. Client and FIN are
 * there before the first receive. */
TEST_EACH(close_by_fin_in_the_batch_of_a_pause) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = test_connect(test_listen(r, NULL, NULL, &holding_ops, &house));
    test_send(NULL, fd, "farewell", 8);
    CHECK_SYS(shutdown(fd, SHUT_WR));
    holding = true;
    struct life *life = &house.lives[0];
    TEST_UNTIL(r, life->events[DATA] == 1);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1, .blocks = 1});
    CHECK_EQ(life->events[END], 0u);
    CHECK_OK(kr_conn_resume(r, life->conn));
    TEST_UNTIL(r, life->events[DATA] == 2);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1, .blocks = 1});
    CHECK_EQ(life->events[END], 0u);
    holding = false;
    CHECK_OK(kr_conn_resume(r, life->conn));
    TEST_UNTIL(r, life->events[END] == 1);
    CHECK_EQ(life->events[DATA], 3u);
    close_life(r, life, KR_CLOSE_NOW);
    check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: RST with data before it: the data is shown if the kernel still has it, then on_close
 * once, -ECONNRESET. */
TEST_EACH(close_by_rst_is_told_once) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    uint16_t port = test_listen(r, NULL, NULL, &ops, &house);
    int fd = open_one(r, port);
    test_send(r, fd, "abc", 3);
    test_close_reset(fd);
    check_closed(r, 0, -ECONNRESET, KR_WHY_ERROR);
    CHECK_EQ(house.lives[0].events[END], 0u);
    fd = open_one(r, port);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close_reset(fd);
    check_closed(r, 1, -ECONNRESET, KR_WHY_ERROR);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* Ours: RST while a send is parked ends it: one on_close, and everything comes back. The peer
 * has unread bytes, so that its plain close is the RST. */
TEST_EACH(close_by_rst_while_a_send_is_parked) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = open_stalled(r, test_listen(r, NULL, NULL, &ops, &house));
    test_close(fd);
    TEST_UNTIL(r, house.closed == 1);
    struct life *life = &house.lives[0];
    CHECK(life->error == -ECONNRESET || life->error == -EPIPE);
    CHECK_EQ(life->why, KR_WHY_ERROR);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* Ours: to send to a peer that has closed ends the connection with an error, once; no signal. */
TEST_EACH(close_by_a_peer_that_is_sent_to) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = open_one(r, test_listen(r, NULL, NULL, &ops, &house));
    struct life *life = &house.lives[0];
    test_close(fd);
    TEST_UNTIL(r, life->events[END] == 1);
    while (!life->events[CLOSE]) {
        int rc = kr_conn_send(r, life->conn, "x", 1);
        CHECK(rc == 0 || rc == -EPIPE);
        test_step(r, "the connection to end");
    }
    CHECK(life->error == -EPIPE || life->error == -ECONNRESET);
    CHECK_EQ(life->why, KR_WHY_ERROR);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* ---- slots and their lives ---- */

static uint64_t tag_of(kr_conn conn, enum kr__verb verb) {
    return kr__tag_pack((struct kr__tag){
        .op = (uint8_t)verb,
        .slot = kr__handle_slot(conn.bits),
        .generation = (uint16_t)kr__handle_generation(conn.bits),
    });
}

/* Opens a connection, ends it, opens one that lives in the same slot. */
static int reopen(struct kr_reactor *r, uint16_t port) {
    house_init();
    int first = open_one(r, port);
    close_life(r, &house.lives[0], KR_CLOSE_NOW);
    check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_close(first);
    int second = open_one(r, port);
    CHECK_EQ(kr__handle_slot(house.lives[1].conn.bits), kr__handle_slot(house.lives[0].conn.bits));
    CHECK_NE(house.lives[1].conn.bits, house.lives[0].conn.bits);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    return second;
}

/* Ours: a stale receive that carries a buffer is counted, its buffer comes back, and the slot's
 * new owner hears nothing. The completion is forged, as if the kernel had filled the first
 * published buffer. */
TEST_EACH(close_stale_receive_gives_its_buffer_back) {
    struct kr_config config;
    kr_config_init(&config);
    config.buf_count = 64;
    struct kr_reactor *r = test_reactor(&config);
    int fd = reopen(r, test_listen(r, NULL, NULL, &ops, &house));
    uint16_t id =
        r->bufs.ring->bufs[(uint16_t)(r->bufs.tail - r->bufs.published) & r->bufs.mask].bid;
    unsigned published = r->bufs.published, free_count = r->bufs.free_count;
    uint64_t inflight = test_stats(r).inflight;
    kr__loop_complete(r, tag_of(house.lives[0].conn, KR__VERB_recv), 100,
                      IORING_CQE_F_BUFFER | IORING_CQE_F_MORE |
                          (uint32_t)id << IORING_CQE_BUFFER_SHIFT);
    CHECK_EQ(test_stats(r).stale_cqes, 1u);
    CHECK_EQ(test_stats(r).inflight, inflight);
    CHECK_EQ(r->bufs.refs[id], 0);
    CHECK_EQ(r->bufs.published, published - 1);
    CHECK_EQ(r->bufs.free_count, free_count + 1);
    CHECK_EQ(house.lives[1].events[DATA], 0u);
    CHECK_EQ(house.lives[1].events[CLOSE], 0u);
    test_close(fd); /* no bytes any more: the forged buffer is now published twice */
    TEST_UNTIL(r, house.lives[1].events[END] == 1);
    test_reactor_free(r);
}

/* Ours: stale completions of every verb, good and bad results, through the real CQ: counted, and
 * the slot's new owner goes on undisturbed. */
TEST_EACH(close_stale_completions_reach_nobody) {
    static const enum kr__verb verbs[] = {KR__VERB_recv, KR__VERB_send, KR__VERB_close,
                                          KR__VERB_reset};
    static const int32_t results[] = {0, 5, -ECONNRESET, -ECANCELED, -ENOBUFS};
    struct kr_reactor *r = test_reactor(NULL);
    int fd = reopen(r, test_listen(r, NULL, NULL, &ops, &house));
    uint64_t forged = 0;
    for (size_t v = 0; v < sizeof verbs / sizeof *verbs; v++) {
        for (size_t i = 0; i < sizeof results / sizeof *results; i++) {
            CHECK_OK(kr__nop(r, tag_of(house.lives[0].conn, verbs[v]), results[i]));
            forged++;
            TEST_UNTIL(r, test_stats(r).stale_cqes == forged);
        }
    }
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_send(r, fd, "abc", 3);
    TEST_UNTIL(r, house.lives[1].bytes == 3);
    CHECK_EQ(house.lives[1].events[CLOSE], 0u);
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: the tag's generation has 16 bits, the handle's 32: a slot lives on across the ends of
 * both. The generation is set by hand between two lives. */
TEST_EACH(close_generations_wrap) {
    static const uint32_t ends[] = {0xfffe, 0xffff, 0x10000, UINT32_MAX - 1, UINT32_MAX};
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, NULL, &ops, &house);
    for (size_t e = 0; e < sizeof ends / sizeof *ends; e++) {
        house_init();
        int fd = open_one(r, port);
        uint32_t slot = kr__handle_slot(house.lives[0].conn.bits);
        test_close(fd);
        TEST_UNTIL(r, house.lives[0].events[END] == 1);
        close_life(r, &house.lives[0], KR_CLOSE_NOW);
        check_closed(r, 0, 0, KR_WHY_LOCAL);
        r->conns.table[slot].owner.generation = ends[e];
        house_init();
        for (unsigned i = 0; i < 3; i++) {
            fd = open_one(r, port);
            CHECK_EQ(kr__handle_slot(house.lives[i].conn.bits), slot);
            CHECK_NE(kr__handle_generation(house.lives[i].conn.bits), 0u);
            test_send(r, fd, "abc", 3);
            TEST_UNTIL(r, house.lives[i].bytes == 3);
            close_life(r, &house.lives[i], KR_CLOSE_NOW);
            check_closed(r, i, 0, KR_WHY_LOCAL);
            test_close(fd);
        }
        test_rest(r, (struct test_levels){.listeners = 1});
    }
    test_reactor_free(r);
}

static unsigned overtakings;

/* True when CQE `a` closes the very slot that CQE `b` says a client was accepted into. */
static bool closes_what_accepts(const struct io_uring_cqe *a, const struct io_uring_cqe *b) {
    struct kr__tag close = kr__tag_unpack(a->user_data), accept = kr__tag_unpack(b->user_data);
    return close.op == KR__VERB_close && b->res >= 0 && (uint32_t)b->res == close.slot &&
           (accept.op == KR__VERB_accept || accept.op == KR__VERB_accept_one);
}

/* Enters, then lets accepts overtake the CLOSE of their slot. */
static int overtaking_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                            unsigned wait_for, unsigned flags,
                            const struct kr__getevents_arg *arg) {
    int rc = kr__linux.enter(k, ring, submit, wait_for, flags, arg);
    unsigned mask = *ring->cq.kring_mask, head = *ring->cq.khead;
    unsigned tail = __atomic_load_n(ring->cq.ktail, __ATOMIC_ACQUIRE);
    for (unsigned i = head; i != tail; i++) {
        for (unsigned j = i + 1; (int)(tail - j) > 0; j++) {
            struct io_uring_cqe *a = &ring->cq.cqes[i & mask], *b = &ring->cq.cqes[j & mask],
                                both = *a;
            if (!closes_what_accepts(a, b))
                continue;
            *a = *b;
            *b = both;
            overtakings++;
            break;
        }
    }
    return rc;
}

static struct kr__kernel overtaking_kernel(void) {
    struct kr__kernel kernel = kr__linux;
    kernel.enter = overtaking_enter;
    overtakings = 0;
    return kernel;
}

/* A client waits in the backlog of a paused listener, and the connection is paused, so that
 * nothing is in flight. Then the connection is closed and the listener resumed: one submission
 * carries CLOSE and, behind it, the accept, which takes the slot that has just become free.
 * Returns the new client. */
static int close_before_accept(struct kr_reactor *r, kr_listener listener, uint16_t port,
                               unsigned i) {
    struct life *life = &house.lives[i];
    CHECK_OK(kr_listener_pause(r, listener));
    CHECK_OK(kr_conn_pause(r, life->conn));
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 2});
    int next = test_connect(port);
    test_send(NULL, next, "abc", 3);
    close_life(r, life, i % 2 ? KR_CLOSE_NOW : KR_CLOSE_FLUSH);
    CHECK_OK(kr_listener_resume(r, listener));
    return next;
}

static void take_over(const struct kr__kernel *kernel, unsigned conn_max) {
    struct kr_config config;
    kr_config_init(&config);
    config.conn_max = conn_max;
    struct kr_reactor *r = test_reactor_on(kernel, &config);
    house_init();
    house.echo = true;
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, NULL, &ops, &house);
    int fd = open_one(r, port);
    for (unsigned i = 0; i < 100; i++) {
        int next = close_before_accept(r, listener, port, i);
        TEST_UNTIL(r, house.count == i + 2);
        CHECK_EQ(house.lives[i].events[CLOSE], 1u);
        char bytes[3];
        test_recv(r, next, bytes, 3);
        CHECK_MEM_EQ(bytes, "abc", 3);
        test_close(fd);
        fd = next;
    }
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    CHECK_EQ(test_stats(r).closes, 100u);
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: a slot that is free again is taken by the next client at once, by a multishot accept
 * (much room in the table) and by one-shot accepts (little room): the old life ends first, then
 * the new one opens, and works. */
TEST_EACH(close_and_multishot_accept_into_the_same_slot) {
    take_over(&kr__linux, 900);
}

TEST_EACH(close_and_one_shot_accept_into_the_same_slot) {
    take_over(&kr__linux, 2);
}

/* Ours: the same when the accept is told before the CLOSE, as the kernel may (it posts
 * completions of a multishot at once, and those of a batch at its end). The order is made by
 * changing it in the CQ. */
TEST_EACH(close_overtaken_by_the_next_accept) {
    struct kr__kernel kernel = overtaking_kernel();
    take_over(&kernel, 900);
    CHECK_GT(overtakings, 50u);
}

static kr_listener closed_in_on_close;

static void on_close_close_listener(struct kr_reactor *r, kr_conn conn, void *user, int error,
                                    enum kr_why why) {
    on_close(r, conn, user, error, why);
    CHECK_OK(kr_listener_close(r, closed_in_on_close));
}

static const struct kr_conn_ops listener_closing_ops = {
    .on_open = on_open, .on_data = on_data, .on_close = on_close_close_listener};

/* Ours: and when the old life's on_close closes the listener, the next client, accepted already,
 * is not announced but closed; nothing is left. */
TEST_EACH(close_overtaken_by_an_accept_of_a_closed_listener) {
    struct kr__kernel kernel = overtaking_kernel();
    struct kr_config config;
    kr_config_init(&config);
    config.conn_max = 900;
    struct kr_reactor *r = test_reactor_on(&kernel, &config);
    house_init();
    uint16_t port = test_listen(r, &closed_in_on_close, NULL, &listener_closing_ops, &house);
    int fd = open_one(r, port);
    int next = close_before_accept(r, closed_in_on_close, port, 0);
    TEST_UNTIL(r, house.closed == 1);
    CHECK_EQ(overtakings, 1u);
    int end = test_recv_end(r, next, NULL);
    CHECK(end == 0 || end == ECONNRESET);
    test_rest(r, (struct test_levels){.listeners = 0});
    CHECK_EQ(house.count, 1u);
    test_close(fd);
    test_close(next);
    test_reactor_free(r);
}

/* Ours: a close whose cancel finds the receive ended already (the peer has gone in the same
 * instant) waits for nothing that does not come. */
TEST_EACH(close_races_with_the_end_of_the_peer) {
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, NULL, &ops, &house);
    for (unsigned i = 0; i < 100; i++) {
        house_init();
        int fd = open_one(r, port);
        test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
        if (i % 2)
            test_close(fd);
        else
            test_close_reset(fd);
        close_life(r, &house.lives[0], (enum kr_close)(KR_CLOSE_FLUSH + (int)(i % 3)));
        check_closed(r, 0, 0, KR_WHY_LOCAL);
        test_rest(r, (struct test_levels){.listeners = 1});
    }
    test_reactor_free(r);
}

/* Ours: many lives in few slots, closed by either side in every manner at random; each has one
 * on_open and one on_close, and at the end nothing is left. */
TEST_EACH(close_many_lives_in_few_slots) {
    struct kr_config config;
    kr_config_init(&config);
    config.conn_max = 4;
    config.buf_count = 2;
    struct kr_reactor *r = test_reactor(&config);
    house_init();
    house.echo = true;
    uint16_t port = test_listen(r, NULL, NULL, &plain_ops, &house);
    for (unsigned i = 0; i < 500; i += 10) {
        int fds[10];
        for (unsigned k = 0; k < 10; k++) {
            fds[k] = test_connect(port);
            test_send(NULL, fds[k], "abcdefgh", 1 + (size_t)tap_random_below(8));
        }
        unsigned left = 10;
        bool gone[10] = {false};
        while (left > 0) {
            test_step(r, "all lives of a round");
            unsigned k = (unsigned)tap_random_below(10),
                     l = (unsigned)tap_random_below(house.count + 1);
            if (l < house.count && !house.lives[l].closing && !house.lives[l].events[CLOSE])
                close_life(r, &house.lives[l], (enum kr_close)tap_random_below(4));
            if (gone[k])
                continue;
            if (tap_random_below(2))
                test_close(fds[k]);
            else
                test_close_reset(fds[k]);
            gone[k] = true;
            left--;
        }
        test_rest(r, (struct test_levels){.listeners = 1});
    }
    CHECK_EQ(house.closed, house.count);
    for (unsigned i = 0; i < house.count; i++)
        CHECK_EQ(house.lives[i].events[CLOSE], 1u);
    test_reactor_free(r);
}

/* Ours: kr_reactor_free closes what is open in whatever state: idle, stalled, paused, draining,
 * half closed, and not yet accepted. Each announced one hears on_close once, KR_WHY_REACTOR
 * unless it was closed before. */
TEST_EACH(close_by_the_end_of_the_reactor) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    uint16_t port = test_listen(r, NULL, NULL, &ops, &house);
    int fds[7];
    fds[0] = open_one(r, port);
    fds[1] = open_stalled(r, port);
    fds[2] = open_one(r, port);
    CHECK_OK(kr_conn_pause(r, house.lives[2].conn));
    fds[3] = open_stalled(r, port);
    close_life(r, &house.lives[3], KR_CLOSE_FLUSH);
    fds[4] = open_one(r, port);
    CHECK_SYS(shutdown(fds[4], SHUT_WR));
    TEST_UNTIL(r, house.lives[4].events[END] == 1);
    fds[5] = open_one(r, port);
    close_life(r, &house.lives[5], KR_CLOSE_NOW);
    fds[6] = test_connect(port);
    test_reactor_free(r);
    CHECK_LE(house.count, 7u);
    CHECK_EQ(house.closed, house.count);
    for (unsigned i = 0; i < house.count; i++) {
        CHECK_EQ(house.lives[i].events[CLOSE], 1u);
        CHECK_EQ(house.lives[i].why, i == 3 || i == 5 ? KR_WHY_LOCAL : KR_WHY_REACTOR);
        CHECK_EQ(house.lives[i].error, 0);
    }
    for (unsigned i = 0; i < 7; i++) {
        test_recv_end(NULL, fds[i], NULL);
        test_close(fds[i]);
    }
}

TAP_MAIN(close, 116)
