/* Forwarding: the bytes of one connection on another, in order and whole, with back-pressure,
 * half-close and errors passed on, and one word when it is over.
 *
 * Two clients connect to one listener; when both are there, the server pairs their connections. */
#include "core/reactor.h"
#include "harness/net.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct pair {
    struct kr_reactor *r;
    struct kr_forward_opts opts;
    bool by_hand; /* the case calls kr_conn_forward */
    kr_conn ends[2];
    unsigned opened, closed, overs;
    int errors[2]; /* of on_close */
    enum kr_why whys[2];
    struct kr_forwarded what;
    unsigned closed_when_over;
    uint64_t closed_in_turn; /* the last of them */
    char seen[2][4096]; /* by on_data */
    size_t seen_size[2];
    unsigned eofs[2];
    size_t header; /* bytes of ends[0] that on_data takes before it forwards */
    bool again;    /* when over, forward once more */
    bool stays;    /* open at the end of the peer */
    int fds[2];
};

static unsigned side_of(const struct pair *p, kr_conn conn) {
    return p->ends[1].bits == conn.bits;
}

static void over(struct kr_reactor *r, kr_conn a, kr_conn b, void *user,
                 const struct kr_forwarded *what) {
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

static void pair_up(struct pair *p) {
    CHECK_OK(kr_conn_forward(p->r, p->ends[0], p->ends[1], &p->opts, over, p));
}

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct pair *p = user;
    (void)r;
    p->ends[p->opened++] = conn;
    if (p->opened == 2 && !p->by_hand)
        pair_up(p);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
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

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct pair *p = user;
    p->closed_in_turn = test_stats(r).turns;
    p->errors[side_of(p, conn)] = error;
    p->whys[side_of(p, conn)] = why;
    p->closed++;
}

static void on_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn, user);
    FAIL("on_drain of a forwarding connection");
}

static const struct kr_conn_ops ops = {.on_open = on_open,
                                       .on_data = on_data,
                                       .on_eof = on_eof,
                                       .on_close = on_close,
                                       .on_drain = on_drain};

static void begin_with(struct pair *p, const struct kr_config *config,
                       const struct kr_listen_opts *opts, int recv_size) {
    if (!p->opts.size)
        kr_forward_opts_init(&p->opts);
    p->r = test_reactor(config);
    uint16_t port = test_listen(p->r, NULL, opts, &ops, p);
    for (unsigned i = 0; i < 2; i++) {
        p->fds[i] = test_connect_sized(port, 0, recv_size);
        TEST_UNTIL(p->r, p->opened == i + 1);
    }
}

static void begin(struct pair *p) {
    begin_with(p, NULL, NULL, 0);
}

static void finish(struct pair *p) {
    TEST_UNTIL(p->r, p->closed == 2);
    CHECK_EQ(p->overs, 1u);
    CHECK_EQ(p->closed_when_over, 0u);
    test_reactor_end(p->r, (struct test_levels){.listeners = 1});
    test_close(p->fds[0]);
    test_close(p->fds[1]);
}

static void shut(int fd) {
    CHECK_SYS(shutdown(fd, SHUT_WR));
}

/* One direction of a pair as its two clients see it. */
struct flow {
    int from, to;
    uint64_t seed, total, sent, got;
    size_t piece;
};

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

/* Both, whatever has become of the first. */
static bool flows_move(struct flow *a, struct flow *b) {
    bool first = flow_move(a), second = flow_move(b);
    return first && second;
}

static void flow_run(struct kr_reactor *r, struct flow *f) {
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

/* Sends to a peer that does not read until nothing moves any more, and the proxy's queue is not
 * empty. */
static void fill(struct pair *p, struct flow *f) {
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
        char back[4990];
        test_recv(p.r, p.fds[1], back, sizeof back);
        test_pattern_check(back, sizeof back, 9, 0);
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

/* Ours: a reset goes through, so that nobody takes half a stream for a whole one. */
TEST_EACH(forward_passes_a_reset) {
    for (unsigned i = 0; i < 2; i++) {
        struct pair p = {0};
        begin(&p);
        struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 1, .total = 10000};
        flow_run(p.r, &ab);
        test_close_reset(p.fds[i]);
        CHECK_EQ(test_recv_end(p.r, p.fds[!i], NULL), ECONNRESET);
        TEST_UNTIL(p.r, p.closed == 2);
        CHECK_EQ(p.what.error, -ECONNRESET);
        CHECK_EQ(p.errors[i], -ECONNRESET);
        CHECK_EQ(p.errors[!i], 0);
        CHECK_EQ(p.whys[!i], KR_WHY_LOCAL);
        p.fds[i] = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        finish(&p);
    }
}

/* How a peer that answers early goes: by a reset, as close(2) makes where bytes are unread; or by its
 * end first. */
static void answer_early(struct pair *p, bool resets) {
    char bytes[200];
    test_pattern(bytes, sizeof bytes, 5, 0);
    CHECK_EQ(send(p->fds[1], bytes, sizeof bytes, MSG_NOSIGNAL), (ssize_t)sizeof bytes);
    if (!resets)
        shut(p->fds[1]);
    TEST_UNTIL(p->r, resets || kr_conn_queued(p->r, p->ends[1]));
    test_close(p->fds[1]);
    p->fds[1] = -1;
}

/* Sends until the pair is full of it, or has ended. */
static void send_in_vain(const struct pair *p) {
    static char bytes[65536];
    while (test_send_some(p->fds[0], bytes, sizeof bytes) > 0)
        continue;
}

/* Ours: a peer that answers early and goes is heard by the other, who is still sending: an answer that
 * has ended comes with its end, and the upload is dropped until the other has ended, too; behind one
 * that has not there is a reset. */
TEST_EACH(forward_passes_an_early_answer) {
    for (unsigned i = 0; i < 4; i++) {
        bool resets = i % 2;
        struct pair p = {0};
        begin_with(&p, NULL, NULL, i < 2 ? 4096 : 0);
        for (unsigned turns = 0; turns < 8; turns++) {
            send_in_vain(&p);
            test_step(p.r, "the upload to fill the pair");
        }
        answer_early(&p, resets);
        char got[256];
        size_t size = 0;
        long n;
        while ((n = test_recv_some(p.fds[0], got + size, sizeof got - size)) >= 0) {
            size += (size_t)n;
            send_in_vain(&p);
            test_step(p.r, "the answer and its end");
        }
        CHECK_EQ(size, 200u);
        test_pattern_check(got, size, 5, 0);
        CHECK_EQ(n, resets ? -ECONNRESET : TEST_EOF);
        CHECK(p.what.error == -EPIPE || p.what.error == -ECONNRESET);
        CHECK_EQ(p.what.bytes_ba, 200u);
        test_close(p.fds[0]);
        TEST_UNTIL(p.r, p.closed == 2);
        CHECK_EQ(p.errors[1], p.what.error);
        CHECK_EQ(p.overs, 1u);
        test_reactor_end(p.r, (struct test_levels){.listeners = 1});
    }
}

/* Ours: one way alone is over with an end that takes nothing more; what that has said is its user's, to
 * the last byte. */
TEST_EACH(forward_one_way_leaves_an_early_answer) {
    for (unsigned i = 0; i < 2; i++) {
        struct pair p = {0};
        kr_forward_opts_init(&p.opts);
        p.opts.one_way = true;
        begin_with(&p, NULL, NULL, 4096);
        for (unsigned turns = 0; turns < 8; turns++) {
            send_in_vain(&p);
            test_step(p.r, "the upload to fill the pair");
        }
        answer_early(&p, i);
        TEST_UNTIL(p.r, p.closed == 2);
        CHECK_EQ(p.seen_size[1], 200u);
        test_pattern_check(p.seen[1], 200, 5, 0);
        CHECK_EQ(p.eofs[1], !i);
        CHECK(p.errors[1] == -EPIPE || p.errors[1] == -ECONNRESET);
        CHECK_EQ(p.what.error, p.errors[1]);
        CHECK_EQ(p.overs, 1u);
        CHECK_EQ(p.closed_when_over, 0u);
        test_close(p.fds[0]);
        test_reactor_end(p.r, (struct test_levels){.listeners = 1});
    }
}

/* Ours: closing one end closes the other behind its queue. */
TEST_EACH(forward_ends_with_either_end) {
    for (unsigned i = 0; i < 2; i++) {
        struct pair p = {0};
        begin_with(&p, NULL, NULL, 4096);
        struct flow flow = {.from = p.fds[i], .to = p.fds[!i], .seed = 1};
        fill(&p, &flow);
        size_t queued = kr_conn_queued(p.r, p.ends[!i]);
        CHECK_GT(queued, 0u);
        CHECK_OK(kr_conn_close(p.r, p.ends[i], KR_CLOSE_NOW));
        size_t got = 0;
        CHECK_EQ(test_recv_end(p.r, p.fds[!i], &got), 0);
        CHECK_GE(got, queued);
        TEST_UNTIL(p.r, p.closed == 2);
        CHECK_EQ(p.what.error, -ECANCELED);
        finish(&p);
    }
}

/* Ours: stopped on request, both connections are their user's again, with nothing lost between. */
TEST_EACH(forward_stops_on_request) {
    struct pair p = {.by_hand = true};
    begin(&p);
    p.opts.keep_open = true;
    pair_up(&p);
    struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 1, .total = 20000};
    flow_run(p.r, &ab);
    CHECK_OK(kr_conn_forward_stop(p.r, p.ends[1]));
    CHECK_EQ(p.overs, 0u); /* not from within the call */
    TEST_UNTIL(p.r, p.overs == 1);
    CHECK_EQ(p.what.error, -ECANCELED);
    CHECK_ERR(kr_conn_forward_stop(p.r, p.ends[0]), EINVAL);
    char bytes[500];
    test_pattern(bytes, sizeof bytes, 1, 20000);
    test_send(p.r, p.fds[0], bytes, sizeof bytes);
    TEST_UNTIL(p.r, p.seen_size[0] == 500);
    test_pattern_check(p.seen[0], 500, 1, 20000);
    p.overs = 0;
    pair_up(&p); /* and may be forwarded again */
    ab = (struct flow){.from = p.fds[1], .to = p.fds[0], .seed = 6, .total = 20000};
    flow_run(p.r, &ab);
    CHECK_OK(kr_conn_forward_stop(p.r, p.ends[0]));
    TEST_UNTIL(p.r, p.overs == 1);
    shut(p.fds[0]);
    shut(p.fds[1]);
    finish(&p);
}

/* Ours: the word that it is over may start it again. */
TEST_EACH(forward_again_from_within_done) {
    struct pair p = {.by_hand = true, .again = true};
    begin(&p);
    p.opts.keep_open = true;
    p.opts.one_way = true;
    p.opts.max_ab = 100;
    pair_up(&p);
    p.opts.max_ab = 0;
    p.opts.keep_open = false;
    struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 1, .total = 20000};
    flow_run(p.r, &ab);
    CHECK_EQ(p.overs, 1u);
    CHECK_EQ(p.what.bytes_ab, 100u);
    p.overs = 0;
    shut(p.fds[0]);
    TEST_UNTIL(p.r, p.overs == 1);
    CHECK_EQ(p.what.bytes_ab, 19900u);
    shut(p.fds[1]);
    finish(&p);
}

/* Ours: a paused end forwards nothing until it is resumed, and nothing is lost or out of order. */
TEST_EACH(forward_heeds_a_pause) {
    struct pair p = {0};
    begin(&p);
    CHECK_OK(kr_conn_pause(p.r, p.ends[0]));
    char bytes[30000], back[30000];
    test_pattern(bytes, sizeof bytes, 1, 0);
    test_send(p.r, p.fds[0], bytes, sizeof bytes);
    for (unsigned i = 0; i < 20; i++)
        test_step(p.r, "nothing");
    CHECK_EQ(test_recv_some(p.fds[1], back, sizeof back), 0);
    CHECK_OK(kr_conn_resume(p.r, p.ends[0]));
    test_recv(p.r, p.fds[1], back, sizeof back);
    test_pattern_check(back, sizeof back, 1, 0);
    shut(p.fds[0]);
    shut(p.fds[1]);
    finish(&p);
}

/* Ours: large receives are handed on in their buffers, not copied. */
TEST_EACH(forward_copies_no_large_receives) {
    struct pair p = {0};
    begin(&p);
    char bytes[32768], back[32768];
    for (unsigned i = 0; i < 20; i++) {
        test_pattern(bytes, sizeof bytes, 1, i);
        test_send(p.r, p.fds[0], bytes, sizeof bytes);
        test_recv(p.r, p.fds[1], back, sizeof back);
        CHECK_MEM_EQ(bytes, back, sizeof bytes);
    }
    struct kr_stats stats = test_stats(p.r);
    CHECK_EQ(stats.bytes_forwarded, 20 * sizeof bytes);
    /* the odd small piece of a large one */
    CHECK_LE(stats.bytes_copied, stats.bytes_forwarded / 10);
    shut(p.fds[0]);
    shut(p.fds[1]);
    finish(&p);
}

/* Ours: with one or two receive buffers, and clients that stall, all bytes pass. */
TEST_EACH(forward_through_few_buffers, .deadline_s = 60) {
    for (unsigned count = 1; count <= 2; count++) {
        struct pair p = {0};
        struct kr_config config = test_config();
        config.buf_count = count;
        config.buf_size = 2048;
        begin_with(&p, &config, NULL, 4096);
        struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 1, .total = 400000};
        struct flow ba = {.from = p.fds[1], .to = p.fds[0], .seed = 2, .total = 400000};
        while (!flows_move(&ab, &ba))
            test_step(p.r, "bytes to pass");
        shut(p.fds[1]);
        shut(p.fds[0]);
        finish(&p);
    }
}

/* Ours: without memory for the queue the pair breaks, and nobody takes what arrived for the
 * whole. */
TEST_EACH(forward_without_memory_breaks) {
    struct pair p = {.by_hand = true};
    begin(&p);
    p.opts.keep_open = true;
    test_reactor_refuse_memory(p.r, 0);
    CHECK_ERR(kr_conn_forward(p.r, p.ends[0], p.ends[1], &p.opts, over, &p), ENOMEM);
    test_reactor_refuse_memory(p.r, -1);
    pair_up(&p);
    test_reactor_refuse_memory(p.r, 0);
    char bytes[3000] = {0};
    test_send(p.r, p.fds[0], bytes, 300);
    TEST_UNTIL(p.r, p.closed == 2);
    test_reactor_refuse_memory(p.r, -1);
    CHECK_EQ(p.what.error, -ENOMEM);
    CHECK_EQ(test_recv_end(p.r, p.fds[0], NULL), ECONNRESET);
    CHECK_EQ(test_recv_end(p.r, p.fds[1], NULL), ECONNRESET);
    finish(&p);
}

/* Ours: a pair that stands when the reactor is freed is told of, before its ends are. */
TEST_EACH(forward_ends_with_the_reactor) {
    struct pair p = {0};
    begin(&p);
    test_reactor_free(p.r);
    CHECK_EQ(p.overs, 1u);
    CHECK_EQ(p.closed_when_over, 0u);
    CHECK_EQ(p.closed, 2u);
    CHECK_EQ(p.what.error, -ECANCELED);
    CHECK_EQ(p.whys[0], KR_WHY_REACTOR);
    test_close(p.fds[0]);
    test_close(p.fds[1]);
}

/* Ours: a stream whose end has been told of is forwarded as one that ends at once. */
TEST_EACH(forward_after_the_end_was_told) {
    struct pair p = {.by_hand = true, .stays = true};
    begin(&p);
    shut(p.fds[0]);
    TEST_UNTIL(p.r, p.eofs[0] == 1);
    pair_up(&p);
    CHECK_EQ(test_recv_end(p.r, p.fds[1], NULL), 0);
    struct flow ba = {.from = p.fds[1], .to = p.fds[0], .seed = 2, .total = 50000};
    flow_run(p.r, &ba);
    shut(p.fds[1]);
    TEST_UNTIL(p.r, p.closed == 2);
    CHECK_EQ(p.what.bytes_ab, 0u);
    CHECK_EQ(p.what.bytes_ba, 50000u);
    CHECK_EQ(p.what.error, 0);
    finish(&p);
}

/* Ours: bad arguments are refused and change nothing. */
TEST_EACH(forward_refuses_bad_arguments) {
    struct pair p = {.by_hand = true};
    begin(&p);
    kr_conn a = p.ends[0], b = p.ends[1];
    struct kr_forward_opts bad = p.opts;
    bad.size = 1;
    CHECK_ERR(kr_conn_forward(NULL, a, b, NULL, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_forward(p.r, a, b, &bad, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_forward(p.r, a, a, NULL, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_forward(p.r, a, (kr_conn){0}, NULL, NULL, NULL), ESTALE);
    CHECK_ERR(kr_conn_forward(p.r, (kr_conn){0}, b, NULL, NULL, NULL), ESTALE);
    CHECK_ERR(kr_conn_forward_stop(p.r, a), EINVAL);
    CHECK_ERR(kr_conn_forward_stop(p.r, (kr_conn){0}), ESTALE);
    pair_up(&p);
    CHECK_ERR(kr_conn_forward(p.r, a, b, NULL, NULL, NULL), EBUSY);
    CHECK_ERR(kr_conn_forward(p.r, b, a, NULL, NULL, NULL), EBUSY);
    CHECK_OK(kr_conn_close(p.r, a, KR_CLOSE_NOW));
    CHECK_ERR(kr_conn_forward(p.r, a, b, NULL, NULL, NULL), EPIPE);
    finish(&p);
}

/* Ours: a destination that was shut down takes nothing: at the start that is -EPIPE, later it
 * breaks the pair. */
TEST_EACH(forward_to_a_destination_shut_down) {
    struct pair p = {.by_hand = true};
    begin(&p);
    p.opts.one_way = true;
    CHECK_OK(kr_conn_shutdown(p.r, p.ends[0]));
    CHECK_ERR(kr_conn_forward(p.r, p.ends[1], p.ends[0], &p.opts, over, &p), EPIPE);
    pair_up(&p);
    CHECK_OK(kr_conn_shutdown(p.r, p.ends[1]));
    test_send(p.r, p.fds[0], "x", 1);
    TEST_UNTIL(p.r, p.closed == 2);
    CHECK_EQ(p.what.error, -EPIPE);
    finish(&p);
}

/* Ours: in a forked child the pair goes with the rest of the copies; the parent's forwards on. */
TEST_EACH(forward_in_a_forked_child_is_given_back) {
    struct pair p = {0};
    begin(&p);
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        test_reactor_free(p.r);
        CHECK_EQ(p.overs + p.closed, 0u);
        tap_exit_child(0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
    struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 1, .total = 100000};
    flow_run(p.r, &ab);
    shut(p.fds[0]);
    shut(p.fds[1]);
    finish(&p);
}

/* Ours: forwarding that begins while the destination's queue is above its high mark waits for
 * it. */
TEST_EACH(forward_to_a_full_destination_waits) {
    struct pair p = {.by_hand = true};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.send_low = opts.conn.send_high = 1000;
    begin_with(&p, NULL, &opts, 4096);
    static char much[8 << 20];
    test_pattern(much, sizeof much, 1, 0);
    CHECK_OK(kr_conn_send(p.r, p.ends[1], much, sizeof much));
    test_step(p.r, "the send");
    pair_up(&p);
    test_send(NULL, p.fds[0], "last", 4);
    for (size_t got = 0; got < sizeof much; got += 4096) {
        char bytes[4096];
        test_recv(p.r, p.fds[1], bytes, sizeof bytes);
        test_pattern_check(bytes, sizeof bytes, 1, got);
    }
    CHECK_RECV(p.r, p.fds[1], "last");
    CHECK_EQ(p.seen_size[0], 0u);
    shut(p.fds[0]);
    shut(p.fds[1]);
    finish(&p);
}

/* A third connection, whose bytes are kept and shown again: what its on_data does, it does in the
 * phase of a turn that shows kept bytes. Or it lends a byte, and does it when that comes back. */
struct third {
    struct pair *p;
    kr_conn conn;
    int fd;
    bool kept, acted;
    uint64_t turn; /* in which it acted */
};

static void third_acts(struct kr_reactor *r, struct third *t) {
    t->acted = true;
    t->turn = test_stats(r).turns;
    CHECK_OK(kr_conn_close(r, t->p->ends[0], KR_CLOSE_NOW));
}

static size_t third_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    struct third *t = user;
    (void)data;
    if (t->kept) {
        third_acts(r, t);
        return size;
    }
    t->kept = true;
    CHECK_OK(kr_conn_pause(r, conn));
    return 0;
}

static const struct kr_conn_ops third_ops = {.on_data = third_data};

static void third_begin(struct third *t, struct pair *p) {
    int fds[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
    *t = (struct third){.p = p, .fd = fds[1]};
    CHECK_OK(kr_conn_adopt(p->r, &t->conn, fds[0], NULL, &third_ops, t));
    CHECK_EQ(send(t->fd, "x", 1, MSG_NOSIGNAL), 1);
    TEST_UNTIL(p->r, t->kept);
}

static void third_end(const struct third *t) {
    CHECK_OK(kr_conn_close(t->p->r, t->conn, KR_CLOSE_NOW));
    test_close(t->fd);
}

static bool is_idle(const struct kr_reactor *r, kr_conn conn) {
    const struct kr__conn *c = kr__conn_find(r, conn);
    return c && c->owner.inflight == 0;
}

/* Ours: a pair is told of before its ends, and its other end follows, also if one is closed that
 * has nothing in flight, so that its CLOSE could be made at once; and that end's on_close comes in
 * a later turn than the close. From the phase that shows kept bytes. */
TEST_EACH(forward_told_of_an_end_closed_while_kept_bytes_are_shown) {
    struct pair p = {0};
    struct third third;
    begin(&p);
    third_begin(&third, &p);
    CHECK_OK(kr_conn_pause(p.r, p.ends[0]));
    TEST_UNTIL(p.r, is_idle(p.r, p.ends[0]));
    CHECK_OK(kr_conn_resume(p.r, third.conn));
    TEST_UNTIL(p.r, p.closed == 2);
    CHECK_EQ(p.what.error, -ECANCELED);
    CHECK_GT(p.closed_in_turn, third.turn);
    third_end(&third);
    finish(&p);
}

static void lent_back(struct kr_reactor *r, void *arg) {
    third_acts(r, arg);
}

/* Ours: the same from the release of what was lent. */
TEST_EACH(forward_told_of_an_end_closed_by_a_release) {
    struct pair p = {0};
    struct third third;
    begin(&p);
    third_begin(&third, &p);
    CHECK_OK(kr_conn_pause(p.r, p.ends[0]));
    TEST_UNTIL(p.r, is_idle(p.r, p.ends[0]));
    CHECK_OK(kr_conn_send_ref(p.r, third.conn, "y", 1, lent_back, &third));
    TEST_UNTIL(p.r, p.closed == 2);
    CHECK_EQ(p.what.error, -ECANCELED);
    CHECK_GT(p.closed_in_turn, third.turn);
    third_end(&third);
    finish(&p);
}

static const struct kr_conn_ops plain_ops = {.on_data = on_data, .on_close = on_close};

/* Ours: the same of an end that closes by itself, as the end of its peer is shown to nobody: with
 * one way the other end's stream is its own. */
TEST_EACH(forward_told_of_an_end_that_ends_by_itself) {
    struct pair p = {.by_hand = true};
    begin(&p);
    p.opts.one_way = true;
    pair_up(&p);
    CHECK_OK(kr_conn_swap(p.r, p.ends[1], &plain_ops, &p));
    CHECK_OK(kr_conn_pause(p.r, p.ends[1]));
    TEST_UNTIL(p.r, is_idle(p.r, p.ends[1]));
    shut(p.fds[1]);
    CHECK_OK(kr_conn_resume(p.r, p.ends[1]));
    TEST_UNTIL(p.r, p.closed == 2);
    CHECK_EQ(p.what.error, -ECANCELED);
    CHECK_EQ(p.whys[1], KR_WHY_PEER);
    finish(&p);
}

/* Ours: a reactor that never ran tells of the pairs that it was given, with a time that is now. */
static void over_unrun(struct kr_reactor *r, kr_conn a, kr_conn b, void *user,
                       const struct kr_forwarded *what) {
    struct pair *p = user;
    CHECK_GT(kr_now(r), p->closed_in_turn); /* here: when it began */
    over(r, a, b, user, what);
}

TEST_EACH(forward_told_of_in_a_reactor_that_never_ran) {
    struct pair p = {.closed_in_turn = (uint64_t)tap_now_ns()};
    kr_forward_opts_init(&p.opts);
    p.r = test_reactor(NULL);
    for (unsigned i = 0; i < 2; i++) {
        int fds[2];
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
        CHECK_OK(kr_conn_adopt(p.r, &p.ends[i], fds[0], NULL, &ops, &p));
        p.fds[i] = fds[1];
    }
    CHECK_OK(kr_conn_forward(p.r, p.ends[0], p.ends[1], &p.opts, over_unrun, &p));
    test_reactor_free(p.r);
    CHECK_EQ(p.overs, 1u);
    CHECK_EQ(p.closed_when_over, 0u);
    CHECK_EQ(p.closed, 2u);
    CHECK_EQ(p.what.error, -ECANCELED);
    test_close(p.fds[0]);
    test_close(p.fds[1]);
}

/* Ours: with keep_open an end of stream ends its way only: the other end can still be written to,
 * and the users are told of the end when they have their connections again. */
static void check_kept_open(bool one_way) {
    struct pair p = {.by_hand = true, .stays = true};
    begin(&p);
    p.opts.keep_open = true;
    p.opts.one_way = one_way;
    pair_up(&p);
    struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 1, .total = 5000};
    flow_run(p.r, &ab);
    shut(p.fds[0]);
    if (!one_way) { /* the other way goes on */
        struct flow ba = {.from = p.fds[1], .to = p.fds[0], .seed = 2, .total = 30000};
        flow_run(p.r, &ba);
        CHECK_EQ(p.overs + p.eofs[0], 0u);
        shut(p.fds[1]);
    }
    TEST_UNTIL(p.r, p.overs == 1);
    CHECK_EQ(p.what.error, 0);
    CHECK_EQ(p.what.bytes_ab, 5000u);
    TEST_UNTIL(p.r, p.eofs[0] == 1 && p.eofs[1] == (one_way ? 0 : 1));
    for (unsigned i = 0; i < 2; i++) {
        char byte;
        CHECK_EQ(test_recv_some(p.fds[i], &byte, 1), 0); /* neither an end nor a byte */
        CHECK_OK(kr_conn_send(p.r, p.ends[i], "more", 4));
        CHECK_RECV(p.r, p.fds[i], "more");
    }
    CHECK_EQ(p.closed, 0u);
    CHECK_OK(kr_conn_close(p.r, p.ends[0], KR_CLOSE_FLUSH));
    CHECK_OK(kr_conn_close(p.r, p.ends[1], KR_CLOSE_FLUSH));
    finish(&p);
}

TEST_EACH(forward_kept_open_passes_no_end_of_stream) {
    check_kept_open(true);
    check_kept_open(false);
}

/* Ours: with keep_open bytes that the destination refuses, because it was shut down, are their
 * source's again. */
TEST_EACH(forward_kept_open_keeps_what_is_refused) {
    struct pair p = {.by_hand = true, .stays = true};
    begin(&p);
    p.opts.keep_open = true;
    pair_up(&p);
    CHECK_OK(kr_conn_shutdown(p.r, p.ends[1]));
    test_send(p.r, p.fds[0], "late", 4);
    TEST_UNTIL(p.r, p.seen_size[0] == 4);
    CHECK_MEM_EQ(p.seen[0], "late", 4);
    CHECK_EQ(p.overs, 1u);
    CHECK_EQ(p.what.error, -EPIPE);
    CHECK_EQ(p.what.bytes_ab, 0u);
    CHECK_OK(kr_conn_close(p.r, p.ends[0], KR_CLOSE_FLUSH));
    CHECK_OK(kr_conn_close(p.r, p.ends[1], KR_CLOSE_FLUSH));
    finish(&p);
}

/* Ours: callbacks that are swapped while an end forwards are not told of an end of stream that the
 * other end has got: the answer still comes. */
TEST_EACH(forward_goes_on_when_callbacks_are_swapped) {
    struct pair p = {0};
    begin(&p);
    struct flow ab = {.from = p.fds[0], .to = p.fds[1], .seed = 1, .total = 1000};
    flow_run(p.r, &ab);
    shut(p.fds[0]);
    CHECK_EQ(test_recv_end(p.r, p.fds[1], NULL), 0);
    CHECK_OK(kr_conn_swap(p.r, p.ends[0], &plain_ops, &p));
    CHECK_OK(kr_conn_pause(p.r, p.ends[0]));
    CHECK_OK(kr_conn_resume(p.r, p.ends[0]));
    struct flow ba = {.from = p.fds[1], .to = p.fds[0], .seed = 2, .total = 50000};
    flow_run(p.r, &ba);
    CHECK_EQ(p.overs, 0u);
    shut(p.fds[1]);
    CHECK_EQ(test_recv_end(p.r, p.fds[0], NULL), 0);
    TEST_UNTIL(p.r, p.closed == 2);
    CHECK_EQ(p.what.error, 0);
    finish(&p);
}

TAP_MAIN(forward, 29 * 4)
