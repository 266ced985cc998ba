/* Half-close: a stream whose two directions end one after the other, in either order, while the
 * other one goes on; what happens to a shutdown that is under way when the connection ends; and the
 * close that ends this side and waits for the other.
 *
 * The completion of a shutdown comes in the turn after the one that asked for it, or, where the
 * kernel runs it in a worker thread (io_uring/net.c), some time later: the cases in which that
 * matters let no turn, one, or a few pass in between, many times over. */
#include "harness/server.h"

#include "conn/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BIG ((size_t)4 << 20)

#define IN 7  /* the stream of the client */
#define OUT 8 /* and ours */

static void shut_down(struct test_server *s, kr_conn conn) {
    CHECK_OK(kr_conn_shutdown(s->r, conn));
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    CHECK_EQ(((struct test_server *)user)->eofs, 0u);
    return test_server_data(r, conn, user, data, size);
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    CHECK_EQ(conn.bits, ((struct test_server *)user)->conn.bits);
    CHECK_ERR(kr_conn_shutdown(r, conn), EPIPE);
    test_server_close(r, conn, user, error, why);
}

static const struct kr_conn_ops ops = {.on_open = test_server_open,
                                       .on_data = on_data,
                                       .on_eof = test_server_eof,
                                       .on_writable = test_server_drain,
                                       .on_close = on_close};

static const struct kr_conn_ops ops_without_eof = {
    .on_open = test_server_open, .on_data = on_data, .on_close = on_close};

/* With loopback's large segments, unlike test_connect_sized: what a close costs shows by them. */
static int connect_small(uint16_t port) {
    struct kr_addr addr = test_loopback(port);
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int)));
    CHECK_SYS(connect(fd, &addr.u.sa, addr.size));
    CHECK_SYS(fcntl(fd, F_SETFL, O_NONBLOCK));
    return fd;
}

/* A connection of a small client, who takes 4 KiB at a time. */
static void begin_with(struct test_server *s, const struct kr_conn_ops *of,
                       const struct kr_config *config, const struct kr_listen_opts *opts) {
    s->r = test_reactor(config);
    s->stream = IN;
    test_server_listen(s, opts, of);
    s->fd = connect_small(s->port);
    TEST_UNTIL(s->r, s->opens == 1);
}

static void begin(struct test_server *s, const struct kr_conn_ops *of) {
    begin_with(s, of, NULL, NULL);
}

static void end(struct test_server *s) {
    TEST_UNTIL(s->r, s->closes == 1);
    CHECK_ERR(kr_conn_shutdown(s->r, s->conn), ESTALE);
    test_close(s->fd);
    test_reactor_end(s->r, (struct test_levels){.listeners = 1});
}

/* The client sends the next `size` bytes of its stream, and all of them come. */
static void client_sends(struct test_server *s, size_t size) {
    size_t before = s->bytes;
    test_send_pattern(s->r, s->fd, size, IN, before);
    TEST_UNTIL(s->r, s->bytes == before + size);
}

static void client_gets(struct test_server *s, size_t size, uint64_t offset) {
    test_recv_pattern(s->r, s->fd, size, OUT, offset);
}

static void we_send(struct test_server *s, size_t size, uint64_t offset) {
    CHECK_OK(test_queue_pattern(s->r, s->conn, size, OUT, offset));
}

/* Nothing is taken any more, by whichever way. */
static void check_sends_refused(struct test_server *s) {
    void *room;
    CHECK_ERR(kr_conn_send(s->r, s->conn, "x", 1), EPIPE);
    CHECK_ERR(kr_conn_send(s->r, s->conn, "", 0), EPIPE);
    CHECK_ERR(kr_conn_sendv(s->r, s->conn, &(struct iovec){(void *)(uintptr_t)"x", 1}, 1), EPIPE);
    CHECK_ERR(kr_conn_reserve(s->r, s->conn, 1, &room), EPIPE);
    CHECK_ERR(kr_conn_commit(s->r, s->conn, 0), EPIPE);
}

/* ---- our end first ---- */

/* Ours: what was queued before comes before the end, however slowly the peer takes it; then the
 * peer goes on sending and is heard; its end is told; and the connection is the user's to close. */
TEST_EACH(half_our_end_comes_after_the_queue) {
    struct test_server s = {0};
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
    struct test_server s = {0};
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
    struct test_server s = {0};
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
    struct test_server s = {0};
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
    struct test_server s = {0};
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

/* Ours: without on_eof the connection ends with the peer's end, also when ours is under way or
 * over, and nothing that was queued is lost. */
TEST_EACH(half_without_on_eof_ends_with_the_peer) {
    for (unsigned turns = 0; turns < 4; turns++) {
        struct test_server s = {0};
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
        struct test_server s = {0};
        *(test_hook * *[]){&s.in_open, &s.in_data, &s.in_eof}[which] = shut_down;
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
    struct test_server s = {.stream = IN};
    test_server_listen(&s, NULL, &ops);
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
    test_reactor_end(s.r, (struct test_levels){.listeners = 1});
}

/* Ours: the peer resets before, while and after this side ends: the connection ends with an error,
 * once. One whose reading is paused learns of it by the shutdown. */
TEST_EACH(half_then_reset_by_the_peer) {
    for (unsigned i = 0; i < 40; i++) {
        struct test_server s = {0};
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
        test_reactor_end(s.r, (struct test_levels){.listeners = 1});
    }
}

/* Ours: kr_reactor_free with shutdowns not made, in flight, and done. */
TEST_EACH(half_then_the_end_of_the_reactor) {
    for (unsigned turns = 0; turns < 3; turns++) {
        struct test_server s = {0};
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

/* ---- a close that lingers ---- */

/* The client goes on sending, as one does whose long request has been refused; then it ends and
 * reads. Returns how it ended for the client, and how many bytes it got of our answer of `size`. */
static int refuse_request(struct test_server *s, enum kr_close how, size_t size, size_t *got) {
    static char bytes[65536];
    client_sends(s, 1000);
    we_send(s, size, 0);
    CHECK_OK(kr_conn_close(s->r, s->conn, how));
    long n = 0;
    for (size_t sent = 0; n >= 0 && sent < (size_t)8 << 20; sent += (size_t)n) {
        n = test_send_some(s->fd, bytes, sizeof bytes);
        test_step(s->r, "the client's bytes to be dropped");
        CHECK(!s->closes || how != KR_CLOSE_LINGER);
    }
    shutdown(s->fd, SHUT_WR);
    int over = test_recv_end(s->r, s->fd, got);
    return n < 0 ? (int)-n : over;
}

/* Ours: who lingers gets its last bytes to a peer that is still sending, and no reset, where a
 * FLUSH costs the peer a part of them. What comes meanwhile is dropped, and keeps no buffer. */
TEST_EACH(half_linger_saves_the_last_bytes) {
    size_t got;
    struct test_server s = {0};
    begin(&s, &ops);
    CHECK_EQ(refuse_request(&s, KR_CLOSE_LINGER, 300000, &got), 0);
    CHECK_EQ(got, 300000u);
    CHECK_EQ(s.bytes, 1000u);
    CHECK_EQ(s.eofs, 0u);
    end(&s);
    CHECK_EQ(s.error, 0);
    CHECK_EQ(s.why, KR_WHY_LOCAL);
}

/* The kernel's: and that is what lingering is for. */
TEST_EACH(half_flush_costs_the_last_bytes) {
    size_t got;
    struct test_server s = {0};
    begin(&s, &ops);
    int over = refuse_request(&s, KR_CLOSE_FLUSH, 300000, &got);
    CHECK(over == ECONNRESET || over == EPIPE);
    CHECK_LT(got, 300000u);
    end(&s);
    CHECK_EQ(s.error, 0);
}

/* Ours: it waits for the peer's end, and no longer; a reader that sends nothing sees our end
 * first. */
TEST_EACH(half_linger_ends_with_the_peer) {
    struct test_server s = {0};
    begin(&s, &ops);
    we_send(&s, 5000, 0);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_LINGER));
    check_sends_refused(&s);
    CHECK_ERR(kr_conn_pause(s.r, s.conn), EPIPE);
    client_gets(&s, 5000, 0);
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    for (unsigned idle = 0; idle < 10;)
        idle = test_step(s.r, "nothing to happen") == 0 ? idle + 1 : 0;
    CHECK_EQ(s.closes, 0u);
    CHECK_SYS(shutdown(s.fd, SHUT_WR));
    end(&s);
    CHECK_EQ(s.error, 0);
    CHECK_EQ(s.why, KR_WHY_LOCAL);
}

/* Ours: after the peer's end there is nothing to wait for: the queue, then the close, and no
 * shutdown. */
TEST_EACH(half_linger_after_the_peers_end) {
    struct test_server s = {0};
    begin(&s, &ops);
    CHECK_SYS(shutdown(s.fd, SHUT_WR));
    TEST_UNTIL(s.r, s.eofs == 1);
    we_send(&s, BIG, 0);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_LINGER));
    client_gets(&s, BIG, 0);
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    CHECK(!s.r->conns.table[kr__handle_slot(s.conn.bits)].fin);
    end(&s);
    CHECK_EQ(s.error, 0);
}

/* Ours: this side may have ended before; and the close may be made harder at any time. */
TEST_EACH(half_linger_after_our_end_then_harder) {
    for (unsigned i = 0; i < 60; i++) {
        struct test_server s = {0};
        begin(&s, &ops);
        if (i % 2)
            CHECK_OK(kr_conn_shutdown(s.r, s.conn));
        for (uint64_t turns = tap_random_below(4); turns > 0; turns--)
            CHECK_OK(kr_step(s.r, 0));
        CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_LINGER));
        for (uint64_t turns = tap_random_below(4); turns > 0; turns--)
            CHECK_OK(kr_step(s.r, 0));
        CHECK_EQ(s.closes, 0u);
        CHECK_OK(kr_conn_close(s.r, s.conn, (enum kr_close)(KR_CLOSE_FLUSH + (int)(i % 3))));
        TEST_UNTIL(s.r, s.closes == 1);
        CHECK_EQ(s.error, 0);
        CHECK_EQ(s.why, KR_WHY_LOCAL);
        int over = test_recv_end(s.r, s.fd, NULL);
        CHECK(over == (i % 3 == 2 ? ECONNRESET : 0) || (i % 3 == 2 && over == 0));
        end(&s);
    }
}

#define LATE_TURNS 8u /* to cancel, to join, to close */

/* Whether a deadline of `limit_ns` is over: from the close on, or from the last byte that was taken
 * since, or from our own end, which a kernel worker makes when it gets to run. */
struct patience {
    int64_t limit_ns, from_ns;
    size_t queued;
    bool fin;
};

static bool is_overdue(struct patience *p, const struct test_server *s) {
    size_t queued = kr_conn_queued(s->r, s->conn);
    bool fin = s->r->conns.table[kr__handle_slot(s->conn.bits)].fin;
    int64_t now = tap_now_ns();
    if (queued != p->queued || fin != p->fin)
        p->from_ns = now;
    p->queued = queued;
    p->fin = fin;
    return now - p->from_ns > p->limit_ns;
}

/* Ours: a peer that sends on and on, and never ends, delays the close for flush_ns and no longer,
 * and its bytes do not count; nor may it be cut off before. One that takes nothing counts from the
 * last byte that it took. No longer means: the first turn that begins later ends it, but for those
 * that its cancels and its close take, however slow the machine is. */
TEST_EACH(half_linger_has_a_deadline) {
    static char bytes[65536];
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.flush_ns = 30 * 1000000;
    for (int queued = 0; queued < 2; queued++) {
        struct test_server s = {0};
        begin_with(&s, &ops, NULL, &opts);
        if (queued)
            we_send(&s, 2 * BIG, 0);
        test_settle(s.r);
        int64_t before = tap_now_ns();
        CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_LINGER));
        struct patience patience = {.limit_ns = opts.conn.flush_ns, .from_ns = tap_now_ns()};
        for (unsigned late = 0; !s.closes;) {
            test_send_some(s.fd, bytes, sizeof bytes);
            late += is_overdue(&patience, &s);
            test_step(s.r, "the flush deadline");
            CHECK_LE(late, LATE_TURNS);
        }
        CHECK_GE(tap_now_ns() - before, opts.conn.flush_ns);
        CHECK_EQ(s.error, -ETIMEDOUT);
        CHECK_EQ(s.why, KR_WHY_TIMEOUT);
        CHECK_EQ(s.datas, 0u);
        end(&s);
    }
}

/* Ours: paused or not, what comes is received and dropped, so that the peer's end is seen. */
TEST_EACH(half_linger_while_paused) {
    struct test_server s = {0};
    begin(&s, &ops);
    CHECK_OK(kr_conn_pause(s.r, s.conn));
    static char bytes[500000];
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_LINGER));
    test_send(s.r, s.fd, bytes, sizeof bytes);
    CHECK_SYS(shutdown(s.fd, SHUT_WR));
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    end(&s);
    CHECK_EQ(s.error, 0);
    CHECK_EQ(s.datas, 0u);
}

/* Keeps each byte, and so its connection's memory, until the end. */
static size_t keep_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    UNUSED(r, conn, data);
    ((struct test_server *)user)->bytes = size;
    return 0;
}

static const struct kr_conn_ops keeping_ops = {.on_open = test_server_open,
                                               .on_data = keep_data,
                                               .on_eof = test_server_eof,
                                               .on_close = on_close};

/* Ours: bytes that were never consumed, and the one buffer that there is, shared with another: it
 * waits its turn for it, drops what comes, and ends. */
TEST_EACH(half_linger_waits_for_buffers) {
    struct kr_config config = test_config();
    config.buf_count = 1;
    config.buf_size = 512;
    struct test_server s = {0};
    begin_with(&s, &keeping_ops, &config, NULL);
    struct test_server other = {.r = s.r, .stream = IN};
    test_server_begin(&other, NULL, &ops);
    test_send(s.r, s.fd, "abc", 3);
    TEST_UNTIL(s.r, s.bytes == 3);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_LINGER));
    static char bytes[20000];
    for (size_t done = 0, moved = 0; done < sizeof bytes; done += moved) {
        moved = (size_t)test_send_some(s.fd, bytes + done, sizeof bytes - done);
        client_sends(&other, 2000);
    }
    CHECK_GT(test_stats(s.r).starved_waits, 0u);
    CHECK_SYS(shutdown(s.fd, SHUT_WR));
    TEST_UNTIL(s.r, s.closes == 1);
    CHECK_EQ(s.error, 0);
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    test_close(s.fd);
    client_sends(&other, 2000);
    CHECK_OK(kr_conn_close(other.r, other.conn, KR_CLOSE_NOW));
    TEST_UNTIL(other.r, other.closes == 1);
    test_close(other.fd);
    test_reactor_end(s.r, (struct test_levels){.listeners = 2});
}

/* Ours: a peer that resets meanwhile ends it, and that is told: it may not have got all. */
TEST_EACH(half_linger_then_reset_by_the_peer) {
    struct test_server s = {0};
    begin(&s, &ops);
    we_send(&s, 1000, 0);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_LINGER));
    client_gets(&s, 1000, 0);
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    test_close_reset(s.fd);
    TEST_UNTIL(s.r, s.closes == 1);
    CHECK_EQ(s.error, -ECONNRESET);
    CHECK_EQ(s.why, KR_WHY_ERROR);
    test_reactor_end(s.r, (struct test_levels){.listeners = 1});
}

/* Ours: kr_reactor_free does not wait for one that lingers, and it tells why that was closed. */
TEST_EACH(half_linger_then_the_end_of_the_reactor) {
    for (unsigned turns = 0; turns < 4; turns++) {
        struct test_server s = {0};
        begin(&s, &ops);
        CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_LINGER));
        for (unsigned i = 0; i < turns; i++)
            CHECK_OK(kr_step(s.r, 0));
        test_reactor_free(s.r);
        CHECK_EQ(s.closes, 1u);
        CHECK_EQ(s.error, 0);
        CHECK_EQ(s.why, KR_WHY_LOCAL);
        CHECK_EQ(test_recv_end(NULL, s.fd, NULL), 0);
        test_close(s.fd);
    }
}

/* ---- which way it goes ---- */

/* What is queued, and then the end, by whatever way. */
static void check_half_close(struct test_server *s, bool lingers) {
    we_send(s, 1000, 0);
    if (lingers)
        CHECK_OK(kr_conn_close(s->r, s->conn, KR_CLOSE_LINGER));
    else
        CHECK_OK(kr_conn_shutdown(s->r, s->conn));
    client_gets(s, 1000, 0);
    CHECK_EQ(test_recv_end(s->r, s->fd, NULL), 0);
    CHECK_EQ(s->closes, 0u);
    if (!lingers) {
        client_sends(s, 1000);
        CHECK_OK(kr_conn_close(s->r, s->conn, KR_CLOSE_LINGER));
    }
    CHECK_SYS(shutdown(s->fd, SHUT_WR));
    end(s);
}

/* Ours: no thread is made for it where the kernel knows another way (6.8), or the descriptor is
 * there. */
TEST_EACH(half_without_a_worker) {
    for (int i = 0; i < 4; i++) {
        struct test_server s = {0};
        struct kr_listen_opts opts = test_listen_opts();
        opts.conn.keep_fd = i & 1;
        begin_with(&s, &ops, NULL, &opts);
        bool needs_none = i & 1 || s.r->ring.plain.cells || s.r->ring.caps & KR__CAP_FD_INSTALL;
        unsigned before = test_threads();
        if (needs_none)
            test_threads_none();
        check_half_close(&s, i & 2);
        if (needs_none) {
            test_threads_again();
            CHECK_EQ(test_threads(), before);
        }
    }
}

/* Ours: where there is no other way and no worker, it is made when there is one; until then the
 * connection serves on, and the reactor sleeps between two tries. */
TEST_EACH(half_when_a_worker_can_be_made, .needs = KR__CAP_FILE_TABLE) {
    struct test_server s = {0};
    begin(&s, &ops);
    s.r->ring.caps &= ~KR__CAP_FD_INSTALL;
    test_threads_none();
    CHECK_OK(kr_conn_shutdown(s.r, s.conn));
    for (int i = 0; i < 5; i++) {
        test_step(s.r, "turns without a worker");
        client_sends(&s, 1000);
    }
    uint64_t sqes = test_stats(s.r).sqes;
    for (int64_t until = tap_now_ns() + 50000000; tap_now_ns() < until;)
        test_step(s.r, "tries");
    CHECK_LE(test_stats(s.r).sqes - sqes, 30u);
    char byte;
    CHECK_EQ(test_recv_some(s.fd, &byte, 1), 0);
    CHECK_EQ(s.closes, 0u);
    test_threads_again();
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
    end(&s);
}

/* Ours: where no descriptor is left a worker does it; with one that is kept none is needed. */
TEST_EACH(half_without_a_descriptor) {
    for (int i = 0; i < 4; i++) {
        struct test_server s = {0};
        struct kr_listen_opts opts = test_listen_opts();
        opts.conn.keep_fd = i & 1;
        begin_with(&s, &ops, NULL, &opts);
        struct rlimit was, limit;
        CHECK_SYS(getrlimit(RLIMIT_NOFILE, &was));
        limit = was;
        int fd = CHECK_SYS(dup(s.fd)); /* none is free below it */
        limit.rlim_cur = (rlim_t)fd;
        CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
        check_half_close(&s, i & 2);
        CHECK_SYS(setrlimit(RLIMIT_NOFILE, &was));
        test_close(fd);
    }
}

TAP_MAIN(half, 90)
