/* Ends of connections by this side: in all manners, from every callback, of others, twice, and with
 * the reactor. What the peer does is in peer.c, what a slot's lives must not know of each other in
 * slot.c. */
#include "harness/life.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* ---- closing from inside callbacks ---- */

/* Brings the event about for a new connection, which closes in it. */
static void close_in_event(struct kr_reactor *r, const struct kr_listen_opts *opts,
                           enum event event, enum kr_close how) {
    house_init();
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, opts, &house_ops, &house);
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
        test_recv_pattern(r, fd, 200000, 1, 0);
    }
    if (event == CLOSE) {
        TEST_UNTIL(r, house.lives[0].events[DATA] > 0);
        life_close(r, &house.lives[0], KR_CLOSE_NOW);
    }
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
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
        fds[i] = house_open_one(r, port);
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
    life_close(r, &house.lives[survivor], KR_CLOSE_NOW);
    test_rest(r, (struct test_levels){.listeners = 1});
}

/* Ours: of 32 connections whose bytes arrive in one batch, the first to be called closes all
 * others: none of them is called with data any more, and their buffers come back. */
TEST_EACH(close_of_others_in_the_same_batch) {
    struct kr_config config = test_config();
    config.buf_count = 64;
    struct kr_reactor *r = test_reactor(&config);
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    for (int how = KR_CLOSE_FLUSH; how <= KR_CLOSE_RESET; how++)
        batch_of(r, port, 32, (enum kr_close)how);
    test_reactor_free(r);
}

/* ---- manners ---- */

/* Ours: FLUSH delivers what is queued, then FIN. */
TEST_EACH(close_flush_delivers_queued_bytes) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = house_open_stalled(r, test_listen(r, NULL, NULL, &house_ops, &house));
    life_close(r, &house.lives[0], KR_CLOSE_FLUSH);
    test_recv_pattern(r, fd, 8 << 20, 1, 0);
    CHECK_EQ(test_recv_end(r, fd, NULL), 0);
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
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
    int fd = house_open_stalled(r, test_listen(r, NULL, NULL, &house_ops, &house));
    life_close(r, &house.lives[0], KR_CLOSE_NOW);
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
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
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    int idle = house_open_one(r, port), stalled = house_open_stalled(r, port);
    life_close(r, &house.lives[0], KR_CLOSE_RESET);
    life_close(r, &house.lives[1], KR_CLOSE_RESET);
    CHECK_EQ(test_recv_end(r, idle, NULL), ECONNRESET);
    CHECK_EQ(test_recv_end(r, stalled, NULL), ECONNRESET);
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
    life_check_closed(r, 1, 0, KR_WHY_LOCAL);
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
    int fd = house_open_stalled(r, port);
    struct life *life = &house.lives[0];
    life_close(r, life, first);
    for (unsigned i = 0; i < turns; i++)
        test_step(r, "nothing");
    int rc = kr_conn_close(r, life->conn, second);
    CHECK(rc == 0 || (rc == -ESTALE && life->events[CLOSE]));
    enum kr_close harder = first > second ? first : second;
    int end;
    if (harder <= KR_CLOSE_FLUSH) {
        test_recv_pattern(r, fd, 8 << 20, 1, 0);
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
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_close(fd);
    return end;
}

/* Ours: closing again in a harder manner counts, in a softer or the same one changes nothing; at
 * once and a turn or two later. */
TEST_EACH(close_twice_takes_the_harder_manner, .deadline_s = 60) {
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
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
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.flush_ns = 30 * 1000000;
    house_init();
    int fd = house_open_stalled(r, test_listen(r, NULL, &opts, &house_ops, &house));
    int64_t before = tap_now_ns();
    life_close(r, &house.lives[0], KR_CLOSE_FLUSH);
    life_check_closed(r, 0, -ETIMEDOUT, KR_WHY_TIMEOUT);
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
    int fd = house_open_stalled(r, test_listen(r, NULL, NULL, &house_ops, &house));
    life_close(r, &house.lives[0], KR_CLOSE_FLUSH);
    test_step(r, "nothing");
    test_close_reset(fd);
    TEST_UNTIL(r, house.closed == 1);
    CHECK_EQ(house.lives[0].events[CLOSE], 1u);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: closing in the instant in which data arrives ends in the one way or the other, and
 * nothing is left: no buffer, no request. The data is sent between the turns, so that the cancel
 * finds the receive done. */
TEST_EACH(close_races_with_data) {
    struct kr_config config = test_config();
    config.buf_count = 8;
    struct kr_reactor *r = test_reactor(&config);
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    char bytes[20000] = {0};
    for (unsigned i = 0; i < 200; i++) {
        house_init();
        house.echo = i % 2;
        int fd = house_open_one(r, port);
        for (unsigned turns = i % 3; turns > 0; turns--)
            test_step(r, "nothing");
        size_t size = 1 + (size_t)tap_random_below(sizeof bytes);
        if (i % 5 < 3)
            test_send_some(fd, bytes, size);
        life_close(r, &house.lives[0], (enum kr_close)(i % 4));
        if (i % 5 >= 2)
            test_send_some(fd, bytes, size);
        if (i % 4 == KR_CLOSE_LINGER)
            CHECK_SYS(shutdown(fd, SHUT_WR));
        life_check_closed(r, 0, 0, KR_WHY_LOCAL);
        test_rest(r, (struct test_levels){.listeners = 1});
        test_recv_end(r, fd, NULL);
        test_close(fd);
    }
    test_reactor_free(r);
}

static const struct kr_conn_ops keeping_ops = {
    .on_open = house_open, .on_data = house_keep_all, .on_close = house_close};

/* Ours: a connection closed while it is paused, and while bytes are kept unconsumed, ends as
 * any. */
TEST_EACH(close_while_paused_and_with_bytes_kept) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    uint16_t port = test_listen(r, NULL, NULL, &keeping_ops, &house);
    for (unsigned i = 0; i < 8; i++) {
        int fd = house_open_one(r, port);
        struct life *life = &house.lives[i];
        test_send(r, fd, "abc", 3);
        TEST_UNTIL(r, life->events[DATA] == 1);
        if (i % 2) {
            CHECK_OK(kr_conn_pause(r, life->conn));
            test_rest(r,
                      (struct test_levels){.conns = 1, .listeners = 1, .paused = 1, .blocks = 1});
        }
        life_close(r, life, (enum kr_close)(i / 2));
        if (i / 2 == KR_CLOSE_LINGER)
            CHECK_SYS(shutdown(fd, SHUT_WR));
        life_check_closed(r, i, 0, KR_WHY_LOCAL);
        CHECK_EQ(test_recv_end(r, fd, NULL), i / 2 == KR_CLOSE_RESET ? ECONNRESET : 0);
        test_rest(r, (struct test_levels){.listeners = 1});
        test_close(fd);
    }
    test_reactor_free(r);
}

/* Ours: a close whose cancel finds the receive ended already (the peer has gone in the same
 * instant) waits for nothing that does not come. */
TEST_EACH(close_races_with_the_end_of_the_peer) {
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    for (unsigned i = 0; i < 100; i++) {
        house_init();
        int fd = house_open_one(r, port);
        test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
        if (i % 2)
            test_close(fd);
        else
            test_close_reset(fd);
        life_close(r, &house.lives[0], (enum kr_close)(KR_CLOSE_FLUSH + (int)(i % 3)));
        life_check_closed(r, 0, 0, KR_WHY_LOCAL);
        test_rest(r, (struct test_levels){.listeners = 1});
    }
    test_reactor_free(r);
}

/* Ours: kr_reactor_free closes what is open in whatever state: idle, stalled, paused, draining,
 * half closed, and not yet accepted. Each announced one hears on_close once, KR_WHY_REACTOR
 * unless it was closed before. */
TEST_EACH(close_by_the_end_of_the_reactor) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    int fds[7];
    fds[0] = house_open_one(r, port);
    fds[1] = house_open_stalled(r, port);
    fds[2] = house_open_one(r, port);
    CHECK_OK(kr_conn_pause(r, house.lives[2].conn));
    fds[3] = house_open_stalled(r, port);
    life_close(r, &house.lives[3], KR_CLOSE_FLUSH);
    fds[4] = house_open_one(r, port);
    CHECK_SYS(shutdown(fds[4], SHUT_WR));
    TEST_UNTIL(r, house.lives[4].events[END] == 1);
    fds[5] = house_open_one(r, port);
    life_close(r, &house.lives[5], KR_CLOSE_NOW);
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

/* ---- what the kernel still has ---- */

/* How many TCP sockets of this local port are in `state`, by /proc/net/tcp. */
static unsigned sockets_in(uint16_t port, unsigned state) {
    FILE *table = fopen("/proc/net/tcp", "re");
    CHECK(table);
    char line[256];
    unsigned count = 0;
    while (fgets(line, sizeof line, table)) {
        unsigned local, is;
        if (sscanf(line, " %*u: %*x:%x %*x:%*x %x", &local, &is) == 2)
            count += local == port && is == state;
    }
    CHECK_EQ(fclose(table), 0);
    return count;
}

/* A connection whose client has ended its side, and waits. */
static void end_one(struct kr_reactor *r, uint16_t port) {
    unsigned i = house.count;
    int fd = house_open_one(r, port);
    CHECK_SYS(shutdown(fd, SHUT_WR));
    TEST_UNTIL(r, house.lives[i].events[END] == 1);
    TEST_UNTIL(r, sockets_in(port, TCP_CLOSE_WAIT) == 1u);
    life_close(r, &house.lives[i], KR_CLOSE_NOW);
    CHECK_EQ(test_recv_end(r, fd, NULL), 0);
    TEST_UNTIL(r, sockets_in(port, TCP_CLOSE_WAIT) == 0);
    test_close(fd);
}

/* Ours: a connection that is closed is let go of while an accept and the receive of a silent
 * connection go on: its patient client sees the end, and no socket stays in CLOSE-WAIT. The trick:
 * a file table keeps what leaves it until all older requests on its files have ended, before
 * kernel 6.13 (io_uring/rsrc.c). */
TEST_EACH(close_lets_go_beside_a_silent_connection) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    int silent = house_open_one(r, port);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    for (int i = 0; i < 20; i++)
        end_one(r, port);
    CHECK_EQ(sockets_in(port, TCP_ESTABLISHED), 1u);
    test_close(silent);
    test_reactor_free(r);
}

/* Ours: the same of a listener: nobody reaches it any more, and its port can be had again. */
TEST_EACH(closed_listener_is_gone_beside_a_silent_connection) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    kr_listener listener;
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    int silent = house_open_one(r, port);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    uint16_t gone = test_listen(r, &listener, NULL, &house_ops, &house);
    CHECK_OK(kr_listener_close(r, listener));
    TEST_UNTIL(r, sockets_in(gone, TCP_LISTEN) == 0);
    test_close(silent);
    test_reactor_free(r);
}

TAP_MAIN(close, 56)
