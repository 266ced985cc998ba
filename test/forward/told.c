/* What is told of a pair, and when; and ends that stay open. */
#include "forward/forward.h"

/* ---- what is told ---- */

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
