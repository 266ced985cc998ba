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
#include "harness/server.h"

#include "reactor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS INT64_C(1000000)

/* ---- a life ---- */

struct life {
    kr_conn conn;
    bool in_call; /* of kr_connect: nothing may be called back */
    bool closing; /* by this side */
    unsigned opens, datas, eofs, drains, closes;
    size_t bytes;
    int error;
    enum kr_why why;
    int64_t opened_at, closed_at;
};

static void check_alive(const struct life *life, kr_conn conn) {
    CHECK(!life->in_call);
    CHECK_EQ(life->conn.bits, conn.bits);
    CHECK_EQ(life->closes, 0u);
}

static void life_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct life *life = user;
    check_alive(life, conn);
    CHECK(!life->closing);
    CHECK_EQ(life->opens++, 0u);
    life->opened_at = kr_now(r);
}

static size_t life_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
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

static const struct kr_conn_ops life_ops = {
    .on_open = life_open,
    .on_data = life_data,
    .on_eof = life_eof,
    .on_drain = life_drain,
    .on_close = life_close,
};

/* Begins a life; the call must work, and call nothing. */
static void dial_as(struct kr_reactor *r, struct life *life, const struct kr_addr *addr,
                    const struct kr_connect_opts *opts) {
    *life = (struct life){.in_call = true};
    CHECK_OK(kr_connect(r, &life->conn, addr, opts, &life_ops, life));
    life->in_call = false;
    CHECK_NE(life->conn.bits, 0u);
    CHECK(kr_conn_user(r, life->conn) == life);
}

static void dial(struct kr_reactor *r, struct life *life, const struct kr_addr *addr) {
    dial_as(r, life, addr, NULL);
}

/* It is over, for this cause. */
static void check_over(struct kr_reactor *r, struct life *life, int error, enum kr_why why) {
    TEST_UNTIL(r, life->closes > 0);
    if (life->error != error || life->why != why)
        FAIL("ended with %s, %s", kr_errname(life->error), kr_whyname(life->why));
    CHECK_ERR(kr_conn_close(r, life->conn, KR_CLOSE_NOW), ESTALE);
    CHECK_ERR(kr_conn_send(r, life->conn, "x", 1), ESTALE);
    CHECK_EQ(kr_conn_queued(r, life->conn), 0u);
}

static void close_now(struct kr_reactor *r, struct life *life) {
    CHECK_OK(kr_conn_close(r, life->conn, KR_CLOSE_NOW));
    life->closing = true;
}

static void end(struct kr_reactor *r, struct life *life) {
    close_now(r, life);
    check_over(r, life, 0, KR_WHY_LOCAL);
}

/* All have gone: nothing is left in flight, queued or held. */
static void over(struct kr_reactor *r) {
    test_rest(r, (struct test_levels){.conns = 0});
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.connects + stats.connect_errors, stats.closes);
    test_reactor_free(r);
}

/* ---- far ends ---- */

struct far {
    struct kr_addr addr;
    int fd;         /* bound, and listening if it was asked to */
    int fillers[8]; /* clients that fill its backlog */
    unsigned filler_count;
    char dir[32]; /* of a path */
};

/* The families of a case that is about all of them. */
enum family { IPV4, IPV6, PATH, ABSTRACT, FAMILIES };

static void far_addr(struct far *f, enum family family) {
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

/* A far end; backlog -1: it is bound only. Skips the case where there is no IPv6. */
static struct far far_begin(enum family family, int backlog) {
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

static void far_end(struct far *f) {
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

/* One that answers nobody until far_accept has made room. */
static struct far far_silent(enum family family) {
    struct far f = far_begin(family, 0);
    far_fill(&f);
    return f;
}

/* The next one who connected to it; the reactor turns meanwhile. */
static int far_accept(struct kr_reactor *r, struct far *f) {
    int fd;
    while ((fd = accept4(f->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) < 0) {
        CHECK_EQ(errno, EAGAIN);
        test_step(r, "somebody to connect");
    }
    return fd;
}

static void send_pattern(struct kr_reactor *r, int fd, size_t size) {
    char *bytes = malloc(size);
    CHECK(bytes);
    test_pattern(bytes, size, 2, 0);
    test_send(r, fd, bytes, size);
    free(bytes);
}

static void recv_pattern(struct kr_reactor *r, int fd, size_t size) {
    char *bytes = malloc(size);
    CHECK(bytes);
    test_recv(r, fd, bytes, size);
    test_pattern_check(bytes, size, 1, 0);
    free(bytes);
}

static void queue_pattern(struct kr_reactor *r, kr_conn conn, size_t size) {
    char *bytes = malloc(size);
    CHECK(bytes);
    test_pattern(bytes, size, 1, 0);
    CHECK_OK(kr_conn_send(r, conn, bytes, size));
    free(bytes);
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

struct echo_server {
    unsigned opens, closes;
};

static void echo_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    (void)conn;
    ((struct echo_server *)user)->opens++;
}

static void echo_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    (void)r;
    (void)conn;
    (void)error;
    (void)why;
    ((struct echo_server *)user)->closes++;
}

static const struct kr_conn_ops echo_ops = {
    .on_open = echo_open,
    .on_data = test_send_back,
    .on_close = echo_close,
};

static struct kr_addr loopback(uint16_t port) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", port));
    return addr;
}

/* Ours: both ends of a connection may be this reactor's. */
TEST_EACH(connect_to_itself) {
    struct kr_reactor *r = test_reactor(NULL);
    struct echo_server server = {0};
    kr_listener listener;
    struct kr_addr addr = loopback(test_listen(r, &listener, NULL, &echo_ops, &server));
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
    test_rest(r, (struct test_levels){.conns = 0});
    test_reactor_free(r);
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

/* ---- it does not ---- */

/* Ours: the kernel's word arrives by on_close, and there was no on_open. */
static void check_fails(const struct kr_addr *addr, int error) {
    struct kr_reactor *r = test_reactor(NULL);
    int fds = tap_fd_count();
    struct life life;
    dial(r, &life, addr);
    CHECK_OK(kr_conn_send(r, life.conn, "in vain", 7));
    check_over(r, &life, error, KR_WHY_CONNECT);
    CHECK_EQ(life.opens, 0u);
    CHECK_EQ(test_stats(r).connect_errors, 1u);
    CHECK_EQ(test_stats(r).connects, 0u);
    CHECK_EQ(tap_fd_count(), fds);
    over(r);
}

static void check_refused(enum family family) {
    struct far f = far_begin(family, -1);
    check_fails(&f.addr, -ECONNREFUSED);
    far_end(&f);
}

TEST_EACH(connect_refused_ipv4) {
    check_refused(IPV4);
}

TEST_EACH(connect_refused_ipv6) {
    check_refused(IPV6);
}

TEST_EACH(connect_refused_unix) {
    check_refused(PATH);
    check_refused(ABSTRACT);
}

/* The kernel's: TCP does not go to a group (tcp_v4_connect, net/ipv4/tcp_ipv4.c), with or without a
 * route. */
TEST_EACH(connect_unreachable) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "224.0.0.1", 9));
    check_fails(&addr, -ENETUNREACH);
}

/* The kernel's: a path with nothing there, a name that nobody has, a socket of another kind, and no
 * name. */
TEST_EACH(connect_unix_errors) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_unix(&addr, "/tmp/kr-connect/there/is/no/such/socket"));
    check_fails(&addr, -ENOENT);
    CHECK_OK(kr_addr_unix(&addr, "/dev/null"));
    check_fails(&addr, -ECONNREFUSED);
    CHECK_OK(kr_addr_unix(&addr, "@kr-connect: nobody has this name"));
    check_fails(&addr, -ECONNREFUSED);
    struct far f = {.fd = CHECK_SYS(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0))};
    far_addr(&f, PATH);
    CHECK_SYS(bind(f.fd, &f.addr.u.sa, f.addr.size));
    check_fails(&f.addr, -EPROTOTYPE);
    far_end(&f);
    addr.size = sizeof addr.u.sa.sa_family;
    check_fails(&addr, -EINVAL);
}

static void check_times_out(enum family family) {
    struct far f = far_silent(family);
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_connect_opts opts = test_connect_opts();
    opts.timeout_ns = 60 * MS;
    struct life life;
    int64_t began = tap_now_ns();
    dial_as(r, &life, &f.addr, &opts);
    check_over(r, &life, -ETIMEDOUT, KR_WHY_TIMEOUT);
    CHECK_GE(life.closed_at - began, 60 * MS);
    CHECK_EQ(life.opens, 0u);
    over(r);
    far_end(&f);
}

/* Ours: a far end that says nothing is given up at the deadline, and not before. */
TEST_EACH(connect_times_out_tcp) {
    check_times_out(IPV4);
}

TEST_EACH(connect_times_out_unix) {
    check_times_out(PATH);
}

/* Ours: the deadline of the connecting is not one of the connection. */
TEST_EACH(connect_deadline_ends_when_it_stands) {
    for (enum family family = IPV4; family < FAMILIES; family += PATH) {
        struct far f = far_begin(family, 8);
        struct kr_reactor *r = test_reactor(NULL);
        struct kr_connect_opts opts = test_connect_opts();
        opts.timeout_ns = 30 * MS;
        struct life life;
        dial_as(r, &life, &f.addr, &opts);
        int fd = far_accept(r, &f);
        int64_t until = tap_now_ns() + 60 * MS;
        TEST_UNTIL(r, tap_now_ns() > until);
        CHECK_EQ(life.opens, 1u);
        CHECK_EQ(life.closes, 0u);
        end(r, &life);
        test_close(fd);
        over(r);
        far_end(&f);
    }
}

/* Ours: the deadline and the answer at the same moment; either wins, and it is one of the two. */
TEST_EACH(connect_deadline_races_with_the_answer) {
    struct far f = far_begin(IPV4, 64);
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_connect_opts opts = test_connect_opts();
    unsigned stood = 0;
    for (unsigned i = 0; i < 300; i++) {
        opts.timeout_ns = 1 + (int64_t)tap_random_below(200000);
        struct life life;
        dial_as(r, &life, &f.addr, &opts);
        TEST_UNTIL(r, life.opens || life.closes);
        stood += life.opens;
        if (life.opens)
            end(r, &life);
        else
            check_over(r, &life, -ETIMEDOUT, KR_WHY_TIMEOUT);
        int fd;
        while ((fd = accept4(f.fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
            test_close(fd);
    }
    tap_note("%u of 300 stood", stood);
    over(r);
    far_end(&f);
}

/* Ours: a Unix listener with a full backlog is a matter of time; no thread of the kernel's waits
 * for it. */
TEST_EACH(connect_unix_waits_for_room_in_the_backlog) {
    struct far f = far_silent(PATH);
    struct kr_reactor *r = test_reactor(NULL);
    struct life lives[20];
    for (unsigned i = 0; i < 20; i++)
        dial(r, &lives[i], &f.addr);
    int64_t until = tap_now_ns() + 50 * MS;
    TEST_UNTIL(r, tap_now_ns() > until);
    CHECK_EQ(test_stats(r).inflight, 1u); /* the wake-up alone */
    int fds[21];
    for (unsigned i = 0; i < 21; i++) /* one of those who filled it, and ours */
        fds[i] = far_accept(r, &f);
    for (unsigned i = 0; i < 20; i++) {
        TEST_UNTIL(r, lives[i].opens == 1);
        end(r, &lives[i]);
    }
    for (unsigned i = 0; i < 21; i++)
        test_close(fds[i]);
    over(r);
    far_end(&f);
}

/* The kernel's, and ours: a peer that takes the connection and resets it at once: it opens, then it
 * ends, or the reset is seen first. */
TEST_EACH(connect_to_a_peer_that_resets) {
    struct far f = far_begin(IPV4, 8);
    struct kr_reactor *r = test_reactor(NULL);
    struct life life;
    dial(r, &life, &f.addr);
    int fd = far_accept(r, &f);
    test_close_reset(fd);
    TEST_UNTIL(r, life.closes == 1);
    CHECK_EQ(life.error, -ECONNRESET);
    CHECK_EQ(life.why, life.opens ? KR_WHY_ERROR : KR_WHY_CONNECT);
    over(r);
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
 * told. */
TEST_EACH(connect_from_a_source_port) {
    struct far f = far_begin(IPV4, 8), other = far_begin(IPV4, -1);
    struct kr_addr source = other.addr; /* a port that was free a moment ago */
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

/* ---- closed before it stands ---- */

static const enum kr_close manners[] = {KR_CLOSE_LINGER, KR_CLOSE_FLUSH, KR_CLOSE_NOW,
                                        KR_CLOSE_RESET};
#define MANNERS 4u

static void check_given_up(struct kr_reactor *r, struct far *f, enum kr_close how, unsigned turns) {
    struct life life;
    dial(r, &life, &f->addr);
    for (unsigned i = 0; i < turns; i++)
        CHECK_OK(kr_step(r, 0));
    CHECK_EQ(life.opens, 0u);
    CHECK_OK(kr_conn_close(r, life.conn, how));
    life.closing = true;
    CHECK_ERR(kr_conn_send(r, life.conn, "x", 1), EPIPE);
    CHECK_ERR(kr_conn_pause(r, life.conn), EPIPE);
    CHECK_ERR(kr_conn_shutdown(r, life.conn), EPIPE);
    CHECK_OK(kr_conn_close(r, life.conn, KR_CLOSE_NOW));
    check_over(r, &life, 0, KR_WHY_LOCAL);
}

/* Ours: an attempt is given up at any moment, in every manner, and leaves nothing behind. */
TEST_EACH(connect_closed_before_it_stands) {
    struct kr_reactor *r = test_reactor(NULL);
    for (enum family family = IPV4; family < FAMILIES; family += PATH) {
        struct far f = far_silent(family);
        for (unsigned i = 0; i < MANNERS; i++) {
            for (unsigned turns = 0; turns < 3; turns++)
                check_given_up(r, &f, manners[i], turns);
        }
        far_end(&f);
    }
    CHECK_EQ(test_stats(r).connect_errors, 24u);
    over(r);
}

/* Ours: a close while the answer is under way. Before the answer has been seen it is the cause of
 * the end; after a refusal was, that is. */
TEST_EACH(connect_closed_as_it_is_answered) {
    for (unsigned i = 0; i < 400; i++) {
        enum family family = i % 2 ? PATH : IPV4;
        struct far f = far_begin(family, i % 4 < 2 ? 8 : -1);
        struct kr_reactor *r = test_reactor(NULL);
        struct life life;
        dial(r, &life, &f.addr);
        for (uint64_t turns = tap_random_below(3); turns; turns--)
            CHECK_OK(kr_step(r, 0));
        bool refused = test_stats(r).connect_errors;
        if (!life.closes) {
            CHECK_OK(kr_conn_close(r, life.conn, manners[1 + i % (MANNERS - 1)]));
            life.closing = true;
            TEST_UNTIL(r, life.closes == 1);
        }
        CHECK_EQ(life.why, refused ? KR_WHY_CONNECT : KR_WHY_LOCAL);
        over(r);
        far_end(&f);
    }
}

static void check_flushed(enum family family, enum kr_close how) {
    struct far f = far_begin(family, 8);
    struct kr_reactor *r = test_reactor(NULL);
    struct life life;
    dial(r, &life, &f.addr);
    queue_pattern(r, life.conn, 300000);
    CHECK_OK(kr_conn_close(r, life.conn, how));
    life.closing = true;
    int fd = far_accept(r, &f);
    send_pattern(r, fd, 1000); /* dropped, or never read */
    recv_pattern(r, fd, 300000);
    if (how == KR_CLOSE_LINGER) {
        CHECK_EQ(test_recv_end(r, fd, NULL), 0);
        CHECK_EQ(life.closes, 0u);
        CHECK_SYS(shutdown(fd, SHUT_WR));
    }
    check_over(r, &life, 0, KR_WHY_LOCAL);
    CHECK_EQ(life.opens, 0u);
    test_close(fd);
    over(r);
    far_end(&f);
}

/* Ours: "connect, send, close" delivers, though nothing stood when it was said. */
TEST_EACH(connect_close_flush_delivers_tcp) {
    check_flushed(IPV4, KR_CLOSE_FLUSH);
}

TEST_EACH(connect_close_flush_delivers_unix) {
    check_flushed(PATH, KR_CLOSE_FLUSH);
}

/* Ours: and so does lingering, which then waits for the peer's end as ever. */
TEST_EACH(connect_close_linger_delivers) {
    check_flushed(IPV4, KR_CLOSE_LINGER);
    check_flushed(PATH, KR_CLOSE_LINGER);
}

/* Ours: and if it never stands, that is told; if it takes too long, the flush deadline or that of
 * the connecting ends it, whichever is first. */
TEST_EACH(connect_close_flush_in_vain) {
    for (enum family family = IPV4; family < FAMILIES; family += PATH) {
        struct kr_reactor *r = test_reactor(NULL);
        struct kr_connect_opts opts = test_connect_opts();
        struct far refusing = far_begin(family, -1), silent = far_silent(family);
        struct life lives[3];
        dial(r, &lives[0], &refusing.addr);
        opts.conn.flush_ns = 40 * MS;
        dial_as(r, &lives[1], &silent.addr, &opts);
        opts.timeout_ns = 40 * MS;
        opts.conn.flush_ns = 60000 * MS;
        dial_as(r, &lives[2], &silent.addr, &opts);
        int64_t began = tap_now_ns();
        for (unsigned i = 0; i < 3; i++) {
            CHECK_OK(kr_conn_send(r, lives[i].conn, "in vain", 7));
            CHECK_OK(kr_conn_close(r, lives[i].conn, KR_CLOSE_FLUSH));
            lives[i].closing = true;
        }
        check_over(r, &lives[0], -ECONNREFUSED, KR_WHY_CONNECT);
        check_over(r, &lives[1], -ETIMEDOUT, KR_WHY_TIMEOUT);
        check_over(r, &lives[2], -ETIMEDOUT, KR_WHY_TIMEOUT);
        CHECK_GE(lives[1].closed_at - began, 40 * MS);
        CHECK_GE(lives[2].closed_at - began, 30 * MS);
        over(r);
        far_end(&refusing);
        far_end(&silent);
    }
}

/* Ours: the far end of a connection that is flushed before it stands has the whole flush deadline,
 * counted from when it stands. */
TEST_EACH(connect_close_flush_to_one_that_does_not_read) {
    struct far f = far_begin(IPV4, 8);
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_connect_opts opts = test_connect_opts();
    opts.conn.flush_ns = 50 * MS;
    struct life life;
    dial_as(r, &life, &f.addr, &opts);
    queue_pattern(r, life.conn, (size_t)15 << 20);
    CHECK_OK(kr_conn_close(r, life.conn, KR_CLOSE_FLUSH));
    life.closing = true;
    int fd = far_accept(r, &f);
    check_over(r, &life, -ETIMEDOUT, KR_WHY_TIMEOUT);
    CHECK_GT(test_stats(r).bytes_out, 0u);
    test_close(fd);
    over(r);
    far_end(&f);
}

/* ---- before it stands ---- */

/* Ours: what is queued before it stands arrives whole and in order, by whichever call. Unix sockets
 * wait meanwhile, TCP is given no turn. */
static void check_queue(enum family family) {
    struct far f = family == PATH ? far_silent(family) : far_begin(family, 8);
    struct kr_reactor *r = test_reactor(NULL);
    struct life life;
    dial(r, &life, &f.addr);
    char bytes[10000];
    test_pattern(bytes, sizeof bytes, 1, 0);
    CHECK_OK(kr_conn_send(r, life.conn, bytes, 1000));
    if (family == PATH)
        CHECK_OK(kr_step(r, 0));
    struct iovec iov[2] = {{bytes + 1000, 1500}, {bytes + 2500, 2500}};
    CHECK_OK(kr_conn_sendv(r, life.conn, iov, 2));
    void *room;
    CHECK_OK(kr_conn_reserve(r, life.conn, 6000, &room));
    memcpy(room, bytes + 5000, 5000);
    CHECK_OK(kr_conn_commit(r, life.conn, 5000));
    CHECK_EQ(kr_conn_queued(r, life.conn), sizeof bytes);
    if (family == PATH)
        test_close(far_accept(r, &f)); /* one of those who filled it */
    CHECK_EQ(life.opens, 0u);
    int fd = far_accept(r, &f);
    recv_pattern(r, fd, sizeof bytes);
    TEST_UNTIL(r, life.opens == 1);
    end(r, &life);
    test_close(fd);
    over(r);
    far_end(&f);
}

TEST_EACH(connect_queue_before_it_stands_tcp) {
    check_queue(IPV4);
}

TEST_EACH(connect_queue_before_it_stands_unix) {
    check_queue(PATH);
}

/* Ours: the cap holds before it stands as after, and on_drain comes after on_open. */
TEST_EACH(connect_queue_is_bounded_before_it_stands) {
    struct far f = far_begin(IPV4, 8);
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_connect_opts opts = test_connect_opts();
    opts.conn.send_low = 100;
    opts.conn.send_high = 1000;
    opts.conn.send_cap = 5000;
    struct life life;
    dial_as(r, &life, &f.addr, &opts);
    queue_pattern(r, life.conn, 5000);
    CHECK_ERR(kr_conn_send(r, life.conn, "x", 1), ENOBUFS);
    int fd = far_accept(r, &f);
    recv_pattern(r, fd, 5000);
    TEST_UNTIL(r, life.drains == 1);
    send_pattern(r, fd, 100);
    TEST_UNTIL(r, life.bytes == 100);
    end(r, &life);
    test_close(fd);
    over(r);
    far_end(&f);
}

/* Ours: one that is paused before it stands reads nothing until it is resumed. */
TEST_EACH(connect_paused_before_it_stands) {
    for (enum family family = IPV4; family < FAMILIES; family += PATH) {
        struct far f = far_begin(family, 8);
        struct kr_reactor *r = test_reactor(NULL);
        struct life life;
        dial(r, &life, &f.addr);
        CHECK_OK(kr_conn_pause(r, life.conn));
        int fd = far_accept(r, &f);
        send_pattern(r, fd, 1000);
        TEST_UNTIL(r, life.opens == 1);
        for (unsigned i = 0; i < 5; i++)
            CHECK_OK(kr_step(r, MS));
        CHECK_EQ(life.datas, 0u);
        CHECK_OK(kr_conn_resume(r, life.conn));
        TEST_UNTIL(r, life.bytes == 1000);
        end(r, &life);
        test_close(fd);
        over(r);
        far_end(&f);
    }
}

/* Ours: a side that was ended before the connection stood ends behind what was queued, and reads
 * on. */
TEST_EACH(connect_shut_down_before_it_stands) {
    for (enum family family = IPV4; family < FAMILIES; family += PATH) {
        struct far f = far_begin(family, 8);
        struct kr_reactor *r = test_reactor(NULL);
        struct life life;
        dial(r, &life, &f.addr);
        queue_pattern(r, life.conn, 5000);
        CHECK_OK(kr_conn_shutdown(r, life.conn));
        CHECK_ERR(kr_conn_send(r, life.conn, "x", 1), EPIPE);
        int fd = far_accept(r, &f);
        recv_pattern(r, fd, 5000);
        CHECK_EQ(test_recv_end(r, fd, NULL), 0);
        send_pattern(r, fd, 1000);
        TEST_UNTIL(r, life.bytes == 1000);
        end(r, &life);
        test_close(fd);
        over(r);
        far_end(&f);
    }
}

/* ---- before the first turn, and at the last ---- */

/* Ours: a reactor that has never run takes them, and they stand once it runs. */
TEST_EACH(connect_before_the_first_run) {
    for (enum family family = IPV4; family < FAMILIES; family += PATH) {
        struct far f = far_begin(family, 8);
        struct kr_reactor *r = test_reactor(NULL);
        struct life lives[3];
        for (unsigned i = 0; i < 3; i++)
            dial(r, &lives[i], &f.addr);
        queue_pattern(r, lives[0].conn, 1000);
        close_now(r, &lives[1]);
        int fd = far_accept(r, &f);
        recv_pattern(r, fd, 1000);
        CHECK_EQ(lives[0].opens, 1u);
        check_over(r, &lives[1], 0, KR_WHY_LOCAL);
        TEST_UNTIL(r, lives[2].opens == 1);
        end(r, &lives[0]);
        end(r, &lives[2]);
        test_close(fd);
        over(r);
        far_end(&f);
    }
}

/* Ours: and one that never runs at all tells each of them of the end, once. */
TEST_EACH(connect_and_free_without_a_run) {
    for (enum family family = IPV4; family < FAMILIES; family += PATH) {
        struct far f = far_begin(family, 8);
        struct kr_reactor *r = test_reactor(NULL);
        int fds = tap_fd_count();
        struct life lives[3];
        for (unsigned i = 0; i < 3; i++)
            dial(r, &lives[i], &f.addr);
        queue_pattern(r, lives[0].conn, 1000);
        close_now(r, &lives[1]);
        queue_pattern(r, lives[2].conn, 1000);
        CHECK_OK(kr_conn_close(r, lives[2].conn, KR_CLOSE_FLUSH));
        test_reactor_free(r);
        CHECK_LT(tap_fd_count(), fds);
        for (unsigned i = 0; i < 3; i++) {
            CHECK_EQ(lives[i].opens, 0u);
            CHECK_EQ(lives[i].closes, 1u);
            CHECK_EQ(lives[i].error, 0);
            CHECK_EQ(lives[i].why, i == 0 ? KR_WHY_REACTOR : KR_WHY_LOCAL);
        }
        far_end(&f);
    }
}

/* Ours: the end of a reactor that is connecting, in every state of that. */
TEST_EACH(connect_and_free_in_flight) {
    for (enum family family = IPV4; family < FAMILIES; family += PATH) {
        struct far silent = far_silent(family), f = far_begin(family, 8);
        for (unsigned turns = 0; turns < 4; turns++) {
            struct kr_reactor *r = test_reactor(NULL);
            CHECK_OK(kr_step(r, 0));
            struct life lives[4];
            for (unsigned i = 0; i < 4; i++)
                dial(r, &lives[i], i < 3 ? &silent.addr : &f.addr);
            close_now(r, &lives[1]);
            queue_pattern(r, lives[2].conn, 1000);
            CHECK_OK(kr_conn_close(r, lives[2].conn, KR_CLOSE_FLUSH));
            lives[2].closing = true;
            for (unsigned i = 0; i < turns; i++)
                CHECK_OK(kr_step(r, 0));
            test_reactor_free(r);
            for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(lives[i].closes, 1u);
            CHECK_EQ(lives[0].why, KR_WHY_REACTOR);
            CHECK_EQ(lives[3].why, KR_WHY_REACTOR);
            CHECK_EQ(lives[2].why, KR_WHY_LOCAL);
        }
        far_end(&f);
        far_end(&silent);
    }
}

static void connect_when_freed(struct kr_reactor *r, kr_conn conn, void *user, int error,
                               enum kr_why why) {
    (void)conn;
    (void)error;
    CHECK_EQ(why, KR_WHY_REACTOR);
    struct life *life = user;
    life->closes++;
    struct kr_addr addr = loopback(9);
    CHECK_ERR(kr_connect(r, NULL, &addr, NULL, &life_ops, NULL), ESHUTDOWN);
}

/* Ours: nothing new begins once the end has. */
TEST_EACH(connect_while_freeing_is_refused) {
    static const struct kr_conn_ops ops = {.on_data = life_data, .on_close = connect_when_freed};
    struct far f = far_silent(IPV4);
    for (unsigned turns = 0; turns < 2; turns++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct life life = {0};
        CHECK_OK(kr_connect(r, NULL, &f.addr, NULL, &ops, &life));
        if (turns)
            CHECK_OK(kr_step(r, 0));
        test_reactor_free(r);
        CHECK_EQ(life.closes, 1u);
    }
    far_end(&f);
}

/* ---- from callbacks ---- */

struct chain {
    struct kr_addr addr;
    struct life life;
    unsigned left, links;
    bool in_open;
};

static const struct kr_conn_ops chain_ops;

static void chain_next(struct kr_reactor *r, struct chain *chain) {
    if (chain->left == 0)
        return;
    chain->left--;
    chain->links++;
    CHECK_OK(kr_connect(r, NULL, &chain->addr, NULL, &chain_ops, chain));
}

static void chain_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct chain *chain = user;
    if (chain->in_open)
        chain_next(r, chain);
    CHECK_OK(kr_conn_send(r, conn, "x", 1));
}

static size_t chain_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    (void)data;
    chain_next(r, user);
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
    return size;
}

static void chain_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                        enum kr_why why) {
    (void)conn;
    (void)error;
    (void)why;
    struct chain *chain = user;
    chain->links--;
    chain_next(r, chain);
}

static const struct kr_conn_ops chain_ops = {
    .on_open = chain_open,
    .on_data = chain_data,
    .on_close = chain_close,
};

static void chain_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    chain_next(r, user);
}

static void chain_post(struct kr_reactor *r, void *user) {
    chain_next(r, user);
}

/* Ours: it may be called in every callback; connections that succeed one another in on_close, as
 * those of a program that tries again, do not starve what else there is. */
TEST_EACH(connect_from_callbacks) {
    struct kr_reactor *r = test_reactor(NULL);
    struct echo_server server = {0};
    kr_listener listener;
    struct chain chain = {.left = 300};
    chain.addr = loopback(test_listen(r, &listener, NULL, &echo_ops, &server));
    CHECK_OK(kr_timer_start(r, NULL, 0, 0, chain_timer, &chain));
    CHECK_OK(kr_post(r, chain_post, &chain));
    TEST_UNTIL(r, chain.left < 298);
    chain.in_open = true;
    TEST_UNTIL(r, chain.left == 0 && chain.links == 0 && server.closes == 300);
    struct far f = far_begin(IPV4, -1);
    chain = (struct chain){.left = 300, .addr = f.addr};
    chain_next(r, &chain);
    TEST_UNTIL(r, chain.left == 0 && chain.links == 0);
    CHECK_EQ(test_stats(r).connect_errors, 300u);
    CHECK_OK(kr_listener_close(r, listener));
    test_rest(r, (struct test_levels){.conns = 0});
    test_reactor_free(r);
    far_end(&f);
}

/* ---- how many ---- */

/* Ours: connect_max bounds them, whatever state they are in; each that has closed makes room for
 * one. Those that are accepted have slots of their own, and take none of theirs. */
TEST_EACH(connect_max_bounds_them) {
    struct kr_config config = test_config();
    config.conn_max = 4;
    config.connect_max = 4;
    struct kr_reactor *r = test_reactor(&config);
    struct echo_server server = {0};
    kr_listener listener;
    struct kr_addr addr = loopback(test_listen(r, &listener, NULL, &echo_ops, &server));
    struct life lives[4];
    int fds = tap_fd_count();
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < 4; i++)
            dial(r, &lives[i], &addr);
        for (unsigned turns = round % 5; turns; turns--)
            CHECK_OK(kr_step(r, 0));
        kr_conn conn = {7};
        CHECK_ERR(kr_connect(r, &conn, &addr, NULL, &life_ops, NULL), ENOSPC);
        CHECK_EQ(conn.bits, 7u);
        for (unsigned i = 0; i < 4; i++)
            TEST_UNTIL(r, lives[i].opens == 1);
        TEST_UNTIL(r, server.opens == 4 * (round + 1)); /* the table is full */
        CHECK_EQ(tap_fd_count(), fds + 8 * test_slot_cost(r));
        CHECK_EQ(test_stats(r).conns, 8u);
        for (unsigned i = 0; i < 4; i++)
            end(r, &lives[i]);
        TEST_UNTIL(r, server.closes == server.opens);
    }
    CHECK_OK(kr_listener_close(r, listener));
    test_rest(r, (struct test_levels){.conns = 0});
    test_reactor_free(r);
}

static void dial_in_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                          enum kr_why why) {
    (void)conn;
    (void)error;
    (void)why;
    struct life *life = user;
    life->closes++;
    struct kr_addr addr = loopback(9);
    CHECK_ERR(kr_connect(r, NULL, &addr, NULL, &life_ops, NULL), ENOSPC);
}

/* Ours: in on_close the connection's own slot is not free yet. */
TEST_EACH(connect_max_counts_one_that_is_closing) {
    static const struct kr_conn_ops ops = {.on_data = life_data, .on_close = dial_in_close};
    struct kr_config config = test_config();
    config.connect_max = 1;
    struct kr_reactor *r = test_reactor(&config);
    struct far f = far_begin(IPV4, -1);
    struct life life = {0};
    CHECK_OK(kr_connect(r, NULL, &f.addr, NULL, &ops, &life));
    TEST_UNTIL(r, life.closes == 1);
    dial(r, &life, &f.addr);
    check_over(r, &life, -ECONNREFUSED, KR_WHY_CONNECT);
    over(r);
    far_end(&f);
}

/* Ours: thousands of lives in few slots leave nothing, and once warm hardly ask for memory: less
 * than once in a hundred lives, for a queue that is longer than those before. */
TEST_EACH(connect_storm, .deadline_s = 60) {
    enum { SLOTS = 32 };
    unsigned rounds = tap_full() ? 1000 : 150;
    struct kr_config config = test_config();
    config.connect_max = SLOTS;
    struct kr_reactor *r = test_reactor(&config);
    struct echo_server server = {0};
    kr_listener listener;
    struct kr_addr addr = loopback(test_listen(r, &listener, NULL, &echo_ops, &server));
    struct far f = far_begin(ABSTRACT, 8), refusing = far_begin(IPV4, -1);
    static struct life lives[SLOTS];
    uint64_t allocs = 0;
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < SLOTS; i++) {
            dial(r, &lives[i], i % 8 == 7 ? &refusing.addr : i % 8 == 6 ? &f.addr : &addr);
            if (i % 8 == 5)
                close_now(r, &lives[i]);
            else
                queue_pattern(r, lives[i].conn, 1 + tap_random_below(3000));
        }
        for (unsigned i = 0; i < SLOTS; i++) {
            struct life *life = &lives[i];
            TEST_UNTIL(r, life->opens || life->closes);
            if (!life->closes)
                CHECK_OK(kr_conn_close(r, life->conn, manners[i % MANNERS]));
            life->closing = true;
        }
        for (unsigned i = 0; i < SLOTS; i++)
            TEST_UNTIL(r, lives[i].closes == 1);
        int fd;
        while ((fd = accept4(f.fd, NULL, NULL, SOCK_CLOEXEC)) >= 0)
            test_close(fd);
        TEST_UNTIL(r, test_stats(r).conns == 0);
        if (round == rounds / 3)
            allocs = test_stats(r).allocs;
    }
    CHECK_EQ(test_stats(r).connects + test_stats(r).connect_errors, (uint64_t)rounds * SLOTS);
    CHECK_LE(test_stats(r).allocs, allocs + rounds * 2 / 3 * SLOTS / 100);
    CHECK_OK(kr_listener_close(r, listener));
    test_rest(r, (struct test_levels){.conns = 0});
    test_reactor_free(r);
    far_end(&f);
    far_end(&refusing);
}

/* ---- refusals of the call ---- */

/* The kernel's, and ours: at RLIMIT_NOFILE no socket can be made, which the call tells; later it
 * can. */
TEST_EACH(connect_without_a_descriptor) {
    struct far f = far_begin(IPV4, 8);
    struct kr_reactor *r = test_reactor(NULL);
    int next = CHECK_SYS(dup(0));
    CHECK_SYS(close(next));
    struct rlimit limit, low;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &limit));
    low = limit;
    low.rlim_cur = (rlim_t)next;
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &low));
    kr_conn conn = {7};
    for (unsigned i = 0; i < 300; i++) /* more often than there are slots: none may be lost */
        CHECK_ERR(kr_connect(r, &conn, &f.addr, NULL, &life_ops, NULL), EMFILE);
    CHECK_EQ(conn.bits, 7u);
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    struct life life;
    dial(r, &life, &f.addr);
    int fd = far_accept(r, &f);
    TEST_UNTIL(r, life.opens == 1);
    end(r, &life);
    test_close(fd);
    over(r);
    far_end(&f);
}

static void refuse(struct kr_reactor *r, const struct kr_addr *addr,
                   const struct kr_connect_opts *opts, const struct kr_conn_ops *ops) {
    kr_conn conn = {7};
    CHECK_ERR(kr_connect(r, &conn, addr, opts, ops, NULL), EINVAL);
    CHECK_EQ(conn.bits, 7u);
    CHECK_EQ(test_stats(r).conns, 0u);
}

/* Ours: whatever is out of its range is refused and begins nothing. */
TEST_EACH(connect_refuses_bad_arguments) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr good = loopback(9), bad;
    refuse(r, NULL, NULL, &life_ops);
    refuse(r, &good, NULL, NULL);
    refuse(r, &good, NULL, &(struct kr_conn_ops){.on_open = life_open});
    bad = good;
    bad.u.sa.sa_family = AF_NETLINK;
    refuse(r, &bad, NULL, &life_ops);
    bad = good;
    bad.size = 0;
    refuse(r, &bad, NULL, &life_ops);
    bad.size = sizeof bad.u + 1;
    refuse(r, &bad, NULL, &life_ops);
    struct kr_connect_opts opts;
#define REFUSE(field_, value_)                                                                     \
    do {                                                                                           \
        kr_connect_opts_init(&opts);                                                               \
        opts.field_ = (value_);                                                                    \
        refuse(r, &good, &opts, &life_ops);                                                        \
    } while (0)
    REFUSE(size, 0);
    REFUSE(size, sizeof opts + 1);
    REFUSE(conn.size, 0);
    REFUSE(conn.recv_cap, (size_t)1 << 31);
    REFUSE(conn.flush_ns, -1);
    REFUSE(conn.send_low, (size_t)1 << 31);
    bad = good;
    bad.size = 0;
    REFUSE(source, &bad);
    CHECK_ERR(kr_connect(NULL, NULL, &good, NULL, &life_ops, NULL), EINVAL);
    over(r);
}

/* Ours: the defaults are those that the header gives. */
TEST(connect_opts_are_as_documented) {
    struct kr_connect_opts o;
    memset(&o, 0x5a, sizeof o);
    kr_connect_opts_init(&o);
    CHECK_EQ(o.size, sizeof o);
    CHECK(!o.source && !o.local_address);
    CHECK_EQ(o.timeout_ns, 30000 * MS);
    CHECK_EQ(o.conn.size, sizeof o.conn);
    CHECK(o.conn.no_delay);
}

TAP_MAIN(connect, 165)
