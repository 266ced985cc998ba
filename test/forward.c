/* Forwarding: the bytes of one connection on another, in order and whole, with back-pressure,
 * half-close and errors passed on, and one word when it is over.
 *
 * Two clients connect to one listener; when both are there, the server pairs their connections. */
#include "forward/forward.h"

static unsigned side_of(const struct pair *p, kr_conn conn) {
    return p->ends[1].bits == conn.bits;
}

void over(struct kr_reactor *r, kr_conn a, kr_conn b, void *user, const struct kr_forwarded *what) {
    struct pair *p = user;
    CHECK_EQ(a.bits, p->ends[0].bits);
    CHECK_EQ(b.bits, p->ends[1].bits);
    p->overs++;
    p->what = *what;
    p->closed_when_over = p->closed;
    CHECK(kr_conn_user(r, a) == p && kr_conn_user(r, b) == p); /* both handles are good */
    CHECK(what->error || kr_conn_queued(r, a) + kr_conn_queued(r, b) == 0);
    if (p->again) {
        p->again = false;
        CHECK_OK(kr_conn_forward(r, a, b, &p->opts, over, p));
    }
}

void pair_up(struct pair *p) {
    CHECK_OK(kr_conn_forward(p->r, p->ends[0], p->ends[1], &p->opts, over, p));
}

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct pair *p = user;
    (void)r;
    p->ends[p->opened++] = conn;
    if (p->opened == 2 && !p->by_hand)
        pair_up(p);
}

size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    struct pair *p = user;
    (void)r;
    unsigned i = side_of(p, conn);
    if (i == 0 && p->header) {
        if (size < p->header)
            return 0;
        size_t header = p->header;
        p->header = 0;
        pair_up(p);
        return header;
    }
    CHECK_LE(p->seen_size[i] + size, sizeof p->seen[i]);
    memcpy(p->seen[i] + p->seen_size[i], data, size);
    p->seen_size[i] += size;
    return size;
}

static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct pair *p = user;
    p->eofs[side_of(p, conn)]++;
    if (!p->stays)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct pair *p = user;
    p->closed_in_turn = test_stats(r).turns;
    p->errors[side_of(p, conn)] = error;
    p->whys[side_of(p, conn)] = why;
    p->closed++;
}

static void on_writable(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn, user);
    FAIL("on_writable of a forwarding connection");
}

const struct kr_conn_ops ops = {.on_open = on_open,
                                .on_data = on_data,
                                .on_eof = on_eof,
                                .on_close = on_close,
                                .on_writable = on_writable};

void begin_with(struct pair *p, const struct kr_config *config, const struct kr_listen_opts *opts,
                int recv_size) {
    if (!p->opts.size)
        kr_forward_opts_init(&p->opts);
    p->r = test_reactor(config);
    uint16_t port = test_listen(p->r, NULL, opts, &ops, p);
    for (unsigned i = 0; i < 2; i++) {
        p->fds[i] = test_connect_sized(port, 0, recv_size);
        TEST_UNTIL(p->r, p->opened == i + 1);
    }
}

void begin(struct pair *p) {
    begin_with(p, NULL, NULL, 0);
}

void finish(struct pair *p) {
    TEST_UNTIL(p->r, p->closed == 2);
    CHECK_EQ(p->overs, 1u);
    CHECK_EQ(p->closed_when_over, 0u);
    test_reactor_end(p->r, (struct test_levels){.listeners = 1});
    test_close(p->fds[0]);
    test_close(p->fds[1]);
}

void shut(int fd) {
    CHECK_SYS(shutdown(fd, SHUT_WR));
}

static bool flow_move(struct flow *f) {
    char bytes[65536];
    size_t piece = f->piece ? f->piece : sizeof bytes;
    if (f->sent < f->total) {
        size_t size = f->total - f->sent < piece ? (size_t)(f->total - f->sent) : piece;
        test_pattern(bytes, size, f->seed, f->sent);
        long n = test_send_some(f->from, bytes, size);
        CHECK_GE(n, 0);
        f->sent += (uint64_t)n;
    }
    if (f->got < f->total) {
        long n = test_recv_some(f->to, bytes, sizeof bytes);
        CHECK_GE(n, 0);
        test_pattern_check(bytes, (size_t)n, f->seed, f->got);
        f->got += (uint64_t)n;
    }
    return f->got == f->total;
}

bool flows_move(struct flow *a, struct flow *b) {
    bool first = flow_move(a), second = flow_move(b);
    return first && second;
}

void flow_run(struct kr_reactor *r, struct flow *f) {
    while (!flow_move(f))
        test_step(r, "bytes to pass");
}

/* Ours: bytes pass both ways at once, whole and in order, and at both ends of stream the pair is
 * over and both connections close. */
TEST_EACH(forward_passes_bytes_both_ways) {
    struct pair p = {0};
    begin(&p);
    struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 1, .total = 3000000};
    struct flow ba = {.from = p.fds[1], .to = p.fds[0], .seed = 2, .total = 2000000, .piece = 777};
    while (!flows_move(&ab, &ba))
        test_step(p.r, "bytes to pass");
    CHECK_EQ(p.overs, 0u);
    shut(p.fds[0]);
    CHECK_EQ(test_recv_end(p.r, p.fds[1], NULL), 0);
    shut(p.fds[1]);
    CHECK_EQ(test_recv_end(p.r, p.fds[0], NULL), 0);
    TEST_UNTIL(p.r, p.closed == 2);
    CHECK_EQ(p.what.bytes_ab, 3000000u);
    CHECK_EQ(p.what.bytes_ba, 2000000u);
    CHECK_EQ(p.what.error, 0);
    CHECK_EQ(test_stats(p.r).bytes_forwarded, 5000000u);
    CHECK_EQ(p.seen_size[0] + p.seen_size[1] + p.eofs[0] + p.eofs[1], 0u);
    finish(&p);
}

/* Ours: the end of one stream goes through, and the other direction lives on, for as long as it
 * likes. */
TEST_EACH(forward_passes_half_close) {
    struct pair p = {0};
    begin(&p);
    struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 1, .total = 100000};
    struct flow ba = {.from = p.fds[1], .to = p.fds[0], .seed = 2, .total = 500000};
    flow_run(p.r, &ab);
    shut(p.fds[0]);
    CHECK_EQ(test_recv_end(p.r, p.fds[1], NULL), 0);
    flow_run(p.r, &ba);
    CHECK_EQ(p.overs, 0u);
    shut(p.fds[1]);
    CHECK_EQ(test_recv_end(p.r, p.fds[0], NULL), 0);
    TEST_UNTIL(p.r, p.closed == 2);
    CHECK_EQ(p.what.error, 0);
    CHECK_EQ(p.errors[0] | p.errors[1], 0);
    finish(&p);
}

void fill(struct pair *p, struct flow *f) {
    char bytes[65536];
    kr_conn to = p->ends[f->to == p->fds[1]];
    for (unsigned idle = 0; idle < 20 || !kr_conn_queued(p->r, to);) {
        test_pattern(bytes, sizeof bytes, f->seed, f->sent);
        long n = test_send_some(f->from, bytes, sizeof bytes);
        CHECK_GE(n, 0);
        f->sent += (uint64_t)n;
        int handled = test_step(p->r, "the sender to be stopped");
        idle = n == 0 && handled == 0 ? idle + 1 : 0;
    }
    f->total = f->sent;
}

/* Ours: who sends all, ends and goes loses nothing: the bytes come before the end. */
TEST_EACH(forward_sends_all_before_the_end) {
    struct pair p = {.by_hand = true};
    begin_with(&p, NULL, NULL, 4096);
    struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 5};
    pair_up(&p);
    shut(p.fds[1]); /* the other way is over before */
    fill(&p, &ab);
    shut(p.fds[0]);
    flow_run(p.r, &ab);
    CHECK_EQ(test_recv_end(p.r, p.fds[1], NULL), 0);
    finish(&p);
}

/* Ours: who does not read stops who sends, through the proxy: what is queued stays near the high
 * mark, nothing spins meanwhile, and all of it arrives when it is read at last. */
TEST_EACH(forward_passes_back_pressure) {
    struct pair p = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 64;
    opts.conn.send_low = 10000;
    opts.conn.send_high = 50000;
    struct kr_config config = test_config();
    config.buf_size = 4096;
    config.buf_count = 16;
    begin_with(&p, &config, &opts, 4096);
    struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 3};
    fill(&p, &ab);
    CHECK_GT(kr_conn_queued(p.r, p.ends[1]), 10000u); /* at the low mark it is read again */
    CHECK_LE(kr_conn_queued(p.r, p.ends[1]), 50000u + 16u * 4096);
    struct flow ba = {.from = p.fds[1], .to = p.fds[0], .seed = 4, .total = 300000};
    flow_run(p.r, &ba); /* the other direction is not stopped by it */
    flow_run(p.r, &ab);
    shut(p.fds[0]);
    shut(p.fds[1]);
    finish(&p);
}

/* Ours: two peers that each write before they read do not wait for each other through the proxy:
 * the one direction's full queue does not stop the other's. The second reads only when it has
 * written all. */
TEST_EACH(forward_does_not_tie_one_way_to_the_other) {
    struct pair p = {0};
    begin_with(&p, NULL, NULL, 4096);
    struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 3};
    fill(&p, &ab);
    struct flow ba = {.from = p.fds[1], .to = p.fds[0], .seed = 4, .total = 5000000};
    flow_run(p.r, &ba);
    flow_run(p.r, &ab);
    shut(p.fds[0]);
    shut(p.fds[1]);
    finish(&p);
}

/* Ours: what a parser has not consumed is the first that is forwarded. */
TEST_EACH(forward_from_within_on_data) {
    for (unsigned early = 0; early < 2; early++) {
        struct pair p = {.by_hand = true, .header = 10};
        begin(&p);
        char bytes[5000];
        memcpy(bytes, "CONNECT me", 10);
        test_pattern(bytes + 10, 4990, 9, 0);
        if (early) { /* a part of the header on its own is kept first */
            test_send(p.r, p.fds[0], bytes, 4);
            TEST_UNTIL(p.r, test_stats(p.r).bytes_kept == 4);
        }
        test_send(p.r, p.fds[0], bytes + (early ? 4 : 0), sizeof bytes - (early ? 4 : 0));
        test_recv_pattern(p.r, p.fds[1], 4990, 9, 0);
        shut(p.fds[0]);
        shut(p.fds[1]);
        TEST_UNTIL(p.r, p.closed == 2);
        CHECK_EQ(p.what.bytes_ab, 4990u);
        finish(&p);
    }
}

/* Ours: at its limit forwarding ends, and what follows is shown to on_data again. */
TEST_EACH(forward_stops_at_its_limit) {
    struct pair p = {.by_hand = true};
    begin(&p);
    p.opts.one_way = p.opts.keep_open = true;
    p.opts.max_ab = 3000;
    pair_up(&p);
    char bytes[4000], back[3000];
    test_pattern(bytes, sizeof bytes, 11, 0);
    test_send(p.r, p.fds[0], bytes, sizeof bytes);
    test_recv(p.r, p.fds[1], back, sizeof back);
    test_pattern_check(back, sizeof back, 11, 0);
    TEST_UNTIL(p.r, p.overs == 1 && p.seen_size[0] == 1000);
    test_pattern_check(p.seen[0], 1000, 11, 3000);
    CHECK_EQ(p.what.bytes_ab, 3000u);
    CHECK_EQ(p.what.error, 0);
    /* and the other is its own again, as it has been all the time */
    test_send(p.r, p.fds[1], bytes, 100);
    TEST_UNTIL(p.r, p.seen_size[1] == 100);
    CHECK_OK(kr_conn_send(p.r, p.ends[1], bytes, 50));
    test_recv(p.r, p.fds[1], back, 50);
    shut(p.fds[0]);
    shut(p.fds[1]);
    finish(&p);
}

/* Ours: one way leaves the other direction to on_data. */
TEST_EACH(forward_one_way) {
    struct pair p = {.by_hand = true};
    begin(&p);
    p.opts.one_way = true;
    pair_up(&p);
    char bytes[2000];
    test_pattern(bytes, sizeof bytes, 12, 0);
    test_send(p.r, p.fds[1], bytes, 2000);
    TEST_UNTIL(p.r, p.seen_size[1] == 2000);
    struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 1, .total = 100000};
    flow_run(p.r, &ab);
    shut(p.fds[0]);
    TEST_UNTIL(p.r, p.closed == 2);
    CHECK_EQ(p.what.bytes_ab, 100000u);
    CHECK_EQ(p.what.bytes_ba, 0u);
    CHECK_EQ(p.what.error, 0);
    finish(&p);
}

TAP_MAIN(forward, 124)
