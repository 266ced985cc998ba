/* Attempts from callbacks, many at a time, and calls that are refused. */
#include "connect/connect.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- from callbacks ---- */

struct chain {
    struct kr_addr addr;
    struct life life;
    unsigned left, links;
    bool in_open;
};

static const struct kr_conn_ops chain_ops;

static void chain_next(struct kr_reactor *r, struct chain *chain) {
    if (chain->left == 0)
        return;
    chain->left--;
    chain->links++;
    CHECK_OK(kr_connect(r, NULL, &chain->addr, NULL, &chain_ops, chain));
}

static void chain_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct chain *chain = user;
    if (chain->in_open)
        chain_next(r, chain);
    CHECK_OK(kr_conn_send(r, conn, "x", 1));
}

static size_t chain_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    (void)data;
    chain_next(r, user);
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
    return size;
}

static void chain_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                        enum kr_why why) {
    UNUSED(conn, error, why);
    struct chain *chain = user;
    chain->links--;
    chain_next(r, chain);
}

static const struct kr_conn_ops chain_ops = {
    .on_open = chain_open,
    .on_data = chain_data,
    .on_close = chain_close,
};

static void chain_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    chain_next(r, user);
}

static void chain_post(struct kr_reactor *r, void *user) {
    chain_next(r, user);
}

/* Ours: it may be called in every callback; connections that succeed one another in on_close, as
 * those of a program that tries again, do not starve what else there is. */
TEST_EACH(connect_from_callbacks) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server server = {0};
    kr_listener listener;
    struct chain chain = {.left = 300};
    chain.addr = loopback(test_listen(r, &listener, NULL, &test_server_echo_ops, &server));
    CHECK_OK(kr_timer_start(r, NULL, 0, 0, chain_timer, &chain));
    CHECK_OK(kr_post(r, chain_post, &chain));
    TEST_UNTIL(r, chain.left < 298);
    chain.in_open = true;
    TEST_UNTIL(r, chain.left == 0 && chain.links == 0 && server.closes == 300);
    struct far f = far_begin(IPV4, -1);
    chain = (struct chain){.left = 300, .addr = f.addr};
    chain_next(r, &chain);
    TEST_UNTIL(r, chain.left == 0 && chain.links == 0);
    CHECK_EQ(test_stats(r).connect_errors, 300u);
    CHECK_OK(kr_listener_close(r, listener));
    test_reactor_end(r, (struct test_levels){.conns = 0});
    far_end(&f);
}

/* ---- how many ---- */

/* Ours: connect_max bounds them, whatever state they are in; each that has closed makes room for
 * one. Those that are accepted have slots of their own, and take none of theirs. */
TEST_EACH(connect_max_bounds_them) {
    struct kr_config config = test_config();
    config.conn_max = 4;
    config.connect_max = 4;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server server = {0};
    kr_listener listener;
    struct kr_addr addr = loopback(test_listen(r, &listener, NULL, &test_server_echo_ops, &server));
    struct life lives[4];
    int fds = tap_fd_count();
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < 4; i++)
            dial(r, &lives[i], &addr);
        for (unsigned turns = round % 5; turns; turns--)
            CHECK_OK(kr_step(r, 0));
        kr_conn conn = {7};
        CHECK_ERR(kr_connect(r, &conn, &addr, NULL, &life_ops, NULL), ENOSPC);
        CHECK_EQ(conn.bits, 7u);
        for (unsigned i = 0; i < 4; i++)
            TEST_UNTIL(r, lives[i].opens == 1);
        TEST_UNTIL(r, server.opens == 4 * (round + 1)); /* the table is full */
        CHECK_EQ(tap_fd_count(), fds + 8 * test_slot_cost(r));
        CHECK_EQ(test_stats(r).conns, 8u);
        for (unsigned i = 0; i < 4; i++)
            end(r, &lives[i]);
        TEST_UNTIL(r, server.closes == server.opens);
    }
    CHECK_OK(kr_listener_close(r, listener));
    test_reactor_end(r, (struct test_levels){.conns = 0});
}

static void dial_in_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                          enum kr_why why) {
    UNUSED(conn, error, why);
    struct life *life = user;
    life->closes++;
    struct kr_addr addr = loopback(9);
    CHECK_ERR(kr_connect(r, NULL, &addr, NULL, &life_ops, NULL), ENOSPC);
}

/* Ours: in on_close the connection's own slot is not free yet. */
TEST_EACH(connect_max_counts_one_that_is_closing) {
    static const struct kr_conn_ops ops = {.on_data = life_data, .on_close = dial_in_close};
    struct kr_config config = test_config();
    config.connect_max = 1;
    struct kr_reactor *r = test_reactor(&config);
    struct far f = far_begin(IPV4, -1);
    struct life life = {0};
    CHECK_OK(kr_connect(r, NULL, &f.addr, NULL, &ops, &life));
    TEST_UNTIL(r, life.closes == 1);
    dial(r, &life, &f.addr);
    check_over(r, &life, -ECONNREFUSED, KR_WHY_CONNECT);
    over(r);
    far_end(&f);
}

/* Ours: thousands of lives in few slots leave nothing, and once warm hardly ask for memory: less
 * than once in a hundred lives, for a queue that is longer than those before. */
TEST_EACH(connect_storm, .deadline_s = 60) {
    enum { SLOTS = 32 };
    unsigned rounds = tap_full() ? 1000 : 150;
    struct kr_config config = test_config();
    config.connect_max = SLOTS;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server server = {0};
    kr_listener listener;
    struct kr_addr addr = loopback(test_listen(r, &listener, NULL, &test_server_echo_ops, &server));
    struct far f = far_begin(ABSTRACT, 8), refusing = far_begin(IPV4, -1);
    static struct life lives[SLOTS];
    uint64_t allocs = 0;
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < SLOTS; i++) {
            dial(r, &lives[i], i % 8 == 7 ? &refusing.addr : i % 8 == 6 ? &f.addr : &addr);
            if (i % 8 == 5)
                close_now(r, &lives[i]);
            else
                queue_pattern(r, lives[i].conn, 1 + tap_random_below(3000));
        }
        for (unsigned i = 0; i < SLOTS; i++) {
            struct life *life = &lives[i];
            TEST_UNTIL(r, life->opens || life->closes);
            if (!life->closes)
                CHECK_OK(kr_conn_close(r, life->conn, manners[i % MANNERS]));
            life->closing = true;
        }
        for (unsigned i = 0; i < SLOTS; i++)
            TEST_UNTIL(r, lives[i].closes == 1);
        int fd;
        while ((fd = accept4(f.fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
            test_close(fd);
        TEST_UNTIL(r, test_stats(r).conns == 0);
        if (round == rounds / 3)
            allocs = test_stats(r).allocs;
    }
    CHECK_EQ(test_stats(r).connects + test_stats(r).connect_errors, (uint64_t)rounds * SLOTS);
    CHECK_LE(test_stats(r).allocs, allocs + rounds * 2 / 3 * SLOTS / 100);
    CHECK_OK(kr_listener_close(r, listener));
    test_reactor_end(r, (struct test_levels){.conns = 0});
    far_end(&f);
    far_end(&refusing);
}

/* ---- refusals of the call ---- */

/* The kernel's, and ours: at RLIMIT_NOFILE no socket can be made, which the call tells; later it
 * can. */
TEST_EACH(connect_without_a_descriptor) {
    struct far f = far_begin(IPV4, 8);
    struct kr_reactor *r = test_reactor(NULL);
    int next = CHECK_SYS(dup(0));
    CHECK_SYS(close(next));
    struct rlimit limit, low;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
    low = limit;
    low.rlim_cur = (rlim_t)next;
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &low));
    kr_conn conn = {7};
    for (unsigned i = 0; i < 300; i++) /* more often than there are slots: none may be lost */
        CHECK_ERR(kr_connect(r, &conn, &f.addr, NULL, &life_ops, NULL), EMFILE);
    CHECK_EQ(conn.bits, 7u);
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    struct life life;
    dial(r, &life, &f.addr);
    int fd = far_accept(r, &f);
    TEST_UNTIL(r, life.opens == 1);
    end(r, &life);
    test_close(fd);
    over(r);
    far_end(&f);
}

static void refuse(struct kr_reactor *r, const struct kr_addr *addr,
                   const struct kr_connect_opts *opts, const struct kr_conn_ops *ops) {
    kr_conn conn = {7};
    CHECK_ERR(kr_connect(r, &conn, addr, opts, ops, NULL), EINVAL);
    CHECK_EQ(conn.bits, 7u);
    CHECK_EQ(test_stats(r).conns, 0u);
}

/* Ours: whatever is out of its range is refused and begins nothing. */
TEST_EACH(connect_refuses_bad_arguments) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr good = loopback(9), bad;
    refuse(r, NULL, NULL, &life_ops);
    refuse(r, &good, NULL, NULL);
    refuse(r, &good, NULL, &(struct kr_conn_ops){.on_open = life_open});
    bad = good;
    bad.u.sa.sa_family = AF_NETLINK;
    refuse(r, &bad, NULL, &life_ops);
    bad = good;
    bad.size = 0;
    refuse(r, &bad, NULL, &life_ops);
    bad.size = sizeof bad.u + 1;
    refuse(r, &bad, NULL, &life_ops);
    struct kr_connect_opts opts;
#define REFUSE(field_, value_)                                                                     \
    do {                                                                                           \
        kr_connect_opts_init(&opts);                                                               \
        opts.field_ = (value_);                                                                    \
        refuse(r, &good, &opts, &life_ops);                                                        \
    } while (0)
    REFUSE(size, 0);
    REFUSE(size, sizeof opts + 1);
    REFUSE(conn.size, 0);
    REFUSE(conn.recv_cap, (size_t)1 << 31);
    REFUSE(conn.flush_ns, -1);
    REFUSE(conn.send_low, (size_t)1 << 31);
    bad = good;
    bad.size = 0;
    REFUSE(source, &bad);
    CHECK_ERR(kr_connect(NULL, NULL, &good, NULL, &life_ops, NULL), EINVAL);
    over(r);
}

/* Ours: the defaults are those that the header gives. */
TEST(connect_opts_are_as_documented) {
    struct kr_connect_opts o;
    memset(&o, 0x5a, sizeof o);
    kr_connect_opts_init(&o);
    CHECK_EQ(o.size, sizeof o);
    CHECK(!o.source && !o.local_address);
    CHECK_EQ(o.timeout_ns, 30000 * MS);
    CHECK_EQ(o.conn.size, sizeof o.conn);
    CHECK(o.conn.no_delay);
}
