/* Deadlines of connections: each kept to the nanosecond, moved by what should move it and by
 * nothing else, changed at any moment, and costing a busy connection next to nothing.
 *
 * Most cases run on the real ring with a clock that stands still until the case moves it: at one
 * nanosecond before a deadline nothing must happen however many turns pass, and at the deadline it
 * must happen in the very next turn. The last cases have the real clock. */
#include "deadline/deadline.h"

/* ---- a clock that stands still ---- */

struct still still;

static int64_t still_clock(const struct kr__kernel *k) {
    (void)k;
    return still.now;
}

static const struct kr__kernel *still_kernel(void) {
    still.kernel = kr__linux;
    still.kernel.process.clock = still_clock;
    still.now = HOUR;
    return &still.kernel;
}

/* ---- a connection and what it was told ---- */

static void on_timeout(struct kr_reactor *r, kr_conn conn, void *user, enum kr_deadline which) {
    CHECK_EQ(conn.bits, ((struct test_server *)user)->conn.bits);
    test_server_timeout(r, conn, user, which);
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    CHECK_ERR(kr_conn_deadline(r, conn, KR_DEADLINE_IDLE, 1), EPIPE);
    test_server_close(r, conn, user, error, why);
}

const struct kr_conn_ops ops = {.on_open = test_server_open,
                                .on_data = test_server_data,
                                .on_eof = test_server_eof,
                                .on_timeout = on_timeout,
                                .on_close = on_close};

const struct kr_conn_ops ops_without_timeout = {.on_open = test_server_open,
                                                .on_data = test_server_data,
                                                .on_eof = test_server_eof,
                                                .on_close = on_close};

struct kr_listen_opts no_deadlines(void) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.flush_ns = HOUR;
    return opts;
}

void begin_on(struct test_server *s, const struct kr__kernel *kernel, const struct kr_conn_ops *of,
              const struct kr_listen_opts *opts) {
    s->r = test_reactor_on(kernel, NULL);
    s->recv_size = 4096;
    test_server_begin(s, opts, of);
    test_rest(s->r, (struct test_levels){.conns = 1, .listeners = 1});
}

void begin(struct test_server *s, const struct kr_conn_ops *of, const struct kr_listen_opts *opts) {
    begin_on(s, still_kernel(), of, opts);
    CHECK_EQ(s->opened_at, still.now);
}

void end(struct test_server *s) {
    if (!s->closes)
        CHECK_OK(kr_conn_close(s->r, s->conn, KR_CLOSE_NOW));
    TEST_UNTIL(s->r, s->closes == 1);
    test_close(s->fd);
    test_reactor_end(s->r, (struct test_levels){.listeners = 1});
}

static const struct kr__conn *conn_of(const struct test_server *s) {
    return &s->r->conns.table[kr__handle_slot(s->conn.bits)];
}

/* ---- moving the clock ---- */

unsigned told_all(const struct test_server *s) {
    unsigned all = 0;
    for (int which = 0; which < KINDS; which++)
        all += s->told[which];
    return all;
}

static bool is_open(const struct test_server *s) {
    int rc = kr_conn_send(s->r, s->conn, "", 0);
    CHECK(rc == 0 || rc == -EPIPE || rc == -ESTALE);
    return rc == 0;
}

void quiet_until(struct test_server *s, int64_t at) {
    unsigned before = told_all(s);
    bool open = is_open(s);
    still.now = at;
    for (int i = 0; i < 3; i++)
        CHECK_OK(kr_step(s->r, 0));
    CHECK_EQ(told_all(s), before);
    CHECK_EQ(is_open(s), open);
    CHECK_EQ(s->closes, 0u);
}

void told_at(struct test_server *s, enum kr_deadline which, int64_t at) {
    quiet_until(s, at - 1);
    unsigned before = s->told[which], all = told_all(s);
    still.now = at;
    CHECK_OK(kr_step(s->r, 0));
    CHECK_EQ(s->told[which], before + 1);
    CHECK_EQ(told_all(s), all + 1);
    CHECK_EQ(s->told_at, at);
}

/* Ended at `at`, and not before. */
static void ended_at(struct test_server *s, int64_t at) {
    CHECK(is_open(s));
    quiet_until(s, at - 1);
    still.now = at;
    CHECK_OK(kr_step(s->r, 0));
    CHECK(!is_open(s));
    TEST_UNTIL(s->r, s->closes == 1);
    CHECK_EQ(s->error, -ETIMEDOUT);
    CHECK_EQ(s->why, KR_WHY_TIMEOUT);
}

void client_sends(struct test_server *s, size_t size) {
    size_t want = s->bytes + size;
    char *bytes = calloc(1, size);
    CHECK(bytes != NULL);
    test_send(s->r, s->fd, bytes, size);
    free(bytes);
    TEST_UNTIL(s->r, s->bytes == want);
}

void client_gets(struct test_server *s, size_t size) {
    char *bytes = malloc(size);
    CHECK(bytes != NULL);
    test_recv(s->r, s->fd, bytes, size);
    free(bytes);
}

void resume(struct test_server *s) {
    unsigned before = told_all(s);
    CHECK_OK(kr_conn_resume(s->r, s->conn));
    CHECK_OK(kr_step(s->r, 0));
    CHECK_EQ(told_all(s), before);
}

void we_send(struct test_server *s, size_t size) {
    char *bytes = calloc(1, size);
    CHECK(bytes != NULL);
    CHECK_OK(kr_conn_send(s->r, s->conn, bytes, size));
    free(bytes);
}

void stall(struct test_server *s) {
    we_send(s, BIG);
    test_settle(s->r);
    CHECK_GT(kr_conn_queued(s->r, s->conn), 0u);
}

/* ---- each to the nanosecond ---- */

/* Ours: the idle deadline counts from the last byte in either direction, and again after
 * on_timeout. */
TEST_EACH(deadline_idle) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.idle_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    quiet_until(&s, t + 60);
    client_sends(&s, 1);
    told_at(&s, KR_DEADLINE_IDLE, t + 160);
    told_at(&s, KR_DEADLINE_IDLE, t + 260);
    quiet_until(&s, t + 300);
    we_send(&s, 1);
    client_gets(&s, 1);
    told_at(&s, KR_DEADLINE_IDLE, t + 400);
    end(&s);
}

/* Ours: the read deadline is moved by bytes received, and not by bytes sent. */
TEST_EACH(deadline_read) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.read_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    quiet_until(&s, t + 60);
    we_send(&s, 1000);
    client_gets(&s, 1000);
    told_at(&s, KR_DEADLINE_READ, t + 100);
    quiet_until(&s, t + 199);
    client_sends(&s, 1);
    told_at(&s, KR_DEADLINE_READ, t + 299);
    told_at(&s, KR_DEADLINE_READ, t + 399);
    end(&s);
}

/* Ours: time in which the connection is paused does not count, whether a turn passed in between or
 * not; from the resume it has all its time again. */
TEST_EACH(deadline_read_while_paused) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.read_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    quiet_until(&s, t + 90);
    CHECK_OK(kr_conn_pause(s.r, s.conn));
    quiet_until(&s, t + 1000);
    resume(&s);
    told_at(&s, KR_DEADLINE_READ, t + 1100);
    CHECK_OK(kr_conn_pause(s.r, s.conn));
    still.now = t + 5000;
    resume(&s);
    told_at(&s, KR_DEADLINE_READ, t + 5100);
    quiet_until(&s, t + 5150);
    resume(&s); /* of what was not paused: nothing */
    told_at(&s, KR_DEADLINE_READ, t + 5200);
    end(&s);
}

/* Ours: nor does time in which it reads nothing because its own queue is full, nor what comes after
 * the peer's end. */
TEST_EACH(deadline_read_while_stopped) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.read_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    stall(&s);
    quiet_until(&s, t + 1000);
    client_gets(&s, BIG);
    test_settle(s.r);
    CHECK_EQ(kr_conn_queued(s.r, s.conn), 0u);
    told_at(&s, KR_DEADLINE_READ, t + 1100);
    CHECK_SYS(shutdown(s.fd, SHUT_WR));
    TEST_UNTIL(s.r, s.eofs == 1);
    quiet_until(&s, t + 9000);
    end(&s);
}

/* Ours: a reader that takes nothing while bytes are queued to it is reset at the write deadline,
 * the send in flight cancelled and its memory given back; what it sends itself does not help it. */
TEST_EACH(deadline_write) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.write_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    stall(&s);
    CHECK_EQ(conn_of(&s)->owner.inflight, 1u); /* the send */
    quiet_until(&s, t + 60);
    we_send(&s, 1); /* what comes behind those that wait changes nothing for them */
    ended_at(&s, t + 100);
    CHECK_EQ(told_all(&s), 0u);
    CHECK_EQ(test_stats(s.r).sends_out, 0u);
    CHECK_EQ(test_stats(s.r).timeouts, 1u);
    size_t got;
    CHECK_EQ(test_recv_end(s.r, s.fd, &got), ECONNRESET);
    CHECK_LT(got, BIG);
    end(&s);
}

/* Ours: it counts from the last byte taken, and not at all while nothing is queued; a new queue has
 * all its time. */
TEST_EACH(deadline_write_is_moved_by_each_byte) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.send_high = (size_t)16 << 20; /* so that it is heard meanwhile */
    opts.conn.write_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    stall(&s);
    quiet_until(&s, t + 60);
    client_gets(&s, BIG / 4);
    test_settle(s.r);
    quiet_until(&s, t + 159);
    client_gets(&s, BIG - BIG / 4);
    test_settle(s.r);
    CHECK_EQ(kr_conn_queued(s.r, s.conn), 0u);
    quiet_until(&s, t + 5000);
    stall(&s);
    client_sends(&s, 10);
    ended_at(&s, t + 5100);
    end(&s);
}

/* Ours: a queue that begins between two turns counts from then, not from the last turn. */
TEST_EACH(deadline_write_begins_between_turns) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.write_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    stall(&s);
    client_gets(&s, BIG);
    test_settle(s.r);
    CHECK_EQ(kr_conn_queued(s.r, s.conn), 0u);
    quiet_until(&s, t + 200);
    still.now = t + 1000;
    we_send(&s, BIG);
    test_settle(s.r);
    CHECK(is_open(&s));
    ended_at(&s, t + 1100);
    end(&s);
}

/* Ours: the life deadline counts from the opening, whatever the traffic, and again after it was
 * told. */
TEST_EACH(deadline_life) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.life_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t t = still.now;
    for (int at = 10; at < 100; at += 10) {
        quiet_until(&s, t + at);
        client_sends(&s, 10);
        we_send(&s, 10);
        client_gets(&s, 10);
    }
    told_at(&s, KR_DEADLINE_LIFE, t + 100);
    told_at(&s, KR_DEADLINE_LIFE, t + 200);
    end(&s);
}

/* Ours: it goes on while a closed connection is flushed, and ends that. */
TEST_EACH(deadline_life_while_closing) {
    for (int how = KR_CLOSE_LINGER; how <= KR_CLOSE_FLUSH; how++) {
        struct kr_listen_opts opts = no_deadlines();
        opts.conn.life_ns = 100;
        struct test_server s = {0};
        begin(&s, &ops, &opts);
        int64_t t = still.now;
        stall(&s);
        quiet_until(&s, t + 50);
        CHECK_OK(kr_conn_close(s.r, s.conn, (enum kr_close)how));
        test_settle(s.r);
        quiet_until(&s, t + 99);
        still.now = t + 100;
        TEST_UNTIL(s.r, s.closes == 1);
        CHECK_EQ(s.error, -ETIMEDOUT);
        CHECK_EQ(told_all(&s), 0u);
        end(&s);
    }
}

/* Ours: the flush deadline counts from the close, then from the last byte taken; for one that
 * lingers, from the end of our side, whatever the peer still sends. A queue left over is a reset,
 * else there is none. */
TEST_EACH(deadline_flush) {
    for (int queued = 0; queued < 2; queued++) {
        struct kr_listen_opts opts = no_deadlines();
        opts.conn.flush_ns = 100;
        struct test_server s = {0};
        begin(&s, &ops, &opts);
        int64_t t = still.now;
        if (queued)
            stall(&s);
        quiet_until(&s, t + 1000);
        CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_LINGER));
        test_settle(s.r);
        TEST_UNTIL(s.r, queued || conn_of(&s)->fin); /* a worker of the kernel's does that */
        quiet_until(&s, t + 1060);
        if (queued)
            client_gets(&s, BIG / 4);
        test_send(s.r, s.fd, "more", 4);
        test_settle(s.r);
        quiet_until(&s, t + (queued ? 1159 : 1099));
        still.now = t + (queued ? 1160 : 1100);
        TEST_UNTIL(s.r, s.closes == 1);
        CHECK_EQ(s.error, -ETIMEDOUT);
        CHECK_EQ(s.why, KR_WHY_TIMEOUT);
        CHECK_EQ(test_recv_end(s.r, s.fd, NULL), queued ? ECONNRESET : 0);
        end(&s);
    }
}

/* ---- several ---- */

/* Ours: each of several deadlines is told at its own times, as if the others were not there: for
 * 400 ticks of silence, and then for 400 ticks with a byte now and then. */
TEST_EACH(deadline_each_by_itself) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.read_ns = 30;
    opts.conn.life_ns = 70;
    opts.conn.idle_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops, &opts);
    int64_t due[KINDS] = {[KR_DEADLINE_IDLE] = still.now + 100,
                          [KR_DEADLINE_READ] = still.now + 30,
                          [KR_DEADLINE_LIFE] = still.now + 70};
    static const int64_t limits[KINDS] = {
        [KR_DEADLINE_IDLE] = 100, [KR_DEADLINE_READ] = 30, [KR_DEADLINE_LIFE] = 70};
    unsigned want[KINDS] = {0};
    for (int tick = 1; tick <= 800; tick++) {
        still.now++;
        if (tick > 400 && tick % 17 == 0) {
            client_sends(&s, 1);
            due[KR_DEADLINE_IDLE] = still.now + 100;
            due[KR_DEADLINE_READ] = still.now + 30;
        }
        for (int which = 0; which < KINDS; which++) {
            if (limits[which] && due[which] <= still.now) {
                want[which]++;
                due[which] = still.now + limits[which];
            }
        }
        CHECK_OK(kr_step(s.r, 0)); /* in one turn, however many are due at once */
        for (int which = 0; which < KINDS; which++)
            CHECK_EQ(s.told[which], want[which]);
    }
    CHECK_EQ(want[KR_DEADLINE_LIFE], 11u);
    CHECK_EQ(want[KR_DEADLINE_IDLE], 4u);
    CHECK_GE(want[KR_DEADLINE_READ], 13u);
    end(&s);
}

/* Ours: without on_timeout each of them ends the connection; without a queue by FIN. */
TEST_EACH(deadline_ends_without_on_timeout) {
    for (int which = 0; which < 3; which++) {
        struct kr_listen_opts opts = no_deadlines();
        opts.conn.idle_ns = which == 0 ? 100 : 0;
        opts.conn.read_ns = which == 1 ? 100 : 0;
        opts.conn.life_ns = which == 2 ? 100 : 0;
        struct test_server s = {0};
        begin(&s, &ops_without_timeout, &opts);
        ended_at(&s, still.now + 100);
        CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
        end(&s);
    }
}

/* Ours: and with one it is reset, so that the peer does not take a part for the whole. */
TEST_EACH(deadline_that_ends_a_queue_resets) {
    struct kr_listen_opts opts = no_deadlines();
    opts.conn.life_ns = 100;
    struct test_server s = {0};
    begin(&s, &ops_without_timeout, &opts);
    int64_t t = still.now;
    stall(&s);
    ended_at(&s, t + 100);
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), ECONNRESET);
    end(&s);
}

TAP_MAIN(deadline, 104)
