/* A connection's share of a turn: who has more than that beside others receives a buffer a turn,
 * and who is calm, or alone, or one of many alike, is left in peace. */
#include "harness/net.h"

#include "conn/conn.h"
#include "conn/reactor.h"

#define BUFFER 65536u

/* What a connection has received, and the turn in which it last did. */
struct guest {
    kr_conn conn;
    uint64_t bytes;
    int fd;
};

static void guest_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct guest **next = user;
    (*next)->conn = conn;
    CHECK_OK(kr_conn_set_user(r, conn, *next));
}

static size_t guest_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    UNUSED(r, conn, data);
    struct guest *g = user;
    g->bytes += size;
    return size;
}

static const struct kr_conn_ops guest_ops = {.on_open = guest_open, .on_data = guest_data};

struct inn {
    struct kr_reactor *r;
    struct guest hog, other, *next;
};

static void inn_enter(struct inn *inn, struct guest *g, uint16_t port) {
    inn->next = g;
    unsigned conns = (unsigned)test_stats(inn->r).conns;
    g->fd = test_connect(port);
    TEST_UNTIL(inn->r, test_stats(inn->r).conns == conns + 1);
}

static struct inn *inn_open(const struct kr_config *config) {
    static struct inn inn;
    inn = (struct inn){.r = test_reactor(config)};
    uint16_t port = test_listen(inn.r, NULL, NULL, &guest_ops, &inn.next);
    inn_enter(&inn, &inn.hog, port);
    inn_enter(&inn, &inn.other, port);
    return &inn;
}

static void inn_close(struct inn *inn) {
    test_close(inn->hog.fd);
    test_close(inn->other.fd);
    test_reactor_end(inn->r, (struct test_levels){.listeners = 1});
}

static const struct kr__conn *conn_of(const struct inn *inn, const struct guest *g) {
    const struct kr__conn *c = kr__conn_find(inn->r, g->conn);
    CHECK(c);
    return c;
}

static bool is_greedy(const struct inn *inn, const struct guest *g) {
    return conn_of(inn, g)->over_share;
}

/* All that its socket takes. */
static void gorge(const struct guest *g) {
    static const char bytes[4 * BUFFER];
    while (test_send_some(g->fd, bytes, sizeof bytes) > 0) {}
}

static void nibble(const struct guest *g) {
    CHECK_EQ(test_send_some(g->fd, "crumb", 5), 5);
}

static void turn(const struct inn *inn) {
    test_step(inn->r, "a turn");
}

static void find_out(const struct inn *inn) {
    while (!is_greedy(inn, &inn->hog)) {
        gorge(&inn->hog);
        nibble(&inn->other);
        turn(inn);
    }
}

/* Until all that was sent is here. */
static void digest(const struct inn *inn) {
    for (uint64_t bytes = UINT64_MAX; bytes != inn->hog.bytes + inn->other.bytes;) {
        bytes = inn->hog.bytes + inn->other.bytes;
        for (unsigned i = 0; i < 3; i++)
            turn(inn);
    }
}

/* Ours: a buffer a turn, and in each turn or two there is one; the others are not curbed. */
TEST_EACH(share_is_a_buffer_a_turn_for_the_greedy) {
    struct inn *inn = inn_open(NULL);
    find_out(inn);
    turn(inn); /* in which the multishot is cancelled */
    uint64_t before = inn->hog.bytes, last = before;
    for (unsigned i = 0; i < 100; i++, last = inn->hog.bytes) {
        gorge(&inn->hog);
        nibble(&inn->other);
        turn(inn);
        CHECK_LE(inn->hog.bytes - last, BUFFER);
    }
    CHECK_GE(inn->hog.bytes - before, 40 * BUFFER);
    CHECK(is_greedy(inn, &inn->hog) && !is_greedy(inn, &inn->other));
    inn_close(inn);
}

/* Ours: who is alone may have it all. */
TEST_EACH(share_has_no_limit_for_who_is_alone) {
    struct inn *inn = inn_open(NULL);
    uint64_t most = 0;
    for (unsigned i = 0; i < 200; i++) {
        uint64_t before = inn->hog.bytes;
        gorge(&inn->hog);
        turn(inn);
        CHECK(!is_greedy(inn, &inn->hog));
        most = inn->hog.bytes - before > most ? inn->hog.bytes - before : most;
    }
    CHECK_GT(most, BUFFER);
    inn_close(inn);
}

/* Ours: nor does one who was within_share in the turn before count as somebody beside itself. */
TEST_EACH(share_counts_nobody_beside_himself) {
    struct inn *inn = inn_open(NULL);
    uint64_t most = 0;
    for (unsigned i = 0; i < 30; i++) {
        nibble(&inn->hog);
        turn(inn);
        uint64_t before = inn->hog.bytes;
        gorge(&inn->hog);
        turn(inn);
        CHECK(!is_greedy(inn, &inn->hog));
        most = inn->hog.bytes - before > most ? inn->hog.bytes - before : most;
        digest(inn);
    }
    CHECK_GT(most, BUFFER);
    inn_close(inn);
}

/* Ours: among those who all take what they can, nobody is curbed for long. */
TEST_EACH(share_has_no_limit_for_all_alike, .deadline_s = 60) {
    struct inn *inn = inn_open(NULL);
    for (unsigned i = 0; i < 2000; i++) {
        gorge(&inn->hog);
        gorge(&inn->other);
        turn(inn);
    }
    for (unsigned i = 0; i < 600 && (is_greedy(inn, &inn->hog) || is_greedy(inn, &inn->other));
         i++) {
        gorge(&inn->hog);
        gorge(&inn->other);
        turn(inn);
    }
    CHECK(!is_greedy(inn, &inn->hog) && !is_greedy(inn, &inn->other));
    inn_close(inn);
}

/* Ours: eight receives that are none of a hog, and it has its multishot again. */
TEST_EACH(share_is_kept_again_by_the_calm) {
    struct inn *inn = inn_open(NULL);
    find_out(inn);
    for (uint64_t bytes = 0; bytes != inn->hog.bytes; nibble(&inn->other), turn(inn), turn(inn))
        bytes = inn->hog.bytes;
    for (unsigned i = 0; i < 8; i++) {
        nibble(&inn->other);
        nibble(&inn->hog);
        digest(inn);
    }
    CHECK(!is_greedy(inn, &inn->hog));
    nibble(&inn->hog);
    digest(inn);
    CHECK(conn_of(inn, &inn->hog)->streams);
    inn_close(inn);
}

/* Ours: and so it is when the others have gone, though it goes on as before. */
TEST_EACH(share_is_given_back_to_who_is_left_alone, .deadline_s = 60) {
    struct inn *inn = inn_open(NULL);
    find_out(inn);
    unsigned turns = 0;
    for (; is_greedy(inn, &inn->hog); turns++) {
        gorge(&inn->hog);
        turn(inn);
    }
    CHECK_GE(turns, 100u);
    CHECK_LE(turns, 2000u);
    inn_close(inn);
}

/* Ours: as many bytes as the config says. */
TEST_EACH(share_is_what_the_config_says) {
    struct kr_config config = test_config();
    config.turn_bytes = 1u << 30;
    struct inn *inn = inn_open(&config);
    for (unsigned i = 0; i < 100; i++) {
        static const char bytes[3 * BUFFER];
        nibble(&inn->other);
        CHECK_GT(test_send_some(inn->hog.fd, bytes, sizeof bytes), (long)BUFFER);
        digest(inn);
        CHECK(!is_greedy(inn, &inn->hog));
    }
    inn_close(inn);
}

/* Ours: receives count as well as bytes, or crumbs would be the way around. */
TEST_EACH(share_is_of_receives_too) {
    struct kr_config config = test_config();
    config.buf_size = 64;
    struct inn *inn = inn_open(&config);
    static const char crumbs[64 * 64];
    while (!is_greedy(inn, &inn->hog)) {
        nibble(&inn->other);
        CHECK_EQ(test_send_some(inn->hog.fd, crumbs, sizeof crumbs), (long)sizeof crumbs);
        digest(inn);
    }
    nibble(&inn->hog);
    digest(inn);
    CHECK(!conn_of(inn, &inn->hog)->streams);
    inn_close(inn);
}

TAP_MAIN(share, 32)
