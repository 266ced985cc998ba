/* Memory refused: whichever allocation fails, nothing crashes, nothing leaks, and the reactor lives
 * on.
 *
 * A scenario is run once to count the calls of the allocator; then again and again, with the first
 * of them refused, the second, and so on, and then with all refused from the first on, from the
 * second on ... Each of these runs is a point. After each, memory is there again, and the same
 * reactor has to serve a new listener's client, a timer and a post; then it is freed, and its
 * allocator must have all back.
 *
 * A scenario is written so that it ends either way: its client goes on until it has what it wanted
 * or until the connection ends, and only a refusal excuses the latter. */
#include "harness/server.h"

#include "reactor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS INT64_C(1000000)
#define POINTS_MAX 2000

/* ---- the allocator ---- */

/* Stands before each block; the size must come back with it. */
struct block {
    _Alignas(16) size_t size;
};

struct torturer {
    struct kr_alloc alloc;
    int64_t calls;
    int64_t refuse_at; /* the call that is refused, counted from 0; -1: none */
    bool for_good;     /* and all after it */
    unsigned refused;  /* how many were */
    int64_t bytes;     /* held */
};

static void *torturer_alloc(void *ctx, size_t size) {
    struct torturer *t = ctx;
    int64_t call = t->calls++;
    if (t->refuse_at >= 0 && (call == t->refuse_at || (t->for_good && call > t->refuse_at))) {
        t->refused++;
        return NULL;
    }
    struct block *block = malloc(sizeof *block + size);
    CHECK(block);
    block->size = size;
    t->bytes += (int64_t)size;
    return memset(block + 1, 0xa5, size); /* whoever takes it for zeroed is found out */
}

static void torturer_free(void *ctx, void *memory, size_t size) {
    struct torturer *t = ctx;
    struct block *block = (struct block *)memory - 1;
    CHECK_EQ(block->size, size);
    t->bytes -= (int64_t)size;
    free(block);
}

/* ---- the world of one run ---- */

#define CONNS 100

struct world {
    struct kr_reactor *r;
    struct torturer t;
    struct kr_config config;
    kr_listener listener;
    uint16_t port;
    kr_conn conn; /* the last one opened */
    unsigned opens, closes, drains, eofs, timeouts, fires, posts, loans;
    size_t seen; /* bytes consumed */
};

/* True when nothing has been refused, so that nothing may have gone wrong. */
static bool whole(const struct world *w) {
    return w->t.refused == 0;
}

/* What a call may answer: good, or -ENOMEM if memory was refused. True when good. */
static bool good(const struct world *w, int rc) {
    if (rc == -ENOMEM && !whole(w))
        return false;
    CHECK_OK(rc);
    return true;
}

static void world_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct world *w = user;
    w->opens++;
    w->conn = conn;
}

static void world_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                        enum kr_why why) {
    (void)r;
    (void)conn;
    (void)why;
    struct world *w = user;
    w->closes++;
    CHECK(error != -ENOMEM || !whole(w));
}

static void world_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    (void)conn;
    ((struct world *)user)->drains++;
}

static void world_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)r;
    (void)timer;
    ((struct world *)user)->fires++;
}

static void world_post(struct kr_reactor *r, void *arg) {
    (void)r;
    ((struct world *)arg)->posts++;
}

/* What a user does whose message cannot be sent: the connection is of no use any more. */
static bool sent(struct kr_reactor *r, kr_conn conn, const struct world *w, int rc) {
    if (rc == -EPIPE || good(w, rc))
        return true;
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_RESET));
    return false;
}

static size_t data_echo(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    int rc = kr_conn_send(r, conn, data, size);
    if (rc == -ENOBUFS)
        return 0;
    sent(r, conn, user, rc);
    return size;
}

static const struct kr_conn_ops echo_ops = {
    .on_open = world_open,
    .on_data = data_echo,
    .on_drain = world_drain,
    .on_close = world_close,
};

static struct kr_listen_opts small_opts(void) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 4;
    return opts;
}

/* Listens; false when memory was refused. */
static bool listens(struct world *w, const struct kr_listen_opts *opts,
                    const struct kr_conn_ops *ops) {
    struct kr_listen_opts defaults = small_opts();
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 0));
    if (!good(w, kr_listen(w->r, &w->listener, &addr, opts ? opts : &defaults, ops, w)))
        return false;
    CHECK_OK(kr_listener_addr(w->r, w->listener, &addr));
    w->port = kr_addr_port(&addr);
    return true;
}

/* A client sends `size` bytes and waits for `want`, both of stream 1, or for an end that a refusal
 * excuses. Returns how many it got. */
static size_t exchange(struct world *w, int fd, size_t size, size_t want) {
    static char bytes[8192];
    size_t done = 0, got = 0;
    while (got < want) {
        size_t part = size - done < sizeof bytes ? size - done : sizeof bytes;
        test_pattern(bytes, part, 1, done);
        long n = part ? test_send_some(fd, bytes, part) : 0;
        if (n < 0) {
            CHECK(!whole(w));
            break;
        }
        done += (size_t)n;
        n = test_recv_some(fd, bytes, sizeof bytes);
        if (n < 0) {
            CHECK(!whole(w));
            break;
        }
        test_pattern_check(bytes, (size_t)n, 1, got);
        got += (size_t)n;
        test_step(w->r, "an exchange with a client");
    }
    return got;
}

/* A client that is served, and leaves. */
static void serve_one(struct world *w, size_t size, size_t want) {
    int fd = test_connect(w->port);
    exchange(w, fd, size, want);
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* ---- the torture ---- */

static void world_begin(struct world *w, const struct kr_config *config, int64_t refuse_at,
                        bool for_good) {
    *w = (struct world){.config = *config};
    w->t = (struct torturer){.alloc = {torturer_alloc, torturer_free, &w->t}, .refuse_at = -1};
    w->config.alloc = &w->t.alloc;
    w->r = test_reactor(&w->config);
    test_step(w->r, "the first turn");
    w->t.calls = 0;
    w->t.refuse_at = refuse_at;
    w->t.for_good = for_good;
}

/* The reactor is as good as new. */
static void check_usable(struct world *w) {
    w->t.refuse_at = -1;
    w->t.refused = 0;
    unsigned fires = w->fires, posts = w->posts;
    CHECK(listens(w, NULL, &echo_ops));
    int fd = test_connect(w->port);
    CHECK_EQ(exchange(w, fd, 3000, 3000), 3000u);
    test_close(fd);
    CHECK_OK(kr_timer_start(w->r, NULL, 0, 0, world_fire, w));
    CHECK_OK(kr_post(w->r, world_post, w));
    TEST_UNTIL(w->r, w->fires > fires && w->posts > posts);
}

/* All points of all cases, which are processes of their own. */
static int64_t *points_run;

static void points_add(int64_t points) {
    __atomic_fetch_add(points_run, points, __ATOMIC_RELAXED);
}

typedef void scenario_fn(struct world *w);

/* One run; returns how many calls there were, and whether one was refused. */
static int64_t run(scenario_fn *scenario, const struct kr_config *config, int64_t refuse_at,
                   bool for_good, bool *refused) {
    static struct world w;
    world_begin(&w, config, refuse_at, for_good);
    scenario(&w);
    int64_t calls = w.t.calls;
    *refused = w.t.refused > 0;
    check_usable(&w);
    test_reactor_free(w.r);
    CHECK_EQ(w.opens, w.closes);
    CHECK_EQ(w.t.bytes, 0);
    return calls;
}

static struct {
    int64_t at;
    bool for_good;
} point;

static void point_show(void *unused) {
    (void)unused;
    tap_note("refused: allocation %lld%s", (long long)point.at,
             point.for_good ? " and all after it" : "");
}

/* Refuses the first, the second ... until a run has no such allocation. Returns how many there
 * were. */
static int64_t refuse_each(scenario_fn *scenario, const struct kr_config *config, bool for_good) {
    bool refused = true;
    int64_t at = 0;
    for (; at < POINTS_MAX; at++) {
        point.at = at;
        point.for_good = for_good;
        run(scenario, config, at, for_good, &refused);
        if (!refused)
            return at;
    }
    FAIL("more than %d allocations", POINTS_MAX);
}

static void torture(scenario_fn *scenario, const struct kr_config *config, int64_t least) {
    int fds = tap_fd_count();
    tap_on_fail(point_show, NULL);
    bool refused;
    point.at = -1;
    int64_t calls = run(scenario, config, -1, false, &refused);
    CHECK_GE(calls, least); /* or the scenario tests nothing any more */
    int64_t points = refuse_each(scenario, config, false) + refuse_each(scenario, config, true);
    CHECK_GE(points, 2 * least);
    CHECK_EQ(tap_fd_count(), fds);
    points_add(points);
    tap_note("%lld allocations, %lld points", (long long)calls, (long long)points);
}

static struct kr_config small_config(void) {
    struct kr_config config = test_config();
    config.sq_entries = 32;
    config.cq_entries = 128;
    config.conn_max = 16;
    config.file_max = 8;
    config.buf_count = 16;
    config.buf_size = 2048;
    return config;
}

/* SCENARIO(name, least, field = value ...) { uses w }: at least so many allocations; fields of the
 * config. */
#define SCENARIO(name_, least_, ...)                                                               \
    static void scenario_##name_(struct world *w);                                                 \
    TEST_EACH(name_, .deadline_s = 40) {                                                           \
        struct kr_config config = small_config();                                                  \
        __VA_ARGS__;                                                                               \
        torture(scenario_##name_, &config, least_);                                                \
    }                                                                                              \
    static void scenario_##name_(struct world *w)

/* ---- making a reactor ---- */

/* Ours: whichever allocation of a set-up is refused, it is explained as memory, and nothing is
 * left. */
TEST_EACH(make) {
    struct kr_config config = small_config();
    config.taskrun = (enum kr_taskrun)tap_variant()->mode;
    int fds = tap_fd_count();
    int64_t at = 0;
    for (int rc = -ENOMEM; rc < 0; at++) {
        struct torturer t = {
            .alloc = {torturer_alloc, torturer_free, &t}, .refuse_at = at, .for_good = at % 2};
        config.alloc = &t.alloc;
        struct kr_reactor *r = NULL;
        struct kr_failure why;
        rc = kr__reactor_new(&r, &config, &why, &kr__linux, (unsigned)tap_variant()->caps_mask);
        if (rc == 0) {
            CHECK_EQ(t.refused, 0u);
            CHECK_OK(kr_reactor_free(r));
        } else {
            CHECK_EQ(rc, -ENOMEM);
            CHECK(!r);
            CHECK_EQ(why.refused, KR_REFUSED_MEMORY);
        }
        CHECK_EQ(t.bytes, 0);
        CHECK_EQ(tap_fd_count(), fds);
    }
    CHECK_GE(at, 5);
    points_add(at - 1);
}

/* ---- bytes ---- */

/* Ours: bytes that are copied. */
SCENARIO(echo, 2) {
    if (listens(w, NULL, &echo_ops))
        serve_one(w, 100, 100);
}

/* Ours: bytes that are held where they were received, many records at a time. */
SCENARIO(echo_of_whole_buffers, 4) {
    if (listens(w, NULL, &echo_ops))
        serve_one(w, 100000, 100000);
}

static size_t data_records(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    size_t whole_records = size / 1000 * 1000;
    if (whole_records)
        sent(r, conn, user, kr_conn_send(r, conn, data, whole_records));
    return whole_records;
}

static const struct kr_conn_ops record_ops = {
    .on_open = world_open, .on_data = data_records, .on_close = world_close};

/* Ours: what is not consumed is kept, and shown with what follows. */
SCENARIO(unconsumed_bytes, 4) {
    if (listens(w, NULL, &record_ops))
        serve_one(w, 20500, 20000);
}

static size_t data_at_once(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    if (size < 30000)
        return 0;
    sent(r, conn, user, kr_conn_send(r, conn, data, size));
    return size;
}

static const struct kr_conn_ops at_once_ops = {
    .on_open = world_open, .on_data = data_at_once, .on_close = world_close};

/* Ours: kept bytes grow from block to block. */
SCENARIO(kept_bytes_that_grow, 7) {
    if (listens(w, NULL, &at_once_ops))
        serve_one(w, 30000, 30000);
}

static size_t data_pieces(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    struct iovec iov[3] = {
        {(void *)(uintptr_t)data, size / 3},
        {NULL, 0},
        {(char *)(uintptr_t)data + size / 3, size - size / 3},
    };
    sent(r, conn, user, kr_conn_sendv(r, conn, iov, 3));
    return size;
}

static const struct kr_conn_ops piece_ops = {
    .on_open = world_open, .on_data = data_pieces, .on_close = world_close};

/* Ours: sends of pieces. */
SCENARIO(send_of_pieces, 4) {
    if (listens(w, NULL, &piece_ops))
        serve_one(w, 10000, 10000);
}

static size_t data_formatted(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                             size_t size) {
    void *room;
    int rc = kr_conn_reserve(r, conn, size + 100, &room);
    if (!sent(r, conn, user, rc) || rc < 0)
        return size;
    memcpy(room, data, size);
    CHECK_OK(kr_conn_commit(r, conn, size));
    return size;
}

static const struct kr_conn_ops format_ops = {
    .on_open = world_open, .on_data = data_formatted, .on_close = world_close};

/* Ours: messages formatted in place. */
SCENARIO(reserve_and_commit, 4) {
    if (listens(w, NULL, &format_ops))
        serve_one(w, 10000, 10000);
}

static size_t data_half_meant(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                              size_t size) {
    void *room;
    for (size_t want = 1000; want < 100000; want *= 3)
        sent(r, conn, user, kr_conn_reserve(r, conn, want, &room));
    return data_echo(r, conn, user, data, size);
}

static const struct kr_conn_ops half_meant_ops = {
    .on_open = world_open, .on_data = data_half_meant, .on_close = world_close};

/* Ours: reservations that come to nothing. */
SCENARIO(reserve_and_forget, 7) {
    if (listens(w, NULL, &half_meant_ops))
        serve_one(w, 100, 100);
}

/* The echo of a part is held, the rest is copied: two records and the list of them, a message. */
static size_t data_mixed(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    size_t held = size > 1100 ? 1100 : size;
    if (sent(r, conn, user, kr_conn_send(r, conn, data, held)) && size > held) {
        char copy[2048];
        memcpy(copy, (const char *)data + held, size - held);
        sent(r, conn, user, kr_conn_send(r, conn, copy, size - held));
    }
    return size;
}

static const struct kr_conn_ops mixed_ops = {
    .on_open = world_open, .on_data = data_mixed, .on_close = world_close};

/* Ours: many records in one send; without memory for their list, the first goes alone. */
SCENARIO(records_of_both_kinds, 5) {
    if (listens(w, NULL, &mixed_ops))
        serve_one(w, 20000, 20000);
}

static void loan_end(struct kr_reactor *r, void *arg) {
    (void)r;
    struct world *w = arg;
    CHECK_GT(w->loans, 0u);
    w->loans--;
}

/* A loan before and behind a copy: three records. */
static void open_lending(struct kr_reactor *r, kr_conn conn, void *user) {
    static char bytes[300000];
    struct world *w = user;
    world_open(r, conn, user);
    test_pattern(bytes, sizeof bytes, 1, 0);
    for (size_t at = 0; at < sizeof bytes; at += 30000) {
        int rc = kr_conn_send_ref(r, conn, bytes + at, 14000, loan_end, w);
        w->loans += rc == 0;
        if (!sent(r, conn, w, rc) ||
            !sent(r, conn, w, kr_conn_send(r, conn, bytes + at + 14000, 2000)))
            return;
        rc = kr_conn_send_ref(r, conn, bytes + at + 16000, 14000, loan_end, w);
        w->loans += rc == 0;
        if (!sent(r, conn, w, rc))
            return;
    }
}

static void close_lending(struct kr_reactor *r, kr_conn conn, void *user, int error,
                          enum kr_why why) {
    CHECK_EQ(((struct world *)user)->loans, 0u);
    world_close(r, conn, user, error, why);
}

static const struct kr_conn_ops lending_ops = {
    .on_open = open_lending, .on_data = data_echo, .on_close = close_lending};

/* Ours: bytes that are lent, thirty records of them in a send; each loan comes back. */
SCENARIO(loans, 20) {
    if (listens(w, NULL, &lending_ops))
        serve_one(w, 0, 300000);
    CHECK_EQ(w->loans, 0u);
}

/* More than the largest block that is kept. */
static void open_huge(struct kr_reactor *r, kr_conn conn, void *user) {
    world_open(r, conn, user);
    size_t size = (size_t)3 << 20;
    char *bytes = malloc(size);
    CHECK(bytes);
    test_pattern(bytes, size, 1, 0);
    sent(r, conn, user, kr_conn_send(r, conn, bytes, size));
    free(bytes);
}

static const struct kr_conn_ops huge_ops = {
    .on_open = open_huge, .on_data = data_echo, .on_close = world_close};

/* Ours: one send of three mebibytes. */
SCENARIO(send_of_a_huge_message, 2) {
    if (listens(w, NULL, &huge_ops))
        serve_one(w, 0, (size_t)3 << 20);
}

static size_t data_in_parts(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                            size_t size) {
    size_t done = 0;
    while (done < size) {
        size_t part = size - done < 700 ? size - done : 700;
        int rc = kr_conn_send(r, conn, (const char *)data + done, part);
        if (rc == -ENOBUFS || !sent(r, conn, user, rc))
            break;
        done += part;
    }
    return done;
}

static const struct kr_conn_ops part_ops = {.on_open = world_open,
                                            .on_data = data_in_parts,
                                            .on_drain = world_drain,
                                            .on_close = world_close};

/* Ours: a send queue that rises above its mark, blocks the reading, and drains. */
SCENARIO(blocked_and_drained, 4) {
    struct kr_listen_opts opts = small_opts();
    opts.conn.send_low = 1000;
    opts.conn.send_high = 4000;
    opts.conn.send_cap = 8000;
    if (!listens(w, &opts, &part_ops))
        return;
    int fd = test_connect_sized(w->port, 0, 4096);
    exchange(w, fd, 60000, 60000);
    CHECK(w->drains || !whole(w));
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* ---- pauses, ends ---- */

static void open_paused(struct kr_reactor *r, kr_conn conn, void *user) {
    world_open(r, conn, user);
}

static size_t data_then_pause(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                              size_t size) {
    struct world *w = user;
    sent(r, conn, w, kr_conn_send(r, conn, data, size));
    w->seen += size;
    int rc = kr_conn_pause(r, conn);
    CHECK(rc == 0 || rc == -EPIPE);
    return size;
}

static void fire_resume(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    struct world *w = user;
    int rc = kr_conn_resume(r, w->conn);
    CHECK(rc == 0 || rc == -EPIPE || rc == -ESTALE);
}

static const struct kr_conn_ops pausing_ops = {
    .on_open = open_paused, .on_data = data_then_pause, .on_close = world_close};

/* Ours: bytes that come while the connection is paused are kept, again and again. */
SCENARIO(pause_and_resume, 5) {
    kr_timer timer;
    if (!good(w, kr_timer_start(w->r, &timer, 0, MS / 10, fire_resume, w)))
        return;
    if (listens(w, NULL, &pausing_ops))
        serve_one(w, 30000, 30000);
    CHECK_OK(kr_timer_stop(w->r, timer));
}

static void eof_close(struct kr_reactor *r, kr_conn conn, void *user) {
    ((struct world *)user)->eofs++;
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static const struct kr_conn_ops eof_ops = {
    .on_open = world_open, .on_data = test_keep_all, .on_eof = eof_close, .on_close = world_close};

/* Ours: the end of a stream of which nothing was consumed. */
SCENARIO(end_with_kept_bytes, 4) {
    if (!listens(w, NULL, &eof_ops))
        return;
    int fd = test_connect(w->port);
    char bytes[9000] = {0};
    test_send(w->r, fd, bytes, sizeof bytes);
    CHECK_SYS(shutdown(fd, SHUT_WR));
    int end = test_recv_end(w->r, fd, NULL);
    CHECK(end == 0 || !whole(w));
    CHECK(w->eofs == 1 || !whole(w));
    test_close(fd);
}

static enum kr_close manner;

static size_t data_close(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    (void)data;
    static const char bytes[5000];
    sent(r, conn, user, kr_conn_send(r, conn, bytes, sizeof bytes));
    sent(r, conn, user, kr_conn_send(r, conn, bytes, sizeof bytes));
    CHECK_OK(kr_conn_close(r, conn, manner));
    return size;
}

static const struct kr_conn_ops close_ops = {
    .on_open = world_open, .on_data = data_close, .on_close = world_close};

static void close_in_manner(struct world *w, enum kr_close how, size_t want, int want_end) {
    manner = how;
    if (!listens(w, NULL, &close_ops))
        return;
    int fd = test_connect(w->port);
    CHECK_EQ(test_send_some(fd, "x", 1), 1);
    size_t got;
    int end = test_recv_end(w->r, fd, &got);
    CHECK(!whole(w) || (end == want_end && got == want));
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* Ours: a close with bytes queued, in each manner. */
SCENARIO(close_after_the_queue, 4) {
    close_in_manner(w, KR_CLOSE_FLUSH, 10000, 0);
}

/* The client ends when it has all: before, nothing ends it but a refusal. */
SCENARIO(close_that_lingers, 4) {
    manner = KR_CLOSE_LINGER;
    if (!listens(w, NULL, &close_ops))
        return;
    int fd = test_connect(w->port);
    CHECK_EQ(test_send_some(fd, "x", 1), 1);
    size_t got;
    int end = test_recv_end(w->r, fd, &got);
    CHECK(!whole(w) || (end == 0 && got == 10000));
    CHECK(!whole(w) || !w->closes);
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

SCENARIO(close_now, 3) {
    close_in_manner(w, KR_CLOSE_NOW, 0, 0);
}

SCENARIO(close_with_reset, 3) {
    close_in_manner(w, KR_CLOSE_RESET, 0, ECONNRESET);
}

static size_t data_half(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    struct world *w = user;
    static const char bytes[5000];
    (void)data;
    if (!w->seen)
        sent(r, conn, w, kr_conn_send(r, conn, bytes, sizeof bytes));
    w->seen += size;
    int rc = kr_conn_shutdown(r, conn);
    CHECK(rc == 0 || rc == -EPIPE);
    return size;
}

static const struct kr_conn_ops half_ops = {
    .on_open = world_open, .on_data = data_half, .on_close = world_close};

/* Ours: this side ends, the other one goes on, and ends. */
SCENARIO(half_and_half, 3) {
    if (!listens(w, NULL, &half_ops))
        return;
    int fd = test_connect(w->port);
    CHECK_EQ(test_send_some(fd, "x", 1), 1);
    size_t got;
    int end = test_recv_end(w->r, fd, &got);
    CHECK((end == 0 && got == 5000) || !whole(w));
    test_send_some(fd, "yz", 2);
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
    CHECK(w->seen == 3 || !whole(w));
}

static int file_fd;

static void file_done(struct kr_reactor *r, void *arg, uint64_t bytes, int error) {
    struct world *w = arg;
    (void)r;
    CHECK(error ? !whole(w) : bytes == 100000);
    w->seen++;
}

static void open_file(struct kr_reactor *r, kr_conn conn, void *user) {
    struct world *w = user;
    world_open(r, conn, w);
    sent(r, conn, w, kr_conn_send(r, conn, "head", 4));
    for (int i = 0; i < 2; i++)
        sent(r, conn, w,
             kr_conn_send_file(r, conn, file_fd, 0, i ? KR_FILE_END : 100000, file_done, w));
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static const struct kr_conn_ops file_ops = {
    .on_open = open_file, .on_data = data_echo, .on_close = world_close};

/* Ours: a file is refused or sent whole, and its user told as often as it was not. */
SCENARIO(files_of_two_chunks, 3) {
    if (!listens(w, NULL, &file_ops))
        return;
    file_fd = CHECK_SYS(memfd_create("torture", MFD_CLOEXEC));
    CHECK_SYS(ftruncate(file_fd, 100000));
    int fd = test_connect(w->port);
    size_t got;
    int end = test_recv_end(w->r, fd, &got);
    CHECK((end == 0 && got == 200004 && w->seen == 2) || !whole(w));
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
    test_close(file_fd);
}

static void open_close(struct kr_reactor *r, kr_conn conn, void *user) {
    world_open(r, conn, user);
    sent(r, conn, user, kr_conn_send(r, conn, "bye", 3));
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static const struct kr_conn_ops bye_ops = {
    .on_open = open_close, .on_data = data_echo, .on_close = world_close};

/* Ours: a connection that is closed as it opens. */
SCENARIO(close_in_on_open, 2) {
    if (!listens(w, NULL, &bye_ops))
        return;
    for (int i = 0; i < 3; i++) {
        int fd = test_connect(w->port);
        size_t got;
        test_recv_end(w->r, fd, &got);
        CHECK(got == 3 || !whole(w));
        test_close(fd);
    }
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* Ours: peers that reset while bytes are on their way in both directions. */
SCENARIO(peers_that_reset, 4) {
    if (!listens(w, NULL, &echo_ops))
        return;
    for (int i = 0; i < 3; i++) {
        int fd = test_connect(w->port);
        char bytes[6000] = {0};
        test_send_some(fd, bytes, sizeof bytes);
        test_step(w->r, "bytes");
        test_close_reset(fd);
    }
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* ---- many ---- */

static void crowd(struct world *w, int count, size_t size) {
    int fds[CONNS];
    CHECK_LE(count, CONNS);
    for (int i = 0; i < count; i++) {
        fds[i] = test_connect_begin(w->port);
        test_step(w->r, "a client");
    }
    for (int i = 0; i < count; i++)
        exchange(w, fds[i], size, size);
    for (int i = 0; i < count; i++)
        test_close(fds[i]);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* Ours: several connections at a time; one refused takes no other with it. */
SCENARIO(several_connections, 4) {
    if (listens(w, NULL, &echo_ops))
        crowd(w, 12, 3000);
}

/* Ours: more connections than the heap of deadlines first has room for. */
SCENARIO(more_connections_than_the_first_heap, 3, config.conn_max = 100) {
    if (listens(w, NULL, &echo_ops))
        crowd(w, 80, 100);
}

/* Ours: clients that share two buffers, so that they wait for them. */
SCENARIO(starved_connections, 4, config.buf_count = 2) {
    if (listens(w, NULL, &echo_ops))
        crowd(w, 6, 12000);
}

/* Ours: a submission queue with room for two, in which nothing has room. */
SCENARIO(narrow_rings, 4, config.sq_entries = 2, config.cq_entries = 2) {
    if (listens(w, NULL, &mixed_ops))
        crowd(w, 6, 3000);
}

/* ---- connecting ---- */

/* The near end of a connection to this reactor's own listener: it has said its bytes, and leaves
 * when they have come back. */
struct caller {
    struct world *w;
    size_t want, got;
    bool over;
};

static size_t caller_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    struct caller *caller = user;
    test_pattern_check(data, size, 1, caller->got);
    caller->got += size;
    if (caller->got == caller->want)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
    return size;
}

static void caller_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                         enum kr_why why) {
    (void)r;
    (void)conn;
    (void)why;
    struct caller *caller = user;
    caller->over = true;
    CHECK((error == 0 && caller->got == caller->want) || !whole(caller->w));
}

static const struct kr_conn_ops caller_ops = {.on_data = caller_data, .on_close = caller_close};

/* Says `size` bytes to `addr`; false when memory was refused. */
static bool calls(struct world *w, struct caller *caller, const struct kr_addr *addr,
                  const struct kr_connect_opts *opts, size_t size) {
    static char bytes[8192];
    *caller = (struct caller){.w = w, .want = size};
    test_pattern(bytes, size, 1, 0);
    kr_conn conn;
    if (!good(w, kr_connect(w->r, &conn, addr, opts, &caller_ops, caller)))
        return false;
    if (!good(w, kr_conn_send(w->r, conn, bytes, size)))
        CHECK_OK(kr_conn_close(w->r, conn, KR_CLOSE_NOW));
    return true;
}

static void call_and_wait(struct world *w, const struct kr_connect_opts *opts, unsigned count) {
    struct caller callers[16];
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", w->port));
    for (unsigned i = 0; i < count; i++)
        callers[i].over = !calls(w, &callers[i], &addr, opts, 100 + 700 * i);
    for (unsigned i = 0; i < count; i++)
        TEST_UNTIL(w->r, callers[i].over);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* Ours: connections to oneself, one and many. */
SCENARIO(connect_once, 6) {
    if (listens(w, NULL, &echo_ops))
        call_and_wait(w, NULL, 1);
}

SCENARIO(connect_often, 8) {
    struct kr_listen_opts opts = small_opts();
    opts.backlog = 16; /* none of them has to call twice */
    for (int i = 0; i < 2; i++) {
        if (listens(w, &opts, &echo_ops))
            call_and_wait(w, NULL, 8);
    }
}

/* Ours: with all that options add: limits of its own, inline memory, a deadline, the address. */
SCENARIO(connect_with_options, 7) {
    struct kr_connect_opts opts = test_connect_opts();
    opts.timeout_ns = 10000 * MS;
    opts.local_address = true;
    opts.conn.inline_size = 3000;
    opts.conn.idle_ns = 10000 * MS;
    if (listens(w, NULL, &echo_ops))
        call_and_wait(w, &opts, 3);
}

/* Ours: attempts that come to nothing: refused, and given up. */
SCENARIO(connect_in_vain, 4) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_unix(&addr, "/tmp/kr-torture/there/is/no/such/socket"));
    for (int i = 0; i < 2; i++) {
        kr_conn conn;
        if (!good(w, kr_connect(w->r, &conn, &addr, NULL, &echo_ops, w)))
            continue;
        w->opens++; /* though it never does */
        good(w, kr_conn_send(w->r, conn, "in vain", 7));
        if (i == 1)
            CHECK_OK(kr_conn_close(w->r, conn, KR_CLOSE_NOW));
    }
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* ---- listeners ---- */

/* Ours: listeners that come and go. */
SCENARIO(listeners, 1) {
    for (int i = 0; i < 4; i++) {
        if (listens(w, NULL, &echo_ops))
            CHECK_OK(kr_listener_close(w->r, w->listener));
    }
    TEST_UNTIL(w->r, test_stats(w->r).listeners == 0);
}

/* Ours: listeners that ask for addresses, whose table of arrivals is memory, too. */
SCENARIO(listeners_with_addresses, 4) {
    struct kr_listen_opts opts = small_opts();
    opts.addresses = true;
    for (int i = 0; i < 3; i++) {
        if (listens(w, &opts, &echo_ops))
            CHECK_OK(kr_listener_close(w->r, w->listener));
    }
    TEST_UNTIL(w->r, test_stats(w->r).listeners == 0);
}

static size_t data_addresses(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                             size_t size) {
    struct kr_addr peer, local;
    CHECK_OK(kr_conn_peer(r, conn, &peer));
    CHECK_OK(kr_conn_local(r, conn, &local));
    CHECK_EQ(kr_addr_port(&local), ((struct world *)user)->port);
    return data_echo(r, conn, user, data, size);
}

static const struct kr_conn_ops addresses_ops = {
    .on_open = world_open, .on_data = data_addresses, .on_close = world_close};

/* Ours: connections whose addresses are kept. */
SCENARIO(connections_with_addresses, 5) {
    struct kr_listen_opts opts = small_opts();
    opts.addresses = true;
    if (listens(w, &opts, &addresses_ops))
        crowd(w, 8, 100);
}

/* Ours: a listener that closes with clients in its backlog. */
SCENARIO(listener_closed_with_clients, 1) {
    if (!listens(w, NULL, &echo_ops))
        return;
    int fds[3];
    for (int i = 0; i < 3; i++)
        fds[i] = test_connect(w->port);
    test_step(w->r, "some of them");
    CHECK_OK(kr_listener_close(w->r, w->listener));
    for (int i = 0; i < 3; i++) {
        test_recv_end(w->r, fds[i], NULL);
        test_close(fds[i]);
    }
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* ---- inline memory ---- */

static void open_inline(struct kr_reactor *r, kr_conn conn, void *user) {
    world_open(r, conn, user);
    char *memory = kr_conn_inline(r, conn);
    CHECK(memory && memory[0] == 0);
    memory[0] = 'x';
}

static const struct kr_conn_ops inline_ops = {
    .on_open = open_inline, .on_data = data_echo, .on_close = world_close};

/* Ours: memory of the slot, which is there before on_open, or the connection is not. */
SCENARIO(inline_memory, 4) {
    struct kr_listen_opts opts = small_opts();
    opts.conn.inline_size = 300;
    if (listens(w, &opts, &inline_ops))
        crowd(w, 4, 100);
}

/* Ours: a slot's next connection wants more of it. */
SCENARIO(inline_memory_that_grows, 6) {
    for (size_t size = 50; size < 100000; size *= 5) {
        struct kr_listen_opts opts = small_opts();
        opts.conn.inline_size = size;
        if (!listens(w, &opts, &inline_ops))
            continue;
        serve_one(w, 100, 100);
        CHECK_OK(kr_listener_close(w->r, w->listener));
        TEST_UNTIL(w->r, test_stats(w->r).listeners == 0);
    }
}

/* ---- timers, posts ---- */

/* Ours: more timers than one chunk of them and more than the first heap. */
SCENARIO(timers, 3) {
    unsigned started = 0;
    for (int i = 0; i < 300; i++)
        started += good(w, kr_timer_start(w->r, NULL, i, 0, world_fire, w));
    CHECK_EQ(test_stats(w->r).timers, started);
    TEST_UNTIL(w->r, w->fires == started);
    CHECK_EQ(test_stats(w->r).timers, 0u);
}

static void fire_start_more(struct kr_reactor *r, kr_timer timer, void *user) {
    struct world *w = user;
    (void)timer;
    if (++w->fires >= 100)
        return;
    good(w, kr_timer_start(r, NULL, 0, 0, fire_start_more, w));
    good(w, kr_timer_start(r, NULL, INT64_MAX, 0, fire_start_more, w));
}

/* Ours: timers that start timers. */
SCENARIO(timers_that_start_timers, 2) {
    if (good(w, kr_timer_start(w->r, NULL, 0, 0, fire_start_more, w)))
        TEST_UNTIL(w->r, w->fires == 100 || !whole(w));
}

static void post_starts(struct kr_reactor *r, void *arg) {
    struct world *w = arg;
    w->posts++;
    good(w, kr_timer_start(r, NULL, 0, 0, world_fire, w));
    kr_listener listener;
    struct kr_addr addr;
    struct kr_listen_opts opts = small_opts();
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 0));
    if (good(w, kr_listen(r, &listener, &addr, &opts, &echo_ops, w)))
        CHECK_OK(kr_listener_close(r, listener));
}

/* Ours: posts, which need no memory, and what they start. */
SCENARIO(posts, 3) {
    for (int i = 0; i < 5; i++)
        CHECK_OK(kr_post(w->r, post_starts, w));
    TEST_UNTIL(w->r, w->posts == 5);
}

static void timeout_count(struct kr_reactor *r, kr_conn conn, void *user, enum kr_deadline which) {
    struct world *w = user;
    CHECK_EQ(which, KR_DEADLINE_IDLE);
    if (++w->timeouts == 3)
        sent(r, conn, w, kr_conn_send(r, conn, "!", 1));
    if (w->timeouts == 5)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static const struct kr_conn_ops idle_ops = {.on_open = world_open,
                                            .on_data = data_echo,
                                            .on_timeout = timeout_count,
                                            .on_close = world_close};

/* Ours: deadlines, which are promised with the connection and cannot fail later. */
SCENARIO(idle_connections, 2) {
    struct kr_listen_opts opts = small_opts();
    opts.conn.idle_ns = MS / 10;
    if (!listens(w, &opts, &idle_ops))
        return;
    int fd = test_connect(w->port);
    size_t got;
    test_recv_end(w->r, fd, &got);
    CHECK((got == 1 && w->timeouts == 5) || !whole(w));
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

static void open_hurried(struct kr_reactor *r, kr_conn conn, void *user) {
    struct world *w = user;
    world_open(r, conn, user);
    bool set = good(w, kr_conn_deadline(r, conn, KR_DEADLINE_READ, 1));
    set = good(w, kr_conn_deadline(r, conn, KR_DEADLINE_WRITE, INT64_MAX)) && set;
    if (!set)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_RESET));
}

static const struct kr_conn_ops hurried_ops = {
    .on_open = open_hurried, .on_data = data_echo, .on_close = world_close};

/* Ours: connections with limits of their own, which are memory. */
SCENARIO(deadlines_of_their_own, 3) {
    if (!listens(w, NULL, &hurried_ops))
        return;
    int fds[5];
    for (int i = 0; i < 5; i++)
        fds[i] = test_connect(w->port);
    for (int i = 0; i < 5; i++) {
        test_recv_end(w->r, fds[i], NULL);
        test_close(fds[i]);
    }
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
    CHECK(test_stats(w->r).timeouts == 5 || !whole(w));
}

static void shutdown_bye(struct kr_reactor *r, kr_conn conn, void *user) {
    struct world *w = user;
    w->eofs++;
    sent(r, conn, w, kr_conn_send(r, conn, "bye", 3));
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static void drained(struct kr_reactor *r, void *user, unsigned cut_off) {
    (void)r;
    struct world *w = user;
    CHECK_EQ(w->opens, w->closes);
    CHECK(cut_off == 0 || !whole(w));
    w->drains++;
}

static const struct kr_conn_ops leaving_ops = {.on_open = world_open,
                                               .on_data = data_echo,
                                               .on_shutdown = shutdown_bye,
                                               .on_close = world_close};

/* Ours: a drain that is refused memory has not begun. */
SCENARIO(drain, 3) {
    if (!listens(w, NULL, &leaving_ops))
        return;
    int fds[4];
    for (int i = 0; i < 4; i++) {
        fds[i] = test_connect(w->port);
        exchange(w, fds[i], 10, 10);
    }
    bool begun = good(w, kr_drain(w->r, 1000 * MS, drained, w));
    if (!begun)
        CHECK_OK(kr_listener_close(w->r, w->listener));
    for (int i = 0; i < 4; i++) {
        if (begun)
            test_recv_end(w->r, fds[i], NULL);
        test_close(fds[i]);
    }
    TEST_UNTIL(w->r, begun ? w->drains == 1 : test_stats(w->r).conns == 0);
}

/* ---- the end of all ---- */

/* Ours: everything is open when the reactor is freed. The next scenario's listener and client come
 * on top. */
SCENARIO(everything_left_open, 8, config.conn_max = 40) {
    struct kr_listen_opts opts = small_opts();
    opts.addresses = true;
    opts.conn.inline_size = 1000;
    good(w, kr_timer_start(w->r, NULL, INT64_MAX, 0, world_fire, w));
    bool plain = listens(w, NULL, &eof_ops);
    uint16_t plain_port = w->port;
    bool full = listens(w, &opts, &inline_ops);
    int fds[8];
    unsigned count = 0;
    for (int i = 0; i < 4 && plain; i++)
        fds[count++] = test_connect_begin(plain_port);
    for (int i = 0; i < 4 && full; i++)
        fds[count++] = test_connect_begin(w->port);
    char bytes[3000] = {0};
    for (int turn = 0; turn < 20; turn++) {
        for (unsigned i = 0; i < count; i++)
            test_send_some(fds[i], bytes, sizeof bytes);
        test_step(w->r, "what clients do");
    }
    for (unsigned i = 0; i < count; i++)
        test_close(fds[i]);
}

int main(int argc, char **argv) {
    points_run =
        mmap(NULL, sizeof *points_run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (points_run == MAP_FAILED)
        return 1;
    int rc = tap_main("torture", 168, argc, argv);
    if (*points_run)
        printf("# %lld points at which memory was refused\n", (long long)*points_run);
    return rc;
}
