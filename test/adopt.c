/* Adopting sockets: what others have connected becomes a connection like any other. */
#include "harness/server.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    CHECK_EQ(conn.bits, ((struct test_server *)user)->conn.bits);
    test_server_open(r, conn, user);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct test_server *s = user;
    CHECK_EQ(s->opens, 1u);
    CHECK_LE(s->bytes + size, 4096u);
    CHECK_OK(kr_conn_send(r, conn, data, size));
    return test_server_data(r, conn, user, data, size);
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    CHECK_EQ(error, 0);
    test_server_close(r, conn, user, error, why);
}

static const struct kr_conn_ops ops = {
    .on_open = on_open, .on_data = on_data, .on_eof = test_server_eof_close, .on_close = on_close};

static const struct kr_conn_ops ops_quiet = {.on_open = on_open,
                                             .on_data = test_server_data,
                                             .on_eof = test_server_eof_close,
                                             .on_close = on_close};

/* Two ends of a connection: a pair of Unix sockets, or over TCP. */
static void ends_make(int ends[2], bool tcp, int flags) {
    if (!tcp) {
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, ends));
        return;
    }
    int listener = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof in;
    CHECK_SYS(bind(listener, (struct sockaddr *)&in, sizeof in));
    CHECK_SYS(listen(listener, 1));
    CHECK_SYS(getsockname(listener, (struct sockaddr *)&in, &size));
    ends[1] = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(connect(ends[1], (struct sockaddr *)&in, sizeof in));
    ends[0] = CHECK_SYS(accept4(listener, NULL, NULL, SOCK_CLOEXEC | flags));
    test_close(listener);
}

static void talk(struct kr_reactor *r, struct test_server *s, int fd) {
    char bytes[1000], back[1000];
    test_pattern(bytes, sizeof bytes, 1, 0);
    CHECK_EQ(write(fd, bytes, sizeof bytes), (long)sizeof bytes);
    TEST_UNTIL(r, s->bytes == sizeof bytes && !kr_conn_queued(r, s->conn));
    CHECK_EQ(recv(fd, back, sizeof back, MSG_WAITALL), (long)sizeof back);
    CHECK_MEM_EQ(bytes, back, sizeof bytes);
    CHECK_SYS(shutdown(fd, SHUT_WR));
    TEST_UNTIL(r, s->closes == 1);
    CHECK_EQ(s->eofs, 1u);
    CHECK_EQ(read(fd, back, 1), 0);
}

/* Ours: an adopted socket is open in the next turn, speaks, and ends; its descriptor is ours to
 * close. It matters not whether it was a blocking one. */
TEST_EACH(adopt_makes_a_connection) {
    struct kr_reactor *r = test_reactor(NULL);
    for (unsigned i = 0; i < 4; i++) {
        struct test_server s = {0};
        int ends[2], before = tap_fd_count();
        ends_make(ends, i % 2, i / 2 ? SOCK_NONBLOCK : 0);
        CHECK_OK(kr_conn_adopt(r, &s.conn, ends[0], NULL, &ops, &s));
        CHECK_EQ(s.opens, 0u);
        CHECK_EQ(tap_fd_count(), before + 1 + test_slot_cost(r));
        TEST_UNTIL(r, s.opens == 1);
        talk(r, &s, ends[1]);
        test_close(ends[1]);
        test_rest(r, (struct test_levels){0});
    }
    test_reactor_free(r);
}

/* Ours: it may be sent to before it is open, and before the reactor has ever run. */
TEST_EACH(adopt_takes_sends_at_once) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    int ends[2];
    ends_make(ends, true, 0);
    CHECK_OK(kr_conn_adopt(r, &s.conn, ends[0], NULL, &ops, &s));
    CHECK_OK(kr_conn_send(r, s.conn, "hello", 5));
    char back[5];
    TEST_UNTIL(r, s.opens == 1 && !kr_conn_queued(r, s.conn));
    CHECK_EQ(recv(ends[1], back, 5, MSG_WAITALL), 5);
    CHECK_MEM_EQ(back, "hello", 5);
    talk(r, &s, ends[1]);
    test_close(ends[1]);
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: a socket that was a non-blocking one is waited for like any other: with a peer that does
 * not read nothing spins, and all bytes come when it does. */
TEST_EACH(adopt_waits_for_a_full_socket) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    int ends[2];
    ends_make(ends, false, SOCK_NONBLOCK);
    CHECK_OK(kr_conn_adopt(r, &s.conn, ends[0], NULL, &ops, &s));
    static char bytes[4 << 20], back[4 << 20];
    test_pattern(bytes, sizeof bytes, 2, 0);
    CHECK_OK(kr_conn_send(r, s.conn, bytes, sizeof bytes));
    TEST_UNTIL(r, s.opens == 1 && kr_conn_queued(r, s.conn) < sizeof bytes);
    test_settle(r); /* the peer's socket is full */
    uint64_t sqes = test_stats(r).sqes;
    for (unsigned i = 0; i < 20; i++)
        test_step(r, "nothing");
    CHECK_EQ(test_stats(r).sqes, sqes);
    test_recv(r, ends[1], back, sizeof back);
    test_pattern_check(back, sizeof back, 2, 0);
    test_close(ends[1]);
    TEST_UNTIL(r, s.closes == 1);
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: both addresses are known. */
TEST_EACH(adopt_knows_the_addresses) {
    struct kr_reactor *r = test_reactor(NULL);
    struct test_server s = {0};
    int ends[2];
    ends_make(ends, true, 0);
    struct sockaddr_in peer, local;
    socklen_t size = sizeof peer;
    CHECK_SYS(getsockname(ends[1], (struct sockaddr *)&peer, &size));
    CHECK_SYS(getpeername(ends[1], (struct sockaddr *)&local, &size));
    CHECK_OK(kr_conn_adopt(r, &s.conn, ends[0], NULL, &ops, &s));
    struct kr_addr addr;
    CHECK_OK(kr_conn_peer(r, s.conn, &addr));
    CHECK_EQ(kr_addr_port(&addr), ntohs(peer.sin_port));
    CHECK_OK(kr_conn_local(r, s.conn, &addr));
    CHECK_EQ(kr_addr_port(&addr), ntohs(local.sin_port));
    talk(r, &s, ends[1]);
    test_close(ends[1]);
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: it may be closed before it was open: on_close comes, on_open does not. */
TEST_EACH(adopt_then_close_at_once) {
    static const enum kr_close hows[] = {KR_CLOSE_LINGER, KR_CLOSE_FLUSH, KR_CLOSE_NOW,
                                         KR_CLOSE_RESET};
    struct kr_reactor *r = test_reactor(NULL);
    for (unsigned i = 0; i < 4; i++) {
        struct test_server s = {0};
        int ends[2];
        ends_make(ends, false, 0);
        CHECK_OK(kr_conn_adopt(r, &s.conn, ends[0], NULL, &ops, &s));
        CHECK_OK(kr_conn_close(r, s.conn, hows[i]));
        TEST_UNTIL(r, s.closes == 1);
        CHECK_EQ(s.opens, 0u);
        char byte;
        CHECK_EQ(read(ends[1], &byte, 1), 0);
        test_close(ends[1]);
    }
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: a reactor that is freed closes what it has adopted, also if it never ran. */
TEST_EACH(adopt_ends_with_the_reactor) {
    for (unsigned ran = 0; ran < 2; ran++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct test_server s = {0};
        int ends[2];
        ends_make(ends, false, 0);
        if (ran)
            test_step(r, "the first turn");
        CHECK_OK(kr_conn_adopt(r, &s.conn, ends[0], NULL, &ops, &s));
        test_reactor_free(r);
        CHECK_EQ(s.closes, 1u);
        char byte;
        CHECK_EQ(read(ends[1], &byte, 1), 0);
        test_close(ends[1]);
    }
}

static void refuse(struct kr_reactor *r, int fd, int error) {
    kr_conn conn = {.bits = 7};
    int before = tap_fd_count();
    CHECK_ERR(kr_conn_adopt(r, &conn, fd, NULL, &ops, NULL), error);
    CHECK_EQ(conn.bits, 7u);
    CHECK_EQ(tap_fd_count(), before);
}

/* Ours: what cannot be a connection is refused, and stays its owner's. */
TEST_EACH(adopt_refuses_what_is_no_stream) {
    struct kr_reactor *r = test_reactor(NULL);
    int null = CHECK_SYS(open("/dev/null", O_RDWR | O_CLOEXEC)), pairs[2];
    int alone = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    int datagrams[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, datagrams));
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pairs));
    refuse(r, -1, EBADF);
    refuse(r, null, ENOTSUP);
    refuse(r, alone, ENOTCONN);
    refuse(r, datagrams[0], ESOCKTNOSUPPORT);
    struct kr_conn_opts bad = test_conn_opts();
    bad.size = 1;
    static const struct kr_conn_ops mute = {.on_open = on_open};
    CHECK_ERR(kr_conn_adopt(NULL, NULL, pairs[0], NULL, &ops, NULL), EINVAL);
    CHECK_ERR(kr_conn_adopt(r, NULL, pairs[0], &bad, &ops, NULL), EINVAL);
    CHECK_ERR(kr_conn_adopt(r, NULL, pairs[0], NULL, &mute, NULL), EINVAL);
    CHECK_ERR(kr_conn_adopt(r, NULL, pairs[0], NULL, NULL, NULL), EINVAL);
    test_reactor_refuse_memory(r, 0);
    refuse(r, pairs[0], ENOMEM);
    test_reactor_refuse_memory(r, -1);
    CHECK_EQ(write(pairs[0], "x", 1), 1);
    for (unsigned i = 0; i < 2; i++) {
        test_close(pairs[i]);
        test_close(datagrams[i]);
    }
    test_close(alone);
    test_close(null);
    test_reactor_free(r);
}

/* Ours: they count against connect_max, and each end makes room for another. */
TEST_EACH(adopt_is_bounded) {
    struct kr_config config = test_config();
    config.connect_max = 3;
    struct kr_reactor *r = test_reactor(&config);
    struct test_server s[4] = {{.bytes = 0}};
    int ends[4][2];
    for (unsigned i = 0; i < 4; i++)
        ends_make(ends[i], false, 0);
    for (unsigned i = 0; i < 3; i++)
        CHECK_OK(kr_conn_adopt(r, &s[i].conn, ends[i][0], NULL, &ops, &s[i]));
    refuse(r, ends[3][0], ENOSPC);
    CHECK_OK(kr_conn_close(r, s[0].conn, KR_CLOSE_NOW));
    TEST_UNTIL(r, s[0].closes == 1);
    CHECK_OK(kr_conn_adopt(r, &s[3].conn, ends[3][0], NULL, &ops, &s[3]));
    for (unsigned i = 1; i < 4; i++)
        talk(r, &s[i], ends[i][1]);
    for (unsigned i = 0; i < 4; i++)
        test_close(ends[i][1]);
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: a socket whose both sides have ended is taken for the bytes that it has left; without any it
 * is not connected. The kernel's: such a socket of TCP has no peer's address any more. */
TEST_EACH(adopt_for_what_is_unread) {
    struct kr_reactor *r = test_reactor(NULL);
    for (unsigned unread = 0; unread <= 5; unread += 5) {
        struct test_server s = {0};
        int ends[2];
        ends_make(ends, true, 0);
        CHECK_EQ(send(ends[1], "bytes", unread, MSG_NOSIGNAL), (long)unread);
        CHECK_SYS(shutdown(ends[0], SHUT_WR));
        char end;
        CHECK_EQ(read(ends[1], &end, 1), 0);
        test_close(ends[1]);
        struct sockaddr_in in;
        socklen_t size = sizeof in;
        while (getpeername(ends[0], (struct sockaddr *)&in, &size) == 0)
            test_step(r, "the end of both sides");
        CHECK_EQ(errno, ENOTCONN);
        int rc = kr_conn_adopt(r, &s.conn, ends[0], NULL, &ops_quiet, &s);
        if (!unread) {
            CHECK_EQ(rc, -ENOTCONN);
            test_close(ends[0]);
            continue;
        }
        CHECK_OK(rc);
        struct kr_addr addr;
        CHECK_ERR(kr_conn_peer(r, s.conn, &addr), ENODATA);
        CHECK_OK(kr_conn_local(r, s.conn, &addr));
        TEST_UNTIL(r, s.closes == 1);
        CHECK_EQ(s.bytes, 5u);
        CHECK_EQ(s.eofs, 1u);
    }
    test_reactor_free(r);
}

TAP_MAIN(adopt, 9 * 4)
