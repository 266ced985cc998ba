/* The public functions, one by one: what they refuse, and what they answer.
 *
 * What must hold of each: an argument out of its range is -EINVAL, a handle whose object is gone
 * (or never was) is -ESTALE, in both cases nothing was done and what `ret` points to is
 * untouched. */
#include "api/api.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* ---- one connection, and what was seen of it ---- */

struct test_server *the_server;
static void *close_user;

static void seen_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)user;
    test_server_open(r, conn, the_server);
}

static size_t seen_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    (void)user;
    return test_server_data(r, conn, the_server, data, size);
}

static void seen_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    close_user = user;
    test_server_close(r, conn, the_server, error, why);
}

const struct kr_conn_ops seen_ops = {
    .on_open = seen_open, .on_data = seen_data, .on_close = seen_close};

void begin(struct test_server *s, const struct kr_listen_opts *opts) {
    the_server = s;
    test_server_begin(s, opts, &seen_ops);
}

void check_silent(struct test_server *p) {
    CHECK_EQ(kr_conn_queued(p->r, p->conn), 0u);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(kr_step(p->r, 0), 0);
    CHECK_EQ(test_recv_some(p->fd, &(char){0}, 1), 0);
    CHECK_EQ(test_stats(p->r).bytes_out, 0u);
    CHECK_EQ(p->closes + 1, p->opens);
}

/* ---- arguments ---- */

/* Ours: without a reactor nothing can be done; freeing none is allowed. */
TEST(no_reactor_is_refused) {
    struct kr_addr addr;
    kr_conn conn = {1};
    kr_listener listener = {1};
    kr_timer timer = {1};
    void *room;
    struct kr_stats stats;
    CHECK_ERR(kr_run(NULL), EINVAL);
    CHECK_ERR(kr_step(NULL, 0), EINVAL);
    CHECK_OK(kr_reactor_free(NULL));
    kr_stop(NULL);
    CHECK_ERR(kr_dump(NULL, 1), EINVAL);
    CHECK_ERR(kr_stats_read(NULL, &stats, sizeof stats), EINVAL);
    CHECK_ERR(kr_post(NULL, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_send(NULL, conn, "x", 1), EINVAL);
    CHECK_ERR(kr_conn_sendv(NULL, conn, NULL, 0), EINVAL);
    CHECK_ERR(kr_conn_send_ref(NULL, conn, "x", 1, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_send_fds(NULL, conn, "x", 1, &(int){0}, 1), EINVAL);
    CHECK_ERR(kr_conn_reserve(NULL, conn, 1, &room), EINVAL);
    CHECK_ERR(kr_conn_commit(NULL, conn, 0), EINVAL);
    CHECK_ERR(kr_conn_pause(NULL, conn), EINVAL);
    CHECK_ERR(kr_conn_resume(NULL, conn), EINVAL);
    CHECK_ERR(kr_conn_shutdown(NULL, conn), EINVAL);
    CHECK_ERR(kr_drain(NULL, 0, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_close(NULL, conn, KR_CLOSE_NOW), EINVAL);
    CHECK_ERR(kr_conn_peer(NULL, conn, &addr), EINVAL);
    CHECK_ERR(kr_conn_local(NULL, conn, &addr), EINVAL);
    CHECK_ERR(kr_conn_set_user(NULL, conn, NULL), EINVAL);
    CHECK_ERR(kr_conn_deadline(NULL, conn, KR_DEADLINE_IDLE, 0), EINVAL);
    CHECK_ERR(kr_listener_addr(NULL, listener, &addr), EINVAL);
    CHECK_ERR(kr_listener_pause(NULL, listener), EINVAL);
    CHECK_ERR(kr_listener_resume(NULL, listener), EINVAL);
    CHECK_ERR(kr_listener_drain(NULL, listener, 0), EINVAL);
    CHECK_ERR(kr_listener_close(NULL, listener), EINVAL);
    CHECK_ERR(kr_timer_restart(NULL, timer, 0, 0), EINVAL);
    CHECK_ERR(kr_timer_stop(NULL, timer), EINVAL);
    CHECK_ERR(kr_reactor_new(NULL, NULL, NULL), EINVAL);
}

static void never(struct kr_reactor *r, kr_timer timer, void *user) {
    UNUSED(r, timer, user);
    FAIL("fired");
}

TEST_EACH(timer_refuses_bad_arguments) {
    struct kr_reactor *r = test_reactor(NULL);
    kr_timer timer = {.bits = 7};
    CHECK_ERR(kr_timer_start(r, &timer, -1, 0, never, NULL), EINVAL);
    CHECK_ERR(kr_timer_start(r, &timer, INT64_MIN, 0, never, NULL), EINVAL);
    CHECK_ERR(kr_timer_start(r, &timer, 0, -1, never, NULL), EINVAL);
    CHECK_ERR(kr_timer_start(r, &timer, 0, 0, NULL, NULL), EINVAL);
    CHECK_ERR(kr_timer_start(NULL, &timer, 0, 0, never, NULL), EINVAL);
    CHECK_EQ(timer.bits, 7u);
    CHECK_EQ(test_stats(r).timers, 0u);
    CHECK_OK(kr_timer_start(r, &timer, HOUR, 0, never, NULL));
    CHECK_ERR(kr_timer_restart(r, timer, -1, 0), EINVAL);
    CHECK_ERR(kr_timer_restart(r, timer, 0, -1), EINVAL);
    CHECK_EQ(kr_step(r, 0), 0);
    CHECK_OK(kr_timer_stop(r, timer));
    test_reactor_end(r, (struct test_levels){0});
}

TEST_EACH(post_and_stats_refuse_bad_arguments) {
    struct kr_reactor *r = test_reactor(NULL);
    CHECK_ERR(kr_post(r, NULL, NULL), EINVAL);
    CHECK_ERR(kr_stats_read(r, NULL, sizeof(struct kr_stats)), EINVAL);
    CHECK_EQ(kr_step(r, 0), 0);
    test_reactor_free(r);
}

static void listen_refused(struct kr_reactor *r, const struct kr_addr *addr,
                           const struct kr_listen_opts *opts, const struct kr_conn_ops *ops) {
    kr_listener listener = {.bits = 7};
    CHECK_ERR(kr_listen(r, &listener, addr, opts, ops, NULL), EINVAL);
    CHECK_EQ(listener.bits, 7u);
    CHECK_EQ(test_stats(r).listeners, 0u);
}

#define OPTS_REFUSED(field, value)                                                                 \
    do {                                                                                           \
        struct kr_listen_opts opts;                                                                \
        kr_listen_opts_init(&opts);                                                                \
        opts.field = (value);                                                                      \
        listen_refused(r, &loopback, &opts, &seen_ops);                                            \
        CHECK_ERR(kr_listen_opts_check(&opts, NULL), EINVAL);                                      \
    } while (0)

/* Ours: each option out of its range, and each pointer that must be, is refused; no descriptor is
 * left open, which the harness checks. */
TEST_EACH(listen_refuses_bad_arguments) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr loopback;
    CHECK_OK(kr_addr_ip(&loopback, "127.0.0.1", 0));
    struct kr_conn_ops mute = seen_ops;
    mute.on_data = NULL;
    listen_refused(r, NULL, NULL, &seen_ops);
    listen_refused(r, &loopback, NULL, NULL);
    listen_refused(r, &loopback, NULL, &mute);
    listen_refused(r, &(struct kr_addr){0}, NULL, &seen_ops);
    struct kr_addr cut = loopback;
    cut.size = 4;
    listen_refused(r, &cut, NULL, &seen_ops);
    cut.size = sizeof cut.u + 1;
    listen_refused(r, &cut, NULL, &seen_ops);

    OPTS_REFUSED(size, 0);
    OPTS_REFUSED(size, 8);
    OPTS_REFUSED(backlog, 65536);
    OPTS_REFUSED(turn_accepts, 17);
    OPTS_REFUSED(conn.send_low, (size_t)1 << 31);
    OPTS_REFUSED(conn.send_high, (size_t)1 << 31);
    OPTS_REFUSED(conn.send_cap, (size_t)1 << 31);
    OPTS_REFUSED(conn.send_cap, SIZE_MAX);
    OPTS_REFUSED(conn.zerocopy_min, (size_t)1 << 31);
    OPTS_REFUSED(conn.zerocopy_min, SIZE_MAX);
    OPTS_REFUSED(conn.recv_cap, (size_t)1 << 31);
    OPTS_REFUSED(conn.recv_cap, SIZE_MAX);
    OPTS_REFUSED(conn.recv_fds, KR_FDS_MAX + 1);
    OPTS_REFUSED(conn.recv_fds, UINT_MAX);
    OPTS_REFUSED(conn.idle_ns, -1);
    OPTS_REFUSED(conn.flush_ns, -1);
    OPTS_REFUSED(conn.inline_size, ((size_t)1 << 20) + 1);
    OPTS_REFUSED(conn.inline_size, SIZE_MAX);

    struct kr_addr local = {.size = sizeof local.u.sa, .u.sa.sa_family = AF_NETLINK};
    listen_refused(r, &local, NULL, &seen_ops);
    CHECK_ERR(kr_listen(NULL, NULL, &loopback, NULL, &seen_ops, NULL), EINVAL);
    test_reactor_free(r);
}

/* Ours: a refused send has taken nothing, however it is refused. */
TEST_EACH(send_refuses_bad_arguments) {
    struct test_server p = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.send_low = opts.conn.send_high = opts.conn.send_cap = 1000;
    begin(&p, &opts);
    kr_conn c = p.conn;
    CHECK_ERR(kr_conn_send(p.r, c, NULL, 1), EINVAL);
    CHECK_OK(kr_conn_send(p.r, c, NULL, 0));
    static char bytes[1001];
    CHECK_ERR(kr_conn_send(p.r, c, bytes, 1001), EMSGSIZE);

    struct iovec iov[2] = {{bytes, 1}, {bytes, SIZE_MAX}};
    CHECK_ERR(kr_conn_sendv(p.r, c, NULL, 1), EINVAL);
    CHECK_ERR(kr_conn_sendv(p.r, c, iov, -1), EINVAL);
    CHECK_ERR(kr_conn_sendv(p.r, c, iov, 2), EINVAL);
    CHECK_ERR(kr_conn_sendv(p.r, c, &(struct iovec){NULL, 1}, 1), EINVAL);
    CHECK_ERR(kr_conn_sendv(p.r, c, &(struct iovec){bytes, 1001}, 1), EMSGSIZE);
    CHECK_OK(kr_conn_sendv(p.r, c, NULL, 0));
    CHECK_ERR(kr_conn_send_ref(p.r, c, NULL, 1, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_send_ref(p.r, c, bytes, 1001, NULL, NULL), EMSGSIZE);
    CHECK_OK(kr_conn_sendv(p.r, c, &(struct iovec){NULL, 0}, 1));

    void *room = bytes;
    CHECK_ERR(kr_conn_reserve(p.r, c, 0, &room), EINVAL);
    CHECK_ERR(kr_conn_reserve(p.r, c, 8, NULL), EINVAL);
    CHECK_ERR(kr_conn_reserve(p.r, c, ((size_t)1 << 20) + 1, &room), EINVAL);
    CHECK_ERR(kr_conn_reserve(p.r, c, SIZE_MAX, &room), EINVAL);
    CHECK_ERR(kr_conn_reserve(p.r, c, 1001, &room), EMSGSIZE);
    CHECK(room == bytes);
    CHECK_ERR(kr_conn_commit(p.r, c, 0), EINVAL);
    CHECK_OK(kr_conn_reserve(p.r, c, 8, &room));
    CHECK_ERR(kr_conn_commit(p.r, c, 9), EINVAL);
    CHECK_OK(kr_conn_commit(p.r, c, 0));
    CHECK_ERR(kr_conn_commit(p.r, c, 0), EINVAL);
    check_silent(&p);
    test_server_end(&p);
}

/* Ours: a send ends an open reservation, whose bytes are not sent. */
TEST_EACH(send_ends_the_reservation) {
    struct test_server p = {0};
    begin(&p, NULL);
    void *room;
    CHECK_OK(kr_conn_reserve(p.r, p.conn, 5, &room));
    memcpy(room, "wrong", 5);
    CHECK_OK(kr_conn_send(p.r, p.conn, "right", 5));
    CHECK_ERR(kr_conn_commit(p.r, p.conn, 5), EINVAL);
    CHECK_RECV(p.r, p.fd, "right");
    CHECK_EQ(test_stats(p.r).bytes_out, 5u);
    test_server_end(&p);
}

TEST_EACH(conn_refuses_bad_arguments) {
    struct test_server p = {0};
    begin(&p, NULL);
    kr_conn c = p.conn;
    CHECK_ERR(kr_conn_close(p.r, c, (enum kr_close)4), EINVAL);
    CHECK_ERR(kr_conn_close(p.r, c, (enum kr_close)-1), EINVAL);
    CHECK_ERR(kr_conn_deadline(p.r, c, KR_DEADLINE_IDLE, -1), EINVAL);
    CHECK_ERR(kr_conn_peer(p.r, c, NULL), EINVAL);
    CHECK_ERR(kr_conn_local(p.r, c, NULL), EINVAL);
    CHECK_ERR(kr_listener_addr(p.r, p.listener, NULL), EINVAL);
    check_silent(&p);
    test_server_end(&p);
}

/* ---- handles ---- */

/* Whatever is asked about a connection that is not there. */
static void check_stale_conn(struct kr_reactor *r, kr_conn c) {
    struct kr_addr addr, before;
    memset(&addr, 0x5a, sizeof addr);
    before = addr;
    void *room = &addr;
    CHECK_ERR(kr_conn_send(r, c, "x", 1), ESTALE);
    CHECK_ERR(kr_conn_send(r, c, "", 0), ESTALE);
    CHECK_ERR(kr_conn_sendv(r, c, &(struct iovec){(void *)(uintptr_t) "x", 1}, 1), ESTALE);
    CHECK_ERR(kr_conn_send_ref(r, c, "x", 1, NULL, NULL), ESTALE);
    CHECK_ERR(kr_conn_send_fds(r, c, "x", 1, &(int){0}, 1), ESTALE);
    CHECK_ERR(kr_conn_reserve(r, c, 8, &room), ESTALE);
    CHECK_ERR(kr_conn_commit(r, c, 0), ESTALE);
    CHECK_ERR(kr_conn_pause(r, c), ESTALE);
    CHECK_ERR(kr_conn_resume(r, c), ESTALE);
    CHECK_ERR(kr_conn_shutdown(r, c), ESTALE);
    CHECK_ERR(kr_conn_close(r, c, KR_CLOSE_RESET), ESTALE);
    CHECK_ERR(kr_conn_peer(r, c, &addr), ESTALE);
    CHECK_ERR(kr_conn_local(r, c, &addr), ESTALE);
    CHECK_ERR(kr_conn_set_user(r, c, r), ESTALE);
    CHECK_ERR(kr_conn_deadline(r, c, KR_DEADLINE_IDLE, HOUR), ESTALE);
    CHECK_EQ(kr_conn_queued(r, c), 0u);
    CHECK(!kr_conn_user(r, c));
    CHECK(!kr_conn_inline(r, c));
    CHECK(room == &addr);
    CHECK_MEM_EQ(&addr, &before, sizeof addr);
}

static void check_stale_listener(struct kr_reactor *r, kr_listener l) {
    CHECK_ERR(kr_listener_addr(r, l, &(struct kr_addr){0}), ESTALE);
    CHECK_ERR(kr_listener_pause(r, l), ESTALE);
    CHECK_ERR(kr_listener_resume(r, l), ESTALE);
    CHECK_ERR(kr_listener_drain(r, l, 0), ESTALE);
    CHECK_ERR(kr_listener_close(r, l), ESTALE);
}

static void check_stale_timer(struct kr_reactor *r, kr_timer t) {
    CHECK_ERR(kr_timer_restart(r, t, 0, 0), ESTALE);
    CHECK_ERR(kr_timer_stop(r, t), ESTALE);
}

/* Ours: zero is no handle, nor is one of another kind, of a slot beyond the table, of another life,
 * or all ones; and the living things whose neighbours they are do not notice. */
TEST_EACH(what_is_no_handle_is_stale) {
    struct test_server p = {0};
    begin(&p, NULL);
    kr_timer timer;
    CHECK_OK(kr_timer_start(p.r, &timer, HOUR, 0, never, NULL));
    uint64_t bits[64] = {0, UINT64_MAX, p.conn.bits, p.listener.bits, timer.bits};
    unsigned count = 5;
    for (unsigned i = 2; i < 5; i++) {
        bits[count++] = bits[i] + 1;
        bits[count++] = bits[i] - 1;
        for (unsigned bit = 0; bit < 64; bit += 4)
            bits[count++] = bits[i] ^ (uint64_t)1 << bit;
    }
    for (unsigned i = 0; i < count; i++) {
        if (bits[i] != p.conn.bits)
            check_stale_conn(p.r, (kr_conn){bits[i]});
        if (bits[i] != p.listener.bits)
            check_stale_listener(p.r, (kr_listener){bits[i]});
        if (bits[i] != timer.bits)
            check_stale_timer(p.r, (kr_timer){bits[i]});
    }
    check_silent(&p);
    CHECK_EQ(test_stats(p.r).timers, 1u);
    CHECK_EQ(test_stats(p.r).listeners, 1u);
    CHECK_OK(kr_timer_stop(p.r, timer));
    check_stale_timer(p.r, timer);
    CHECK_OK(kr_listener_close(p.r, p.listener));
    check_stale_listener(p.r, p.listener);
    test_server_end(&p);
}

/* A server, a timer and a lease of one reactor, made in the same order as those of another. */
struct estate {
    struct test_server s;
    kr_timer timer;
    kr_lease lease;
};

static void estate_make(struct estate *e) {
    begin(&e->s, NULL);
    CHECK_OK(kr_timer_start(e->s.r, &e->timer, HOUR, 0, never, NULL));
    CHECK_OK(kr_lease_take(e->s.r, e->s.conn, "kept", 4, &e->lease));
}

static void estate_end(struct estate *e) {
    CHECK_OK(kr_timer_stop(e->s.r, e->timer));
    CHECK_OK(kr_lease_return(e->s.r, e->lease));
    the_server = &e->s;
    test_server_end(&e->s);
}

/* Ours: a handle is of no use to any reactor but its own, whatever it names: two reactors that did
 * the same things have given no two equal handles. */
TEST_EACH(handles_of_another_reactor_are_stale) {
    static struct estate own, other;
    estate_make(&own);
    estate_make(&other);
    struct kr_reactor *r = own.s.r;
    check_stale_conn(r, other.s.conn);
    check_stale_listener(r, other.s.listener);
    check_stale_timer(r, other.timer);
    CHECK(!kr_lease_data(r, other.lease, NULL));
    CHECK_ERR(kr_lease_return(r, other.lease), ESTALE);
    kr_lease lease;
    CHECK_ERR(kr_lease_take(r, other.s.conn, "x", 1, &lease), ESTALE);
    CHECK_ERR(kr_conn_forward(r, own.s.conn, other.s.conn, NULL, NULL, NULL), ESTALE);
    CHECK_ERR(kr_conn_forward(r, other.s.conn, own.s.conn, NULL, NULL, NULL), ESTALE);
    check_silent(&own.s);
    check_silent(&other.s);
    estate_end(&own);
    estate_end(&other);
}

/* Ours: when on_close has returned, the connection's handle is stale for good, also when its slot
 * has the next connection in it, which has another handle. */
TEST_EACH(closed_connection_stays_stale) {
    struct test_server p = {0};
    begin(&p, NULL);
    kr_conn gone[20];
    for (unsigned i = 0; i < 20; i++) {
        gone[i] = p.conn;
        test_close(p.fd);
        TEST_UNTIL(p.r, p.closes == i + 1);
        p.fd = test_connect(p.port);
        TEST_UNTIL(p.r, p.opens == i + 2);
        for (unsigned k = 0; k <= i; k++) {
            CHECK_NE(gone[k].bits, p.conn.bits);
            check_stale_conn(p.r, gone[k]);
        }
    }
    check_silent(&p);
    test_server_end(&p);
}

static char other_user;

static void still_good(struct test_server *s, kr_conn conn) {
    struct kr_reactor *r = s->r;
    CHECK_EQ(conn.bits, s->conn.bits);
    CHECK(kr_conn_user(r, conn) == &other_user);
    CHECK_MEM_EQ(kr_conn_inline(r, conn), "inline", 6);
    CHECK_ERR(kr_conn_send(r, conn, "x", 1), EPIPE);
    CHECK_ERR(kr_conn_pause(r, conn), EPIPE);
    CHECK_ERR(kr_conn_resume(r, conn), EPIPE);
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_RESET));
}

static void write_inline(struct test_server *s, kr_conn conn) {
    memcpy(kr_conn_inline(s->r, conn), "inline", 6);
}

/* Ours: until on_close has returned the handle, the user pointer and the inline memory are good;
 * what would send, read on or wait is -EPIPE, and closing again changes nothing. */
TEST_EACH(handle_is_good_in_on_close) {
    struct test_server p = {.in_open = write_inline, .in_close = still_good};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.inline_size = 6;
    begin(&p, &opts);
    CHECK(kr_conn_user(p.r, p.conn) == &p);
    CHECK_OK(kr_conn_set_user(p.r, p.conn, &other_user));
    CHECK(kr_conn_user(p.r, p.conn) == &other_user);
    void *room;
    CHECK_OK(kr_conn_reserve(p.r, p.conn, 1, &room));
    CHECK_OK(kr_conn_close(p.r, p.conn, KR_CLOSE_NOW));
    CHECK_ERR(kr_conn_send(p.r, p.conn, "x", 1), EPIPE);
    CHECK_ERR(kr_conn_commit(p.r, p.conn, 1), EPIPE);
    CHECK_ERR(kr_conn_deadline(p.r, p.conn, KR_DEADLINE_IDLE, HOUR), EPIPE);
    TEST_UNTIL(p.r, p.closes == 1);
    CHECK(close_user == &other_user);
    check_stale_conn(p.r, p.conn);
    test_close(p.fd);
    test_reactor_free(p.r);
}

/* Ours: NULL is a user pointer like any other. */
TEST_EACH(user_pointer_may_be_null) {
    struct test_server p = {0};
    begin(&p, NULL);
    CHECK_OK(kr_conn_set_user(p.r, p.conn, NULL));
    CHECK(!kr_conn_user(p.r, p.conn));
    test_server_end(&p);
    CHECK(!close_user);
}

TAP_MAIN(api, 127)
