/* Socket options: those of kr_conn_opts are on the sockets that are made, and on those that are
 * accepted. */
#include "conn/reactor.h"
#include "harness/server.h"
#include "kernel/kernel.h"
#include "kernel/probe.h"

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
    int fd = kr__linux.socket.open(k, plan);
    if (fd >= 0) {
        look(fd);
        seen.made++;
    }
    return fd;
}

static int look_addrs(const struct kr__kernel *k, int fd, struct kr_addr *peer,
                      struct kr_addr *local) {
    look(fd);
    seen.accepted++;
    return kr__linux.socket.addrs(k, fd, peer, local);
}

static struct kr_reactor *begin(void) {
    door = kr__linux;
    door.socket.open = look_socket;
    door.socket.addrs = look_addrs;
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
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 64;
    opts.addresses = true;
    ask_for_all(&opts.conn);
    int fd = test_connect(test_listen(r, NULL, &opts, &test_take_all_ops, NULL));
    TEST_UNTIL(r, seen.accepted == 1);
    check_all();
    TEST_UNTIL(r, test_stats(r).conns == 1);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: so has a connection that is made. */
TEST_EACH(sock_options_are_those_of_made_connections) {
    struct kr_reactor *r = begin();
    uint16_t port = test_listen(r, NULL, NULL, &test_take_all_ops, NULL);
    struct kr_addr addr = test_loopback(port);
    struct kr_connect_opts opts = test_connect_opts();
    ask_for_all(&opts.conn);
    kr_conn conn;
    CHECK_OK(kr_connect(r, &conn, &addr, &opts, &test_take_all_ops, NULL));
    CHECK_EQ(seen.made, 1u);
    check_all();
    TEST_UNTIL(r, test_stats(r).conns == 2);
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: without being asked only Nagle's delay is turned off. */
TEST_EACH(sock_options_are_left_to_the_system) {
    struct kr_reactor *r = begin();
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 64;
    opts.addresses = true;
    int fd = test_connect(test_listen(r, NULL, &opts, &test_take_all_ops, NULL));
    TEST_UNTIL(r, seen.accepted == 1);
    int own = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_EQ(seen.values[0], 1);
    CHECK_EQ(seen.values[1], 0);
    CHECK_EQ(seen.values[2], get(own, IPPROTO_TCP, TCP_KEEPIDLE));
    CHECK_EQ(seen.values[5], 0);
    CHECK_EQ(seen.values[8], 0);
    test_close(own);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: what the kernel refuses is an error of the call, and nothing stays. SO_MARK needs a
 * privilege, which the case gives up. */
TEST_EACH(sock_option_that_is_refused) {
    struct kr_reactor *r = begin();
    struct kr_connect_opts opts = test_connect_opts();
    opts.conn.mark = 7;
    struct kr_addr addr = test_loopback(1);
    int before = tap_fd_count();
    bool root = geteuid() == 0;
    if (root)
        CHECK_SYS(seteuid(65534));
    CHECK_ERR(kr_connect(r, NULL, &addr, &opts, &test_take_all_ops, NULL), EPERM);
    struct kr_listen_opts listen = test_listen_opts();
    listen.conn.mark = 7;
    addr.u.in.sin_port = 0;
    CHECK_ERR(kr_listen(r, NULL, &addr, &listen, &test_take_all_ops, NULL), EPERM);
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
        CHECK_ERR(kr_connect(r, NULL, &addr, &opts, &test_take_all_ops, NULL), EINVAL);            \
    } while (0)

/* Ours: what is out of range is refused before a socket is made. */
TEST_EACH(sock_options_have_ranges) {
    struct kr_reactor *r = begin();
    struct kr_connect_opts opts;
    struct kr_addr addr = test_loopback(1);
    REFUSED(keep_idle_s, 32768);
    REFUSED(keep_every_s, 32768);
    REFUSED(keep_probes, 128);
    REFUSED(user_timeout_ms, 1u << 31);
    REFUSED(send_buf, 1u << 31);
    REFUSED(recv_buf, 1u << 31);
    CHECK_EQ(seen.made, 0u);
    test_reactor_free(r);
}

/* ---- of living connections ---- */

struct living {
    struct kr_reactor *r;
    kr_conn conn;
    unsigned opens, closes, tells, releases;
    int errors[80];
    int fd; /* of the client */
    bool kept;
};

static void living_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct living *l = user;
    l->opens++;
    l->conn = conn;
}

static void living_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                         enum kr_why why) {
    UNUSED(r, conn, error, why);
    ((struct living *)user)->closes++;
}

static const struct kr_conn_ops living_ops = {
    .on_open = living_open, .on_data = test_take_all, .on_close = living_close};

static void living_begin(struct living *l, bool kept) {
    *l = (struct living){.r = begin(), .kept = kept};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 64;
    opts.conn.keep_fd = kept;
    l->fd = test_connect(test_listen(l->r, NULL, &opts, &living_ops, l));
    TEST_UNTIL(l->r, l->opens == 1);
}

static void living_end(struct living *l) {
    CHECK_OK(kr_conn_close(l->r, l->conn, KR_CLOSE_NOW));
    TEST_UNTIL(l->r, l->closes == 1);
    test_close(l->fd);
    test_reactor_end(l->r, (struct test_levels){.listeners = 1});
}

static void each_way(void (*run)(bool kept)) {
    run(true);
    run(false);
}

static void told(struct kr_reactor *r, kr_conn conn, void *user, int error) {
    (void)r;
    struct living *l = user;
    CHECK_EQ(conn.bits, l->conn.bits);
    CHECK_EQ(l->closes, 0u);
    l->errors[l->tells++] = error;
}

static void look_and_close(struct kr_reactor *r, kr_conn conn, void *user,
                           const struct kr_detached *what) {
    UNUSED(r, conn);
    struct living *l = user;
    CHECK_EQ(what->error, 0);
    look(what->fd);
    test_close(what->fd);
    l->releases++;
}

/* What its socket says: by its descriptor, or by one that it leaves by, which ends it. */
static void living_look(struct living *l) {
    if (l->kept) {
        look(kr_conn_fd(l->r, l->conn));
        living_end(l);
        return;
    }
    CHECK_OK(kr_conn_detach(l->r, l->conn, look_and_close, l));
    TEST_UNTIL(l->r, l->closes == 1);
    test_close(l->fd);
    test_reactor_end(l->r, (struct test_levels){.listeners = 1});
}

static void set(struct living *l, enum kr_sockopt which, unsigned value) {
    CHECK_OK(kr_conn_sockopt(l->r, l->conn, which, value, told, l));
}

static void set_all(bool kept) {
    struct living l;
    living_begin(&l, kept);
    set(&l, KR_SOCKOPT_NO_DELAY, 0);
    set(&l, KR_SOCKOPT_KEEP_IDLE_S, 33);
    set(&l, KR_SOCKOPT_KEEP_EVERY_S, 7);
    set(&l, KR_SOCKOPT_KEEP_PROBES, 5);
    set(&l, KR_SOCKOPT_USER_TIMEOUT_MS, 12345);
    set(&l, KR_SOCKOPT_SEND_BUF, 20000);
    set(&l, KR_SOCKOPT_RECV_BUF, 30000);
    CHECK_EQ(l.tells, 0u);
    TEST_UNTIL(l.r, l.tells == 7);
    for (unsigned i = 0; i < 7; i++)
        CHECK_EQ(l.errors[i], 0);
    test_rest(l.r, (struct test_levels){.conns = 1, .listeners = 1, .blocks = 1});
    living_look(&l);
    check_all();
}

/* Ours: each option that can be changed is, and its user is told. */
TEST_EACH(sock_options_of_a_living_connection) {
    each_way(set_all);
}

static void set_again(bool kept) {
    struct living l;
    living_begin(&l, kept);
    CHECK_OK(kr_conn_sockopt(l.r, l.conn, KR_SOCKOPT_KEEP_IDLE_S, 33, NULL, NULL));
    CHECK_OK(kr_conn_sockopt(l.r, l.conn, KR_SOCKOPT_NO_DELAY, 0, NULL, NULL));
    set(&l, KR_SOCKOPT_KEEP_IDLE_S, 0);
    set(&l, KR_SOCKOPT_NO_DELAY, 1);
    TEST_UNTIL(l.r, l.tells == 2);
    test_rest(l.r, (struct test_levels){.conns = 1, .listeners = 1, .blocks = 1});
    living_look(&l);
    CHECK_EQ(seen.values[0], 1);
    CHECK_EQ(seen.values[1], 0);
}

/* Ours: the last word counts; keep-alive can be ended; and nobody need be told. */
TEST_EACH(sock_options_are_set_in_order) {
    each_way(set_again);
}

/* Ours: out of range, or not to be had here, and nothing has happened. */
TEST_EACH(sock_options_of_a_living_connection_have_ranges) {
    static const struct {
        enum kr_sockopt which;
        unsigned value;
    } wrong[] = {
        {KR_SOCKOPT_NO_DELAY, 2},
        {KR_SOCKOPT_KEEP_IDLE_S, 32768},
        {KR_SOCKOPT_KEEP_EVERY_S, 0},
        {KR_SOCKOPT_KEEP_EVERY_S, 32768},
        {KR_SOCKOPT_KEEP_PROBES, 0},
        {KR_SOCKOPT_KEEP_PROBES, 128},
        {KR_SOCKOPT_USER_TIMEOUT_MS, 1u << 31},
        {KR_SOCKOPT_SEND_BUF, 0},
        {KR_SOCKOPT_SEND_BUF, 1u << 31},
        {KR_SOCKOPT_RECV_BUF, 0},
        {KR_SOCKOPT_RECV_BUF, 1u << 31},
        {(enum kr_sockopt)8, 1},
    };
    struct living l;
    living_begin(&l, true);
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_ERR(kr_conn_sockopt(l.r, l.conn, wrong[i].which, wrong[i].value, told, &l), EINVAL);
    CHECK_ERR(kr_conn_sockopt(l.r, (kr_conn){0}, KR_SOCKOPT_NO_DELAY, 1, told, &l), ESTALE);
    CHECK_OK(kr_conn_close(l.r, l.conn, KR_CLOSE_LINGER));
    CHECK_ERR(kr_conn_sockopt(l.r, l.conn, KR_SOCKOPT_NO_DELAY, 1, told, &l), EPIPE);
    living_end(&l);
    CHECK_EQ(l.tells, 0u);
}

static void of_unix(bool kept) {
    struct living l = {.r = test_reactor(NULL), .kept = kept};
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    struct kr_conn_opts opts = test_conn_opts();
    opts.keep_fd = kept;
    CHECK_OK(kr_conn_adopt(l.r, &l.conn, ends[0], &opts, &living_ops, &l));
    CHECK_ERR(kr_conn_sockopt(l.r, l.conn, KR_SOCKOPT_NO_DELAY, 1, told, &l), EOPNOTSUPP);
    CHECK_ERR(kr_conn_sockopt(l.r, l.conn, KR_SOCKOPT_KEEP_IDLE_S, 1, told, &l), EOPNOTSUPP);
    set(&l, KR_SOCKOPT_SEND_BUF, 20000); /* before it is open */
    TEST_UNTIL(l.r, l.tells == 1);
    CHECK_EQ(l.errors[0], 0);
    CHECK_EQ(l.opens, 1u);
    if (kept)
        CHECK_EQ(get(kr_conn_fd(l.r, l.conn), SOL_SOCKET, SO_SNDBUF), 40000);
    CHECK_OK(kr_conn_close(l.r, l.conn, KR_CLOSE_NOW));
    test_rest(l.r, (struct test_levels){0});
    test_close(ends[1]);
    test_reactor_free(l.r);
}

/* Ours: a Unix socket has what is not of TCP; and before a connection is open it can be asked for
 * as well. */
TEST_EACH(sock_options_of_a_unix_socket) {
    each_way(of_unix);
}

/* Ours: what the kernel refuses is told, at once or later, and the connection goes on. */
TEST_EACH(sock_option_of_a_living_connection_that_is_refused) {
    for (unsigned kept = 0; kept < 2; kept++) {
        struct living l;
        living_begin(&l, kept);
        bool now = kept || test_slot_cost(l.r);
        bool root = geteuid() == 0;
        if (root)
            CHECK_SYS(seteuid(65534));
        int rc = kr_conn_sockopt(l.r, l.conn, KR_SOCKOPT_MARK, 7, told, &l);
        CHECK_EQ(rc, now ? -EPERM : 0);
        TEST_UNTIL(l.r, now || l.tells == 1);
        CHECK(now || l.errors[0] == -EPERM);
        if (root)
            CHECK_SYS(seteuid(0));
        set(&l, KR_SOCKOPT_NO_DELAY, 0);
        TEST_UNTIL(l.r, l.tells == (now ? 1u : 2u));
        CHECK_EQ(l.errors[l.tells - 1], 0);
        living_end(&l);
    }
}

static void bounded(bool kept) {
    struct living l;
    living_begin(&l, kept);
    for (unsigned i = 0; i < 64; i++)
        set(&l, KR_SOCKOPT_NO_DELAY, i % 2);
    CHECK_ERR(kr_conn_sockopt(l.r, l.conn, KR_SOCKOPT_NO_DELAY, 1, told, &l), EAGAIN);
    CHECK_GE(kr_step(l.r, 0), 0);
    unsigned before = l.tells;
    CHECK_OK(kr_conn_close(l.r, l.conn, KR_CLOSE_NOW));
    TEST_UNTIL(l.r, l.closes == 1);
    CHECK_EQ(l.tells, 64u);
    for (unsigned i = 0; i < 64; i++)
        CHECK_EQ(l.errors[i], i < before ? 0 : -ECANCELED);
    test_close(l.fd);
    test_reactor_end(l.r, (struct test_levels){.listeners = 1});
}

/* Ours: so many wait and no more; those that still do when the connection ends are told so before
 * on_close. */
TEST_EACH(sock_options_that_wait_are_bounded) {
    each_way(bounded);
}

static void freed(bool kept) {
    struct living l;
    living_begin(&l, kept);
    set(&l, KR_SOCKOPT_NO_DELAY, 0);
    set(&l, KR_SOCKOPT_NO_DELAY, 1);
    test_reactor_free(l.r);
    CHECK_EQ(l.tells, 2u);
    CHECK_EQ(l.closes, 1u);
    CHECK_EQ(l.errors[1], -ECANCELED);
    test_close(l.fd);
}

/* Ours: freeing the reactor tells of those that wait. */
TEST_EACH(sock_options_and_free) {
    each_way(freed);
}

static void told_before_bytes(struct kr_reactor *r, kr_conn conn, void *user, int error) {
    CHECK_EQ(test_stats(r).bytes_out, 0u);
    told(r, conn, user, error);
}

/* Four steps, and then bytes, with or without a close that flushes them. */
static void before_bytes(bool closes) {
    struct living l;
    living_begin(&l, false);
    static const enum kr_sockopt which[] = {KR_SOCKOPT_NO_DELAY, KR_SOCKOPT_KEEP_IDLE_S,
                                            KR_SOCKOPT_KEEP_EVERY_S};
    for (unsigned i = 0; i < 3; i++)
        CHECK_OK(kr_conn_sockopt(l.r, l.conn, which[i], 1, told_before_bytes, &l));
    CHECK_OK(kr_conn_send(l.r, l.conn, "hello", 5));
    if (closes)
        CHECK_OK(kr_conn_close(l.r, l.conn, KR_CLOSE_FLUSH));
    char hello[5];
    test_recv(l.r, l.fd, hello, sizeof hello);
    CHECK_EQ(l.tells, 3u);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(l.errors[i], 0);
    if (!closes) {
        living_end(&l);
        return;
    }
    TEST_UNTIL(l.r, l.closes == 1);
    test_close(l.fd);
    test_reactor_end(l.r, (struct test_levels){.listeners = 1});
}

/* Ours: bytes that are queued behind options go when all of these are set, however many turns that
 * takes, also when the connection is closed behind them. */
TEST_EACH(sock_options_are_set_before_bytes_behind_them) {
    before_bytes(false);
    before_bytes(true);
}

TAP_MAIN(sock, 13 * 4)
