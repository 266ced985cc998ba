/* Draining: nobody new is served, everyone there is told or closed with nothing lost, who stays is
 * cut off when the time is over, and the end is told once. */
#include "harness/net.h"

#include "conn/reactor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define GUESTS 64

/* One connection and what it was told. */
struct guest {
    kr_conn conn;
    unsigned shutdowns, closes;
    int error;
    enum kr_why why;
    size_t bytes;
};

static struct house {
    struct kr_reactor *r;
    kr_listener listener;
    uint16_t port;
    struct guest guests[GUESTS];
    unsigned opens, closes, drains, cut_off;
    int fds[GUESTS];
    void (*at_shutdown)(struct guest *g);
    void (*at_the_end)(void);
} house;

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    CHECK(user == &house);
    CHECK_LT(house.opens, (unsigned)GUESTS);
    struct guest *g = &house.guests[house.opens++];
    *g = (struct guest){.conn = conn};
    CHECK_OK(kr_conn_set_user(r, conn, g));
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct guest *g = user;
    g->bytes += size;
    CHECK_OK(kr_conn_send(r, conn, data, size));
    return size;
}

static void on_shutdown(struct kr_reactor *r, kr_conn conn, void *user) {
    struct guest *g = user;
    CHECK(r == house.r && conn.bits == g->conn.bits);
    CHECK_EQ(house.drains, 0u);
    g->shutdowns++;
    if (house.at_shutdown)
        house.at_shutdown(g);
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    UNUSED(r, conn);
    struct guest *g = user;
    CHECK_EQ(house.drains, 0u);
    g->closes++;
    g->error = error;
    g->why = why;
    house.closes++;
}

static const struct kr_conn_ops told_ops = {
    .on_open = on_open, .on_data = on_data, .on_shutdown = on_shutdown, .on_close = on_close};

static const struct kr_conn_ops untold_ops = {
    .on_open = on_open, .on_data = on_data, .on_close = on_close};

static void drained(struct kr_reactor *r, void *user, unsigned cut_off) {
    CHECK(r == house.r && user == &house);
    CHECK_EQ(house.closes, house.opens);
    CHECK_EQ(test_stats(r).conns, 0u);
    house.drains++;
    house.cut_off = cut_off;
    if (house.at_the_end)
        house.at_the_end();
}

static void begin_with(const struct kr_conn_ops *ops, unsigned guests,
                       const struct kr_config *config) {
    house = (struct house){.r = test_reactor(config)};
    house.port = test_listen(house.r, &house.listener, NULL, ops, &house);
    for (unsigned i = 0; i < guests; i++) {
        house.fds[i] = test_connect(house.port);
        TEST_UNTIL(house.r, house.opens == i + 1);
    }
    test_rest(house.r, (struct test_levels){.conns = guests, .listeners = 1});
}

static void begin(const struct kr_conn_ops *ops, unsigned guests) {
    begin_with(ops, guests, NULL);
}

static void drain(int64_t grace_ns) {
    unsigned closes = house.closes, shutdowns = house.guests[0].shutdowns;
    CHECK_OK(kr_drain(house.r, grace_ns, drained, &house));
    CHECK_EQ(house.closes, closes); /* nothing is called inside the call */
    CHECK_EQ(house.guests[0].shutdowns, shutdowns);
    CHECK_EQ(house.drains, 0u);
    CHECK_ERR(kr_listener_pause(house.r, house.listener), ESTALE);
}

static void end(unsigned guests, unsigned cut_off) {
    TEST_UNTIL(house.r, house.drains == 1);
    CHECK_EQ(house.cut_off, cut_off);
    for (unsigned i = 0; i < guests; i++) {
        CHECK_EQ(house.guests[i].closes, 1u);
        test_close(house.fds[i]);
    }
    test_rest(house.r, (struct test_levels){.conns = 0});
    CHECK_EQ(house.drains, 1u);
    test_reactor_free(house.r);
}

/* ---- those that are not told ---- */

/* Ours: without on_shutdown a connection is closed so that nothing is lost: what is queued arrives,
 * then the end; what the client still sends meets no reset. */
TEST_EACH(drain_loses_nothing) {
    static char bytes[1 << 20];
    begin(&untold_ops, 3);
    test_pattern(bytes, sizeof bytes, 1, 0);
    CHECK_OK(kr_conn_send(house.r, house.guests[0].conn, bytes, sizeof bytes));
    drain(HOUR);
    test_recv(house.r, house.fds[0], bytes, sizeof bytes);
    test_pattern_check(bytes, sizeof bytes, 1, 0);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(test_recv_end(house.r, house.fds[i], NULL), 0);
        test_send(house.r, house.fds[i], "late", 4);
        CHECK_EQ(house.drains, 0u);
        CHECK_SYS(shutdown(house.fds[i], SHUT_WR));
    }
    end(3, 0);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(house.guests[i].error, 0);
        CHECK_EQ(house.guests[i].why, KR_WHY_LOCAL);
        CHECK_EQ(house.guests[i].bytes, 0u);
    }
}

/* Ours: with nobody there the end is told in the next turn, from the turn, which does not wait. */
TEST_EACH(drain_of_an_empty_house) {
    begin(&untold_ops, 0);
    drain(HOUR);
    CHECK_GE(kr_step(house.r, -1), 1);
    CHECK_EQ(house.drains, 1u);
    end(0, 0);
}

/* Ours: nor does it need anyone to be told. */
TEST_EACH(drain_that_tells_nobody) {
    begin(&untold_ops, 2);
    CHECK_OK(kr_drain(house.r, 0, NULL, NULL));
    TEST_UNTIL(house.r, house.closes == 2);
    test_rest(house.r, (struct test_levels){.conns = 0});
    for (unsigned i = 0; i < 2; i++)
        test_close(house.fds[i]);
    test_reactor_free(house.r);
}

/* ---- those that are ---- */

static void say_goodbye(struct guest *g) {
    CHECK_OK(kr_conn_send(house.r, g->conn, "goodbye", 7));
    CHECK_OK(kr_conn_close(house.r, g->conn, KR_CLOSE_FLUSH));
}

/* Ours: each is told once, and may answer and close as it likes. */
TEST_EACH(drain_tells_each_once) {
    begin(&told_ops, 20);
    house.at_shutdown = say_goodbye;
    drain(HOUR);
    for (unsigned i = 0; i < 20; i++) {
        CHECK_RECV(house.r, house.fds[i], "goodbye");
        CHECK_EQ(test_recv_end(house.r, house.fds[i], NULL), 0);
    }
    end(20, 0);
    for (unsigned i = 0; i < 20; i++)
        CHECK_EQ(house.guests[i].shutdowns, 1u);
}

/* Ours: one that has been told goes on as before until it closes; the end waits for it. */
TEST_EACH(drain_lets_them_finish) {
    begin(&told_ops, 2);
    drain(HOUR);
    TEST_UNTIL(house.r, house.guests[0].shutdowns && house.guests[1].shutdowns);
    for (int i = 0; i < 10; i++) {
        test_send(house.r, house.fds[1], "hello", 5);
        CHECK_RECV(house.r, house.fds[1], "hello");
    }
    test_close(house.fds[0]);
    TEST_UNTIL(house.r, house.closes == 1);
    for (unsigned idle = 0; idle < 10;)
        idle = test_step(house.r, "nothing to happen") == 0 ? idle + 1 : 0;
    CHECK_EQ(house.drains, 0u);
    CHECK_OK(kr_conn_close(house.r, house.guests[1].conn, KR_CLOSE_NOW));
    TEST_UNTIL(house.r, house.drains == 1);
    house.fds[0] = dup(house.fds[1]);
    end(2, 0);
}

static void close_all(struct guest *g) {
    (void)g;
    for (unsigned i = 0; i < house.opens; i++)
        CHECK_OK(kr_conn_close(house.r, house.guests[i].conn, KR_CLOSE_NOW));
}

/* Ours: those that another one closes meanwhile are not told. */
TEST_EACH(drain_with_a_close_of_all) {
    begin(&told_ops, 10);
    house.at_shutdown = close_all;
    drain(HOUR);
    end(10, 0);
    unsigned told = 0;
    for (unsigned i = 0; i < 10; i++)
        told += house.guests[i].shutdowns;
    CHECK_EQ(told, 1u);
}

/* Ours: with more connections than a turn may tell, the turns between serve the others. */
TEST_EACH(drain_of_many_serves_meanwhile) {
    struct kr_config config = test_config();
    config.turn_cqes = 4;
    begin_with(&told_ops, 40, &config);
    drain(HOUR);
    test_send(NULL, house.fds[39], "hello", 5);
    unsigned turns = 0, told = 0;
    while (told < 40) {
        CHECK_OK(kr_step(house.r, -1));
        turns++;
        unsigned before = told;
        told = 0;
        for (unsigned i = 0; i < 40; i++)
            told += house.guests[i].shutdowns;
        CHECK_LE(told - before, 4u);
        if (house.guests[39].bytes)
            house.guests[39].bytes = told < 40 ? 1000 : house.guests[39].bytes;
    }
    CHECK_GE(turns, 10u);
    CHECK_EQ(house.guests[39].bytes, 1000u); /* served before all were told */
    for (unsigned i = 0; i < 40; i++)
        CHECK_EQ(house.guests[i].shutdowns, 1u);
    for (unsigned i = 0; i < 40; i++)
        CHECK_OK(kr_conn_close(house.r, house.guests[i].conn, KR_CLOSE_NOW));
    end(40, 0);
}

/* ---- the time ---- */

static int64_t still_now;

static int64_t still_clock(const struct kr__kernel *k) {
    (void)k;
    return still_now;
}

/* Ours: those that are left when the time is over are cut off, not a nanosecond before, whatever
 * they are at; who has bytes queued is reset. Their number is told. */
TEST_EACH(drain_cuts_off_who_stays) {
    static char bytes[8 << 20];
    struct kr__kernel kernel = kr__linux;
    kernel.process.clock = still_clock;
    still_now = HOUR;
    house = (struct house){.r = test_reactor_on(&kernel, NULL)};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.flush_ns = HOUR;
    house.port = test_listen(house.r, &house.listener, &opts, &told_ops, &house);
    for (unsigned i = 0; i < 5; i++) {
        house.fds[i] = test_connect_sized(house.port, 0, 4096);
        TEST_UNTIL(house.r, house.opens == i + 1);
    }
    CHECK_OK(kr_conn_send(house.r, house.guests[1].conn, bytes, sizeof bytes));
    CHECK_OK(kr_conn_send(house.r, house.guests[2].conn, bytes, sizeof bytes));
    CHECK_OK(kr_conn_pause(house.r, house.guests[3].conn));
    drain(1000);
    CHECK_OK(kr_conn_close(house.r, house.guests[2].conn, KR_CLOSE_FLUSH));
    CHECK_OK(kr_conn_close(house.r, house.guests[4].conn, KR_CLOSE_NOW));
    TEST_UNTIL(house.r, house.closes == 1);
    still_now += 999;
    test_settle(house.r);
    CHECK_EQ(house.closes, 1u);
    still_now++;
    TEST_UNTIL(house.r, house.drains == 1);
    for (unsigned i = 0; i < 4; i++) {
        CHECK_EQ(house.guests[i].error, -ETIMEDOUT);
        CHECK_EQ(house.guests[i].why, KR_WHY_TIMEOUT);
        CHECK_EQ(house.guests[i].shutdowns, i != 2);
        CHECK_EQ(test_recv_end(NULL, house.fds[i], NULL), i == 1 || i == 2 ? ECONNRESET : 0);
    }
    CHECK_EQ(house.guests[4].error, 0);
    end(5, 4);
}

/* Ours: no time at all is a turn in which each is told; and a lingering close is cut off as any. */
TEST_EACH(drain_without_grace) {
    for (int told = 0; told < 2; told++) {
        begin(told ? &told_ops : &untold_ops, 8);
        drain(0);
        TEST_UNTIL(house.r, house.drains == 1);
        for (unsigned i = 0; i < 8; i++) {
            CHECK_EQ(house.guests[i].shutdowns, (unsigned)told);
            CHECK_EQ(house.guests[i].error, -ETIMEDOUT);
        }
        end(8, 8);
    }
}

/* ---- nobody new ---- */

static void make_again(void) {
    house.listener = (kr_listener){0};
    struct kr_addr addr = test_loopback(0);
    CHECK_OK(kr_listen(house.r, &house.listener, &addr, NULL, &told_ops, &house));
    CHECK_OK(kr_listener_addr(house.r, house.listener, &addr));
    house.port = kr_addr_port(&addr);
}

/* Ours: meanwhile nothing new can be made, and clients are refused; when it is over everything can,
 * at once, and be drained again. */
TEST_EACH(drain_lets_nobody_in) {
    begin(&told_ops, 1);
    house.at_the_end = make_again;
    struct kr_addr addr;
    CHECK_OK(kr_listener_addr(house.r, house.listener, &addr));
    drain(HOUR);
    kr_conn conn;
    CHECK_ERR(kr_listen(house.r, NULL, &addr, NULL, &told_ops, NULL), ESHUTDOWN);
    CHECK_ERR(kr_connect(house.r, &conn, &addr, NULL, &told_ops, NULL), ESHUTDOWN);
    CHECK_ERR(kr_drain(house.r, HOUR, drained, &house), EALREADY);
    TEST_UNTIL(house.r, test_stats(house.r).listeners == 0);
    CHECK_ERR(kr_listen(house.r, NULL, &addr, NULL, &told_ops, NULL), ESHUTDOWN);
    int late = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK(connect(late, &addr.u.sa, addr.size) < 0 && errno == ECONNREFUSED);
    test_close(late);
    CHECK_OK(kr_conn_close(house.r, house.guests[0].conn, KR_CLOSE_NOW));
    TEST_UNTIL(house.r, house.drains == 1);
    test_close(house.fds[0]);

    house.at_the_end = NULL;
    house.drains = 0;
    house.at_shutdown = say_goodbye;
    int fd = test_connect(house.port);
    TEST_UNTIL(house.r, house.opens == 2);
    drain(HOUR);
    TEST_UNTIL(house.r, house.drains == 1);
    CHECK_EQ(test_recv_end(house.r, fd, NULL), 0);
    test_close(fd);
    test_reactor_end(house.r, (struct test_levels){.conns = 0});
}

/* Ours: clients that wait to be accepted, or were just accepted by the kernel, are not opened any
 * more; they see an end. */
TEST_EACH(drain_with_clients_on_their_way) {
    begin(&told_ops, 1);
    for (unsigned i = 1; i < 10; i++)
        house.fds[i] = test_connect(house.port);
    drain(HOUR);
    CHECK_OK(kr_conn_close(house.r, house.guests[0].conn, KR_CLOSE_NOW));
    TEST_UNTIL(house.r, house.drains == 1);
    CHECK_EQ(house.opens, 1u);
    for (unsigned i = 1; i < 10; i++) {
        int over = test_recv_end(house.r, house.fds[i], NULL);
        CHECK(over == 0 || over == ECONNRESET);
        test_close(house.fds[i]);
    }
    end(1, 0);
}

/* Ours: a connection that is still being made is told, too, and may go on; one that has nothing to
 * be told by is given up. */
TEST_EACH(drain_while_connecting) {
    for (int told = 0; told < 2; told++) {
        begin(&told_ops, 0);
        struct kr_reactor *far = test_reactor(NULL);
        uint16_t port = test_listen(far, NULL, NULL, &untold_ops, &house);
        struct kr_addr addr = test_loopback(port);
        struct guest *g = &house.guests[GUESTS - 1];
        struct kr_conn_ops ops = told_ops;
        ops.on_open = NULL;
        ops.on_shutdown = told ? on_shutdown : NULL;
        CHECK_OK(kr_connect(house.r, &g->conn, &addr, NULL, &ops, g));
        house.opens = 1;
        drain(HOUR);
        if (told) {
            TEST_UNTIL(house.r, test_stats(house.r).connects == 1 && g->shutdowns == 1);
            CHECK_OK(kr_conn_close(house.r, g->conn, KR_CLOSE_NOW));
        }
        while (!house.drains) {
            test_step(house.r, "the drain");
            test_step(far, "the other side");
        }
        CHECK_EQ(g->closes, 1u);
        CHECK_EQ(house.cut_off, 0u);
        house.drains = 0; /* or the far side's on_close would be one too late */
        test_reactor_free(house.r);
        house.closes = house.opens = 0;
        test_reactor_free(far);
    }
}

/* Ours: a pair that is forwarded goes on to its own end, if its ends have an on_shutdown that lets
 * it. */
TEST_EACH(drain_leaves_pairs_alone) {
    begin(&told_ops, 2);
    CHECK_OK(
        kr_conn_forward(house.r, house.guests[0].conn, house.guests[1].conn, NULL, NULL, NULL));
    drain(HOUR);
    TEST_UNTIL(house.r, house.guests[0].shutdowns && house.guests[1].shutdowns);
    test_send(house.r, house.fds[0], "hello", 5);
    CHECK_RECV(house.r, house.fds[1], "hello");
    CHECK_EQ(house.drains, 0u);
    CHECK_SYS(shutdown(house.fds[0], SHUT_WR));
    CHECK_EQ(test_recv_end(house.r, house.fds[1], NULL), 0);
    CHECK_SYS(shutdown(house.fds[1], SHUT_WR));
    end(2, 0);
    CHECK_EQ(house.guests[0].error, 0);
}

/* ---- what options let go on ---- */

static void drain_with(bool connects, bool pairs) {
    struct kr_drain_opts opts;
    kr_drain_opts_init(&opts);
    CHECK(!opts.connects && !opts.pairs);
    opts.connects = connects;
    opts.pairs = pairs;
    CHECK_OK(kr_drain_with(house.r, HOUR, &opts, drained, &house));
}

/* Ours: a proxy that has taken a request may connect for it while it drains. The connection is not told
 * to go, and is waited for. */
TEST_EACH(drain_lets_a_proxy_connect) {
    begin(&told_ops, 1);
    int listening = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    struct kr_addr addr = test_loopback(0);
    CHECK_SYS(bind(listening, &addr.u.sa, addr.size));
    CHECK_SYS(listen(listening, 1));
    socklen_t size = sizeof addr.u;
    CHECK_SYS(getsockname(listening, &addr.u.sa, &size));
    addr.size = size;
    drain_with(true, false);
    CHECK_ERR(kr_listen(house.r, NULL, &addr, NULL, &told_ops, NULL), ESHUTDOWN);
    CHECK_OK(kr_connect(house.r, NULL, &addr, NULL, &told_ops, &house));
    TEST_UNTIL(house.r, house.guests[0].shutdowns == 1);
    TEST_UNTIL(house.r, house.opens == 2);
    house.fds[1] = CHECK_SYS(accept4(listening, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
    CHECK_OK(kr_conn_close(house.r, house.guests[0].conn, KR_CLOSE_NOW));
    test_send(house.r, house.fds[1], "once more", 9);
    char bytes[9];
    test_recv(house.r, house.fds[1], bytes, 9);
    TEST_UNTIL(house.r, house.closes == 1);
    CHECK_EQ(house.guests[1].shutdowns, 0u);
    CHECK_EQ(house.drains, 0u);
    CHECK_OK(kr_conn_close(house.r, house.guests[1].conn, KR_CLOSE_FLUSH));
    test_close(listening);
    end(2, 0);
}

/* Ours: a pair goes on to its own end though nobody at it speaks for it. One that is left open by it is
 * closed then. */
static void over_now(struct kr_reactor *r, kr_conn a, kr_conn b, void *user,
                     const struct kr_forwarded *what) {
    UNUSED(r, a, b);
    CHECK(what->error == 0 || what->error == -ECANCELED);
    ++*(unsigned *)user;
}

TEST_EACH(drain_lets_pairs_go_on) {
    for (unsigned open = 0; open < 2; open++) {
        begin(&untold_ops, 3);
        struct kr_forward_opts opts;
        kr_forward_opts_init(&opts);
        opts.keep_open = open;
        unsigned overs = 0;
        CHECK_OK(kr_conn_forward(house.r, house.guests[0].conn, house.guests[1].conn, &opts,
                                 over_now, &overs));
        drain_with(false, true);
        CHECK_EQ(test_recv_end(house.r, house.fds[2], NULL), 0); /* who is no pair goes at once */
        test_send(house.r, house.fds[0], "hello", 5);
        CHECK_RECV(house.r, house.fds[1], "hello");
        CHECK_EQ(overs, 0u);
        if (open)
            CHECK_OK(kr_conn_forward_stop(house.r, house.guests[0].conn));
        else
            CHECK_SYS(shutdown(house.fds[0], SHUT_WR));
        CHECK_EQ(test_recv_end(house.r, house.fds[1], NULL), 0);
        for (unsigned i = open ? 0 : 1; i < 3; i++)
            CHECK_SYS(shutdown(house.fds[i], SHUT_WR));
        end(3, 0);
        CHECK_EQ(overs, 1u);
        CHECK_EQ(house.guests[0].why, KR_WHY_LOCAL);
    }
}

/* Ours: what a daemon speaks to itself by works until the last of the others is gone, and is no reason
 * to wait. */
TEST_EACH(drain_does_not_wait_for_the_background) {
    for (unsigned late = 0; late < 2; late++) {
        begin(&told_ops, 1);
        int ends[2];
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
        struct kr_conn_opts opts = test_conn_opts();
        opts.background = true;
        CHECK_OK(kr_conn_adopt(house.r, NULL, ends[0], &opts, &told_ops, &house));
        TEST_UNTIL(house.r, house.opens == 2);
        house.fds[1] = ends[1];
        drain(late ? 1 : HOUR);
        if (!late) {
            TEST_UNTIL(house.r, house.guests[0].shutdowns == 1);
            char bytes[4];
            test_send(house.r, ends[1], "work", 4);
            test_recv(house.r, ends[1], bytes, 4);
            CHECK_OK(kr_conn_close(house.r, house.guests[0].conn, KR_CLOSE_NOW));
        }
        end(2, late);
        CHECK_EQ(house.guests[1].shutdowns, 0u);
        CHECK_EQ(house.guests[1].why, KR_WHY_LOCAL);
        CHECK_EQ(house.guests[1].error, 0);
    }
}

/* ---- the reactor's own ends ---- */

static void stop_it(void) {
    kr_stop(house.r);
}

static void drain_it(struct kr_reactor *r, void *arg) {
    (void)arg;
    CHECK_OK(kr_drain(r, 10 * MS, drained, &house));
}

/* Ours: kr_run goes on until it is stopped, which the end of the drain may do; the drain may begin
 * in a callback, and its time ends the run's wait. */
TEST_EACH(drain_ends_the_run_when_told_so) {
    begin(&told_ops, 3);
    house.at_the_end = stop_it;
    int64_t before = tap_now_ns();
    CHECK_OK(kr_post(house.r, drain_it, NULL));
    CHECK_EQ(kr_run(house.r), 0);
    CHECK_GE(tap_now_ns() - before, 10 * MS);
    end(3, 3);
}

/* Ours: asked before the first run it is done in it. */
TEST_EACH(drain_before_the_first_run) {
    house = (struct house){.r = test_reactor(NULL)};
    house.port = test_listen(house.r, &house.listener, NULL, &told_ops, &house);
    drain(HOUR);
    house.at_the_end = stop_it;
    CHECK_EQ(kr_run(house.r), 0);
    end(0, 0);
}

/* Ours: kr_reactor_free ends a drain, begun or half done, and does not tell of it. */
TEST_EACH(drain_ends_with_the_reactor) {
    for (unsigned turns = 0; turns < 3; turns++) {
        begin(&told_ops, 4);
        drain(HOUR);
        for (unsigned i = 0; i < turns; i++)
            CHECK_OK(kr_step(house.r, 0));
        test_reactor_free(house.r);
        CHECK_EQ(house.closes, 4u);
        CHECK_EQ(house.drains, 0u);
        for (unsigned i = 0; i < 4; i++) {
            CHECK_EQ(house.guests[i].why, KR_WHY_REACTOR);
            test_close(house.fds[i]);
        }
    }
}

/* Ours: bad arguments, and a reactor that is being freed. */
static void on_close_drain(struct kr_reactor *r, kr_conn conn, void *user, int error,
                           enum kr_why why) {
    on_close(r, conn, user, error, why);
    CHECK_ERR(kr_drain(r, 0, drained, &house), ESHUTDOWN);
}

TEST_EACH(drain_refuses) {
    static const struct kr_conn_ops last_ops = {
        .on_open = on_open, .on_data = on_data, .on_close = on_close_drain};
    begin(&last_ops, 1);
    CHECK_ERR(kr_drain(house.r, -1, drained, &house), EINVAL);
    CHECK_ERR(kr_drain_with(house.r, 1, &(struct kr_drain_opts){0}, drained, &house), EINVAL);
    CHECK_OK(kr_listener_pause(house.r, house.listener));
    CHECK_OK(kr_listener_resume(house.r, house.listener));
    test_reactor_end(house.r, (struct test_levels){.conns = 1, .listeners = 1});
    CHECK_EQ(house.closes, 1u);
    CHECK_EQ(house.drains, 0u);
    test_close(house.fds[0]);
}

TAP_MAIN(drain, 80)
