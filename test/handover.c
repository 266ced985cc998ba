/* Listening sockets that change hands: inherited ones, ones that several share, and ones that are
 * given up with clients still waiting.
 *
 * What must hold: a client that the kernel has let in is served by whoever has the socket, and by
 * somebody; what is borrowed is left as it was. */
#include "harness/server.h"

#include "roof/reactor.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static struct kr_listen_opts small_opts(void) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 32;
    return opts;
}

/* ---- sockets and clients ---- */

static struct kr_addr unix_name(void) {
    return (struct kr_addr){.size = sizeof(sa_family_t), .u.sa.sa_family = AF_UNIX};
}

/* As a parent process makes it, which stays its owner. *addr is what it was bound to. */
static int parents_socket(struct kr_addr *addr, int type, int backlog) {
    int fd = CHECK_SYS(socket(addr->u.sa.sa_family, type | SOCK_CLOEXEC, 0));
    CHECK_SYS(bind(fd, &addr->u.sa, addr->size));
    if (backlog >= 0)
        CHECK_SYS(listen(fd, backlog));
    addr->size = sizeof addr->u;
    CHECK_SYS(getsockname(fd, &addr->u.sa, &addr->size));
    return fd;
}

static int client_begin(const struct kr_addr *addr) {
    int fd = CHECK_SYS(socket(addr->u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(connect(fd, &addr->u.sa, addr->size)); /* loopback: done when it returns */
    int flags = SOCK_NONBLOCK;
    CHECK_SYS(ioctl(fd, FIONBIO, &flags));
    return fd;
}

static void check_served(struct kr_reactor *r, int fd) {
    test_send(r, fd, "hello", 5);
    CHECK_RECV(r, fd, "hello");
    test_close(fd);
}

static void check_serves(struct kr_reactor *r, const struct kr_addr *addr) {
    check_served(r, client_begin(addr));
}

static void over(struct kr_reactor *r, struct test_server *s) {
    TEST_UNTIL(r, s->open == 0);
    test_reactor_free(r);
}

/* ---- inherited sockets ---- */

/* Ours: clients that waited before there was a reactor are served, the descriptor is the caller's
 * still, and the address is the socket's own. */
static void check_inherits(struct kr_addr addr) {
    int fd = parents_socket(&addr, SOCK_STREAM, 8);
    int early = client_begin(&addr);
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = small_opts();
    kr_listener listener;
    int fds = tap_fd_count();
    CHECK_OK(kr_listen_fd(r, &listener, fd, &opts, &test_server_echo_ops, &s));
    CHECK_EQ(tap_fd_count(), fds + test_slot_cost(r));
    struct kr_addr bound;
    CHECK_OK(kr_listener_addr(r, listener, &bound));
    CHECK_EQ(bound.size, addr.size);
    CHECK_MEM_EQ(&bound.u, &addr.u, addr.size);
    check_served(r, early);
    check_serves(r, &addr);
    test_close(fd);
    check_serves(r, &addr); /* the reactor's reference holds it */
    CHECK_OK(kr_listener_close(r, listener));
    TEST_UNTIL(r, test_stats(r).listeners == 0);
    int late = CHECK_SYS(socket(addr.u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_EQ(connect(late, &addr.u.sa, addr.size), -1);
    CHECK_EQ(errno, ECONNREFUSED);
    test_close(late);
    over(r, &s);
}

TEST_EACH(handover_inherits_a_tcp_socket) {
    check_inherits(test_loopback(0));
}

TEST_EACH(handover_inherits_a_unix_socket) {
    check_inherits(unix_name());
}

TEST_EACH(handover_inherits_an_ipv6_socket) {
    tap_need_ipv6();
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "::1", 0));
    check_inherits(addr);
}

/* Ours: a descriptor that is kept can be handed to the next reactor, and who came in between has
 * waited. */
TEST_EACH(handover_to_the_next_reactor) {
    struct kr_addr addr = test_loopback(0);
    int fd = parents_socket(&addr, SOCK_STREAM, 32), between = -1;
    for (unsigned i = 0; i < 5; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct test_server s = {0};
        CHECK_OK(kr_listen_fd(r, NULL, fd, NULL, &test_server_echo_ops, &s));
        if (between >= 0)
            check_served(r, between);
        check_serves(r, &addr);
        over(r, &s);
        between = client_begin(&addr);
    }
    test_close(between);
    test_close(fd);
}

/* Ours: reactors that share a socket serve all of its clients between them. */
TEST_EACH(handover_shared_by_two_reactors) {
    enum { CLIENTS = 40 };
    struct kr_addr addr = test_loopback(0);
    int fd = parents_socket(&addr, SOCK_STREAM, 64);
    struct kr_listen_opts opts = small_opts();
    opts.backlog = 64;
    struct kr_config config = test_config();
    config.conn_max = 30; /* neither can have them all */
    struct kr_reactor *a = test_reactor(&config), *b = test_reactor(&config);
    struct test_server sa = {0}, sb = {0};
    CHECK_OK(kr_listen_fd(a, NULL, fd, &opts, &test_server_echo_ops, &sa));
    CHECK_OK(kr_listen_fd(b, NULL, fd, &opts, &test_server_echo_ops, &sb));
    int fds[CLIENTS];
    for (unsigned i = 0; i < CLIENTS; i++)
        fds[i] = client_begin(&addr);
    while (sa.opens + sb.opens < CLIENTS) {
        test_step(a, "all to be accepted");
        test_step(b, "all to be accepted");
    }
    CHECK(sa.opens && sb.opens);
    for (unsigned i = 0; i < CLIENTS; i++)
        test_close(fds[i]);
    over(a, &sa);
    over(b, &sb);
    test_close(fd);
}

static int backlog_of(int fd) {
    struct tcp_info info;
    socklen_t size = sizeof info;
    CHECK_SYS(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size));
    return (int)info.tcpi_sacked; /* of a listening socket: the most that may wait (tcp_get_info) */
}

static int no_delay_of(int fd) {
    int on;
    socklen_t size = sizeof on;
    CHECK_SYS(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &size));
    return on;
}

/* Ours: the backlog is made the one of the options, and what is inherited by connections is set. */
TEST_EACH(handover_sets_backlog_and_no_delay) {
    struct kr_addr addr = test_loopback(0);
    int fd = parents_socket(&addr, SOCK_STREAM, 1);
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = small_opts();
    opts.conn.no_delay = false;
    kr_listener listener;
    CHECK_OK(kr_listen_fd(r, &listener, fd, &opts, &test_server_echo_ops, &s));
    CHECK_EQ(backlog_of(fd), 32);
    CHECK_EQ(no_delay_of(fd), 0);
    CHECK_OK(kr_listener_close(r, listener));
    CHECK_OK(kr_listen_fd(r, &listener, fd, NULL, &test_server_echo_ops, &s));
    CHECK_GT(backlog_of(fd), 32);
    CHECK_NE(no_delay_of(fd), 0);
    check_serves(r, &addr);
    over(r, &s);
    test_close(fd);
}

/* Ours: while the caller keeps its descriptor, those who come after a close wait for the next
 * listener. (Those who come while it is under way are what draining is for.) */
TEST_EACH(handover_close_keeps_the_backlog_of_a_kept_socket) {
    struct kr_addr addr = test_loopback(0);
    int fd = parents_socket(&addr, SOCK_STREAM, 32);
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    struct kr_listen_opts opts = small_opts();
    for (unsigned i = 0; i < 20; i++) {
        kr_listener listener;
        CHECK_OK(kr_listen_fd(r, &listener, fd, &opts, &test_server_echo_ops, &s));
        for (unsigned turns = i % 4; turns; turns--)
            CHECK_OK(kr_step(r, 0));
        CHECK_OK(kr_listener_close(r, listener));
        TEST_UNTIL(r, test_stats(r).listeners == 0);
        int waiting = client_begin(&addr);
        CHECK_OK(kr_step(r, 0));
        CHECK_OK(kr_listen_fd(r, &listener, fd, &opts, &test_server_echo_ops, &s));
        check_served(r, waiting);
        CHECK_OK(kr_listener_close(r, listener));
        TEST_UNTIL(r, test_stats(r).listeners == 0);
    }
    over(r, &s);
    test_close(fd);
}

/* Ours: one that never runs leaves the caller's socket as it is. */
TEST_EACH(handover_without_a_run) {
    struct kr_addr addr = test_loopback(0);
    int fd = parents_socket(&addr, SOCK_STREAM, 32);
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    CHECK_OK(kr_listen_fd(r, NULL, fd, NULL, &test_server_echo_ops, &s));
    int waiting = client_begin(&addr);
    test_reactor_free(r);
    r = test_reactor(NULL);
    CHECK_OK(kr_listen_fd(r, NULL, fd, NULL, &test_server_echo_ops, &s));
    check_served(r, waiting);
    over(r, &s);
    test_close(fd);
}

static void check_refused(struct kr_reactor *r, int fd, int error) {
    struct test_server s = {0};
    kr_listener listener = {7};
    int fds = tap_fd_count();
    CHECK_ERR(kr_listen_fd(r, &listener, fd, NULL, &test_server_echo_ops, &s), error);
    CHECK_EQ(listener.bits, 7u);
    CHECK_EQ(tap_fd_count(), fds);
    CHECK_EQ(test_stats(r).listeners, 0u);
}

/* Ours: what is no listening stream socket is refused, and not touched. */
TEST_EACH(handover_refuses_what_does_not_listen) {
    struct kr_reactor *r = test_reactor(NULL);
    check_refused(r, -1, EBADF);
    check_refused(r, 900, EBADF);
    int pipes[2];
    CHECK_SYS(pipe(pipes));
    check_refused(r, pipes[0], ENOTSOCK);
    struct kr_addr addr = test_loopback(0);
    int fd = parents_socket(&addr, SOCK_STREAM, -1);
    check_refused(r, fd, EINVAL);
    int late = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_EQ(connect(late, &addr.u.sa, addr.size), -1); /* it was not made to listen meanwhile */
    test_close(late);
    test_close(fd);
    addr = test_loopback(0);
    fd = parents_socket(&addr, SOCK_DGRAM, -1);
    check_refused(r, fd, EINVAL);
    test_close(fd);
    addr = unix_name();
    fd = parents_socket(&addr, SOCK_SEQPACKET, 8);
    check_refused(r, fd, EINVAL);
    test_close(fd);
    addr = test_loopback(0);
    fd = parents_socket(&addr, SOCK_STREAM, 8);
    int client = client_begin(&addr);
    check_refused(r, client, EINVAL);
    test_close(client);

    struct kr_listen_opts opts = small_opts();
    CHECK_ERR(kr_listen_fd(r, NULL, fd, &opts, NULL, NULL), EINVAL);
    CHECK_ERR(kr_listen_fd(r, NULL, fd, &opts, &(struct kr_conn_ops){0}, NULL), EINVAL);
    opts.backlog = 65536;
    CHECK_ERR(kr_listen_fd(r, NULL, fd, &opts, &test_server_echo_ops, NULL), EINVAL);
    CHECK_ERR(kr_listen_fd(NULL, NULL, fd, NULL, &test_server_echo_ops, NULL), EINVAL);
    CHECK_EQ(backlog_of(fd), 8);
    test_close(fd);
    test_close(pipes[0]);
    test_close(pipes[1]);
    test_reactor_free(r);
}

/* Ours: listener_max bounds these as well. */
TEST_EACH(handover_is_bounded_by_file_max) {
    struct kr_config config = test_config();
    config.listener_max = 2;
    struct kr_reactor *r = test_reactor(&config);
    struct kr_addr addr = test_loopback(0);
    int fd = parents_socket(&addr, SOCK_STREAM, 8);
    struct test_server s = {0};
    kr_listener listener;
    CHECK_OK(kr_listen_fd(r, &listener, fd, NULL, &test_server_echo_ops, &s));
    CHECK_OK(kr_listen_fd(r, NULL, fd, NULL, &test_server_echo_ops,
                          &s)); /* the same one twice is allowed */
    CHECK_ERR(kr_listen_fd(r, NULL, fd, NULL, &test_server_echo_ops, &s), ENOSPC);
    check_serves(r, &addr);
    CHECK_OK(kr_listener_close(r, listener));
    TEST_UNTIL(r, test_stats(r).listeners == 1);
    CHECK_OK(kr_listen_fd(r, NULL, fd, NULL, &test_server_echo_ops, &s));
    check_serves(r, &addr);
    over(r, &s);
    test_close(fd);
}

TAP_MAIN(handover, 40)
