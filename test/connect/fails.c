/* Attempts that come to nothing: refused, timed out, closed, or overtaken by the end. */
#include "connect/connect.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

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

/* ---- closed before it stands ---- */

const enum kr_close manners[] = {KR_CLOSE_LINGER, KR_CLOSE_FLUSH, KR_CLOSE_NOW, KR_CLOSE_RESET};

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

/* Ours: the cap holds before it stands as after, and on_writable comes after on_open. */
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
    UNUSED(conn, error);
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
