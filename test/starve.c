/* Too little of everything: receive buffers, requests, completions. All still get their bytes,
 * in a bounded number of turns, and nobody spins.
 *
 * How spinning shows: while nothing can happen, a turn must make no request and get no
 * completion; while something does, requests and completions are bounded by a small multiple of
 * the receives that the bytes need. */
#include "harness/echo.h"

#include "conn/reactor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Moves each of the clients that is not done; returns how many are not. */
static unsigned move_all(struct test_echo *clients, unsigned count) {
    unsigned left = 0;
    for (unsigned i = 0; i < count; i++) {
        if (test_echo_done(&clients[i]))
            continue;
        test_echo_move(&clients[i]);
        left += !test_echo_done(&clients[i]);
    }
    return left;
}

static void run_all(struct kr_reactor *r, struct test_echo *clients, unsigned count) {
    while (move_all(clients, count) > 0)
        test_step(r, "every client to get its bytes back");
}

static void close_all(struct test_echo *clients, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        test_close(clients[i].fd);
}

/* A turn that handles nothing and asks for nothing. */
static bool idle_turn(struct kr_reactor *r) {
    uint64_t sqes = test_stats(r).sqes;
    return test_step(r, "the reactor to have nothing to do") == 0 && test_stats(r).sqes == sqes;
}

/* Whether a connection may look again for a reset that came with bytes: it has a time filed then. */
static bool looks_later(const struct kr_reactor *r) {
    return kr__heap_next(&r->timers.deadlines) != KR__NEVER;
}

/* Waits until the reactor has nothing to do, many turns in a row: the kernel may move bytes to a peer
 * long after the last turn that made a request. Then checks that such turns make nothing. */
static void check_quiet(struct kr_reactor *r) {
    struct kr_stats before = test_stats(r);
    for (unsigned idle = 0; idle < 25 || looks_later(r);) {
        idle = idle_turn(r) ? idle + 1 : 0;
        if (idle == 5)
            before = test_stats(r);
    }
    struct kr_stats after = test_stats(r);
    CHECK_EQ(after.sqes, before.sqes);
    CHECK_EQ(after.cqes, before.cqes);
    CHECK_EQ(after.starved_waits, before.starved_waits);
    CHECK_LE(after.enters - before.enters, 2 * (after.turns - before.turns));
}

#define CROWD 200u

/* Ours: 200 clients, all at once, through a ring of `count` buffers. Each receive takes a
 * receive request at worst (it ended for want of a buffer), its failed try, and a send. */
static void crowd_through(unsigned count) {
    struct kr_config config = test_buffers(count, 512);
    struct kr_reactor *r = test_reactor(&config);
    static struct test_echo clients[CROWD];
    uint16_t port = test_listen(r, NULL, NULL, &test_echo_ops, NULL);
    for (unsigned i = 0; i < CROWD; i++)
        clients[i] = (struct test_echo){.fd = test_connect(port), .seed = i, .total = 3000};
    run_all(r, clients, CROWD);
    test_rest(r, (struct test_levels){.conns = CROWD, .listeners = 1});
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.bytes_in, CROWD * 3000);
    /* A receive of at most 512 bytes; 6 for each client, and some are short for having been cut. */
    uint64_t receives = CROWD * 3000 / 512 + 2 * CROWD;
    CHECK_LE(stats.sqes, CROWD + 4 * receives);
    CHECK_LE(stats.cqes, 2 * CROWD + 5 * receives);
    check_quiet(r);
    close_all(clients, CROWD);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

TEST_EACH(starve_one_buffer_serves_a_crowd) {
    crowd_through(1);
}

TEST_EACH(starve_two_buffers_serve_a_crowd) {
    crowd_through(2);
}

TEST_EACH(starve_four_buffers_serve_a_crowd) {
    crowd_through(4);
}

/* Ours: with a single entry in the SQ, and a single buffer, which has each receive asked for anew,
 * one that has much to be echoed keeps nobody out: another is served in a few turns. */
TEST_EACH(starve_sq_of_1_goes_round) {
    struct kr_config config = test_buffers(1, 64);
    config.sq_entries = 1;
    struct kr_reactor *r = test_reactor(&config);
    uint16_t port = test_listen(r, NULL, NULL, &test_echo_ops, NULL);
    struct test_echo busy = {.fd = test_connect(port), .seed = 1, .total = 16000};
    TEST_UNTIL(r, test_stats(r).conns == 1);
    test_echo_move(&busy);
    TEST_UNTIL(r, test_stats(r).starved_waits > 0);
    struct test_echo other = {.fd = test_connect(port), .seed = 2, .total = 100};
    uint64_t turns = test_stats(r).turns;
    while (move_all(&other, 1) > 0)
        test_step(r, "the other's bytes");
    CHECK_LE(test_stats(r).turns - turns, 60u);
    run_all(r, &busy, 1);
    test_rest(r, (struct test_levels){.conns = 2, .listeners = 1});
    test_close(busy.fd);
    test_close(other.fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Sends without reading until the reactor reads no more of it. */
static void stall(struct kr_reactor *r, struct test_echo *client) {
    char bytes[16384];
    for (unsigned idle = 0; idle < 10;) {
        test_pattern(bytes, sizeof bytes, client->seed, client->sent);
        long n = test_send_some(client->fd, bytes, sizeof bytes);
        CHECK_GE(n, 0);
        client->sent += (uint64_t)n;
        int handled = test_step(r, "the stalled peer to be stopped");
        idle = n == 0 && handled == 0 ? idle + 1 : 0;
    }
    client->total = client->sent;
}

/* Ours: peers that send and do not read come to hold no buffer for long: others are served
 * through 1, 2 and 4 buffers, nothing spins meanwhile, and the stalled ones lose nothing when
 * they read at last. */
TEST_EACH(starve_stalled_peers_do_not_starve_others, .deadline_s = 60) {
    for (unsigned count = 1; count <= 4; count *= 2) {
        struct kr_config config = test_buffers(count, 4096);
        struct kr_reactor *r = test_reactor(&config);
        struct kr_listen_opts opts = test_listen_opts();
        opts.conn.send_low = 2048;
        opts.conn.send_high = 8192;
        struct test_echo stalled[4], others[20];
        uint16_t port = test_listen(r, NULL, &opts, &test_echo_ops, NULL);
        for (unsigned i = 0; i < 4; i++) {
            stalled[i] =
                (struct test_echo){.fd = test_connect_sized(port, 0, 4096), .seed = 100 + i};
            stall(r, &stalled[i]);
        }
        check_quiet(r);
        for (unsigned i = 0; i < 20; i++)
            others[i] = (struct test_echo){.fd = test_connect(port), .seed = i, .total = 20000};
        struct kr_stats before = test_stats(r);
        run_all(r, others, 20);
        struct kr_stats after = test_stats(r);
        CHECK_LE(after.cqes - before.cqes, 20u * (5 * (20000 / 4096 + 10) + 2));
        run_all(r, stalled, 4);
        test_rest(r, (struct test_levels){.conns = 24, .listeners = 1});
        close_all(stalled, 4);
        close_all(others, 20);
        test_reactor_end(r, (struct test_levels){.listeners = 1});
    }
}

/* Who was shown data when. */
struct turns {
    kr_conn conns[CROWD];
    unsigned opened;
    unsigned last[CROWD]; /* which show, of all, was this connection's last; 0: none yet */
    unsigned shows, worst;
};

static unsigned index_of(const struct turns *turns, kr_conn conn) {
    unsigned i = 0;
    while (turns->conns[i].bits != conn.bits)
        CHECK_LT(++i, turns->opened);
    return i;
}

static void turns_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct turns *turns = user;
    (void)r;
    turns->conns[turns->opened++] = conn;
}

static size_t turns_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    struct turns *turns = user;
    UNUSED(r, data);
    unsigned i = index_of(turns, conn);
    turns->shows++;
    if (turns->shows - turns->last[i] > turns->worst)
        turns->worst = turns->shows - turns->last[i];
    turns->last[i] = turns->shows;
    return size;
}

static const struct kr_conn_ops turns_ops = {.on_open = turns_open, .on_data = turns_data};

/* Ours: connections that wait for a buffer get one in turn: all 200 have much to be read all the
 * time, and between two receives of any of them the others have had one each. A few may have two,
 * when a buffer is taken by who was armed before the wait began. */
TEST_EACH(starve_waiting_connections_get_their_turn) {
    for (unsigned count = 1; count <= 4; count *= 2) {
        struct kr_config config = test_buffers(count, 256);
        struct kr_reactor *r = test_reactor(&config);
        static struct turns turns;
        turns = (struct turns){.opened = 0};
        int fds[CROWD];
        char bytes[256 * 20] = {0};
        uint16_t port = test_listen(r, NULL, NULL, &turns_ops, &turns);
        for (unsigned i = 0; i < CROWD; i++) {
            fds[i] = test_connect(port);
            test_send(r, fds[i], bytes, sizeof bytes);
        }
        TEST_UNTIL(r, test_stats(r).bytes_in == CROWD * sizeof bytes);
        CHECK_GE(turns.shows, CROWD * 20);
        CHECK_GT(test_stats(r).starved_waits, 0u);
        tap_note("%u buffers: %u shows, worst distance %u", count, turns.shows, turns.worst);
        CHECK_LE(turns.worst, CROWD + CROWD / 8 + count);
        test_rest(r, (struct test_levels){.conns = CROWD, .listeners = 1});
        for (unsigned i = 0; i < CROWD; i++)
            test_close(fds[i]);
        test_reactor_end(r, (struct test_levels){.listeners = 1});
    }
}

/* Holds what it is shown, by sending it to peers that read nothing, then closes: the buffers of
 * a closing connection must wake those that wait. */
struct holder {
    unsigned opened, closed;
    kr_conn first;
};

static void holder_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct holder *holder = user;
    (void)r;
    if (holder->opened++ == 0)
        holder->first = conn;
}

static void holder_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                         enum kr_why why) {
    struct holder *holder = user;
    UNUSED(r, conn, error, why);
    holder->closed++;
}

static const struct kr_conn_ops holder_ops = {
    .on_open = holder_open, .on_data = test_echo_data, .on_close = holder_close};

/* Ours: when the connection that held the only buffer is closed, those that waited for it go on. */
TEST_EACH(starve_closing_the_holder_wakes_the_others) {
    struct kr_config config = test_buffers(1, 4096);
    struct kr_reactor *r = test_reactor(&config);
    struct holder holder = {.opened = 0};
    uint16_t port = test_listen(r, NULL, NULL, &holder_ops, &holder);
    struct test_echo stalled = {.fd = test_connect_sized(port, 0, 4096), .seed = 99}, others[20];
    TEST_UNTIL(r, holder.opened == 1);
    stall(r, &stalled);
    for (unsigned i = 0; i < 20; i++) {
        others[i] = (struct test_echo){.fd = test_connect(port), .seed = i, .total = 8192};
        test_echo_move(&others[i]);
    }
    check_quiet(r);
    CHECK_OK(kr_conn_close(r, holder.first, KR_CLOSE_NOW));
    TEST_UNTIL(r, holder.closed == 1);
    run_all(r, others, 20);
    test_rest(r, (struct test_levels){.conns = 20, .listeners = 1});
    test_close(stalled.fd);
    close_all(others, 20);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* ---- requests and completions ---- */

static struct kr_config tiny_ring(unsigned sq_entries, unsigned cq_entries, unsigned conns) {
    struct kr_config config = test_config();
    config.sq_entries = sq_entries;
    config.cq_entries = cq_entries;
    config.conn_max = conns;
    return config;
}

/* Connects as many at once as the backlog takes, again and again. */
static void connect_many(struct kr_reactor *r, struct test_echo *clients, unsigned count) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 600;
    uint16_t port = test_listen(r, NULL, &opts, &test_echo_ops, NULL);
    uint64_t before = test_stats(r).conns;
    for (unsigned i = 0; i < count; i++) {
        clients[i] = (struct test_echo){.fd = test_connect(port), .seed = i};
        if (i % 512 == 511)
            TEST_UNTIL(r, test_stats(r).conns == before + i + 1);
    }
    TEST_UNTIL(r, test_stats(r).conns == before + count);
}

static void few_entries_for_many(unsigned sq_entries, unsigned cq_entries) {
    unsigned count = tap_full() ? 5000 : 1500;
    tap_need_descriptors(count + 200);
    struct kr_config config = tiny_ring(sq_entries, cq_entries, count + 10);
    struct kr_reactor *r = test_reactor(&config);
    struct test_echo *clients = calloc(count, sizeof *clients);
    CHECK(clients != NULL);
    connect_many(r, clients, count);
    for (unsigned round = 1; round <= 3; round++) {
        for (unsigned i = 0; i < count; i++)
            clients[i].total = round * 300;
        run_all(r, clients, count);
    }
    test_rest(r, (struct test_levels){.conns = count, .listeners = 1});
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.bytes_in, (uint64_t)count * 900);
    CHECK_EQ(stats.bytes_out, (uint64_t)count * 900);
    CHECK_GT(stats.sq_full_turns, 0u);
    if (cq_entries == 8)
        CHECK_GT(stats.cq_overflows, 0u);
    close_all(clients, count);
    test_rest(r, (struct test_levels){.listeners = 1});
    CHECK_EQ(test_stats(r).closes, count);
    test_reactor_free(r);
    free(clients);
}

/* Ours: thousands of connections through an SQ of 4 and a CQ of 8: no byte, no accept, no close
 * is lost. The kernel's: it keeps what the CQ cannot take (IORING_FEAT_NODROP) and ends
 * multishots meanwhile. */
TEST_EACH(starve_sq_of_4_and_cq_of_8_lose_nothing, .deadline_s = 90) {
    few_entries_for_many(4, 8);
}

TEST_EACH(starve_sq_of_8_and_cq_of_8_lose_nothing, .deadline_s = 90) {
    few_entries_for_many(8, 8);
}

/* Ours: 1000 ready connections are drained in a bounded number of enters, in DEFER mode too,
 * where the kernel handles 20 or so at a time. */
TEST_EACH(starve_many_ready_need_few_enters) {
    tap_need_descriptors(1200);
    struct kr_config config = tiny_ring(512, 4096, 1010);
    struct kr_reactor *r = test_reactor(&config);
    static struct test_echo clients[1000];
    connect_many(r, clients, 1000);
    test_rest(r, (struct test_levels){.conns = 1000, .listeners = 1});
    for (unsigned i = 0; i < 1000; i++) {
        clients[i].total = 64;
        test_echo_move(&clients[i]);
    }
    struct kr_stats before = test_stats(r);
    TEST_UNTIL(r, test_stats(r).bytes_out == 64000);
    struct kr_stats after = test_stats(r);
    tap_note("%llu enters, %llu completions", (unsigned long long)(after.enters - before.enters),
             (unsigned long long)(after.cqes - before.cqes));
    CHECK_LE(after.enters - before.enters, 250u);
    run_all(r, clients, 1000);
    close_all(clients, 1000);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: closing thousands at once through an SQ of 4 closes each exactly once. */
TEST_EACH(starve_sq_of_4_closes_all) {
    tap_need_descriptors(1200);
    struct kr_config config = tiny_ring(4, 8, 1010);
    struct kr_reactor *r = test_reactor(&config);
    static struct test_echo clients[1000];
    connect_many(r, clients, 1000);
    close_all(clients, 1000);
    test_rest(r, (struct test_levels){.listeners = 1});
    CHECK_EQ(test_stats(r).closes, 1000u);
    connect_many(r, clients, 1000);
    test_reactor_free(r);
    close_all(clients, 1000);
}

TAP_MAIN(starve, 44)
