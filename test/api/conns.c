/* What a connection answers: its inline memory, queued bytes, addresses and counters; and which calls
 * run callbacks. */
#include "api/api.h"

#include <errno.h>
#include <stdalign.h>
#include <string.h>

/* ---- inline memory ---- */

static size_t inline_size;

static void check_inline_fresh(struct test_server *s, kr_conn conn) {
    unsigned char *memory = kr_conn_inline(s->r, conn);
    CHECK(memory);
    CHECK_EQ((uintptr_t)memory % alignof(max_align_t), 0u);
    for (size_t i = 0; i < inline_size; i++)
        CHECK(memory[i] == 0);
    memset(memory, 0xa5, inline_size);
}

static void check_inline_kept(struct test_server *s, kr_conn conn) {
    const unsigned char *memory = kr_conn_inline(s->r, conn);
    for (size_t i = 0; i < inline_size; i++)
        CHECK(memory[i] == 0xa5);
}

static void inline_of(size_t size) {
    inline_size = size;
    struct test_server p = {.in_open = check_inline_fresh, .in_close = check_inline_kept};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.inline_size = size;
    begin(&p, &opts);
    int fds[3];
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 3; i++)
            fds[i] = test_connect(p.port);
        TEST_UNTIL(p.r, test_stats(p.r).conns == 4);
        for (unsigned i = 0; i < 3; i++)
            test_close(fds[i]);
        TEST_UNTIL(p.r, test_stats(p.r).conns == 1);
    }
    test_close(p.fd);
    TEST_UNTIL(p.r, test_stats(p.r).conns == 0);
    CHECK_EQ(p.closes, 10u);
    test_reactor_free(p.r);
}

/* Ours: inline memory is zeroed for each life, aligned for any type, of the full size, and nobody
 * else's: each connection fills its own and finds it so in on_close. */
TEST_EACH(inline_memory_is_fresh_and_its_own) {
    inline_of(1);
    inline_of(8);
    inline_of(100);
    inline_of(4097);
    inline_of((size_t)1 << 20);
}

TEST_EACH(no_inline_memory_was_asked_for) {
    struct test_server p = {0};
    begin(&p, NULL);
    CHECK(!kr_conn_inline(p.r, p.conn));
    test_server_end(&p);
}

/* ---- queued bytes and addresses ---- */

/* Ours: kr_conn_queued counts what was given and not yet taken by the kernel, of all sends
 * together. */
TEST_EACH(queued_counts_bytes) {
    struct test_server p = {0};
    begin(&p, NULL);
    kr_conn c = p.conn;
    CHECK_OK(kr_conn_send(p.r, c, "12345", 5));
    CHECK_EQ(kr_conn_queued(p.r, c), 5u);
    struct iovec iov[3] = {{(void *)(uintptr_t) "67", 2}, {NULL, 0}, {(void *)(uintptr_t) "8", 1}};
    CHECK_OK(kr_conn_sendv(p.r, c, iov, 3));
    CHECK_EQ(kr_conn_queued(p.r, c), 8u);
    void *room;
    CHECK_OK(kr_conn_reserve(p.r, c, 100, &room));
    CHECK_EQ(kr_conn_queued(p.r, c), 8u);
    memcpy(room, "90", 2);
    CHECK_OK(kr_conn_commit(p.r, c, 2));
    CHECK_EQ(kr_conn_queued(p.r, c), 10u);
    CHECK_RECV(p.r, p.fd, "1234567890");
    TEST_UNTIL(p.r, kr_conn_queued(p.r, c) == 0);
    CHECK_EQ(test_stats(p.r).bytes_out, 10u);
    test_server_end(&p);
}

/* Ours: however many pieces, they are one message. */
TEST_EACH(sendv_gathers_its_pieces) {
    struct test_server p = {0};
    begin(&p, NULL);
    char bytes[1024], got[1024];
    test_pattern(bytes, sizeof bytes, 1, 0);
    struct iovec iov[1024];
    for (unsigned i = 0; i < 1024; i++)
        iov[i] = (struct iovec){bytes + i, 1};
    CHECK_OK(kr_conn_sendv(p.r, p.conn, iov, 1024));
    test_recv(p.r, p.fd, got, sizeof got);
    test_pattern_check(got, sizeof got, 1, 0);
    test_server_end(&p);
}

static void check_addresses(const char *ip) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server seen = {.r = r};
    the_server = &seen;
    struct kr_listen_opts opts = test_listen_opts();
    opts.addresses = true;
    struct kr_addr at, peer, local, mine = {.size = sizeof mine.u},
                                    theirs = {.size = sizeof theirs.u};
    CHECK_OK(kr_addr_ip(&at, ip, 0));
    kr_listener listener;
    CHECK_OK(kr_listen(r, &listener, &at, &opts, &seen_ops, NULL));
    CHECK_OK(kr_listener_addr(r, listener, &at));
    int fd = CHECK_SYS(socket(at.u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(connect(fd, &at.u.sa, at.size));
    TEST_UNTIL(r, seen.opens == 1);
    CHECK_SYS(getsockname(fd, &mine.u.sa, &mine.size));
    CHECK_SYS(getpeername(fd, &theirs.u.sa, &theirs.size));

    CHECK_OK(kr_conn_peer(r, seen.conn, &peer));
    CHECK_EQ(peer.size, mine.size);
    CHECK_MEM_EQ(&peer.u, &mine.u, mine.size);
    CHECK_OK(kr_conn_local(r, seen.conn, &local));
    CHECK_EQ(local.size, theirs.size);
    CHECK_MEM_EQ(&local.u, &theirs.u, theirs.size);
    CHECK_EQ(kr_addr_port(&local), kr_addr_port(&at));
    test_close(fd);
    TEST_UNTIL(r, seen.closes == 1);
    test_reactor_free(r);
}

/* Ours: peer and local address are the client's own view the other way round. */
TEST_EACH(addresses_of_a_connection_ipv4) {
    check_addresses("127.0.0.1");
}

TEST_EACH(addresses_of_a_connection_ipv6) {
    tap_need_ipv6();
    check_addresses("::1");
}

TEST_EACH(addresses_not_asked_for_are_unknown) {
    struct test_server p = {0};
    begin(&p, NULL);
    struct kr_addr addr, before;
    memset(&addr, 0x5a, sizeof addr);
    before = addr;
    CHECK_ERR(kr_conn_peer(p.r, p.conn, &addr), ENODATA);
    CHECK_ERR(kr_conn_local(p.r, p.conn, &addr), ENODATA);
    CHECK_MEM_EQ(&addr, &before, sizeof addr);
    test_server_end(&p);
}

/* ---- counters and time ---- */

/* Ours: an older program's smaller struct gets its part and not a byte more; a newer one's larger
 * struct gets zeros behind. */
TEST_EACH(stats_of_any_size) {
    struct kr_reactor *r = test_reactor(NULL);
    CHECK_EQ(kr_step(r, 0), 0);
    CHECK_EQ(kr_step(r, 0), 0);
    struct kr_stats whole = test_stats(r);
    CHECK_EQ(whole.turns, 2u);
    for (size_t size = 0; size <= sizeof whole; size += 8) {
        struct kr_stats part;
        memset(&part, 0x5a, sizeof part);
        CHECK_OK(kr_stats_read(r, &part, size));
        CHECK_MEM_EQ(&part, &whole, size);
        for (size_t i = size; i < sizeof part; i++)
            CHECK_EQ(((unsigned char *)&part)[i], 0x5a);
    }
    struct {
        struct kr_stats known;
        uint64_t later[3], beyond;
    } larger;
    memset(&larger, 0x5a, sizeof larger);
    CHECK_OK(kr_stats_read(r, (struct kr_stats *)&larger, sizeof larger - 8));
    CHECK_MEM_EQ(&larger.known, &whole, sizeof whole);
    CHECK_EQ(larger.later[0] | larger.later[1] | larger.later[2], 0u);
    CHECK_EQ(larger.beyond, 0x5a5a5a5a5a5a5a5au);
    test_reactor_free(r);
}

/* Ours: the counters count what they say. Ten bytes in and out over one connection, one timer, one
 * post. */
TEST_EACH(stats_count_what_happens) {
    struct test_server p = {0};
    begin(&p, NULL);
    test_send(p.r, p.fd, "0123456789", 10);
    TEST_UNTIL(p.r, p.bytes == 10);
    CHECK_OK(kr_conn_send(p.r, p.conn, "9876543210", 10));
    char got[10];
    test_recv(p.r, p.fd, got, 10);
    test_rest(p.r, (struct test_levels){.conns = 1, .listeners = 1});
    struct kr_stats s = test_stats(p.r);
    CHECK_EQ(s.accepts, 1u);
    CHECK_EQ(s.closes, 0u);
    CHECK_EQ(s.bytes_in, 10u);
    CHECK_EQ(s.bytes_out, 10u);
    CHECK_EQ(s.bytes_copied, 10u);
    CHECK_EQ(s.bytes_kept, 0u);
    CHECK_EQ(s.stale_cqes, 0u);
    CHECK_EQ(s.cq_overflows, 0u);
    CHECK_GT(s.allocs, 0u);
    CHECK_GT(s.alloc_bytes, 0u);
    CHECK_GE(s.turns, s.waits);
    CHECK_GE(s.enters, s.waits);
    test_server_end(&p);
}

struct moment {
    int64_t first, second;
};

static void look_twice(struct kr_reactor *r, void *arg) {
    struct moment *m = arg;
    m->first = kr_now(r);
    for (int64_t until = tap_now_ns() + MS; tap_now_ns() < until;)
        ;
    m->second = kr_now(r);
}

/* Ours: within a turn time stands still; outside it is the clock's. */
TEST_EACH(now_stands_still_in_a_turn) {
    struct kr_reactor *r = test_reactor(NULL);
    int64_t before = tap_now_ns(), outside = kr_now(r);
    CHECK_GE(outside, before);
    CHECK_LE(outside, tap_now_ns());
    struct moment m = {0};
    CHECK_OK(kr_post(r, look_twice, &m));
    TEST_UNTIL(r, m.second);
    CHECK_EQ(m.first, m.second);
    CHECK_GE(m.first, outside);
    CHECK_GE(kr_now(r), m.second + MS);
    test_reactor_free(r);
}

/* ---- calls and callbacks ---- */

static unsigned fires, posts;

static void count_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    UNUSED(r, timer, user);
    fires++;
}

static void count_post(struct kr_reactor *r, void *arg) {
    UNUSED(r, arg);
    posts++;
}

/* Ours: no call but the three that run the reactor runs a callback, though everything is due: a
 * client waits, bytes have come, a timer is due, a call was posted, the connection is closed. The
 * turns that follow run them all. */
TEST_EACH(no_call_runs_a_callback) {
    struct test_server p = {0};
    begin(&p, NULL);
    kr_conn c = p.conn;
    kr_timer timer;
    void *room;
    int second = test_connect(p.port);
    test_send(NULL, p.fd, "bytes", 5);
    CHECK_OK(kr_timer_start(p.r, &timer, 0, 0, count_fire, NULL));
    CHECK_OK(kr_post(p.r, count_post, NULL));
    CHECK_OK(kr_timer_restart(p.r, timer, 0, 0));
    CHECK_OK(kr_conn_send(p.r, c, "x", 1));
    CHECK_OK(kr_conn_sendv(p.r, c, &(struct iovec){(void *)(uintptr_t) "y", 1}, 1));
    CHECK_OK(kr_conn_reserve(p.r, c, 10, &room));
    CHECK_OK(kr_conn_commit(p.r, c, 0));
    CHECK_OK(kr_conn_pause(p.r, c));
    CHECK_OK(kr_conn_resume(p.r, c));
    CHECK_OK(kr_conn_deadline(p.r, c, KR_DEADLINE_IDLE, 1));
    CHECK_OK(kr_conn_shutdown(p.r, c));
    CHECK_OK(kr_listener_pause(p.r, p.listener));
    CHECK_OK(kr_listener_resume(p.r, p.listener));
    CHECK_OK(kr_conn_close(p.r, c, KR_CLOSE_FLUSH));
    CHECK_OK(kr_conn_close(p.r, c, KR_CLOSE_NOW));
    CHECK_OK(kr_conn_close(p.r, c, KR_CLOSE_RESET));
    CHECK_EQ(p.opens, 1u);
    CHECK_EQ(p.datas + p.closes + fires + posts, 0u);

    TEST_UNTIL(p.r, p.opens == 2 && p.closes == 1 && fires == 1 && posts == 1);
    CHECK_EQ(test_recv_end(p.r, p.fd, NULL), ECONNRESET);
    test_close(second);
    test_server_end(&p);
}

/* Ours: a send for which there is no memory takes nothing, and the next is good. */
TEST_EACH(send_without_memory_takes_nothing) {
    static char bytes[200000];
    struct test_server p = {0};
    begin(&p, NULL);
    kr_conn c = p.conn;
    void *room = bytes;
    test_reactor_refuse_memory(p.r, 0);
    CHECK_ERR(kr_conn_send(p.r, c, bytes, sizeof bytes), ENOMEM);
    CHECK_ERR(kr_conn_sendv(p.r, c, &(struct iovec){bytes, sizeof bytes}, 1), ENOMEM);
    CHECK_ERR(kr_conn_reserve(p.r, c, sizeof bytes, &room), ENOMEM);
    CHECK(room == bytes);
    CHECK_ERR(kr_conn_commit(p.r, c, 0), EINVAL);
    check_silent(&p);
    test_reactor_refuse_memory(p.r, -1);
    CHECK_OK(kr_conn_send(p.r, c, "good", 4));
    CHECK_RECV(p.r, p.fd, "good");
    test_server_end(&p);
}

static unsigned nested;

static void run_nested(struct kr_reactor *r) {
    nested++;
    CHECK_ERR(kr_run(r), EBUSY);
    CHECK_ERR(kr_step(r, 0), EBUSY);
    CHECK_ERR(kr_reactor_free(r), EBUSY);
}

static void nested_in_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    UNUSED(timer, user);
    run_nested(r);
}

static void nested_in_post(struct kr_reactor *r, void *arg) {
    (void)arg;
    run_nested(r);
}

static void nested_in_conn(struct test_server *s, kr_conn conn) {
    (void)conn;
    run_nested(s->r);
}

/* Ours: kr_run, kr_step and kr_reactor_free from within a callback are -EBUSY, and nothing
 * happened; also in the callbacks that kr_reactor_free itself runs. */
TEST_EACH(running_and_freeing_in_a_callback_is_busy) {
    struct test_server p = {.in_open = nested_in_conn, .in_close = nested_in_conn};
    begin(&p, NULL);
    CHECK_EQ(nested, 1u);
    CHECK_OK(kr_timer_start(p.r, NULL, 0, 0, nested_in_timer, NULL));
    CHECK_OK(kr_post(p.r, nested_in_post, NULL));
    TEST_UNTIL(p.r, nested == 3);
    check_silent(&p);
    CHECK_OK(kr_post(p.r, nested_in_post, NULL));
    test_reactor_free(p.r);
    CHECK_EQ(nested, 5u);
    CHECK_EQ(p.closes, 1u);
    test_close(p.fd);
}

static unsigned listens_refused;

static void listen_in_close(struct test_server *s, kr_conn conn) {
    struct kr_addr loopback;
    kr_listener listener = {.bits = 7};
    (void)conn;
    CHECK_OK(kr_addr_ip(&loopback, "127.0.0.1", 0));
    CHECK_ERR(kr_listen(s->r, &listener, &loopback, NULL, &seen_ops, s), ESHUTDOWN);
    CHECK_EQ(listener.bits, 7u);
    listens_refused++;
}

/* Ours: once the reactor's end has begun nobody listens any more, though callbacks still run. */
TEST_EACH(listening_at_the_end_of_the_reactor_is_refused) {
    struct test_server p = {.in_close = listen_in_close};
    begin(&p, NULL);
    test_reactor_free(p.r);
    CHECK_EQ(listens_refused, 1u);
    test_close(p.fd);
}
