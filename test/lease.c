/* Leases: bytes that stay when on_data has returned, in their buffer as long as the shares allow
 * it, else in a copy; and neither way lost, doubled, or in anybody's way. */
#include "harness/net.h"

#include "conn/reactor.h"

#include <errno.h>
#include <string.h>

#define MOST 64

/* Leases all that it is shown, one lease a call. */
struct keeper {
    kr_conn conn;
    kr_lease leases[MOST];
    const void *shown[MOST];
    size_t sizes[MOST];
    unsigned count, closed;
    int refused; /* the last error of kr_lease_take */
    bool leave;  /* consume nothing the first time */
};

static void keeper_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct keeper *k = user;
    (void)r;
    k->conn = conn;
}

static size_t keeper_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    struct keeper *k = user;
    if (k->leave) {
        k->leave = false;
        return 0;
    }
    CHECK_LT(k->count, MOST);
    int rc = kr_lease_take(r, conn, data, size, &k->leases[k->count]);
    if (rc < 0) {
        k->refused = rc;
        return size;
    }
    k->shown[k->count] = data;
    k->sizes[k->count++] = size;
    return size;
}

static void keeper_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                         enum kr_why why) {
    struct keeper *k = user;
    UNUSED(r, conn, error, why);
    k->closed++;
}

static const struct kr_conn_ops keeper_ops = {
    .on_open = keeper_open, .on_data = keeper_data, .on_close = keeper_close};

static struct kr_reactor *reactor_of(unsigned count, size_t size) {
    struct kr_config config = test_config();
    config.buf_count = count;
    config.buf_size = size;
    return test_reactor(&config);
}

/* The leased bytes are those of the stream, one lease after the other. */
static void check_bytes(struct kr_reactor *r, const struct keeper *k, uint64_t seed) {
    uint64_t at = 0;
    for (unsigned i = 0; i < k->count; i++) {
        size_t size = 0;
        const void *data = kr_lease_data(r, k->leases[i], &size);
        CHECK(data != NULL);
        CHECK_EQ(size, k->sizes[i]);
        test_pattern_check(data, size, seed, at);
        at += size;
    }
}

static void return_all(struct kr_reactor *r, const struct keeper *k) {
    for (unsigned i = 0; i < k->count; i++)
        CHECK_OK(kr_lease_return(r, k->leases[i]));
}

/* Sends message after message, each shown on its own. */
static void send_messages(struct kr_reactor *r, int fd, struct keeper *k, unsigned count,
                          size_t size) {
    for (unsigned i = 0; i < count; i++) {
        unsigned want = k->count + 1;
        test_send_pattern(r, fd, size, 7, (uint64_t)i * size);
        TEST_UNTIL(r, k->count == want);
    }
}

/* Ours: a lease keeps the buffer itself, at the very address shown, until it is returned. */
TEST_EACH(lease_keeps_the_buffer) {
    struct kr_reactor *r = reactor_of(64, 4096);
    struct keeper k = {.count = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &keeper_ops, &k));
    send_messages(r, fd, &k, 8, 1000);
    for (unsigned i = 0; i < 8; i++)
        CHECK_EQ(kr_lease_data(r, k.leases[i], NULL), k.shown[i]);
    check_bytes(r, &k, 7);
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.bufs_out, 8u);
    CHECK_EQ(stats.leases, 8u);
    CHECK_EQ(stats.bytes_leased, 0u);
    return_all(r, &k);
    CHECK_EQ(test_stats(r).leases, 0u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: beyond the share of one connection, an eighth of the buffers, leases are copies, and the
 * bytes are as good. */
TEST_EACH(lease_beyond_the_share_is_a_copy) {
    struct kr_reactor *r = reactor_of(32, 2048);
    struct keeper k = {.count = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &keeper_ops, &k));
    send_messages(r, fd, &k, MOST, 500);
    check_bytes(r, &k, 7);
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.bufs_out, 4u);
    CHECK_EQ(stats.bytes_leased, (MOST - 4) * 500u);
    for (unsigned i = 4; i < MOST; i++)
        CHECK_NE(kr_lease_data(r, k.leases[i], NULL), k.shown[i]);
    return_all(r, &k);
    k.count = 0; /* the share is free again */
    send_messages(r, fd, &k, 1, 500);
    CHECK_EQ(test_stats(r).bytes_leased, stats.bytes_leased);
    return_all(r, &k);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: all connections together leave an eighth of the buffers for receiving, so that one who
 * leases nothing is served. */
TEST_EACH(lease_leaves_buffers_for_the_others) {
    struct kr_reactor *r = reactor_of(8, 2048);
    static struct keeper k[20];
    memset(k, 0, sizeof k);
    int fds[20];
    for (unsigned i = 0; i < 20; i++) {
        kr_listener listener;
        uint16_t port = test_listen(r, &listener, NULL, &keeper_ops, &k[i]);
        fds[i] = test_connect(port);
        send_messages(r, fds[i], &k[i], 3, 700);
        CHECK_OK(kr_listener_close(r, listener));
    }
    CHECK_EQ(test_stats(r).bufs_out, 7u);
    CHECK_EQ(test_stats(r).leases, 60u);
    for (unsigned i = 0; i < 20; i++) {
        check_bytes(r, &k[i], 7);
        return_all(r, &k[i]);
        test_close(fds[i]);
    }
    test_reactor_end(r, (struct test_levels){.listeners = 0});
}

/* Ours: a lease outlives its connection, and the slot's next connection does not answer for it. */
TEST_EACH(lease_outlives_its_connection) {
    struct kr_reactor *r = reactor_of(8, 2048);
    struct keeper k = {.count = 0};
    uint16_t port = test_listen(r, NULL, NULL, &keeper_ops, &k);
    int fd = test_connect(port);
    send_messages(r, fd, &k, 1, 600);
    kr_conn first = k.conn;
    test_close_reset(fd);
    TEST_UNTIL(r, k.closed == 1);
    check_bytes(r, &k, 7);
    fd = test_connect(port);
    TEST_UNTIL(r, k.conn.bits != first.bits);
    check_bytes(r, &k, 7);
    return_all(r, &k);
    CHECK_ERR(kr_lease_return(r, k.leases[0]), ESTALE);
    CHECK_EQ(kr_lease_data(r, k.leases[0], NULL), NULL);
    k.count = 0;
    send_messages(r, fd, &k, 1, 600); /* the new one's share is whole */
    CHECK_EQ(kr_lease_data(r, k.leases[0], NULL), k.shown[0]);
    return_all(r, &k);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: what is shown a second time, and memory of the caller's, is copied. */
TEST_EACH(lease_of_other_bytes_is_a_copy) {
    struct kr_reactor *r = reactor_of(64, 4096);
    struct keeper k = {.leave = true};
    int fd = test_connect(test_listen(r, NULL, NULL, &keeper_ops, &k));
    char bytes[800];
    test_pattern(bytes, sizeof bytes, 7, 0);
    test_send(r, fd, bytes, 300);
    TEST_UNTIL(r, !k.leave);
    test_send(r, fd, bytes + 300, 500);
    TEST_UNTIL(r, k.count == 1);
    CHECK_EQ(k.sizes[0], 800u);
    check_bytes(r, &k, 7);
    CHECK_EQ(test_stats(r).bufs_out, 0u);
    kr_lease own;
    CHECK_OK(kr_lease_take(r, k.conn, bytes, sizeof bytes, &own));
    memset(bytes, 0, sizeof bytes);
    test_pattern_check(kr_lease_data(r, own, NULL), sizeof bytes, 7, 0);
    CHECK_EQ(test_stats(r).bytes_leased, 1600u);
    CHECK_OK(kr_lease_return(r, own));
    return_all(r, &k);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

static size_t part_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    struct keeper *k = user;
    const char *bytes = data;
    CHECK_EQ(size, 3000u);
    CHECK_OK(kr_lease_take(r, conn, bytes + 1000, 1000, &k->leases[0]));
    CHECK_OK(kr_lease_take(r, conn, bytes, 1000, &k->leases[1]));
    CHECK_OK(kr_lease_take(r, conn, bytes + 2000, 1000, &k->leases[2]));
    CHECK_ERR(kr_lease_take(r, conn, bytes, 0, &k->leases[3]), EINVAL);
    CHECK_ERR(kr_lease_take(r, conn, NULL, 5, &k->leases[3]), EINVAL);
    CHECK_ERR(kr_lease_take(r, conn, bytes, 5, NULL), EINVAL);
    CHECK_ERR(kr_lease_take(r, (kr_conn){0}, bytes, 5, &k->leases[3]), ESTALE);
    k->count = 3;
    return size;
}

static const struct kr_conn_ops part_ops = {.on_open = keeper_open, .on_data = part_data};

/* Ours: parts of one buffer are leases of their own; the buffer goes back with the last of them. */
TEST_EACH(lease_of_parts_share_the_buffer) {
    struct kr_reactor *r = reactor_of(64, 4096);
    struct keeper k = {.count = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &part_ops, &k));
    test_send_pattern(r, fd, 3000, 7, 0);
    TEST_UNTIL(r, k.count == 3);
    CHECK_EQ(test_stats(r).bufs_out, 3u);
    CHECK_OK(kr_lease_return(r, k.leases[0]));
    test_pattern_check(kr_lease_data(r, k.leases[1], NULL), 1000, 7, 0);
    test_pattern_check(kr_lease_data(r, k.leases[2], NULL), 1000, 7, 2000);
    CHECK_OK(kr_lease_return(r, k.leases[2]));
    CHECK_OK(kr_lease_return(r, k.leases[1]));
    CHECK_EQ(test_stats(r).bufs_out, 0u);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: refused memory is -ENOMEM and nothing has changed; a kept buffer needs none beyond the
 * slab. */
TEST_EACH(lease_without_memory_is_refused) {
    struct kr_reactor *r = reactor_of(8, 4096);
    struct keeper k = {.count = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &keeper_ops, &k));
    send_messages(r, fd, &k, 1, 4000); /* the slab is there, and the share is spent */
    char bytes[4000];
    test_pattern(bytes, sizeof bytes, 7, 4000);
    test_reactor_refuse_memory(r, 0);
    test_send(r, fd, bytes, sizeof bytes);
    TEST_UNTIL(r, k.refused);
    CHECK_EQ(k.refused, -ENOMEM);
    test_reactor_refuse_memory(r, -1);
    CHECK_EQ(test_stats(r).leases, 1u);
    check_bytes(r, &k, 7);
    return_all(r, &k);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: leases that nobody returned end with the reactor, copies and buffers alike. */
TEST_EACH(lease_left_over_ends_with_the_reactor) {
    struct kr_reactor *r = reactor_of(8, 4096);
    struct keeper k = {.count = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &keeper_ops, &k));
    send_messages(r, fd, &k, 5, 900);
    test_reactor_free(r);
    test_close(fd);
}

/* Ours: what is no lease, or no longer one, or another thing's handle, has no bytes and cannot be
 * returned. */
TEST_EACH(lease_that_is_none_is_stale) {
    struct kr_reactor *r = reactor_of(8, 4096);
    struct keeper k = {.count = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &keeper_ops, &k));
    send_messages(r, fd, &k, 1, 100);
    const kr_lease none[] = {{0}, {UINT64_MAX}, {k.conn.bits}, {k.leases[0].bits + 1}};
    for (unsigned i = 0; i < sizeof none / sizeof *none; i++) {
        CHECK(!kr_lease_data(r, none[i], NULL));
        CHECK_ERR(kr_lease_return(r, none[i]), ESTALE);
    }
    CHECK(!kr_lease_data(NULL, k.leases[0], NULL));
    CHECK_ERR(kr_lease_return(NULL, k.leases[0]), EINVAL);
    check_bytes(r, &k, 7);
    return_all(r, &k);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: only what is shown, to the connection that it is shown to, counts as lent: not what begins
 * before it, ends behind it, or is longer. */
TEST(lease_of_a_part_of_what_is_shown) {
    static struct kr_reactor r;
    static struct kr__conn c, other;
    static char bytes[100];
    r.lent = (struct kr__lent){.conn = &c, .data = bytes + 20, .size = 50};
    CHECK(kr__lent_has(&r, &c, bytes + 20, 50));
    CHECK(kr__lent_has(&r, &c, bytes + 20, 0));
    CHECK(kr__lent_has(&r, &c, bytes + 45, 25));
    CHECK(kr__lent_has(&r, &c, bytes + 69, 1));
    CHECK(!kr__lent_has(&r, &other, bytes + 20, 50));
    CHECK(!kr__lent_has(&r, &c, bytes + 19, 50));
    CHECK(!kr__lent_has(&r, &c, bytes + 19, 1));
    CHECK(!kr__lent_has(&r, &c, bytes + 20, 51));
    CHECK(!kr__lent_has(&r, &c, bytes + 45, 26));
    CHECK(!kr__lent_has(&r, &c, bytes + 71, 1));
    CHECK(!kr__lent_has(&r, &c, bytes + 45, SIZE_MAX));
    CHECK(!kr__lent_has(&r, &c, bytes + 20, SIZE_MAX - 10));
}

TAP_MAIN(lease, 9 * 4 + 1)
