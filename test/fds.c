/* Descriptors that go with the bytes of a Unix stream, both ways: with the right byte, once, and
 * none left behind however a connection ends.
 *
 * Files are told apart by their inodes. Each case counts this process's descriptors before and
 * after. */
#include "harness/server.h"

#include "kernel/probe.h"
#include "reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define GIFTS 1024u
#define FDS_MOST 4096u

/* ---- descriptors ---- */

/* A new file with one descriptor. */
static int file_new(void) {
    return CHECK_SYS(memfd_create("kr-fds", MFD_CLOEXEC));
}

static ino_t file_of(int fd) {
    struct stat st;
    CHECK_SYS(fstat(fd, &st));
    return st.st_ino;
}

static void files_new(int *fds, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        fds[i] = file_new();
}

static void close_all(const int *fds, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        test_close(fds[i]);
}

/* ---- the plain peer ---- */

/* What goes of `size` bytes without waiting, with the descriptors; 0: nothing; -EPERM: they are
 * refused. */
static long peer_give(int fd, const void *data, size_t size, const int *fds, unsigned count) {
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
    CHECK(n >= 0 || errno == EAGAIN || errno == EPERM);
    return n >= 0 ? n : errno == EPERM ? -EPERM : 0;
}

static void peer_send(int fd, const char *text, const int *fds, unsigned count) {
    CHECK_EQ(peer_give(fd, text, strlen(text), fds, count), (long)strlen(text));
}

/* What is there; -EAGAIN: nothing. */
static long peer_take(int fd, void *data, size_t size, int *fds, unsigned *count) {
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

struct gift {
    size_t at, to;  /* bytes shown before, and with what was shown next */
    unsigned first; /* of `fds` */
    unsigned count;
    bool truncated;
};

struct end {
    kr_conn conn;
    unsigned opens, eofs, closes;
    int error;
    enum kr_why why;
    struct gift gifts[GIFTS];
    unsigned gift_count;
    int fds[FDS_MOST];
    unsigned fd_count;
    bool told; /* and not yet shown the bytes */
    size_t got;
    uint64_t seed; /* of the bytes that are to come; 0: any */
    const struct kr_conn_ops *swap_to; /* in on_fds */
    bool close_in_fds, pause_in_fds;
    unsigned at_close; /* descriptors of this process in on_close */
};

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

static const struct kr_conn_ops ops = {.on_open = on_open,
                                       .on_data = on_data,
                                       .on_eof = on_eof,
                                       .on_close = on_close,
                                       .on_fds = on_fds};
static const struct kr_conn_ops deaf_ops = {
    .on_open = on_open, .on_data = on_data, .on_eof = on_eof, .on_close = on_close};

static void adopt(struct kr_reactor *r, struct end *e, int fd, unsigned recv_fds,
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

/* A connection, and its peer. */
static int begin(struct kr_reactor *r, struct end *e, unsigned recv_fds) {
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    adopt(r, e, ends[0], recv_fds, &ops);
    return ends[1];
}

/* What came last is these files; they are closed. */
static void check_came(struct end *e, const int *fds, unsigned count) {
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

static void end_of(struct kr_reactor *r, struct end *e, int peer) {
    test_close(peer);
    TEST_UNTIL(r, e->closes == 1);
    test_reactor_end(r, (struct test_levels){0});
}

static struct end one, two;

/* ---- receiving ---- */

/* Ours: descriptors come before the bytes that they were sent with, close-on-exec, and lead to the
 * same files. */
TEST_EACH(fds_come_before_their_bytes) {
    struct kr_reactor *r = test_reactor(NULL);
    static const unsigned counts[] = {1, 2, 3, 16, KR_FDS_MAX};
    int peer = begin(r, &one, KR_FDS_MAX), files[KR_FDS_MAX], before = tap_fd_count();
    for (unsigned i = 0; i < COUNT(counts); i++) {
        files_new(files, counts[i]);
        peer_send(peer, "hello", files, counts[i]);
        TEST_UNTIL(r, one.got == (i + 1) * 5);
        CHECK_EQ(one.gift_count, i + 1);
        CHECK_EQ(one.gifts[i].at, i * 5);
        check_came(&one, files, counts[i]);
        close_all(files, counts[i]);
        CHECK_EQ(tap_fd_count(), before);
    }
    end_of(r, &one, peer);
}

/* Ours: bytes without descriptors are told of as ever, and descriptors of two messages are not
 * mixed up. */
TEST_EACH(fds_of_two_messages_come_apart) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 8), files[3];
    files_new(files, 3);
    peer_send(peer, "aaaa", NULL, 0);
    peer_send(peer, "bb", files, 1);
    peer_send(peer, "cc", files + 1, 2);
    peer_send(peer, "dddd", NULL, 0);
    TEST_UNTIL(r, one.got == 12);
    CHECK_EQ(one.gift_count, 2u);
    CHECK_LE(one.gifts[0].at, 4u); /* the kernel may hand out the bytes before together with them */
    CHECK_EQ(one.gifts[1].at, 6u);
    CHECK_EQ(one.fd_count, 3u);
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(file_of(one.fds[i]), file_of(files[i]));
    close_all(files, 3);
    close_all(one.fds, 3);
    end_of(r, &one, peer);
}

/* The kernel's, told by us: more than were asked for are closed, and who gets the others hears of
 * it. */
TEST_EACH(fds_beyond_what_was_asked_for_are_closed) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 2), files[5], before = tap_fd_count();
    files_new(files, 5);
    peer_send(peer, "five", files, 5);
    TEST_UNTIL(r, one.got == 4);
    CHECK_EQ(one.gift_count, 1u);
    CHECK(one.gifts[0].count == 2 && one.gifts[0].truncated);
    CHECK_EQ(tap_fd_count(), before + 5 + 2);
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(file_of(one.fds[i]), file_of(files[i]));
    peer_send(peer, "two", files + 3, 2);
    TEST_UNTIL(r, one.got == 7);
    check_came(&one, files + 3, 2);
    close_all(files, 5);
    close_all(one.fds, 2);
    CHECK_EQ(tap_fd_count(), before);
    end_of(r, &one, peer);
}

/* Ours: a connection that asks for none refuses them where the kernel knows how to, for which it
 * need not be opened yet; elsewhere they are closed, and the bytes come. */
TEST_EACH(fds_that_nobody_asked_for_are_refused_or_closed) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 0), file = file_new(), before = tap_fd_count();
    bool refuses = r->ring.caps & KR__CAP_REFUSES_FDS;
    CHECK_EQ(peer_give(peer, "hello", 5, &file, 1), refuses ? -EPERM : 5);
    peer_send(peer, "hello", NULL, 0);
    TEST_UNTIL(r, one.got == (refuses ? 5 : 10));
    CHECK_EQ(one.gift_count, 0u);
    CHECK_EQ(tap_fd_count(), before);
    test_close(file);
    end_of(r, &one, peer);
}

/* Ours: asked for, but with no callback for them. */
TEST_EACH(fds_without_a_callback_are_closed) {
    struct kr_reactor *r = test_reactor(NULL);
    int ends[2], file = file_new();
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    adopt(r, &one, ends[0], 4, &deaf_ops);
    int before = tap_fd_count();
    for (unsigned i = 1; i <= 3; i++) {
        peer_send(ends[1], "hello", &file, 1);
        TEST_UNTIL(r, one.got == 5 * i);
        CHECK_EQ(tap_fd_count(), before);
    }
    test_close(file);
    end_of(r, &one, ends[1]);
}

/* The highest descriptor in use, and room for `more` beyond it. */
static struct rlimit leave_room_for(unsigned more) {
    struct rlimit old;
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, &old));
    int next = CHECK_SYS(fcntl(0, F_DUPFD_CLOEXEC, 0));
    test_close(next);
    CHECK_EQ(next, tap_fd_count()); /* none is free below */
    struct rlimit limit = {(rlim_t)next + more, old.rlim_max};
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    return old;
}

/* The kernel's, told by us: a process at its limit loses those for which it has no room. */
TEST_EACH(fds_for_which_there_is_no_room) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 8), file = file_new(), files[3] = {file, file, file};
    for (unsigned room = 0; room < 4; room++) {
        int before = tap_fd_count();
        peer_send(peer, "x", files, 3);
        struct rlimit old = leave_room_for(room);
        TEST_UNTIL(r, one.got == room + 1);
        CHECK_SYS(setrlimit(RLIMIT_NOFILE, &old));
        CHECK_EQ(one.gift_count, room + 1);
        CHECK_EQ(one.gifts[room].count, room);
        CHECK_EQ(one.gifts[room].truncated, room < 3);
        CHECK_EQ(tap_fd_count(), before + (int)room);
        close_all(one.fds + one.gifts[room].first, room);
    }
    test_close(file);
    end_of(r, &one, peer);
}

/* ---- while reading is stopped ---- */

static size_t pause_one(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    (void)conn, (void)user, (void)data;
    CHECK_OK(kr_conn_pause(r, one.conn));
    return size;
}

static const struct kr_conn_ops pausing_ops = {.on_data = pause_one};

/* Received in one turn with a byte of another connection, whose callback comes first and pauses this
 * one. */
static void send_then_pause(struct kr_reactor *r, int peer, int file) {
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    CHECK_OK(kr_conn_adopt(r, NULL, ends[0], NULL, &pausing_ops, NULL));
    test_settle(r);
    uint64_t received = test_stats(r).bytes_in;
    CHECK_EQ(write(ends[1], "x", 1), 1);
    peer_send(peer, "hello", &file, 1);
    test_settle(r);
    CHECK_EQ(test_stats(r).bytes_in, received + 6);
    CHECK_EQ(one.gift_count, 0u);
    CHECK_EQ(one.got, 0u);
    test_close(ends[1]);
    test_settle(r);
}

/* Ours: none are told of while paused; they come with their bytes when reading goes on. The bytes fill
 * their buffer, so that the next receive would be made without a poll. */
TEST_EACH(fds_wait_while_paused) {
    struct kr_config config = test_config();
    config.buf_count = 8;
    config.buf_size = 5;
    struct kr_reactor *r = test_reactor(&config);
    int peer = begin(r, &one, 8), file = file_new();
    send_then_pause(r, peer, file);
    CHECK_OK(kr_conn_resume(r, one.conn));
    TEST_UNTIL(r, one.got == 5);
    CHECK_EQ(one.gift_count, 1u);
    CHECK_EQ(one.gifts[0].at, 0u);
    check_came(&one, &file, 1);
    peer_send(peer, "again", &file, 1);
    TEST_UNTIL(r, one.got == 10);
    check_came(&one, &file, 1);
    test_close(file);
    end_of(r, &one, peer);
}

/* Ours: those that wait are closed with the connection, in whatever manner, at on_close at the
 * latest. */
TEST_EACH(fds_that_wait_end_with_the_connection) {
    static const enum kr_close hows[] = {KR_CLOSE_LINGER, KR_CLOSE_FLUSH, KR_CLOSE_NOW,
                                         KR_CLOSE_RESET};
    for (unsigned i = 0; i < COUNT(hows); i++) {
        struct kr_reactor *r = test_reactor(NULL);
        int peer = begin(r, &one, 8), file = file_new(), before = tap_fd_count();
        send_then_pause(r, peer, file);
        CHECK_OK(kr_conn_close(r, one.conn, hows[i]));
        if (hows[i] == KR_CLOSE_LINGER)
            CHECK_SYS(shutdown(peer, SHUT_WR));
        TEST_UNTIL(r, one.closes == 1);
        CHECK_EQ((int)one.at_close, before - test_slot_cost(r));
        CHECK_EQ(one.gift_count, 0u);
        test_close(file);
        end_of(r, &one, peer);
    }
}

/* Ours: a reactor that is freed closes those that wait. */
TEST_EACH(fds_that_wait_end_with_the_reactor) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 8), file = file_new(), before = tap_fd_count();
    send_then_pause(r, peer, file);
    test_reactor_free(r);
    CHECK_LT(tap_fd_count(), before);
    CHECK_EQ(one.gift_count, 0u);
    test_close(file);
    test_close(peer);
}

/* Ours: who takes a connection over has those that wait, and the bytes. */
TEST_EACH(fds_that_wait_go_to_the_next_user) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 8), file = file_new();
    send_then_pause(r, peer, file);
    memset(&two, 0, sizeof two);
    two.opens = 1;
    CHECK_OK(kr_conn_swap(r, one.conn, &ops, &two));
    CHECK_OK(kr_conn_resume(r, one.conn));
    TEST_UNTIL(r, two.got == 5);
    check_came(&two, &file, 1);
    CHECK_EQ(one.gift_count, 0u);
    test_close(file);
    end_of(r, &two, peer);
}

/* Ours: what on_fds decides holds for the bytes that follow. */
TEST_EACH(fds_callback_may_swap_pause_and_close) {
    for (unsigned i = 0; i < 3; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        int peer = begin(r, &one, 8), file = file_new();
        one.swap_to = i == 0 ? &deaf_ops : NULL;
        one.pause_in_fds = i == 1;
        one.close_in_fds = i == 2;
        peer_send(peer, "hello", &file, 1);
        TEST_UNTIL(r, one.gift_count == 1);
        check_came(&one, &file, 1);
        test_settle(r);
        CHECK_EQ(one.got, i ? 0u : 5u);
        CHECK_EQ(one.closes, i == 2);
        if (i == 1)
            CHECK_OK(kr_conn_resume(r, one.conn));
        TEST_UNTIL(r, one.got == 5 || one.closes);
        int before = tap_fd_count();
        if (i == 0)
            peer_send(peer, "hello", &file, 1);
        TEST_UNTIL(r, one.got == 10 || i);
        CHECK_EQ(tap_fd_count(), before);
        test_close(file);
        end_of(r, &one, peer);
    }
}

/* Ours: those that come to a connection that lingers are closed as they come. */
TEST_EACH(fds_to_a_lingering_connection_are_closed) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 8), file = file_new(), before = tap_fd_count();
    CHECK_OK(kr_conn_close(r, one.conn, KR_CLOSE_LINGER));
    for (unsigned i = 0; i < 3; i++) {
        peer_send(peer, "hello", &file, 1);
        test_settle(r);
        CHECK_EQ(tap_fd_count(), before - (int)one.closes * test_slot_cost(r));
    }
    CHECK_EQ(one.gift_count, 0u);
    CHECK_SYS(shutdown(peer, SHUT_WR));
    TEST_UNTIL(r, one.closes == 1);
    test_close(file);
    end_of(r, &one, peer);
}

/* Ours: forwarded bytes lose their descriptors, also those that waited when forwarding began. */
TEST_EACH(fds_are_not_forwarded) {
    for (unsigned waits = 0; waits < 2; waits++) {
        struct kr_reactor *r = test_reactor(NULL);
        int peer = begin(r, &one, 8), other = begin(r, &two, 8), file = file_new();
        int before = tap_fd_count();
        if (waits)
            send_then_pause(r, peer, file);
        else
            peer_send(peer, "hello", &file, 1);
        CHECK_OK(kr_conn_forward(r, one.conn, two.conn, NULL, NULL, NULL));
        if (waits)
            CHECK_OK(kr_conn_resume(r, one.conn));
        char bytes[5];
        int fds[KR_FDS_MAX];
        unsigned count = 0;
        test_settle(r);
        CHECK_EQ(peer_take(other, bytes, 5, fds, &count), 5);
        CHECK_EQ(count, 0u);
        CHECK_EQ(tap_fd_count(), before);
        CHECK_EQ(one.gift_count, 0u);
        test_close(file);
        test_close(other);
        test_close(peer);
        TEST_UNTIL(r, one.closes == 1 && two.closes == 1);
        test_reactor_end(r, (struct test_levels){0});
    }
}

/* ---- sending ---- */

/* Ours: the caller may close his own at once; the peer has the files with the first byte, and no
 * duplicate stays. */
TEST_EACH(fds_go_with_the_first_byte) {
    struct kr_reactor *r = test_reactor(NULL);
    static const unsigned counts[] = {1, 2, 3, 16, KR_FDS_MAX};
    int peer = begin(r, &one, 0), files[KR_FDS_MAX], got[KR_FDS_MAX], before = tap_fd_count();
    for (unsigned i = 0; i < COUNT(counts); i++) {
        ino_t inodes[KR_FDS_MAX];
        files_new(files, counts[i]);
        for (unsigned k = 0; k < counts[i]; k++)
            inodes[k] = file_of(files[k]);
        CHECK_OK(kr_conn_send_fds(r, one.conn, "hello", 5, files, counts[i]));
        CHECK_EQ(tap_fd_count(), before + 2 * (int)counts[i]);
        close_all(files, counts[i]);
        TEST_UNTIL(r, kr_conn_queued(r, one.conn) == 0);
        CHECK_EQ(tap_fd_count(), before);
        char bytes[5];
        unsigned count;
        CHECK_EQ(peer_take(peer, bytes, 1, got, &count), 1);
        CHECK_EQ(count, counts[i]);
        for (unsigned k = 0; k < count; k++)
            CHECK_EQ(file_of(got[k]), inodes[k]);
        close_all(got, count);
        CHECK_EQ(peer_take(peer, bytes + 1, 4, got, &count), 4);
        CHECK_EQ(count, 0u);
    }
    end_of(r, &one, peer);
}

/* Each of them with exactly its byte: the peer reads one at a time. */
static void read_singly(int peer, size_t total, const size_t *at, const int *files, unsigned most) {
    int fds[KR_FDS_MAX];
    unsigned count, come = 0;
    char byte;
    for (size_t i = 0; i < total; i++) {
        CHECK_EQ(peer_take(peer, &byte, 1, fds, &count), 1);
        if (!count)
            continue;
        CHECK_LT(come, most);
        CHECK_EQ(count, 1u);
        CHECK_EQ(at[come], i);
        CHECK_EQ(file_of(fds[0]), file_of(files[come++]));
        test_close(fds[0]);
    }
    CHECK_EQ(come, most);
}

/* Ours: they keep their place in the queue, whatever is queued before and behind: copied, lent,
 * formatted in place. */
TEST_EACH(fds_keep_their_place_in_the_queue) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 0), files[4];
    unsigned released = 0;
    files_new(files, 4);
    void *room;
    CHECK_OK(kr_conn_send(r, one.conn, "aaaa", 4));
    CHECK_OK(kr_conn_send_fds(r, one.conn, "bb", 2, &files[0], 1));
    CHECK_OK(kr_conn_send(r, one.conn, "cc", 2));
    CHECK_OK(kr_conn_send_ref(r, one.conn, "dddd", 4, test_count_call, &released));
    CHECK_OK(kr_conn_send_fds(r, one.conn, "e", 1, &files[1], 1));
    CHECK_OK(kr_conn_send_fds(r, one.conn, "f", 1, &files[2], 1));
    CHECK_OK(kr_conn_reserve(r, one.conn, 10, &room));
    memcpy(room, "gg", 2);
    CHECK_OK(kr_conn_commit(r, one.conn, 2));
    CHECK_OK(kr_conn_send_ref(r, one.conn, "hh", 2, test_count_call, &released));
    CHECK_OK(kr_conn_send_fds(r, one.conn, "i", 1, &files[3], 1));
    TEST_UNTIL(r, kr_conn_queued(r, one.conn) == 0 && released == 2);
    read_singly(peer, 19, (const size_t[]){4, 12, 13, 18}, files, 4);
    close_all(files, 4);
    end_of(r, &one, peer);
}

/* Ours: nor do they overtake a file that is sent, or stay behind when it turns out shorter. */
TEST_EACH(fds_keep_their_place_behind_a_file) {
    for (unsigned i = 0; i < 4; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        int peer = begin(r, &one, 0), files[3], content = file_new();
        size_t size = i % 2 ? 7 : 0;
        files_new(files, 3);
        CHECK_EQ(write(content, "content", size), (long)size);
        CHECK_OK(kr_conn_send_fds(r, one.conn, "aa", 2, &files[0], 1));
        CHECK_OK(
            kr_conn_send_file(r, one.conn, content, 0, i / 2 ? KR_FILE_END : size, NULL, NULL));
        CHECK_OK(kr_conn_send_fds(r, one.conn, "b", 1, &files[1], 1));
        CHECK_OK(kr_conn_send_file(r, one.conn, content, 0, KR_FILE_END, NULL, NULL));
        CHECK_OK(kr_conn_send(r, one.conn, "c", 1));
        CHECK_OK(kr_conn_send_fds(r, one.conn, "d", 1, &files[2], 1));
        TEST_UNTIL(r, kr_conn_queued(r, one.conn) == 0);
        read_singly(peer, 5 + 2 * size, (const size_t[]){0, 2 + size, 4 + 2 * size}, files, 3);
        close_all(files, 3);
        TEST_UNTIL(r, test_stats(r).sends_out == 0);
        test_close(content);
        end_of(r, &one, peer);
    }
}

/* What is to come at the other side of a stream of random sends. */
struct plan {
    size_t at[GIFTS];
    ino_t inode[GIFTS];
    unsigned fds[GIFTS]; /* how many of that file */
    unsigned count;
    size_t queued;
};

static void queue_some(struct kr_reactor *r, kr_conn conn, struct plan *p) {
    static char bytes[20000];
    size_t size = 1 + (size_t)tap_random_below(tap_random_below(4) ? 100 : sizeof bytes);
    test_pattern(bytes, size, 5, p->queued);
    if (tap_random_below(2)) {
        CHECK_OK(kr_conn_send(r, conn, bytes, size));
    } else {
        int file = file_new(), fds[8];
        unsigned count = 1 + (unsigned)tap_random_below(8);
        for (unsigned i = 0; i < count; i++)
            fds[i] = file;
        CHECK_LT(p->count, GIFTS);
        p->at[p->count] = p->queued;
        p->inode[p->count] = file_of(file);
        p->fds[p->count++] = count;
        CHECK_OK(kr_conn_send_fds(r, conn, bytes, size, fds, count));
        test_close(file);
    }
    p->queued += size;
}

static void check_next(const struct plan *p, unsigned *come, size_t from, size_t to, const int *fds,
                       unsigned count) {
    unsigned i = (*come)++;
    CHECK_LT(i, p->count);
    CHECK(from <= p->at[i] && p->at[i] < to);
    CHECK_EQ(count, p->fds[i]);
    for (unsigned k = 0; k < count; k++)
        CHECK_EQ(file_of(fds[k]), p->inode[i]);
    close_all(fds, count);
}

/* Ours: with a socket that takes little at a time, every descriptor comes once, with its bytes. */
TEST_EACH(fds_go_once_through_a_small_socket) {
    struct kr_reactor *r = test_reactor(NULL);
    struct plan plan = {.count = 0};
    int peer = begin(r, &one, 0), before = tap_fd_count(), fds[KR_FDS_MAX];
    int small = 4096;
    CHECK_SYS(setsockopt(peer, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
    static char bytes[5000];
    size_t got = 0;
    unsigned come = 0, count;
    for (unsigned i = 0; i < 200 || got < plan.queued;) {
        if (i < 200 && tap_random_below(2)) {
            queue_some(r, one.conn, &plan);
            i++;
        }
        if (tap_random_below(2))
            test_step(r, "sends");
        long n = peer_take(peer, bytes, 1 + (size_t)tap_random_below(sizeof bytes), fds, &count);
        if (n == -EAGAIN)
            continue;
        CHECK_GT(n, 0);
        test_pattern_check(bytes, (size_t)n, 5, got);
        if (count)
            check_next(&plan, &come, got, got + (size_t)n, fds, count);
        got += (size_t)n;
    }
    CHECK_EQ(come, plan.count);
    TEST_UNTIL(r, kr_conn_queued(r, one.conn) == 0);
    CHECK_EQ(tap_fd_count(), before);
    end_of(r, &one, peer);
}

/* Ours: bytes that the kernel takes in several parts give their descriptors with the first, and the
 * duplicates are closed then, not with the last. */
TEST_EACH(fds_of_a_long_message_go_with_its_first_part) {
    struct kr_reactor *r = test_reactor(NULL);
    static char bytes[4 << 20];
    int peer = begin(r, &one, 0), file = file_new(), before = tap_fd_count(), fds[KR_FDS_MAX];
    test_pattern(bytes, sizeof bytes, 6, 0);
    CHECK_OK(kr_conn_send_fds(r, one.conn, bytes, sizeof bytes, &file, 1));
    TEST_UNTIL(r, kr_conn_queued(r, one.conn) < sizeof bytes);
    CHECK_GT(kr_conn_queued(r, one.conn), 0u);
    CHECK_EQ(tap_fd_count(), before);
    size_t got = 0;
    unsigned come = 0;
    while (got < sizeof bytes) {
        static char part[65536];
        unsigned count;
        long n = peer_take(peer, part, sizeof part, fds, &count);
        if (n == -EAGAIN) {
            test_step(r, "more");
            continue;
        }
        test_pattern_check(part, (size_t)n, 6, got);
        CHECK_EQ(count, got == 0);
        come += count;
        close_all(fds, count);
        got += (size_t)n;
    }
    CHECK_EQ(come, 1u);
    test_close(file);
    end_of(r, &one, peer);
}

/* Ours: from one connection of a reactor to another, in both directions, with bytes in scarce
 * buffers. */
TEST_EACH(fds_between_two_connections) {
    struct kr_config config = test_config();
    config.buf_count = 4;
    config.buf_size = 1024;
    struct kr_reactor *r = test_reactor(&config);
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    adopt(r, &one, ends[0], 8, &ops);
    adopt(r, &two, ends[1], 8, &ops);
    int before = tap_fd_count();
    struct end *to[2] = {&two, &one};
    struct plan plans[2] = {{.count = 0}, {.count = 0}};
    one.seed = two.seed = 5;
    for (unsigned i = 0; i < 100; i++) {
        queue_some(r, one.conn, &plans[0]);
        queue_some(r, two.conn, &plans[1]);
        test_step(r, "some");
    }
    TEST_UNTIL(r, two.got == plans[0].queued && one.got == plans[1].queued);
    for (unsigned i = 0; i < 2; i++) {
        CHECK_EQ(to[i]->gift_count, plans[i].count);
        for (unsigned come = 0; come < plans[i].count;) {
            const struct gift *gift = &to[i]->gifts[come];
            CHECK_EQ(gift->truncated, false);
            check_next(&plans[i], &come, gift->at, gift->to, to[i]->fds + gift->first, gift->count);
        }
    }
    CHECK_EQ(tap_fd_count(), before);
    CHECK_OK(kr_conn_close(r, one.conn, KR_CLOSE_NOW));
    TEST_UNTIL(r, one.closes == 1 && two.closes == 1);
    test_reactor_end(r, (struct test_levels){0});
}

/* ---- the end with descriptors in the queue ---- */

/* Fills the socket and queues descriptors behind. */
static void stall(struct kr_reactor *r, struct end *e, const int *files, unsigned count) {
    static char bytes[4 << 20];
    CHECK_OK(kr_conn_send(r, e->conn, bytes, sizeof bytes));
    test_settle(r);
    CHECK_GT(kr_conn_queued(r, e->conn), 0u);
    for (unsigned i = 0; i < 3; i++)
        CHECK_OK(kr_conn_send_fds(r, e->conn, "hello", 5, files, count));
}

/* Ours: duplicates that never go are closed once, at on_close at the latest, however it ends; FLUSH
 * and LINGER by their deadline. */
TEST_EACH(fds_in_the_queue_end_with_the_connection) {
    static const enum kr_close hows[] = {KR_CLOSE_LINGER, KR_CLOSE_FLUSH, KR_CLOSE_NOW,
                                         KR_CLOSE_RESET};
    for (unsigned i = 0; i < 6; i++) {
        struct kr_reactor *r = test_reactor(NULL);
        int peer = begin(r, &one, 0), files[2], before = tap_fd_count();
        int cost = test_slot_cost(r);
        files_new(files, 2);
        stall(r, &one, files, 2);
        CHECK_EQ(tap_fd_count(), before + 2 + 6);
        if (i < 4)
            CHECK_OK(kr_conn_close(r, one.conn, hows[i]));
        else if (i == 4)
            test_close(peer);
        if (i < 5)
            TEST_UNTIL(r, one.closes == 1);
        test_reactor_free(r);
        CHECK_EQ(one.closes, 1u);
        CHECK_EQ((int)one.at_close + (i == 4), before + 2 - cost);
        close_all(files, 2);
        if (i != 4)
            test_close(peer);
    }
}

/* Ours: what is flushed takes its descriptors with it. */
TEST_EACH(fds_are_flushed_before_the_end) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 0), file = file_new(), fds[KR_FDS_MAX];
    CHECK_OK(kr_conn_send(r, one.conn, "aa", 2));
    CHECK_OK(kr_conn_send_fds(r, one.conn, "b", 1, &file, 1));
    CHECK_OK(kr_conn_close(r, one.conn, KR_CLOSE_FLUSH));
    CHECK_ERR(kr_conn_send_fds(r, one.conn, "b", 1, &file, 1), EPIPE);
    TEST_UNTIL(r, one.closes == 1);
    CHECK_EQ(one.error, 0);
    read_singly(peer, 3, (const size_t[]){2}, &file, 1);
    char byte;
    unsigned count;
    CHECK_EQ(peer_take(peer, &byte, 1, fds, &count), 0);
    test_close(file);
    end_of(r, &one, peer);
}

/* The kernel's: one that may not be sent ends the connection with the kernel's error. */
TEST_EACH(fds_that_the_kernel_refuses_end_the_connection) {
    struct kr_reactor *r = test_reactor(NULL);
    int peer = begin(r, &one, 0), before = tap_fd_count();
    struct io_uring_params params = {0};
    int ring = io_uring_setup(4, &params);
    CHECK_OK(ring);
    CHECK_OK(kr_conn_send_fds(r, one.conn, "x", 1, &ring, 1));
    test_close(ring);
    TEST_UNTIL(r, one.closes == 1);
    CHECK_EQ(one.error, -EINVAL);
    CHECK_EQ(one.why, KR_WHY_ERROR);
    CHECK_EQ(tap_fd_count(), before - test_slot_cost(r));
    end_of(r, &one, peer);
}

/* The real kernel, but for one SENDMSG, which completes with `result` and does nothing else. */
struct refuser {
    struct kr__kernel kernel; /* first: the functions are given a pointer to it */
    int result;
};

static int refuser_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                         unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    struct refuser *f = (struct refuser *)(uintptr_t)k;
    unsigned head = *ring->sq.khead;
    for (unsigned i = 0; i < submit && f->result; i++) {
        struct io_uring_sqe *sqe = &ring->sq.sqes[(head + i) & *ring->sq.kring_mask];
        if (sqe->opcode != IORING_OP_SENDMSG)
            continue;
        *sqe = (struct io_uring_sqe){.opcode = IORING_OP_NOP, .rw_flags = KR__NOP_INJECT_RESULT,
                                     .len = (uint32_t)f->result, .user_data = sqe->user_data};
        f->result = 0;
    }
    return kr__linux.enter(&kr__linux, ring, submit, wait_for, flags, arg);
}

/* Ours: an error of the send ends the connection, also that of too many under way; one that passes
 * has it sent again, with its descriptors. */
TEST_EACH(fds_when_the_send_fails) {
    static const int results[] = {-ETOOMANYREFS, -EBADF, -ENOMEM,   -EPIPE,
                                  -EAGAIN,       -EINTR, -ECANCELED};
    tap_need_kernel(6, 10); /* NOP with a result */
    for (unsigned i = 0; i < COUNT(results); i++) {
        struct refuser refuser = {.kernel = kr__linux, .result = results[i]};
        refuser.kernel.enter = refuser_enter;
        struct kr_reactor *r = test_reactor_on(&refuser.kernel, NULL);
        int peer = begin(r, &one, 0), file = file_new(), before = tap_fd_count();
        CHECK_OK(kr_conn_send_fds(r, one.conn, "hello", 5, &file, 1));
        TEST_UNTIL(r, one.closes || !kr_conn_queued(r, one.conn));
        CHECK_EQ(refuser.result, 0);
        if (results[i] == -EPIPE) { /* the peer is heard to its end */
            CHECK_EQ(one.closes, 0u);
            CHECK_SYS(shutdown(peer, SHUT_WR));
            TEST_UNTIL(r, one.closes);
        }
        CHECK_EQ(tap_fd_count(), before - (int)one.closes * test_slot_cost(r));
        CHECK_EQ(one.closes, i < 4);
        CHECK_EQ(one.error, i < 4 ? results[i] : 0);
        if (i >= 4)
            read_singly(peer, 5, (const size_t[]){0}, &file, 1);
        test_close(file);
        end_of(r, &one, peer);
    }
}

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
    int rc = kr__linux.enter(&kr__linux, ring, submit, wait_for, flags, arg);
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
    loser.kernel.enter = loser_enter;
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
