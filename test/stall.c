/* A loop that was held up: what peers did meanwhile is read before their silence is judged.
 *
 * The clock stands still until the case moves it, past a deadline, when all peers have acted and
 * nothing of that has been read. More connections than a turn can read: by its budget of
 * completions, and with DEFER_TASKRUN by the kernel's batch, too. Those on Unix sockets have a poll
 * in front of each receive. */
#include "harness/server.h"

#include "core/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CROWD 400u
static unsigned crowd_size = CROWD;

#define LIMIT 100 /* of the deadline, ns */
#define LATER (100 * LIMIT)

static struct {
    struct kr__kernel kernel;
    int64_t now, wait_ns;
} still;

/* The clock moves by so much inside the next wait. */
static int still_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                       unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    int rc = kr__linux.enter(k, ring, submit, wait_for, flags, arg);
    if (wait_for) {
        still.now += still.wait_ns;
        still.wait_ns = 0;
    }
    return rc;
}

static int64_t still_clock(const struct kr__kernel *k) {
    (void)k;
    return still.now;
}

/* With buffers so small that there is one for each at once. */
static struct kr_config whole_turns(void) {
    struct kr_config config = test_config();
    config.buf_size = 512;
    return config;
}

static struct kr_config small_turns(void) {
    struct kr_config config = whole_turns();
    config.turn_cqes = 16;
    return config;
}

static struct kr_reactor *still_reactor(const struct kr_config *config) {
    still.kernel = kr__linux;
    still.kernel.clock = still_clock;
    still.kernel.enter = still_enter;
    still.now = HOUR;
    return test_reactor_on(&still.kernel, config);
}

/* ---- a crowd of connections ---- */

static struct crowd {
    struct kr_reactor *r;
    kr_listener listener;
    uint16_t port;
    kr_conn conns[CROWD + 1];
    int fds[CROWD + 1];
    unsigned opens, closes, timeouts;
    size_t bytes;
    /* the client of a connection sends again whenever it was heard: from this one on; 0: none */
    unsigned talkers;
    bool drained;
    unsigned cut_off;
} crowd;

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)user;
    CHECK_OK(kr_conn_set_user(r, conn, &crowd.conns[crowd.opens]));
    crowd.conns[crowd.opens++] = conn;
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    UNUSED(r, conn, data);
    crowd.bytes += size;
    unsigned i = (unsigned)((kr_conn *)user - crowd.conns);
    if (crowd.talkers && i >= crowd.talkers)
        test_send_some(crowd.fds[i], "x", 1);
    return size;
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    UNUSED(r, conn, user, error);
    crowd.closes++;
    crowd.timeouts += why == KR_WHY_TIMEOUT;
}

static const struct kr_conn_ops ops = {
    .on_open = on_open, .on_data = on_data, .on_eof = test_ignore_eof, .on_close = on_close};

static struct kr_conn_opts no_deadlines(void) {
    struct kr_conn_opts opts = test_conn_opts();
    opts.flush_ns = HOUR;
    return opts;
}

/* One after the other, so that connection and client of an index belong together. */
static void crowd_gather_on(const struct kr_config *config, const struct kr_conn_opts *opts) {
    struct kr_listen_opts listen = test_listen_opts();
    listen.backlog = CROWD;
    listen.conn = *opts;
    crowd = (struct crowd){.r = still_reactor(config)};
    crowd.port = test_listen(crowd.r, &crowd.listener, &listen, &ops, NULL);
    for (unsigned i = 0; i < crowd_size; i++) {
        crowd.fds[i] = test_connect_sized(crowd.port, 0, 4096);
        TEST_UNTIL(crowd.r, crowd.opens == i + 1);
    }
}

static void crowd_gather(const struct kr_conn_opts *opts) {
    struct kr_config config = small_turns();
    crowd_gather_on(&config, opts);
}

static int adopt_as(const struct kr_conn_opts *opts, const struct kr_conn_ops *as) {
    int fds[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds));
    CHECK_OK(kr_conn_adopt(crowd.r, NULL, fds[1], opts, as, NULL));
    return fds[0];
}

static int adopt_one(const struct kr_conn_opts *opts) {
    return adopt_as(opts, &ops);
}

/* The same on Unix sockets. */
static void crowd_adopts_on(const struct kr_config *config, const struct kr_conn_opts *opts) {
    crowd = (struct crowd){.r = still_reactor(config)};
    for (unsigned i = 0; i < crowd_size; i++) {
        crowd.fds[i] = adopt_one(opts);
        TEST_UNTIL(crowd.r, crowd.opens == i + 1);
    }
}

static void crowd_adopts(const struct kr_conn_opts *opts) {
    struct kr_config config = small_turns();
    crowd_adopts_on(&config, opts);
}

static const struct kr__conn *conn_at(unsigned i) {
    return &crowd.r->conns.table[kr__handle_slot(crowd.conns[i].bits)];
}

typedef void gather_fn(const struct kr_conn_opts *opts);

static bool is_at_work(const struct kr_reactor *r) {
    return !kr__list_empty(&r->dirty) || !kr__line_empty(&r->line) || kr__ring_pending(&r->ring);
}

static void crowd_turns(void) {
    for (unsigned idle = 0; idle < 5;) {
        bool moved = test_step(crowd.r, "the crowd to be heard") > 0;
        idle = moved || is_at_work(crowd.r) ? 0 : idle + 1;
    }
}

static void crowd_speaks(void) {
    for (unsigned i = 0; i < crowd_size; i++)
        test_send(NULL, crowd.fds[i], "x", 1);
}

static void crowd_hangs_up(void) {
    for (unsigned i = 0; i < crowd_size; i++)
        CHECK_SYS(shutdown(crowd.fds[i], SHUT_WR));
}

static void read_all(int fd) {
    static char sink[1 << 16];
    while (test_recv_some(fd, sink, sizeof sink) > 0) {}
}

static void crowd_reads(void) {
    for (unsigned i = 0; i < crowd_size; i++)
        read_all(crowd.fds[i]);
}

/* Queues a little more than all buffers of a connection take, so that the last send waits. */
static void crowd_is_sent_too_much(void) {
    static const char piece[4096];
    for (unsigned waiting = 0; waiting < CROWD;) {
        crowd_turns();
        waiting = 0;
        for (unsigned i = 0; i < crowd_size; i++) {
            if (kr_conn_queued(crowd.r, crowd.conns[i]))
                waiting++;
            else
                CHECK_OK(kr_conn_send(crowd.r, crowd.conns[i], piece, sizeof piece));
        }
    }
}

static void crowd_end(void) {
    for (unsigned i = 0; i < crowd_size; i++)
        kr_conn_close(crowd.r, crowd.conns[i], KR_CLOSE_NOW);
    TEST_UNTIL(crowd.r, crowd.closes == crowd.opens);
    for (unsigned i = 0; i < crowd_size; i++)
        test_close(crowd.fds[i]);
    test_reactor_free(crowd.r);
}

/* Nobody is timed out who has acted; and everybody who has not, afterwards. */
static void check_heard_then_silent(void) {
    still.now += LATER;
    crowd_turns();
    CHECK_EQ(crowd.timeouts, 0u);
    still.now += LATER;
    TEST_UNTIL(crowd.r, crowd.timeouts == crowd_size);
    crowd_end();
}

static void check_idle(gather_fn *gather) {
    struct kr_conn_opts opts = no_deadlines();
    opts.idle_ns = LIMIT;
    gather(&opts);
    crowd_speaks();
    check_heard_then_silent();
    CHECK_EQ(crowd.bytes, crowd_size);
}

/* Ours: bytes that wait to be read are no silence, for the idle deadline. */
TEST_EACH(stall_then_idle) {
    check_idle(crowd_gather);
}

/* Ours: where a poll comes before the receive, too. */
TEST_EACH(stall_then_idle_behind_a_poll) {
    check_idle(crowd_adopts);
}

static void check_read(gather_fn *gather) {
    struct kr_conn_opts opts = no_deadlines();
    opts.read_ns = LIMIT;
    gather(&opts);
    crowd_speaks();
    check_heard_then_silent();
    CHECK_EQ(crowd.bytes, crowd_size);
}

/* Ours: and for the read deadline. */
TEST_EACH(stall_then_read) {
    check_read(crowd_gather);
}

TEST_EACH(stall_then_read_behind_a_poll) {
    check_read(crowd_adopts);
}

static void crowd_gather_with_a_small_cq(const struct kr_conn_opts *opts) {
    struct kr_config config = small_turns();
    config.sq_entries = config.cq_entries = 32;
    config.turn_cqes = 1;
    crowd_gather_on(&config, opts);
}

static void crowd_gather_for_whole_turns(const struct kr_conn_opts *opts) {
    struct kr_config config = whole_turns();
    crowd_gather_on(&config, opts);
}

/* Ours: nor is the kernel's work that an enter has not run. */
TEST_EACH(stall_then_read_in_whole_turns) {
    check_read(crowd_gather_for_whole_turns);
}

/* Ours: the same where nobody has to wait for a buffer, so that nothing else is to be done. */
TEST_EACH(stall_then_read_of_a_few) {
    crowd_size = 50;
    check_read(crowd_gather);
}

TEST_EACH(stall_then_read_of_a_few_in_whole_turns) {
    crowd_size = 50;
    check_read(crowd_gather_for_whole_turns);
}

/* Ours: nor are completions that the kernel keeps, as the CQ is full. */
TEST_EACH(stall_then_read_beyond_the_cq) {
    check_read(crowd_gather_with_a_small_cq);
}

static void crowd_adopts_with_a_small_sq(const struct kr_conn_opts *opts) {
    struct kr_config config = whole_turns();
    config.sq_entries = 16;
    crowd_adopts_on(&config, opts);
}

/* Ours: nor is a receive that waits for a place in the SQ. */
TEST_EACH(stall_then_read_behind_a_full_sq) {
    check_read(crowd_adopts_with_a_small_sq);
}

static void check_write(gather_fn *gather) {
    struct kr_conn_opts opts = no_deadlines();
    opts.write_ns = LIMIT;
    opts.send_buf = 4096;
    gather(&opts);
    crowd_is_sent_too_much();
    crowd_reads();
    still.now += LATER;
    crowd_turns();
    CHECK_EQ(crowd.timeouts, 0u);
    crowd_is_sent_too_much();
    still.now += LATER;
    TEST_UNTIL(crowd.r, crowd.timeouts == crowd_size);
    crowd_end();
}

/* Ours: a peer that has read what was sent has not kept the write deadline waiting. */
TEST_EACH(stall_then_write) {
    check_write(crowd_gather);
}

TEST_EACH(stall_then_write_to_unix_sockets) {
    check_write(crowd_adopts);
}

static void check_flush(gather_fn *gather) {
    struct kr_conn_opts opts = no_deadlines();
    opts.flush_ns = LIMIT;
    gather(&opts);
    for (unsigned i = 0; i < crowd_size; i++)
        CHECK_OK(kr_conn_close(crowd.r, crowd.conns[i], KR_CLOSE_LINGER));
    for (unsigned i = 0; i < crowd_size; i++)
        CHECK_EQ(test_recv_end(crowd.r, crowd.fds[i], NULL), 0);
    crowd_turns();
    crowd_hangs_up();
    still.now += LATER;
    TEST_UNTIL(crowd.r, crowd.closes == CROWD);
    CHECK_EQ(crowd.timeouts, 0u);
    crowd_end();
}

/* Ours: nor the flush deadline: of peers that have ended meanwhile none is cut off. */
TEST_EACH(stall_then_flush) {
    check_flush(crowd_gather);
}

TEST_EACH(stall_then_flush_behind_a_poll) {
    check_flush(crowd_adopts);
}

/* Ours: nor of peers that have read the rest meanwhile. */
TEST_EACH(stall_then_flush_of_the_rest) {
    struct kr_conn_opts opts = no_deadlines();
    opts.flush_ns = LIMIT;
    opts.send_buf = 4096;
    crowd_gather(&opts);
    crowd_is_sent_too_much();
    for (unsigned i = 0; i < crowd_size; i++)
        CHECK_OK(kr_conn_close(crowd.r, crowd.conns[i], KR_CLOSE_FLUSH));
    crowd_turns();
    CHECK_EQ(crowd.closes, 0u);
    crowd_reads();
    still.now += LATER;
    TEST_UNTIL(crowd.r, crowd.closes == CROWD);
    CHECK_EQ(crowd.timeouts, 0u);
    crowd_end();
}

static void on_drained(struct kr_reactor *r, void *user, unsigned cut_off) {
    UNUSED(r, user);
    crowd.drained = true;
    crowd.cut_off = cut_off;
}

static void check_drained(void) {
    TEST_UNTIL(crowd.r, crowd.drained);
    CHECK_EQ(crowd.cut_off, 0u);
    CHECK_EQ(crowd.timeouts, 0u);
    crowd_end();
}

static void check_drain(gather_fn *gather) {
    struct kr_conn_opts opts = no_deadlines();
    gather(&opts);
    CHECK_OK(kr_drain(crowd.r, LIMIT, on_drained, NULL));
    for (unsigned i = 0; i < crowd_size; i++)
        CHECK_EQ(test_recv_end(crowd.r, crowd.fds[i], NULL), 0);
    crowd_turns();
    crowd_hangs_up();
    still.now += LATER;
    check_drained();
}

/* Ours: nor the time of a drain. */
TEST_EACH(stall_then_drain) {
    check_drain(crowd_gather);
}

TEST_EACH(stall_then_drain_behind_a_poll) {
    check_drain(crowd_adopts);
}

/* Ours: a loop that is held up behind the call of kr_drain has told nobody yet, and the time for an
 * answer has not begun. */
TEST_EACH(stall_behind_a_drain) {
    struct kr_conn_opts opts = no_deadlines();
    crowd_gather(&opts);
    CHECK_OK(kr_drain(crowd.r, LIMIT, on_drained, NULL));
    still.now += LATER;
    for (unsigned i = 0; i < crowd_size; i++)
        CHECK_EQ(test_recv_end(crowd.r, crowd.fds[i], NULL), 0);
    crowd_hangs_up();
    check_drained();
}

/* ---- connections that are being made ---- */

static struct kr_connect_opts soon(void) {
    struct kr_connect_opts how = test_connect_opts();
    how.timeout_ns = LIMIT;
    return how;
}

static void crowd_is_connected(const struct kr_addr *addr) {
    struct kr_connect_opts how = soon();
    crowd.opens = 0;
    for (unsigned i = 0; i < crowd_size; i++)
        CHECK_OK(kr_connect(crowd.r, NULL, addr, &how, &ops, NULL));
}

static void check_all_stand(void) {
    TEST_UNTIL(crowd.r, crowd.opens + crowd.closes == CROWD);
    CHECK_EQ(crowd.timeouts, 0u);
    CHECK_EQ(crowd.opens, CROWD);
    for (unsigned i = 0; i < crowd_size; i++)
        test_close(crowd.fds[i]);
    test_reactor_free(crowd.r);
}

/* Ours: connections that stand are not timed out because nobody has looked yet. */
TEST_EACH(stall_then_connect) {
    struct kr_conn_opts opts = no_deadlines();
    crowd_gather(&opts);
    struct kr_addr addr = test_loopback(crowd.port);
    CHECK_OK(kr_listener_pause(crowd.r, crowd.listener));
    crowd_is_connected(&addr);
    CHECK_OK(kr_step(crowd.r, 0));
    CHECK_LT(crowd.opens, CROWD);
    still.now += LATER;
    check_all_stand();
}

/* A listener on which nobody is accepted: 1 fits its backlog, or none (Unix). */
static int full_listener(struct kr_addr *addr) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    int filler = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char name[64];
    snprintf(name, sizeof name, "@kr-stall-%d", (int)getpid());
    CHECK_OK(kr_addr_unix(addr, name));
    memcpy(sun.sun_path + 1, name + 1, strlen(name) - 1);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    CHECK_SYS(bind(fd, (struct sockaddr *)&sun, size));
    CHECK_SYS(listen(fd, 0));
    CHECK_SYS(connect(filler, (struct sockaddr *)&sun, size));
    crowd.fds[1] = filler;
    return fd;
}

static void crowd_of_none(void) {
    struct kr_config config = small_turns();
    crowd = (struct crowd){.r = still_reactor(&config)};
}

/* Ours: one that waits for room in a Unix socket's backlog tries once more before it is given up,
 * and is given up if there is still none. */
TEST_EACH(stall_then_connect_to_a_unix_socket) {
    crowd_of_none();
    struct kr_addr addr;
    int listener = full_listener(&addr);
    struct kr_connect_opts how = soon();
    for (unsigned i = 0; i < 2; i++)
        CHECK_OK(kr_connect(crowd.r, NULL, &addr, &how, &ops, NULL));
    crowd_turns();
    CHECK_EQ(crowd.opens, 0u);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK_OK(kr_dump(crowd.r, null)); /* which tells when they are due */
    test_close(null);
    int accepted = accept(listener, NULL, NULL);
    CHECK_SYS(accepted);
    still.now += LATER;
    TEST_UNTIL(crowd.r, crowd.opens == 1 && crowd.timeouts == 1);
    CHECK_OK(kr_conn_close(crowd.r, crowd.conns[0], KR_CLOSE_NOW));
    TEST_UNTIL(crowd.r, crowd.closes == 2);
    test_close(accepted);
    test_close(crowd.fds[1]);
    test_close(listener);
    test_reactor_free(crowd.r);
}

/* Ours: a connection to be made is given its time from when the kernel was asked. */
TEST_EACH(stall_before_connect) {
    struct kr_conn_opts opts = no_deadlines();
    crowd_gather(&opts);
    struct kr_addr addr = test_loopback(crowd.port);
    CHECK_OK(kr_listener_pause(crowd.r, crowd.listener));
    crowd_is_connected(&addr);
    still.now += LATER;
    CHECK_OK(kr_step(crowd.r, 0));
    unsigned calling = 0;
    for (struct kr__conn *c = NULL; (c = kr__conns_next(&crowd.r->conns, c)); calling += c->calling)
        CHECK(!c->calling || c->more->until == still.now + LIMIT);
    CHECK_GT(calling, 0u);
    check_all_stand();
}

/* ---- inside a turn ---- */

static size_t on_data_slowly(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                             size_t size) {
    still.now += crowd.bytes ? 0 : HOUR;
    return on_data(r, conn, user, data, size);
}

static const struct kr_conn_ops slow_ops = {
    .on_open = on_open, .on_data = on_data_slowly, .on_eof = test_ignore_eof, .on_close = on_close};

static void check_inside(struct kr_conn_opts opts) {
    crowd_of_none();
    crowd_size = 10;
    for (unsigned i = 0; i < crowd_size; i++) {
        crowd.fds[i] = adopt_as(&opts, &slow_ops);
        TEST_UNTIL(crowd.r, crowd.opens == i + 1);
    }
    crowd_turns();
    crowd_speaks();
    crowd_turns();
    CHECK_EQ(crowd.bytes, crowd_size);
    CHECK_EQ(crowd.timeouts, 0u);
    still.now += 10 * MS - 1;
    crowd_turns();
    CHECK_EQ(crowd.timeouts, 0u);
    still.now += 1;
    TEST_UNTIL(crowd.r, crowd.timeouts == crowd_size);
    crowd_end();
}

/* Ours: a callback that takes long does not make those silent that are served behind it in the same
 * turn. */
TEST_EACH(stall_inside_a_turn_then_read) {
    struct kr_conn_opts opts = no_deadlines();
    opts.read_ns = 10 * MS;
    check_inside(opts);
}

TEST_EACH(stall_inside_a_turn_then_idle) {
    struct kr_conn_opts opts = no_deadlines();
    opts.idle_ns = 10 * MS;
    check_inside(opts);
}

/* Ours: a wait holds up nothing. */
TEST_EACH(stall_is_no_wait) {
    crowd_of_none();
    struct kr_conn_opts opts = no_deadlines();
    opts.idle_ns = 10 * MS;
    crowd.fds[0] = adopt_one(&opts);
    TEST_UNTIL(crowd.r, crowd.opens == 1);
    still.now += 1;
    test_send(NULL, crowd.fds[0], "x", 1);
    crowd_turns();
    still.wait_ns = 10 * MS;
    TEST_UNTIL(crowd.r, still.wait_ns == 0);
    CHECK_EQ(test_stats(crowd.r).timeouts, 1u);
    TEST_UNTIL(crowd.r, crowd.timeouts == 1);
    test_close(crowd.fds[0]);
    test_reactor_free(crowd.r);
}

/* ---- pairs ---- */

static bool is_dammed(unsigned i) {
    return conn_at(i)->dammed;
}

/* Ours: an end that is not read, as the other's queue is full, is not silent while that moves: until
 * the queue is down to its low mark, and when it is. */
static void check_pair(size_t high) {
    crowd_of_none();
    struct kr_conn_opts opts = no_deadlines();
    opts.idle_ns = LIMIT;
    opts.send_high = high;
    opts.send_low = 1;
    for (unsigned i = 0; i < 2; i++) {
        crowd.fds[i] = adopt_one(&opts);
        TEST_UNTIL(crowd.r, crowd.opens == i + 1);
    }
    CHECK_OK(kr_conn_forward(crowd.r, crowd.conns[0], crowd.conns[1], NULL, NULL, NULL));
    static const char piece[4096];
    for (unsigned stalls = 0; stalls < 3; stalls++) {
        while (!is_dammed(0)) {
            while (test_send_some(crowd.fds[0], piece, sizeof piece) > 0) {}
            crowd_turns();
        }
        read_all(crowd.fds[1]);
        still.now += LATER;
        crowd_turns();
        CHECK_EQ(crowd.timeouts, 0u);
        CHECK(high == 1 || is_dammed(0));
    }
    still.now += LATER;
    TEST_UNTIL(crowd.r, crowd.closes == 2);
    CHECK_GT(crowd.timeouts, 0u);
    for (unsigned i = 0; i < 2; i++)
        test_close(crowd.fds[i]);
    test_reactor_free(crowd.r);
}

TEST_EACH(stall_then_idle_of_a_pair) {
    check_pair(1);
}

TEST_EACH(stall_then_idle_of_a_pair_with_a_long_queue) {
    check_pair(1 << 20);
}

/* ---- receive buffers ---- */

/* Ours: of a crowd that waits for one receive buffer none is idle. */
TEST_EACH(stall_then_idle_without_a_buffer) {
    struct kr_config config = small_turns();
    config.buf_count = 1;
    struct kr_conn_opts opts = no_deadlines();
    opts.idle_ns = LIMIT;
    crowd_gather_on(&config, &opts);
    crowd_speaks();
    check_heard_then_silent();
    CHECK_EQ(crowd.bytes, crowd_size);
}

/* Ours: nor is any of those cut off that linger, and whose end is still to be read. */
TEST_EACH(stall_then_flush_without_a_buffer) {
    struct kr_config config = small_turns();
    config.buf_count = 1;
    struct kr_conn_opts opts = no_deadlines();
    opts.flush_ns = LIMIT;
    crowd_gather_on(&config, &opts);
    for (unsigned i = 0; i < crowd_size; i++)
        CHECK_OK(kr_conn_close(crowd.r, crowd.conns[i], KR_CLOSE_LINGER));
    for (unsigned i = 0; i < crowd_size; i++)
        CHECK_EQ(test_recv_end(crowd.r, crowd.fds[i], NULL), 0);
    crowd_turns();
    crowd_speaks();
    crowd_hangs_up();
    still.now += LATER;
    TEST_UNTIL(crowd.r, crowd.closes == CROWD);
    CHECK_EQ(crowd.timeouts, 0u);
    crowd_end();
}

static void crowd_adopts_with_one_buffer(const struct kr_conn_opts *opts) {
    struct kr_config config = small_turns();
    config.buf_count = 1;
    crowd_adopts_on(&config, opts);
}

/* Ours: the read deadline counts again from when there is a receive, which a poll came before. */
TEST_EACH(stall_then_read_behind_a_poll_without_a_buffer) {
    check_read(crowd_adopts_with_one_buffer);
}

/* A crowd that wants the one buffer all the time, and one more connection. */
static void crowd_contends(const struct kr_conn_opts *opts) {
    struct kr_conn_opts others = no_deadlines();
    crowd_adopts_with_one_buffer(&others);
    crowd.talkers = CROWD - 20;
    for (unsigned i = CROWD - 20; i < crowd_size; i++)
        test_send(NULL, crowd.fds[i], "x", 1);
    TEST_UNTIL(crowd.r, crowd.r->line.parked > 10);
    crowd.fds[CROWD] = adopt_one(opts);
    TEST_UNTIL(crowd.r, crowd.opens == CROWD + 1);
}

static void contention_ends(void) {
    crowd.talkers = 0;
    test_close(crowd.fds[CROWD]);
    crowd_end();
}

/* Ours: an idle deadline counts from when there is a receive. */
TEST_EACH(stall_of_one_that_is_idle_since_it_had_a_buffer) {
    struct kr_conn_opts opts = no_deadlines();
    opts.idle_ns = LIMIT;
    crowd_contends(&opts);
    TEST_UNTIL(crowd.r, conn_at(CROWD)->parked);
    still.now += LIMIT - 1;
    CHECK_OK(kr_step(crowd.r, 0));
    CHECK(conn_at(CROWD)->parked);
    TEST_UNTIL(crowd.r, conn_at(CROWD)->owner.armed == KR__SET(recv_poll));
    still.now += LIMIT - 1;
    for (unsigned turns = 0; turns < 100; turns++)
        CHECK_OK(kr_step(crowd.r, 0));
    CHECK_EQ(crowd.timeouts, 0u);
    still.now += 1;
    TEST_UNTIL(crowd.r, crowd.timeouts == 1);
    contention_ends();
}

/* Ours: one that lingers, and whose peer never ceases to send, is not put off for ever because it
 * waits for the buffer whenever its deadline comes. */
TEST_EACH(stall_of_one_that_lingers_without_a_buffer_ends) {
    struct kr_conn_opts opts = no_deadlines();
    opts.flush_ns = LIMIT;
    crowd_contends(&opts);
    CHECK_OK(kr_conn_close(crowd.r, crowd.conns[CROWD], KR_CLOSE_LINGER));
    TEST_UNTIL(crowd.r, conn_at(CROWD)->fin);
    for (unsigned stalls = 0; stalls < 2; stalls++) {
        still.now += LATER;
        for (unsigned turns = 0; turns < 190; turns++) {
            test_send_some(crowd.fds[CROWD], "x", 1);
            CHECK_OK(kr_step(crowd.r, 0));
        }
    }
    CHECK_EQ(test_stats(crowd.r).timeouts, 1u);
    contention_ends();
}

/* ---- a bound ---- */

/* Who is silent is judged although others never cease: it waits for what had come by then, not for
 * what goes on coming. */
static void check_judged_under_load(gather_fn *gather) {
    struct kr_conn_opts opts = no_deadlines();
    opts.idle_ns = LIMIT;
    gather(&opts);
    crowd.talkers = CROWD / 2;
    for (unsigned i = CROWD / 2; i < crowd_size; i++)
        test_send(NULL, crowd.fds[i], "x", 1);
    still.now += LATER;
    for (unsigned turns = 0; crowd.timeouts < CROWD / 2; turns++) {
        CHECK_LT(turns, 1000u);
        CHECK_OK(kr_step(crowd.r, 0));
    }
    CHECK_EQ(crowd.timeouts, CROWD / 2);
    crowd_end();
}

TEST_EACH(stall_is_over_although_others_speak) {
    check_judged_under_load(crowd_gather);
}

TEST_EACH(stall_is_over_although_others_speak_behind_a_poll) {
    check_judged_under_load(crowd_adopts);
}

/* Ours: timers, posts and connections that are adopted do not wait for that. */
TEST_EACH(stall_holds_up_no_timer) {
    struct kr_conn_opts opts = no_deadlines();
    opts.idle_ns = LIMIT;
    crowd_gather(&opts);
    crowd.talkers = 1;
    unsigned beats = 0, posts = 0;
    CHECK_OK(kr_timer_start(crowd.r, NULL, LATER, 0, test_count_fire, &beats));
    for (unsigned i = 1; i < crowd_size; i++)
        test_send(NULL, crowd.fds[i], "x", 1);
    still.now += LATER;
    CHECK_OK(kr_post(crowd.r, test_count_call, &posts));
    unsigned opens = crowd.opens;
    crowd.opens = 0;
    int fd = adopt_one(&opts);
    CHECK_OK(kr_step(crowd.r, 0));
    CHECK_EQ(beats, 1u);
    CHECK_EQ(posts, 1u);
    CHECK_EQ(crowd.opens, 1u);
    CHECK_EQ(crowd.timeouts, 0u);
    TEST_UNTIL(crowd.r, crowd.timeouts > 0);
    crowd.talkers = 0;
    crowd.opens = opens + 1;
    TEST_UNTIL(crowd.r, crowd.closes > 1 || test_step(crowd.r, "quiet") == 0);
    test_close(fd);
    TEST_UNTIL(crowd.r, test_stats(crowd.r).conns == CROWD - crowd.closes + 1);
    crowd_end();
}

/* A connection is timed out that is woken from `late` turns after its deadline on, always in vain:
 * somebody else takes the byte that its poll has told of. */
static void wake_in_vain(unsigned late) {
    struct kr_conn_opts opts = no_deadlines();
    opts.read_ns = LIMIT;
    int fds[2], thief;
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds));
    thief = dup(fds[1]);
    CHECK_SYS(thief);
    crowd.opens = crowd.closes = crowd.timeouts = 0;
    CHECK_OK(kr_conn_adopt(crowd.r, NULL, fds[1], &opts, &ops, NULL));
    TEST_UNTIL(crowd.r, crowd.opens == 1 && conn_at(0)->owner.armed == KR__SET(recv_poll));
    still.now += LIMIT;
    char byte;
    for (unsigned turns = 0; test_stats(crowd.r).timeouts == late; turns++) {
        CHECK_LT(turns, 100u);
        if (!conn_at(0)->recv_waits)
            test_recv_some(thief, &byte, 1);
        else if (turns >= late)
            test_send_some(fds[0], "x", 1);
        CHECK_OK(kr_step(crowd.r, 0));
    }
    TEST_UNTIL(crowd.r, crowd.timeouts == 1);
    test_close(thief);
    test_close(fds[0]);
}

/* Ours: a read deadline outlasts wake-ups at which there is nothing to be read, whenever they come,
 * and is judged although they do not cease. Another connection keeps the reactor busy. */
TEST_EACH(stall_of_one_that_is_woken_in_vain) {
    crowd_of_none();
    struct kr_conn_opts opts = no_deadlines();
    crowd.talkers = crowd.opens = 1;
    crowd.fds[1] = adopt_one(&opts);
    TEST_UNTIL(crowd.r, crowd.opens == 2);
    test_send(NULL, crowd.fds[1], "x", 1);
    for (unsigned late = 0; late < 16; late++)
        wake_in_vain(late);
    CHECK_OK(kr_conn_close(crowd.r, crowd.conns[1], KR_CLOSE_NOW));
    test_close(crowd.fds[1]);
    TEST_UNTIL(crowd.r, test_stats(crowd.r).conns == 0);
    test_reactor_free(crowd.r);
}

TAP_MAIN(stall, 136)
