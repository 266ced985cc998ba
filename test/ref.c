/* Lent bytes: each loan arrives in its place in the stream, and is given back once, in a phase of a
 * turn, before on_close, however the connection ends.
 */
#include "harness/lender.h"

#include "conn/reactor.h"
#include "kernel/kernel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int format(struct kr_reactor *r, struct lender *lender, size_t size) {
    void *room;
    int rc = kr_conn_reserve(r, lender->conn, size, &room);
    if (rc < 0)
        return rc;
    test_pattern(room, size, lender->seed, lender->queued);
    lender->queued += size;
    return kr_conn_commit(r, lender->conn, size);
}

/* A reactor, a connection, its client. */
struct pair {
    struct kr_reactor *r;
    uint16_t port;
    int fd;
    struct lender *lender;
};

static struct kr_listen_opts large_opts(void) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 64;
    opts.conn.send_cap = (size_t)64 << 20;
    return opts;
}

static struct pair pair_on(const struct kr__kernel *kernel, const struct kr_listen_opts *opts,
                           int recv_size) {
    struct kr_listen_opts large = large_opts();
    struct pair p = {.r = test_reactor_on(kernel, NULL)};
    p.port = test_listen(p.r, NULL, opts ? opts : &large, &lender_ops, NULL);
    p.fd = test_connect_sized(p.port, 0, recv_size);
    TEST_UNTIL(p.r, lender_count == 1);
    p.lender = &lenders[0];
    return p;
}

static struct pair pair_make(const struct kr_listen_opts *opts, int recv_size) {
    return pair_on(&kr__linux, opts, recv_size);
}

static void check_stream(struct pair *p, size_t size) {
    lender_check_stream(p->r, p->lender, p->fd, 0, size);
}

static void check_over(struct pair *p, int error, enum kr_why why) {
    lender_check_over(p->r, p->lender, error, why);
}

static void pair_end(struct pair *p) {
    test_close(p->fd);
    TEST_UNTIL(p->r, p->lender->closes == 1);
    test_reactor_end(p->r, (struct test_levels){.listeners = 1});
}

/* ---- order ---- */

static int send_somehow(struct kr_reactor *r, struct lender *lender) {
    size_t small = 1 + (size_t)tap_random_below(2000);
    switch (tap_random_below(6)) {
    case 0:
        return lend_copy(r, lender, small);
    case 1:
        return format(r, lender, small);
    case 2:
        return lend(r, lender, 1 + (size_t)tap_random_below(200000));
    default:
        return lend(r, lender, small);
    }
}

struct reader {
    int fd;
    uint64_t got;
};

static void read_some(struct reader *reader, uint64_t seed) {
    char bytes[16384];
    size_t most = 1 + (size_t)tap_random_below(sizeof bytes);
    long n = test_recv_some(reader->fd, bytes, most);
    CHECK_GE(n, 0);
    test_pattern_check(bytes, (size_t)n, seed, reader->got);
    reader->got += (uint64_t)n;
}

/* Ours: loans large and small, copies and bytes formatted in place keep their order over short
 * sends of all lengths, and each loan comes back once, when its bytes are on their way. */
TEST_EACH(ref_keeps_order_among_copies) {
    struct kr_listen_opts opts = large_opts();
    opts.conn.send_cap = 600000;
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, &opts, &lender_ops, NULL);
    struct reader readers[8] = {{0}};
    for (unsigned i = 0; i < 8; i++)
        readers[i].fd = test_connect_sized(port, 0, i % 2 ? 4096 : 0);
    TEST_UNTIL(r, lender_count == 8);
    /* Readers stand in the order of connecting, and so do the lenders: one backlog. */
    uint64_t total = tap_full() ? 8 << 20 : 1 << 20;
    for (bool more = true; more;) {
        more = false;
        for (unsigned i = 0; i < 8; i++) {
            struct lender *lender = &lenders[i];
            for (int k = 0; k < 20 && lender->queued < total; k++) {
                int rc = send_somehow(r, lender);
                CHECK(rc == 0 || rc == -ENOBUFS);
                if (rc < 0)
                    break;
            }
            read_some(&readers[i], lender->seed);
            CHECK_LE(readers[i].got, lender->queued);
            more |= lender->queued < total || readers[i].got < lender->queued;
        }
        test_step(r, "all bytes of all streams");
    }
    test_rest(r, (struct test_levels){.conns = 8, .listeners = 1});
    for (unsigned i = 0; i < 8; i++) {
        CHECK_EQ(lenders[i].lent, lenders[i].returned);
        CHECK_GT(lenders[i].lent, 2u);
        test_close(readers[i].fd);
    }
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: a loan's bytes are not copied, nor are they counted as such. */
TEST_EACH(ref_is_not_copied) {
    struct pair p = pair_make(NULL, 0);
    struct kr_stats before = test_stats(p.r);
    CHECK_OK(lend(p.r, p.lender, 100000));
    CHECK_EQ(kr_conn_queued(p.r, p.lender->conn), 100000u);
    check_stream(&p, 100000);
    TEST_UNTIL(p.r, p.lender->returned == 1);
    struct kr_stats after = test_stats(p.r);
    CHECK_EQ(after.bytes_copied, before.bytes_copied);
    CHECK_EQ(after.bytes_borrowed, before.bytes_borrowed + 100000);
    pair_end(&p);
}

/* ---- coming back ---- */

/* Ours: to an end in each manner, of a peer that reads nothing, with megabytes lent: all are back
 * before on_close, those in flight and those that never were. */
static void end_in_manner(enum kr_close how) {
    struct kr_listen_opts opts = large_opts();
    opts.conn.flush_ns = 20 * MS;
    struct pair p = pair_make(&opts, 4096);
    CHECK_OK(lend_copy(p.r, p.lender, 100));
    for (unsigned i = 0; i < 5; i++)
        CHECK_OK(lend(p.r, p.lender, (size_t)4 << 20));
    test_step(p.r, "the first send");
    CHECK_OK(lend(p.r, p.lender, 10));
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, how));
    CHECK_ERR(lend(p.r, p.lender, 10), EPIPE);
    bool late = how == KR_CLOSE_FLUSH;
    check_over(&p, late ? -ETIMEDOUT : 0, late ? KR_WHY_TIMEOUT : KR_WHY_LOCAL);
    CHECK_EQ(p.lender->lent, 6u);
    pair_end(&p);
}

TEST_EACH(ref_comes_back_before_close_flush) {
    end_in_manner(KR_CLOSE_FLUSH);
}

TEST_EACH(ref_comes_back_before_close_now) {
    end_in_manner(KR_CLOSE_NOW);
}

TEST_EACH(ref_comes_back_before_close_reset) {
    end_in_manner(KR_CLOSE_RESET);
}

/* Ours: KR_CLOSE_FLUSH delivers what was lent. */
TEST_EACH(ref_is_delivered_by_close_flush) {
    struct pair p = pair_make(NULL, 0);
    CHECK_OK(lend(p.r, p.lender, 3000000));
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, KR_CLOSE_FLUSH));
    check_stream(&p, 3000000);
    check_over(&p, 0, KR_WHY_LOCAL);
    pair_end(&p);
}

/* Ours: an error of the connection gives all loans back. */
TEST_EACH(ref_comes_back_when_the_peer_resets) {
    struct pair p = pair_make(NULL, 4096);
    for (unsigned i = 0; i < 20; i++)
        CHECK_OK(lend(p.r, p.lender, 1000000));
    test_step(p.r, "the first send");
    test_close_reset(p.fd);
    check_over(&p, -ECONNRESET, KR_WHY_ERROR);
    p.fd = test_connect(p.port);
    TEST_UNTIL(p.r, lender_count == 2);
    pair_end(&p);
}

/* Ours: kr_reactor_free returns when all loans are back, and each has come once. */
TEST_EACH(ref_comes_back_before_the_reactor_is_free) {
    struct pair p = pair_make(NULL, 4096);
    for (unsigned i = 0; i < 5; i++)
        CHECK_OK(lend(p.r, p.lender, (size_t)2 << 20));
    test_step(p.r, "the first send");
    CHECK_OK(kr_conn_send_ref(p.r, p.lender->conn, "", 0, loan_end, loan_new(p.lender, 0)));
    p.lender->lent++;
    test_reactor_free(p.r);
    CHECK_EQ(p.lender->closes, 1u);
    CHECK_EQ(p.lender->why, KR_WHY_REACTOR);
    CHECK_EQ(p.lender->returned, 6u);
    test_close(p.fd);
}

static bool losing;

/* As if the kernel had lost everything, for good. */
static int losing_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                        unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    return losing ? -EBADR : kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
}

/* Ours: even of a kernel that has lost completions the loans come back, before on_close, once. */
TEST_EACH(ref_comes_back_when_completions_are_lost) {
    struct kr__kernel kernel = kr__linux;
    kernel.ring.enter = losing_enter;
    struct pair p = pair_on(&kernel, NULL, 4096);
    CHECK_OK(lend_copy(p.r, p.lender, 1000));
    for (unsigned i = 0; i < 5; i++)
        CHECK_OK(lend(p.r, p.lender, (size_t)2 << 20));
    test_step(p.r, "the first send");
    losing = true;
    CHECK_ERR(kr_step(p.r, 0), EBADR);
    CHECK_OK(lend(p.r, p.lender, 77));
    CHECK_LT(p.lender->returned, 5u);
    test_reactor_free(p.r);
    CHECK_EQ(p.lender->closes, 1u);
    CHECK_EQ(p.lender->error, -EBADR);
    CHECK_EQ(p.lender->returned, 6u);
    test_close(p.fd);
}

/* Ours: a forked child has copies; it gives no loan back, and the parent's come back to the
 * parent. */
TEST_EACH(ref_does_not_come_back_in_a_forked_child) {
    struct pair p = pair_make(NULL, 4096);
    for (unsigned i = 0; i < 5; i++)
        CHECK_OK(lend(p.r, p.lender, (size_t)2 << 20));
    test_step(p.r, "the first send");
    CHECK_OK(kr_conn_send_ref(p.r, p.lender->conn, "", 0, loan_end, loan_new(p.lender, 0)));
    p.lender->lent++;
    unsigned returned = p.lender->returned;
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        CHECK_ERR(lend(p.r, p.lender, 1), ECHILD);
        test_reactor_free(p.r);
        CHECK_EQ(p.lender->returned, returned);
        _exit(0);
    }
    int status;
    CHECK_SYS(waitpid(child, &status, 0));
    CHECK_EQ(status, 0);
    check_stream(&p, (size_t)10 << 20);
    TEST_UNTIL(p.r, p.lender->returned == 6);
    pair_end(&p);
}

/* ---- nothing, nobody, and no ---- */

/* Ours: a loan of nothing comes back too, and no wait is between. */
TEST_EACH(ref_of_nothing_comes_back) {
    struct pair p = pair_make(NULL, 0);
    test_rest(p.r, (struct test_levels){.conns = 1, .listeners = 1});
    CHECK_OK(lend(p.r, p.lender, 0));
    CHECK_EQ(p.lender->returned, 0u);
    CHECK_OK(kr_step(p.r, -1));
    CHECK_EQ(p.lender->returned, 1u);
    CHECK_OK(kr_conn_send_ref(p.r, p.lender->conn, NULL, 0, NULL, NULL));
    CHECK_EQ(test_stats(p.r).sends_out, 0u);
    CHECK_EQ(kr_conn_queued(p.r, p.lender->conn), 0u);
    pair_end(&p);
}

/* Ours: without a callback nobody is told: constants. */
TEST_EACH(ref_of_constants_needs_no_release) {
    struct pair p = pair_make(NULL, 0);
    CHECK_OK(kr_conn_send_ref(p.r, p.lender->conn, "01234", 5, NULL, NULL));
    CHECK_OK(kr_conn_send(p.r, p.lender->conn, "56", 2));
    CHECK_OK(kr_conn_send_ref(p.r, p.lender->conn, "789", 3, NULL, NULL));
    CHECK_RECV(p.r, p.fd, "0123456789");
    test_rest(p.r, (struct test_levels){.conns = 1, .listeners = 1});
    CHECK_EQ(test_stats(p.r).bytes_copied, 2u);
    pair_end(&p);
}

/* Ours: what is refused is not borrowed, and nobody hears of it again. */
TEST_EACH(ref_that_is_refused_borrows_nothing) {
    struct kr_listen_opts opts = large_opts();
    opts.conn.send_low = opts.conn.send_high = opts.conn.send_cap = 1000;
    struct pair p = pair_make(&opts, 0);
    struct kr_reactor *r = p.r;
    kr_conn conn = p.lender->conn;
    CHECK_ERR(kr_conn_send_ref(r, conn, NULL, 1, loan_end, NULL), EINVAL);
    CHECK_ERR(kr_conn_send_ref(NULL, conn, "x", 1, loan_end, NULL), EINVAL);
    CHECK_ERR(kr_conn_send_ref(r, (kr_conn){0}, "x", 1, loan_end, NULL), ESTALE);
    CHECK_ERR(lend(r, p.lender, 1001), EMSGSIZE);
    CHECK_ERR(kr_conn_send_ref(r, conn, "x", SIZE_MAX, loan_end, NULL), EMSGSIZE);
    test_reactor_refuse_memory(r, 0);
    while (lend(r, p.lender, 1) == 0) {} /* until no block is left of those that are kept */
    test_reactor_refuse_memory(r, -1);
    CHECK_OK(lend(r, p.lender, 1));
    check_stream(&p, p.lender->queued);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    CHECK_EQ(p.lender->lent, p.lender->returned);
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
    CHECK_ERR(kr_conn_send_ref(r, conn, "x", 1, loan_end, NULL), EPIPE);
    pair_end(&p);
}

/* Ours: a loan ends an open reservation, as a send does. */
TEST_EACH(ref_ends_the_reservation) {
    struct pair p = pair_make(NULL, 0);
    void *room;
    CHECK_OK(kr_conn_reserve(p.r, p.lender->conn, 10, &room));
    CHECK_OK(lend(p.r, p.lender, 10));
    CHECK_ERR(kr_conn_commit(p.r, p.lender->conn, 10), EINVAL);
    check_stream(&p, 10);
    pair_end(&p);
}

/* ---- from the callback ---- */

#define CHAIN 200u

/* Each loan that comes back is the cause of the next, and the last one ends the connection. */
static void chain_next(struct kr_reactor *r, void *arg) {
    struct lender *lender = arg;
    lender->returned++;
    if (lender->returned == CHAIN) {
        CHECK_OK(kr_conn_close(r, lender->conn, KR_CLOSE_FLUSH));
        return;
    }
    CHECK_OK(
        kr_conn_send_ref(r, lender->conn, "0123456789", lender->returned % 11, chain_next, lender));
    lender->lent++;
}

/* Ours: from a loan's return everything may be done: lending again, also nothing, and closing. */
TEST_EACH(ref_may_lend_again_from_its_return) {
    struct pair p = pair_make(NULL, 0);
    CHECK_OK(kr_conn_send_ref(p.r, p.lender->conn, "", 0, chain_next, p.lender));
    p.lender->lent++;
    size_t got = 0;
    CHECK_EQ(test_recv_end(p.r, p.fd, &got), 0);
    size_t want = 0;
    for (size_t i = 1; i < CHAIN; i++)
        want += i % 11;
    CHECK_EQ(got, want);
    check_over(&p, 0, KR_WHY_LOCAL);
    pair_end(&p);
}

/* Ours: a connection whose queue was above its mark drains when loans are sent. */
TEST_EACH(ref_counts_for_the_marks) {
    struct kr_listen_opts opts = large_opts();
    opts.conn.send_low = 1000;
    opts.conn.send_high = 10000;
    struct pair p = pair_make(&opts, 0);
    CHECK_OK(lend(p.r, p.lender, 10001));
    check_stream(&p, 10001);
    TEST_UNTIL(p.r, p.lender->drains == 1);
    pair_end(&p);
}

/* ---- many pieces ---- */

#define PIECES 3000u

struct sendings {
    unsigned count;
    size_t pieces[64];
    unsigned flags[64];
};

static struct sendings seen;

static void see(const struct io_uring_sqe *sqe) {
    if (sqe->opcode != IORING_OP_SEND && sqe->opcode != IORING_OP_SENDMSG)
        return;
    const struct msghdr *msg = (const struct msghdr *)(uintptr_t)sqe->addr;
    CHECK_LT(seen.count, 64u);
    seen.pieces[seen.count] = sqe->opcode == IORING_OP_SENDMSG ? msg->msg_iovlen : 1;
    seen.flags[seen.count++] = sqe->msg_flags;
}

static int seeing_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                        unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    for (unsigned i = 0; i < submit; i++)
        see(&ring->sq.sqes[(*ring->sq.khead + i) & *ring->sq.kring_mask]);
    return kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
}

static struct pair pair_seen(void) {
    static struct kr__kernel kernel;
    kernel = kr__linux;
    kernel.ring.enter = seeing_enter;
    struct pair p = pair_on(&kernel, NULL, 0);
    seen = (struct sendings){0};
    return p;
}

/* Of the sends of one queue all but the last say that more follows; the last never does. */
static void check_corks(void) {
    for (unsigned i = 0; i < seen.count; i++)
        CHECK_EQ((seen.flags[i] & MSG_MORE) != 0, i + 1 < seen.count);
}

/* Ours: the kernel takes 1,024 pieces at a time (man sendmsg: IOV_MAX); more go in several sends,
 * as many at a time as there may be, corked until the last. */
TEST_EACH(ref_pieces_beyond_one_send) {
    struct pair p = pair_seen();
    for (unsigned i = 0; i < PIECES; i++)
        CHECK_OK(lend(p.r, p.lender, 1 + i % 7));
    check_stream(&p, p.lender->queued);
    TEST_UNTIL(p.r, p.lender->returned == PIECES);
    CHECK_EQ(seen.count, 3u);
    CHECK_EQ(seen.pieces[0], 1024u);
    CHECK_EQ(seen.pieces[1], 1024u);
    CHECK_EQ(seen.pieces[2], PIECES - 2048);
    check_corks();
    test_rest(p.r, (struct test_levels){.conns = 1, .listeners = 1});
    pair_end(&p);
}

/* Ours: with memory for a shorter list fewer pieces go at a time, and with none one does. */
TEST_EACH(ref_pieces_without_memory_for_their_list) {
    for (int64_t grants = 0; grants < 2; grants++) {
        lender_count = 0;
        struct pair p = pair_seen();
        for (unsigned i = 0; i < 40; i++)
            CHECK_OK(lend(p.r, p.lender, 1 + i % 7));
        CHECK_OK(lend_copy(p.r, p.lender, 10));
        test_reactor_refuse_memory(p.r, grants);
        check_stream(&p, p.lender->queued);
        test_reactor_refuse_memory(p.r, -1);
        TEST_UNTIL(p.r, p.lender->returned == 40);
        CHECK_GE(seen.count, grants ? 1u : 2u);
        check_corks();
        CHECK_LT(seen.pieces[0], grants ? 42u : 41u);
        pair_end(&p);
    }
}

/* Ours: what is queued while a send is in flight was not in sight when it was made, and nothing is
 * corked for it; nor is a single piece. */
TEST_EACH(ref_pieces_of_later_turns_are_not_waited_for) {
    struct pair p = pair_seen();
    for (unsigned i = 0; i < 10; i++) {
        CHECK_OK(lend(p.r, p.lender, 1 + i));
        test_step(p.r, "a send");
    }
    check_stream(&p, p.lender->queued);
    CHECK_EQ(seen.count, 10u);
    for (unsigned i = 0; i < seen.count; i++)
        CHECK(!(seen.flags[i] & MSG_MORE));
    pair_end(&p);
}

/* Ours: kr_conn_sendv takes any count of pieces. */
TEST_EACH(ref_pieces_of_one_call) {
    struct pair p = pair_seen();
    enum { COUNT = 70000 };
    static char bytes[COUNT];
    static struct iovec iov[COUNT];
    test_pattern(bytes, COUNT, p.lender->seed, 0);
    for (unsigned i = 0; i < COUNT; i++)
        iov[i] = (struct iovec){bytes + i, 1};
    CHECK_OK(kr_conn_sendv(p.r, p.lender->conn, iov, COUNT));
    check_stream(&p, COUNT);
    CHECK_ERR(kr_conn_sendv(p.r, p.lender->conn, iov, -1), EINVAL);
    pair_end(&p);
}

TAP_MAIN(ref, 80)
