/* Loans sent by zero-copy, on the real ring: in order, given back when the kernel lets go and not
 * when it has taken them, and in bounded time also when the peer acknowledges nothing.
 *
 * On loopback the kernel copies at the receiver's door and says so (where it can: with the
 * capabilities of Linux 6.1 it is not asked). What no receiver has taken in, because its window is
 * closed, stays where it is: that is how these cases have notifications that come late. Loans are
 * overwritten when they come back. */
#include "zerocopy/zerocopy.h"

struct kr_listen_opts zero_opts(int64_t flush_ns) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 64;
    opts.conn.send_cap = 64 * MIB;
    opts.conn.zerocopy_min = LARGE;
    opts.conn.flush_ns = flush_ns;
    return opts;
}

struct pair pair_of(const struct kr__kernel *kernel, const struct kr_listen_opts *opts) {
    struct pair p = {.r = test_reactor_on(kernel, NULL)};
    p.fd = test_connect_sized(test_listen(p.r, NULL, opts, &lender_ops, NULL), 0, 65536);
    TEST_UNTIL(p.r, lender_count == 1);
    p.lender = &lenders[0];
    return p;
}

struct pair pair_on(const struct kr__kernel *kernel, int64_t flush_ns) {
    struct kr_listen_opts opts = zero_opts(flush_ns);
    return pair_of(kernel, &opts);
}

struct pair pair_make(int64_t flush_ns) {
    return pair_on(&kr__linux, flush_ns);
}

void check_stream(struct pair *p, uint64_t from, size_t size) {
    lender_check_stream(p->r, p->lender, p->fd, from, size);
}

void check_over(struct pair *p, int error, enum kr_why why) {
    lender_check_over(p->r, p->lender, error, why);
}

void pair_end(struct pair *p) {
    test_close(p->fd);
    TEST_UNTIL(p->r, p->lender->closes == 1);
    test_rest(p->r, (struct test_levels){.listeners = 1});
    CHECK_EQ(p->r->zc_sends, 0u);
    test_reactor_free(p->r);
}

struct kr__conn *conn_of(const struct pair *p) {
    return kr__conn_find(p->r, p->lender->conn);
}

void await_flight(struct pair *p) {
    TEST_UNTIL(p->r, kr_conn_queued(p->r, p->lender->conn) == 0);
    for (int i = 0; i < 3; i++)
        test_step(p->r, "a notification that is not due");
    CHECK(kr__conn_zc_pending(conn_of(p)));
    CHECK_LT(p->lender->returned, p->lender->lent);
}

/* Whether the running variant is told that the kernel has copied. */
static bool is_told(void) {
    return tap_has_caps(KR__CAP_ZC_REPORT);
}

/* ---- bytes ---- */

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

static int send_somehow(struct kr_reactor *r, struct lender *lender) {
    switch (tap_random_below(4)) {
    case 0:
        return lend_copy(r, lender, 1 + (size_t)tap_random_below(2000));
    case 1:
        return lend(r, lender, 1 + (size_t)tap_random_below(LARGE));
    default:
        return lend(r, lender, LARGE + (size_t)tap_random_below(100000));
    }
}

/* Ours: loans that are large, loans that are not, and copies keep their order, over short sends,
 * parked sends and notifications that come whenever. */
TEST_EACH(zerocopy_keeps_order, .deadline_s = 60) {
    struct kr_listen_opts opts = zero_opts(30000 * MS);
    opts.conn.send_cap = 600000;
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, &opts, &lender_ops, NULL);
    struct reader readers[CONNS_MAX] = {{0}};
    for (unsigned i = 0; i < CONNS_MAX; i++) {
        readers[i].fd = test_connect_sized(port, 0, i % 2 ? 32768 : 0);
        TEST_UNTIL(r, lender_count == i + 1);
    }
    uint64_t total = tap_full() ? 8 * MIB : 2 * MIB;
    for (bool more = true; more;) {
        more = false;
        for (unsigned i = 0; i < CONNS_MAX; i++) {
            struct lender *lender = &lenders[i];
            for (int k = 0; k < 5 && lender->queued < total; k++) {
                int rc = send_somehow(r, lender);
                CHECK(rc == 0 || rc == -ENOBUFS);
            }
            for (int k = 0; k < 4; k++)
                read_some(&readers[i], lender->seed);
            more |= lender->queued < total || readers[i].got < lender->queued;
        }
        test_step(r, "all bytes of all streams");
    }
    test_rest(r, (struct test_levels){.conns = CONNS_MAX,
                                      .listeners = 1,
                                      .blocks = (unsigned)test_stats(r).blocks_out});
    CHECK_GE(test_stats(r).zerocopy_sends, is_told() ? CONNS_MAX : 10 * CONNS_MAX);
    CHECK_EQ(test_stats(r).zerocopy_copied > 0, is_told());
    for (unsigned i = 0; i < CONNS_MAX; i++) {
        CHECK_EQ(lenders[i].lent, lenders[i].returned);
        test_close(readers[i].fd);
    }
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* The kernel's, on which all of this rests: a loan is not let go when it is taken, but when the
 * peer has taken it; and ours: that is when it comes back, not before. */
TEST_EACH(zerocopy_comes_back_when_the_peer_has_read) {
    struct pair p = pair_make(30000 * MS);
    for (unsigned i = 0; i < 4; i++)
        CHECK_OK(lend(p.r, p.lender, 200000));
    await_flight(&p);
    check_stream(&p, 0, 800000);
    TEST_UNTIL(p.r, p.lender->returned == 4);
    CHECK_EQ(p.r->zc_sends, 0u);
    pair_end(&p);
}

/* Ours: while notifications are outstanding the next sends go, by either way. The first is of more
 * than the peer's window takes, and stays outstanding; one that the peer has acknowledged may be
 * told to be a copy, and then the next ones are (is_told). */
TEST_EACH(zerocopy_does_not_hold_up_what_follows) {
    struct pair p = pair_make(30000 * MS);
    for (unsigned i = 0; i < 10; i++) {
        CHECK_OK(i % 2 ? lend_copy(p.r, p.lender, 1000) : lend(p.r, p.lender, i ? 50000 : 200000));
        TEST_UNTIL(p.r, kr_conn_queued(p.r, p.lender->conn) == 0);
    }
    CHECK_LT(p.lender->returned, p.lender->lent);
    check_stream(&p, 0, p.lender->queued);
    TEST_UNTIL(p.r, p.lender->returned == p.lender->lent);
    pair_end(&p);
}

/* Ours: what a kernel that tells copies all the same is sent by plain copying from then on; of one
 * that does not tell, nothing is known. */
TEST_EACH(zerocopy_stops_where_it_is_in_vain) {
    struct pair p = pair_make(30000 * MS);
    CHECK_OK(lend(p.r, p.lender, LARGE));
    check_stream(&p, 0, LARGE);
    TEST_UNTIL(p.r, p.lender->returned == 1);
    CHECK_EQ(test_stats(p.r).zerocopy_sends, 1u);
    CHECK_EQ(test_stats(p.r).zerocopy_copied, is_told() ? 1u : 0u);
    for (unsigned i = 1; i < 5; i++) {
        CHECK_OK(lend(p.r, p.lender, 5 * LARGE));
        check_stream(&p, p.lender->queued - 5 * LARGE, 5 * LARGE);
    }
    TEST_UNTIL(p.r, p.lender->returned == 5);
    CHECK_EQ(test_stats(p.r).zerocopy_sends == 1, is_told());
    CHECK_GE(test_stats(p.r).zerocopy_sends, is_told() ? 1u : 5u);
    pair_end(&p);
}

/* The kernel's: sockets other than of IP cannot (-EOPNOTSUPP); ours: then the loan is copied, and
 * so is what follows. */
TEST_EACH(zerocopy_is_for_sockets_that_can) {
    struct kr_listen_opts opts = zero_opts(30000 * MS);
    struct pair p = {.r = test_reactor(NULL), .lender = &lenders[0]};
    struct kr_addr addr = {.size = sizeof(sa_family_t), .u.sa.sa_family = AF_UNIX};
    kr_listener listener;
    CHECK_OK(kr_listen(p.r, &listener, &addr, &opts, &lender_ops, NULL));
    CHECK_OK(kr_listener_addr(p.r, listener, &addr));
    p.fd = CHECK_SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    CHECK_SYS(connect(p.fd, &addr.u.sa, addr.size));
    TEST_UNTIL(p.r, lender_count == 1);
    for (unsigned i = 0; i < 3; i++) {
        CHECK_OK(lend(p.r, p.lender, 5 * LARGE));
        check_stream(&p, i * 5 * LARGE, 5 * LARGE);
        TEST_UNTIL(p.r, p.lender->returned == i + 1);
    }
    CHECK_EQ(test_stats(p.r).zerocopy_sends, 1u);
    CHECK_EQ(test_stats(p.r).zerocopy_copied, 0u);
    pair_end(&p);
}

/* A ring that was made with CAP_IPC_LOCK may lock memory without limit (io_uring/io_uring.c:
 * ctx->user). */
static void give_up_locking(void) {
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[2];
    CHECK_SYS(syscall(SYS_capget, &head, caps));
    caps[0].effective &= ~(1u << CAP_IPC_LOCK);
    CHECK_SYS(syscall(SYS_capset, &head, caps));
}

static struct pair pair_without_locked_memory(void) {
    tap_need_kernel(6, 14); /* which charges sends (about that; 6.12.117 does not) */
    give_up_locking();
    struct pair p = pair_make(30000 * MS);
    struct rlimit limit;
    CHECK_SYS(getrlimit(RLIMIT_MEMLOCK, &limit));
    limit.rlim_cur = 0;
    CHECK_SYS(setrlimit(RLIMIT_MEMLOCK, &limit));
    return p;
}

/* The kernel's: who may lock no memory is answered -ENOMEM; ours: then the loan is copied, and the
 * next queue tries again. */
TEST_EACH(zerocopy_goes_by_copy_without_locked_memory) {
    struct pair p = pair_without_locked_memory();
    for (unsigned i = 0; i < 3; i++) {
        CHECK_OK(lend(p.r, p.lender, 5 * LARGE));
        CHECK_OK(lend(p.r, p.lender, LARGE));
        check_stream(&p, i * 6 * LARGE, 6 * LARGE);
        TEST_UNTIL(p.r, p.lender->returned == 2 * (i + 1));
        CHECK_EQ(test_stats(p.r).zerocopy_sends, i + 1);
        CHECK(conn_of(&p)->more->zerocopy.refused);
    }
    CHECK_EQ(test_stats(p.r).zerocopy_copied, 0u);
    CHECK(!conn_of(&p)->more->zerocopy.off);
    pair_end(&p);
}

/* Ours: a dump tells how many notifications are awaited. */
TEST_EACH(zerocopy_is_dumped) {
    struct pair p = pair_make(30000 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    CHECK_OK(kr_dump(p.r, ends[0]));
    CHECK_SYS(shutdown(ends[0], SHUT_WR));
    static char text[65536];
    size_t size = 0;
    ssize_t n;
    while ((n = read(ends[1], text + size, sizeof text - 1 - size)) > 0)
        size += (size_t)n;
    char want[32];
    snprintf(want, sizeof want, " zc_sends %u", conn_of(&p)->more->zerocopy.zc_sends.count);
    if (!strstr(text, want))
        FAIL("the dump does not say \"%s\": %s", want, text);
    test_close(ends[0]);
    test_close(ends[1]);
    check_stream(&p, 0, MIB / 2);
    pair_end(&p);
}

static void file_done(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    (void)r;
    CHECK_EQ(sent, 0u);
    CHECK_OK(error);
    ++*(unsigned *)arg;
}

/* Ours: a file that turns out to be empty leaves its place among the loans, and they fly on over
 * it. */
TEST_EACH(zerocopy_goes_on_over_an_empty_file) {
    struct pair p = pair_make(30000 * MS);
    FILE *file = tmpfile();
    CHECK(file != NULL);
    unsigned done = 0;
    CHECK_OK(lend(p.r, p.lender, 12 * MIB));
    CHECK_OK(
        kr_conn_send_file(p.r, p.lender->conn, fileno(file), 0, KR_FILE_END, file_done, &done));
    CHECK_OK(lend(p.r, p.lender, LARGE));
    CHECK_OK(lend(p.r, p.lender, LARGE));
    for (int i = 0; i < 5; i++)
        test_step(p.r, "the file's end, and a send that parks");
    check_stream(&p, 0, p.lender->queued);
    TEST_UNTIL(p.r, p.lender->returned == 3 && done == 1);
    CHECK_OK(fclose(file));
    pair_end(&p);
}

/* Ours: only loans of zerocopy_min bytes and more go so, and none where it is 0. */
TEST_EACH(zerocopy_is_for_large_loans) {
    struct pair p = pair_make(30000 * MS);
    CHECK_OK(lend(p.r, p.lender, LARGE - 1));
    CHECK_OK(lend_copy(p.r, p.lender, 2 * LARGE));
    check_stream(&p, 0, p.lender->queued);
    CHECK_EQ(test_stats(p.r).zerocopy_sends, 0u);
    pair_end(&p);
}

/* Ours: no more than so many notifications of a connection are awaited; what follows is copied. */
TEST_EACH(zerocopy_has_a_bound) {
    struct kr_listen_opts opts = zero_opts(30000 * MS);
    opts.conn.zerocopy_min = 10;
    struct pair p = pair_of(&kr__linux, &opts);
    unsigned loans = KR__FLIGHTS_MAX + 20;
    CHECK_OK(lend_copy(p.r, p.lender, MIB / 4)); /* more than is received now */
    for (unsigned i = 0; i < loans; i++) {
        CHECK_OK(lend(p.r, p.lender, 10));
        TEST_UNTIL(p.r, kr_conn_queued(p.r, p.lender->conn) == 0);
    }
    CHECK_EQ(conn_of(&p)->more->zerocopy.zc_sends.count, KR__FLIGHTS_MAX);
    check_stream(&p, 0, p.lender->queued);
    TEST_UNTIL(p.r, p.lender->returned == loans);
    pair_end(&p);
}

static unsigned kinds[4], corks;

static void see(const struct io_uring_sqe *sqe) {
    static const uint8_t codes[] = {IORING_OP_SEND, IORING_OP_SENDMSG, IORING_OP_SEND_ZC,
                                    IORING_OP_SENDMSG_ZC};
    for (unsigned i = 0; i < 4; i++) {
        if (sqe->opcode != codes[i])
            continue;
        kinds[i]++;
        corks += (sqe->msg_flags & MSG_MORE) != 0;
        CHECK_EQ(sqe->ioprio, i >= 2 && is_told() ? KR__SEND_ZC_REPORT_USAGE : 0);
    }
}

static int seeing_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                        unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    for (unsigned i = 0; i < submit; i++)
        see(&ring->sq.sqes[(*ring->sq.khead + i) & *ring->sq.kring_mask]);
    return kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
}

/* Ours: a queue of both kinds goes in turns, a send for each run of one kind, corked but for the
 * last. */
TEST_EACH(zerocopy_goes_in_runs) {
    struct kr__kernel kernel = kr__linux;
    kernel.ring.enter = seeing_enter;
    struct pair p = pair_on(&kernel, 30000 * MS);
    memset(kinds, 0, sizeof kinds);
    corks = 0;
    CHECK_OK(lend_copy(p.r, p.lender, 100));
    /* not all of it is received: no notification comes meanwhile */
    CHECK_OK(lend(p.r, p.lender, 300000));
    CHECK_OK(lend(p.r, p.lender, LARGE - 1));
    CHECK_OK(lend_copy(p.r, p.lender, 200));
    CHECK_OK(lend(p.r, p.lender, LARGE));
    CHECK_OK(lend(p.r, p.lender, LARGE + 1));
    TEST_UNTIL(p.r, !kr_conn_queued(p.r, p.lender->conn));
    unsigned want[] = {1, 1, 1, 1};
    CHECK_MEM_EQ(kinds, want, sizeof want);
    CHECK_EQ(corks, 3u);
    check_stream(&p, 0, p.lender->queued);
    pair_end(&p);
}

TAP_MAIN(zerocopy, 120)
