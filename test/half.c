/* Half-close: a stream whose two directions end one after the other, in either order, while the other
 * one goes on; and what happens to a shutdown that is under way when the connection ends.
 *
 * The kernel runs a shutdown in a worker thread (io_uring/net.c), so its completion comes some time
 * after the turn that asked for it: the cases in which that matters let no turn, one, or a few pass in
 * between, many times over. */
#include "harness/net.h"

#include "core/reactor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BIG ((size_t)4 << 20)

struct seen {
    struct kr_reactor *r;
    kr_listener listener;
    uint16_t port;
    int fd; /* of the client */
    kr_conn conn;
    unsigned opens, datas, eofs, drains, closes;
    size_t bytes;
    int error;
    enum kr_why why;
    bool end_in_open, end_in_data, end_in_eof; /* by kr_conn_shutdown */
};

static void end_ours(struct seen *s, bool asked) {
    if (asked)
        CHECK_OK(kr_conn_shutdown(s->r, s->conn));
}

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct seen *s = user;
    s->opens++;
    s->conn = conn;
    end_ours(s, s->end_in_open);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    (void)r;
    (void)conn;
    struct seen *s = user;
    CHECK_EQ(s->eofs, 0u);
    test_pattern_check(data, size, 7, s->bytes);
    s->datas++;
    s->bytes += size;
    end_ours(s, s->end_in_data);
    return size;
}

static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    (void)conn;
    struct seen *s = user;
    s->eofs++;
    end_ours(s, s->end_in_eof);
}

static void on_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    (void)conn;
    ((struct seen *)user)->drains++;
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct seen *s = user;
    CHECK_EQ(conn.bits, s->conn.bits);
    CHECK_ERR(kr_conn_shutdown(r, conn), EPIPE);
    s->closes++;
    s->error = error;
    s->why = why;
}

static const struct kr_conn_ops ops = {.on_open = on_open,
                                       .on_data = on_data,
                                       .on_eof = on_eof,
                                       .on_drain = on_drain,
                                       .on_close = on_close};

static const struct kr_conn_ops ops_without_eof = {
    .on_open = on_open, .on_data = on_data, .on_close = on_close};

/* A connection of a small client, who takes 4 KiB at a time. */
static void begin(struct seen *s, const struct kr_conn_ops *of) {
    s->r = test_reactor(NULL);
    s->port = test_listen(s->r, &s->listener, NULL, of, s);
    s->fd = test_connect_sized(s->port, 0, 4096);
    TEST_UNTIL(s->r, s->opens == 1);
}

static void end(struct seen *s) {
    TEST_UNTIL(s->r, s->closes == 1);
    CHECK_ERR(kr_conn_shutdown(s->r, s->conn), ESTALE);
    test_close(s->fd);
    test_rest(s->r, (struct test_levels){.listeners = 1});
    test_reactor_free(s->r);
}

/* The client sends the next `size` bytes of its stream, and all of them come. */
static void client_sends(struct seen *s, size_t size) {
    char *bytes = malloc(size);
    CHECK(bytes != NULL);
    size_t before = s->bytes;
    test_pattern(bytes, size, 7, before);
    test_send(s->r, s->fd, bytes, size);
    TEST_UNTIL(s->r, s->bytes == before + size);
    free(bytes);
}

static void client_gets(struct seen *s, size_t size, uint64_t offset) {
    char *bytes = malloc(size);
    CHECK(bytes != NULL);
    test_recv(s->r, s->fd, bytes, size);
    test_pattern_check(bytes, size, 8, offset);
    free(bytes);
}

static void we_send(struct seen *s, size_t size, uint64_t offset) {
    char *bytes = malloc(size);
    CHECK(bytes != NULL);
    test_pattern(bytes, size, 8, offset);
    CHECK_OK(kr_conn_send(s->r, s->conn, bytes, size));
    free(bytes);
}

/* Nothing is taken any more, by whichever way. */
static void check_sends_refused(struct seen *s) {
    void *room;
    CHECK_ERR(kr_conn_send(s->r, s->conn, "x", 1), EPIPE);
    CHECK_ERR(kr_conn_send(s->r, s->conn, "", 0), EPIPE);
    CHECK_ERR(kr_conn_sendv(s->r, s->conn, &(struct iovec){(void *)(uintptr_t)"x", 1}, 1), EPIPE);
    CHECK_ERR(kr_conn_reserve(s->r, s->conn, 1, &room), EPIPE);
    CHECK_ERR(kr_conn_commit(s->r, s->conn, 0), EPIPE);
}

/* ---- our end first ---- */

/* Ours: what was queued before comes before the end, however slowly the peer takes it; then the peer
 * goes on sending and is heard; its end is told; and the connection is the user's to close. */
TEST_EACH(half_our_end_comes_after_the_queue) {
    struct seen s = {0};
    begin(&s, &ops);
    we_send(&s, BIG, 0);
    CHECK_OK(kr_conn_shutdown(s.r, s.conn));
    check_sends_refused(&s);
    CHECK_EQ(kr_conn_queued(s.r, s.conn), BIG);
    client_gets(&s, BIG, 0);
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    CHECK_EQ(s.drains, 1u);
    client_sends(&s, 100000);
    check_sends_refused(&s);
    CHECK_EQ(s.eofs, 0u);
    CHECK_SYS(shutdown(s.fd, SHUT_WR));
    TEST_UNTIL(s.r, s.eofs == 1);
    test_rest(s.r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1});
    CHECK_EQ(s.closes, 0u);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_FLUSH));
    end(&s);
    CHECK_EQ(s.error, 0);
    CHECK_EQ(s.why, KR_WHY_LOCAL);
}

/* Ours: one that has nothing queued ends at once, and a second call is none. */
TEST_EACH(half_our_end_twice_is_once) {
    struct seen s = {0};
    begin(&s, &ops);
    for (int i = 0; i < 3; i++)
        CHECK_OK(kr_conn_shutdown(s.r, s.conn));
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    TEST_UNTIL(s.r, s.r->conns.table[kr__handle_slot(s.conn.bits)].fin);
    uint64_t sqes = test_stats(s.r).sqes;
    CHECK_OK(kr_conn_shutdown(s.r, s.conn));
    test_rest(s.r, (struct test_levels){.conns = 1, .listeners = 1});
    CHECK_EQ(test_stats(s.r).sqes, sqes);
    client_sends(&s, 10);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
    CHECK_ERR(kr_conn_shutdown(s.r, s.conn), EPIPE);
    end(&s);
}

/* Ours: a reservation that is open when this side is ended comes to nothing. */
TEST_EACH(half_our_end_with_a_reservation) {
    struct seen s = {0};
    begin(&s, &ops);
    void *room;
    CHECK_OK(kr_conn_reserve(s.r, s.conn, 100, &room));
    memset(room, 'x', 100);
    CHECK_OK(kr_conn_shutdown(s.r, s.conn));
    CHECK_ERR(kr_conn_commit(s.r, s.conn, 100), EPIPE);
    size_t got;
    CHECK_EQ(test_recv_end(s.r, s.fd, &got), 0);
    CHECK_EQ(got, 0u);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
    end(&s);
}

/* Ours: a connection whose reading is paused ends its side as any, and is heard after resume. */
TEST_EACH(half_our_end_while_paused) {
    struct seen s = {0};
    begin(&s, &ops);
    CHECK_OK(kr_conn_pause(s.r, s.conn));
    we_send(&s, 1000, 0);
    CHECK_OK(kr_conn_shutdown(s.r, s.conn));
    client_gets(&s, 1000, 0);
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    test_rest(s.r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1});
    CHECK_OK(kr_conn_resume(s.r, s.conn));
    client_sends(&s, 1000);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
    end(&s);
}

/* ---- the peer's end first ---- */

/* Ours: after the peer's end this side sends on, and ends when it likes; then nothing is in flight,
 * and the connection stays. */
TEST_EACH(half_peers_end_first) {
    struct seen s = {0};
    begin(&s, &ops);
    client_sends(&s, 1000);
    CHECK_SYS(shutdown(s.fd, SHUT_WR));
    TEST_UNTIL(s.r, s.eofs == 1);
    uint64_t offset = 0;
    for (size_t size = 1; size < BIG; size *= 8) {
        we_send(&s, size, offset);
        client_gets(&s, size, offset);
        offset += size;
    }
    we_send(&s, 1000, offset);
    CHECK_OK(kr_conn_shutdown(s.r, s.conn));
    client_gets(&s, 1000, offset);
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    test_rest(s.r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1});
    CHECK_EQ(s.eofs, 1u);
    CHECK_EQ(s.closes, 0u);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
    end(&s);
    CHECK_EQ(s.why, KR_WHY_LOCAL);
}

/* Ours: without on_eof the connection ends with the peer's end, also when ours is under way or over,
 * and nothing that was queued is lost. */
TEST_EACH(half_without_on_eof_ends_with_the_peer) {
    for (unsigned turns = 0; turns < 4; turns++) {
        struct seen s = {0};
        begin(&s, &ops_without_eof);
        we_send(&s, 100000, 0);
        CHECK_OK(kr_conn_shutdown(s.r, s.conn));
        for (unsigned i = 0; i < turns; i++)
            test_step(s.r, "a turn before the peer's end");
        CHECK_SYS(shutdown(s.fd, SHUT_WR));
        client_gets(&s, 100000, 0);
        CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
        end(&s);
        CHECK_EQ(s.error, 0);
        CHECK_EQ(s.why, KR_WHY_PEER);
    }
}

/* ---- from callbacks ---- */

/* Ours: it may be called from any callback. */
TEST_EACH(half_from_every_callback) {
    for (int which = 0; which < 3; which++) {
        struct seen s = {.end_in_open = which == 0, .end_in_data = which == 1, .end_in_eof = which == 2};
        begin(&s, &ops);
        client_sends(&s, 10);
        CHECK_SYS(shutdown(s.fd, SHUT_WR));
        CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
        TEST_UNTIL(s.r, s.eofs == 1);
        check_sends_refused(&s);
        CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_FLUSH));
        end(&s);
    }
}

/* ---- ends that come in between ---- */

/* Ours: a close in whatever manner, with the shutdown not yet made, just made, or done, ends the
 * connection once; the shutdown's completion, which may be late, finds it closing. */
TEST_EACH(half_then_close_at_any_moment) {
    struct seen s = {0};
    s.r = test_reactor(NULL);
    s.port = test_listen(s.r, &s.listener, NULL, &ops, &s);
    for (unsigned i = 0; i < 300; i++) {
        enum kr_close how = (enum kr_close)(KR_CLOSE_FLUSH + (int)(i % 3));
        unsigned opens = s.opens, closes = s.closes;
        s.fd = test_connect(s.port);
        TEST_UNTIL(s.r, s.opens == opens + 1);
        bool queued = tap_random_below(2);
        if (queued)
            we_send(&s, 1000, 0);
        CHECK_OK(kr_conn_shutdown(s.r, s.conn));
        for (uint64_t turns = tap_random_below(3); turns > 0; turns--)
            CHECK_OK(kr_step(s.r, 0));
        CHECK_OK(kr_conn_close(s.r, s.conn, how));
        TEST_UNTIL(s.r, s.closes == closes + 1);
        CHECK_EQ(s.error, 0);
        CHECK_EQ(s.why, KR_WHY_LOCAL);
        size_t got;
        int over = test_recv_end(s.r, s.fd, &got);
        CHECK(over == 0 || (over == ECONNRESET && how == KR_CLOSE_RESET));
        CHECK(got == (queued ? 1000 : 0) || how != KR_CLOSE_FLUSH);
        test_close(s.fd);
    }
    test_rest(s.r, (struct test_levels){.listeners = 1});
    test_reactor_free(s.r);
}

/* Ours: the peer resets before, while and after this side ends: the connection ends with an error,
 * once. One whose reading is paused learns of it by the shutdown. */
TEST_EACH(half_then_reset_by_the_peer) {
    for (unsigned i = 0; i < 40; i++) {
        struct seen s = {0};
        begin(&s, &ops);
        bool deaf = i % 2, before = i % 4 < 2;
        if (deaf)
            CHECK_OK(kr_conn_pause(s.r, s.conn));
        test_rest(s.r, (struct test_levels){.conns = 1, .listeners = 1, .paused = deaf});
        if (before)
            test_close_reset(s.fd);
        CHECK_OK(kr_conn_shutdown(s.r, s.conn));
        if (!before) {
            for (uint64_t turns = tap_random_below(3); turns > 0; turns--)
                CHECK_OK(kr_step(s.r, 0));
            test_close_reset(s.fd);
            test_step(s.r, "a turn after the reset");
            int rc = kr_conn_resume(s.r, s.conn);
            CHECK(rc == 0 || rc == -EPIPE || rc == -ESTALE);
        }
        TEST_UNTIL(s.r, s.closes == 1);
        CHECK_EQ(s.why, KR_WHY_ERROR);
        CHECK(s.error == -ECONNRESET || s.error == -ENOTCONN || s.error == -EPIPE);
        test_rest(s.r, (struct test_levels){.listeners = 1});
        test_reactor_free(s.r);
    }
}

/* Ours: kr_reactor_free with shutdowns not made, in flight, and done. */
TEST_EACH(half_then_the_end_of_the_reactor) {
    for (unsigned turns = 0; turns < 3; turns++) {
        struct seen s = {0};
        begin(&s, &ops);
        CHECK_OK(kr_conn_shutdown(s.r, s.conn));
        for (unsigned i = 0; i < turns; i++)
            CHECK_OK(kr_step(s.r, 0));
        test_reactor_free(s.r);
        CHECK_EQ(s.closes, 1u);
        CHECK_EQ(s.why, KR_WHY_REACTOR);
        CHECK_EQ(test_recv_end(NULL, s.fd, NULL), 0);
        test_close(s.fd);
    }
}

TAP_MAIN(half, 40)
