/* Descriptors over Unix sockets, whose last close may take hours. */
#include "foreign/foreign.h"

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
    return kr__linux.file.close_received(k, fd);
}

/* Ours: one that was on its way before the socket was adopted, and refused any more. It is closed by the
 * library: whether the kernel's own close would wait depends on what else it has to do just then. */
TEST_EACH(lingering_descriptor_that_came_before) {
    struct kr__kernel kernel = kr__linux;
    kernel.file.close_received = counting_close;
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
                    const struct kr_detached *what) {
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
    CHECK_OK(kr_conn_detach(r, g.seen.conn, on_left, &g));
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
