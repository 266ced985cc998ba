/* A loop that was held up: what peers did meanwhile is read before their silence is judged.
 *
 * The clock stands still until the case moves it, past a deadline, when all peers have acted and
 * nothing of that has been read. More connections than a turn can read: by its budget of
 * completions, and with DEFER_TASKRUN by the kernel's batch, too. Those on Unix sockets have a poll
 * in front of each receive. */
#include "stall/stall.h"

unsigned crowd_size = CROWD;

struct still still;

/* The clock moves by so much inside the next wait. */
static int still_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                       unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    int rc = kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
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

struct kr_config small_turns(void) {
    struct kr_config config = whole_turns();
    config.turn_cqes = 16;
    return config;
}

struct kr_reactor *still_reactor(const struct kr_config *config) {
    still.kernel = kr__linux;
    still.kernel.process.clock = still_clock;
    still.kernel.ring.enter = still_enter;
    still.now = HOUR;
    return test_reactor_on(&still.kernel, config);
}

/* ---- a crowd of connections ---- */

struct crowd crowd;

void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)user;
    CHECK_OK(kr_conn_set_user(r, conn, &crowd.conns[crowd.opens]));
    crowd.conns[crowd.opens++] = conn;
}

size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    UNUSED(r, conn, data);
    crowd.bytes += size;
    unsigned i = (unsigned)((kr_conn *)user - crowd.conns);
    if (crowd.talkers && i >= crowd.talkers)
        test_send_some(crowd.fds[i], "x", 1);
    return size;
}

void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    UNUSED(r, conn, user, error);
    crowd.closes++;
    crowd.timeouts += why == KR_WHY_TIMEOUT;
}

const struct kr_conn_ops ops = {
    .on_open = on_open, .on_data = on_data, .on_eof = test_ignore_eof, .on_close = on_close};

struct kr_conn_opts no_deadlines(void) {
    struct kr_conn_opts opts = test_conn_opts();
    opts.flush_ns = HOUR;
    return opts;
}

void crowd_gather_on(const struct kr_config *config, const struct kr_conn_opts *opts) {
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

void crowd_gather(const struct kr_conn_opts *opts) {
    struct kr_config config = small_turns();
    crowd_gather_on(&config, opts);
}

int adopt_as(const struct kr_conn_opts *opts, const struct kr_conn_ops *as) {
    int fds[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds));
    CHECK_OK(kr_conn_adopt(crowd.r, NULL, fds[1], opts, as, NULL));
    return fds[0];
}

int adopt_one(const struct kr_conn_opts *opts) {
    return adopt_as(opts, &ops);
}

void crowd_adopts_on(const struct kr_config *config, const struct kr_conn_opts *opts) {
    crowd = (struct crowd){.r = still_reactor(config)};
    for (unsigned i = 0; i < crowd_size; i++) {
        crowd.fds[i] = adopt_one(opts);
        TEST_UNTIL(crowd.r, crowd.opens == i + 1);
    }
}

void crowd_adopts(const struct kr_conn_opts *opts) {
    struct kr_config config = small_turns();
    crowd_adopts_on(&config, opts);
}

const struct kr__conn *conn_at(unsigned i) {
    return &crowd.r->conns.table[kr__handle_slot(crowd.conns[i].bits)];
}

static bool is_at_work(const struct kr_reactor *r) {
    return !kr__list_empty(&r->dirty) || !kr__starve_empty(&r->starve) ||
           kr__ring_pending(&r->ring);
}

void crowd_turns(void) {
    for (unsigned idle = 0; idle < 5;) {
        bool moved = test_step(crowd.r, "the crowd to be heard") > 0;
        idle = moved || is_at_work(crowd.r) ? 0 : idle + 1;
    }
}

void crowd_speaks(void) {
    for (unsigned i = 0; i < crowd_size; i++)
        test_send(NULL, crowd.fds[i], "x", 1);
}

void crowd_hangs_up(void) {
    for (unsigned i = 0; i < crowd_size; i++)
        CHECK_SYS(shutdown(crowd.fds[i], SHUT_WR));
}

void read_all(int fd) {
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

void crowd_end(void) {
    for (unsigned i = 0; i < crowd_size; i++)
        kr_conn_close(crowd.r, crowd.conns[i], KR_CLOSE_NOW);
    TEST_UNTIL(crowd.r, crowd.closes == crowd.opens);
    for (unsigned i = 0; i < crowd_size; i++)
        test_close(crowd.fds[i]);
    test_reactor_free(crowd.r);
}

void check_heard_then_silent(void) {
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

void check_read(gather_fn *gather) {
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
    CHECK_LT(crowd.closes, CROWD); /* the kernel may have taken the rest of some by now */
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

TAP_MAIN(stall, 136)
