/* Accepting: addresses and ports, limits, pauses, errors of the kernel.
 *
 * What must hold above all: whoever connects is served, sooner or later, and is neither dropped nor
 * reset while the listener lives, however many come, whatever limit is reached, and whatever accept
 * answers; and while nothing can be accepted, the reactor does not spin. */
#include "accept/accept.h"

/* ---- clients, many at a time ---- */

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

void serve_all(struct kr_reactor *r, struct client *clients, unsigned count, bool leave) {
    int epoll = clients_speak(clients, count);
    for (unsigned served = 0; served < count;) {
        test_step(r, "all clients to be served");
        served += clients_hear(epoll, clients, leave);
    }
    test_close(epoll);
}

void connect_all(struct client *clients, unsigned count, uint16_t port) {
    for (unsigned i = 0; i < count; i++)
        clients[i] = (struct client){.fd = test_connect(port)};
}

void leave_all(struct client *clients, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        if (clients[i].fd >= 0)
            test_close(clients[i].fd);
        clients[i].fd = -1;
    }
}

void one_is_served(struct kr_reactor *r, uint16_t port) {
    struct client c = {.fd = test_connect(port)};
    serve_all(r, &c, 1, true);
}

void rest_without_conns(struct kr_reactor *r, unsigned listeners) {
    TEST_UNTIL(r, test_stats(r).conns == 0);
    CHECK_EQ(test_stats(r).listeners, listeners);
    CHECK_EQ(test_stats(r).accepts, test_stats(r).closes);
}

/* ---- addresses ---- */

int listen_on(struct kr_reactor *r, kr_listener *ret, const char *ip, uint16_t port,
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

TAP_MAIN(accept, 134)
