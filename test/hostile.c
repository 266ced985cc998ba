/* Hostile peers: they trickle, never read, reset, crumble and flood, close when it suits least, and
 * have their sockets killed from outside.
 *
 * What must hold in every case: beside them, good clients of an echo get every byte back, and each
 * answer within a bounded number of turns, whatever the machine does meanwhile; what hostile peers
 * make the library hold is bounded by the marks of their connections; and when they have gone,
 * connections, requests, buffers, send records, blocks and descriptors are what they were. */
#include "hostile/hostile.h"

/* ---- the echo that all use ---- */

void guests_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct guests *g = user;
    g->conns[g->opens++ % CONNS_MOST] = conn;
}

void guests_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    UNUSED(r, conn);
    struct guests *g = user;
    g->closes++;
    g->timeouts += why == KR_WHY_TIMEOUT;
    g->errors += why == KR_WHY_ERROR;
    g->aborts += error == -ECONNABORTED;
}

size_t echo_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    (void)user;
    size_t used = 0;
    while (used < size && kr_conn_queued(r, conn) <= SEND_HIGH) {
        size_t part = size - used < MESSAGE ? size - used : MESSAGE;
        int rc = kr_conn_send(r, conn, (const char *)data + used, part);
        if (rc == -EPIPE) /* the peer takes nothing more */
            return size;
        CHECK_OK(rc);
        used += part;
    }
    CHECK_LE(kr_conn_queued(r, conn), SEND_HIGH + MESSAGE);
    return used;
}

const struct kr_conn_ops echo_ops = {
    .on_open = guests_open, .on_data = echo_data, .on_close = guests_close};

struct kr_listen_opts echo_opts(void) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 256;
    opts.conn.send_low = SEND_LOW;
    opts.conn.send_high = SEND_HIGH;
    opts.conn.send_cap = SEND_HIGH + MESSAGE;
    return opts;
}

/* ---- a town: a reactor, good clients, and a port for others ---- */

/* Turns from a request of a good client to its answer, 2 at least. Beside these, for each receive
 * that the request needs, a turn for each 8 of the others: with DEFER a turn takes some 20
 * completions (kernel >= 6.13), and when buffers are short all take turns. */
#define TURNS_MOST 20u

/* A good client that has its answer asks again. */
static void good_moves(struct town *t, struct good *g, uint64_t turn) {
    test_echo_move(&g->echo);
    unsigned others = t->others.opens - t->others.closes;
    g->crowd = others > g->crowd ? others : g->crowd;
    uint64_t receives = 1 + g->size / t->r->config.buf_size;
    t->worst = turn - g->asked > t->worst ? turn - g->asked : t->worst;
    CHECK_LE(turn - g->asked, TURNS_MOST + receives * g->crowd / 8);
    if (!test_echo_done(&g->echo))
        return;
    g->answers++;
    g->echo.total += g->size;
    g->asked = turn;
    g->crowd = others;
    test_echo_move(&g->echo);
}

void town_step(struct town *t, const char *for_what) {
    uint64_t turn = test_stats(t->r).turns;
    for (unsigned i = 0; i < GOOD; i++)
        good_moves(t, &t->good[i], turn);
    test_step(t->r, for_what);
}

void town_recv(struct town *t, int fd, void *data, size_t size) {
    for (size_t got = 0; got < size;) {
        long n = test_recv_some(fd, (char *)data + got, size - got);
        CHECK_GE(n, 0);
        got += (size_t)n;
        if (n == 0)
            town_step(t, "bytes for one of the others");
    }
}

static unsigned worst_off(const struct town *t) {
    unsigned least = UINT32_MAX;
    for (unsigned i = 0; i < GOOD; i++)
        least = t->good[i].answers < least ? t->good[i].answers : least;
    return least;
}

void good_get(struct town *t, unsigned count) {
    unsigned want = worst_off(t) + count;
    TOWN_UNTIL(t, worst_off(t) >= want);
}

/* All others have gone. The good get their last answers, and are silent. */
static void town_rest(struct town *t) {
    TOWN_UNTIL(t, t->others.opens == t->others.closes);
    for (unsigned i = 0; i < GOOD; i++) {
        while (!test_echo_done(&t->good[i].echo)) {
            test_step(t->r, "the last answers");
            test_echo_move(&t->good[i].echo);
        }
    }
    test_rest(t->r, (struct test_levels){.conns = GOOD, .listeners = 2});
}

struct kr_reactor *town_reactor(const struct kr__kernel *kernel, unsigned buf_count,
                                size_t buf_size) {
    tap_need_descriptors(4096);
    struct kr_config config = test_config();
    config.conn_max = 3000;
    config.buf_count = buf_count;
    config.buf_size = buf_size;
    return test_reactor_on(kernel, &config);
}

void town_open(struct town *t, struct kr_reactor *r, const struct kr_listen_opts *opts,
               const struct kr_conn_ops *ops) {
    *t = (struct town){.r = r, .fds = tap_fd_count()};
    struct kr_listen_opts friendly = echo_opts();
    uint16_t port = test_listen(r, &t->friends_listener, &friendly, &echo_ops, &t->friends);
    t->port = test_listen(r, &t->others_listener, opts, ops, &t->others);
    for (unsigned i = 0; i < GOOD; i++) {
        t->good[i] = (struct good){.size = 1 + (size_t)tap_random_below(i % 4 ? 300 : 16384)};
        t->good[i].echo = (struct test_echo){.fd = test_connect(port), .seed = i};
    }
    good_get(t, 10);
    town_rest(t);
    t->before = test_stats(r);
    uint64_t turn = t->before.turns;
    for (unsigned i = 0; i < GOOD; i++)
        t->good[i].asked = turn;
}

void town_close(struct town *t) {
    good_get(t, 10);
    town_rest(t);
    struct kr_stats stats = test_stats(t->r);
    CHECK_EQ(stats.inflight, t->before.inflight);
    CHECK_EQ(stats.blocks_out, t->before.blocks_out);
    CHECK_LE(stats.alloc_bytes, t->before.alloc_bytes + KR__BLOCKS_KEEP + TABLES_MOST);
    tap_note("the good waited for %llu turns at most, of %llu; others: %u, of whom %u errors",
             (unsigned long long)t->worst, (unsigned long long)stats.turns, t->others.opens,
             t->others.errors);
    for (unsigned i = 0; i < GOOD; i++)
        test_close(t->good[i].echo.fd);
    CHECK_OK(kr_listener_close(t->r, t->friends_listener));
    CHECK_OK(kr_listener_close(t->r, t->others_listener));
    test_rest(t->r, (struct test_levels){0});
    CHECK_EQ(tap_fd_count(), t->fds);
    CHECK_EQ(t->friends.closes, GOOD);
    CHECK_EQ(t->friends.errors, 0u);
    CHECK_EQ(test_stats(t->r).inflight, 1u); /* the wake-up */
    test_reactor_free(t->r);
}

/* ---- a byte a second ---- */

#define TRICKLERS 1000u
#define SILENT 100u
#define IDLE_S 5u

static int64_t virtual_now;

static int64_t virtual_clock(const struct kr__kernel *k) {
    (void)k;
    return virtual_now;
}

static unsigned request_size, request_shows;

/* Answers a request with itself, when it is whole. */
static size_t request_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    (void)user;
    request_shows++;
    if (size < request_size)
        return 0;
    CHECK_EQ(size, request_size);
    CHECK_OK(kr_conn_send(r, conn, data, size));
    return size;
}

static const struct kr_conn_ops request_ops = {
    .on_open = guests_open, .on_data = request_data, .on_close = guests_close};

/* One byte from each, and a second has passed. */
static void trickle(struct town *t, const int *fds, unsigned index) {
    virtual_now += SECOND;
    for (unsigned i = 0; i < TRICKLERS; i++) {
        char byte;
        test_pattern(&byte, 1, i, index);
        CHECK_EQ(test_send_some(fds[i], &byte, 1), 1);
    }
    TOWN_UNTIL(t, request_shows == TRICKLERS * (index + 1));
}

/* Their idle deadline counts from when they have a receive: who has opened may wait for a buffer yet. */
static bool all_receive(const struct town *t, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        const struct kr__conn *c = kr__conn_find(t->r, t->others.conns[i]);
        if (c->starved || c->may_try || !(c->owner.armed & KR__VERBS_THAT_RECEIVE))
            return false;
    }
    return true;
}

/* Ours: of a thousand peers that send a byte a second each is served in the end, for an idle
 * deadline of five seconds is for those who are silent; who are gone after just that time. Until a
 * request is whole it costs its smallest block. The clock is the test's, so no second is spent. */
TEST_EACH(hostile_tricklers_are_served_and_the_silent_go) {
    struct kr__kernel kernel = kr__linux;
    kernel.process.clock = virtual_clock;
    virtual_now = SECOND;
    struct kr_listen_opts opts = echo_opts();
    opts.conn.idle_ns = IDLE_S * SECOND;
    static struct town t;
    town_open(&t, town_reactor(&kernel, 0, 0), &opts, &request_ops);
    static int fds[TRICKLERS + SILENT];
    for (unsigned i = 0; i < TRICKLERS + SILENT; i++) {
        fds[i] = test_connect(t.port);
        TOWN_UNTIL(&t, t.others.opens == i + 1);
    }
    TOWN_UNTIL(&t, all_receive(&t, TRICKLERS + SILENT));
    request_size = tap_full() ? 60 : 20;
    for (unsigned i = 0; i < request_size; i++) {
        CHECK_EQ(t.others.closes, i < IDLE_S ? 0 : SILENT);
        trickle(&t, fds, i);
        if (i == IDLE_S - 1)
            TOWN_UNTIL(&t, t.others.timeouts == SILENT);
        struct kr_stats stats = test_stats(t.r);
        CHECK_LE(stats.blocks_out, TRICKLERS + 2 * GOOD);
        CHECK_LE(stats.alloc_bytes, t.before.alloc_bytes + TRICKLERS * 64 + GOOD * 65536);
    }
    for (unsigned i = 0; i < TRICKLERS + SILENT; i++) {
        char got[64];
        if (i < TRICKLERS) {
            town_recv(&t, fds[i], got, request_size);
            test_pattern_check(got, request_size, i, 0);
        } else {
            CHECK_EQ(test_recv_end(t.r, fds[i], NULL), 0);
        }
        test_close(fds[i]);
    }
    town_close(&t);
}

/* ---- peers that never read ---- */

#define DEAF 500u

int connect_tight(uint16_t port) {
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int)));
    CHECK_SYS(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){4096}, sizeof(int)));
    CHECK_SYS(setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &(int){536}, sizeof(int)));
    CHECK_SYS(connect(fd, (struct sockaddr *)&in, sizeof in));
    return fd;
}

static void deaf_send(struct test_echo *deaf) {
    static struct pollfd polls[DEAF];
    for (unsigned i = 0; i < DEAF; i++)
        polls[i] = (struct pollfd){.fd = deaf[i].fd, .events = POLLOUT};
    CHECK_SYS(poll(polls, DEAF, 0));
    for (unsigned i = 0; i < DEAF; i++) {
        char bytes[4096];
        if (!polls[i].revents)
            continue;
        test_pattern(bytes, sizeof bytes, deaf[i].seed, deaf[i].sent);
        long n = test_send_some(deaf[i].fd, bytes, sizeof bytes);
        CHECK_GE(n, 0);
        deaf[i].sent += (uint64_t)n;
    }
}

/* Beside its queue a connection keeps the receives that had come when it was stopped, and a block
 * is at most twice as large as what is in it. */
#define DEAF_HOLDS (2 * (SEND_HIGH + MESSAGE + 4 * MESSAGE))

/* Returns how many are stopped. */
static unsigned check_deaf(const struct town *t) {
    unsigned stopped = 0;
    for (unsigned i = 0; i < DEAF; i++) {
        size_t queued = kr_conn_queued(t->r, t->others.conns[i]);
        CHECK_LE(queued, SEND_HIGH + MESSAGE);
        stopped += queued > SEND_LOW;
    }
    CHECK_LE(test_stats(t->r).alloc_bytes,
             t->before.alloc_bytes + DEAF * DEAF_HOLDS + KR__BLOCKS_KEEP);
    return stopped;
}

/* Ours: five hundred peers that send and never read make the library hold, each, send_high and one
 * message in its queue and no more. One of them that reads after all has lost nothing. */
TEST_EACH(hostile_deaf_peers_hold_their_share_and_no_more, .deadline_s = 60) {
    struct kr_listen_opts opts = echo_opts();
    static struct town t;
    town_open(&t, town_reactor(&kr__linux, 256, MESSAGE), &opts, &echo_ops);
    static struct test_echo deaf[DEAF];
    for (unsigned i = 0; i < DEAF; i++) {
        deaf[i] = (struct test_echo){.fd = connect_tight(t.port), .seed = 100 + i};
        TOWN_UNTIL(&t, t.others.opens == i + 1);
    }
    while (check_deaf(&t) < DEAF) {
        deaf_send(deaf);
        town_step(&t, "all who do not read to be stopped");
    }
    tap_note("allocated %llu bytes", (unsigned long long)test_stats(t.r).alloc_bytes);
    for (unsigned i = 0; i < DEAF; i++) {
        deaf[i].total = deaf[i].sent;
        while (i % 100 == 0 && !test_echo_done(&deaf[i])) {
            test_echo_move(&deaf[i]);
            town_step(&t, "what a deaf peer reads at last");
        }
        if (i % 2)
            test_close(deaf[i].fd);
        else
            test_close_reset(deaf[i].fd);
    }
    town_close(&t);
}

/* ---- resets ---- */

/* What one of a storm does before it resets: most nothing, so that it may not even be accepted
 * yet. */
static void storm_begin(struct town *t, int fd) {
    static char bytes[32768];
    switch (tap_random_below(64)) {
    case 0 ... 15:
        CHECK_EQ(test_send_some(fd, bytes, 1), 1);
        break;
    case 16 ... 19: /* leaves its echo unread */
        CHECK_GT(test_send_some(fd, bytes, sizeof bytes), 0);
        break;
    case 20: /* reads half of it */
        CHECK_EQ(test_send_some(fd, bytes, 100), 100);
        town_recv(t, fd, bytes, 50);
        break;
    default:
        break;
    }
}

/* Ours: a storm of connections that reset at any moment leaves nothing behind, and takes no more
 * than a few turns a wave. */
TEST_EACH(hostile_storm_of_resets_leaves_nothing, .deadline_s = 120) {
    struct kr_listen_opts opts = echo_opts();
    static struct town t;
    town_open(&t, town_reactor(&kr__linux, 0, 0), &opts, &echo_ops);
    unsigned storm = tap_full() ? 100000 : 5000; /* a variant: 20,000 in all */
    for (unsigned done = 0; done < storm; done += WAVE) {
        int fds[WAVE];
        for (unsigned i = 0; i < WAVE; i++) {
            fds[i] = test_connect(t.port);
            storm_begin(&t, fds[i]);
        }
        for (unsigned left = WAVE; left > 0; left--) {
            unsigned i = (unsigned)tap_random_below(left);
            test_close_reset(fds[i]);
            fds[i] = fds[left - 1];
            if (left % 32 == 0)
                town_step(&t, "a storm of resets");
        }
    }
    CHECK_GE(t.others.opens, storm / 2);
    TOWN_UNTIL(&t, t.others.opens == t.others.closes);
    CHECK_LE(test_stats(t.r).turns - t.before.turns, 16 * (uint64_t)(storm / WAVE));
    town_close(&t);
}

/* The kernel's: a multishot receive queues itself anew after 32 receives that left more in the socket
 * (MULTISHOT_MAX_RETRY, io_uring/net.c), and a reset that comes meanwhile is told to nobody
 * (conn/recv.c). Ours: it is told. */
TEST_EACH(hostile_reset_behind_many_receives_is_told) {
    static const struct kr_conn_ops ops = {
        .on_open = guests_open, .on_data = test_take_all, .on_close = guests_close};
    struct kr_config config = test_config();
    config.buf_size = 64;
    config.turn_cqes = 32;
    struct kr_reactor *r = test_reactor(&config);
    static struct guests g;
    static char bytes[60000];
    uint16_t port = test_listen(r, NULL, NULL, &ops, &g);
    enum { CLIENTS = 50 };
    int fds[CLIENTS];
    for (unsigned i = 0; i < CLIENTS; i++)
        fds[i] = test_connect(port);
    TEST_UNTIL(r, g.opens == CLIENTS);
    for (unsigned i = 0; i < CLIENTS; i++) {
        CHECK_GT(test_send_some(fds[i], bytes, sizeof bytes), 0);
        for (unsigned turns = 0; turns < i % 4; turns++)
            CHECK_OK(kr_step(r, 0));
        test_close_reset(fds[i]);
    }
    TEST_UNTIL(r, g.closes == CLIENTS);
    CHECK_EQ(g.errors, (unsigned)CLIENTS);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* ---- crumbs and bursts ---- */

#define CRUMBS 100u
#define BURSTS 8u

/* A burst sends until nothing more goes, and only then reads, all there is. */
static void burst_move(struct test_echo *burst) {
    uint64_t sent;
    do {
        sent = burst->sent;
        test_echo_move(burst);
    } while (burst->sent > sent);
}

/* Ours: whatever the pieces, bytes come back in order and whole: clients that send and read one
 * byte at a time, beside clients that push megabytes. */
TEST_EACH(hostile_crumbs_and_bursts_are_served, .deadline_s = 60) {
    struct kr_listen_opts opts = echo_opts();
    static struct town t;
    town_open(&t, town_reactor(&kr__linux, 0, 0), &opts, &echo_ops);
    static struct test_echo crumbs[CRUMBS], bursts[BURSTS];
    for (unsigned i = 0; i < CRUMBS; i++)
        crumbs[i] = (struct test_echo){.fd = test_connect(t.port),
                                       .seed = 1000 + i,
                                       .total = 300,
                                       .send_piece = 1,
                                       .recv_piece = 1};
    for (unsigned i = 0; i < BURSTS; i++)
        bursts[i] = (struct test_echo){.fd = test_connect(t.port),
                                       .seed = 2000 + i,
                                       .total = (uint64_t)(tap_full() ? 32 : 2) << 20};
    for (unsigned left = 1; left > 0;) {
        left = 0;
        for (unsigned i = 0; i < CRUMBS; i++)
            left += !test_echo_done(&crumbs[i]) && (test_echo_move(&crumbs[i]), true);
        for (unsigned i = 0; i < BURSTS; i++)
            left += !test_echo_done(&bursts[i]) && (burst_move(&bursts[i]), true);
        town_step(&t, "crumbs and bursts");
    }
    for (unsigned i = 0; i < CRUMBS; i++)
        test_close(crumbs[i].fd);
    for (unsigned i = 0; i < BURSTS; i++)
        test_close(bursts[i].fd);
    town_close(&t);
}

TAP_MAIN(hostile, 40)
