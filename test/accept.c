/* Accepting: addresses and ports, limits, pauses, errors of the kernel.
 *
 * What must hold above all: whoever connects is served, sooner or later, and is neither dropped nor
 * reset while the listener lives, however many come, whatever limit is reached, and whatever accept
 * answers; and while nothing can be accepted, the reactor does not spin. */
#include "harness/server.h"

#include "core/reactor.h"
#include "kernel/probe.h"
#include "reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- clients, many at a time ---- */

/* One request and its echo: a client connects, says its byte, hears it, and goes. */
struct client {
    int fd; /* -1: has gone */
    bool heard;
};

/* Fails the case when the server drops or resets a client before it was served. */
static void client_hear(struct client *c, unsigned char byte) {
    unsigned char got;
    long n = test_recv_some(c->fd, &got, 1);
    if (n <= 0)
        FAIL("a client was not served: %s", n == TEST_EOF ? "FIN" : strerror((int)-n));
    CHECK_EQ(got, byte);
    c->heard = true;
}

/* All clients say their bytes, and are watched by an epoll descriptor, which is returned. */
static int clients_speak(const struct client *clients, unsigned count) {
    int epoll = CHECK_SYS(epoll_create1(EPOLL_CLOEXEC));
    for (unsigned i = 0; i < count; i++) {
        unsigned char byte = (unsigned char)i;
        CHECK_EQ(test_send_some(clients[i].fd, &byte, 1), 1);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        CHECK_SYS(epoll_ctl(epoll, EPOLL_CTL_ADD, clients[i].fd, &event));
    }
    return epoll;
}

/* Those whose echo has come hear it, and go at once if `leave`, so that others find room; returns
 * how many. */
static unsigned clients_hear(int epoll, struct client *clients, bool leave) {
    struct epoll_event events[256];
    int count = CHECK_SYS(epoll_wait(epoll, events, 256, 0));
    for (int i = 0; i < count; i++) {
        struct client *c = &clients[events[i].data.u32];
        client_hear(c, (unsigned char)events[i].data.u32);
        CHECK_SYS(epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL));
        if (leave) {
            test_close(c->fd);
            c->fd = -1;
        }
    }
    return (unsigned)count;
}

static void serve_all(struct kr_reactor *r, struct client *clients, unsigned count, bool leave) {
    int epoll = clients_speak(clients, count);
    for (unsigned served = 0; served < count;) {
        test_step(r, "all clients to be served");
        served += clients_hear(epoll, clients, leave);
    }
    test_close(epoll);
}

static void connect_all(struct client *clients, unsigned count, uint16_t port) {
    for (unsigned i = 0; i < count; i++)
        clients[i] = (struct client){.fd = test_connect(port)};
}

static void leave_all(struct client *clients, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        if (clients[i].fd >= 0)
            test_close(clients[i].fd);
        clients[i].fd = -1;
    }
}

static void one_is_served(struct kr_reactor *r, uint16_t port) {
    struct client c = {.fd = test_connect(port)};
    serve_all(r, &c, 1, true);
}

static void rest_without_conns(struct kr_reactor *r, unsigned listeners) {
    TEST_UNTIL(r, test_stats(r).conns == 0);
    CHECK_EQ(test_stats(r).listeners, listeners);
    CHECK_EQ(test_stats(r).accepts, test_stats(r).closes);
}

/* ---- addresses ---- */

static int listen_on(struct kr_reactor *r, kr_listener *ret, const char *ip, uint16_t port,
                     const struct kr_listen_opts *opts, struct test_server *s) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, ip, port));
    return kr_listen(r, ret, &addr, opts, &test_server_echo_ops, s);
}

/* Ours: port 0 lets the kernel choose, and the choice can be asked before the first turn; the
 * listener uses no descriptor; a port in use is refused with the system's word, and leaves nothing
 * behind. */
TEST_EACH(port_zero_and_the_bound_address) {
    struct kr_reactor *r = test_reactor(NULL);
    int before = tap_fd_count();
    struct test_server s = {0};
    kr_listener listener;
    CHECK_OK(listen_on(r, &listener, "127.0.0.1", 0, NULL, &s));
    struct kr_addr addr;
    CHECK_OK(kr_listener_addr(r, listener, &addr));
    CHECK_EQ(addr.u.in.sin_family, AF_INET);
    CHECK_EQ(addr.size, sizeof addr.u.in);
    CHECK_EQ(addr.u.in.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    uint16_t port = kr_addr_port(&addr);
    CHECK_NE(port, 0);

    kr_listener second = {.bits = 7};
    struct kr_listen_opts with_addresses =
        test_listen_opts(); /* which take memory that must come back */
    with_addresses.addresses = true;
    CHECK_ERR(listen_on(r, &second, "127.0.0.1", port, NULL, &s), EADDRINUSE);
    CHECK_ERR(listen_on(r, &second, "127.0.0.1", port, &with_addresses, &s), EADDRINUSE);
    CHECK_EQ(second.bits, 7u);
    CHECK_ERR(listen_on(r, NULL, "192.0.2.1", 0, NULL, &s), EADDRNOTAVAIL);
    CHECK_EQ(tap_fd_count(), before + test_slot_cost(r));
    CHECK_EQ(test_stats(r).listeners, 1u);
    one_is_served(r, port);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* Ours: IPv6, with both addresses as the socket has them. */
TEST_EACH(ipv6) {
    tap_need_ipv6();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    kr_listener listener;
    CHECK_OK(listen_on(r, &listener, "::1", 0, NULL, &s));
    struct kr_addr addr;
    CHECK_OK(kr_listener_addr(r, listener, &addr));
    CHECK_EQ(addr.u.in6.sin6_family, AF_INET6);
    CHECK_NE(kr_addr_port(&addr), 0);
    struct client c = {.fd = test_connect_addr(&addr, 0)};
    serve_all(r, &c, 1, true);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* A bound socket that keeps the port from whoever lets the kernel choose one, and not from a
 * listener with SO_REUSEADDR. -1: the port is not to be had. */
static int keep_port(const char *ip, uint16_t port) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, ip, port));
    int fd = CHECK_SYS(socket(addr.u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)));
    if (addr.u.sa.sa_family == AF_INET6)
        CHECK_SYS(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){1}, sizeof(int)));
    if (bind(fd, &addr.u.sa, addr.size) == 0)
        return fd;
    CHECK_EQ(errno, EADDRINUSE);
    test_close(fd);
    return -1;
}

/* A port that nobody has in either family, until the descriptors are closed. */
static uint16_t keep_free_port(int fds[2]) {
    do {
        struct kr_addr addr = {.size = sizeof addr.u};
        fds[0] = keep_port("0.0.0.0", 0);
        CHECK_SYS(getsockname(fds[0], &addr.u.sa, &addr.size));
        fds[1] = keep_port("::", kr_addr_port(&addr));
        if (fds[1] >= 0)
            return kr_addr_port(&addr);
        test_close(fds[0]);
    } while (tap_remaining_ns() > 0);
    FAIL("no port is free in both families");
}

/* A network of this case's own, in which IPv6 sockets are for IPv6 only unless they say otherwise;
 * skips where it may not be made. */
static void network_of_six(void) {
    if (unshare(CLONE_NEWNET) < 0)
        tap_skip("needs the right to make a network namespace");
    int fd = CHECK_SYS(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    CHECK_SYS(ioctl(fd, SIOCSIFFLAGS, &lo));
    test_close(fd);
    fd = open("/proc/sys/net/ipv6/bindv6only", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        tap_skip("needs IPv6 and a writable /proc/sys");
    CHECK_EQ(write(fd, "1", 1), 1);
    test_close(fd);
}

/* Ours: false means both, whatever the system's default. */
TEST_EACH(v6_only_false_beside_the_sysctl) {
    network_of_six();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    kr_listener both;
    CHECK_OK(listen_on(r, &both, "::", 0, NULL, &s));
    struct kr_addr addr;
    CHECK_OK(kr_listener_addr(r, both, &addr));
    one_is_served(r, kr_addr_port(&addr));
    test_reactor_free(r);
}

/* Ours: v6_only decides whether an IPv6 listener takes IPv4. With it, another may listen on the
 * same port. The kernel would choose a port that is free in IPv6 alone for a listener that takes
 * IPv6 only, and a client of any other process may have it in IPv4. */
TEST_EACH(v6_only) {
    tap_need_ipv6();
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    kr_listener both, six, four;
    CHECK_OK(listen_on(r, &both, "::", 0, NULL, &s));
    struct kr_addr addr;
    CHECK_OK(kr_listener_addr(r, both, &addr));
    one_is_served(r, kr_addr_port(&addr));

    struct kr_listen_opts opts = test_listen_opts();
    opts.v6_only = true;
    int kept[2];
    uint16_t port = keep_free_port(kept);
    CHECK_OK(listen_on(r, &six, "::", port, &opts, &s));
    /* means nothing there */
    CHECK_OK(listen_on(r, &four, "0.0.0.0", port, &opts, &s));
    test_close(kept[0]);
    test_close(kept[1]);
    one_is_served(r, port);
    rest_without_conns(r, 3);
    test_reactor_free(r);
}

/* Ours: reuse_port lets two reactors share a port, and the kernel spreads the clients; that neither
 * gets one of 64 has a chance of 2^-63. Without it the second is refused. */
TEST_EACH(two_reactors_share_a_port) {
    struct kr_reactor *a = test_reactor(NULL), *b = test_reactor(NULL);
    struct test_server sa = {0}, sb = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.reuse_port = true;
    kr_listener listener;
    CHECK_OK(listen_on(a, &listener, "127.0.0.1", 0, &opts, &sa));
    struct kr_addr addr;
    CHECK_OK(kr_listener_addr(a, listener, &addr));
    CHECK_ERR(listen_on(b, NULL, "127.0.0.1", kr_addr_port(&addr), NULL, &sb), EADDRINUSE);
    CHECK_OK(listen_on(b, NULL, "127.0.0.1", kr_addr_port(&addr), &opts, &sb));

    struct client clients[64];
    connect_all(clients, 64, kr_addr_port(&addr));
    int epoll = clients_speak(clients, 64);
    for (unsigned heard = 0; heard < 64;) {
        test_step(a, "both to serve theirs");
        test_step(b, "both to serve theirs");
        heard += clients_hear(epoll, clients, false);
    }
    test_close(epoll);
    CHECK_GT(sa.opens, 0u);
    CHECK_GT(sb.opens, 0u);
    leave_all(clients, 64);
    rest_without_conns(a, 1);
    rest_without_conns(b, 1);
    test_reactor_free(a);
    test_reactor_free(b);
}

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
        connect_all(clients + i * EACH, EACH, test_listen(r, NULL, &opts, &test_server_echo_ops, &s));
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

/* Ours: file_max bounds the listeners, with -ENOSPC and nothing done; a closed one makes room,
 * after a turn. */
TEST_EACH(file_max_bounds_the_listeners) {
    struct kr_config config = test_config();
    config.file_max = 3;
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
    config.file_max = 1;
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

/* ---- clients that do not wait, and many at once ---- */

static void gone_clients(struct kr_listen_opts opts) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    kr_listener listener;
    uint16_t port = test_listen(r, &listener, &opts, &test_server_echo_ops, &s);
    CHECK_OK(kr_listener_pause(r, listener));
    CHECK_EQ(kr_step(r, 0), 0);
    for (unsigned i = 0; i < 50; i++) {
        int fd = test_connect(port);
        if (i % 3 == 0)
            test_send(NULL, fd, "bye", 3);
        if (i % 2)
            test_close(fd);
        else
            test_close_reset(fd);
    }
    CHECK_OK(kr_listener_resume(r, listener));
    one_is_served(r, port);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* Ours: clients that have gone before they were accepted, by FIN or RST, with bytes or without,
 * cost a connection that ends, or none; who comes after them is served. */
TEST_EACH(clients_gone_before_accept) {
    struct kr_listen_opts opts = test_listen_opts();
    gone_clients(opts);
    opts.conn_max = 3;
    gone_clients(opts);
    opts.addresses = true;
    gone_clients(opts);
}

static unsigned read_number(const char *path) {
    FILE *file = fopen(path, "re");
    unsigned number = 0;
    if (!file || fscanf(file, "%u", &number) != 1)
        FAIL("%s can not be read", path);
    fclose(file);
    return number;
}

#define BURST 5000

static void burst(unsigned backlog, unsigned conn_max) {
    tap_need_descriptors(conn_max + 300); /* the table is as long, but takes none of them */
    struct kr_config config = test_config();
    config.sq_entries = config.cq_entries = 8;
    config.conn_max = conn_max;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = backlog;
    uint16_t port = test_listen(r, NULL, &opts, &test_server_echo_ops, &s);
    static struct client clients[BURST];
    for (unsigned done = 0; done < BURST;) {
        unsigned batch = BURST - done < backlog ? BURST - done : backlog;
        connect_all(clients + done, batch, port);
        done += batch;
        TEST_UNTIL(r, s.opens == done);
    }
    serve_all(r, clients, BURST, false);
    CHECK_EQ(s.open, BURST);
    CHECK_GT(test_stats(r).cq_overflows, 0u);
    leave_all(clients, BURST);
    rest_without_conns(r, 1);
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.bufs_out + stats.sends_out + stats.blocks_out, 0u);
    test_reactor_free(r);
}

/* Ours: five thousand clients, as many of them at once as the backlog holds, through a CQ of 8:
 * each is served, though nearly every accept, receive and send overflows the queue. The table has
 * room for any number of them. */
TEST_EACH(burst_of_5000_through_a_tiny_cq, .deadline_s = 60) {
    unsigned most = read_number("/proc/sys/net/core/somaxconn");
    unsigned backlog = most < 4096 ? most : 4096;
    burst(backlog, 2 * backlog + BURST + 64);
}

/* Ours: the same with a table of just the size, which allows one accept for each free slot and no
 * more. */
TEST_EACH(burst_of_5000_into_a_table_of_5000, .deadline_s = 60) {
    unsigned most = read_number("/proc/sys/net/core/somaxconn");
    burst(most < 4096 ? most : 4096, BURST);
}

/* ---- errors of accept ---- */

/* The real kernel, but that the next `left` accepts are turned into NOPs with `result` on their way
 * into it: the tag stays, so that to all above the accept has failed. */
static struct {
    int result;
    unsigned left, made;
} injected;

static bool is_accept(const struct io_uring_sqe *sqe) {
    return sqe->opcode == IORING_OP_ACCEPT;
}

static int injecting_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                           unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    unsigned head = *ring->sq.khead, mask = *ring->sq.kring_mask;
    for (unsigned i = 0; i < submit; i++) {
        struct io_uring_sqe *sqe = &ring->sq.sqes[(head + i) & mask];
        if (!is_accept(sqe) || !injected.left)
            continue;
        uint64_t tag = sqe->user_data;
        memset(sqe, 0, sizeof *sqe);
        io_uring_prep_nop(sqe);
        sqe->rw_flags = KR__NOP_INJECT_RESULT;
        sqe->len = (unsigned)injected.result;
        sqe->user_data = tag;
        injected.left--;
        injected.made++;
    }
    return kr__linux.enter(k, ring, submit, wait_for, flags, arg);
}

static struct kr_reactor *injecting_reactor(void) {
    tap_need_kernel(6, 10); /* NOP with a result */
    static struct kr__kernel kernel;
    kernel = kr__linux;
    kernel.enter = injecting_enter;
    struct kr_config config = test_config();
    config.taskrun = (enum kr_taskrun)tap_variant()->mode;
    struct kr_reactor *r;
    struct kr_failure why;
    CHECK_OK(kr__reactor_new(&r, &config, &why, &kernel, (unsigned)tap_variant()->caps_mask));
    return r;
}

static void fails_then_recovers(struct kr_listen_opts opts, int error) {
    struct kr_reactor *r = injecting_reactor();
    struct test_server s = {0};
    injected.result = -error;
    injected.left = UINT32_MAX;
    injected.made = 0;
    uint16_t port = test_listen(r, NULL, &opts, &test_server_echo_ops, &s);
    struct client clients[20];
    connect_all(clients, 20, port);
    TEST_UNTIL(r, injected.made >= 3);

    struct kr_stats before = test_stats(r);
    int64_t began = tap_now_ns();
    for (unsigned i = 0; i < 30; i++)
        CHECK_OK(kr_step(r, MS));
    int64_t took_ms = (tap_now_ns() - began) / MS + 1;
    struct kr_stats after = test_stats(r);
    CHECK_LE((int64_t)(after.sqes - before.sqes), 16 * took_ms);
    CHECK_LE((int64_t)(after.enters - before.enters), 16 * took_ms);
    CHECK_EQ(s.opens, 0u);
    CHECK_GE(after.accept_errors, 3u);

    injected.left = 0;
    serve_all(r, clients, 20, true);
    rest_without_conns(r, 1);
    CHECK_EQ(s.opens, 20u);
    CHECK_OK(kr_reactor_free(r));
}

static void fails_in_each_way(int error) {
    struct kr_listen_opts opts = test_listen_opts();
    fails_then_recovers(opts, error);
    opts.conn_max = 5;
    fails_then_recovers(opts, error);
    opts.addresses = true;
    fails_then_recovers(opts, error);
}

/* Ours: accepts that fail for want of descriptors or memory are made again after a while: a bounded
 * number of them a millisecond, no spin. When the want is over, all who waited are served. */
TEST_EACH(failing_accepts_back_off_emfile) {
    fails_in_each_way(EMFILE);
}

TEST_EACH(failing_accepts_back_off_enfile) {
    fails_in_each_way(ENFILE);
}

TEST_EACH(failing_accepts_back_off_enomem) {
    fails_in_each_way(ENOMEM);
}

/* Ours: however long the want has lasted, when it is over the next try is not 50 ms away. */
static void resumes_soon(struct kr_listen_opts opts, int error) {
    struct kr_reactor *r = injecting_reactor();
    struct test_server s = {0};
    injected.result = -error;
    injected.left = UINT32_MAX;
    injected.made = 0;
    uint16_t port = test_listen(r, NULL, &opts, &test_server_echo_ops, &s);
    struct client clients[3];
    connect_all(clients, 3, port);
    TEST_UNTIL(r, injected.made >= 8);
    injected.left = 0;
    CHECK_LE(kr__heap_next(&r->timers.deadlines) - r->now, 40 * MS);
    serve_all(r, clients, 3, true);
    CHECK_EQ(injected.made, test_stats(r).accept_errors);
    rest_without_conns(r, 1);
    CHECK_OK(kr_reactor_free(r));
}

TEST_EACH(failing_accepts_resume_within_50_ms) {
    static const int errors[] = {EMFILE, ENFILE, ENOMEM, ENOBUFS};
    struct kr_listen_opts opts = test_listen_opts(), few = test_listen_opts();
    few.conn_max = 5;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        resumes_soon(opts, errors[i]);
        resumes_soon(few, errors[i]);
    }
}

/* Ours: a client that has gone in the backlog fails its own accept only. A hundred of them in a row
 * delay those behind them by a hundred accepts, not by a hundred waits. */
TEST_EACH(aborted_clients_delay_nobody) {
    struct kr_reactor *r = injecting_reactor();
    struct test_server s = {0};
    injected.result = -ECONNABORTED;
    injected.left = 100;
    injected.made = 0;
    uint16_t port = test_listen(r, NULL, NULL, &test_server_echo_ops, &s);
    struct client clients[20];
    connect_all(clients, 20, port);
    serve_all(r, clients, 20, true);
    CHECK_EQ(injected.left, 0u);
    CHECK_EQ(injected.made, 100u);
    CHECK_LE(test_stats(r).turns, 400u);
    rest_without_conns(r, 1);
    CHECK_OK(kr_reactor_free(r));
}

/* Ours: a listener for which memory is refused, at whichever allocation, is refused with -ENOMEM,
 * and neither a socket nor a byte stays behind. One try for each allocation, until none is left to
 * refuse. */
TEST_EACH(listen_without_memory_leaves_nothing) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.addresses = true;
    int before = tap_fd_count(), rc = -ENOMEM;
    kr_listener listener = {.bits = 7};
    uint64_t bytes = test_stats(r).alloc_bytes;
    for (int64_t n = 0; rc < 0; n++) {
        test_reactor_refuse_memory(r, n);
        rc = listen_on(r, &listener, "127.0.0.1", 0, &opts, &s);
        test_reactor_refuse_memory(r, -1);
        CHECK_EQ(tap_fd_count(), before + (rc == 0 ? test_slot_cost(r) : 0));
        if (rc == 0)
            break;
        CHECK_ERR(rc, ENOMEM);
        CHECK_EQ(listener.bits, 7u);
        CHECK_EQ(test_stats(r).listeners, 0u);
        CHECK_LE(test_stats(r).alloc_bytes, bytes + 4096); /* what grew for good, as tables do */
        CHECK_LT(n, 10);
    }
    struct kr_addr addr;
    CHECK_OK(kr_listener_addr(r, listener, &addr));
    one_is_served(r, kr_addr_port(&addr));
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

static void accept_without_memory(struct kr_listen_opts opts) {
    opts.conn.inline_size = 100000;
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    uint16_t port = test_listen(r, NULL, &opts, &test_server_echo_ops, &s);
    one_is_served(r, port);
    rest_without_conns(r, 1);
    int first = test_connect(port);
    TEST_UNTIL(r, s.open == 1);

    test_reactor_refuse_memory(r, 0);
    int second = test_connect(port);
    int end = test_recv_end(r, second, NULL);
    CHECK(end == 0 || end == ECONNRESET);
    test_close(second);
    CHECK_EQ(s.opens, 2u);
    TEST_UNTIL(r, test_stats(r).conns == 1);
    test_reactor_refuse_memory(r, -1);

    one_is_served(r, port);
    CHECK_EQ(s.opens, 3u);
    test_close(first);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* Ours: a client for whom there is no memory is sent away without a callback; those before and
 * after are served. */
TEST_EACH(client_without_memory_is_sent_away) {
    accept_without_memory(test_listen_opts());
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn_max = 3;
    accept_without_memory(opts);
    opts.addresses = true;
    accept_without_memory(opts);
}

/* The lowest free descriptor becomes the limit, so that none can be opened; returns the old one. */
static rlim_t close_the_table(void) {
    int next = CHECK_SYS(dup(0));
    CHECK_SYS(close(next));
    struct rlimit limit;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
    rlim_t old = limit.rlim_cur;
    limit.rlim_cur = (rlim_t)next;
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    return old;
}

static void open_the_table(rlim_t old) {
    struct rlimit limit;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = old;
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
}

/* The kernel's, and ours: with addresses an accept needs a descriptor, and at RLIMIT_NOFILE it
 * fails in earnest. The reactor waits, drops nobody, and serves all once descriptors are to be
 * had. */
TEST_EACH(real_emfile_drops_nobody) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.addresses = true;
    struct client clients[10];
    connect_all(clients, 10, test_listen(r, NULL, &opts, &test_server_echo_ops, &s));
    rlim_t old = close_the_table();
    TEST_UNTIL(r, test_stats(r).accept_errors >= 2);
    struct kr_stats before = test_stats(r);
    int64_t began = tap_now_ns();
    for (unsigned i = 0; i < 30; i++)
        CHECK_OK(kr_step(r, MS));
    int64_t took_ms = (tap_now_ns() - began) / MS + 1;
    CHECK_LE((int64_t)(test_stats(r).enters - before.enters), 16 * took_ms);
    CHECK_EQ(s.opens, 0u);
    open_the_table(old);
    serve_all(r, clients, 10, true);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

/* The kernel's: without addresses accepting into a registered table takes no descriptor, so that a
 * full process still accepts. */
TEST_EACH(accepts_at_a_full_descriptor_table, .needs = KR__CAP_FILE_TABLE) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct client clients[10];
    connect_all(clients, 10, test_listen(r, NULL, NULL, &test_server_echo_ops, &s));
    rlim_t old = close_the_table();
    TEST_UNTIL(r, s.opens == 10);
    CHECK_EQ(test_stats(r).accept_errors, 0u);
    open_the_table(old);
    serve_all(r, clients, 10, true);
    rest_without_conns(r, 1);
    test_reactor_free(r);
}

struct visit {
    unsigned opens, closes;
    size_t got;
    int error;
};

static void visit_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct visit *v = user;
    struct kr_addr addr;
    CHECK_ERR(kr_conn_peer(r, conn, &addr), ENODATA);
    v->opens++;
}

static size_t visit_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    struct visit *v = user;
    UNUSED(r, conn, data);
    v->got += size;
    return size;
}

static void visit_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                        enum kr_why why) {
    struct visit *v = user;
    UNUSED(r, conn, why);
    v->error = error;
    v->closes++;
}

/* Ours: a client that says something and resets before it is accepted is heard, with addresses as
 * without; only its own is not known any more. */
TEST_EACH(client_that_resets_before_the_accept_is_heard) {
    static const struct kr_conn_ops ops = {
        .on_open = visit_open, .on_data = visit_data, .on_close = visit_close};
    for (unsigned with = 0; with < 2; with++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct kr_listen_opts opts = test_listen_opts();
        struct visit v = {0};
        opts.addresses = with;
        opts.backlog = 64;
        int fd = test_connect(test_listen(r, NULL, &opts, &ops, &v));
        CHECK_EQ(test_send_some(fd, "heard", 5), 5);
        test_close_reset(fd);
        TEST_UNTIL(r, v.closes == 1);
        CHECK_EQ(v.opens, 1u);
        CHECK_EQ(v.got, 5u);
        CHECK_EQ(v.error, -ECONNRESET);
        rest_without_conns(r, 1);
        test_reactor_free(r);
    }
}

TAP_MAIN(accept, 100)
