/* What comes in between: ends, closes, drains, errors and the end of the reactor. */
#include "detach/detach.h"

/* ---- what comes in between ---- */

static void descriptors_run_out(struct rlimit *before) {
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, before));
    /* also when one is given back meanwhile, as by a listener in a plain table */
    struct rlimit none = {.rlim_cur = 3, .rlim_max = before->rlim_max};
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &none));
}

/* Ours: without a descriptor to be had the connection is as before: what came meanwhile is shown,
 * what is queued is sent, and the user hears that the queue is down. */
TEST_EACH(detach_without_a_descriptor_goes_on) {
    for (unsigned turns = 0; turns < 4; turns++) {
        struct seen s;
        begin(&s, false);
        we_send(&s, BIG);
        for (unsigned i = 0; i < turns; i++)
            CHECK_GE(kr_step(s.r, 0), 0);
        struct rlimit limit;
        descriptors_run_out(&limit);
        CHECK_OK(kr_conn_detach(s.r, s.conn, released, &s));
        client_sends(&s, 1000, 0);
        TEST_UNTIL(s.r, s.tells == 1);
        CHECK_EQ(s.what.error, -EMFILE);
        CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
        char *bytes = malloc(BIG);
        CHECK(bytes != NULL);
        test_recv(s.r, s.fd, bytes, BIG);
        test_pattern_check(bytes, BIG, OUT, 0);
        free(bytes);
        TEST_UNTIL(s.r, s.drains == 1 && s.got == 1000);
        CHECK_EQ(test_stats(s.r).detaches, 0u);
        free(s.unread);
        free(s.unsent);
        s.tells = 0;
        leave(&s);
        check_released(&s);
        test_close(s.what.fd);
        end(&s);
    }
}

struct chance {
    struct seen *s;
    unsigned opens, datas;
    kr_conn conn;
};

static void chance_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct chance *x = user;
    x->opens++;
    x->conn = conn;
}

static size_t chance_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    UNUSED(conn, data);
    struct chance *x = user;
    x->datas++;
    CHECK_OK(kr_conn_detach(r, x->s->conn, released, x->s));
    return size;
}

/* Ours: a queue that came down while it was leaving is told of when it goes on. In one task-run
 * mode the other's bytes are told before the end of the send that is in flight. */
TEST_EACH(detach_that_fails_tells_of_the_queue) {
    static const struct kr_conn_ops chance_ops = {.on_open = chance_open, .on_data = chance_data};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 256;
    opts.conn.send_high = 10;
    opts.conn.send_low = 5;
    struct seen s;
    begin_with(&s, false, &opts);
    struct chance x = {.s = &s};
    int fd = test_connect(test_listen(s.r, NULL, NULL, &chance_ops, &x));
    TEST_UNTIL(s.r, x.opens == 1);
    test_rest(s.r, (struct test_levels){.conns = 2, .listeners = 2});
    struct rlimit limit;
    descriptors_run_out(&limit);
    test_send(NULL, fd, "x", 1);
    we_send(&s, 100);
    TEST_UNTIL(s.r, s.tells == 1 && s.drains == 1 && !kr_conn_queued(s.r, s.conn));
    CHECK_EQ(s.what.error, -EMFILE);
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    client_sends(&s, 100, 0);
    TEST_UNTIL(s.r, s.got == 100);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
    CHECK_OK(kr_conn_close(s.r, x.conn, KR_CLOSE_NOW));
    TEST_UNTIL(s.r, s.closes == 1);
    test_close(fd);
    test_close(s.fd);
    free(s.unread);
    free(s.unsent);
    test_reactor_end(s.r, (struct test_levels){.listeners = 2});
}

/* A release fails for want of a descriptor, and a drain has come by meanwhile. */
static void fail_in_a_drain(struct seen *s) {
    struct rlimit limit;
    descriptors_run_out(&limit);
    CHECK_OK(kr_conn_detach(s->r, s->conn, released, s));
    CHECK_OK(kr_drain(s->r, INT64_C(60000000000), NULL, NULL));
    TEST_UNTIL(s->r, s->tells == 1);
    CHECK_EQ(s->what.error, -EMFILE);
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
}

static void end_of_a_failed_one(struct seen *s) {
    CHECK_EQ(s->shutdowns, 1u);
    CHECK_OK(kr_conn_close(s->r, s->conn, KR_CLOSE_FLUSH));
    TEST_UNTIL(s->r, s->closes == 1);
    test_close(s->fd);
    free(s->unread);
    free(s->unsent);
    test_reactor_end(s->r, (struct test_levels){0});
}

/* Ours: a drain that came by while a release was under way is told of when that has failed. */
TEST_EACH(detach_that_fails_tells_of_the_drain, .needs = KR__CAP_FD_INSTALL) {
    struct seen s;
    begin(&s, false);
    CHECK_GE(kr_step(s.r, 0), 0);
    fail_in_a_drain(&s);
    TEST_UNTIL(s.r, s.shutdowns == 1);
    end_of_a_failed_one(&s);
}

/* Ours: an end of the peer that came meanwhile is told when it goes on, and so is a drain that
 * began. */
TEST_EACH(detach_that_fails_tells_what_it_held_back) {
    struct seen s;
    begin(&s, false);
    CHECK_OK(kr_conn_pause(s.r, s.conn));
    CHECK_SYS(shutdown(s.fd, SHUT_WR));
    CHECK_GE(kr_step(s.r, 0), 0);
    CHECK_OK(kr_conn_resume(s.r, s.conn));
    fail_in_a_drain(&s);
    TEST_UNTIL(s.r, s.eofs == 1);
    end_of_a_failed_one(&s);
}

static void no_memory(bool kept) {
    struct seen s;
    begin(&s, kept);
    we_send(&s, BIG);
    TEST_UNTIL(s.r, kr_conn_queued(s.r, s.conn) < BIG);
    static char big[70000];
    for (unsigned i = 0; i < 40; i++) { /* as many as make a list that no block lies ready for */
        test_pattern(big, sizeof big, OUT, s.sent);
        CHECK_OK(kr_conn_send(s.r, s.conn, big, sizeof big));
        s.sent += sizeof big;
    }
    CHECK_OK(kr_conn_detach(s.r, s.conn, released, &s));
    test_reactor_refuse_memory(s.r, 0);
    TEST_UNTIL(s.r, s.tells == 1);
    test_reactor_refuse_memory(s.r, -1);
    if (s.what.error == 0) { /* a block was there */
        finish_by_fd(&s, s.sent);
        test_close(s.what.fd);
        end(&s);
        return;
    }
    CHECK_EQ(s.what.error, -ENOMEM);
    free(s.unread);
    free(s.unsent);
    s.tells = 0;
    leave(&s);
    check_released(&s);
    finish_by_fd(&s, s.sent);
    test_close(s.what.fd);
    end(&s);
}

/* Ours: without memory for the list of pieces it goes on, and may leave another time. */
TEST_EACH(detach_without_memory_goes_on) {
    each_way(no_memory);
}

static void closed(bool kept) {
    for (unsigned i = 0; i < 12; i++) {
        enum kr_close how = (enum kr_close)(i % 4);
        struct seen s;
        begin(&s, kept);
        we_send(&s, 100000);
        CHECK_GE(kr_step(s.r, 0), 0);
        CHECK_OK(kr_conn_detach(s.r, s.conn, released, &s));
        for (unsigned turn = 0; turn < i / 4 && !s.tells; turn++)
            CHECK_GE(kr_step(s.r, 0), 0);
        int rc = kr_conn_close(s.r, s.conn, how);
        CHECK_EQ(rc, s.closes ? -ESTALE : 0);
        if (s.tells) {
            check_released(&s);
            finish_by_fd(&s, s.sent);
            test_close(s.what.fd);
            end(&s);
            continue;
        }
        size_t got = 0;
        CHECK_EQ(test_recv_end(s.r, s.fd, &got), how == KR_CLOSE_RESET ? ECONNRESET : 0);
        if (how <= KR_CLOSE_FLUSH)
            CHECK_EQ(got, s.sent);
        if (how == KR_CLOSE_LINGER)
            CHECK_SYS(shutdown(s.fd, SHUT_WR));
        TEST_UNTIL(s.r, s.closes == 1);
        CHECK_EQ(s.what.error, -ECANCELED);
        CHECK_EQ(s.why, KR_WHY_LOCAL);
        end(&s);
    }
}

/* Ours: a close meanwhile is a close in its manner, and the user is told that nothing was released;
 * after the release none reaches the socket any more, a reset least of all. */
TEST_EACH(detach_closed_meanwhile) {
    each_way(closed);
}

static void closes_in_it(struct kr_reactor *r, kr_conn conn, void *user,
                         const struct kr_detached *what) {
    released(r, conn, user, what);
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_RESET));
}

static void reset_in_it(bool kept) {
    struct seen s;
    begin(&s, kept);
    CHECK_OK(kr_conn_detach(s.r, s.conn, closes_in_it, &s));
    TEST_UNTIL(s.r, s.tells == 1);
    check_released(&s);
    client_sends(&s, 1000, 0);
    read_by_fd(&s, 1000);
    test_close(s.what.fd);
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    end(&s);
}

/* Ours: a reset from within the callback does not reach the socket that was just given away. */
TEST_EACH(detach_is_not_reset) {
    each_way(reset_in_it);
}

static void peer_resets(bool kept) {
    for (unsigned early = 0; early < 2; early++) {
        struct seen s;
        begin(&s, kept);
        we_send(&s, BIG);
        TEST_UNTIL(s.r, kr_conn_queued(s.r, s.conn) < BIG);
        if (early)
            test_close_reset(s.fd);
        CHECK_OK(kr_conn_detach(s.r, s.conn, released, &s));
        if (!early)
            test_close_reset(s.fd);
        TEST_UNTIL(s.r, s.closes == 1);
        CHECK_EQ(s.tells, 1u);
        if (s.what.error) {
            CHECK(s.what.error == -ECONNRESET || s.what.error == -EPIPE);
            CHECK_EQ(s.error, s.what.error);
            CHECK_EQ(s.why, KR_WHY_ERROR);
        } else { /* then the descriptor tells */
            char byte;
            CHECK_EQ(recv(s.what.fd, &byte, 1, MSG_DONTWAIT), -1);
            CHECK_EQ(errno, ECONNRESET);
            test_close(s.what.fd);
        }
        s.fd = test_connect(s.port);
        s.closes = 0;
        TEST_UNTIL(s.r, s.opens == 2);
        CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
        end(&s);
    }
}

/* Ours: a reset is told once, by the connection or by the descriptor, and never passes for a clean
 * end. */
TEST_EACH(detach_loses_no_error) {
    each_way(peer_resets);
}

static void freed(bool kept) {
    for (unsigned turns = 0; turns < 3; turns++) {
        struct seen s;
        begin(&s, kept);
        we_send(&s, BIG);
        CHECK_GE(kr_step(s.r, 0), 0);
        CHECK_OK(kr_conn_detach(s.r, s.conn, released, &s));
        for (unsigned i = 0; i < turns; i++)
            CHECK_GE(kr_step(s.r, 0), 0);
        bool left = s.tells;
        test_reactor_free(s.r);
        CHECK_EQ(s.tells, 1u);
        CHECK_EQ(s.closes, 1u);
        CHECK_EQ(s.what.error, left ? 0 : -ECANCELED);
        CHECK_EQ(s.why, left ? KR_WHY_DETACHED : KR_WHY_REACTOR);
        if (left)
            test_close(s.what.fd);
        test_close(s.fd);
        free(s.unread);
        free(s.unsent);
    }
}

/* Ours: freeing the reactor meanwhile tells so; what had been released stays. */
TEST_EACH(detach_and_free) {
    each_way(freed);
}

struct killer {
    kr_conn victim;
    unsigned opens, kills;
    kr_conn conn;
};

static void killer_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct killer *k = user;
    k->opens++;
    k->conn = conn;
}

static size_t killer_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    UNUSED(conn, data);
    struct killer *k = user;
    CHECK_OK(kr_conn_close(r, k->victim, KR_CLOSE_NOW));
    k->kills++;
    return size;
}

/* Ours: closed while its descriptor is on the way, that is closed as well. In one task-run mode the
 * other's bytes are told before the answer. */
TEST_EACH(detach_closed_before_the_answer) {
    static const struct kr_conn_ops killer_ops = {.on_open = killer_open, .on_data = killer_data};
    struct killer k = {0};
    struct seen s;
    begin(&s, false);
    int fd = test_connect(test_listen(s.r, NULL, NULL, &killer_ops, &k));
    TEST_UNTIL(s.r, k.opens == 1);
    CHECK_OK(kr_conn_pause(s.r, s.conn));
    test_rest(s.r, (struct test_levels){.conns = 2, .listeners = 2, .paused = 1});
    k.victim = s.conn;
    int before = tap_fd_count();
    CHECK_OK(kr_conn_detach(s.r, s.conn, released, &s));
    test_send(NULL, fd, "x", 1);
    TEST_UNTIL(s.r, k.kills == 1 && s.closes == 1);
    CHECK_EQ(s.tells, 1u);
    if (!s.what.error)
        test_close(s.what.fd);
    CHECK_EQ(tap_fd_count(), before - test_slot_cost(s.r));
    CHECK_OK(kr_conn_close(s.r, k.conn, KR_CLOSE_NOW));
    test_close(fd);
    test_close(s.fd);
    free(s.unread);
    free(s.unsent);
    test_reactor_end(s.r, (struct test_levels){.listeners = 2});
}

/* ---- descriptors that are kept ---- */

/* Ours: a kept descriptor may be asked whatever a socket may be asked, the addresses through the
 * library; it keeps nobody from seeing the end, in whichever manner. */
TEST_EACH(kept_descriptor_is_the_connection) {
    for (enum kr_close how = KR_CLOSE_LINGER; how <= KR_CLOSE_RESET; how++) {
        struct seen s;
        int before = tap_fd_count();
        begin(&s, true);
        /* ring, eventfd, and the two ends; slots of the listener and the connection */
        CHECK_EQ(tap_fd_count(), before + 4 + 2 * test_slot_cost(s.r));
        int fd = CHECK_OK(kr_conn_fd(s.r, s.conn));
        int on = 0;
        socklen_t size = sizeof on;
        CHECK_SYS(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &size));
        CHECK_EQ(on, 1);
        struct kr_addr peer, local, own;
        CHECK_OK(kr_conn_peer(s.r, s.conn, &peer));
        CHECK_OK(kr_conn_local(s.r, s.conn, &local));
        own.size = sizeof own.u;
        CHECK_SYS(getsockname(s.fd, &own.u.sa, &own.size));
        CHECK_EQ(kr_addr_port(&peer), kr_addr_port(&own));
        CHECK_EQ(kr_addr_port(&local), s.port);
        s.looks = how >= KR_CLOSE_FLUSH;
        CHECK_OK(kr_conn_close(s.r, s.conn, how));
        if (how == KR_CLOSE_LINGER) {
            CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
            CHECK_SYS(shutdown(s.fd, SHUT_WR));
        }
        TEST_UNTIL(s.r, s.closes == 1);
        if (s.looks)
            CHECK_EQ(s.read_at_close, how == KR_CLOSE_RESET ? -ECONNRESET : TEST_EOF);
        s.tells = 1;
        end(&s);
        CHECK_EQ(tap_fd_count(), before);
    }
}

/* Ours: when descriptors are spent clients wait in the backlog, and are served when there are some
 * again. */
TEST_EACH(kept_descriptors_are_bounded) {
    struct seen s;
    begin(&s, true);
    int waiting = test_connect(s.port);
    struct rlimit limit;
    descriptors_run_out(&limit);
    TEST_UNTIL(s.r, test_stats(s.r).accept_errors >= 1 || s.opens == 2);
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    TEST_UNTIL(s.r, s.opens == 2);
    kr_conn second = s.conn;
    test_send(s.r, waiting, "x", 0);
    CHECK_OK(kr_conn_close(s.r, second, KR_CLOSE_NOW));
    TEST_UNTIL(s.r, s.closes == 1);
    test_close(waiting);
    test_close(s.fd);
    TEST_UNTIL(s.r, s.eofs == 1);
    test_reactor_free(s.r);
}
