/* Ends of connections whose loans the kernel still holds. */
#include "zerocopy/zerocopy.h"

/* ---- ends ---- */

/* The peer sees RST, whatever it reads before. */
static void check_reset(struct pair *p) {
    CHECK_EQ(test_recv_end(p->r, p->fd, NULL), ECONNRESET);
}

/* Ours: a peer that acknowledges nothing holds a closed connection and the loans for flush_ns, and
 * no longer. */
TEST_EACH(zerocopy_close_now_waits_no_longer_than_flush) {
    struct pair p = pair_make(50 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    int64_t began = tap_now_ns();
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, KR_CLOSE_NOW));
    check_over(&p, 0, KR_WHY_LOCAL);
    CHECK_GE(p.lender->closed_at - began, 50 * MS);
    check_reset(&p);
    pair_end(&p);
}

/* Ours: for KR_CLOSE_FLUSH that means bytes were lost, and it says so. */
TEST_EACH(zerocopy_close_flush_times_out) {
    struct pair p = pair_make(50 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, KR_CLOSE_FLUSH));
    check_over(&p, -ETIMEDOUT, KR_WHY_TIMEOUT);
    check_reset(&p);
    pair_end(&p);
}

/* Ours: with a send parked as well, and loans behind it. */
TEST_EACH(zerocopy_close_flush_times_out_with_a_send_in_flight) {
    struct pair p = pair_make(50 * MS);
    for (unsigned i = 0; i < 6; i++)
        CHECK_OK(lend(p.r, p.lender, 4 * MIB));
    test_step(p.r, "the first send");
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, KR_CLOSE_FLUSH));
    check_over(&p, -ETIMEDOUT, KR_WHY_TIMEOUT);
    pair_end(&p);
}

/* Ours: KR_CLOSE_NOW waits for no room in a full socket. */
TEST_EACH(zerocopy_close_now_of_a_full_socket) {
    struct pair p = pair_make(50 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB));
    await_flight(&p);
    for (unsigned i = 0; i < 6; i++)
        CHECK_OK(lend(p.r, p.lender, 4 * MIB));
    for (int i = 0; i < 5; i++)
        test_step(p.r, "a send that meets a full socket");
    TEST_UNTIL(p.r, conn_of(&p)->owner.armed & KR__SET(send_poll));
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, KR_CLOSE_NOW));
    check_over(&p, 0, KR_WHY_LOCAL);
    pair_end(&p);
}

/* Ours: KR_CLOSE_RESET waits for nobody. */
TEST_EACH(zerocopy_close_reset_is_at_once) {
    struct pair p = pair_make(3600000 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, KR_CLOSE_RESET));
    check_over(&p, 0, KR_WHY_LOCAL);
    check_reset(&p);
    pair_end(&p);
}

/* Ours: nor does it when a softer close is waiting already. */
TEST_EACH(zerocopy_close_is_made_harder) {
    struct pair p = pair_make(3600000 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    for (int how = KR_CLOSE_FLUSH; how <= KR_CLOSE_NOW; how++) {
        CHECK_OK(kr_conn_close(p.r, p.lender->conn, (enum kr_close)how));
        for (int i = 0; i < 4; i++)
            test_step(p.r, "nothing");
        CHECK_EQ(p.lender->closes, 0u);
    }
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, KR_CLOSE_RESET));
    check_over(&p, 0, KR_WHY_LOCAL);
    check_reset(&p);
    pair_end(&p);
}

/* Ours: a peer that reads, however late, gets all and then FIN. */
TEST_EACH(zerocopy_close_flush_delivers) {
    for (int how = KR_CLOSE_FLUSH; how <= KR_CLOSE_NOW; how++) {
        lender_count = 0;
        struct pair p = pair_make(30000 * MS);
        CHECK_OK(lend(p.r, p.lender, MIB / 2));
        await_flight(&p);
        CHECK_OK(kr_conn_close(p.r, p.lender->conn, (enum kr_close)how));
        for (int i = 0; i < 20; i++)
            test_step(p.r, "a peer that takes its time");
        CHECK_EQ(p.lender->closes, 0u);
        check_stream(&p, 0, MIB / 2);
        CHECK_EQ(test_recv_end(p.r, p.fd, NULL), 0);
        check_over(&p, 0, KR_WHY_LOCAL);
        pair_end(&p);
    }
}

/* Ours: KR_CLOSE_LINGER is as patient with a peer that reads late, */
TEST_EACH(zerocopy_linger_delivers) {
    struct pair p = pair_make(30000 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, KR_CLOSE_LINGER));
    check_stream(&p, 0, MIB / 2);
    CHECK_EQ(test_recv_end(p.r, p.fd, NULL), 0);
    CHECK_EQ(p.lender->closes, 0u);
    test_close(p.fd);
    check_over(&p, 0, KR_WHY_LOCAL);
    p.fd = CHECK_SYS(dup(0));
    pair_end(&p);
}

/* ... also with one that has ended before it read, */
TEST_EACH(zerocopy_linger_after_the_peers_end) {
    struct pair p = pair_make(30000 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    CHECK_SYS(shutdown(p.fd, SHUT_WR));
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, KR_CLOSE_LINGER));
    for (int i = 0; i < 10; i++)
        test_step(p.r, "a peer that takes its time");
    CHECK_EQ(p.lender->closes, 0u);
    check_stream(&p, 0, MIB / 2);
    CHECK_EQ(test_recv_end(p.r, p.fd, NULL), 0);
    check_over(&p, 0, KR_WHY_LOCAL);
    pair_end(&p);
}

/* ... and not for longer than flush_ns. */
TEST_EACH(zerocopy_linger_times_out) {
    struct pair p = pair_make(50 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, KR_CLOSE_LINGER));
    check_over(&p, -ETIMEDOUT, KR_WHY_TIMEOUT);
    check_reset(&p);
    pair_end(&p);
}

/* Ours: a half-close comes behind the loans, and does not give them back. */
TEST_EACH(zerocopy_then_a_half_close) {
    struct pair p = pair_make(30000 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    CHECK_OK(kr_conn_shutdown(p.r, p.lender->conn));
    await_flight(&p);
    check_stream(&p, 0, MIB / 2);
    CHECK_EQ(test_recv_end(p.r, p.fd, NULL), 0);
    TEST_UNTIL(p.r, p.lender->returned == 1);
    CHECK_EQ(p.lender->closes, 0u);
    CHECK_OK(kr_conn_close(p.r, p.lender->conn, KR_CLOSE_NOW));
    pair_end(&p);
}

static unsigned drains, cut_off;

static void drained(struct kr_reactor *r, void *user, unsigned count) {
    UNUSED(r, user);
    drains++;
    cut_off = count;
}

/* Ours: kr_drain waits for no peer longer than its grace, not for those that were closed before it
 * either. */
TEST_EACH(zerocopy_ends_with_the_drain) {
    struct kr_listen_opts opts = zero_opts(3600000 * MS);
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, &opts, &lender_ops, NULL);
    int fds[4];
    for (unsigned i = 0; i < COUNT(fds); i++) {
        fds[i] = test_connect_sized(port, 0, 65536);
        TEST_UNTIL(r, lender_count == i + 1);
        CHECK_OK(lend(r, &lenders[i], MIB / 2));
        struct pair p = {.r = r, .fd = fds[i], .lender = &lenders[i]};
        await_flight(&p);
    }
    CHECK_OK(kr_conn_close(r, lenders[0].conn, KR_CLOSE_NOW));
    CHECK_OK(kr_conn_close(r, lenders[1].conn, KR_CLOSE_FLUSH));
    CHECK_OK(kr_conn_close(r, lenders[2].conn, KR_CLOSE_LINGER));
    test_step(r, "the closes begin");
    CHECK_OK(kr_drain(r, 50 * MS, drained, NULL));
    TEST_UNTIL(r, drains == 1);
    CHECK_EQ(cut_off, 4u);
    for (unsigned i = 0; i < COUNT(fds); i++) {
        CHECK_EQ(lenders[i].returned, 1u);
        CHECK_EQ(lenders[i].closes, 1u);
        CHECK_EQ(lenders[i].error, i ? -ETIMEDOUT : 0);
        CHECK_EQ(test_recv_end(r, fds[i], NULL), ECONNRESET);
        test_close(fds[i]);
    }
    test_rest(r, (struct test_levels){0});
    CHECK_EQ(r->zc_sends, 0u);
    test_reactor_free(r);
}

/* Ours: a peer that is gone gives all loans back. */
TEST_EACH(zerocopy_comes_back_when_the_peer_resets) {
    struct pair p = pair_make(3600000 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    test_close_reset(p.fd);
    check_over(&p, -ECONNRESET, KR_WHY_ERROR);
    p.fd = CHECK_SYS(dup(0));
    pair_end(&p);
}

static int64_t cpu_ns(void) {
    struct timespec ts;
    CHECK_SYS(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts));
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* Ours: kr_reactor_free waits a second for a peer, and then for nobody. It sleeps meanwhile, also
 * when a kr_stop is left over: a loop without a wait would use the processor for all of that
 * second. */
TEST_EACH(zerocopy_ends_with_the_reactor) {
    struct pair p = pair_make(3600000 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    int64_t began = tap_now_ns(), used = cpu_ns();
    kr_stop(p.r);
    test_reactor_free(p.r);
    CHECK_GE(tap_now_ns() - began, 1000 * MS);
    CHECK_LT(cpu_ns() - used, 500 * MS);
    CHECK_EQ(p.lender->closes, 1u);
    CHECK_EQ(p.lender->why, KR_WHY_REACTOR);
    CHECK_EQ(p.lender->returned, 1u);
    test_close(p.fd);
}

static unsigned entered;

static int counting_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                          unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    entered++;
    return kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
}

static void stop_on_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                          enum kr_why why) {
    kr_stop(r);
    lender_close(r, conn, user, error, why);
}

static const struct kr_conn_ops stopping_ops = {.on_data = test_take_all,
                                                .on_close = stop_on_close};

static void not_drained(struct kr_reactor *r, void *user, unsigned remaining) {
    UNUSED(r, user, remaining);
    FAIL("a drain has ended");
}

/* Ours: while kr_reactor_free waits it sleeps, also after a kr_stop that ended no run, after one from a
 * callback, and in a drain that has told nobody yet. */
TEST_EACH(zerocopy_free_sleeps_after_a_stop) {
    struct kr__kernel kernel = kr__linux;
    kernel.ring.enter = counting_enter;
    struct pair p = pair_on(&kernel, 3600000 * MS);
    int fds[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds));
    struct lender other = {0};
    CHECK_OK(kr_conn_adopt(p.r, NULL, fds[0], NULL, &stopping_ops, &other));
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    kr_stop(p.r);
    CHECK_OK(kr_drain(p.r, 3600000 * MS, not_drained, NULL));
    entered = 0;
    test_reactor_free(p.r);
    CHECK_LT(entered, 100u);
    CHECK_EQ(p.lender->closes, 1u);
    CHECK_EQ(other.closes, 1u);
    test_close(p.fd);
    test_close(fds[1]);
}

static bool losing;

static int losing_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                        unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    return losing ? -EBADR : kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
}

/* Ours: from a kernel that has lost completions, notifications among them, the loans come back
 * once. */
TEST_EACH(zerocopy_comes_back_when_completions_are_lost) {
    struct kr__kernel kernel = kr__linux;
    kernel.ring.enter = losing_enter;
    struct pair p = pair_on(&kernel, 3600000 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    CHECK_OK(lend(p.r, p.lender, 8 * MIB));
    CHECK_OK(lend(p.r, p.lender, 10));
    losing = true;
    CHECK_ERR(kr_step(p.r, 0), EBADR);
    test_reactor_free(p.r);
    CHECK_EQ(p.lender->closes, 1u);
    CHECK_EQ(p.lender->returned, 3u);
    test_close(p.fd);
}

/* Ours: a forked child gives nothing back, and has no leak. */
TEST_EACH(zerocopy_does_not_come_back_in_a_forked_child) {
    struct pair p = pair_make(30000 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    CHECK_OK(lend(p.r, p.lender, 8 * MIB));
    test_step(p.r, "a send that parks");
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        unsigned returned = p.lender->returned;
        test_reactor_free(p.r);
        CHECK_EQ(p.lender->returned, returned);
        _exit(0);
    }
    int status;
    CHECK_SYS(waitpid(child, &status, 0));
    CHECK_EQ(status, 0);
    check_stream(&p, 0, MIB / 2 + 8 * MIB);
    TEST_UNTIL(p.r, p.lender->returned == 2);
    pair_end(&p);
}

static struct kr_detached given;

static void on_released(struct kr_reactor *r, kr_conn conn, void *user,
                        const struct kr_detached *what) {
    UNUSED(r, conn, user);
    given = *what;
}

static struct pair pair_for_release(int64_t flush_ns) {
    struct kr_listen_opts opts = zero_opts(flush_ns);
    opts.conn.keep_fd = !tap_has_caps(KR__CAP_FD_INSTALL);
    given = (struct kr_detached){.error = 1, .fd = -1};
    return pair_of(&kr__linux, &opts);
}

/* Ours: a connection is given back when the kernel refers to none of its loans any more. */
TEST_EACH(zerocopy_lands_before_a_release) {
    struct pair p = pair_for_release(30000 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    CHECK_OK(kr_conn_detach(p.r, p.lender->conn, on_released, NULL));
    for (int i = 0; i < 3; i++)
        test_step(p.r, "a release that is to wait");
    CHECK_EQ(given.error, 1);
    check_stream(&p, 0, MIB / 2);
    TEST_UNTIL(p.r, given.error != 1);
    CHECK_EQ(given.error, 0);
    CHECK_EQ(given.unsent_size, 0u);
    CHECK_EQ(p.lender->returned, 1u);
    test_close(given.fd);
    check_over(&p, 0, KR_WHY_DETACHED);
    pair_end(&p);
}

/* Ours: it is not given back if that takes longer than flush_ns, and then it goes on. */
TEST_EACH(zerocopy_holds_up_a_release_no_longer_than_a_close) {
    struct pair p = pair_for_release(50 * MS);
    CHECK_OK(lend(p.r, p.lender, MIB / 2));
    await_flight(&p);
    CHECK_OK(kr_conn_detach(p.r, p.lender->conn, on_released, NULL));
    TEST_UNTIL(p.r, given.error != 1);
    CHECK_EQ(given.error, -ETIMEDOUT);
    CHECK_EQ(given.fd, -1);
    CHECK_OK(lend_copy(p.r, p.lender, 1000));
    check_stream(&p, 0, MIB / 2 + 1000);
    TEST_UNTIL(p.r, p.lender->returned == 1);
    CHECK_EQ(p.lender->closes, 0u);
    pair_end(&p);
}
