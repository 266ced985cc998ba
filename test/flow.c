/* Back-pressure: pauses reach the peer, queues stay within their marks, and nothing is lost for
 * having had to wait. */
#include "conn/reactor.h"
#include "harness/echo.h"
#include "harness/server.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static size_t pausing_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    struct test_conns *conns = user;
    unsigned i = 0;
    while (conns->at[i].bits != conn.bits)
        CHECK_LT(++i, conns->count);
    CHECK(!conns->paused[i]);
    if (tap_random_below(3) == 0) {
        CHECK_OK(kr_conn_pause(r, conn));
        CHECK_OK(kr_conn_pause(r, conn));
        conns->paused[i] = true;
    }
    size_t part = (size_t)tap_random_below(size + 1);
    CHECK_OK(kr_conn_send(r, conn, data, part));
    return part;
}

static const struct kr_conn_ops pausing_ops = {.on_open = test_conns_open, .on_data = pausing_data};

/* Resumes some of the paused ones; others have a rest that only a pause and a resume show again. */
static void resume_some(struct kr_reactor *r, struct test_conns *conns) {
    for (unsigned i = 0; i < conns->count; i++) {
        if (tap_random_below(2))
            continue;
        if (!conns->paused[i])
            CHECK_OK(kr_conn_pause(r, conns->at[i]));
        CHECK_OK(kr_conn_resume(r, conns->at[i]));
        conns->paused[i] = false;
    }
}

/* Ours: pausing and resuming at random, in the callback and between turns, with a rest
 * unconsumed, shows nothing while paused and loses nothing. */
TEST_EACH(flow_pauses_lose_nothing) {
    struct kr_config config = test_buffers(16, 500);
    struct kr_reactor *r = test_reactor(&config);
    struct test_echo clients[16];
    struct test_conns conns = {.count = 0};
    test_echoes_start(clients, 16, test_listen(r, NULL, NULL, &pausing_ops, &conns), 60000);
    while (!test_echoes_done(clients, 16)) {
        test_step(r, "every client to get its bytes back");
        resume_some(r, &conns);
        test_echoes_move(clients, 16);
    }
    for (unsigned i = 0; i < conns.count; i++)
        CHECK_OK(kr_conn_resume(r, conns.at[i]));
    test_rest(r, (struct test_levels){.conns = 16, .listeners = 1});
    test_echoes_close(clients, 16);
    test_reactor_free(r);
}

/* Ours: while paused the peer's window closes: it cannot send for ever, and gets to once
 * resumed. */
TEST_EACH(flow_pause_reaches_the_peer) {
    struct kr_config config = test_buffers(4, 4096);
    struct kr_reactor *r = test_reactor(&config);
    struct test_conns conns = {.count = 0};
    static const struct kr_conn_ops ops = {.on_open = test_conns_open, .on_data = test_echo_data};
    struct test_echo client = {.fd = test_connect(test_listen(r, NULL, NULL, &ops, &conns)),
                               .seed = 1,
                               .total = UINT64_MAX};
    TEST_UNTIL(r, conns.count == 1);
    CHECK_OK(kr_conn_pause(r, conns.at[0]));
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1});
    while (test_echo_move(&client))
        test_step(r, "the peer to be stopped");
    CHECK_EQ(client.got, 0);
    CHECK_EQ(test_stats(r).bytes_in, 0);
    client.total = client.sent;
    CHECK_OK(kr_conn_resume(r, conns.at[0]));
    while (!test_echo_done(&client)) {
        test_step(r, "the bytes back");
        test_echo_move(&client);
    }
    test_close(client.fd);
    test_reactor_free(r);
}

/* A source: sends a stream as fast as the marks allow. */
struct source {
    uint64_t total, sent;
    size_t low, high, cap, piece;
    bool risen; /* above the high mark, and no on_writable since */
    unsigned drains, refusals;
    kr_conn conn;
    bool open;
};

static void source_fill(struct kr_reactor *r, struct source *s) {
    static char bytes[65536];
    while (s->sent < s->total && !s->risen) {
        size_t piece = 1 + (size_t)tap_random_below(s->piece);
        if (s->total - s->sent < piece)
            piece = (size_t)(s->total - s->sent);
        test_pattern(bytes, piece, 77, s->sent);
        size_t before = kr_conn_queued(r, s->conn);
        CHECK_OK(kr_conn_send(r, s->conn, bytes, piece));
        CHECK_EQ(kr_conn_queued(r, s->conn), before + piece);
        s->sent += piece;
        s->risen = before + piece > s->high;
    }
}

static void source_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct source *s = user;
    s->conn = conn;
    s->open = true;
    source_fill(r, s);
}

static void source_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    struct source *s = user;
    CHECK_EQ(conn.bits, s->conn.bits);
    CHECK(s->risen);
    CHECK_LE(kr_conn_queued(r, conn), s->low);
    s->drains++;
    s->risen = false;
    source_fill(r, s);
}

static const struct kr_conn_ops source_ops = {
    .on_open = source_open, .on_data = test_take_all, .on_writable = source_drain};

/* Reads the stream in random pieces while the reactor turns; checks that memory stays within
 * `bound`. */
static void drink(struct kr_reactor *r, int fd, uint64_t total, uint64_t bound) {
    static char bytes[65536];
    for (uint64_t got = 0; got < total;) {
        long n = test_recv_some(fd, bytes, 1 + (size_t)tap_random_below(sizeof bytes));
        CHECK_GE(n, 0);
        if (n == 0) {
            test_step(r, "more of the stream");
            CHECK_LE(test_stats(r).alloc_bytes, bound);
        }
        test_pattern_check(bytes, (size_t)n, 77, got);
        got += (uint64_t)n;
    }
}

/* Ours: a long stream to a slow reader arrives whole; the library's memory stays within the
 * marks; on_writable runs once for each rise. 1 GiB with --full. */
TEST_EACH(flow_slow_reader_is_bounded_by_the_marks, .deadline_s = 120) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts = test_marks_of(16384, 65536, 1 << 20);
    struct source source = {.total = tap_full() ? 1ull << 30 : 32ull << 20,
                            .low = opts.conn.send_low,
                            .high = opts.conn.send_high,
                            .cap = opts.conn.send_cap,
                            .piece = 30000};
    int fd = test_connect_sized(test_listen(r, NULL, &opts, &source_ops, &source), 0, 4096);
    TEST_UNTIL(r, source.open);
    uint64_t floor = test_stats(r).alloc_bytes;
    drink(r, fd, source.total, floor + 8 * 65536);
    CHECK_EQ(source.sent, source.total);
    CHECK_GT(source.drains, 0u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: the cap is exact. A send of all that is left fits, one byte more is refused and takes
 * nothing, in each way of sending; after on_writable there is room again. */
TEST_EACH(flow_send_cap_is_exact) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts = test_marks_of(0, 5000, 20000);
    struct source source = {.low = 0, .high = 5000};
    int fd = test_connect(test_listen(r, NULL, &opts, &source_ops, &source));
    TEST_UNTIL(r, source.open);
    static char bytes[20001];
    test_pattern(bytes, sizeof bytes, 77, 0);
    void *room;
    CHECK_ERR(kr_conn_send(r, source.conn, bytes, 20001), EMSGSIZE); /* it never fits */
    CHECK_ERR(kr_conn_sendv(r, source.conn, (struct iovec[]){{bytes, 20000}, {bytes, 1}}, 2),
              EMSGSIZE);
    CHECK_ERR(kr_conn_reserve(r, source.conn, 20001, &room), EMSGSIZE);
    CHECK_EQ(kr_conn_queued(r, source.conn), 0u);
    CHECK_OK(kr_conn_send(r, source.conn, bytes, 12000));
    CHECK_ERR(kr_conn_send(r, source.conn, bytes, 8001), ENOBUFS);
    CHECK_OK(kr_conn_sendv(r, source.conn,
                           (struct iovec[]){{bytes + 12000, 7999}, {bytes + 19999, 1}}, 2));
    CHECK_EQ(kr_conn_queued(r, source.conn), 20000u);
    CHECK_ERR(kr_conn_send(r, source.conn, bytes, 1), ENOBUFS);
    CHECK_ERR(kr_conn_reserve(r, source.conn, 1, &room), ENOBUFS);
    CHECK_OK(kr_conn_send(r, source.conn, bytes, 0));
    source.risen = true;
    drink(r, fd, 20000, UINT64_MAX);
    TEST_UNTIL(r, source.drains == 1);
    CHECK_OK(kr_conn_send(r, source.conn, bytes, 20000));
    source.risen = true;
    drink(r, fd, 20000, UINT64_MAX);
    TEST_UNTIL(r, source.drains == 2);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: nor does a size fit that makes the sum of what is queued wrap around. Its bytes are not
 * looked at. */
TEST_EACH(flow_send_cap_does_not_wrap_around) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts = test_marks_of(0, 5000, 20000);
    struct source source = {.low = 0, .high = 5000};
    int fd = test_connect(test_listen(r, NULL, &opts, &source_ops, &source));
    TEST_UNTIL(r, source.open);
    static char bytes[1000];
    test_pattern(bytes, sizeof bytes, 77, 0);
    CHECK_OK(kr_conn_send(r, source.conn, bytes, sizeof bytes));
    for (size_t size = SIZE_MAX; size > SIZE_MAX - 2 * sizeof bytes; size -= 100) {
        struct iovec one = {bytes, size};
        CHECK_ERR(kr_conn_send(r, source.conn, bytes, size), EMSGSIZE);
        CHECK_ERR(kr_conn_sendv(r, source.conn, &one, 1), EMSGSIZE);
        CHECK_ERR(kr_conn_send_ref(r, source.conn, bytes, size, NULL, NULL), EMSGSIZE);
    }
    CHECK_EQ(kr_conn_queued(r, source.conn), sizeof bytes);
    drink(r, fd, sizeof bytes, UINT64_MAX);
    CHECK_EQ(source.drains, 0u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: on_writable waits for send_low, though a send ends in between: 8 MiB are in flight to a
 * slow reader when more is queued; at their end the queue is between the marks, and only when
 * that is gone too it is drained. */
TEST_EACH(flow_drains_at_the_low_mark) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts = test_marks_of(1000, 50000, 16 << 20);
    struct source source = {.low = 1000, .high = 50000};
    int fd = test_connect_sized(test_listen(r, NULL, &opts, &source_ops, &source), 0, 4096);
    TEST_UNTIL(r, source.open);
    static char bytes[8 << 20];
    test_pattern(bytes, sizeof bytes, 77, 0);
    size_t first = sizeof bytes - 30000;
    CHECK_OK(kr_conn_send(r, source.conn, bytes, first));
    test_step(r, "the send to begin");
    CHECK_OK(kr_conn_send(r, source.conn, bytes + first, 30000));
    source.risen = true;
    drink(r, fd, sizeof bytes, UINT64_MAX);
    TEST_UNTIL(r, source.drains == 1);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    CHECK_EQ(source.drains, 1u);
    test_close(fd);
    test_reactor_free(r);
}

/* Keeps what it is shown until told to take it. */
struct keeper {
    kr_conn conn;
    bool taking;
    unsigned shows, drains;
};

static void keeper_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct keeper *keeper = user;
    (void)r;
    keeper->conn = conn;
}

static size_t keeper_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    struct keeper *keeper = user;
    UNUSED(r, conn);
    CHECK_EQ(size, 3u);
    CHECK_MEM_EQ((const char *)data, "abc", 3);
    keeper->shows++;
    return keeper->taking ? size : 0;
}

static void keeper_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    struct keeper *keeper = user;
    UNUSED(r, conn);
    keeper->drains++;
}

static const struct kr_conn_ops keeper_ops = {
    .on_open = keeper_open, .on_data = keeper_data, .on_writable = keeper_drain};

/* Ours: kept bytes that were to be shown again wait when, before that, the queue rises above
 * send_high; they are shown after on_writable. */
TEST_EACH(flow_kept_bytes_wait_for_the_queue) {
    struct kr_reactor *r = test_reactor(NULL);
    struct keeper keeper = {.shows = 0};
    int fd = test_connect_sized(test_listen(r, NULL, NULL, &keeper_ops, &keeper), 0, 4096);
    test_send(r, fd, "abc", 3);
    TEST_UNTIL(r, keeper.shows == 1);
    static char bytes[8 << 20];
    test_pattern(bytes, sizeof bytes, 77, 0);
    keeper.taking = true;
    CHECK_OK(kr_conn_pause(r, keeper.conn));
    CHECK_OK(kr_conn_resume(r, keeper.conn));
    CHECK_OK(kr_conn_send(r, keeper.conn, bytes, sizeof bytes));
    test_settle(r);
    CHECK_EQ(keeper.shows, 1u);
    CHECK_EQ(keeper.drains, 0u);
    drink(r, fd, sizeof bytes, UINT64_MAX);
    TEST_UNTIL(r, keeper.shows == 2);
    CHECK_EQ(keeper.drains, 1u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: an echo to a peer that sends and does not read stops the peer; what is held meanwhile is
 * bounded; then every byte comes back. */
TEST_EACH(flow_to_a_peer_that_reads_nothing_is_bounded) {
    struct kr_config config = test_buffers(32, 16384);
    struct kr_reactor *r = test_reactor(&config);
    struct kr_listen_opts opts = test_marks_of(16384, 65536, 1 << 20);
    struct test_echo client = {.seed = 3, .total = UINT64_MAX, .recv_piece = 1};
    client.fd = test_connect_sized(test_listen(r, NULL, &opts, &test_echo_ops, NULL), 0, 4096);
    char bytes[16384];
    for (unsigned idle = 0; idle < 50;) {
        test_pattern(bytes, sizeof bytes, 3, client.sent);
        long n = test_send_some(client.fd, bytes, sizeof bytes);
        CHECK_GE(n, 0);
        client.sent += (uint64_t)n;
        int handled = test_step(r, "the peer to be stopped");
        idle = n == 0 && handled == 0 ? idle + 1 : 0;
        struct kr_stats stats = test_stats(r);
        CHECK_LE(stats.bytes_in - stats.bytes_out, 65536u + 4 * 16384u);
    }
    client.total = client.sent;
    client.recv_piece = 0;
    while (!test_echo_done(&client)) {
        test_step(r, "the bytes back");
        test_echo_move(&client);
    }
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(client.fd);
    test_reactor_free(r);
}

/* A reader that leaves bytes, and what it was shown. */
struct reader {
    kr_conn conn;
    unsigned opens, shows, eofs, closes;
    size_t size;     /* shown last */
    size_t leaves;   /* so many, if there are as many */
    bool resumes;    /* within on_data */
    int error;
    enum kr_why why;
};

static void reader_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct reader *reader = user;
    (void)r;
    reader->conn = conn;
    reader->opens++;
}

static size_t reader_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    struct reader *reader = user;
    (void)data;
    reader->shows++;
    reader->size = size;
    if (reader->resumes) {
        CHECK_OK(kr_conn_resume(r, conn));
        CHECK_OK(kr_conn_pause(r, conn));
        CHECK_OK(kr_conn_resume(r, conn));
    }
    return size > reader->leaves ? size - reader->leaves : 0;
}

static void reader_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct reader *reader = user;
    UNUSED(r, conn);
    reader->eofs++;
}

static void reader_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                         enum kr_why why) {
    struct reader *reader = user;
    UNUSED(r, conn);
    reader->closes++;
    reader->error = error;
    reader->why = why;
}

static const struct kr_conn_ops reader_ops = {
    .on_open = reader_open, .on_data = reader_data, .on_eof = reader_eof, .on_close = reader_close};
static const struct kr_conn_ops reader_plain_ops = {
    .on_open = reader_open, .on_data = reader_data, .on_close = reader_close};

/* Ours: a resume within on_data does not have the bytes that it leaves shown again, which would go
 * on for ever; one from outside does, paused or not. */
TEST_EACH(flow_resume_within_on_data_shows_nothing_again) {
    struct kr_reactor *r = test_reactor(NULL);
    struct reader reader = {.leaves = SIZE_MAX, .resumes = true};
    int fd = test_connect(test_listen(r, NULL, NULL, &reader_ops, &reader));
    for (unsigned i = 1; i <= 2; i++) {
        test_send(r, fd, "x", 1);
        TEST_UNTIL(r, reader.size == i);
        for (unsigned turns = 0; turns < 20; turns++)
            test_step(r, "nothing");
        CHECK_EQ(reader.shows, i);
    }
    CHECK_OK(kr_conn_resume(r, reader.conn));
    TEST_UNTIL(r, reader.shows == 3);
    CHECK_EQ(reader.size, 2u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .blocks = 1});
    test_close(fd);
    TEST_UNTIL(r, reader.eofs == 1);
    test_reactor_free(r);
}

static uint32_t kept_room(struct kr_reactor *r, kr_conn conn) {
    return kr__conn_find(r, conn)->kept_room;
}

/* Ours: a connection that has consumed most of what it kept does not keep the memory. */
TEST_EACH(flow_kept_memory_shrinks) {
    struct kr_reactor *r = test_reactor(NULL);
    struct reader reader = {.leaves = SIZE_MAX};
    int fd = test_connect(test_listen(r, NULL, NULL, &reader_ops, &reader));
    static char bytes[500000];
    test_send(r, fd, bytes, sizeof bytes);
    TEST_UNTIL(r, reader.size == sizeof bytes);
    CHECK_GE(kept_room(r, reader.conn), sizeof bytes);
    reader.leaves = 1;
    test_send(r, fd, "x", 1);
    TEST_UNTIL(r, reader.size == sizeof bytes + 1);
    CHECK_LE(kept_room(r, reader.conn), 4096u);
    test_send(r, fd, "y", 1);
    TEST_UNTIL(r, reader.size == 2);
    test_close(fd);
    TEST_UNTIL(r, reader.eofs == 1);
    test_reactor_free(r);
}

/* Ours: bytes that a program leaves for later are not lost when the peer ends its side meanwhile: it
 * is told of the end, and is shown them when it asks for them. */
TEST_EACH(flow_bytes_left_at_the_end_are_kept) {
    struct kr_reactor *r = test_reactor(NULL);
    struct reader reader = {.leaves = 4};
    int fd = test_connect(test_listen(r, NULL, NULL, &reader_ops, &reader));
    test_send(r, fd, "one\ntwo\n", 8);
    CHECK_SYS(shutdown(fd, SHUT_WR));
    TEST_UNTIL(r, reader.eofs == 1);
    unsigned shows = reader.shows;
    reader.leaves = 0;
    CHECK_OK(kr_conn_resume(r, reader.conn));
    TEST_UNTIL(r, reader.shows == shows + 1);
    CHECK_EQ(reader.size, 4u);
    CHECK_OK(kr_conn_send(r, reader.conn, "answer", 6));
    char answer[6];
    test_recv(r, fd, answer, sizeof answer);
    CHECK_EQ(reader.eofs, 1u);
    CHECK_OK(kr_conn_close(r, reader.conn, KR_CLOSE_FLUSH));
    TEST_UNTIL(r, reader.closes == 1);
    CHECK_EQ(reader.error, 0);
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: without on_eof the connection closes, and on_close tells whether bytes were left. */
TEST_EACH(flow_bytes_left_at_the_end_are_told) {
    struct kr_reactor *r = test_reactor(NULL);
    struct reader reader = {0};
    uint16_t port = test_listen(r, NULL, NULL, &reader_plain_ops, &reader);
    for (size_t left = 0; left <= 2; left += 2) {
        reader = (struct reader){.leaves = left};
        int fd = test_connect(port);
        test_send(r, fd, "half a line", 11);
        CHECK_SYS(shutdown(fd, SHUT_WR));
        TEST_UNTIL(r, reader.closes == 1);
        CHECK_EQ(reader.why, KR_WHY_PEER);
        CHECK_EQ(reader.error, left ? -ENODATA : 0);
        test_close(fd);
    }
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

struct timed {
    kr_conn conn;
    int64_t since; /* on_data is to come after that; 0: it has yet to be paused */
    bool shown;
};

static size_t timed_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    struct timed *timed = user;
    (void)data;
    if (!timed->since) {
        timed->conn = conn;
        timed->since = INT64_MAX;
        CHECK_OK(kr_conn_pause(r, conn));
        return 0;
    }
    CHECK_GE(kr_now(r), timed->since);
    CHECK_LE(kr_now(r), tap_now_ns());
    timed->shown = true;
    return size;
}

/* Ours: time within every callback of a turn is that of the turn, also where kept bytes are
 * shown. */
TEST_EACH(flow_time_is_now_when_kept_bytes_are_shown) {
    struct kr_reactor *r = test_reactor(NULL);
    static const struct kr_conn_ops ops = {.on_data = timed_data};
    struct timed timed = {0};
    int fd = test_connect(test_listen(r, NULL, NULL, &ops, &timed));
    test_send(r, fd, "x", 1);
    TEST_UNTIL(r, timed.since == INT64_MAX);
    for (int64_t until = tap_now_ns() + 2000000; tap_now_ns() < until;) {} /* between turns */
    timed.since = tap_now_ns();
    CHECK_OK(kr_conn_resume(r, timed.conn));
    TEST_UNTIL(r, timed.shown);
    test_close(fd);
    test_reactor_free(r);
}

/* What one call of on_data does, which consumes nothing. */
enum deed { LEAVES, PAUSES, CLOSES, SWAPS, FORWARDS, DEEDS };

struct leaver {
    enum deed deed;
    kr_conn other;
    unsigned calls, opens;
};

static size_t consume_all(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    (void)r;
    (void)conn;
    (void)user;
    (void)data;
    return size;
}

static void leaver_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct leaver *l = user;
    (void)r;
    if (l->opens++ == 0)
        l->other = conn;
}

static size_t leaver_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    static const struct kr_conn_ops others = {.on_data = consume_all};
    struct leaver *l = user;
    (void)data;
    (void)size;
    l->calls++;
    switch (l->deed) {
    case PAUSES:
        CHECK_OK(kr_conn_pause(r, conn));
        break;
    case CLOSES:
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
        break;
    case SWAPS:
        CHECK_OK(kr_conn_swap(r, conn, &others, NULL));
        break;
    case FORWARDS:
        CHECK_OK(kr_conn_forward(r, conn, l->other, NULL, NULL, NULL));
        break;
    default:
        break;
    }
    return 0;
}

/* Ours: left_unpaused counts what only more bytes would show again, and not what is shown, passed on or
 * dropped without them. */
TEST_EACH(flow_counts_what_is_left_behind) {
    static const struct kr_conn_ops ops = {.on_open = leaver_open, .on_data = leaver_data};
    for (enum deed deed = LEAVES; deed < DEEDS; deed++) {
        struct leaver l = {.deed = deed};
        struct kr_reactor *r = test_reactor(NULL);
        uint16_t port = test_listen(r, NULL, NULL, &ops, &l);
        int other = test_connect(port);
        TEST_UNTIL(r, l.opens == 1);
        int fd = test_connect(port);
        TEST_UNTIL(r, l.opens == 2);
        CHECK_EQ(send(fd, "x", 1, 0), 1);
        TEST_UNTIL(r, l.calls == 1);
        CHECK_EQ(test_stats(r).left_unpaused, deed == LEAVES);
        test_close(fd);
        test_close(other);
        test_reactor_free(r);
    }
}

TAP_MAIN(flow, 32 + 6 * 4)
