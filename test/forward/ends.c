/* Pairs that end: by a reset, an early answer, either end, a request, an error, the reactor. */
#include "forward/forward.h"

/* ---- how a pair ends ---- */

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
    test_send_pattern(p.r, p.fds[0], 500, 1, 20000);
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
        test_recv_pattern(p.r, p.fds[1], 4096, 1, got);
    }
    CHECK_RECV(p.r, p.fds[1], "last");
    CHECK_EQ(p.seen_size[0], 0u);
    shut(p.fds[0]);
    shut(p.fds[1]);
    finish(&p);
}
