/* Hostile peers: they trickle, never read, reset, crumble and flood, close when it suits least, and
 * have their sockets killed from outside.
 *
 * What must hold in every case: beside them, good clients of an echo get every byte back, and each
 * answer within a bounded number of turns, whatever the machine does meanwhile; what hostile peers
 * make the library hold is bounded by the marks of their connections; and when they have gone,
 * connections, requests, buffers, send records, blocks and descriptors are what they were. */
#include "harness/server.h"

#include "core/reactor.h"
#include "kernel/kernel.h"
#include "pool/blocks.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the echo that all use ---- */

#define SEND_LOW ((size_t)4096)
#define SEND_HIGH ((size_t)16384)
#define MESSAGE ((size_t)4096)

#define CONNS_MOST 2048
#define TABLES_MOST (64 * CONNS_MOST) /* bytes of tables that grow with the connections */

/* Those whom one listener serves. */
struct guests {
    kr_conn conns[CONNS_MOST]; /* in the order of opening, round and round */
    unsigned opens, closes;
    unsigned eofs;
    unsigned timeouts, errors, aborts; /* of the closes */
};

static void guests_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct guests *g = user;
    g->conns[g->opens++ % CONNS_MOST] = conn;
}

static void guests_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                         enum kr_why why) {
    UNUSED(r, conn);
    struct guests *g = user;
    g->closes++;
    g->timeouts += why == KR_WHY_TIMEOUT;
    g->errors += why == KR_WHY_ERROR;
    g->aborts += error == -ECONNABORTED;
}

/* Takes messages while the queue may rise, so that it never holds more than one beyond send_high;
 * the cap leaves room for just that. */
static size_t echo_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
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

static const struct kr_conn_ops echo_ops = {
    .on_open = guests_open, .on_data = echo_data, .on_close = guests_close};

static struct kr_listen_opts echo_opts(void) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 256;
    opts.conn.send_low = SEND_LOW;
    opts.conn.send_high = SEND_HIGH;
    opts.conn.send_cap = SEND_HIGH + MESSAGE;
    return opts;
}

/* ---- a town: a reactor, good clients, and a port for others ---- */

#define GOOD 10u

/* Turns from a request of a good client to its answer, 2 at least. Beside these, for each receive
 * that the request needs, a turn for each 8 of the others: with DEFER a turn takes some 20
 * completions (kernel >= 6.13), and when buffers are short all take turns. */
#define TURNS_MOST 20u

struct good {
    struct test_echo echo;
    size_t size;    /* of its requests */
    uint64_t asked; /* the turn in which it last asked */
    unsigned crowd; /* so many others were there at a time since */
    unsigned answers;
};

struct town {
    struct kr_reactor *r;
    struct good good[GOOD];
    struct guests friends, others;
    kr_listener friends_listener, others_listener;
    uint16_t port;  /* for others */
    uint64_t worst; /* turns that a good client has waited */
    int fds;
    struct kr_stats before;
};

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

/* A turn, in which the good go on. */
static void town_step(struct town *t, const char *for_what) {
    uint64_t turn = test_stats(t->r).turns;
    for (unsigned i = 0; i < GOOD; i++)
        good_moves(t, &t->good[i], turn);
    test_step(t->r, for_what);
}

#define TOWN_UNTIL(t_, cond_)                                                                      \
    do {                                                                                           \
        while (!(cond_))                                                                           \
            town_step((t_), #cond_);                                                               \
    } while (0)

static void town_recv(struct town *t, int fd, void *data, size_t size) {
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

/* Each good client gets `count` more answers. */
static void good_get(struct town *t, unsigned count) {
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

/* Its table has room for a multishot accept on both listeners. Buffers: 0 = the defaults. */
static struct kr_reactor *town_reactor(const struct kr__kernel *kernel, unsigned buf_count,
                                       size_t buf_size) {
    tap_need_descriptors(4096);
    struct kr_config config = test_config();
    config.conn_max = 3000;
    config.buf_count = buf_count;
    config.buf_size = buf_size;
    return test_reactor_on(kernel, &config);
}

static void town_open(struct town *t, struct kr_reactor *r, const struct kr_listen_opts *opts,
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

/* The others left nothing behind but memory for the next. */
static void town_close(struct town *t) {
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
        if (c->parked || c->trying || !(c->owner.armed & KR__VERBS_THAT_RECEIVE))
            return false;
    }
    return true;
}

/* Ours: of a thousand peers that send a byte a second each is served in the end, for an idle
 * deadline of five seconds is for those who are silent; who are gone after just that time. Until a
 * request is whole it costs its smallest block. The clock is the test's, so no second is spent. */
TEST_EACH(hostile_tricklers_are_served_and_the_silent_go) {
    struct kr__kernel kernel = kr__linux;
    kernel.clock = virtual_clock;
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

/* A peer on a link of small segments, for which the kernel keeps small buffers (the first window is
 * of ten segments, and loopback's are 64 KiB). */
static int connect_tight(uint16_t port) {
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

#define WAVE 64u

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
 * (op/recv.c). Ours: it is told. */
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

/* ---- closes from both ends ---- */

/* The request's first byte is the manner in which this end closes, with an answer on its way. */
static size_t closer_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    (void)user;
    CHECK_OK(kr_conn_send(r, conn, data, size));
    char manner = *(const char *)data;
    CHECK_OK(kr_conn_close(r, conn, (enum kr_close)manner));
    return size;
}

static const struct kr_conn_ops closer_ops = {
    .on_open = guests_open, .on_data = closer_data, .on_close = guests_close};

/* Ends a peer in its manner; half ends only its own side, and reads on to the end. */
static void peer_end(struct town *t, int fd, unsigned manner) {
    static char bytes[65536];
    switch (manner) {
    case 0:
        test_close_reset(fd);
        return;
    case 1:
        test_close(fd);
        return;
    case 2:
        if (shutdown(fd, SHUT_WR) < 0) /* the other end was first, with RST */
            CHECK_EQ(errno, ENOTCONN);
        break;
    default: /* leaves it to the other end */
        break;
    }
    long n;
    while ((n = test_recv_some(fd, bytes, sizeof bytes)) >= 0) {
        if (n == 0)
            town_step(t, "the end of the stream");
    }
    CHECK(n == TEST_EOF || n == -ECONNRESET);
    test_close(fd);
}

/* Ours: whoever closes first, in whatever manner, and however many turns lie between, each
 * connection has its on_close once and leaves nothing. */
TEST_EACH(hostile_closes_from_both_ends_at_once, .deadline_s = 60) {
    struct kr_listen_opts opts = echo_opts();
    static struct town t;
    town_open(&t, town_reactor(&kr__linux, 0, 0), &opts, &closer_ops);
    unsigned count = tap_full() ? 30000 : 3000;
    for (unsigned done = 0; done < count; done += WAVE) {
        int fds[WAVE];
        for (unsigned i = 0; i < WAVE; i++) {
            fds[i] = test_connect(t.port);
            char request[3000] = {(char)tap_random_below(KR_CLOSE_RESET + 1)};
            size_t size = 1 + (size_t)tap_random_below(sizeof request);
            CHECK_EQ(test_send_some(fds[i], request, size), size);
        }
        for (unsigned i = 0; i < WAVE; i++) {
            if (tap_random_below(WAVE / 4) == 0)
                town_step(&t, "closes from both ends");
            peer_end(&t, fds[i], (unsigned)tap_random_below(4));
        }
    }
    CHECK_GE(t.others.opens, count);
    town_close(&t);
}

/* ---- a mob ---- */

#define MOB 200u

struct rioter {
    int fd; /* -1: none */
    uint64_t seed, sent, got;
};

/* An echo that now and then loses patience. */
static size_t mob_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                       size_t size) {
    size_t used = echo_data(r, conn, user, data, size);
    if (tap_random_below(100) == 0)
        CHECK_OK(kr_conn_close(r, conn, (enum kr_close)tap_random_below(KR_CLOSE_RESET + 1)));
    return used;
}

static const struct kr_conn_ops mob_ops = {
    .on_open = guests_open, .on_data = mob_data, .on_close = guests_close};

static void rioter_leaves(struct rioter *p, bool reset) {
    if (reset)
        test_close_reset(p->fd);
    else
        test_close(p->fd);
    p->fd = -1;
}

/* The other end may have gone. */
static bool rioter_lost(struct rioter *p, long n) {
    if (n >= 0)
        return false;
    CHECK(n == TEST_EOF || n == -ECONNRESET || n == -EPIPE);
    rioter_leaves(p, false);
    return true;
}

static void rioter_sends(struct rioter *p, size_t most) {
    static char bytes[65536];
    size_t size = 1 + (size_t)tap_random_below(most);
    test_pattern(bytes, size, p->seed, p->sent);
    long n = test_send_some(p->fd, bytes, size);
    if (!rioter_lost(p, n))
        p->sent += (uint64_t)n;
}

static void rioter_reads(struct rioter *p, size_t most) {
    static char bytes[65536];
    long n = test_recv_some(p->fd, bytes, 1 + (size_t)tap_random_below(most));
    if (rioter_lost(p, n))
        return;
    test_pattern_check(bytes, (size_t)n, p->seed, p->got);
    p->got += (uint64_t)n;
    CHECK_LE(p->got, p->sent);
}

static void rioter_acts(struct town *t, struct rioter *p) {
    static uint64_t seeds;
    uint64_t dice = tap_random_below(100);
    if (p->fd < 0)
        *p = (struct rioter){.fd = test_connect(t->port), .seed = 10000 + seeds++};
    else if (dice < 20)
        rioter_sends(p, 1);
    else if (dice < 40)
        rioter_sends(p, 16384);
    else if (dice < 60)
        rioter_reads(p, 1);
    else if (dice < 90)
        rioter_reads(p, 65536);
    else if (dice < 92)
        shutdown(p->fd, SHUT_WR);
    else if (dice < 94)
        shutdown(p->fd, SHUT_RD);
    else if (dice < 98)
        rioter_leaves(p, dice % 2);
}

/* Ours: two hundred peers that do whatever comes to them get no byte that is not theirs, and leave
 * nothing behind. */
TEST_EACH(hostile_mob_gets_only_its_own_bytes, .deadline_s = 60) {
    struct kr_listen_opts opts = echo_opts();
    static struct town t;
    town_open(&t, town_reactor(&kr__linux, 64, MESSAGE), &opts, &mob_ops);
    static struct rioter mob[MOB];
    for (unsigned i = 0; i < MOB; i++)
        mob[i].fd = -1;
    for (unsigned turns = tap_full() ? 15000 : 1000; turns > 0; turns--) {
        for (unsigned acts = (unsigned)tap_random_below(64); acts > 0; acts--)
            rioter_acts(&t, &mob[tap_random_below(MOB)]);
        town_step(&t, "a mob");
    }
    for (unsigned i = 0; i < MOB; i++) {
        if (mob[i].fd >= 0)
            rioter_leaves(&mob[i], i % 2);
    }
    CHECK_GE(t.others.opens, MOB);
    town_close(&t);
}

/* ---- killed from outside ---- */

/* `ss -K`: the kernel is asked to end all TCP sockets that the filter takes. What it complains of
 * goes to `complaint`; yields its status. */
static int ss_kill(const char *which, const char *filter, char *complaint, size_t size) {
    int pipe_fds[2];
    CHECK_SYS(pipe2(pipe_fds, O_CLOEXEC));
    posix_spawn_file_actions_t actions;
    CHECK_EQ(posix_spawn_file_actions_init(&actions), 0);
    CHECK_EQ(posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0), 0);
    CHECK_EQ(posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], 2), 0);
    char *argv[] = {"ss", "-K", "-n", "-H", (char *)(uintptr_t)which, (char *)(uintptr_t)filter,
                    NULL};
    pid_t pid;
    int rc = posix_spawnp(&pid, "ss", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    test_close(pipe_fds[1]);
    int status = -1;
    ssize_t got = CHECK_SYS(read(pipe_fds[0], complaint, size - 1));
    complaint[got] = 0;
    complaint[strcspn(complaint, "\n")] = 0;
    test_close(pipe_fds[0]);
    if (rc == 0)
        CHECK_SYS(waitpid(pid, &status, 0));
    return rc ? rc : status;
}

static void kill_sockets(const char *which, const char *side, uint16_t port) {
    char filter[32], complaint[200];
    snprintf(filter, sizeof filter, "%s = :%u", side, port);
    int rc = ss_kill(which, filter, complaint, sizeof complaint);
    if (rc)
        FAIL("ss -K %s: %d: %s", filter, rc, complaint);
}

/* What a victim is in when it is killed. */
enum state { SILENT_ONE, TALKING, STUFFED, DRAINING, HALF_CLOSED, STATES };

#define VICTIMS (16u * STATES)

/* Goes on, so that a half-closed connection stays. */
static void victim_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct guests *)user)->eofs++;
}

static const struct kr_conn_ops victim_ops = {
    .on_open = guests_open, .on_data = echo_data, .on_eof = victim_eof, .on_close = guests_close};

/* Until its queue does not move any more. */
static void stuff(struct town *t, int fd) {
    static char bytes[4096];
    for (unsigned idle = 0; idle < 20; idle++) {
        if (test_send_some(fd, bytes, sizeof bytes) > 0)
            idle = 0;
        town_step(t, "a victim to be stuffed");
    }
}

/* Brings a victim into its state. */
static int victim_begin(struct town *t, enum state state) {
    unsigned opens = t->others.opens, eofs = t->others.eofs;
    int fd = connect_tight(t->port);
    TOWN_UNTIL(t, t->others.opens > opens);
    kr_conn conn = t->others.conns[opens];
    if (state == TALKING)
        CHECK_EQ(test_send_some(fd, "talk", 4), 4);
    if (state == STUFFED || state == DRAINING)
        stuff(t, fd);
    if (state == DRAINING)
        CHECK_OK(kr_conn_close(t->r, conn, KR_CLOSE_FLUSH));
    if (state == HALF_CLOSED) {
        CHECK_SYS(shutdown(fd, SHUT_WR));
        TOWN_UNTIL(t, t->others.eofs > eofs);
    }
    return fd;
}

/* Ours: connections that the administrator kills, at this end or at the other, whatever they are in
 * the middle of, end with an error, each once. Half closed, nothing of them is armed, and the next
 * send finds out. */
static void kill_connections(const char *side) {
    tap_need_ss_kill();
    struct kr_listen_opts opts = echo_opts();
    static struct town t;
    town_open(&t, town_reactor(&kr__linux, 0, 0), &opts, &victim_ops);
    int fds[VICTIMS];
    for (unsigned i = 0; i < VICTIMS; i++)
        fds[i] = victim_begin(&t, (enum state)(i % STATES));
    CHECK_EQ(t.others.closes, 0u);
    kill_sockets("-t", side, t.port);
    TOWN_UNTIL(&t, t.others.closes == VICTIMS - VICTIMS / STATES);
    for (unsigned i = HALF_CLOSED; i < VICTIMS; i += STATES)
        CHECK_OK(kr_conn_send(t.r, t.others.conns[i], "?", 1));
    TOWN_UNTIL(&t, t.others.closes == VICTIMS);
    CHECK_EQ(t.others.errors, VICTIMS);
    tap_note("%u told of ECONNABORTED", t.others.aborts);
    for (unsigned i = 0; i < VICTIMS; i++)
        test_close(fds[i]);
    town_close(&t);
}

TEST_EACH(hostile_connections_killed_at_this_end) {
    kill_connections("sport");
}

TEST_EACH(hostile_connections_killed_at_the_other_end) {
    kill_connections("dport");
}

static unsigned listener_ends;

static void on_listener_end(struct kr_reactor *r, kr_listener listener, void *user, int error) {
    struct town *t = kr__container_of(user, struct town, others);
    CHECK_EQ(listener.bits, t->others_listener.bits);
    CHECK_EQ(error, -EINVAL);
    listener_ends++;
    struct kr_listen_opts opts = echo_opts();
    struct kr_addr addr = test_loopback(t->port);
    CHECK_OK(kr_listen(r, &t->others_listener, &addr, &opts, &echo_ops, user));
}

/* Ours: a listener whose socket is killed ends and tells of it, once and without another try; its
 * connections live on, and another takes its port from the very callback. */
TEST_EACH(hostile_listener_killed_is_replaced) {
    tap_need_ss_kill();
    struct kr_listen_opts opts = echo_opts();
    opts.on_end = on_listener_end;
    listener_ends = 0;
    static struct town t;
    town_open(&t, town_reactor(&kr__linux, 0, 0), &opts, &echo_ops);
    int fd = test_connect(t.port);
    TOWN_UNTIL(&t, t.others.opens == 1);
    kill_sockets("-tl", "sport", t.port);
    TOWN_UNTIL(&t, listener_ends == 1);
    CHECK_EQ(test_stats(t.r).listeners, 2u);
    uint64_t tries = test_stats(t.r).accept_errors;
    CHECK_LE(tries, 16u); /* those in flight */
    good_get(&t, 1000);
    CHECK_EQ(test_stats(t.r).accept_errors, tries);
    CHECK_EQ(listener_ends, 1u);

    char got[5];
    CHECK_EQ(test_send_some(fd, "still", 5), 5);
    town_recv(&t, fd, got, 5);
    CHECK_MEM_EQ(got, "still", 5);
    int other = test_connect(t.port);
    TOWN_UNTIL(&t, t.others.opens == 2);
    test_close(fd);
    test_close(other);
    town_close(&t);
}

TAP_MAIN(hostile, 40)
