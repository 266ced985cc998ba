/* Descriptors that go with the bytes of a Unix stream, both ways: with the right byte, once, and
 * none left behind however a connection ends.
 *
 * Files are told apart by their inodes. Each case counts this process's descriptors before and
 * after. */
#include "fds/fds.h"

/* ---- descriptors ---- */

int file_new(void) {
    return CHECK_SYS(memfd_create("kr-fds", MFD_CLOEXEC));
}

ino_t file_of(int fd) {
    struct stat st;
    CHECK_SYS(fstat(fd, &st));
    return st.st_ino;
}

void files_new(int *fds, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        fds[i] = file_new();
}

void close_all(const int *fds, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        test_close(fds[i]);
}

/* ---- the plain peer ---- */

long peer_give(int fd, const void *data, size_t size, const int *fds, unsigned count) {
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(KR_FDS_MAX * sizeof(int))];
    struct iovec piece = {(void *)(uintptr_t)data, size};
    struct msghdr msg = {.msg_iov = &piece, .msg_iovlen = 1};
    if (count) {
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
        *cmsg = (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)),
                                 .cmsg_level = SOL_SOCKET,
                                 .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
    }
    long n = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EPERM)
        FAIL("sendmsg: %s", strerror(errno));
    return n >= 0 ? n : errno == EPERM ? -EPERM : 0;
}

void peer_send(int fd, const char *text, const int *fds, unsigned count) {
    CHECK_EQ(peer_give(fd, text, strlen(text), fds, count), (long)strlen(text));
}

long peer_take(int fd, void *data, size_t size, int *fds, unsigned *count) {
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(KR_FDS_MAX * sizeof(int))];
    struct iovec piece = {data, size};
    struct msghdr msg = {.msg_iov = &piece,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof control};
    *count = 0;
    long n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return -errno;
    CHECK_EQ(msg.msg_flags & MSG_CTRUNC, 0);
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    if (!cmsg)
        return n;
    CHECK_EQ(cmsg->cmsg_type, SCM_RIGHTS);
    *count = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(cmsg), *count * sizeof(int));
    CHECK(!CMSG_NXTHDR(&msg, cmsg));
    return n;
}

/* ---- this end ---- */

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct end *e = user;
    (void)r;
    e->conn = conn;
    e->opens++;
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct end *e = user;
    UNUSED(r, conn);
    if (e->seed)
        test_pattern_check(data, size, e->seed, e->got);
    e->got += size;
    if (e->told)
        e->gifts[e->gift_count - 1].to = e->got;
    e->told = false;
    return size;
}

static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct end *e = user;
    e->eofs++;
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct end *e = user;
    UNUSED(r, conn);
    e->closes++;
    e->error = error;
    e->why = why;
    e->at_close = (unsigned)tap_fd_count();
}

static void on_fds(struct kr_reactor *r, kr_conn conn, void *user, const int *fds, unsigned count,
                   bool truncated) {
    struct end *e = user;
    CHECK(e->opens == 1 && !e->closes && !e->told);
    CHECK(fds && (count || truncated));
    CHECK_LT(e->gift_count, GIFTS);
    CHECK_LE(e->fd_count + count, FDS_MOST);
    e->gifts[e->gift_count++] = (struct gift){
        .at = e->got, .first = e->fd_count, .count = count, .truncated = truncated};
    for (unsigned i = 0; i < count; i++)
        CHECK_EQ(CHECK_SYS(fcntl(fds[i], F_GETFD)), FD_CLOEXEC);
    memcpy(e->fds + e->fd_count, fds, count * sizeof *fds);
    e->fd_count += count;
    e->told = true;
    if (e->swap_to)
        CHECK_OK(kr_conn_swap(r, conn, e->swap_to, e));
    if (e->pause_in_fds)
        CHECK_OK(kr_conn_pause(r, conn));
    if (e->close_in_fds)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
}

const struct kr_conn_ops ops = {.on_open = on_open,
                                .on_data = on_data,
                                .on_eof = on_eof,
                                .on_close = on_close,
                                .on_fds = on_fds};
const struct kr_conn_ops deaf_ops = {
    .on_open = on_open, .on_data = on_data, .on_eof = on_eof, .on_close = on_close};

void adopt(struct kr_reactor *r, struct end *e, int fd, unsigned recv_fds,
           const struct kr_conn_ops *how) {
    struct kr_conn_opts opts = test_conn_opts();
    opts.recv_fds = recv_fds;
    opts.flush_ns = INT64_C(50000000);
    opts.send_cap = 64 << 20;
    /* which a Unix socket refuses: the bytes and what goes with them stay in order */
    opts.zerocopy_min = 4;
    memset(e, 0, sizeof *e);
    CHECK_OK(kr_conn_adopt(r, &e->conn, fd, &opts, how, e));
    TEST_UNTIL(r, e->opens == 1);
}

int begin(struct kr_reactor *r, struct end *e, unsigned recv_fds) {
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    adopt(r, e, ends[0], recv_fds, &ops);
    return ends[1];
}

void check_came(struct end *e, const int *fds, unsigned count) {
    CHECK_GE(e->gift_count, 1u);
    const struct gift *gift = &e->gifts[e->gift_count - 1];
    CHECK_EQ(gift->count, count);
    CHECK_EQ(gift->truncated, false);
    for (unsigned i = 0; i < count; i++) {
        CHECK_EQ(file_of(e->fds[gift->first + i]), file_of(fds[i]));
        CHECK_NE(e->fds[gift->first + i], fds[i]);
    }
    close_all(e->fds + gift->first, count);
}

void end_of(struct kr_reactor *r, struct end *e, int peer) {
    test_close(peer);
    TEST_UNTIL(r, e->closes == 1);
    test_reactor_end(r, (struct test_levels){0});
}

struct end one;

struct end two;

/* ---- errors of the call ---- */

static void refused(struct kr_reactor *r, const int *fds, unsigned count, int error) {
    int before = tap_fd_count();
    size_t queued = kr_conn_queued(r, one.conn);
    CHECK_ERR(kr_conn_send_fds(r, one.conn, "x", 1, fds, count), error);
    CHECK_EQ(tap_fd_count(), before);
    CHECK_EQ(kr_conn_queued(r, one.conn), queued);
}

/* Ours: a refusal changes nothing, and the connection goes on. */
TEST_EACH(fds_refused_change_nothing) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 0), file = file_new();
    int fds[KR_FDS_MAX + 1];
    for (unsigned i = 0; i <= KR_FDS_MAX; i++)
        fds[i] = file;
    CHECK_ERR(kr_conn_send_fds(NULL, one.conn, "x", 1, fds, 1), EINVAL);
    CHECK_ERR(kr_conn_send_fds(r, (kr_conn){0}, "x", 1, fds, 1), ESTALE);
    CHECK_ERR(kr_conn_send_fds(r, one.conn, NULL, 1, fds, 1), EINVAL);
    CHECK_ERR(kr_conn_send_fds(r, one.conn, "x", 0, fds, 1), EINVAL);
    refused(r, NULL, 1, EINVAL);
    refused(r, fds, 0, EINVAL);
    refused(r, fds, KR_FDS_MAX + 1, EINVAL);
    refused(r, (const int[]){-1}, 1, EBADF);
    refused(r, (const int[]){file, file, 9999}, 3, EBADF);
    CHECK_ERR(kr_conn_send_fds(r, one.conn, "x", (64 << 20) + 1, fds, 1), EMSGSIZE);
    for (unsigned room = 0; room < 3; room++) {
        int before = tap_fd_count();
        struct rlimit old = leave_room_for(room);
        CHECK_ERR(kr_conn_send_fds(r, one.conn, "x", 1, fds, 3), EMFILE);
        CHECK_SYS(setrlimit(RLIMIT_NOFILE, &old));
        CHECK_EQ(tap_fd_count(), before);
        CHECK_EQ(kr_conn_queued(r, one.conn), 0u);
    }
    test_reactor_refuse_memory(r, 0);
    static char large[1 << 16];
    int before = tap_fd_count();
    CHECK_ERR(kr_conn_send_fds(r, one.conn, large, sizeof large, fds, 3), ENOMEM);
    CHECK_EQ(tap_fd_count(), before);
    test_reactor_refuse_memory(r, -1);
    CHECK_OK(kr_conn_shutdown(r, one.conn));
    refused(r, fds, 1, EPIPE);
    test_close(file);
    end_of(r, &one, peer);
}

/* Ours: TCP carries none, and says so at the call. */
TEST_EACH(fds_need_a_unix_socket) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.recv_fds = 4;
    memset(&one, 0, sizeof one);
    uint16_t port = test_listen(r, NULL, &opts, &ops, &one);
    int peer = test_connect(port);
    TEST_UNTIL(r, one.opens == 1);
    refused(r, (const int[]){0}, 1, EOPNOTSUPP);
    test_send(r, peer, "hello", 5);
    TEST_UNTIL(r, one.got == 5);
    test_close(peer);
    TEST_UNTIL(r, one.closes == 1);
    test_reactor_free(r);
}

/* Ours: the option's range, and memory that is refused for it. */
TEST_EACH(fds_asked_for_are_bounded) {
    struct kr_reactor *r = test_reactor(NULL);
    int ends[2];
    struct kr_conn_opts opts;
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    kr_conn_opts_init(&opts);
    CHECK_EQ(opts.recv_fds, 0u);
    opts.recv_fds = KR_FDS_MAX + 1;
    CHECK_ERR(kr_conn_adopt(r, NULL, ends[0], &opts, &ops, &one), EINVAL);
    opts.recv_fds = KR_FDS_MAX;
    for (int64_t grants = 0;; grants++) {
        memset(&one, 0, sizeof one);
        test_reactor_refuse_memory(r, grants);
        int rc = kr_conn_adopt(r, &one.conn, ends[0], &opts, &ops, &one);
        test_reactor_refuse_memory(r, -1);
        if (rc == 0)
            break;
        CHECK_EQ(rc, -ENOMEM);
    }
    end_of(r, &one, ends[1]);
}

/* ---- listeners, dialled connections, children ---- */

/* Ours: accepted and dialled connections have them as adopted ones do. */
TEST_EACH(fds_of_accepted_and_dialled_connections) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_listen_opts opts;
    struct kr_connect_opts dial;
    struct kr_addr addr;
    char name[64];
    snprintf(name, sizeof name, "@kr-fds-%d", (int)getpid());
    CHECK_OK(kr_addr_unix(&addr, name));
    kr_listen_opts_init(&opts);
    kr_connect_opts_init(&dial);
    opts.conn.recv_fds = dial.conn.recv_fds = 4;
    opts.backlog = 8;
    memset(&one, 0, sizeof one);
    memset(&two, 0, sizeof two);
    CHECK_OK(kr_listen(r, NULL, &addr, &opts, &ops, &one));
    int file = file_new();
    CHECK_OK(kr_connect(r, &two.conn, &addr, &dial, &ops, &two));
    CHECK_OK(kr_conn_send_fds(r, two.conn, "early", 5, &file, 1)); /* before it stands */
    TEST_UNTIL(r, one.got == 5);
    check_came(&one, &file, 1);
    CHECK_OK(kr_conn_send_fds(r, one.conn, "back", 4, &file, 1));
    TEST_UNTIL(r, two.got == 4);
    check_came(&two, &file, 1);
    CHECK_OK(kr_conn_close(r, two.conn, KR_CLOSE_NOW));
    TEST_UNTIL(r, one.closes == 1 && two.closes == 1);
    test_close(file);
    test_reactor_free(r);
}

/* Ours: queued by one that never stands, they are closed with it. */
TEST_EACH(fds_of_a_connection_that_never_stands) {
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr addr;
    int file = file_new(), before = tap_fd_count();
    CHECK_OK(kr_addr_unix(&addr, "@kr-fds-nobody-is-here"));
    memset(&one, 0, sizeof one);
    CHECK_OK(kr_connect(r, &one.conn, &addr, NULL, &ops, &one));
    CHECK_OK(kr_conn_send_fds(r, one.conn, "early", 5, &file, 1));
    TEST_UNTIL(r, one.closes == 1);
    CHECK_EQ(one.error, -ECONNREFUSED);
    CHECK_EQ(tap_fd_count(), before);
    test_close(file);
    test_reactor_free(r);
}

/* Ours: a forked child's reactor closes the child's copies; the parent's go on. */
TEST_EACH(fds_of_a_forked_child_are_copies) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 8), file = file_new();
    send_then_pause(r, peer, file);
    CHECK_OK(kr_conn_send_fds(r, one.conn, "hello", 5, &file, 1));
    pid_t pid = CHECK_SYS(fork());
    if (pid == 0) {
        CHECK_ERR(kr_conn_send_fds(r, one.conn, "x", 1, &file, 1), ECHILD);
        int before = tap_fd_count();
        CHECK_OK(kr_reactor_free(r));
        CHECK_LE(tap_fd_count(), before - 2);
        tap_exit_child(0);
    }
    int status;
    CHECK_SYS(waitpid(pid, &status, 0));
    CHECK_EQ(status, 0);
    TEST_UNTIL(r, kr_conn_queued(r, one.conn) == 0);
    read_singly(peer, 5, (const size_t[]){0}, &file, 1);
    CHECK_OK(kr_conn_resume(r, one.conn));
    TEST_UNTIL(r, one.got == 5);
    check_came(&one, &file, 1);
    test_close(file);
    end_of(r, &one, peer);
}

/* The real kernel, which loses the completion of the first receive of descriptors. */
struct loser {
    struct kr__kernel kernel; /* first: the functions are given a pointer to it */
    bool has_lost;
};

static bool receives_fds(const struct io_uring *ring, unsigned submit) {
    unsigned head = *ring->sq.khead;
    for (unsigned i = 0; i < submit; i++) {
        if (ring->sq.sqes[(head + i) & *ring->sq.kring_mask].opcode == IORING_OP_RECVMSG)
            return true;
    }
    return false;
}

static int loser_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                       unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    struct loser *l = (struct loser *)(uintptr_t)k;
    bool loses = !l->has_lost && receives_fds(ring, submit);
    int rc = kr__linux.ring.enter(&kr__linux, ring, submit, wait_for, flags, arg);
    if (!loses)
        return rc;
    l->has_lost = true;
    CHECK_EQ(io_uring_cq_ready(ring), 1u);
    io_uring_cq_advance(ring, 1);
    return -EBADR;
}

/* Ours: those of a completion that the kernel has lost are found by the place they were put in, and
 * closed. */
TEST_EACH(fds_of_a_lost_completion_are_closed) {
    struct loser loser = {.kernel = kr__linux};
    loser.kernel.ring.enter = loser_enter;
    struct kr_reactor *r = test_reactor_on(&loser.kernel, NULL);
    int peer = begin(r, &one, 8), file = file_new(), before = tap_fd_count();
    peer_send(peer, "hello", (const int[]){file, file}, 2);
    int rc = 0;
    while (rc >= 0 && tap_remaining_ns())
        rc = kr_step(r, 1000000);
    CHECK_ERR(rc, EBADR);
    CHECK_EQ(tap_fd_count(), before + 2);
    CHECK_OK(kr_reactor_free(r));
    CHECK_EQ(one.closes, 1u);
    CHECK_EQ(one.gift_count, 0u);
    test_close(peer);
    test_close(file);
    for (int fd = 3; fd < 100; fd++)
        CHECK_EQ(fcntl(fd, F_GETFD), -1);
}

TAP_MAIN(fds, 30 * 4)
