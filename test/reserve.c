/* Reservations: room in the send queue's own memory, until which moment it is lent, and what
 * becomes of it. */
#include "harness/echo.h"

#include <errno.h>
#include <string.h>

struct reserving {
    kr_conn conn;
    unsigned datas;
};

static size_t reserving_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                             size_t size) {
    struct reserving *reserving = user;
    void *room;
    (void)data;
    CHECK_ERR(kr_conn_commit(r, conn, 0), EINVAL);
    CHECK_OK(kr_conn_reserve(r, conn, 100, &room));
    memset(room, 'a', 100);
    CHECK_ERR(kr_conn_commit(r, conn, 101), EINVAL);
    CHECK_OK(kr_conn_commit(r, conn, 60));
    CHECK_ERR(kr_conn_commit(r, conn, 1), EINVAL);
    CHECK_OK(kr_conn_reserve(r, conn, 100, &room));
    memset(room, 'x', 100);
    CHECK_OK(kr_conn_send(r, conn, "b", 1));
    CHECK_ERR(kr_conn_commit(r, conn, 1), EINVAL);
    CHECK_OK(kr_conn_reserve(r, conn, 70000, &room));
    memset(room, 'x', 70000);
    CHECK_OK(kr_conn_reserve(r, conn, 10, &room));
    memset(room, 'c', 10);
    CHECK_OK(kr_conn_commit(r, conn, 0));
    CHECK_ERR(kr_conn_commit(r, conn, 0), EINVAL);
    CHECK_OK(kr_conn_reserve(r, conn, 1 << 20, &room));
    memset(room, 'd', 1 << 20);
    CHECK_EQ(kr_conn_queued(r, conn), 61u);
    reserving->conn = conn;
    reserving->datas++;
    return size;
}

static const struct kr_conn_ops reserving_ops = {.on_data = reserving_data};

/* Ours: a reservation ends with the next send, the next reserve, its commit, and the callback;
 * one committed in part queues that part; one never committed queues nothing and keeps nothing. */
TEST_EACH(reservations_end_as_promised) {
    struct kr_reactor *r = test_reactor(NULL);
    struct reserving reserving = {.datas = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &reserving_ops, &reserving));
    test_send(r, fd, "1", 1);
    char bytes[61], want[61];
    test_recv(r, fd, bytes, sizeof bytes);
    memset(want, 'a', 60);
    want[60] = 'b';
    CHECK_MEM_EQ(bytes, want, sizeof want);
    CHECK_ERR(kr_conn_commit(r, reserving.conn, 1), EINVAL);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

static size_t forgetful_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                             size_t size) {
    kr_conn *forgotten = user;
    void *room;
    (void)data;
    CHECK_OK(kr_conn_reserve(r, conn, 5000, &room));
    memset(room, 'x', 5000);
    *forgotten = conn;
    return size;
}

static const struct kr_conn_ops forgetful_ops = {.on_data = forgetful_data};

/* Ours: a reservation that is forgotten ends with its callback, and its memory with it. */
TEST_EACH(forgotten_reservations_keep_nothing) {
    struct kr_reactor *r = test_reactor(NULL);
    kr_conn forgotten = {0};
    int fd = test_connect(test_listen(r, NULL, NULL, &forgetful_ops, &forgotten));
    for (int i = 0; i < 10; i++) {
        forgotten.bits = 0;
        test_send(r, fd, "1", 1);
        TEST_UNTIL(r, forgotten.bits != 0);
        CHECK_ERR(kr_conn_commit(r, forgotten, 1), EINVAL);
        test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
        CHECK_EQ(kr_conn_queued(r, forgotten), 0u);
    }
    test_close(fd);
    test_reactor_free(r);
}

struct late {
    kr_conn conn;
    bool reserved, committed, asked;
};

static void late_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    ((struct late *)user)->conn = conn;
}

static size_t late_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    struct late *late = user;
    void *room;
    (void)data;
    CHECK_OK(kr_conn_reserve(r, conn, 100, &room));
    late->reserved = true;
    return size;
}

static void late_post(struct kr_reactor *r, void *user) {
    struct late *late = user;
    late->asked = true;
    CHECK(late->reserved);
    late->committed = kr_conn_commit(r, late->conn, 100) == 0;
}

static const struct kr_conn_ops late_ops = {.on_open = late_open, .on_data = late_data};

/* Ours: a reservation that is open when a send of its connection ends, ends with it: its room may
 * stand behind bytes that are given back then. In one turn a byte of the peer comes, for which a
 * room is reserved, and then the end of a send; the post comes after both. The completion of the
 * receive is in front of that of the send because in COOP mode it is there before the turn. */
TEST(send_that_ends_takes_the_reservation) {
    struct kr_reactor *r = test_reactor(NULL);
    struct late late = {.reserved = false};
    int fd = test_connect(test_listen(r, NULL, NULL, &late_ops, &late));
    TEST_UNTIL(r, late.conn.bits != 0 && test_stats(r).inflight == 3);
    uint64_t out = test_stats(r).bytes_out, turns = test_stats(r).turns;
    CHECK_OK(kr_conn_send(r, late.conn, "answer", 6));
    CHECK_EQ(test_send_some(fd, "1", 1), 1);
    CHECK_OK(kr_post(r, late_post, &late));
    CHECK_OK(kr_step(r, 0));
    CHECK_EQ(test_stats(r).turns, turns + 1);
    CHECK(late.reserved && late.asked);
    CHECK_EQ(test_stats(r).bytes_out, out + 6);
    CHECK(!late.committed);
    test_close(fd);
    test_reactor_free(r);
}

TAP_MAIN(reserve, 9)
