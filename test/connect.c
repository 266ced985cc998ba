/* Connecting: every way in which kr_connect may come out, over IPv4, IPv6 and Unix sockets.
 *
 * Each connection of these cases has a record of its life, and the record's rules are checked at
 * every callback: none inside the call, on_open once and first, nothing but on_close after a close
 * or for one that never stood, on_close once and last.
 *
 * A far end that answers nobody is a listener whose backlog is full: the kernel then drops the SYN
 * (of a Unix socket: says -EAGAIN), on loopback as anywhere. A port that refuses is one that is
 * bound and not listened on, so that the kernel cannot choose it for the other end of the very same
 * connection. */
#include "connect/connect.h"

#include "roof/reactor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- a life ---- */

static void check_alive(const struct life *life, kr_conn conn) {
    CHECK(!life->in_call);
    CHECK_EQ(life->conn.bits, conn.bits);
    CHECK_EQ(life->closes, 0u);
}

void life_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct life *life = user;
    check_alive(life, conn);
    CHECK(!life->closing);
    CHECK_EQ(life->opens++, 0u);
    life->opened_at = kr_now(r);
}

size_t life_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    (void)r;
    struct life *life = user;
    check_alive(life, conn);
    CHECK(!life->closing && life->opens == 1);
    test_pattern_check(data, size, 2, life->bytes);
    life->bytes += size;
    life->datas++;
    return size;
}

static void life_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct life *life = user;
    check_alive(life, conn);
    CHECK(!life->closing && life->opens == 1);
    life->eofs++;
}

static void life_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct life *life = user;
    check_alive(life, conn);
    CHECK(!life->closing && life->opens == 1);
    life->drains++;
}

static void life_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct life *life = user;
    check_alive(life, conn);
    CHECK(kr_conn_user(r, conn) == user);
    CHECK_ERR(kr_conn_send(r, conn, "x", 1), EPIPE);
    life->closes++;
    life->error = error;
    life->why = why;
    life->closed_at = kr_now(r);
}

const struct kr_conn_ops life_ops = {
    .on_open = life_open,
    .on_data = life_data,
    .on_eof = life_eof,
    .on_writable = life_drain,
    .on_close = life_close,
};

void dial_as(struct kr_reactor *r, struct life *life, const struct kr_addr *addr,
             const struct kr_connect_opts *opts) {
    *life = (struct life){.in_call = true};
    CHECK_OK(kr_connect(r, &life->conn, addr, opts, &life_ops, life));
    life->in_call = false;
    CHECK_NE(life->conn.bits, 0u);
    CHECK(kr_conn_user(r, life->conn) == life);
}

void dial(struct kr_reactor *r, struct life *life, const struct kr_addr *addr) {
    dial_as(r, life, addr, NULL);
}

void check_over(struct kr_reactor *r, struct life *life, int error, enum kr_why why) {
    TEST_UNTIL(r, life->closes > 0);
    if (life->error != error || life->why != why)
        FAIL("ended with %s, %s", kr_errname(life->error), kr_whyname(life->why));
    CHECK_ERR(kr_conn_close(r, life->conn, KR_CLOSE_NOW), ESTALE);
    CHECK_ERR(kr_conn_send(r, life->conn, "x", 1), ESTALE);
    CHECK_EQ(kr_conn_queued(r, life->conn), 0u);
}

void close_now(struct kr_reactor *r, struct life *life) {
    CHECK_OK(kr_conn_close(r, life->conn, KR_CLOSE_NOW));
    life->closing = true;
}

void end(struct kr_reactor *r, struct life *life) {
    close_now(r, life);
    check_over(r, life, 0, KR_WHY_LOCAL);
}

void over(struct kr_reactor *r) {
    test_rest(r, (struct test_levels){.conns = 0});
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.connects + stats.connect_errors, stats.closes);
    test_reactor_free(r);
}

/* ---- far ends ---- */

void far_addr(struct far *f, enum family family) {
    static unsigned serial;
    char name[64];
    switch (family) {
    case IPV4:
        CHECK_OK(kr_addr_ip(&f->addr, "127.0.0.1", 0));
        break;
    case IPV6:
        CHECK_OK(kr_addr_ip(&f->addr, "::1", 0));
        break;
    case PATH:
        strcpy(f->dir, "/tmp/kr-connect-XXXXXX");
        CHECK(mkdtemp(f->dir));
        snprintf(name, sizeof name, "%s/socket", f->dir);
        CHECK_OK(kr_addr_unix(&f->addr, name));
        break;
    default:
        snprintf(name, sizeof name, "@kr-connect-%d-%u", (int)getpid(), serial++);
        CHECK_OK(kr_addr_unix(&f->addr, name));
    }
}

struct far far_begin(enum family family, int backlog) {
    struct far f = {.fd = -1};
    far_addr(&f, family);
    if (family == IPV6)
        tap_need_ipv6();
    f.fd = CHECK_SYS(socket(f.addr.u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    CHECK_SYS(bind(f.fd, &f.addr.u.sa, f.addr.size));
    socklen_t size = sizeof f.addr.u;
    CHECK_SYS(getsockname(f.fd, &f.addr.u.sa, &size));
    f.addr.size = size;
    if (backlog >= 0)
        CHECK_SYS(listen(f.fd, backlog));
    return f;
}

void far_end(struct far *f) {
    while (f->filler_count)
        test_close(f->fillers[--f->filler_count]);
    if (f->fd >= 0)
        test_close(f->fd);
    if (f->dir[0]) {
        CHECK_SYS(unlink(f->addr.u.un.sun_path));
        CHECK_SYS(rmdir(f->dir));
    }
}

static void far_fill(struct far *f) {
    bool local = f->addr.u.sa.sa_family == AF_UNIX;
    for (;;) {
        CHECK_LT(f->filler_count, 8u);
        int fd = CHECK_SYS(
            socket(f->addr.u.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        f->fillers[f->filler_count++] = fd;
        int rc = connect(fd, &f->addr.u.sa, f->addr.size);
        if (local && rc < 0) {
            CHECK_EQ(errno, EAGAIN);
            return;
        }
        if (!local && f->filler_count == 2) /* a backlog of 0 has room for one */
            return;
    }
}

struct far far_silent(enum family family) {
    struct far f = far_begin(family, 0);
    far_fill(&f);
    return f;
}

int far_accept(struct kr_reactor *r, struct far *f) {
    int fd;
    while ((fd = accept4(f->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0) {
        CHECK_EQ(errno, EAGAIN);
        test_step(r, "somebody to connect");
    }
    return fd;
}

void send_pattern(struct kr_reactor *r, int fd, size_t size) {
    test_send_pattern(r, fd, size, 2, 0);
}

void recv_pattern(struct kr_reactor *r, int fd, size_t size) {
    test_recv_pattern(r, fd, size, 1, 0);
}

void queue_pattern(struct kr_reactor *r, kr_conn conn, size_t size) {
    CHECK_OK(test_queue_pattern(r, conn, size, 1, 0));
}

/* ---- it stands ---- */

/* Bytes go both ways, the addresses are known as promised, and no descriptor is kept. */
static void check_stands(enum family family) {
    struct far f = far_begin(family, 8);
    struct kr_reactor *r = test_reactor(NULL);
    int fds = tap_fd_count();
    struct life life;
    dial(r, &life, &f.addr);
    CHECK_EQ(tap_fd_count(), fds + test_slot_cost(r) + (f.addr.u.sa.sa_family == AF_UNIX));
    struct kr_addr addr;
    CHECK_OK(kr_conn_peer(r, life.conn, &addr));
    CHECK_MEM_EQ(&addr, &f.addr, offsetof(struct kr_addr, u) + f.addr.size);
    TEST_UNTIL(r, life.opens == 1);
    CHECK_EQ(tap_fd_count(), fds + test_slot_cost(r));
    CHECK_EQ(test_stats(r).connects, 1u);
    CHECK_EQ(test_stats(r).accepts, 0u);
    CHECK_OK(kr_conn_peer(r, life.conn, &addr));
    CHECK_ERR(kr_conn_local(r, life.conn, &addr), ENODATA);

    int fd = far_accept(r, &f);
    queue_pattern(r, life.conn, 100000);
    recv_pattern(r, fd, 100000);
    send_pattern(r, fd, 100000);
    TEST_UNTIL(r, life.bytes == 100000);
    CHECK_SYS(shutdown(fd, SHUT_WR));
    TEST_UNTIL(r, life.eofs == 1);
    CHECK_OK(kr_conn_close(r, life.conn, KR_CLOSE_FLUSH));
    life.closing = true;
    CHECK_EQ(test_recv_end(r, fd, NULL), 0);
    check_over(r, &life, 0, KR_WHY_LOCAL);
    test_close(fd);
    over(r);
    far_end(&f);
}

/* Ours: a connection of kr_connect is one like any other once it stands. */
TEST_EACH(connect_ipv4) {
    check_stands(IPV4);
}

TEST_EACH(connect_ipv6) {
    check_stands(IPV6);
}

TEST_EACH(connect_unix_path) {
    check_stands(PATH);
}

TEST_EACH(connect_unix_abstract) {
    check_stands(ABSTRACT);
}

struct kr_addr loopback(uint16_t port) {
    struct kr_addr addr = test_loopback(port);
    return addr;
}

/* Ours: both ends of a connection may be this reactor's. */
TEST_EACH(connect_to_itself) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server server = {0};
    kr_listener listener;
    struct kr_addr addr = loopback(test_listen(r, &listener, NULL, &test_server_echo_ops, &server));
    struct life life;
    dial(r, &life, &addr);
    char bytes[5000];
    test_pattern(bytes, sizeof bytes, 2, 0);
    CHECK_OK(kr_conn_send(r, life.conn, bytes, sizeof bytes));
    TEST_UNTIL(r, life.bytes == sizeof bytes);
    end(r, &life);
    TEST_UNTIL(r, server.closes == 1);
    CHECK_EQ(test_stats(r).accepts, 1u);
    CHECK_EQ(test_stats(r).connects, 1u);
    CHECK_OK(kr_listener_close(r, listener));
    test_reactor_end(r, (struct test_levels){.conns = 0});
}

/* Ours: what one connection sets for itself is not the other's, though they began with the same
 * limits. */
TEST_EACH(connect_twice_with_the_same_limits) {
    struct far f = far_begin(IPV4, 8);
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_connect_opts opts = test_connect_opts();
    struct life a, b;
    dial_as(r, &a, &f.addr, &opts);
    /* ends it, as there is no on_timeout */
    CHECK_OK(kr_conn_deadline(r, a.conn, KR_DEADLINE_IDLE, 20 * MS));
    dial_as(r, &b, &f.addr, &opts);
    int fd_a = far_accept(r, &f), fd_b = far_accept(r, &f);
    check_over(r, &a, -ETIMEDOUT, KR_WHY_TIMEOUT);
    CHECK_EQ(a.opens, 1u);
    CHECK_GE(a.closed_at - a.opened_at, 20 * MS);
    CHECK_EQ(b.closes, 0u);
    end(r, &b);
    test_close(fd_a);
    test_close(fd_b);
    over(r);
    far_end(&f);
}

/* Ours: inline memory, user pointer and idle deadline are there as options say; the deadline begins
 * when the connection stands. */
TEST_EACH(connect_options_are_those_of_connections) {
    struct far f = far_silent(PATH); /* TCP would call again only after a second */
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_connect_opts opts = test_connect_opts();
    opts.conn.inline_size = 100;
    opts.conn.idle_ns = 30 * MS;
    struct life life;
    dial_as(r, &life, &f.addr, &opts);
    char *memory = kr_conn_inline(r, life.conn), zeros[100] = {0};
    CHECK(memory);
    CHECK_MEM_EQ(memory, zeros, 100);
    int64_t until = tap_now_ns() + 60 * MS;
    TEST_UNTIL(r, tap_now_ns() > until);
    CHECK_EQ(life.opens + life.closes, 0u);
    int first = far_accept(r, &f), second = far_accept(r, &f);
    TEST_UNTIL(r, life.opens == 1);
    CHECK(kr_conn_inline(r, life.conn) == memory);
    check_over(r, &life, -ETIMEDOUT, KR_WHY_TIMEOUT);
    CHECK_GE(life.closed_at - life.opened_at, 30 * MS);
    test_close(first);
    test_close(second);
    TEST_UNTIL(r, test_stats(r).conns == 0);
    test_reactor_free(r);
    far_end(&f);
}

/* ---- where from ---- */

/* Ours: the far end sees the source that was asked for, and so does kr_conn_local. */
TEST_EACH(connect_from_a_source_address) {
    struct far f = far_begin(IPV4, 8);
    struct kr_reactor *r = test_reactor(NULL);
    int fds = tap_fd_count();
    struct kr_addr source, local, seen = {.size = sizeof seen.u};
    CHECK_OK(kr_addr_ip(&source, "127.0.0.2", 0));
    struct kr_connect_opts opts = test_connect_opts();
    opts.source = &source;
    opts.local_address = true;
    struct life life;
    dial_as(r, &life, &f.addr, &opts);
    CHECK_EQ(tap_fd_count(), fds + test_slot_cost(r) + 1);
    CHECK_ERR(kr_conn_local(r, life.conn, &local), ENODATA);
    TEST_UNTIL(r, life.opens == 1);
    CHECK_EQ(tap_fd_count(), fds + test_slot_cost(r));
    CHECK_OK(kr_conn_local(r, life.conn, &local));
    int fd = far_accept(r, &f);
    CHECK_SYS(getpeername(fd, &seen.u.sa, &seen.size));
    CHECK_EQ(seen.size, local.size);
    CHECK_MEM_EQ(&seen.u, &local.u, seen.size);
    CHECK_EQ(local.u.in.sin_addr.s_addr, source.u.in.sin_addr.s_addr);
    CHECK_NE(kr_addr_port(&local), 0);
    end(r, &life);
    test_close(fd);
    over(r);
    far_end(&f);
}

/* Ours: a source port of one's own, twice in a row; while it is in use for this destination it is
 * told. On an address of this process's own, so that nobody else takes the port meanwhile. */
TEST_EACH(connect_from_a_source_port) {
    struct far f = far_begin(IPV4, 8), other = far_begin(IPV4, -1);
    struct kr_addr source = other.addr; /* a port that was free a moment ago */
    source.u.in.sin_addr.s_addr = htonl(0x7f400000u + ((uint32_t)getpid() & 0x3fffffu));
    far_end(&other);
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_connect_opts opts = test_connect_opts();
    opts.source = &source;
    for (unsigned i = 0; i < 3; i++) {
        struct life life, second;
        dial_as(r, &life, &f.addr, &opts);
        int fd = far_accept(r, &f);
        struct kr_addr seen = {.size = sizeof seen.u};
        CHECK_SYS(getpeername(fd, &seen.u.sa, &seen.size));
        CHECK_EQ(kr_addr_port(&seen), kr_addr_port(&source));
        TEST_UNTIL(r, life.opens == 1);
        dial_as(r, &second, &f.addr, &opts);
        check_over(r, &second, -EADDRNOTAVAIL, KR_WHY_CONNECT);
        /* no TIME_WAIT, whose port is in use */
        CHECK_OK(kr_conn_close(r, life.conn, KR_CLOSE_RESET));
        life.closing = true;
        check_over(r, &life, 0, KR_WHY_LOCAL);
        test_close(fd);
    }
    over(r);
    far_end(&f);
}

/* Ours: a Unix client may have a name as well. */
TEST_EACH(connect_from_a_unix_name) {
    struct far f = far_begin(PATH, 8), name = {.fd = -1};
    far_addr(&name, ABSTRACT);
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_connect_opts opts = test_connect_opts();
    opts.source = &name.addr;
    opts.local_address = true;
    struct life life;
    dial_as(r, &life, &f.addr, &opts);
    TEST_UNTIL(r, life.opens == 1);
    struct kr_addr local, seen = {.size = sizeof seen.u};
    CHECK_OK(kr_conn_local(r, life.conn, &local));
    CHECK_MEM_EQ(&local, &name.addr, offsetof(struct kr_addr, u) + name.addr.size);
    int fd = far_accept(r, &f);
    CHECK_SYS(getpeername(fd, &seen.u.sa, &seen.size));
    CHECK_EQ(seen.size, name.addr.size);
    CHECK_MEM_EQ(&seen.u, &name.addr.u, seen.size);
    end(r, &life);
    test_close(fd);
    over(r);
    far_end(&f);
}

/* Ours: a source that cannot be had is told by the call, and nothing has begun. */
TEST_EACH(connect_from_a_bad_source) {
    struct far f = far_begin(IPV4, 8);
    struct kr_reactor *r = test_reactor(NULL);
    int fds = tap_fd_count();
    struct kr_connect_opts opts = test_connect_opts();
    struct kr_addr source;
    opts.source = &source;
    kr_conn conn = {7};
    CHECK_OK(kr_addr_ip(&source, "198.51.100.1", 0));
    CHECK_ERR(kr_connect(r, &conn, &f.addr, &opts, &life_ops, NULL), EADDRNOTAVAIL);
    source = f.addr;
    CHECK_ERR(kr_connect(r, &conn, &f.addr, &opts, &life_ops, NULL), EADDRINUSE);
    CHECK_OK(kr_addr_ip(&source, "::1", 0));
    CHECK_ERR(kr_connect(r, &conn, &f.addr, &opts, &life_ops, NULL), EINVAL);
    CHECK_EQ(conn.bits, 7u);
    CHECK_EQ(tap_fd_count(), fds);
    CHECK_EQ(test_stats(r).conns, 0u);
    over(r);
    far_end(&f);
}

TAP_MAIN(connect, 177)
