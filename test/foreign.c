/* Sockets made by others, adopted or inherited with whatever had been set on them, was on its way to
 * them or lay in them: each serves, flushes, ends and is closed like one of ours, and none holds up
 * the reactor.
 *
 * How a reactor that stands still is noticed: by the case's deadline. What would hold it up is made
 * to last for hours. */
#include "harness/net.h"

#include "kernel/probe.h"
#include "reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOURS 10 * 3600
#define BULK ((size_t)1 << 20)

/* ---- this side ---- */

struct seen {
    kr_conn conn; /* the last one */
    kr_conn all[4];
    unsigned opens, eofs, closes, released;
    size_t got;
    int error, fd;
    bool mute; /* answers nothing */
    char bytes[1024];
};

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct seen *s = user;
    (void)r;
    CHECK_LT(s->opens, COUNT(s->all));
    s->conn = s->all[s->opens++] = conn;
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct seen *s = user;
    if (s->got + size <= sizeof s->bytes)
        memcpy(s->bytes + s->got, data, size);
    s->got += size;
    if (!s->mute)
        CHECK_OK(kr_conn_send(r, conn, data, size));
    return size;
}

static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct seen *s = user;
    s->eofs++;
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct seen *s = user;
    UNUSED(r, conn, why);
    s->error = error;
    s->closes++;
}

static const struct kr_conn_ops ops = {
    .on_open = on_open, .on_data = on_data, .on_eof = on_eof, .on_close = on_close};

static struct kr_conn_opts conn_opts(void) {
    struct kr_conn_opts opts = test_conn_opts();
    opts.send_cap = 64 << 20;
    return opts;
}

static void adopt(struct kr_reactor *r, struct seen *s, int fd, const struct kr_conn_opts *opts) {
    CHECK_OK(kr_conn_adopt(r, &s->conn, fd, opts, &ops, s));
    TEST_UNTIL(r, s->opens == 1);
}

/* ---- the others ---- */

static int set(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value) < 0 ? -errno : 0;
}

static int get(int fd, int level, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    CHECK_SYS(getsockopt(fd, level, name, &value, &size));
    return value;
}

static void set_linger(int fd, int on, int seconds) {
    const struct linger linger = {on, seconds};
    CHECK_SYS(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
}

static struct linger get_linger(int fd) {
    struct linger linger;
    socklen_t size = sizeof linger;
    CHECK_SYS(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size));
    return linger;
}

/* A socket of the others that listens, of a name of the kernel's choice. */
static int listener_new(bool tcp, struct kr_addr *addr) {
    if (tcp)
        CHECK_OK(kr_addr_ip(addr, "127.0.0.1", 0));
    else
        *addr = (struct kr_addr){.u.sa.sa_family = AF_UNIX, .size = sizeof(sa_family_t)};
    int fd = CHECK_SYS(socket(addr->u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(bind(fd, &addr->u.sa, addr->size));
    CHECK_SYS(listen(fd, 8));
    addr->size = sizeof addr->u;
    CHECK_SYS(getsockname(fd, &addr->u.sa, &addr->size));
    return fd;
}

/* Two ends of a connection: ends[0] is to be adopted. */
static void ends_make(int ends[2], bool tcp) {
    struct kr_addr addr;
    int listener = listener_new(tcp, &addr);
    ends[1] = test_connect_addr(&addr, 0);
    ends[0] = CHECK_SYS(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    test_close(listener);
}

static void nonblocking(int fd) {
    CHECK_SYS(fcntl(fd, F_SETFL, CHECK_SYS(fcntl(fd, F_GETFL)) | O_NONBLOCK));
}

/* ---- what each has to do ---- */

static void check_echo(struct kr_reactor *r, int peer, size_t size, uint64_t seed) {
    char bytes[1000], back[1000];
    CHECK_LE(size, sizeof bytes);
    test_pattern(bytes, size, seed, 0);
    test_send(r, peer, bytes, size);
    test_recv(r, peer, back, size);
    CHECK_MEM_EQ(bytes, back, size);
}

/* A peer that is slow to read gets all that was queued, and a clean end. */
static void check_flush(struct kr_reactor *r, struct seen *s, int peer) {
    static char bytes[BULK], back[BULK];
    test_pattern(bytes, BULK, 7, 0);
    CHECK_OK(kr_conn_send(r, s->conn, bytes, BULK));
    CHECK_OK(kr_conn_close(r, s->conn, KR_CLOSE_FLUSH));
    test_recv(r, peer, back, BULK);
    test_pattern_check(back, BULK, 7, 0);
    TEST_UNTIL(r, s->closes == 1);
    CHECK_EQ(s->error, 0);
    CHECK_EQ(test_recv_end(r, peer, NULL), 0);
}

static void check_serves(struct kr_reactor *r, struct seen *s, int peer) {
    nonblocking(peer);
    check_echo(r, peer, 1, 1);
    check_echo(r, peer, 1000, 2);
    check_flush(r, s, peer);
    test_close(peer);
}

/* ---- SO_LINGER ---- */

/* Bytes that the peer does not read are on their way, and the connection is closed. */
static void check_closes_at_once(struct kr_reactor *r, struct seen *s, enum kr_close how) {
    static const char bytes[1 << 20];
    CHECK_OK(kr_conn_send(r, s->conn, bytes, sizeof bytes));
    TEST_UNTIL(r, kr_conn_queued(r, s->conn) < sizeof bytes);
    CHECK_OK(kr_conn_close(r, s->conn, how));
    TEST_UNTIL(r, s->closes == 1);
}

static const struct {
    int on, seconds;
} lingers[] = {{1, HOURS}, {1, 0}};

static const enum kr_close hows[] = {KR_CLOSE_LINGER, KR_CLOSE_FLUSH, KR_CLOSE_NOW, KR_CLOSE_RESET};

/* Ours: SO_LINGER that others have set on a socket neither holds the reactor up when it is closed,
 * nor resets the connection. */
TEST_EACH(linger_of_an_adopted_socket_is_taken_back) {
    for (unsigned i = 0; i < COUNT(lingers) * COUNT(hows); i++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {.mute = true};
        struct kr_conn_opts opts = conn_opts();
        opts.flush_ns = 1;
        int ends[2];
        ends_make(ends, true);
        set_linger(ends[0], lingers[i % 2].on, lingers[i % 2].seconds);
        adopt(r, &s, ends[0], &opts);
        check_closes_at_once(r, &s, hows[i / 2]);
        test_close(ends[1]);
        test_reactor_end(r, (struct test_levels){0});
    }
}

/* Ours: a clean end, whatever the socket's last owner had wished. */
TEST_EACH(linger_does_not_cost_the_last_bytes) {
    for (unsigned i = 0; i < COUNT(lingers); i++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {0};
        struct kr_conn_opts opts = conn_opts();
        int ends[2];
        ends_make(ends, true);
        set_linger(ends[0], lingers[i].on, lingers[i].seconds);
        adopt(r, &s, ends[0], &opts);
        check_serves(r, &s, ends[1]);
        test_reactor_end(r, (struct test_levels){0});
    }
}

/* Ours: who shares an adopted socket may set it later, and leave the last reference to us. Without
 * options of sockets in slots (kernel < 6.8) nothing can be done about it. */
TEST_EACH(linger_set_after_the_adoption, .needs = KR__CAP_FD_INSTALL) {
    struct kr_reactor *r = test_reactor(NULL);
    struct seen s = {.mute = true};
    int ends[2];
    ends_make(ends, true);
    int shared = CHECK_SYS(fcntl(ends[0], F_DUPFD_CLOEXEC, 0));
    adopt(r, &s, ends[0], NULL);
    set_linger(shared, 1, HOURS);
    test_close(shared);
    check_closes_at_once(r, &s, KR_CLOSE_NOW);
    test_close(ends[1]);
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: so may who was lent the descriptor of a connection, on any kernel. */
TEST_EACH(linger_set_on_a_kept_descriptor) {
    struct kr_reactor *r = test_reactor(NULL);
    struct seen s = {.mute = true};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 8;
    opts.conn.keep_fd = true;
    int peer = test_connect(test_listen(r, NULL, &opts, &ops, &s));
    TEST_UNTIL(r, s.opens == 1);
    set_linger(CHECK_OK(kr_conn_fd(r, s.conn)), 1, HOURS);
    check_closes_at_once(r, &s, KR_CLOSE_NOW);
    test_close(peer);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Of a listener of others: clients that came while it lingered, when it was handed over, and when
 * its other owner has set it again. */
static void check_inherited(const struct kr_listen_opts *opts) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr addr;
    int listener = listener_new(true, &addr), peers[3];
    set_linger(listener, 1, HOURS);
    peers[0] = test_connect_addr(&addr, 0);
    struct seen s = {.mute = true};
    CHECK_OK(kr_listen_fd(r, NULL, listener, opts, &ops, &s));
    CHECK_EQ(get_linger(listener).l_onoff, 0);
    peers[1] = test_connect_addr(&addr, 0);
    set_linger(listener, 1, HOURS);
    peers[2] = test_connect_addr(&addr, 0);
    TEST_UNTIL(r, s.opens == 3);
    for (unsigned i = 0; i < 3; i++) {
        s.conn = s.all[i];
        s.closes = 0;
        check_closes_at_once(r, &s, KR_CLOSE_NOW);
    }
    for (unsigned i = 0; i < 3; i++)
        test_close(peers[i]);
    test_close(listener);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: an accepted socket has SO_LINGER from the one that listens, as that was when it came: it is
 * closed at once all the same. */
TEST_EACH(linger_of_accepted_sockets_is_taken_back) {
    for (unsigned i = 0; i < 3; i++) {
        struct kr_listen_opts opts = test_listen_opts();
        opts.backlog = 8;
        opts.addresses = i == 1;
        opts.conn.keep_fd = i == 2;
        check_inherited(&opts);
    }
}

/* Ours: one that is accepted when its listener is gone is closed as quickly. */
TEST_EACH(linger_of_one_that_nobody_serves) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr addr;
    int listener = listener_new(true, &addr), peers[2];
    set_linger(listener, 1, HOURS);
    struct seen s = {.mute = true};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 8;
    kr_listener handle;
    CHECK_OK(kr_listen_fd(r, &handle, listener, &opts, &ops, &s));
    set_linger(listener, 1, HOURS);
    peers[0] = test_connect_addr(&addr, 0);
    TEST_UNTIL(r, s.opens == 1);
    peers[1] = test_connect_addr(&addr, 0);
    CHECK_OK(kr_listener_close(r, handle));
    CHECK_OK(kr_conn_close(r, s.conn, KR_CLOSE_NOW));
    TEST_UNTIL(r, s.closes == 1);
    test_rest(r, (struct test_levels){0});
    test_close(peers[0]);
    test_close(peers[1]);
    test_close(listener);
    test_reactor_free(r);
}

static void on_released(struct kr_reactor *r, kr_conn conn, void *user,
                        const struct kr_released *what) {
    struct seen *s = user;
    UNUSED(r, conn);
    CHECK_EQ(what->error, 0);
    struct linger now = get_linger(what->fd);
    if (r->ring.caps & KR__CAP_FD_INSTALL)
        CHECK(now.l_onoff && now.l_linger == 7);
    else
        CHECK(!now.l_onoff); /* before 6.8 it was taken when the client was accepted */
    set_linger(what->fd, 1, 9);
    s->fd = what->fd;
    s->released++;
}

/* Ours: one that leaves as a descriptor leaves as it came, and what its next owner sets at once
 * stays. */
TEST_EACH(linger_of_one_that_leaves_is_its_own) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr addr;
    int listener = listener_new(true, &addr);
    set_linger(listener, 1, 7);
    int peer = test_connect_addr(&addr, 0);
    struct seen s = {0};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 8;
    CHECK_OK(kr_listen_fd(r, NULL, listener, &opts, &ops, &s));
    TEST_UNTIL(r, s.opens == 1);
    int rc = kr_conn_release(r, s.conn, on_released, &s);
    if (!r->ring.plain.cells && !(tap_variant()->caps_mask & KR__CAP_FD_INSTALL)) {
        CHECK_EQ(rc, -EOPNOTSUPP);
        CHECK_OK(kr_conn_close(r, s.conn, KR_CLOSE_NOW));
        TEST_UNTIL(r, s.closes == 1);
    } else {
        CHECK_OK(rc);
        TEST_UNTIL(r, s.closes == 1);
        CHECK_EQ(s.released, 1u);
        CHECK(get_linger(s.fd).l_onoff && get_linger(s.fd).l_linger == 9);
        set_linger(s.fd, 0, 0);
        test_close(s.fd);
    }
    test_close(peer);
    test_close(listener);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* ---- options ---- */

/* What others may set; `back`: what it is when the socket is ours. */
static const struct option {
    const char *text;
    int level, name, value, back;
    bool tcp, local;
} options[] = {
    {"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, 500, 1, true, true},
    {"SO_TIMESTAMP", SOL_SOCKET, SO_TIMESTAMP, 1, 0, true, false},
    {"SO_TIMESTAMPNS", SOL_SOCKET, SO_TIMESTAMPNS, 1, 0, true, false},
    {"SO_TIMESTAMPING", SOL_SOCKET, SO_TIMESTAMPING,
     SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE, 0, true, false},
    {"TCP_CORK", IPPROTO_TCP, TCP_CORK, 1, 0, true, false},
    {"IP_RECVERR", IPPROTO_IP, IP_RECVERR, 1, 0, true, false},
    {"SO_PASSCRED", SOL_SOCKET, SO_PASSCRED, 1, 0, false, true},
    {"SO_PASSSEC", SOL_SOCKET, SO_PASSSEC, 1, 0, false, true},
    {"SO_PASSPIDFD", SOL_SOCKET, KR__SO_PASSPIDFD, 1, 0, false, true},
    {"SO_INQ", SOL_SOCKET, KR__SO_INQ, 1, 0, false, true},
    /* These stay: they do no harm. */
    {"SO_BUSY_POLL", SOL_SOCKET, SO_BUSY_POLL, 50, 50, true, false},
    {"TCP_DEFER_ACCEPT", IPPROTO_TCP, TCP_DEFER_ACCEPT, 1, 1, true, false},
    {"SO_PEEK_OFF", SOL_SOCKET, SO_PEEK_OFF, 3, 3, false, true},
    {"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, 3, 3, true, true},
};

static const char *option_text;

static void option_show(void *unused) {
    (void)unused;
    tap_note("the option: %s", option_text);
}

/* False: this kernel does not know it, or not of this socket. */
static bool option_set(int fd, const struct option *o, bool tcp) {
    if (!option_text)
        tap_on_fail(option_show, NULL);
    option_text = o->text;
    if (!(tcp ? o->tcp : o->local))
        return false;
    int rc = set(fd, o->level, o->name, o->value);
    CHECK(rc == 0 || rc == -ENOPROTOOPT || rc == -EPERM || rc == -EOPNOTSUPP);
    return rc == 0;
}

/* SO_INQ cannot be asked for (observed on 6.18). */
static void check_back(int fd, const struct option *o) {
    if (o->name != KR__SO_INQ || o->level != SOL_SOCKET)
        CHECK_EQ(get(fd, o->level, o->name), o->back);
}

static unsigned check_adopted_option(const struct option *o, bool tcp) {
    struct kr_reactor *r = test_reactor(NULL);
    struct seen s = {0};
    int ends[2];
    ends_make(ends, tcp);
    bool known = option_set(ends[0], o, tcp);
    if (known) {
        struct kr_conn_opts opts = conn_opts();
        opts.keep_fd = true;
        adopt(r, &s, ends[0], &opts);
        check_back(CHECK_OK(kr_conn_fd(r, s.conn)), o);
        check_serves(r, &s, ends[1]);
        test_rest(r, (struct test_levels){0});
    } else {
        test_close(ends[0]);
        test_close(ends[1]);
    }
    test_reactor_free(r);
    return known;
}

/* Ours: what was set on an adopted socket is taken back where it does harm, and it serves. */
TEST_EACH(options_of_an_adopted_socket) {
    unsigned known = 0;
    for (unsigned i = 0; i < COUNT(options) * 2; i++)
        known += check_adopted_option(&options[i / 2], i % 2);
    CHECK_GE(known, 10u);
}

static unsigned check_listening_option(const struct option *o, bool tcp) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr addr;
    int listener = listener_new(tcp, &addr);
    bool known = option_set(listener, o, tcp);
    if (known) {
        struct seen s = {0};
        struct kr_listen_opts opts = test_listen_opts();
        opts.backlog = 8;
        opts.conn = conn_opts();
        CHECK_OK(kr_listen_fd(r, NULL, listener, &opts, &ops, &s));
        check_back(listener, o);
        int peer = test_connect_addr(&addr, 0);
        check_serves(r, &s, peer);
        test_rest(r, (struct test_levels){.listeners = 1});
    }
    test_close(listener);
    test_reactor_free(r);
    return known;
}

/* Ours: what was set on a listening socket is taken back there, so that what is accepted does not
 * have it. */
TEST_EACH(options_of_a_listening_socket) {
    unsigned known = 0;
    for (unsigned i = 0; i < COUNT(options) * 2; i++)
        known += check_listening_option(&options[i / 2], i % 2);
    CHECK_GE(known, 10u);
}

/* The kernel's: nobody can ask a socket to be told of room only when there is much (man socket). */
TEST(options_that_cannot_be_set) {
    for (unsigned tcp = 0; tcp < 2; tcp++) {
        int ends[2];
        ends_make(ends, tcp);
        CHECK_EQ(set(ends[0], SOL_SOCKET, SO_SNDLOWAT, 500), -ENOPROTOOPT);
        test_close(ends[0]);
        test_close(ends[1]);
    }
}

static void set_times(int fd) {
    const struct timeval moment = {.tv_usec = 1000};
    CHECK_SYS(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &moment, sizeof moment));
    CHECK_SYS(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &moment, sizeof moment));
}

/* Ours: time limits of blocking calls mean nothing to a reactor, which makes none: an idle socket
 * stays open, and a full one is waited for. */
TEST_EACH(time_limits_mean_nothing) {
    for (unsigned tcp = 0; tcp < 2; tcp++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {0};
        struct kr_conn_opts opts = conn_opts();
        int ends[2];
        ends_make(ends, tcp);
        set_times(ends[0]);
        adopt(r, &s, ends[0], &opts);
        for (int64_t until = tap_now_ns() + 20000000; tap_now_ns() < until;)
            test_step(r, "more than the time limits");
        check_serves(r, &s, ends[1]);
        test_reactor_free(r);
    }
}

/* ---- what has been before ---- */

/* Ours: bytes that came before are received, also those that others have peeked at, and then what
 * comes. */
TEST_EACH(bytes_that_came_before) {
    for (unsigned i = 0; i < 4; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {0};
        struct kr_conn_opts opts = conn_opts();
        int ends[2];
        char byte[4];
        ends_make(ends, i % 2);
        CHECK_EQ(write(ends[1], "early", 5), 5);
        if (i / 2)
            CHECK_EQ(recv(ends[0], byte, sizeof byte, MSG_PEEK), 4);
        adopt(r, &s, ends[0], &opts);
        nonblocking(ends[1]);
        CHECK_RECV(r, ends[1], "early");
        check_serves(r, &s, ends[1]);
        test_reactor_end(r, (struct test_levels){0});
    }
}

/* Ours: one whose peer has ended already shows the bytes, then the end; the answer arrives. */
TEST_EACH(peer_that_has_ended_before) {
    for (unsigned tcp = 0; tcp < 2; tcp++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {0};
        int ends[2];
        char back[5];
        ends_make(ends, tcp);
        CHECK_EQ(write(ends[1], "early", 5), 5);
        CHECK_SYS(shutdown(ends[1], SHUT_WR));
        adopt(r, &s, ends[0], NULL);
        TEST_UNTIL(r, s.closes == 1);
        CHECK(s.eofs == 1 && s.error == 0 && s.got == 5);
        CHECK_EQ(recv(ends[1], back, 5, MSG_WAITALL), 5);
        CHECK_EQ(recv(ends[1], back, 1, 0), 0);
        test_close(ends[1]);
        test_reactor_end(r, (struct test_levels){0});
    }
}

/* Ours: one that was shut for writing receives to the end, also when what is sent on it has failed. */
TEST_EACH(socket_that_was_shut_before) {
    for (unsigned tcp = 0; tcp < 2; tcp++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {.mute = true};
        int ends[2];
        ends_make(ends, tcp);
        CHECK_SYS(shutdown(ends[0], SHUT_WR));
        adopt(r, &s, ends[0], NULL);
        CHECK_EQ(write(ends[1], "hello", 5), 5);
        TEST_UNTIL(r, s.got == 5);
        CHECK_OK(kr_conn_send(r, s.conn, "x", 1));
        TEST_UNTIL(r, kr_conn_send(r, s.conn, "x", 1) == -EPIPE);
        CHECK_EQ(write(ends[1], "world", 5), 5);
        TEST_UNTIL(r, s.got == 10);
        CHECK_EQ(s.closes, 0u);
        test_close(ends[1]);
        TEST_UNTIL(r, s.closes == 1);
        CHECK_EQ(s.error, -EPIPE);
        test_reactor_end(r, (struct test_levels){0});
    }
}

/* The kernel's, told by us: a TCP socket whose peer has reset is no longer connected, and is
 * refused; a Unix one tells of it behind what had come. */
TEST_EACH(socket_with_an_error_pending) {
    struct kr_reactor *r = test_reactor(NULL);
    struct seen s = {.mute = true};
    int ends[2];
    ends_make(ends, true);
    test_close_reset(ends[1]);
    struct pollfd wait = {.fd = ends[0], .events = POLLIN};
    CHECK_EQ(poll(&wait, 1, tap_remaining_ms()), 1);
    kr_conn conn;
    CHECK_ERR(kr_conn_adopt(r, &conn, ends[0], NULL, &ops, &s), ENOTCONN);
    test_close(ends[0]);

    ends_make(ends, false);
    CHECK_EQ(write(ends[0], "unread", 6), 6);
    CHECK_EQ(write(ends[1], "early", 5), 5);
    test_close(ends[1]);
    adopt(r, &s, ends[0], NULL);
    TEST_UNTIL(r, s.closes == 1);
    CHECK(s.got == 5 && s.error == -ECONNRESET);
    test_reactor_end(r, (struct test_levels){0});
}

/* Time stamps of what was sent, which nobody has fetched. */
static void leave_stamps(int fd) {
    CHECK_OK(set(fd, SOL_SOCKET, SO_TIMESTAMPING,
                 SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE));
    CHECK_EQ(write(fd, "st", 2), 2);
    CHECK_EQ(write(fd, "amp", 3), 3);
    struct pollfd wait = {.fd = fd};
    CHECK_EQ(poll(&wait, 1, tap_remaining_ms()), 1);
    CHECK_EQ(wait.revents & POLLERR, POLLERR);
}

/* Ours: an error queue that nobody reads would have the socket report an error for ever: what lies
 * there goes, and no more comes. */
TEST_EACH(error_queue_is_emptied) {
    struct kr_reactor *r = test_reactor(NULL);
    struct seen s = {0};
    struct kr_conn_opts opts = conn_opts();
    opts.keep_fd = true;
    int ends[2];
    char back[5];
    ends_make(ends, true);
    leave_stamps(ends[0]);
    adopt(r, &s, ends[0], &opts);
    CHECK_EQ(recv(ends[1], back, 5, MSG_WAITALL), 5);
    nonblocking(ends[1]);
    check_echo(r, ends[1], 1000, 3);
    struct pollfd now = {.fd = CHECK_OK(kr_conn_fd(r, s.conn))};
    CHECK_EQ(poll(&now, 1, 0), 0);
    check_serves(r, &s, ends[1]);
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: whether calls of others would wait on it does not matter, and is not changed. */
TEST_EACH(blocking_or_not) {
    for (unsigned i = 0; i < 4; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {0};
        struct kr_conn_opts opts = conn_opts();
        opts.keep_fd = true;
        int ends[2];
        ends_make(ends, i % 2);
        if (i / 2)
            nonblocking(ends[0]);
        adopt(r, &s, ends[0], &opts);
        int flags = CHECK_SYS(fcntl(CHECK_OK(kr_conn_fd(r, s.conn)), F_GETFL));
        CHECK_EQ((flags & O_NONBLOCK) != 0, i / 2);
        check_serves(r, &s, ends[1]);
        test_reactor_end(r, (struct test_levels){0});
    }
}

/* ---- descriptors over Unix sockets ---- */

struct gifts {
    struct seen seen; /* first: what the other callbacks are given */
    unsigned calls, fds, truncated;
};

static void on_fds(struct kr_reactor *r, kr_conn conn, void *user, const int *fds, unsigned count,
                   bool truncated) {
    struct gifts *g = user;
    UNUSED(r, conn);
    g->calls++;
    g->fds += count;
    g->truncated += truncated;
    for (unsigned i = 0; i < count; i++)
        test_close(fds[i]);
}

static const struct kr_conn_ops gift_ops = {.on_open = on_open,
                                            .on_data = on_data,
                                            .on_eof = on_eof,
                                            .on_close = on_close,
                                            .on_fds = on_fds};

/* 1, or -errno. */
static int give(int peer, const int *fds, unsigned count) {
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(KR_FDS_MAX * sizeof(int))] = {0};
    struct iovec piece = {"m", 1};
    struct msghdr msg = {.msg_iov = &piece,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    *cmsg = (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)),
                             .cmsg_level = SOL_SOCKET,
                             .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
    return sendmsg(peer, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 1;
}

/* A socket whose last close waits for hours: its peer, *hold, does not read. */
static int lingering_new(int *hold) {
    static const char bytes[65536];
    int ends[2];
    ends_make(ends, true);
    nonblocking(ends[0]);
    while (send(ends[0], bytes, sizeof bytes, MSG_NOSIGNAL) > 0)
        ;
    set_linger(ends[0], 1, HOURS);
    *hold = ends[1];
    return ends[0];
}

/* Sends one that lingers as the last of three, and keeps no reference. */
static int give_lingering(int peer, int *hold) {
    int other = CHECK_SYS(open("/dev/null", O_RDONLY | O_CLOEXEC));
    int fds[3] = {other, other, lingering_new(hold)};
    int rc = give(peer, fds, 3);
    test_close(other);
    if (rc < 0)
        set_linger(fds[2], 0, 0);
    test_close(fds[2]);
    return rc;
}

static void adopt_for_gifts(struct kr_reactor *r, struct gifts *g, int fd, unsigned recv_fds,
                            const struct kr_conn_ops *how) {
    struct kr_conn_opts opts = conn_opts();
    opts.recv_fds = recv_fds;
    opts.flush_ns = 1;
    *g = (struct gifts){.seen.mute = true};
    CHECK_OK(kr_conn_adopt(r, &g->seen.conn, fd, &opts, how, g));
    TEST_UNTIL(r, g->seen.opens == 1);
}

static void gifts_end(struct kr_reactor *r, struct gifts *g, int peer, int hold, int before) {
    test_close(peer);
    TEST_UNTIL(r, g->seen.closes == 1);
    test_close(hold);
    CHECK_EQ(tap_fd_count(), before);
    test_rest(r, (struct test_levels){0});
}

/* Ours: a descriptor whose last close would wait for hours is sent to a connection that does not
 * want it, or not so many, or has nobody to tell: the reactor goes on. */
TEST_EACH(lingering_descriptors_that_come) {
    static const struct {
        unsigned recv_fds;
        const struct kr_conn_ops *how;
    } rows[] = {{0, &gift_ops}, {4, &ops}, {1, &gift_ops}, {2, &gift_ops}};
    struct kr_reactor *r = test_reactor(NULL);
    for (unsigned i = 0; i < COUNT(rows); i++) {
        int before = tap_fd_count(), ends[2], hold;
        ends_make(ends, false);
        struct gifts g;
        adopt_for_gifts(r, &g, ends[0], rows[i].recv_fds, rows[i].how);
        bool refuses = !rows[i].recv_fds && (r->ring.caps & KR__CAP_REFUSES_FDS);
        CHECK_EQ(give_lingering(ends[1], &hold), refuses ? -EPERM : 1);
        CHECK_EQ(write(ends[1], "x", 1), 1);
        TEST_UNTIL(r, g.seen.got == (refuses ? 1 : 2));
        gifts_end(r, &g, ends[1], hold, before);
    }
    test_reactor_free(r);
}

static unsigned closed;

static int counting_close(const struct kr__kernel *k, int fd) {
    closed++;
    return kr__linux.close_taken(k, fd);
}

/* Ours: one that was on its way before the socket was adopted, and refused any more. It is closed by the
 * library: whether the kernel's own close would wait depends on what else it has to do just then. */
TEST_EACH(lingering_descriptor_that_came_before) {
    struct kr__kernel kernel = kr__linux;
    kernel.close_taken = counting_close;
    closed = 0;
    struct kr_reactor *r = test_reactor_on(&kernel, NULL);
    int before = tap_fd_count(), ends[2], hold;
    ends_make(ends, false);
    CHECK_OK(give_lingering(ends[1], &hold));
    struct gifts g;
    adopt_for_gifts(r, &g, ends[0], 0, &gift_ops);
    TEST_UNTIL(r, g.seen.got == 1);
    CHECK_EQ(g.calls, 0u);
    CHECK_EQ(closed, 3u);
    gifts_end(r, &g, ends[1], hold, before);
    test_reactor_free(r);
}

/* Ours: one that lies unread when the connection is closed, in whatever manner. The peer sees a clean
 * end, for all has been received. */
TEST_EACH(lingering_descriptor_that_lies_unread) {
    for (unsigned i = 0; i < COUNT(hows); i++) {
        struct kr_reactor *r = test_reactor(NULL);
        int before = tap_fd_count(), ends[2], hold, byte = 'x';
        ends_make(ends, false);
        struct gifts g;
        adopt_for_gifts(r, &g, ends[0], 4, &gift_ops);
        CHECK_OK(kr_conn_pause(r, g.seen.conn));
        for (unsigned turns = 0; turns < 3; turns++)
            test_step(r, "the receive to be called back");
        for (unsigned n = 0; n < 20; n++)
            CHECK_EQ(write(ends[1], &byte, 1), 1);
        CHECK_OK(give_lingering(ends[1], &hold));
        CHECK_OK(kr_conn_close(r, g.seen.conn, hows[i]));
        TEST_UNTIL(r, g.seen.closes == 1);
        CHECK_EQ(test_recv_end(r, ends[1], NULL), 0); /* nothing was left unread */
        gifts_end(r, &g, ends[1], hold, before);
        test_reactor_free(r);
    }
}

/* Ours: a listener of one's own, whose clients send before they are accepted. */
TEST_EACH(lingering_descriptor_to_a_listener) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr addr = {.u.sa.sa_family = AF_UNIX, .size = sizeof(sa_family_t)};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 8;
    struct gifts g = {.seen.mute = true};
    kr_listener listener;
    CHECK_OK(kr_listen(r, &listener, &addr, &opts, &gift_ops, &g));
    CHECK_OK(kr_listener_addr(r, listener, &addr));
    int peer = test_connect_addr(&addr, 0), hold;
    bool refuses = r->ring.caps & KR__CAP_REFUSES_FDS;
    CHECK_EQ(give_lingering(peer, &hold), refuses ? -EPERM : 1);
    CHECK_EQ(write(peer, "x", 1), 1);
    TEST_UNTIL(r, g.seen.got == (refuses ? 1 : 2));
    test_close(peer);
    TEST_UNTIL(r, g.seen.closes == 1);
    test_close(hold);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

static void on_left(struct kr_reactor *r, kr_conn conn, void *user,
                    const struct kr_released *what) {
    struct gifts *g = user;
    UNUSED(r, conn);
    CHECK_EQ(what->error, 0);
    g->seen.fd = what->fd;
}

/* Ours: one that leaves may be sent descriptors by anybody again. */
TEST_EACH(refusal_ends_with_the_connection, .needs = KR__CAP_FD_INSTALL) {
    struct kr_reactor *r = test_reactor(NULL);
    int ends[2], null = CHECK_SYS(open("/dev/null", O_RDONLY | O_CLOEXEC));
    ends_make(ends, false);
    struct gifts g;
    adopt_for_gifts(r, &g, ends[0], 0, &gift_ops);
    bool refuses = r->ring.caps & KR__CAP_REFUSES_FDS;
    CHECK_EQ(give(ends[1], &null, 1), refuses ? -EPERM : 1);
    CHECK_OK(kr_conn_release(r, g.seen.conn, on_left, &g));
    TEST_UNTIL(r, g.seen.closes == 1);
    CHECK_OK(give(ends[1], &null, 1));
    test_close(g.seen.fd);
    test_close(ends[1]);
    test_close(null);
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: what others have set, or set later, on a socket that they share brings control data beside
 * the descriptors: each of these is told of, once, and none is left. */
TEST_EACH(descriptors_beside_other_control_data) {
    static const int names[] = {SO_PASSCRED, SO_PASSSEC, KR__SO_PASSPIDFD, KR__SO_INQ};
    struct kr_reactor *r = test_reactor(NULL);
    int null = CHECK_SYS(open("/dev/null", O_RDONLY | O_CLOEXEC)), fds[3] = {null, null, null};
    for (unsigned i = 0; i < COUNT(names) * 2; i++) {
        int before = tap_fd_count(), ends[2];
        ends_make(ends, false);
        int shared = CHECK_SYS(fcntl(ends[0], F_DUPFD_CLOEXEC, 0));
        struct gifts g;
        set(shared, SOL_SOCKET, names[i / 2], 1);
        adopt_for_gifts(r, &g, ends[0], 4, &gift_ops);
        if (i % 2) /* or else they are off */
            set(shared, SOL_SOCKET, names[i / 2], 1);
        for (unsigned n = 1; n <= 20; n++) {
            CHECK_OK(give(ends[1], fds, 3));
            TEST_UNTIL(r, g.seen.got == n);
            CHECK(g.fds == 3 * n && g.calls == n && g.truncated == 0);
        }
        test_close(shared);
        test_close(ends[1]);
        TEST_UNTIL(r, g.seen.closes == 1);
        CHECK_EQ(tap_fd_count(), before);
    }
    test_close(null);
    test_reactor_end(r, (struct test_levels){0});
}

TAP_MAIN(foreign, 20 * 4 + 1 + 2 * 2)
