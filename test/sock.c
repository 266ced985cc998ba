/* Socket options: those of kr_conn_opts are on the sockets that are made, and on those that are accepted. */
#include "harness/net.h"
#include "kernel/kernel.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <unistd.h>
#include <sys/socket.h>

/* The real kernel, but for a look at each descriptor on its way into the table. */
static struct kr__kernel door;
static struct seen {
    unsigned made, accepted;
    int values[9];
} seen;

static int get(int fd, int level, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    CHECK_SYS(getsockopt(fd, level, name, &value, &size));
    return value;
}

static void look(int fd) {
    const int values[9] = {
        get(fd, IPPROTO_TCP, TCP_NODELAY),  get(fd, SOL_SOCKET, SO_KEEPALIVE),
        get(fd, IPPROTO_TCP, TCP_KEEPIDLE), get(fd, IPPROTO_TCP, TCP_KEEPINTVL),
        get(fd, IPPROTO_TCP, TCP_KEEPCNT),  get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT),
        get(fd, SOL_SOCKET, SO_SNDBUF),     get(fd, SOL_SOCKET, SO_RCVBUF),
        get(fd, SOL_SOCKET, SO_MARK),
    };
    for (unsigned i = 0; i < 9; i++)
        seen.values[i] = values[i];
}

static int look_socket(const struct kr__kernel *k, const struct kr__socket_plan *plan) {
    int fd = kr__linux.socket(k, plan);
    if (fd >= 0) {
        look(fd);
        seen.made++;
    }
    return fd;
}

static int look_addrs(const struct kr__kernel *k, int fd, struct kr_addr *peer, struct kr_addr *local) {
    look(fd);
    seen.accepted++;
    return kr__linux.sock_addrs(k, fd, peer, local);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    (void)r;
    (void)conn;
    (void)user;
    (void)data;
    return size;
}

static const struct kr_conn_ops ops = {.on_data = on_data};

static struct kr_reactor *begin(void) {
    door = kr__linux;
    door.socket = look_socket;
    door.sock_addrs = look_addrs;
    seen = (struct seen){0};
    return test_reactor_on(&door, NULL);
}

static void ask_for_all(struct kr_conn_opts *o) {
    o->no_delay = false;
    o->keep_idle_s = 33;
    o->keep_every_s = 7;
    o->keep_probes = 5;
    o->user_timeout_ms = 12345;
    o->send_buf = 20000;
    o->recv_buf = 30000;
}

/* The kernel's: it doubles the sizes that are asked for (man 7 socket). */
static void check_all(void) {
    static const int want[9] = {0, 1, 33, 7, 5, 12345, 40000, 60000, 0};
    for (unsigned i = 0; i < 9; i++)
        CHECK_EQ(seen.values[i], want[i]);
}

/* Ours: what a listener is given, each connection that it accepts has. */
TEST_EACH(sock_options_are_inherited_by_accepted_connections) {
    struct kr_reactor *r = begin();
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.backlog = 64;
    opts.addresses = true;
    ask_for_all(&opts.conn);
    int fd = test_connect(test_listen(r, NULL, &opts, &ops, NULL));
    TEST_UNTIL(r, seen.accepted == 1);
    check_all();
    TEST_UNTIL(r, test_stats(r).conns == 1);
    test_close(fd);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* Ours: so has a connection that is made. */
TEST_EACH(sock_options_are_those_of_made_connections) {
    struct kr_reactor *r = begin();
    uint16_t port = test_listen(r, NULL, NULL, &ops, NULL);
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", port));
    struct kr_connect_opts opts;
    kr_connect_opts_init(&opts);
    ask_for_all(&opts.conn);
    kr_conn conn;
    CHECK_OK(kr_connect(r, &conn, &addr, &opts, &ops, NULL));
    CHECK_EQ(seen.made, 1u);
    check_all();
    TEST_UNTIL(r, test_stats(r).conns == 2);
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* Ours: without being asked only Nagle's delay is turned off. */
TEST_EACH(sock_options_are_left_to_the_system) {
    struct kr_reactor *r = begin();
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.backlog = 64;
    opts.addresses = true;
    int fd = test_connect(test_listen(r, NULL, &opts, &ops, NULL));
    TEST_UNTIL(r, seen.accepted == 1);
    int own = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_EQ(seen.values[0], 1);
    CHECK_EQ(seen.values[1], 0);
    CHECK_EQ(seen.values[2], get(own, IPPROTO_TCP, TCP_KEEPIDLE));
    CHECK_EQ(seen.values[5], 0);
    CHECK_EQ(seen.values[8], 0);
    test_close(own);
    test_close(fd);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_reactor_free(r);
}

/* Ours: what the kernel refuses is an error of the call, and nothing stays. SO_MARK needs a privilege, which
 * the case gives up. */
TEST_EACH(sock_option_that_is_refused) {
    struct kr_reactor *r = begin();
    struct kr_connect_opts opts;
    kr_connect_opts_init(&opts);
    opts.conn.mark = 7;
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 1));
    int before = tap_fd_count();
    bool root = geteuid() == 0;
    if (root)
        CHECK_SYS(seteuid(65534));
    CHECK_ERR(kr_connect(r, NULL, &addr, &opts, &ops, NULL), EPERM);
    struct kr_listen_opts listen;
    kr_listen_opts_init(&listen);
    listen.conn.mark = 7;
    addr.u.in.sin_port = 0;
    CHECK_ERR(kr_listen(r, NULL, &addr, &listen, &ops, NULL), EPERM);
    if (root)
        CHECK_SYS(seteuid(0));
    CHECK_EQ(tap_fd_count(), before);
    CHECK_EQ(test_stats(r).conns + test_stats(r).listeners, 0u);
    test_reactor_free(r);
}

#define REFUSED(field_, value_)                                                                    \
    do {                                                                                           \
        kr_connect_opts_init(&opts);                                                               \
        opts.conn.field_ = (value_);                                                               \
        CHECK_ERR(kr_connect(r, NULL, &addr, &opts, &ops, NULL), EINVAL);                          \
    } while (0)

/* Ours: what is out of range is refused before a socket is made. */
TEST_EACH(sock_options_have_ranges) {
    struct kr_reactor *r = begin();
    struct kr_connect_opts opts;
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 1));
    REFUSED(keep_idle_s, 32768);
    REFUSED(keep_every_s, 32768);
    REFUSED(keep_probes, 128);
    REFUSED(user_timeout_ms, 1u << 31);
    REFUSED(send_buf, 1u << 31);
    REFUSED(recv_buf, 1u << 31);
    CHECK_EQ(seen.made, 0u);
    test_reactor_free(r);
}

TAP_MAIN(sock, 5 * 4)
