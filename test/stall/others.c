/* What is not a crowd of silent connections: connects, pairs, buffers, and a bound. */
#include "stall/stall.h"

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
    for (struct kr__conn *c = NULL; (c = kr__conns_next(&crowd.r->conns, c));) {
        if (!(c->features & KR__CONNECTING))
            continue;
        CHECK_EQ(c->more->until, still.now + LIMIT);
        calling++;
    }
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
    return conn_at(i)->peer_full;
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
            while (test_send_some(crowd.fds[0], piece, sizeof piece) > 0) {
            }
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
    TEST_UNTIL(crowd.r, crowd.r->starve.starved > 10);
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
    TEST_UNTIL(crowd.r, conn_at(CROWD)->starved);
    still.now += LIMIT - 1;
    CHECK_OK(kr_step(crowd.r, 0));
    CHECK(conn_at(CROWD)->starved);
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
