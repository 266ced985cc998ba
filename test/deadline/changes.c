/* Deadlines that are changed, pairs, and what deadlines cost; with the real clock at last. */
#include "deadline/deadline.h"

/* ---- changes ---- */

static void set(struct test_server *s, enum kr_deadline which, int64_t ns) {
    CHECK_OK(kr_conn_deadline(s->r, s->conn, which, ns));
}

/* Ours: set to less, to more, to none, from now; before the old one, and when it is overdue; no
 * other is moved. */
TEST_EACH(deadline_changed) {
    static const enum kr_deadline kinds[] = {KR_DEADLINE_IDLE, KR_DEADLINE_READ, KR_DEADLINE_LIFE};
    for (int i = 0; i < 3; i++) {
        enum kr_deadline which = kinds[i], other = kinds[(i + 1) % 3];
        struct kr_listen_opts opts = no_deadlines();
        struct test_server s = {0};
        begin(&s, &ops, &opts);
        int64_t t = still.now;
        set(&s, other, 10000);
        set(&s, which, 1000);
        quiet_until(&s, t + 500);
        set(&s, which, 100);
        told_at(&s, which, t + 600);
        set(&s, which, 2000);
        told_at(&s, which, t + 2600);
        set(&s, which, 0);
        quiet_until(&s, t + 9999);
        set(&s, which, 50);
        told_at(&s, other, t + 10000);
        still.now = t + 20000; /* overdue, but not told yet: it is out of date */
        set(&s, which, 100);
        set(&s, other, 0);
        told_at(&s, which, t + 20100);
        end(&s);
    }
}

/* Ours: the write deadline of a queue that waits already, and the flush deadline of a close to
 * come. */
TEST_EACH(deadline_changed_while_sending) {
    struct kr_listen_opts opts = no_deadlines();
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    stall(&s);
    quiet_until(&s, t + 1000);
    set(&s, KR_DEADLINE_WRITE, 1000);
    quiet_until(&s, t + 1900);
    set(&s, KR_DEADLINE_WRITE, 0);
    set(&s, KR_DEADLINE_FLUSH, 70);
    quiet_until(&s, t + 5000);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_FLUSH));
    CHECK_ERR(kr_conn_deadline(s.r, s.conn, KR_DEADLINE_FLUSH, 1000), EPIPE);
    quiet_until(&s, t + 5069);
    still.now = t + 5070;
    TEST_UNTIL(s.r, s.closes == 1);
    CHECK_EQ(s.error, -ETIMEDOUT);
    end(&s);
}

static void change_all(struct test_server *s, kr_conn conn) {
    (void)conn;
    if (s->which == KR_DEADLINE_READ) {
        set(s, KR_DEADLINE_READ, 7);
        set(s, KR_DEADLINE_IDLE, 70);
    } else {
        set(s, KR_DEADLINE_READ, 0);
        set(s, KR_DEADLINE_IDLE, 700);
    }
}

/* Ours: in on_timeout as anywhere, also the one that is being told. */
TEST_EACH(deadline_changed_in_on_timeout) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.read_ns = 100;
    struct test_server s = {.in_timeout = change_all};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    told_at(&s, KR_DEADLINE_READ, t + 100);
    told_at(&s, KR_DEADLINE_READ, t + 107);
    s.in_timeout = NULL;
    set(&s, KR_DEADLINE_READ, 0);
    s.in_timeout = change_all;
    told_at(&s, KR_DEADLINE_IDLE, t + 177);
    told_at(&s, KR_DEADLINE_IDLE, t + 877);
    end(&s);
}

/* Ours: a read deadline that is set while paused begins with the resume. */
TEST_EACH(deadline_changed_while_paused) {
    struct kr_listen_opts opts = no_deadlines();
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    CHECK_OK(kr_conn_pause(s.r, s.conn));
    set(&s, KR_DEADLINE_READ, 100);
    set(&s, KR_DEADLINE_IDLE, 700);
    quiet_until(&s, t + 600);
    told_at(&s, KR_DEADLINE_IDLE, t + 700);
    resume(&s);
    told_at(&s, KR_DEADLINE_READ, t + 800);
    end(&s);
}

static void close_it(struct test_server *s, kr_conn conn) {
    CHECK_OK(kr_conn_close(s->r, conn, KR_CLOSE_FLUSH));
}

/* Ours: closed in on_timeout it ends as its owner's doing, and no other deadline is told. */
TEST_EACH(deadline_closes_in_on_timeout) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.read_ns = opts.conn.idle_ns = opts.conn.life_ns = 100;
    struct test_server s = {.in_timeout = close_it};
    begin(&s, &ops, &opts);
    still.now += 100;
    TEST_UNTIL(s.r, s.closes == 1);
    CHECK_EQ(told_all(&s), 1u);
    CHECK_EQ(s.error, 0);
    CHECK_EQ(s.why, KR_WHY_LOCAL);
    end(&s);
}

/* Ours: bad arguments are refused and change nothing; the largest time is never. */
TEST_EACH(deadline_refuses) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.idle_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    for (int which = 0; which < KINDS; which++)
        CHECK_ERR(kr_conn_deadline(s.r, s.conn, (enum kr_deadline)which, -1), EINVAL);
    CHECK_ERR(kr_conn_deadline(s.r, s.conn, KR_DEADLINE_FLUSH, 0), EINVAL);
    CHECK_ERR(kr_conn_deadline(s.r, s.conn, (enum kr_deadline)KINDS, 1), EINVAL);
    CHECK_ERR(kr_conn_deadline(s.r, s.conn, (enum kr_deadline) - 1, 1), EINVAL);
    told_at(&s, KR_DEADLINE_IDLE, t + 100);
    for (int which = 0; which < KINDS; which++)
        set(&s, (enum kr_deadline)which, INT64_MAX);
    quiet_until(&s, INT64_MAX - 1);
    still.now = t + 200;
    end(&s);
}

/* Ours: a change of one connection is none of another of the same listener. */
TEST_EACH(deadline_changed_for_one) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.idle_ns = 100;
    struct test_server s = {0}, other = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    set(&s, KR_DEADLINE_IDLE, 50);
    other.r = s.r;
    kr_conn first = s.conn;
    int fd = test_connect(s.port);
    TEST_UNTIL(s.r, s.opens == 2);
    other.conn = s.conn;
    s.conn = first;
    CHECK_OK(kr_conn_set_user(s.r, other.conn, &other));
    told_at(&s, KR_DEADLINE_IDLE, t + 50);
    quiet_until(&s, t + 99);
    CHECK_EQ(other.told[KR_DEADLINE_IDLE], 0u);
    still.now = t + 100;
    for (int i = 0; i < 3; i++)
        CHECK_OK(kr_step(s.r, 0));
    CHECK_EQ(other.told[KR_DEADLINE_IDLE], 1u);
    CHECK_EQ(s.told[KR_DEADLINE_IDLE], 2u);
    CHECK_OK(kr_conn_close(s.r, other.conn, KR_CLOSE_NOW));
    TEST_UNTIL(s.r, other.closes == 1);
    test_close(fd);
    end(&s);
}

/* ---- pairs, and connections of our own making ---- */

/* Ours: forwarded bytes are bytes: they move the read deadline of where they come from, the write
 * deadline of where they go, and the idle deadline of both. */
TEST_EACH(deadline_of_forwarded_connections) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.idle_ns = 100;
    struct test_server a = {0};
    begin(&a, &ops, &opts);
    int64_t t = still.now;
    struct test_server b = {.r = a.r, .recv_size = 4096};
    test_server_begin(&b, &opts, &ops);
    CHECK_OK(kr_conn_forward(a.r, a.conn, b.conn, NULL, NULL, NULL));
    quiet_until(&a, t + 60);
    static char bytes[100];
    test_send(a.r, a.fd, bytes, sizeof bytes);
    test_recv(a.r, b.fd, bytes, sizeof bytes);
    quiet_until(&a, t + 159);
    CHECK_EQ(told_all(&b), 0u);
    still.now = t + 160;
    for (int i = 0; i < 2; i++)
        CHECK_OK(kr_step(a.r, 0));
    CHECK_EQ(a.told[KR_DEADLINE_IDLE], 1u);
    CHECK_EQ(b.told[KR_DEADLINE_IDLE], 1u);
    set(&a, KR_DEADLINE_IDLE, 0);
    set(&b, KR_DEADLINE_IDLE, 0);
    set(&b, KR_DEADLINE_WRITE, 100);
    for (unsigned idle = 0; idle < 5;) { /* until both kernels and b's queue are full */
        static char flood[65536];
        long n = test_send_some(a.fd, flood, sizeof flood);
        CHECK_GE(n, 0);
        idle = test_step(a.r, "the pair to stall") == 0 && n == 0 ? idle + 1 : 0;
    }
    quiet_until(&b, t + 259);
    still.now = t + 260;
    TEST_UNTIL(a.r, b.closes == 1 && a.closes == 1);
    CHECK_EQ(b.error, -ETIMEDOUT);
    test_close(b.fd);
    test_close(a.fd);
    test_reactor_end(a.r, (struct test_levels){.listeners = 2});
}

/* Ours: the deadlines of a connection of our own making count from when it stands; until then they
 * may be set, and are none. */
TEST_EACH(deadline_of_a_connection_that_is_being_made) {
    struct kr_listen_opts opts = no_deadlines();
    struct test_server far = {0}, s = {0};
    begin(&far, &ops, &opts);
    int64_t t = still.now;
    struct kr_addr addr = test_loopback(far.port);
    struct kr_connect_opts how = test_connect_opts();
    how.timeout_ns = HOUR;
    how.conn.idle_ns = 10;
    how.conn.life_ns = 200;
    s.r = far.r;
    CHECK_OK(kr_connect(far.r, &s.conn, &addr, &how, &ops, &s));
    CHECK_EQ(far.r->timers.deadlines.count, 1u); /* that of the connect itself stays */
    set(&s, KR_DEADLINE_IDLE, 100);
    CHECK_OK(kr_conn_send(far.r, s.conn, "early", 5));
    CHECK_EQ(far.r->timers.deadlines.count, 1u);
    still.now = t + 1000;
    TEST_UNTIL(far.r, s.opens == 1);
    CHECK_EQ(s.opened_at, t + 1000);
    test_settle(far.r);
    told_at(&s, KR_DEADLINE_IDLE, t + 1100);
    still.now = t + 1200;
    for (int i = 0; i < 3; i++)
        CHECK_OK(kr_step(far.r, 0));
    CHECK_EQ(s.told[KR_DEADLINE_LIFE], 1u);
    CHECK_EQ(s.told[KR_DEADLINE_IDLE], 2u);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
    TEST_UNTIL(s.r, s.closes == 1);
    CHECK_OK(kr_listener_close(far.r, far.listener));
    CHECK_OK(kr_conn_close(far.r, far.conn, KR_CLOSE_NOW));
    TEST_UNTIL(far.r, far.closes == 1);
    test_close(far.fd);
    test_reactor_free(far.r);
}

/* ---- what they cost ---- */

/* How many times anything was filed in the heap. */
static uint32_t filings(const struct test_server *s) {
    return s->r->timers.deadlines.order;
}

/* Ours: traffic files nothing: with every deadline set, a thousand messages each way cost as many
 * operations of the heap as deadlines come up in their time, a few each, and none when none comes
 * up. */
TEST_EACH(deadline_traffic_is_free) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.idle_ns = opts.conn.read_ns = opts.conn.write_ns = 100;
    opts.conn.life_ns = HOUR;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    uint32_t before = filings(&s);
    for (int i = 0; i < 1000; i++) {
        client_sends(&s, 1);
        we_send(&s, 1);
        client_gets(&s, 1);
    }
    CHECK_LE(filings(&s) - before, 1u); /* the first queue */
    before = filings(&s);
    for (int i = 0; i < 1000; i++) {
        still.now += 10;
        client_sends(&s, 1);
        we_send(&s, 1);
        client_gets(&s, 1);
    }
    CHECK_LE(filings(&s) - before, 2 * 1000u / 10);
    CHECK_GE(filings(&s) - before, 1000u / 10 - 1);
    CHECK_EQ(told_all(&s), 0u);
    end(&s);
}

/* Ours: a connection that has no deadline but the write deadline, and is idle, is not looked at. */
TEST_EACH(deadline_that_does_not_apply_is_not_filed) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.write_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    CHECK_EQ(s.r->timers.deadlines.count, 0u);
    we_send(&s, 1);
    client_gets(&s, 1);
    test_settle(s.r);
    quiet_until(&s, still.now + 100);
    CHECK_EQ(s.r->timers.deadlines.count, 0u);
    end(&s);
}

/* ---- the real clock ---- */

#define SOON (20 * MS)

/* Ours: never early, by the clock of whoever waits. */
TEST_EACH(deadline_is_never_early) {
    static const char *const names[] = {"idle", "read", "write", "life", "flush"};
    for (int which = 0; which < KINDS; which++) {
        tap_note("%s", names[which]);
        struct kr_listen_opts opts = no_deadlines();
        struct test_server s = {0};
        begin_on(&s, &kr__linux, &ops_without_timeout, &opts);
        if (which == KR_DEADLINE_WRITE || which == KR_DEADLINE_FLUSH)
            stall(&s);
        int64_t since = tap_now_ns();
        set(&s, (enum kr_deadline)which, SOON);
        if (which == KR_DEADLINE_FLUSH)
            CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_FLUSH));
        TEST_UNTIL(s.r, s.closes == 1);
        CHECK_GE(tap_now_ns() - since, SOON);
        CHECK_EQ(s.error, -ETIMEDOUT);
        end(&s);
    }
}

/* Ours: a reactor that sleeps without end wakes for the deadline, and goes round idly for none. */
TEST_EACH(deadline_ends_a_wait) {
    struct kr_listen_opts opts = no_deadlines();
    for (int which = 0; which < 3; which++) {
        static const enum kr_deadline kinds[] = {KR_DEADLINE_IDLE, KR_DEADLINE_READ,
                                                 KR_DEADLINE_LIFE};
        struct test_server s = {0};
        begin_on(&s, &kr__linux, &ops, &opts);
        set(&s, kinds[which], SOON);
        unsigned steps = 0;
        for (; !told_all(&s); steps++)
            CHECK_OK(kr_step(s.r, -1));
        CHECK_LE(steps, 3u);
        CHECK_EQ(s.told[kinds[which]], 1u);
        end(&s);
    }
}
