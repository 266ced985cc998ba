/* Released connections that come back, and descriptors that were on their way. */
#include "detach/detach.h"

/* ---- and back ---- */

static void back_in(struct kr_reactor *r, kr_conn conn, void *user,
                    const struct kr_detached *what) {
    struct seen *s = user;
    CHECK_EQ(conn.bits, s->conn.bits);
    CHECK_EQ(what->error, 0);
    CHECK_EQ(what->unread_size, 0u);
    s->tells++;
    CHECK_OK(kr_conn_adopt(r, &s->conn, what->fd, NULL, &ops, s));
    CHECK_OK(kr_conn_sendv(r, s->conn, what->unsent, (int)what->unsent_count));
}

static void round_trip(bool kept) {
    struct seen s;
    begin(&s, kept);
    client_sends(&s, 1000, 0);
    TEST_UNTIL(s.r, s.got == 1000);
    we_send(&s, BIG);
    TEST_UNTIL(s.r, kr_conn_queued(s.r, s.conn) < BIG);
    CHECK_OK(kr_conn_detach(s.r, s.conn, back_in, &s));
    TEST_UNTIL(s.r, s.closes == 1 && s.opens == 2);
    CHECK_EQ(s.why, KR_WHY_DETACHED);
    s.tells = s.closes = 0;
    we_send(&s, 1000);
    char *bytes = malloc(s.sent);
    CHECK(bytes != NULL);
    test_recv(s.r, s.fd, bytes, s.sent);
    test_pattern_check(bytes, s.sent, OUT, 0);
    free(bytes);
    client_sends(&s, 1000, 1000);
    TEST_UNTIL(s.r, s.got == 2000);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    s.tells = 1;
    end(&s);
}

/* Ours: adopted again at once, the stream goes on where it was. */
TEST_EACH(detach_and_adopt) {
    each_way(round_trip);
}

static void of_connect(bool kept) {
    int listener = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    struct kr_addr addr = test_loopback(0);
    CHECK_SYS(bind(listener, &addr.u.sa, addr.size));
    CHECK_SYS(listen(listener, 4));
    CHECK_SYS(getsockname(listener, &addr.u.sa, &addr.size));
    struct seen s = {.r = test_reactor(NULL), .most = SIZE_MAX};
    struct kr_connect_opts opts = test_connect_opts();
    opts.conn.keep_fd = kept;
    CHECK_OK(kr_connect(s.r, &s.conn, &addr, &opts, &ops, &s));
    CHECK_ERR(kr_conn_detach(s.r, s.conn, released, &s), ENOTCONN);
    TEST_UNTIL(s.r, s.opens == 1);
    s.fd = CHECK_SYS(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    leave(&s);
    check_released(&s);
    CHECK_EQ(write(s.fd, "y", 1), 1);
    char byte;
    CHECK_EQ(read(s.what.fd, &byte, 1), 1);
    test_close(s.what.fd);
    CHECK_EQ(read(s.fd, &byte, 1), 0);
    test_close(s.fd);
    test_close(listener);
    free(s.unread);
    free(s.unsent);
    test_reactor_end(s.r, (struct test_levels){0});
}

/* Ours: connections of this program's own making leave alike, once they stand. */
TEST_EACH(detach_of_one_that_we_made) {
    each_way(of_connect);
}

static void of_unix(bool kept) {
    struct seen s = {.r = test_reactor(NULL), .most = 3};
    struct kr_conn_opts opts = test_conn_opts();
    opts.keep_fd = kept;
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    CHECK_OK(kr_conn_adopt(s.r, &s.conn, ends[0], &opts, &ops, &s));
    CHECK_ERR(kr_conn_detach(s.r, s.conn, released, &s), ENOTCONN);
    char bytes[10];
    test_pattern(bytes, sizeof bytes, IN, 0);
    CHECK_EQ(write(ends[1], bytes, 5), 5);
    TEST_UNTIL(s.r, s.got == 3);
    CHECK_EQ(kr_conn_fd(s.r, s.conn), kept ? ends[0] : -ENODATA);
    leave(&s);
    check_released(&s);
    if (kept)
        CHECK_EQ(s.what.fd, ends[0]);
    CHECK_EQ(write(ends[1], bytes + 5, 5), 5);
    read_by_fd(&s, 10);
    test_close(s.what.fd);
    CHECK_EQ(read(ends[1], bytes, 1), 0);
    test_close(ends[1]);
    free(s.unread);
    free(s.unsent);
    test_reactor_end(s.r, (struct test_levels){0});
}

/* Ours: adopted sockets too; one that was kept is the very descriptor that came. */
TEST_EACH(detach_of_an_adopted_one) {
    each_way(of_unix);
}

/* ---- descriptors on the way ---- */

static ino_t file_of(int fd) {
    struct stat st;
    CHECK_SYS(fstat(fd, &st));
    return st.st_ino;
}

/* One byte, and a descriptor with it. */
static void give(int to, int fd) {
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof fd)];
    struct iovec piece = {(void *)(uintptr_t) "d", 1};
    struct msghdr msg = {.msg_iov = &piece,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof control};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    *cmsg = (struct cmsghdr){
        .cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(cmsg), &fd, sizeof fd);
    CHECK_EQ(sendmsg(to, &msg, 0), 1);
}

struct parcel {
    unsigned tells;
    struct kr_detached what;
    int came;
    size_t at[2];
    ino_t files[2];
};

static void parcel_released(struct kr_reactor *r, kr_conn conn, void *user,
                            const struct kr_detached *what) {
    UNUSED(r, conn);
    struct parcel *p = user;
    p->tells++;
    p->what = *what;
    CHECK_EQ(what->error, 0);
    if (what->fds_count)
        p->came = what->fds[0];
    CHECK_EQ(what->unsent_fds_count, 2u);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(what->unsent_fds[i].count, 1u);
        p->at[i] = what->unsent_fds[i].at;
        p->files[i] = file_of(what->unsent_fds[i].fds[0]);
    }
}

/* With a receive in flight when it is released, or paused before the descriptor comes. */
static void parcels(bool kept, bool paused) {
    static const struct kr_conn_ops silent = {.on_data = test_keep_all};
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_conn_opts opts = test_conn_opts();
    opts.keep_fd = kept;
    opts.recv_fds = 4;
    int before = tap_fd_count(), ends[2], files[3];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    for (unsigned i = 0; i < 3; i++)
        files[i] = CHECK_SYS(memfd_create("kr-release", MFD_CLOEXEC));
    kr_conn conn;
    CHECK_OK(kr_conn_adopt(r, &conn, ends[0], &opts, &silent, NULL));
    test_rest(r, (struct test_levels){.conns = 1, .blocks = 3});
    if (paused) {
        CHECK_OK(kr_conn_pause(r, conn));
        give(ends[1], files[0]);
        CHECK_GE(kr_step(r, 0), 0);
    }
    static char fill[1 << 20];
    CHECK_OK(kr_conn_send(r, conn, fill, sizeof fill));
    CHECK_OK(kr_conn_send_fds(r, conn, "abc", 3, &files[1], 1));
    CHECK_OK(kr_conn_send_fds(r, conn, "de", 2, &files[2], 1));
    CHECK_OK(kr_conn_send(r, conn, "fghi", 4));
    TEST_UNTIL(r, kr_conn_queued(r, conn) < sizeof fill);
    struct parcel p = {0};
    CHECK_OK(kr_conn_detach(r, conn, parcel_released, &p));
    if (!paused)
        give(ends[1], files[0]);
    TEST_UNTIL(r, p.tells == 1);
    CHECK_EQ(p.what.unread_size, p.what.fds_count);
    if (p.what.fds_count) {
        CHECK_EQ(file_of(p.came), file_of(files[0]));
        test_close(p.came);
    }
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(p.files[i], file_of(files[i + 1]));
    CHECK_EQ(p.at[0], p.what.unsent_size - 9);
    CHECK_EQ(p.at[1], p.what.unsent_size - 6);
    test_close(p.what.fd);
    test_close(ends[1]);
    for (unsigned i = 0; i < 3; i++)
        test_close(files[i]);
    test_rest(r, (struct test_levels){0});
    CHECK_EQ(tap_fd_count(), before);
    test_reactor_free(r);
}

static void with_descriptors(bool kept) {
    parcels(kept, false);
    parcels(kept, true);
}

/* Ours: descriptors that came and were not told of are handed over with the bytes, and those that
 * wait in the queue are shown where they belong; none is left behind. */
TEST_EACH(detach_hands_descriptors_over) {
    each_way(with_descriptors);
}

/* ---- what is refused ---- */

static void no_release(struct kr_reactor *r, kr_conn conn, void *user,
                       const struct kr_detached *what) {
    UNUSED(r, conn, user, what);
    FAIL("a release that was refused");
}

/* Ours: nothing has happened then. */
TEST_EACH(detach_refuses) {
    struct seen s;
    begin(&s, false);
    CHECK_ERR(kr_conn_detach(s.r, s.conn, NULL, &s), EINVAL);
    CHECK_ERR(kr_conn_detach(s.r, (kr_conn){0}, no_release, &s), ESTALE);
    CHECK_ERR(kr_conn_fd(s.r, s.conn), ENODATA);
    CHECK_ERR(kr_conn_fd(s.r, (kr_conn){0}), ESTALE);
    client_sends(&s, 1000, 0);
    TEST_UNTIL(s.r, s.got == 1000);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_LINGER));
    CHECK_ERR(kr_conn_detach(s.r, s.conn, no_release, &s), EPIPE);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
    CHECK_ERR(kr_conn_detach(s.r, s.conn, no_release, &s), EPIPE);
    s.tells = 1;
    end(&s);
}

static void meanwhile(bool kept) {
    struct seen s;
    begin(&s, kept);
    void *room;
    CHECK_OK(kr_conn_reserve(s.r, s.conn, 100, &room));
    CHECK_OK(kr_conn_detach(s.r, s.conn, released, &s));
    CHECK_ERR(kr_conn_commit(s.r, s.conn, 100), EPIPE);
    CHECK_ERR(kr_conn_detach(s.r, s.conn, no_release, &s), EALREADY);
    CHECK_ERR(kr_conn_send(s.r, s.conn, "x", 1), EPIPE);
    CHECK_ERR(kr_conn_send_ref(s.r, s.conn, "x", 1, NULL, NULL), EPIPE);
    CHECK_ERR(kr_conn_reserve(s.r, s.conn, 1, &room), EPIPE);
    CHECK_ERR(kr_conn_pause(s.r, s.conn), EPIPE);
    CHECK_ERR(kr_conn_resume(s.r, s.conn), EPIPE);
    CHECK_ERR(kr_conn_shutdown(s.r, s.conn), EPIPE);
    CHECK_ERR(kr_conn_swap(s.r, s.conn, &ops, &s), EPIPE);
    CHECK_ERR(kr_conn_deadline(s.r, s.conn, KR_DEADLINE_IDLE, 1), EPIPE);
    CHECK_OK(kr_conn_set_user(s.r, s.conn, &s));
    TEST_UNTIL(s.r, s.tells == 1);
    check_released(&s);
    test_close(s.what.fd);
    end(&s);
}

/* Ours: what is on its way out takes nothing any more. */
TEST_EACH(detach_takes_nothing_meanwhile) {
    each_way(meanwhile);
}

static void forwarding(bool kept) {
    struct seen a, b;
    begin(&a, kept);
    b = (struct seen){.r = a.r, .most = SIZE_MAX};
    struct kr_conn_opts opts = test_conn_opts();
    opts.keep_fd = kept;
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    CHECK_OK(kr_conn_adopt(a.r, &b.conn, ends[0], &opts, &ops, &b));
    TEST_UNTIL(a.r, b.opens == 1);
    struct kr_forward_opts how;
    kr_forward_opts_init(&how);
    how.keep_open = true;
    CHECK_OK(kr_conn_forward(a.r, a.conn, b.conn, &how, NULL, NULL));
    CHECK_ERR(kr_conn_detach(a.r, a.conn, no_release, &a), EBUSY);
    CHECK_ERR(kr_conn_detach(a.r, b.conn, no_release, &b), EBUSY);
    CHECK_OK(kr_conn_forward_stop(a.r, a.conn));
    CHECK_ERR(kr_conn_detach(a.r, b.conn, no_release, &b), EBUSY);
    CHECK_GE(kr_step(a.r, 0), 0);
    CHECK_OK(kr_conn_detach(a.r, a.conn, released, &a));
    CHECK_ERR(kr_conn_forward(a.r, a.conn, b.conn, NULL, NULL, NULL), EPIPE);
    TEST_UNTIL(a.r, a.tells == 1);
    check_released(&a);
    test_close(a.what.fd);
    CHECK_OK(kr_conn_close(a.r, b.conn, KR_CLOSE_NOW));
    TEST_UNTIL(a.r, b.closes == 1);
    test_close(ends[1]);
    end(&a);
}

/* Ours: not while it is an end of a pair. */
TEST_EACH(detach_is_refused_while_forwarding) {
    each_way(forwarding);
}

static void with_a_file(bool kept) {
    struct seen a;
    begin(&a, kept);
    int file = CHECK_SYS(memfd_create("kreactor-test", MFD_CLOEXEC));
    CHECK_EQ(CHECK_SYS(write(file, "file", 4)), 4);
    CHECK_OK(kr_conn_send_file(a.r, a.conn, file, 0, 4, NULL, NULL));
    CHECK_ERR(kr_conn_detach(a.r, a.conn, no_release, &a), EBUSY);
    char got[4];
    TEST_UNTIL(a.r, kr_conn_queued(a.r, a.conn) == 0);
    CHECK_EQ(CHECK_SYS(recv(a.fd, got, sizeof got, MSG_WAITALL)), 4);
    CHECK_OK(kr_conn_detach(a.r, a.conn, released, &a));
    TEST_UNTIL(a.r, a.tells == 1);
    check_released(&a);
    test_close(a.what.fd);
    test_close(file);
    end(&a);
}

/* Ours: nor with a file in its queue, which could not be shown as bytes that are unsent. */
TEST_EACH(detach_is_refused_with_a_file) {
    each_way(with_a_file);
}
