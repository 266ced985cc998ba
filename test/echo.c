/* Bytes through the real ring: each arrives once and in order, whatever the sizes, pauses, marks
 * and ways of sending; and what is queued stays within its bounds. */
#include "harness/net.h"

#include "kernel/kernel.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define CLIENTS_MAX 64

/* Starts `count` clients, each with its own stream of `total` bytes. */
static void start_clients(struct test_echo *clients, unsigned count, uint16_t port,
                          uint64_t total) {
    for (unsigned i = 0; i < count; i++)
        clients[i] =
            (struct test_echo){.fd = test_connect(port), .seed = tap_random(), .total = total};
}

static bool all_done(const struct test_echo *clients, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        if (!test_echo_done(&clients[i]))
            return false;
    }
    return true;
}

/* Moves a random part of the clients, with random sizes: so each pauses at random. */
static void move_some(struct test_echo *clients, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        if (tap_random_below(4) == 0)
            continue;
        clients[i].send_piece = 1 + (size_t)tap_random_below(tap_random_below(2) ? 64 : 8192);
        clients[i].recv_piece = 1 + (size_t)tap_random_below(tap_random_below(2) ? 64 : 16384);
        test_echo_move(&clients[i]);
    }
}

static void run_clients(struct kr_reactor *r, struct test_echo *clients, unsigned count) {
    while (!all_done(clients, count)) {
        test_step(r, "every client to get its bytes back");
        move_some(clients, count);
    }
}

static void end_clients(const struct test_echo *clients, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        test_close(clients[i].fd);
}

static size_t echo_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    (void)user;
    int rc = kr_conn_send(r, conn, data, size);
    if (rc == -ENOBUFS)
        return 0;
    CHECK_OK(rc);
    return size;
}

static const struct kr_conn_ops echo_ops = {.on_data = echo_data};

static struct kr_config small_buffers(unsigned count, size_t size) {
    struct kr_config config;
    kr_config_init(&config);
    config.buf_count = count;
    config.buf_size = size;
    return config;
}

/* Ours: every byte comes back once and in order, under random sizes and pauses of 64 clients, in
 * buffers smaller than the messages. */
TEST_EACH(echo_returns_every_byte) {
    struct kr_config config = small_buffers(64, 1000);
    struct kr_reactor *r = test_reactor(&config);
    struct test_echo clients[CLIENTS_MAX];
    start_clients(clients, 64, test_listen(r, NULL, NULL, &echo_ops, NULL),
                  tap_full() ? 4 << 20 : 60000);
    run_clients(r, clients, 64);
    test_rest(r, (struct test_levels){.conns = 64, .listeners = 1});
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.bytes_in, stats.bytes_out);
    CHECK_EQ(stats.bytes_in, 64 * clients[0].total);
    end_clients(clients, 64);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* Ours: the same when every send is short: the client's receive buffer holds less than a
 * message, and the reactor's socket too (its send buffer is inherited from no one, so messages
 * of 64 KiB are used). */
TEST_EACH(echo_survives_short_sends) {
    struct kr_config config = small_buffers(32, 65536);
    struct kr_reactor *r = test_reactor(&config);
    struct test_echo clients[8];
    uint16_t port = test_listen(r, NULL, NULL, &echo_ops, NULL);
    for (unsigned i = 0; i < 8; i++)
        clients[i] = (struct test_echo){
            .fd = test_connect_sized(port, 1 << 20, 2304), .seed = tap_random(), .total = 1 << 20};
    run_clients(r, clients, 8);
    test_rest(r, (struct test_levels){.conns = 8, .listeners = 1});
    end_clients(clients, 8);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* Echoes by a random way of sending, random parts of what it is shown. */
static size_t mixed_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    (void)user;
    const char *bytes = data;
    size_t done = 0;
    while (done < size && tap_random_below(20)) {
        size_t part = 1 + (size_t)tap_random_below(size - done);
        char copy[2048];
        void *room;
        struct iovec iov[3] = {{(char *)(uintptr_t)bytes + done, part / 2}, {NULL, 0}, {NULL, 0}};
        int rc;
        switch (tap_random_below(4)) {
        case 0: /* lent */
            rc = kr_conn_send(r, conn, bytes + done, part);
            break;
        case 1: /* copied */
            part = part < sizeof copy ? part : sizeof copy;
            memcpy(copy, bytes + done, part);
            rc = kr_conn_send(r, conn, copy, part);
            memset(copy, 0, sizeof copy);
            break;
        case 2: /* gathered: lent, then copied */
            part = part < sizeof copy ? part : sizeof copy;
            memcpy(copy, bytes + done, part);
            iov[0].iov_len = part / 2;
            iov[2] = (struct iovec){copy + part / 2, part - part / 2};
            rc = kr_conn_sendv(r, conn, iov, 3);
            memset(copy, 0, sizeof copy);
            break;
        default: /* formatted in place, in more room than needed */
            rc = kr_conn_reserve(r, conn, part + (size_t)tap_random_below(100), &room);
            if (rc == 0) {
                memcpy(room, bytes + done, part);
                rc = kr_conn_commit(r, conn, part);
            }
        }
        if (rc == -ENOBUFS)
            break;
        CHECK_OK(rc);
        done += part;
    }
    return done;
}

/* A beat that makes kept bytes be shown again: bytes unconsumed are only shown with more. */
static void resume_all(struct kr_reactor *r, const kr_conn *conns, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        CHECK_OK(kr_conn_pause(r, conns[i]));
        CHECK_OK(kr_conn_resume(r, conns[i]));
    }
}

/* The connections of a case, in order of opening. */
struct conns {
    kr_conn at[CLIENTS_MAX];
    bool paused[CLIENTS_MAX];
    unsigned count;
};

static void note_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct conns *conns = user;
    (void)r;
    CHECK_LT(conns->count, CLIENTS_MAX);
    conns->at[conns->count++] = conn;
}

static const struct kr_conn_ops mixed_ops = {.on_open = note_open, .on_data = mixed_data};

/* Ours: send, sendv, reserve/commit, of lent and of own bytes, in any mixture, keep the order; a
 * caller may overwrite its bytes at once. Consumption stops at random offsets. */
TEST_EACH(echo_mixtures_of_sends_keep_order) {
    struct kr_config config = small_buffers(64, 3000);
    struct kr_reactor *r = test_reactor(&config);
    struct test_echo clients[16];
    struct conns conns = {.count = 0};
    start_clients(clients, 16, test_listen(r, NULL, NULL, &mixed_ops, &conns), 200000);
    while (!all_done(clients, 16)) {
        test_step(r, "every client to get its bytes back");
        resume_all(r, conns.at, conns.count);
        move_some(clients, 16);
    }
    test_rest(r, (struct test_levels){.conns = 16, .listeners = 1});
    end_clients(clients, 16);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* A server that takes whole messages only: two bytes of size, then a part of a pattern. */
struct framing {
    size_t size;      /* of each message, without its head */
    unsigned got;     /* messages */
    size_t last_size; /* of what was shown last and not consumed; 0: nothing was left */
};

static size_t framed_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    struct framing *framing = user;
    const unsigned char *at = data;
    (void)r;
    (void)conn;
    CHECK_GT(size, framing->last_size); /* shown again only together with more */
    size_t done = 0;
    while (size - done >= 2) {
        size_t length = (size_t)at[done] | (size_t)at[done + 1] << 8;
        CHECK_EQ(length, framing->size);
        if (size - done < 2 + length)
            break;
        test_pattern_check(at + done + 2, length, framing->got++, 0);
        done += 2 + length;
    }
    framing->last_size = size - done;
    return done;
}

static const struct kr_conn_ops framed_ops = {.on_data = framed_data};

static size_t frame(unsigned char *to, size_t size, unsigned number) {
    to[0] = (unsigned char)size;
    to[1] = (unsigned char)(size >> 8);
    test_pattern(to + 2, size, number, 0);
    return 2 + size;
}

/* Ours: a message that arrives in two parts, cut at each of its offsets, is shown whole and
 * contiguous; in buffers of 64 bytes, so that the parts span one, two and many of them. */
TEST_EACH(echo_unconsumed_bytes_are_shown_with_more) {
    struct kr_config config = small_buffers(16, 64);
    struct kr_reactor *r = test_reactor(&config);
    struct framing framing = {.size = 200};
    int fd = test_connect(test_listen(r, NULL, NULL, &framed_ops, &framing));
    unsigned char bytes[202];
    for (unsigned cut = 1; cut < sizeof bytes; cut++) {
        frame(bytes, 200, framing.got);
        unsigned before = framing.got;
        uint64_t in = test_stats(r).bytes_in;
        test_send(r, fd, bytes, cut);
        TEST_UNTIL(r, test_stats(r).bytes_in == in + cut);
        CHECK_EQ(framing.got, before);
        CHECK_EQ(framing.last_size, cut);
        test_send(r, fd, bytes + cut, sizeof bytes - cut);
        TEST_UNTIL(r, framing.got == before + 1);
        CHECK_EQ(framing.last_size, 0u);
    }
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

struct hoard {
    size_t shown;
    unsigned closes;
    int error;
    enum kr_why why;
};

static size_t hoard_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    struct hoard *hoard = user;
    (void)r;
    (void)conn;
    test_pattern_check(data, size, 5, 0);
    CHECK_GT(size, hoard->shown);
    hoard->shown = size;
    return 0;
}

static void hoard_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                        enum kr_why why) {
    struct hoard *hoard = user;
    (void)r;
    (void)conn;
    hoard->closes++;
    hoard->error = error;
    hoard->why = why;
}

static const struct kr_conn_ops hoard_ops = {.on_data = hoard_data, .on_close = hoard_close};

/* Ours: a connection that keeps exactly recv_cap bytes goes on; one more ends it with -EMSGSIZE. */
TEST_EACH(echo_unconsumed_bytes_are_bounded) {
    struct kr_config config = small_buffers(16, 100);
    struct kr_reactor *r = test_reactor(&config);
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.conn.recv_cap = 1000;
    struct hoard hoard = {0};
    int fd = test_connect(test_listen(r, NULL, &opts, &hoard_ops, &hoard));
    char bytes[1001];
    test_pattern(bytes, sizeof bytes, 5, 0);
    test_send(r, fd, bytes, 1000);
    TEST_UNTIL(r, hoard.shown == 1000);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .blocks = 1});
    CHECK_EQ(hoard.closes, 0u);
    test_send(r, fd, bytes + 1000, 1);
    TEST_UNTIL(r, hoard.closes == 1);
    CHECK_EQ(hoard.error, -EMSGSIZE);
    CHECK_EQ(hoard.why, KR_WHY_LIMIT);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Takes nothing before it is shown all. */
static size_t patient_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    (void)r;
    (void)conn;
    size_t *left = user;
    if (size < *left)
        return 0;
    test_pattern_check(data, size, 5, 0);
    *left = 0;
    return size;
}

static const struct kr_conn_ops patient_ops = {.on_data = patient_data};

/* Ours: unconsumed bytes, however many, are not moved with each receive: 8 MiB of them, received in
 * pieces of 4 KiB at most, take a few dozen blocks. */
TEST_EACH(echo_unconsumed_bytes_grow_in_few_steps) {
    struct kr_config config = small_buffers(256, 4096);
    struct kr_reactor *r = test_reactor(&config);
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.conn.recv_cap = 8 << 20;
    static char bytes[8 << 20];
    size_t left = sizeof bytes;
    int fd = test_connect(test_listen(r, NULL, &opts, &patient_ops, &left));
    TEST_UNTIL(r, test_stats(r).conns == 1);
    uint64_t allocs = test_stats(r).allocs;
    test_pattern(bytes, sizeof bytes, 5, 0);
    test_send(r, fd, bytes, sizeof bytes);
    TEST_UNTIL(r, left == 0);
    CHECK_LE(test_stats(r).allocs - allocs, 36u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

static size_t greedy_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    size_t *shown = user;
    (void)r;
    (void)conn;
    test_pattern_check(data, size, 9, *shown);
    *shown += size;
    return SIZE_MAX;
}

static const struct kr_conn_ops greedy_ops = {.on_data = greedy_data};

/* Ours: more than `size` consumed counts as `size`. */
TEST_EACH(echo_consumed_too_much_counts_as_all) {
    struct kr_reactor *r = test_reactor(NULL);
    size_t shown = 0;
    int fd = test_connect(test_listen(r, NULL, NULL, &greedy_ops, &shown));
    char bytes[5000];
    test_pattern(bytes, sizeof bytes, 9, 0);
    for (size_t sent = 0; sent < sizeof bytes; sent += 1000) {
        test_send(r, fd, bytes + sent, 1000);
        TEST_UNTIL(r, shown == sent + 1000);
    }
    test_close(fd);
    test_reactor_free(r);
}

static size_t pausing_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    struct conns *conns = user;
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

static const struct kr_conn_ops pausing_ops = {.on_open = note_open, .on_data = pausing_data};

/* Resumes some of the paused ones; others have a rest that only a pause and a resume show again. */
static void resume_some(struct kr_reactor *r, struct conns *conns) {
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
TEST_EACH(echo_pauses_lose_nothing) {
    struct kr_config config = small_buffers(16, 500);
    struct kr_reactor *r = test_reactor(&config);
    struct test_echo clients[16];
    struct conns conns = {.count = 0};
    start_clients(clients, 16, test_listen(r, NULL, NULL, &pausing_ops, &conns), 60000);
    while (!all_done(clients, 16)) {
        test_step(r, "every client to get its bytes back");
        resume_some(r, &conns);
        move_some(clients, 16);
    }
    for (unsigned i = 0; i < conns.count; i++)
        CHECK_OK(kr_conn_resume(r, conns.at[i]));
    test_rest(r, (struct test_levels){.conns = 16, .listeners = 1});
    end_clients(clients, 16);
    test_reactor_free(r);
}

/* Ours: while paused the peer's window closes: it cannot send for ever, and gets to once
 * resumed. */
TEST_EACH(echo_pause_reaches_the_peer) {
    struct kr_config config = small_buffers(4, 4096);
    struct kr_reactor *r = test_reactor(&config);
    struct conns conns = {.count = 0};
    static const struct kr_conn_ops ops = {.on_open = note_open, .on_data = echo_data};
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

struct shy {
    kr_conn conn;
    unsigned shown;
};

static size_t shy_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    struct shy *shy = user;
    CHECK_EQ(size, 3u);
    CHECK_MEM_EQ(data, "abc", 3);
    shy->conn = conn;
    CHECK_OK(kr_conn_pause(r, conn));
    return shy->shown++ ? size : 0;
}

static const struct kr_conn_ops shy_ops = {.on_data = shy_data};

/* Ours: pauses and resumes do not count: who resumes several times is shown what was kept once. */
TEST_EACH(echo_resumed_twice_shows_kept_bytes_once) {
    struct kr_reactor *r = test_reactor(NULL);
    struct shy shy = {.shown = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &shy_ops, &shy));
    test_send(r, fd, "abc", 3);
    TEST_UNTIL(r, shy.shown == 1);
    for (unsigned i = 0; i < 3; i++)
        CHECK_OK(kr_conn_resume(r, shy.conn));
    test_step(r, "the kept bytes");
    CHECK_EQ(shy.shown, 2u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* A source: sends a stream as fast as the marks allow. */
struct source {
    uint64_t total, sent;
    size_t low, high, cap, piece;
    bool risen; /* above the high mark, and no on_drain since */
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

static size_t source_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    (void)r;
    (void)conn;
    (void)user;
    (void)data;
    return size;
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
    .on_open = source_open, .on_data = source_data, .on_drain = source_drain};

static struct kr_listen_opts marks(size_t low, size_t high, size_t cap) {
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.conn.send_low = low;
    opts.conn.send_high = high;
    opts.conn.send_cap = cap;
    return opts;
}

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
 * marks; on_drain runs once for each rise. 1 GiB with --full. */
TEST_EACH(echo_slow_reader_is_bounded_by_the_marks, .deadline_s = 120) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts = marks(16384, 65536, 1 << 20);
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
 * nothing, in each way of sending; after on_drain there is room again. */
TEST_EACH(echo_send_cap_is_exact) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts = marks(0, 5000, 20000);
    struct source source = {.low = 0, .high = 5000};
    int fd = test_connect(test_listen(r, NULL, &opts, &source_ops, &source));
    TEST_UNTIL(r, source.open);
    static char bytes[20001];
    test_pattern(bytes, sizeof bytes, 77, 0);
    void *room;
    CHECK_ERR(kr_conn_send(r, source.conn, bytes, 20001), ENOBUFS);
    CHECK_ERR(kr_conn_sendv(r, source.conn, (struct iovec[]){{bytes, 20000}, {bytes, 1}}, 2),
              ENOBUFS);
    CHECK_ERR(kr_conn_reserve(r, source.conn, 20001, &room), ENOBUFS);
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

/* Ours: on_drain waits for send_low, though a send ends in between: 8 MiB are in flight to a
 * slow reader when more is queued; at their end the queue is between the marks, and only when
 * that is gone too it is drained. */
TEST_EACH(echo_drains_at_the_low_mark) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts = marks(1000, 50000, 16 << 20);
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
    (void)r;
    (void)conn;
    CHECK_EQ(size, 3u);
    CHECK_MEM_EQ((const char *)data, "abc", 3);
    keeper->shows++;
    return keeper->taking ? size : 0;
}

static void keeper_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    struct keeper *keeper = user;
    (void)r;
    (void)conn;
    keeper->drains++;
}

static const struct kr_conn_ops keeper_ops = {
    .on_open = keeper_open, .on_data = keeper_data, .on_drain = keeper_drain};

/* Ours: kept bytes that were to be shown again wait when, before that, the queue rises above
 * send_high; they are shown after on_drain. */
TEST_EACH(echo_kept_bytes_wait_for_the_queue) {
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
    for (unsigned idle = 0; idle < 5;)
        idle = test_step(r, "the send to stall") == 0 ? idle + 1 : 0;
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
TEST_EACH(echo_to_a_peer_that_reads_nothing_is_bounded) {
    struct kr_config config = small_buffers(32, 16384);
    struct kr_reactor *r = test_reactor(&config);
    struct kr_listen_opts opts = marks(16384, 65536, 1 << 20);
    struct test_echo client = {.seed = 3, .total = UINT64_MAX, .recv_piece = 1};
    client.fd = test_connect_sized(test_listen(r, NULL, &opts, &echo_ops, NULL), 0, 4096);
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

/* Sends `count` numbered words, every way in turn. */
static void send_words(struct kr_reactor *r, kr_conn conn, uint32_t *next, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        uint32_t word = (*next)++;
        void *room;
        switch (i % 3) {
        case 0:
            CHECK_OK(kr_conn_send(r, conn, &word, sizeof word));
            break;
        case 1:
            CHECK_OK(
                kr_conn_sendv(r, conn, (struct iovec[]){{&word, 1}, {(char *)&word + 1, 3}}, 2));
            break;
        default:
            CHECK_OK(kr_conn_reserve(r, conn, 64, &room));
            memcpy(room, &word, sizeof word);
            CHECK_OK(kr_conn_commit(r, conn, sizeof word));
        }
    }
}

struct words {
    kr_conn conn;
    uint32_t next;
    unsigned fires;
};

static void words_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct words *words = user;
    words->conn = conn;
    send_words(r, conn, &words->next, 10);
}

static size_t words_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    struct words *words = user;
    (void)data;
    send_words(r, conn, &words->next, 100);
    return size;
}

static void words_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    struct words *words = user;
    (void)timer;
    words->fires++;
    send_words(r, words->conn, &words->next, 10);
}

static void words_post(struct kr_reactor *r, void *user) {
    struct words *words = user;
    words->fires++;
    send_words(r, words->conn, &words->next, 10);
}

static const struct kr_conn_ops words_ops = {.on_open = words_open, .on_data = words_data};

/* Ours: writes from on_open, on_data, timers, posts and from between turns leave in the order of
 * the calls. */
TEST_EACH(echo_writes_keep_order_across_callbacks) {
    struct kr_reactor *r = test_reactor(NULL);
    struct words words = {.next = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &words_ops, &words));
    TEST_UNTIL(r, words.conn.bits != 0);
    for (unsigned round = 0; round < 100; round++) {
        test_send(r, fd, "x", 1);
        CHECK_OK(kr_timer_start(r, NULL, 0, 0, words_timer, &words));
        CHECK_OK(kr_post(r, words_post, &words));
        send_words(r, words.conn, &words.next, 10);
        TEST_UNTIL(r, words.fires == 2 * (round + 1));
    }
    for (uint32_t want = 0; want < 10 + 100 * 130; want++) {
        uint32_t word;
        test_recv(r, fd, &word, sizeof word);
        CHECK_EQ(word, want);
    }
    CHECK_EQ(words.next, 10u + 100 * 130);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* A piece that is large enough to be held where it was received. */
#define HELD 1024u

/* Echoes in pieces no two of which share a record: one that is held, a byte that is copied, and so on.
 * Counts the pieces of the call that made most of them. */
static size_t shredded_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                            size_t size) {
    const char *bytes = data;
    unsigned pieces = 0, *most = user;
    for (size_t i = 0; i < size; pieces++) {
        size_t part = pieces % 2 == 0 && size - i >= HELD ? HELD : 1;
        char own = bytes[i];
        CHECK_OK(kr_conn_send(r, conn, part == 1 ? &own : bytes + i, part));
        i += part;
    }
    *most = pieces > *most ? pieces : *most;
    return size;
}

static const struct kr_conn_ops shredded_ops = {.on_data = shredded_data};

/* Ours: many pieces that lie apart go out in order. The client's bytes are there before the first turn, so
 * that the first receive brings many. */
TEST_EACH(echo_of_pieces_that_lie_apart) {
    struct kr_config config = small_buffers(1024, 1 << 17);
    struct kr_reactor *r = test_reactor(&config);
    struct test_echo client = {.seed = 8, .total = 1 << 20, .send_piece = 1 << 17};
    unsigned most = 0;
    client.fd = test_connect(test_listen(r, NULL, NULL, &shredded_ops, &most));
    test_echo_move(&client);
    while (!test_echo_done(&client)) {
        test_step(r, "the bytes back");
        test_echo_move(&client);
    }
    CHECK_GT(most, 64u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(client.fd);
    test_reactor_free(r);
}

struct reserving {
    kr_conn conn;
    unsigned datas;
};

static size_t reserving_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                             size_t size) {
    struct reserving *reserving = user;
    void *room;
    (void)data;
    CHECK_ERR(kr_conn_commit(r, conn, 0), EINVAL);
    CHECK_OK(kr_conn_reserve(r, conn, 100, &room));
    memset(room, 'a', 100);
    CHECK_ERR(kr_conn_commit(r, conn, 101), EINVAL);
    CHECK_OK(kr_conn_commit(r, conn, 60));
    CHECK_ERR(kr_conn_commit(r, conn, 1), EINVAL);
    CHECK_OK(kr_conn_reserve(r, conn, 100, &room));
    memset(room, 'x', 100);
    CHECK_OK(kr_conn_send(r, conn, "b", 1));
    CHECK_ERR(kr_conn_commit(r, conn, 1), EINVAL);
    CHECK_OK(kr_conn_reserve(r, conn, 70000, &room));
    memset(room, 'x', 70000);
    CHECK_OK(kr_conn_reserve(r, conn, 10, &room));
    memset(room, 'c', 10);
    CHECK_OK(kr_conn_commit(r, conn, 0));
    CHECK_ERR(kr_conn_commit(r, conn, 0), EINVAL);
    CHECK_OK(kr_conn_reserve(r, conn, 1 << 20, &room));
    memset(room, 'd', 1 << 20);
    CHECK_EQ(kr_conn_queued(r, conn), 61u);
    reserving->conn = conn;
    reserving->datas++;
    return size;
}

static const struct kr_conn_ops reserving_ops = {.on_data = reserving_data};

/* Ours: a reservation ends with the next send, the next reserve, its commit, and the callback;
 * one committed in part queues that part; one never committed queues nothing and keeps nothing. */
TEST_EACH(echo_reservations_end_as_promised) {
    struct kr_reactor *r = test_reactor(NULL);
    struct reserving reserving = {.datas = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &reserving_ops, &reserving));
    test_send(r, fd, "1", 1);
    char bytes[61], want[61];
    test_recv(r, fd, bytes, sizeof bytes);
    memset(want, 'a', 60);
    want[60] = 'b';
    CHECK_MEM_EQ(bytes, want, sizeof want);
    CHECK_ERR(kr_conn_commit(r, reserving.conn, 1), EINVAL);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* A kernel in bad temper: one enter in three is interrupted, refused for want of memory, or
 * takes but one of the requests that it is given (io_uring/io_uring.c: a short submit). */
static unsigned moods;
static bool moody; /* from when the reactor is there */

static int moody_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                       unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    static const int refusals[] = {-EINTR, -EAGAIN, -EBUSY};
    uint64_t mood = moody ? tap_random_below(12) : 12;
    moods += mood < 4;
    if (mood < 3)
        return refusals[mood];
    if (mood == 3 && submit > 1)
        return kr__linux.enter(k, ring, 1, 0, flags, NULL);
    return kr__linux.enter(k, ring, submit, wait_for, flags, arg);
}

/* Ours: interrupted, refused and short enters lose no request and no byte. */
TEST_EACH(echo_survives_a_moody_kernel) {
    struct kr__kernel kernel = kr__linux;
    kernel.enter = moody_enter;
    struct kr_config config = small_buffers(8, 1000);
    struct kr_reactor *r = test_reactor_on(&kernel, &config);
    moody = true;
    struct test_echo clients[16];
    start_clients(clients, 16, test_listen(r, NULL, NULL, &echo_ops, NULL), 50000);
    run_clients(r, clients, 16);
    test_rest(r, (struct test_levels){.conns = 16, .listeners = 1});
    end_clients(clients, 16);
    test_rest(r, (struct test_levels){.listeners = 1});
    CHECK_GT(moods, 20u);
    test_reactor_free(r);
}

static bool losing;

static int losing_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                        unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    if (!losing)
        return kr__linux.enter(k, ring, submit, wait_for, flags, arg);
    losing = false;
    return -EBADR;
}

/* Ours: that the kernel has lost completions (-EBADR, man io_uring_enter) is told by kr_step and
 * kr_run, unaltered; the reactor can still be freed. */
TEST_EACH(echo_lost_completions_are_told) {
    struct kr__kernel kernel = kr__linux;
    kernel.enter = losing_enter;
    struct kr_reactor *r = test_reactor_on(&kernel, NULL);
    struct test_echo client = {.seed = 1, .total = 100};
    client.fd = test_connect(test_listen(r, NULL, NULL, &echo_ops, NULL));
    while (!test_echo_done(&client)) {
        test_step(r, "the bytes back");
        test_echo_move(&client);
    }
    losing = true;
    CHECK_ERR(kr_step(r, 0), EBADR);
    losing = true;
    CHECK_ERR(kr_run(r), EBADR);
    test_close(client.fd);
    test_reactor_free(r);
}

static size_t forgetful_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                             size_t size) {
    kr_conn *forgotten = user;
    void *room;
    (void)data;
    CHECK_OK(kr_conn_reserve(r, conn, 5000, &room));
    memset(room, 'x', 5000);
    *forgotten = conn;
    return size;
}

static const struct kr_conn_ops forgetful_ops = {.on_data = forgetful_data};

/* Ours: a reservation that is forgotten ends with its callback, and its memory with it. */
TEST_EACH(echo_forgotten_reservations_keep_nothing) {
    struct kr_reactor *r = test_reactor(NULL);
    kr_conn forgotten = {0};
    int fd = test_connect(test_listen(r, NULL, NULL, &forgetful_ops, &forgotten));
    for (int i = 0; i < 10; i++) {
        forgotten.bits = 0;
        test_send(r, fd, "1", 1);
        TEST_UNTIL(r, forgotten.bits != 0);
        CHECK_ERR(kr_conn_commit(r, forgotten, 1), EINVAL);
        test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
        CHECK_EQ(kr_conn_queued(r, forgotten), 0u);
    }
    test_close(fd);
    test_reactor_free(r);
}

struct late {
    kr_conn conn;
    bool reserved, committed, asked;
};

static void late_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    ((struct late *)user)->conn = conn;
}

static size_t late_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    struct late *late = user;
    void *room;
    (void)data;
    CHECK_OK(kr_conn_reserve(r, conn, 100, &room));
    late->reserved = true;
    return size;
}

static void late_post(struct kr_reactor *r, void *user) {
    struct late *late = user;
    late->asked = true;
    CHECK(late->reserved);
    late->committed = kr_conn_commit(r, late->conn, 100) == 0;
}

static const struct kr_conn_ops late_ops = {.on_open = late_open, .on_data = late_data};

/* Sends until the peer's window is full, and one send waits for it. */
static void send_until_full(struct kr_reactor *r, kr_conn conn) {
    static const char much[8 << 20];
    CHECK_OK(kr_conn_send(r, conn, much, sizeof much));
    for (uint64_t out = UINT64_MAX; out != test_stats(r).bytes_out;) {
        out = test_stats(r).bytes_out;
        for (unsigned i = 0; i < 3; i++)
            test_step(r, "the window to be full");
    }
    CHECK_GT(kr_conn_queued(r, conn), 0u);
}

/* Ours: a reservation that is open when a send of its connection ends, ends with it: its room may stand
 * behind bytes that are given back then. In one turn a byte of the peer comes, for which a room is
 * reserved, and then the end of the send, because the peer has read; the post comes after both. */
TEST_EACH(echo_send_that_ends_takes_the_reservation) {
    struct kr_reactor *r = test_reactor(NULL);
    struct late late = {.reserved = false};
    struct kr_listen_opts opts = marks(0, 1 << 30, 1 << 30);
    int fd = test_connect_sized(test_listen(r, NULL, &opts, &late_ops, &late), 0, 4096);
    TEST_UNTIL(r, late.conn.bits != 0);
    send_until_full(r, late.conn);
    uint64_t out = test_stats(r).bytes_out, turns = test_stats(r).turns;
    CHECK_EQ(test_send_some(fd, "1", 1), 1);
    static char bytes[16 << 20];
    CHECK_LE(out, sizeof bytes);
    test_recv(NULL, fd, bytes, (size_t)out); /* all that the kernel has taken, so that it has room again */
    CHECK_OK(kr_post(r, late_post, &late));
    CHECK_OK(kr_step(r, 0));
    CHECK_EQ(test_stats(r).turns, turns + 1);
    CHECK(late.reserved && late.asked);
    CHECK_GT(test_stats(r).bytes_out, out);
    CHECK(!late.committed);
    test_close(fd);
    test_reactor_free(r);
}

static size_t careful_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    (void)user;
    static char own[40000];
    int rc = kr_conn_send(r, conn, data, size);
    CHECK(rc == 0 || rc == -ENOBUFS || rc == -ENOMEM);
    if (rc == 0 && size > 10) {
        rc = kr_conn_send(r, conn, own, sizeof own);
        CHECK(rc == 0 || rc == -ENOBUFS || rc == -ENOMEM);
    }
    return size > 10 ? size - 5 : size;
}

static const struct kr_conn_ops careful_ops = {.on_data = careful_data};

/* Ours: refused memory is an error or the end of that connection, never a crash, a leak or a
 * byte out of order: refused from the n-th allocation on, for each n until nothing is refused. */
TEST_EACH(echo_survives_refused_memory) {
    for (int64_t n = 0; n < 40; n++) {
        struct kr_config config = small_buffers(4, 512);
        struct kr_reactor *r = test_reactor(&config);
        uint16_t port = test_listen(r, NULL, NULL, &careful_ops, NULL);
        test_step(r, "the listener");
        test_reactor_refuse_memory(r, n);
        int fds[4];
        char bytes[4096];
        for (int i = 0; i < 4; i++) {
            fds[i] = test_connect(port);
            test_send(r, fds[i], bytes, sizeof bytes);
        }
        for (int i = 0; i < 20; i++) {
            test_step(r, "nothing");
            for (int k = 0; k < 4; k++)
                test_recv_some(fds[k], bytes, sizeof bytes);
        }
        for (int i = 0; i < 4; i++)
            test_close(fds[i]);
        test_rest(r, (struct test_levels){.listeners = 1});
        test_reactor_free(r);
    }
}

TAP_MAIN(echo, 92)
