/* The long run: connections that come and go, a reactor freed in full swing, a client that takes
 * all it can get, and what all of that costs in memory.
 *
 * What must hold: after any number of lives every count is where it was; kr_reactor_free ends
 * everything whatever state it is in; nobody is kept waiting by a neighbour; after warm-up nothing
 * is allocated. */
#include "harness/server.h"

#include "conn/conn.h"
#include "kernel/probe.h"
#include "roof/reactor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* ---- lives ---- */

struct lives {
    unsigned opens, closes;
};

static void lives_open(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct lives *)user)->opens++;
}

/* The request's first byte says how the server is to end: 'n' now, 'r' with RST, 'f' after the
 * echo; any other byte leaves that to the client. */
static size_t lives_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    (void)user;
    CHECK_OK(kr_conn_send(r, conn, data, size));
    switch (*(const char *)data) {
    case 'n':
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
        break;
    case 'r':
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_RESET));
        break;
    case 'f':
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
        break;
    default:
        break;
    }
    return size;
}

static void lives_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                        enum kr_why why) {
    UNUSED(r, conn, error, why);
    ((struct lives *)user)->closes++;
}

static const struct kr_conn_ops lives_ops = {
    .on_open = lives_open, .on_data = lives_data, .on_close = lives_close};

#define WAVE 64

/* Lets a client end in its way. With RST no port stays behind in TIME_WAIT, of which there are some
 * 28,000; so nearly all end with RST. */
static void life_end(int fd, unsigned i) {
    if (i % 16 == 0)
        test_close(fd);
    else
        test_close_reset(fd);
}

static const char requests[] = {'e', 'n', 'e', 'r', 'e', 'e', 'e', 'f', 'e', 0, 'e', 'e'};

/* A wave of clients: some end before they are accepted, some right after their request, some after
 * its echo. */
static void wave(struct kr_reactor *r, uint16_t port, struct lives *lives, unsigned base) {
    int fds[WAVE];
    unsigned before = lives->closes;
    for (unsigned i = 0; i < WAVE; i++) {
        unsigned kind = (base + i) % sizeof requests;
        fds[i] = test_connect(port);
        if (requests[kind])
            CHECK_GT(test_send_some(fds[i], &requests[kind], 1), 0);
        if (kind == 4 || kind == 5)
            life_end(fds[i], base + i);
    }
    for (unsigned i = 0; i < WAVE; i++) {
        unsigned kind = (base + i) % sizeof requests;
        if (kind == 4 || kind == 5)
            continue;
        char got;
        if (requests[kind] == 'e')
            test_recv(r, fds[i], &got, 1);
        life_end(fds[i], base + i);
    }
    TEST_UNTIL(r, lives->opens == lives->closes && test_stats(r).conns == 0);
    CHECK_LE(lives->closes - before, (unsigned)WAVE);
}

/* Ours: after twenty thousand connections (half a million with --full) that ended in every manner,
 * by either side, with bytes in flight or without, every count is at zero, and since the first
 * waves nothing was allocated. */
TEST_EACH(every_count_is_zero_after_all, .deadline_s = 300) {
    struct kr_reactor *r = test_reactor(NULL);
    struct lives lives = {0};
    uint16_t port = test_listen(r, NULL, NULL, &lives_ops, &lives);
    unsigned cycles = tap_full() ? 500000 : 20000, done = 0;
    for (; done < 20 * WAVE; done += WAVE)
        wave(r, port, &lives, done);
    uint64_t allocs = test_stats(r).allocs;
    for (; done < cycles; done += WAVE)
        wave(r, port, &lives, done);
    test_rest(r, (struct test_levels){.listeners = 1});
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.allocs, allocs);
    CHECK_EQ(stats.accepts, lives.opens);
    CHECK_EQ(stats.closes, lives.closes);
    CHECK_GE(lives.opens, cycles / 2);
    test_reactor_free(r);
}

/* ---- freed in full swing ---- */

#define CROWD 2000

enum state { IDLE, PAUSED, HALF_CLOSED, ECHOING, STUFFED, FLUSHING };

/* Few are given more bytes than a socket takes, since those stay in memory. */
static enum state state_of(unsigned i) {
    if (i % 100 == 99)
        return i % 200 == 99 ? STUFFED : FLUSHING;
    return (enum state)(i % 4);
}

/* What each connection is in when the reactor is freed. */
struct member {
    enum state state;
    unsigned closes;
    int error;
    enum kr_why why;
};

static struct swing {
    unsigned opens, eofs;
    struct member members[CROWD];
} swing;

/* More than the send and receive buffers of a loopback connection hold (net.ipv4.tcp_wmem: 4
 * MiB). */
static char stuffing[6 << 20];

static void swing_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)user;
    struct member *m = &swing.members[swing.opens];
    m->state = state_of(swing.opens++);
    CHECK_OK(kr_conn_set_user(r, conn, m));
    if (m->state == STUFFED || m->state == FLUSHING)
        CHECK_OK(kr_conn_send(r, conn, stuffing, sizeof stuffing));
    if (m->state == PAUSED)
        CHECK_OK(kr_conn_pause(r, conn));
    if (m->state == FLUSHING)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static size_t swing_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    struct member *m = user;
    CHECK(m->state != PAUSED && m->state != FLUSHING);
    return m->state == ECHOING && kr_conn_send(r, conn, data, size) == 0 ? size : 0;
}

static void swing_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn, user);
    swing.eofs++;
}

static void swing_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                        enum kr_why why) {
    struct member *m = user;
    m->closes++;
    m->error = error;
    m->why = why;
    CHECK_ERR(kr_conn_send(r, conn, "x", 1), EPIPE);
}

static const struct kr_conn_ops swing_ops = {
    .on_open = swing_open, .on_data = swing_data, .on_eof = swing_eof, .on_close = swing_close};

/* Ours: kr_reactor_free with two thousand connections in every state: idle, full of unsent bytes,
 * paused with unread ones, half closed, draining to a peer that reads nothing, in the middle of an
 * echo. Each gets its on_close once, none is waited for, and all memory comes back. */
TEST_EACH(free_with_thousands_in_every_state, .deadline_s = 40) {
    tap_need_descriptors(CROWD + 300);
    struct kr_config config = test_config();
    config.conn_max = CROWD;
    struct kr_reactor *r = test_reactor(&config);
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.inline_size = 40;
    uint16_t port = test_listen(r, NULL, &opts, &swing_ops, NULL);
    static int fds[CROWD];
    for (unsigned i = 0; i < CROWD; i++) {
        fds[i] = test_connect_sized(port, 0, 4096);
        TEST_UNTIL(r, swing.opens == i + 1);
        CHECK_EQ(test_send_some(fds[i], "unread", 6), 6);
        if (swing.members[i].state == HALF_CLOSED)
            CHECK_SYS(shutdown(fds[i], SHUT_WR));
    }
    TEST_UNTIL(r, swing.eofs == CROWD / 4);
    CHECK_EQ(test_stats(r).conns, CROWD);
    for (unsigned i = 0; i < CROWD; i++) {
        if (swing.members[i].state == ECHOING)
            test_send_some(fds[i], stuffing, 20000);
    }
    test_step(r, "echoes that begin");
    CHECK_GT(test_stats(r).sends_out, 0u);
    test_reactor_free(r);

    for (unsigned i = 0; i < CROWD; i++) {
        const struct member *m = &swing.members[i];
        CHECK_EQ(m->closes, 1u);
        CHECK_EQ(m->error, 0);
        CHECK_EQ(m->why, m->state == FLUSHING ? KR_WHY_LOCAL : KR_WHY_REACTOR);
        int end = test_recv_end(NULL, fds[i], NULL);
        CHECK(end == 0 || end == ECONNRESET);
        test_close(fds[i]);
    }
}

/* ---- a hog beside the quiet ---- */

#define QUIET 100
#define TURNS_MOST 16

/* Takes and gives whatever the hog's socket will. */
static uint64_t hog_on(int fd) {
    static char bytes[1 << 18];
    uint64_t moved = 0;
    for (long n; (n = test_recv_some(fd, bytes, sizeof bytes)) != 0; moved += (uint64_t)n)
        CHECK_GT(n, 0);
    for (long n; (n = test_send_some(fd, bytes, sizeof bytes)) != 0;)
        CHECK_GT(n, 0);
    return moved;
}

/* Ours: beside clients that have bytes ready in every single turn, a quiet client's request is
 * answered within a bounded number of turns, whatever the machine does meanwhile. Of 500 requests
 * none takes more than TURNS_MOST, where the least possible is 2: one to receive, one to send. */
TEST_EACH(hogs_leave_quiet_clients_alone, .alone = true, .deadline_s = 60) {
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, NULL, &test_send_back_ops, NULL);
    int hogs[2], quiet[QUIET];
    for (unsigned i = 0; i < 2; i++)
        hogs[i] = test_connect(port);
    for (unsigned i = 0; i < QUIET; i++)
        quiet[i] = test_connect(port);
    TEST_UNTIL(r, test_stats(r).accepts == QUIET + 2);

    uint64_t hogged = 0;
    unsigned worst = 0, counts[TURNS_MOST + 1] = {0};
    for (unsigned i = 0; i < 500; i++) {
        int fd = quiet[i % QUIET];
        char got, sent = (char)i;
        hogged += hog_on(hogs[0]) + hog_on(hogs[1]);
        CHECK_EQ(test_send_some(fd, &sent, 1), 1);
        unsigned turns = 0;
        while (test_recv_some(fd, &got, 1) == 0) {
            test_step(r, "a quiet client's answer");
            hogged += hog_on(hogs[0]) + hog_on(hogs[1]);
            CHECK_LT(turns++, (unsigned)TURNS_MOST);
        }
        CHECK_EQ(got, sent);
        counts[turns]++;
        worst = turns > worst ? turns : worst;
    }
    tap_note("turns a request: 2 or fewer %u, 3 %u, 4 %u, worst %u; hogs %llu bytes",
             counts[0] + counts[1] + counts[2], counts[3], counts[4], worst,
             (unsigned long long)hogged);
    CHECK_GT(hogged, 500u * 1024);
    for (unsigned i = 0; i < QUIET; i++)
        test_close(quiet[i]);
    for (unsigned i = 0; i < 2; i++)
        test_close_reset(hogs[i]);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* ---- memory ---- */

#define TALKERS 64

static struct talkers {
    unsigned opens;
    unsigned times; /* that each byte is echoed */
    kr_conn conns[TALKERS];
} talkers;

static void talkers_open(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, user);
    if (talkers.opens < TALKERS)
        talkers.conns[talkers.opens] = conn;
    talkers.opens++;
}

static size_t talkers_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    (void)user;
    for (unsigned i = 0; i < talkers.times; i++)
        CHECK_OK(kr_conn_send(r, conn, data, size));
    return size;
}

static const struct kr_conn_ops talkers_ops = {.on_open = talkers_open, .on_data = talkers_data};

/* Brings the most of everything into being that the talk can need at a time: for each size of
 * message, two of them queued on all connections at once; and as many sends of lent bytes as there
 * are connections. */
static void warm_up(struct kr_reactor *r, const int *fds) {
    static char bytes[TALKERS * 4096];
    for (size_t size = 1; size <= 8192; size *= 2) {
        for (unsigned i = 0; i < TALKERS; i++) {
            CHECK_OK(kr_conn_send(r, talkers.conns[i], bytes, size));
            CHECK_OK(kr_conn_send(r, talkers.conns[i], bytes, size));
        }
        for (unsigned i = 0; i < TALKERS; i++)
            test_recv(r, fds[i], bytes, 2 * size);
    }
    uint64_t copied = test_stats(r).bytes_copied;
    talkers.times = TALKERS;
    test_send(r, fds[0], bytes, 4096);
    test_recv(r, fds[0], bytes, TALKERS * 4096);
    CHECK_EQ(test_stats(r).bytes_copied, copied);
    talkers.times = 1;
}

/* One round: each talker says `size` bytes and hears them; beside that a timer and a post. */
static void round_of(struct kr_reactor *r, const int *fds, size_t size, unsigned *fires) {
    static char said[4096], heard[4096];
    CHECK_OK(kr_timer_start(r, NULL, 0, 0, test_count_fire, fires));
    CHECK_OK(kr_post(r, test_count_call, fires));
    for (unsigned i = 0; i < TALKERS; i++)
        test_send(r, fds[i], said, size);
    for (unsigned i = 0; i < TALKERS; i++)
        test_recv(r, fds[i], heard, size);
}

/* Ours: after warm-up, 100,000 echoes of 1 to 4096 bytes (a million with --full), with timers,
 * posts, and connections that come and go, call the allocator not once. */
TEST_EACH(no_allocation_after_warm_up, .deadline_s = 120) {
    struct kr_config config = test_config();
    config.buf_count = 8 * TALKERS; /* of which one connection's sends may hold an eighth */
    struct kr_reactor *r = test_reactor(&config);
    uint16_t port = test_listen(r, NULL, NULL, &talkers_ops, NULL);
    int fds[TALKERS];
    for (unsigned i = 0; i < TALKERS; i++) {
        fds[i] = test_connect(port);
        TEST_UNTIL(r, talkers.opens == i + 1);
    }
    unsigned fires = 0;
    warm_up(r, fds);
    round_of(r, fds, 1, &fires);
    uint64_t allocs = test_stats(r).allocs, bytes = test_stats(r).alloc_bytes;

    unsigned rounds = (tap_full() ? 1000000 : 100000) / TALKERS + 1;
    for (unsigned i = 0; i < rounds; i++) {
        round_of(r, fds, 1 + (size_t)tap_random_below(i % 8 ? 128 : 4096), &fires);
        if (i % 16 == 0) {
            test_close_reset(fds[i / 16 % TALKERS]);
            fds[i / 16 % TALKERS] = test_connect(port);
        }
        CHECK_EQ(test_stats(r).allocs, allocs);
    }
    CHECK_EQ(test_stats(r).alloc_bytes, bytes);
    for (unsigned i = 0; i < TALKERS; i++)
        test_close(fds[i]);
    TEST_UNTIL(r, test_stats(r).conns == 0 && fires == 2 * (1 + rounds));
    test_reactor_free(r);
}

/* The real kernel, with the mapped bytes counted. */
static size_t mapped;

static void *counted_map(const struct kr__kernel *k, size_t size, enum kr__map how) {
    mapped += size;
    return kr__linux.process.map(k, size, how);
}

/* Bytes of all that a reactor of so many connections has mapped and allocated before the first of
 * them. */
static size_t tables_of(unsigned conn_max) {
    struct kr__kernel kernel = kr__linux;
    kernel.process.map = counted_map;
    struct kr_config config = test_config();
    config.taskrun = (enum kr_taskrun)tap_variant()->mode;
    config.conn_max = conn_max;
    config.connect_max = 64; /* as many in each */
    mapped = 0;
    struct kr_reactor *r;
    CHECK_OK(kr__reactor_new(&r, &config, NULL, &kernel, (unsigned)tap_variant()->caps_mask));
    size_t bytes = mapped + (size_t)test_stats(r).alloc_bytes;
    CHECK_OK(kr_reactor_free(r));
    return bytes;
}

#define IDLERS 1000

static size_t idle_bytes(int64_t idle_ns) {
    struct kr_config config = test_config();
    config.conn_max = IDLERS;
    struct kr_reactor *r = test_reactor(&config);
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.idle_ns = idle_ns;
    uint16_t port = test_listen(r, NULL, &opts, &test_send_back_ops, NULL);
    static int fds[IDLERS];
    char got[64];
    for (unsigned i = 0; i < 10; i++) {
        fds[i] = test_connect(port);
        test_send(r, fds[i], "an echo before the silence", 26);
        test_recv(r, fds[i], got, 26);
    }
    size_t before = (size_t)test_stats(r).alloc_bytes;
    for (unsigned i = 10; i < IDLERS; i++) {
        fds[i] = test_connect(port);
        test_send(r, fds[i], "an echo before the silence", 26);
        test_recv(r, fds[i], got, 26);
    }
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.conns, IDLERS);
    size_t each = ((size_t)stats.alloc_bytes - before) / (IDLERS - 10);
    for (unsigned i = 0; i < IDLERS; i++)
        test_close(fds[i]);
    TEST_UNTIL(r, test_stats(r).conns == 0);
    test_reactor_free(r);
    return each;
}

/* Ours: an idle connection that has spoken before costs at most 256 bytes of the library's memory:
 * its share of all tables (the difference between a reactor of 8192 connections and one of 4096),
 * and what the allocator was asked for meanwhile. An idle deadline is paid for in that. */
TEST_EACH(idle_connection_costs_256_bytes) {
    tap_need_descriptors(9000);
    size_t table = (tables_of(8192) - tables_of(4096)) / 4096;
    size_t silent = idle_bytes(0), watched = idle_bytes(INT64_MAX);
    tap_note("table %zu, allocated %zu, with an idle deadline %zu", table, silent, watched);
    CHECK_GE(table, sizeof(struct kr__conn));
    CHECK_LE(table + silent, 256u);
    CHECK_LE(table + watched, 256u);
}

TAP_MAIN(churn, 20)
