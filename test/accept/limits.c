/* Limits of listeners; pausing, resuming and closing them. */
#include "accept/accept.h"
#include "listen/listener.h"

/* ---- limits ---- */

static void serve_through_limit(struct kr_listen_opts opts, unsigned reactor_max,
                                unsigned listeners, unsigned limit) {
    enum { EACH = 60 };
    struct kr_config config = test_config();
    config.conn_max = reactor_max;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s = {0};
    static struct client clients[4 * EACH];
    CHECK_LE(listeners, 4u);
    for (unsigned i = 0; i < listeners; i++)
        connect_all(clients + i * EACH, EACH,
                    test_listen(r, NULL, &opts, &test_server_echo_ops, &s));
    serve_all(r, clients, listeners * EACH, true);
    rest_without_conns(r, listeners);
    CHECK_EQ(s.opens, listeners * EACH);
    CHECK_EQ(s.closes, s.opens);
    CHECK_LE(s.most, limit);
    CHECK_GT(test_stats(r).accept_pauses, 0u);
    CHECK_EQ(test_stats(r).accept_errors, 0u);
    test_reactor_free(r);
}

/* Ours: a listener never has more than conn_max connections; whoever is beyond waits in the
 * backlog, is neither dropped nor reset, and is served when others leave. */
TEST_EACH(listener_limit_drops_nobody) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn_max = 4;
    serve_through_limit(opts, 0, 1, 4);
    opts.conn_max = 1;
    serve_through_limit(opts, 0, 1, 1);
}

/* Ours: the same where the reactor's own table is what is full, and two listeners compete for it.
 * The kernel would drop a client whom it finds no slot for (io_uring/filetable.c). */
TEST_EACH(reactor_limit_drops_nobody) {
    serve_through_limit(test_listen_opts(), 4, 2, 4);
    serve_through_limit(test_listen_opts(), 1, 4, 1);
}

/* Ours: the same with addresses, where accepting takes three steps. */
TEST_EACH(limits_drop_nobody_with_addresses) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.addresses = true;
    serve_through_limit(opts, 3, 2, 3);
    opts.conn_max = 2;
    serve_through_limit(opts, 3, 2, 3);
    serve_through_limit(opts, 0, 1, 2);
}

/* Ours: listeners at their limits leave room to others: one whose clients stay for good does not
 * keep the other's from being served. */
TEST_EACH(full_listener_leaves_room_to_another) {
    struct kr_config config = test_config();
    config.conn_max = 6;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server full = {0}, other = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn_max = 4;
    struct client staying[8], passing[20];
    connect_all(staying, 8, test_listen(r, NULL, &opts, &test_server_echo_ops, &full));
    TEST_UNTIL(r, full.open == 4);
    connect_all(passing, 20, test_listen(r, NULL, NULL, &test_server_echo_ops, &other));
    serve_all(r, passing, 20, true);
    CHECK_EQ(full.most, 4u);
    CHECK_LE(other.most, 2u);
    leave_all(staying, 8);
    TEST_UNTIL(r, full.opens == 8);
    rest_without_conns(r, 2);
    test_reactor_free(r);
}

/* Ours: a listener to whom nobody comes does not keep the last free slots for itself, whichever was
 * there first. */
TEST_EACH(idle_listener_holds_no_room_back) {
    for (unsigned conn_max = 1; conn_max <= 5; conn_max += 2) {
        struct kr_config config = test_config();
        config.conn_max = conn_max;
        struct kr_reactor *r = test_reactor(&config);
        struct test_server s = {0};
        uint16_t ports[3];
        for (unsigned i = 0; i < 3; i++)
            ports[i] = test_listen(r, NULL, NULL, &test_server_echo_ops, &s);
        for (unsigned i = 0; i < 12; i++)
            one_is_served(r, ports[i % 4 == 3 ? 0 : i % 4]);
        rest_without_conns(r, 3);
        test_reactor_free(r);
    }
}

/* Ours: while there is much room one multishot accept takes all clients; near the limit it gives
 * way to accepts that are counted, in time, so that nobody is taken for whom there is no slot. */
TEST_EACH(multishot_gives_way_near_the_limit) {
    struct kr_config config = test_config();
    config.conn_max = 200;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 64;
    uint16_t port = test_listen(r, NULL, &opts, &test_server_echo_ops, &s);
    static struct client clients[240];
    for (unsigned i = 0; i < 240; i += 60) {
        connect_all(clients + i, 60, port);
        TEST_UNTIL(r, s.open == (i + 60 < 200 ? i + 60 : 200));
    }
    serve_all(r, clients, 200, false);
    leave_all(clients, 100);
    serve_all(r, clients + 200, 40, false);
    CHECK_EQ(s.most, 200u);
    leave_all(clients, 240);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* Ours: a listener's own limit that is far away does not cost it the multishot accept, nor does a
 * limit that is near let it have one. */
TEST_EACH(own_limit_far_away_leaves_the_multishot) {
    tap_need_descriptors(1100);
    struct kr_config config = test_config();
    config.conn_max = 1000;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 16;
    for (unsigned i = 0; i < 2; i++) {
        opts.conn_max = i ? 95 : 900;
        struct client clients[12];
        kr_listener listener;
        connect_all(clients, 12, test_listen(r, &listener, &opts, &test_server_echo_ops, &s));
        serve_all(r, clients, 12, false);
        const struct kr__listener *l = kr__listener_find(r, listener.bits);
        CHECK_EQ((l->owner.armed & KR__SET(accept)) != 0, i == 0);
        leave_all(clients, 12);
        TEST_UNTIL(r, test_stats(r).conns == 0);
        CHECK_OK(kr_listener_close(r, listener));
    }
    TEST_UNTIL(r, test_stats(r).listeners == 0);
    test_reactor_free(r);
}

/* Ours: a listener that comes when an earlier one's multishot accept has all slots set aside gets
 * its share, with clients that wait already: the slots are given up when the multishot accept has
 * ended. */
TEST_EACH(later_listener_gets_its_share) {
    struct kr_config config = test_config();
    config.conn_max = 2 * 64 + 64;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 64;
    uint16_t first = test_listen(r, NULL, &opts, &test_server_echo_ops, &s);
    one_is_served(r, first);
    struct client clients[8];
    connect_all(clients, 8, test_listen(r, NULL, &opts, &test_server_echo_ops, &s));
    serve_all(r, clients, 8, true);
    one_is_served(r, first);
    rest_without_conns(r, 2);
    test_reactor_free(r);
}

/* Ours: at the limit with clients waiting, the reactor sleeps: a wait of 1 ms is one enter, or a
 * few. */
TEST_EACH(full_table_does_not_spin) {
    struct kr_config config = test_config();
    config.conn_max = 2;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s = {0};
    struct client clients[10];
    connect_all(clients, 10, test_listen(r, NULL, NULL, &test_server_echo_ops, &s));
    TEST_UNTIL(r, s.open == 2);
    test_step(r, "the listener to settle");
    test_step(r, "the listener to settle");
    struct kr_stats before = test_stats(r);
    for (unsigned i = 0; i < 20; i++)
        CHECK_EQ(kr_step(r, MS), 0);
    struct kr_stats after = test_stats(r);
    CHECK_LE(after.enters - before.enters, 20u);
    CHECK_EQ(after.sqes, before.sqes);
    serve_all(r, clients, 2, true);
    serve_all(r, clients + 2, 8, true);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* Ours: listener_max bounds the listeners, with -ENOSPC and nothing done; a closed one makes room,
 * after a turn. */
TEST_EACH(listener_max_bounds_the_listeners) {
    struct kr_config config = test_config();
    config.listener_max = 3;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s = {0};
    kr_listener listeners[3];
    for (unsigned i = 0; i < 3; i++)
        test_listen(r, &listeners[i], NULL, &test_server_echo_ops, &s);
    CHECK_ERR(listen_on(r, NULL, "127.0.0.1", 0, NULL, &s), ENOSPC);
    CHECK_EQ(kr_step(r, 0), 0);
    CHECK_ERR(listen_on(r, NULL, "127.0.0.1", 0, NULL, &s), ENOSPC);
    CHECK_OK(kr_listener_close(r, listeners[1]));
    TEST_UNTIL(r, test_stats(r).listeners == 2);
    one_is_served(r, test_listen(r, NULL, NULL, &test_server_echo_ops, &s));
    CHECK_ERR(listen_on(r, NULL, "127.0.0.1", 0, NULL, &s), ENOSPC);
    rest_without_conns(r, 3);
    test_reactor_free(r);
}

/* ---- pause, resume, close ---- */

/* Ours: a paused listener accepts nothing, in whatever order it was paused, resumed and run; its
 * clients wait and are served after the resume. When it has settled, the kernel owes a completion
 * for the wake-up alone. */
TEST_EACH(paused_listener_lets_clients_wait) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, NULL, &test_server_echo_ops, &s);
    struct client clients[10];
    CHECK_OK(kr_listener_pause(r, listener));
    connect_all(clients, 5, port);
    for (unsigned i = 0; i < 10; i++)
        CHECK_EQ(kr_step(r, MS), 0);
    CHECK_EQ(s.opens, 0u);
    CHECK_OK(kr_listener_resume(r, listener));
    serve_all(r, clients, 5, false);

    CHECK_OK(kr_listener_pause(r, listener));
    CHECK_OK(kr_listener_pause(r, listener));
    test_rest(r, (struct test_levels){.conns = 5, .listeners = 1, .paused = 1});
    connect_all(clients + 5, 5, port);
    for (unsigned i = 0; i < 10; i++)
        CHECK_EQ(kr_step(r, MS), 0);
    CHECK_EQ(s.opens, 5u);
    CHECK_OK(kr_listener_resume(r, listener));
    serve_all(r, clients + 5, 5, false);
    leave_all(clients, 10);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* Ours: pausing and resuming in one turn is as nothing, however often, and loses no client that
 * comes meanwhile. */
TEST_EACH(pause_and_resume_at_once_loses_nobody) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, NULL, &test_server_echo_ops, &s);
    struct client clients[200];
    for (unsigned i = 0; i < 200; i++) {
        clients[i] = (struct client){.fd = test_connect(port)};
        CHECK_OK(kr_listener_pause(r, listener));
        if (i % 3 == 0)
            CHECK_OK(kr_step(r, 0));
        CHECK_OK(kr_listener_resume(r, listener));
        if (i % 5 == 0)
            CHECK_OK(kr_step(r, 0));
    }
    serve_all(r, clients, 200, true);
    rest_without_conns(r, 1);
    CHECK_EQ(s.opens, 200u);
    test_reactor_free(r);
}

static void check_port_refuses(uint16_t port) {
    struct kr_addr addr = test_loopback(port);
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_EQ(connect(fd, &addr.u.sa, addr.size), -1);
    CHECK_EQ(errno, ECONNREFUSED);
    test_close(fd);
}

/* Ours: closing a listener with clients in its backlog makes its handle stale at once, resets those
 * clients (the kernel's part), leaves its connections alone, and frees the port for another
 * listener. */
TEST_EACH(close_with_a_backlog) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn_max = 2;
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, &opts, &test_server_echo_ops, &s);
    struct client clients[6];
    connect_all(clients, 6, port);
    TEST_UNTIL(r, s.open == 2);
    CHECK_OK(kr_listener_close(r, listener));
    CHECK_ERR(kr_listener_close(r, listener), ESTALE);
    CHECK_ERR(kr_listener_pause(r, listener), ESTALE);
    CHECK_ERR(kr_listener_resume(r, listener), ESTALE);
    CHECK_ERR(kr_listener_addr(r, listener, &(struct kr_addr){0}), ESTALE);

    unsigned reset = 0;
    for (unsigned i = 2; i < 6; i++)
        reset += test_recv_end(r, clients[i].fd, NULL) == ECONNRESET;
    CHECK_EQ(reset, 4u);
    TEST_UNTIL(r, test_stats(r).listeners == 0);
    check_port_refuses(port);
    serve_all(r, clients, 2, false);
    CHECK_EQ(s.opens, 2u);

    struct test_server again = {0};
    CHECK_OK(listen_on(r, NULL, "127.0.0.1", port, NULL, &again));
    one_is_served(r, port);
    CHECK_EQ(again.opens, 1u);
    leave_all(clients, 6);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* Ours: a listener closed before any turn accepts nobody, though clients wait, and its port and
 * slot are free after the first; one that is closed in a reactor that never runs leaves nothing
 * behind. */
TEST_EACH(close_before_the_first_turn) {
    struct kr_config config = test_config();
    config.listener_max = 1;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s = {0};
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, NULL, &test_server_echo_ops, &s);
    int fd = test_connect(port);
    CHECK_OK(kr_listener_close(r, listener));
    CHECK_ERR(kr_listener_close(r, listener), ESTALE);
    TEST_UNTIL(r, test_stats(r).listeners == 0);
    CHECK_EQ(test_recv_end(r, fd, NULL), ECONNRESET);
    test_close(fd);
    check_port_refuses(port);
    CHECK_EQ(s.opens, 0u);
    one_is_served(r, test_listen(r, NULL, NULL, &test_server_echo_ops, &s));
    rest_without_conns(r, 1);
    test_reactor_free(r);

    r = test_reactor(&config);
    port = test_listen(r, &listener, NULL, &test_server_echo_ops, &s);
    CHECK_OK(kr_listener_close(r, listener));
    test_reactor_free(r);
    check_port_refuses(port);
}

static void close_listener(struct test_server *s, kr_conn conn) {
    (void)conn;
    CHECK_OK(kr_listener_close(s->r, s->listener));
    s->in_open = NULL;
}

static void close_inside_open(struct kr_listen_opts opts) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {.r = r, .in_open = close_listener};
    test_server_listen(&s, &opts, &test_server_echo_ops);
    struct client clients[20];
    connect_all(clients, 20, s.port);
    TEST_UNTIL(r, test_stats(r).listeners == 0);
    TEST_UNTIL(r, test_stats(r).conns == 1);
    CHECK_EQ(s.opens, 1u);
    unsigned ended = 0;
    for (bool ends[20] = {0}; ended < 19;) {
        test_step(r, "those who are not served to see the end");
        for (unsigned i = 0; i < 20; i++) {
            long n = ends[i] ? 0 : test_recv_some(clients[i].fd, &(char){0}, 1);
            ends[i] = ends[i] || n < 0;
            ended += n < 0;
        }
    }
    CHECK_EQ(s.open, 1u);
    leave_all(clients, 20);
    rest_without_conns(r, 0);
    CHECK_EQ(s.opens, 1u);
    test_reactor_free(r);
}

/* Ours: closed in its first on_open, a listener opens no second connection, though the kernel has
 * accepted more: those are closed, and their slots are free again. */
TEST_EACH(close_inside_on_open) {
    close_inside_open(test_listen_opts());
    struct kr_listen_opts opts = test_listen_opts();
    opts.addresses = true;
    close_inside_open(opts);
    opts.addresses = false;
    opts.conn_max = 20;
    close_inside_open(opts);
}

/* Ours: kr_reactor_free with listeners that have a backlog, paused ones and closing ones. */
TEST_EACH(free_with_listeners_in_all_states) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn_max = 1;
    kr_listener paused, closing;
    struct client clients[3];
    connect_all(clients, 3, test_listen(r, NULL, &opts, &test_server_echo_ops, &s));
    test_listen(r, &paused, NULL, &test_server_echo_ops, &s);
    test_listen(r, &closing, NULL, &test_server_echo_ops, &s);
    TEST_UNTIL(r, s.open == 1);
    CHECK_OK(kr_listener_pause(r, paused));
    CHECK_OK(kr_listener_close(r, closing));
    test_reactor_free(r);
    CHECK_EQ(s.opens, s.closes);
    leave_all(clients, 3);
}
