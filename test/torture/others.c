/* Runs of many connections, of connects and listeners, of inline memory, timers and posts. */
#include "torture/torture.h"

#include <sys/socket.h>

/* ---- many ---- */

static void crowd(struct world *w, int count, size_t size) {
    int fds[CONNS];
    CHECK_LE(count, CONNS);
    for (int i = 0; i < count; i++) {
        fds[i] = test_connect_begin(w->port);
        test_step(w->r, "a client");
    }
    for (int i = 0; i < count; i++)
        exchange(w, fds[i], size, size);
    for (int i = 0; i < count; i++)
        test_close(fds[i]);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* Ours: several connections at a time; one refused takes no other with it. */
SCENARIO(several_connections, 4) {
    if (listens(w, NULL, &echo_ops))
        crowd(w, 12, 3000);
}

/* Ours: more connections than the heap of deadlines first has room for. */
SCENARIO(more_connections_than_the_first_heap, 3, config.conn_max = 100) {
    if (listens(w, NULL, &echo_ops))
        crowd(w, 80, 100);
}

/* Ours: clients that share two buffers, so that they wait for them. */
SCENARIO(starved_connections, 4, config.buf_count = 2) {
    if (listens(w, NULL, &echo_ops))
        crowd(w, 6, 12000);
}

/* Ours: a submission queue with room for two, in which nothing has room. */
SCENARIO(narrow_rings, 4, config.sq_entries = 2, config.cq_entries = 2) {
    if (listens(w, NULL, &mixed_ops))
        crowd(w, 6, 3000);
}

/* ---- connecting ---- */

static size_t caller_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    struct caller *caller = user;
    test_pattern_check(data, size, 1, caller->got);
    caller->got += size;
    if (caller->got == caller->want)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
    return size;
}

static void caller_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                         enum kr_why why) {
    UNUSED(r, conn, why);
    struct caller *caller = user;
    caller->over = true;
    CHECK((error == 0 && caller->got == caller->want) || !whole(caller->w));
}

static const struct kr_conn_ops caller_ops = {.on_data = caller_data, .on_close = caller_close};

/* Says `size` bytes to `addr`; false when memory was refused. */
static bool calls(struct world *w, struct caller *caller, const struct kr_addr *addr,
                  const struct kr_connect_opts *opts, size_t size) {
    static char bytes[8192];
    *caller = (struct caller){.w = w, .want = size};
    test_pattern(bytes, size, 1, 0);
    kr_conn conn;
    if (!good(w, kr_connect(w->r, &conn, addr, opts, &caller_ops, caller)))
        return false;
    if (!good(w, kr_conn_send(w->r, conn, bytes, size)))
        CHECK_OK(kr_conn_close(w->r, conn, KR_CLOSE_NOW));
    return true;
}

static void call_and_wait(struct world *w, const struct kr_connect_opts *opts, unsigned count) {
    struct caller callers[16];
    struct kr_addr addr = test_loopback(w->port);
    for (unsigned i = 0; i < count; i++)
        callers[i].over = !calls(w, &callers[i], &addr, opts, 100 + 700 * i);
    for (unsigned i = 0; i < count; i++)
        TEST_UNTIL(w->r, callers[i].over);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* Ours: connections to oneself, one and many. */
SCENARIO(connect_once, 6) {
    if (listens(w, NULL, &echo_ops))
        call_and_wait(w, NULL, 1);
}

SCENARIO(connect_often, 8) {
    struct kr_listen_opts opts = small_opts();
    opts.backlog = 16; /* none of them has to call twice */
    for (int i = 0; i < 2; i++) {
        if (listens(w, &opts, &echo_ops))
            call_and_wait(w, NULL, 8);
    }
}

/* Ours: with all that options add: limits of its own, inline memory, a deadline, the address. */
SCENARIO(connect_with_options, 7) {
    struct kr_connect_opts opts = test_connect_opts();
    opts.timeout_ns = 10000 * MS;
    opts.local_address = true;
    opts.conn.inline_size = 3000;
    opts.conn.idle_ns = 10000 * MS;
    if (listens(w, NULL, &echo_ops))
        call_and_wait(w, &opts, 3);
}

/* Ours: attempts that come to nothing: refused, and given up. */
SCENARIO(connect_in_vain, 4) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_unix(&addr, "/tmp/kr-torture/there/is/no/such/socket"));
    for (int i = 0; i < 2; i++) {
        kr_conn conn;
        if (!good(w, kr_connect(w->r, &conn, &addr, NULL, &echo_ops, w)))
            continue;
        w->opens++; /* though it never does */
        good(w, kr_conn_send(w->r, conn, "in vain", 7));
        if (i == 1)
            CHECK_OK(kr_conn_close(w->r, conn, KR_CLOSE_NOW));
    }
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* ---- listeners ---- */

/* Ours: listeners that come and go. */
SCENARIO(listeners, 1) {
    for (int i = 0; i < 4; i++) {
        if (listens(w, NULL, &echo_ops))
            CHECK_OK(kr_listener_close(w->r, w->listener));
    }
    TEST_UNTIL(w->r, test_stats(w->r).listeners == 0);
}

/* Ours: listeners that ask for addresses, whose table of arrivals is memory, too. */
SCENARIO(listeners_with_addresses, 4) {
    struct kr_listen_opts opts = small_opts();
    opts.addresses = true;
    for (int i = 0; i < 3; i++) {
        if (listens(w, &opts, &echo_ops))
            CHECK_OK(kr_listener_close(w->r, w->listener));
    }
    TEST_UNTIL(w->r, test_stats(w->r).listeners == 0);
}

static size_t data_addresses(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                             size_t size) {
    struct kr_addr peer, local;
    CHECK_OK(kr_conn_peer(r, conn, &peer));
    CHECK_OK(kr_conn_local(r, conn, &local));
    CHECK_EQ(kr_addr_port(&local), ((struct world *)user)->port);
    return data_echo(r, conn, user, data, size);
}

static const struct kr_conn_ops addresses_ops = {
    .on_open = world_open, .on_data = data_addresses, .on_close = world_close};

/* Ours: connections whose addresses are kept. */
SCENARIO(connections_with_addresses, 5) {
    struct kr_listen_opts opts = small_opts();
    opts.addresses = true;
    if (listens(w, &opts, &addresses_ops))
        crowd(w, 8, 100);
}

/* Ours: a listener that closes with clients in its backlog. */
SCENARIO(listener_closed_with_clients, 1) {
    if (!listens(w, NULL, &echo_ops))
        return;
    int fds[3];
    for (int i = 0; i < 3; i++)
        fds[i] = test_connect(w->port);
    test_step(w->r, "some of them");
    CHECK_OK(kr_listener_close(w->r, w->listener));
    for (int i = 0; i < 3; i++) {
        test_recv_end(w->r, fds[i], NULL);
        test_close(fds[i]);
    }
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* ---- inline memory ---- */

static void open_inline(struct kr_reactor *r, kr_conn conn, void *user) {
    world_open(r, conn, user);
    char *memory = kr_conn_inline(r, conn);
    CHECK(memory && memory[0] == 0);
    memory[0] = 'x';
}

static const struct kr_conn_ops inline_ops = {
    .on_open = open_inline, .on_data = data_echo, .on_close = world_close};

/* Ours: memory of the slot, which is there before on_open, or the connection is not. */
SCENARIO(inline_memory, 4) {
    struct kr_listen_opts opts = small_opts();
    opts.conn.inline_size = 300;
    if (listens(w, &opts, &inline_ops))
        crowd(w, 4, 100);
}

/* Ours: a slot's next connection wants more of it. */
SCENARIO(inline_memory_that_grows, 6) {
    for (size_t size = 50; size < 100000; size *= 5) {
        struct kr_listen_opts opts = small_opts();
        opts.conn.inline_size = size;
        if (!listens(w, &opts, &inline_ops))
            continue;
        serve_one(w, 100, 100);
        CHECK_OK(kr_listener_close(w->r, w->listener));
        TEST_UNTIL(w->r, test_stats(w->r).listeners == 0);
    }
}

/* ---- timers, posts ---- */

/* Ours: more timers than one chunk of them and more than the first heap. */
SCENARIO(timers, 3) {
    unsigned started = 0;
    for (int i = 0; i < 300; i++)
        started += good(w, kr_timer_start(w->r, NULL, i, 0, world_fire, w));
    CHECK_EQ(test_stats(w->r).timers, started);
    TEST_UNTIL(w->r, w->fires == started);
    CHECK_EQ(test_stats(w->r).timers, 0u);
}

static void fire_start_more(struct kr_reactor *r, kr_timer timer, void *user) {
    struct world *w = user;
    (void)timer;
    if (++w->fires >= 100)
        return;
    good(w, kr_timer_start(r, NULL, 0, 0, fire_start_more, w));
    good(w, kr_timer_start(r, NULL, INT64_MAX, 0, fire_start_more, w));
}

/* Ours: timers that start timers. */
SCENARIO(timers_that_start_timers, 2) {
    if (good(w, kr_timer_start(w->r, NULL, 0, 0, fire_start_more, w)))
        TEST_UNTIL(w->r, w->fires == 100 || !whole(w));
}

static void post_starts(struct kr_reactor *r, void *arg) {
    struct world *w = arg;
    w->posts++;
    good(w, kr_timer_start(r, NULL, 0, 0, world_fire, w));
    kr_listener listener;
    struct kr_addr addr;
    struct kr_listen_opts opts = small_opts();
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 0));
    if (good(w, kr_listen(r, &listener, &addr, &opts, &echo_ops, w)))
        CHECK_OK(kr_listener_close(r, listener));
}

/* Ours: posts, which need no memory, and what they start. */
SCENARIO(posts, 3) {
    for (int i = 0; i < 5; i++)
        CHECK_OK(kr_post(w->r, post_starts, w));
    TEST_UNTIL(w->r, w->posts == 5);
}

static void timeout_count(struct kr_reactor *r, kr_conn conn, void *user, enum kr_deadline which) {
    struct world *w = user;
    CHECK_EQ(which, KR_DEADLINE_IDLE);
    if (++w->timeouts == 3)
        sent(r, conn, w, kr_conn_send(r, conn, "!", 1));
    if (w->timeouts == 5)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static const struct kr_conn_ops idle_ops = {.on_open = world_open,
                                            .on_data = data_echo,
                                            .on_timeout = timeout_count,
                                            .on_close = world_close};

/* Ours: deadlines, which are promised with the connection and cannot fail later. */
SCENARIO(idle_connections, 2) {
    struct kr_listen_opts opts = small_opts();
    opts.conn.idle_ns = MS / 10;
    if (!listens(w, &opts, &idle_ops))
        return;
    int fd = test_connect(w->port);
    size_t got;
    test_recv_end(w->r, fd, &got);
    CHECK((got == 1 && w->timeouts == 5) || !whole(w));
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

static void open_hurried(struct kr_reactor *r, kr_conn conn, void *user) {
    struct world *w = user;
    world_open(r, conn, user);
    bool set = good(w, kr_conn_deadline(r, conn, KR_DEADLINE_READ, 1));
    set = good(w, kr_conn_deadline(r, conn, KR_DEADLINE_WRITE, INT64_MAX)) && set;
    if (!set)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_RESET));
}

static const struct kr_conn_ops hurried_ops = {
    .on_open = open_hurried, .on_data = data_echo, .on_close = world_close};

/* Ours: connections with limits of their own, which are memory. */
SCENARIO(deadlines_of_their_own, 3) {
    if (!listens(w, NULL, &hurried_ops))
        return;
    int fds[5];
    for (int i = 0; i < 5; i++)
        fds[i] = test_connect(w->port);
    for (int i = 0; i < 5; i++) {
        test_recv_end(w->r, fds[i], NULL);
        test_close(fds[i]);
    }
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
    CHECK(test_stats(w->r).timeouts == 5 || !whole(w));
}

static void shutdown_bye(struct kr_reactor *r, kr_conn conn, void *user) {
    struct world *w = user;
    w->eofs++;
    sent(r, conn, w, kr_conn_send(r, conn, "bye", 3));
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static void drained(struct kr_reactor *r, void *user, unsigned cut_off) {
    (void)r;
    struct world *w = user;
    CHECK_EQ(w->opens, w->closes);
    CHECK(cut_off == 0 || !whole(w));
    w->drains++;
}

static const struct kr_conn_ops leaving_ops = {.on_open = world_open,
                                               .on_data = data_echo,
                                               .on_shutdown = shutdown_bye,
                                               .on_close = world_close};

/* Ours: a drain that is refused memory has not begun. */
SCENARIO(drain, 3) {
    if (!listens(w, NULL, &leaving_ops))
        return;
    int fds[4];
    for (int i = 0; i < 4; i++) {
        fds[i] = test_connect(w->port);
        exchange(w, fds[i], 10, 10);
    }
    bool begun = good(w, kr_drain(w->r, 1000 * MS, drained, w));
    if (!begun)
        CHECK_OK(kr_listener_close(w->r, w->listener));
    for (int i = 0; i < 4; i++) {
        if (begun)
            test_recv_end(w->r, fds[i], NULL);
        test_close(fds[i]);
    }
    TEST_UNTIL(w->r, begun ? w->drains == 1 : test_stats(w->r).conns == 0);
}

/* ---- the end of all ---- */

/* Ours: everything is open when the reactor is freed. The next scenario's listener and client come
 * on top. */
SCENARIO(everything_left_open, 8, config.conn_max = 40) {
    struct kr_listen_opts opts = small_opts();
    opts.addresses = true;
    opts.conn.inline_size = 1000;
    good(w, kr_timer_start(w->r, NULL, INT64_MAX, 0, world_fire, w));
    bool plain = listens(w, NULL, &eof_ops);
    uint16_t plain_port = w->port;
    bool full = listens(w, &opts, &inline_ops);
    int fds[8];
    unsigned count = 0;
    for (int i = 0; i < 4 && plain; i++)
        fds[count++] = test_connect_begin(plain_port);
    for (int i = 0; i < 4 && full; i++)
        fds[count++] = test_connect_begin(w->port);
    char bytes[3000] = {0};
    for (int turn = 0; turn < 20; turn++) {
        for (unsigned i = 0; i < count; i++)
            test_send_some(fds[i], bytes, sizeof bytes);
        test_step(w->r, "what clients do");
    }
    for (unsigned i = 0; i < count; i++)
        test_close(fds[i]);
}
