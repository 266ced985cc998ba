/* Sockets with a past: options, bytes and errors that they bring. */
#include "foreign/foreign.h"

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

/* Ours: one that was shut for writing takes no sends, receives to the end of the stream, and ends in
 * order. */
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
        CHECK_ERR(kr_conn_send(r, s.conn, "x", 1), EPIPE);
        CHECK_OK(kr_conn_shutdown(r, s.conn)); /* which is nothing new */
        CHECK_EQ(write(ends[1], "world", 5), 5);
        TEST_UNTIL(r, s.got == 10);
        CHECK_EQ(s.closes, 0u);
        test_close(ends[1]);
        TEST_UNTIL(r, s.closes == 1);
        CHECK(s.eofs == 1 && s.error == 0);
        test_reactor_end(r, (struct test_levels){0});
    }
}

static void on_shut_released(struct kr_reactor *r, kr_conn conn, void *user,
                             const struct kr_detached *what) {
    struct seen *s = user;
    UNUSED(r, conn);
    CHECK(what->error == 0 && what->shut && !what->shutting && !what->eof);
    CHECK_EQ(send(what->fd, "x", 1, MSG_NOSIGNAL), -1);
    CHECK_EQ(errno, EPIPE);
    test_close(what->fd);
    s->released++;
}

/* Ours: whoever one is released to that was shut for writing is told that it was. */
TEST_EACH(socket_that_was_shut_before_is_released) {
    for (unsigned tcp = 0; tcp < 2; tcp++) {
        struct kr_reactor *r = test_reactor(NULL);
        struct seen s = {.mute = true};
        struct kr_conn_opts opts = conn_opts();
        opts.keep_fd = true;
        int ends[2];
        ends_make(ends, tcp);
        CHECK_SYS(shutdown(ends[0], SHUT_WR));
        adopt(r, &s, ends[0], &opts);
        CHECK_OK(kr_conn_detach(r, s.conn, on_shut_released, &s));
        TEST_UNTIL(r, s.closes == 1);
        CHECK_EQ(s.released, 1u);
        test_close(ends[1]);
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
