/* Release: a connection leaves as a plain descriptor, and not a byte of either direction is lost,
 * doubled or moved by that. On kernels that make a descriptor of a slot, and with one that was kept
 * from the start. */
#include "harness/server.h"

#include "core/reactor.h"
#include "kernel/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define IN 7  /* the stream of the client */
#define OUT 8 /* and ours */
#define BIG ((size_t)4 << 20)

struct seen {
    struct kr_reactor *r;
    kr_listener listener;
    uint16_t port;
    int fd; /* of the client */
    kr_conn conn;
    unsigned opens, drains, eofs, shutdowns, tells, closes, releases;
    size_t shown, got, most; /* of the stream; most: consume no more than that */
    size_t sent;
    bool leave_in_data; /* release from within on_data */
    bool kept;          /* with keep_fd */
    bool looks;         /* what the client reads when on_close runs is noted */
    long read_at_close;
    int error;
    enum kr_why why;
    struct kr_released what;
    char *unread, *unsent; /* copies */
};

static void released(struct kr_reactor *r, kr_conn conn, void *user,
                     const struct kr_released *what) {
    struct seen *s = user;
    CHECK_EQ(conn.bits, s->conn.bits);
    CHECK_EQ(s->closes, 0u);
    CHECK_EQ(what->fd >= 0, what->error == 0);
    CHECK_EQ(what->open, kr_conn_send(r, conn, NULL, 0) == 0);
    s->tells++;
    s->what = *what;
    if (what->error == 0)
        CHECK_ERR(kr_conn_send(r, conn, "x", 1), EPIPE);
    s->unread = malloc(what->unread_size + 1);
    s->unsent = malloc(what->unsent_size + 1);
    CHECK(s->unread && s->unsent);
    CHECK(what->unread && what->unsent && what->fds && what->unsent_fds); /* also of test_keep_all */
    memcpy(s->unread, what->unread, what->unread_size);
    size_t at = 0;
    for (unsigned i = 0; i < what->unsent_count; at += what->unsent[i++].iov_len)
        memcpy(s->unsent + at, what->unsent[i].iov_base, what->unsent[i].iov_len);
    CHECK_EQ(at, what->unsent_size);
}

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct seen *s = user;
    s->opens++;
    s->conn = conn;
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct seen *s = user;
    CHECK(!s->tells || s->what.error);
    test_pattern_check(data, size, IN, s->got);
    s->shown = s->got + size;
    size_t used = s->got < s->most ? s->most - s->got : 0;
    used = used < size ? used : size;
    s->got += used;
    if (s->leave_in_data)
        CHECK_OK(kr_conn_release(r, conn, released, s));
    s->leave_in_data = false;
    return used;
}

static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct seen *)user)->eofs++;
}

static void on_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct seen *)user)->drains++;
}

static void on_shutdown(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct seen *)user)->shutdowns++;
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    UNUSED(r, conn);
    struct seen *s = user;
    char byte;
    if (s->looks)
        s->read_at_close = test_recv_some(s->fd, &byte, 1);
    s->closes++;
    s->error = error;
    s->why = why;
}

static const struct kr_conn_ops ops = {.on_open = on_open,
                                       .on_data = on_data,
                                       .on_eof = on_eof,
                                       .on_drain = on_drain,
                                       .on_shutdown = on_shutdown,
                                       .on_close = on_close};

/* A connection of a client who takes 4 KiB at a time. */
static void begin_with(struct seen *s, bool kept, struct kr_listen_opts *opts) {
    struct kr_listen_opts defaults = test_listen_opts();
    defaults.backlog = 256;
    opts = opts ? opts : &defaults;
    opts->conn.keep_fd = kept;
    *s = (struct seen){.r = test_reactor(NULL), .kept = kept, .most = SIZE_MAX};
    s->port = test_listen(s->r, &s->listener, opts, &ops, s);
    s->fd = test_connect_sized(s->port, 0, 4096);
    TEST_UNTIL(s->r, s->opens == 1);
}

static void begin(struct seen *s, bool kept) {
    begin_with(s, kept, NULL);
}

static void end(struct seen *s) {
    TEST_UNTIL(s->r, s->closes == 1);
    CHECK_EQ(s->tells, 1u);
    CHECK_ERR(kr_conn_release(s->r, s->conn, released, s), ESTALE);
    test_close(s->fd);
    free(s->unread);
    free(s->unsent);
    test_reactor_end(s->r, (struct test_levels){.listeners = 1});
}

/* Runs it with a descriptor that was kept, and with one that is made. */
static void each_way(void (*run)(bool kept)) {
    run(true);
    run(false);
}

static void leave(struct seen *s) {
    CHECK_OK(kr_conn_release(s->r, s->conn, released, s));
    TEST_UNTIL(s->r, s->tells == 1);
}

static void check_released(struct seen *s) {
    CHECK_EQ(s->what.error, 0);
    TEST_UNTIL(s->r, s->closes == 1);
    CHECK_EQ(s->error, 0);
    CHECK_EQ(s->why, KR_WHY_RELEASED);
}

static void client_sends(struct seen *s, size_t size, uint64_t offset) {
    char *bytes = malloc(size);
    CHECK(bytes != NULL);
    test_pattern(bytes, size, IN, offset);
    test_send(s->r, s->fd, bytes, size);
    free(bytes);
}

static void we_send(struct seen *s, size_t size) {
    char *bytes = malloc(size);
    CHECK(bytes != NULL);
    test_pattern(bytes, size, OUT, s->sent);
    CHECK_OK(kr_conn_send(s->r, s->conn, bytes, size));
    s->sent += size;
    free(bytes);
}

/* The client is sent the rest by the descriptor, and has got the whole stream of `size` then. */
static void finish_by_fd(struct seen *s, size_t size) {
    CHECK_SYS(fcntl(s->what.fd, F_SETFL, O_NONBLOCK));
    char back[8192];
    size_t done = 0, got = 0;
    while (got < size) {
        if (done < s->what.unsent_size) {
            long n = test_send_some(s->what.fd, s->unsent + done, s->what.unsent_size - done);
            CHECK_GE(n, 0);
            done += (size_t)n;
        }
        long n = test_recv_some(s->fd, back, sizeof back);
        CHECK_GE(n, 0);
        test_pattern_check(back, (size_t)n, OUT, got);
        got += (size_t)n;
        test_step(s->r, "the client has got everything");
    }
    CHECK_EQ(got, size);
}

/* What is unread, and then what the descriptor reads, goes on from what was consumed to `size`. */
static void read_by_fd(struct seen *s, size_t size) {
    test_pattern_check(s->unread, s->what.unread_size, IN, s->got);
    size_t at = s->got + s->what.unread_size;
    char bytes[8192];
    while (at < size) {
        size_t part = size - at < sizeof bytes ? size - at : sizeof bytes;
        test_recv(s->r, s->what.fd, bytes, part);
        test_pattern_check(bytes, part, IN, at);
        at += part;
    }
    CHECK_EQ(at, size);
}

/* ---- what is given back ---- */

static void plain(bool kept) {
    struct seen s;
    begin(&s, kept);
    client_sends(&s, 1000, 0);
    TEST_UNTIL(s.r, s.got == 1000);
    int before = tap_fd_count();
    leave(&s);
    check_released(&s);
    CHECK_EQ(s.what.unread_size, 0u);
    CHECK_EQ(s.what.unsent_count, 0u);
    CHECK(!s.what.eof && !s.what.shut && !s.what.shutting);
    CHECK_EQ(tap_fd_count(), before + !kept - test_slot_cost(s.r));
    CHECK_EQ(test_stats(s.r).releases, 1u);
    CHECK_EQ(CHECK_SYS(fcntl(s.what.fd, F_GETFD)), FD_CLOEXEC);
    CHECK(!(CHECK_SYS(fcntl(s.what.fd, F_GETFL)) & O_NONBLOCK));
    char byte;
    CHECK_EQ(test_recv_some(s.fd, &byte, 1), 0); /* no end is seen */
    CHECK_EQ(write(s.what.fd, "hello", 5), 5);
    CHECK_RECV(s.r, s.fd, "hello");
    client_sends(&s, 1000, 1000);
    read_by_fd(&s, 2000);
    test_close(s.what.fd);
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0); /* nobody else has it open */
    end(&s);
}

/* Ours: what comes back is the socket itself, close-on-exec and blocking, and nobody else's; the
 * peer sees neither an end nor a gap. */
TEST_EACH(release_gives_a_descriptor) {
    each_way(plain);
}

static void unread(bool kept) {
    for (size_t most = 0; most <= 4000; most += 1000) {
        struct seen s;
        begin(&s, kept);
        s.most = most;
        s.leave_in_data = true;
        client_sends(&s, 4000, 0);
        client_sends(&s, 4000, 4000);
        TEST_UNTIL(s.r, s.tells == 1);
        check_released(&s);
        CHECK_EQ(s.got, most);
        read_by_fd(&s, 8000);
        test_close(s.what.fd);
        end(&s);
    }
}

/* Ours: from within on_data what that does not consume is shown, and so is what comes until it is
 * over. */
TEST_EACH(release_in_on_data_shows_the_rest) {
    each_way(unread);
}

static void kept_bytes(bool kept) {
    struct seen s;
    begin(&s, kept);
    s.most = 10;
    client_sends(&s, 3000, 0);
    TEST_UNTIL(s.r, s.shown == 3000);
    CHECK_OK(kr_conn_pause(s.r, s.conn));
    client_sends(&s, 3000, 3000);
    leave(&s);
    check_released(&s);
    CHECK_GE(s.what.unread_size, 2990u);
    read_by_fd(&s, 6000);
    test_close(s.what.fd);
    end(&s);
}

/* Ours: what was kept from earlier comes first, of a paused connection too. */
TEST_EACH(release_shows_kept_bytes) {
    each_way(kept_bytes);
}

static void unsent(bool kept) {
    struct seen s;
    begin(&s, kept);
    we_send(&s, BIG);
    TEST_UNTIL(s.r, kr_conn_queued(s.r, s.conn) < BIG);
    for (unsigned i = 0; i < 3000; i++)
        we_send(&s, 777);
    size_t queued = kr_conn_queued(s.r, s.conn);
    leave(&s);
    check_released(&s);
    CHECK_LE(s.what.unsent_size, queued);
    CHECK_GT(s.what.unsent_size, 0u);
    finish_by_fd(&s, s.sent);
    test_close(s.what.fd);
    end(&s);
}

/* Ours: what the kernel has not taken is shown, from just behind what it has. */
TEST_EACH(release_shows_what_is_unsent) {
    each_way(unsent);
}

struct loan {
    struct seen *s;
    unsigned releases;
};

static void loan_back(struct kr_reactor *r, void *arg) {
    (void)r;
    struct loan *loan = arg;
    CHECK_EQ(loan->s->tells, 1u);
    CHECK_EQ(loan->s->closes, 0u);
    loan->releases++;
}

static void borrowed(bool kept) {
    struct seen s;
    begin(&s, kept);
    we_send(&s, BIG);
    TEST_UNTIL(s.r, kr_conn_queued(s.r, s.conn) < BIG);
    char *bytes = malloc(5000);
    CHECK(bytes != NULL);
    test_pattern(bytes, 5000, OUT, s.sent);
    struct loan loan = {&s, 0};
    CHECK_OK(kr_conn_send_ref(s.r, s.conn, bytes, 5000, loan_back, &loan));
    s.sent += 5000;
    leave(&s);
    check_released(&s);
    CHECK_EQ(loan.releases, 1u);
    free(bytes);
    finish_by_fd(&s, s.sent);
    test_close(s.what.fd);
    end(&s);
}

/* Ours: borrowed bytes that were not sent are shown, and released once, after that and before
 * on_close. */
TEST_EACH(release_shows_borrowed_bytes) {
    each_way(borrowed);
}

static void busy(bool kept) {
    for (unsigned turns = 0; turns < 12; turns += 1 + turns / 2) {
        struct seen s;
        begin(&s, kept);
        s.most = 100000;
        char *bytes = malloc(1 << 20);
        CHECK(bytes != NULL);
        test_pattern(bytes, 1 << 20, IN, 0);
        long in = test_send_some(s.fd, bytes, 1 << 20);
        CHECK_GT(in, 0);
        we_send(&s, BIG);
        for (unsigned i = 0; i < turns; i++)
            test_step(s.r, "some turns");
        CHECK_OK(kr_conn_release(s.r, s.conn, released, &s));
        long more = test_send_some(s.fd, bytes + in, (size_t)((1 << 20) - in));
        CHECK_GE(more, 0);
        TEST_UNTIL(s.r, s.tells == 1);
        check_released(&s);
        read_by_fd(&s, (size_t)(in + more));
        finish_by_fd(&s, s.sent);
        test_close(s.what.fd);
        free(bytes);
        end(&s);
    }
}

/* Ours: at any moment of a busy stream, both ways, test_keep_all is lost or doubled. */
TEST_EACH(release_in_mid_stream, .deadline_s = 60) {
    each_way(busy);
}

static void ends_told(bool kept) {
    struct seen s;
    begin(&s, kept);
    CHECK_SYS(shutdown(s.fd, SHUT_WR));
    TEST_UNTIL(s.r, s.eofs == 1);
    leave(&s);
    check_released(&s);
    CHECK(s.what.eof && !s.what.shut && !s.what.shutting);
    char byte;
    CHECK_EQ(read(s.what.fd, &byte, 1), 0);
    CHECK_EQ(write(s.what.fd, "x", 1), 1);
    test_recv(s.r, s.fd, &byte, 1);
    test_close(s.what.fd);
    end(&s);

    begin(&s, kept);
    CHECK_OK(kr_conn_shutdown(s.r, s.conn));
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    leave(&s);
    check_released(&s);
    CHECK(!s.what.eof && s.what.shut && !s.what.shutting);
    test_close(s.what.fd);
    end(&s);

    begin(&s, kept);
    we_send(&s, BIG);
    CHECK_OK(kr_conn_shutdown(s.r, s.conn));
    TEST_UNTIL(s.r, kr_conn_queued(s.r, s.conn) < BIG);
    leave(&s);
    check_released(&s);
    CHECK(!s.what.eof && !s.what.shut && s.what.shutting);
    finish_by_fd(&s, s.sent);
    CHECK_SYS(shutdown(s.what.fd, SHUT_WR));
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    test_close(s.what.fd);
    end(&s);
}

/* Ours: which ends there were already, and which is owed. */
TEST_EACH(release_tells_of_ends) {
    each_way(ends_told);
}

static void shutdown_under_way(bool kept) {
    for (unsigned turns = 0; turns < 20; turns++) {
        struct seen s;
        begin(&s, kept);
        CHECK_OK(kr_conn_shutdown(s.r, s.conn));
        for (unsigned i = 0; i < turns % 3; i++)
            CHECK_GE(kr_step(s.r, 0), 0);
        leave(&s);
        check_released(&s);
        CHECK_EQ(s.what.shut + s.what.shutting, 1);
        if (s.what.shutting)
            CHECK_SYS(shutdown(s.what.fd, SHUT_WR));
        CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
        test_close(s.what.fd);
        end(&s);
    }
}

/* Ours: a shutdown that a worker of the kernel is just doing is waited for. */
TEST_EACH(release_waits_for_a_shutdown) {
    each_way(shutdown_under_way);
}

/* ---- and back ---- */

static void back_in(struct kr_reactor *r, kr_conn conn, void *user,
                    const struct kr_released *what) {
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
    CHECK_OK(kr_conn_release(s.r, s.conn, back_in, &s));
    TEST_UNTIL(s.r, s.closes == 1 && s.opens == 2);
    CHECK_EQ(s.why, KR_WHY_RELEASED);
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
TEST_EACH(release_and_adopt) {
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
    CHECK_ERR(kr_conn_release(s.r, s.conn, released, &s), ENOTCONN);
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
TEST_EACH(release_of_one_that_we_made) {
    each_way(of_connect);
}

static void of_unix(bool kept) {
    struct seen s = {.r = test_reactor(NULL), .most = 3};
    struct kr_conn_opts opts = test_conn_opts();
    opts.keep_fd = kept;
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    CHECK_OK(kr_conn_adopt(s.r, &s.conn, ends[0], &opts, &ops, &s));
    CHECK_ERR(kr_conn_release(s.r, s.conn, released, &s), ENOTCONN);
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
TEST_EACH(release_of_an_adopted_one) {
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
    struct iovec piece = {(void *)(uintptr_t)"d", 1};
    struct msghdr msg = {.msg_iov = &piece,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof control};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    *cmsg = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(cmsg), &fd, sizeof fd);
    CHECK_EQ(sendmsg(to, &msg, 0), 1);
}

struct parcel {
    unsigned tells;
    struct kr_released what;
    int came;
    size_t at[2];
    ino_t files[2];
};

static void parcel_released(struct kr_reactor *r, kr_conn conn, void *user,
                            const struct kr_released *what) {
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
    CHECK_OK(kr_conn_release(r, conn, parcel_released, &p));
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
TEST_EACH(release_hands_descriptors_over) {
    each_way(with_descriptors);
}

/* ---- what is refused ---- */

static void no_release(struct kr_reactor *r, kr_conn conn, void *user,
                       const struct kr_released *what) {
    UNUSED(r, conn, user, what);
    FAIL("a release that was refused");
}

/* Ours: test_keep_all has happened then. */
TEST_EACH(release_refuses) {
    struct seen s;
    begin(&s, false);
    CHECK_ERR(kr_conn_release(s.r, s.conn, NULL, &s), EINVAL);
    CHECK_ERR(kr_conn_release(s.r, (kr_conn){0}, no_release, &s), ESTALE);
    CHECK_ERR(kr_conn_fd(s.r, s.conn), ENODATA);
    CHECK_ERR(kr_conn_fd(s.r, (kr_conn){0}), ESTALE);
    client_sends(&s, 1000, 0);
    TEST_UNTIL(s.r, s.got == 1000);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_LINGER));
    CHECK_ERR(kr_conn_release(s.r, s.conn, no_release, &s), EPIPE);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
    CHECK_ERR(kr_conn_release(s.r, s.conn, no_release, &s), EPIPE);
    s.tells = 1;
    end(&s);
}

static void meanwhile(bool kept) {
    struct seen s;
    begin(&s, kept);
    void *room;
    CHECK_OK(kr_conn_reserve(s.r, s.conn, 100, &room));
    CHECK_OK(kr_conn_release(s.r, s.conn, released, &s));
    CHECK_ERR(kr_conn_commit(s.r, s.conn, 100), EPIPE);
    CHECK_ERR(kr_conn_release(s.r, s.conn, no_release, &s), EALREADY);
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

/* Ours: what is on its way out takes test_keep_all any more. */
TEST_EACH(release_takes_nothing_meanwhile) {
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
    CHECK_ERR(kr_conn_release(a.r, a.conn, no_release, &a), EBUSY);
    CHECK_ERR(kr_conn_release(a.r, b.conn, no_release, &b), EBUSY);
    CHECK_OK(kr_conn_forward_stop(a.r, a.conn));
    CHECK_ERR(kr_conn_release(a.r, b.conn, no_release, &b), EBUSY);
    CHECK_GE(kr_step(a.r, 0), 0);
    CHECK_OK(kr_conn_release(a.r, a.conn, released, &a));
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
TEST_EACH(release_is_refused_while_forwarding) {
    each_way(forwarding);
}

static void with_a_file(bool kept) {
    struct seen a;
    begin(&a, kept);
    int file = CHECK_SYS(memfd_create("kreactor-test", MFD_CLOEXEC));
    CHECK_EQ(CHECK_SYS(write(file, "file", 4)), 4);
    CHECK_OK(kr_conn_send_file(a.r, a.conn, file, 0, 4, NULL, NULL));
    CHECK_ERR(kr_conn_release(a.r, a.conn, no_release, &a), EBUSY);
    char got[4];
    TEST_UNTIL(a.r, kr_conn_queued(a.r, a.conn) == 0);
    CHECK_EQ(CHECK_SYS(recv(a.fd, got, sizeof got, MSG_WAITALL)), 4);
    CHECK_OK(kr_conn_release(a.r, a.conn, released, &a));
    TEST_UNTIL(a.r, a.tells == 1);
    check_released(&a);
    test_close(a.what.fd);
    test_close(file);
    end(&a);
}

/* Ours: nor with a file in its queue, which could not be shown as bytes that are unsent. */
TEST_EACH(release_is_refused_with_a_file) {
    each_way(with_a_file);
}

/* ---- what comes in between ---- */

static void descriptors_run_out(struct rlimit *before) {
    CHECK_SYS(getrlimit(RLIMIT_NOFILE, before));
    int next = CHECK_SYS(dup(0));
    test_close(next);
    struct rlimit none = {.rlim_cur = (rlim_t)next, .rlim_max = before->rlim_max};
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &none));
}

/* Ours: without a descriptor to be had the connection is as before: what came meanwhile is shown,
 * what is queued is sent, and the user hears that the queue is down. */
TEST_EACH(release_without_a_descriptor_goes_on) {
    for (unsigned turns = 0; turns < 4; turns++) {
        struct seen s;
        begin(&s, false);
        we_send(&s, BIG);
        for (unsigned i = 0; i < turns; i++)
            CHECK_GE(kr_step(s.r, 0), 0);
        struct rlimit limit;
        descriptors_run_out(&limit);
        CHECK_OK(kr_conn_release(s.r, s.conn, released, &s));
        client_sends(&s, 1000, 0);
        TEST_UNTIL(s.r, s.tells == 1);
        CHECK_EQ(s.what.error, -EMFILE);
        CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
        char *bytes = malloc(BIG);
        CHECK(bytes != NULL);
        test_recv(s.r, s.fd, bytes, BIG);
        test_pattern_check(bytes, BIG, OUT, 0);
        free(bytes);
        TEST_UNTIL(s.r, s.drains == 1 && s.got == 1000);
        CHECK_EQ(test_stats(s.r).releases, 0u);
        free(s.unread);
        free(s.unsent);
        s.tells = 0;
        leave(&s);
        check_released(&s);
        test_close(s.what.fd);
        end(&s);
    }
}

struct chance {
    struct seen *s;
    unsigned opens, datas;
    kr_conn conn;
};

static void chance_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct chance *x = user;
    x->opens++;
    x->conn = conn;
}

static size_t chance_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    UNUSED(conn, data);
    struct chance *x = user;
    x->datas++;
    CHECK_OK(kr_conn_release(r, x->s->conn, released, x->s));
    return size;
}

/* Ours: a queue that came down while it was leaving is told of when it goes on. In one task-run
 * mode the other's bytes are told before the end of the send that is in flight. */
TEST_EACH(release_that_fails_tells_of_the_queue) {
    static const struct kr_conn_ops chance_ops = {.on_open = chance_open, .on_data = chance_data};
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 256;
    opts.conn.send_high = 10;
    opts.conn.send_low = 5;
    struct seen s;
    begin_with(&s, false, &opts);
    struct chance x = {.s = &s};
    int fd = test_connect(test_listen(s.r, NULL, NULL, &chance_ops, &x));
    TEST_UNTIL(s.r, x.opens == 1);
    test_rest(s.r, (struct test_levels){.conns = 2, .listeners = 2});
    struct rlimit limit;
    descriptors_run_out(&limit);
    test_send(NULL, fd, "x", 1);
    we_send(&s, 100);
    TEST_UNTIL(s.r, s.tells == 1 && s.drains == 1 && !kr_conn_queued(s.r, s.conn));
    CHECK_EQ(s.what.error, -EMFILE);
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    client_sends(&s, 100, 0);
    TEST_UNTIL(s.r, s.got == 100);
    CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
    CHECK_OK(kr_conn_close(s.r, x.conn, KR_CLOSE_NOW));
    TEST_UNTIL(s.r, s.closes == 1);
    test_close(fd);
    test_close(s.fd);
    free(s.unread);
    free(s.unsent);
    test_reactor_end(s.r, (struct test_levels){.listeners = 2});
}

/* A release fails for want of a descriptor, and a drain has come by meanwhile. */
static void fail_in_a_drain(struct seen *s) {
    struct rlimit limit;
    descriptors_run_out(&limit);
    CHECK_OK(kr_conn_release(s->r, s->conn, released, s));
    CHECK_OK(kr_drain(s->r, INT64_C(60000000000), NULL, NULL));
    TEST_UNTIL(s->r, s->tells == 1);
    CHECK_EQ(s->what.error, -EMFILE);
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
}

static void end_of_a_failed_one(struct seen *s) {
    CHECK_EQ(s->shutdowns, 1u);
    CHECK_OK(kr_conn_close(s->r, s->conn, KR_CLOSE_FLUSH));
    TEST_UNTIL(s->r, s->closes == 1);
    test_close(s->fd);
    free(s->unread);
    free(s->unsent);
    test_reactor_end(s->r, (struct test_levels){0});
}

/* Ours: a drain that came by while a release was under way is told of when that has failed. */
TEST_EACH(release_that_fails_tells_of_the_drain, .needs = KR__CAP_FD_INSTALL) {
    struct seen s;
    begin(&s, false);
    CHECK_GE(kr_step(s.r, 0), 0);
    fail_in_a_drain(&s);
    TEST_UNTIL(s.r, s.shutdowns == 1);
    end_of_a_failed_one(&s);
}

/* Ours: an end of the peer that came meanwhile is told when it goes on, and so is a drain that
 * began. */
TEST_EACH(release_that_fails_tells_what_it_held_back) {
    struct seen s;
    begin(&s, false);
    CHECK_OK(kr_conn_pause(s.r, s.conn));
    CHECK_SYS(shutdown(s.fd, SHUT_WR));
    CHECK_GE(kr_step(s.r, 0), 0);
    CHECK_OK(kr_conn_resume(s.r, s.conn));
    fail_in_a_drain(&s);
    TEST_UNTIL(s.r, s.eofs == 1);
    end_of_a_failed_one(&s);
}

static void no_memory(bool kept) {
    struct seen s;
    begin(&s, kept);
    we_send(&s, BIG);
    TEST_UNTIL(s.r, kr_conn_queued(s.r, s.conn) < BIG);
    static char big[70000];
    for (unsigned i = 0; i < 40; i++) { /* as many as make a list that no block lies ready for */
        test_pattern(big, sizeof big, OUT, s.sent);
        CHECK_OK(kr_conn_send(s.r, s.conn, big, sizeof big));
        s.sent += sizeof big;
    }
    CHECK_OK(kr_conn_release(s.r, s.conn, released, &s));
    test_reactor_refuse_memory(s.r, 0);
    TEST_UNTIL(s.r, s.tells == 1);
    test_reactor_refuse_memory(s.r, -1);
    if (s.what.error == 0) { /* a block was there */
        finish_by_fd(&s, s.sent);
        test_close(s.what.fd);
        end(&s);
        return;
    }
    CHECK_EQ(s.what.error, -ENOMEM);
    free(s.unread);
    free(s.unsent);
    s.tells = 0;
    leave(&s);
    check_released(&s);
    finish_by_fd(&s, s.sent);
    test_close(s.what.fd);
    end(&s);
}

/* Ours: without memory for the list of pieces it goes on, and may leave another time. */
TEST_EACH(release_without_memory_goes_on) {
    each_way(no_memory);
}

static void closed(bool kept) {
    for (unsigned i = 0; i < 12; i++) {
        enum kr_close how = (enum kr_close)(i % 4);
        struct seen s;
        begin(&s, kept);
        we_send(&s, 100000);
        CHECK_GE(kr_step(s.r, 0), 0);
        CHECK_OK(kr_conn_release(s.r, s.conn, released, &s));
        for (unsigned turn = 0; turn < i / 4 && !s.tells; turn++)
            CHECK_GE(kr_step(s.r, 0), 0);
        int rc = kr_conn_close(s.r, s.conn, how);
        CHECK_EQ(rc, s.closes ? -ESTALE : 0);
        if (s.tells) {
            check_released(&s);
            finish_by_fd(&s, s.sent);
            test_close(s.what.fd);
            end(&s);
            continue;
        }
        size_t got = 0;
        CHECK_EQ(test_recv_end(s.r, s.fd, &got), how == KR_CLOSE_RESET ? ECONNRESET : 0);
        if (how <= KR_CLOSE_FLUSH)
            CHECK_EQ(got, s.sent);
        if (how == KR_CLOSE_LINGER)
            CHECK_SYS(shutdown(s.fd, SHUT_WR));
        TEST_UNTIL(s.r, s.closes == 1);
        CHECK_EQ(s.what.error, -ECANCELED);
        CHECK_EQ(s.why, KR_WHY_LOCAL);
        end(&s);
    }
}

/* Ours: a close meanwhile is a close in its manner, and the user is told that test_keep_all was released;
 * after the release none reaches the socket any more, a reset least of all. */
TEST_EACH(release_closed_meanwhile) {
    each_way(closed);
}

static void closes_in_it(struct kr_reactor *r, kr_conn conn, void *user,
                         const struct kr_released *what) {
    released(r, conn, user, what);
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_RESET));
}

static void reset_in_it(bool kept) {
    struct seen s;
    begin(&s, kept);
    CHECK_OK(kr_conn_release(s.r, s.conn, closes_in_it, &s));
    TEST_UNTIL(s.r, s.tells == 1);
    check_released(&s);
    client_sends(&s, 1000, 0);
    read_by_fd(&s, 1000);
    test_close(s.what.fd);
    CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
    end(&s);
}

/* Ours: a reset from within the callback does not reach the socket that was just given away. */
TEST_EACH(release_is_not_reset) {
    each_way(reset_in_it);
}

static void peer_resets(bool kept) {
    for (unsigned early = 0; early < 2; early++) {
        struct seen s;
        begin(&s, kept);
        we_send(&s, BIG);
        TEST_UNTIL(s.r, kr_conn_queued(s.r, s.conn) < BIG);
        if (early)
            test_close_reset(s.fd);
        CHECK_OK(kr_conn_release(s.r, s.conn, released, &s));
        if (!early)
            test_close_reset(s.fd);
        TEST_UNTIL(s.r, s.closes == 1);
        CHECK_EQ(s.tells, 1u);
        if (s.what.error) {
            CHECK(s.what.error == -ECONNRESET || s.what.error == -EPIPE);
            CHECK_EQ(s.error, s.what.error);
            CHECK_EQ(s.why, KR_WHY_ERROR);
        } else { /* then the descriptor tells */
            char byte;
            CHECK_EQ(recv(s.what.fd, &byte, 1, MSG_DONTWAIT), -1);
            CHECK_EQ(errno, ECONNRESET);
            test_close(s.what.fd);
        }
        s.fd = test_connect(s.port);
        s.closes = 0;
        TEST_UNTIL(s.r, s.opens == 2);
        CHECK_OK(kr_conn_close(s.r, s.conn, KR_CLOSE_NOW));
        end(&s);
    }
}

/* Ours: a reset is told once, by the connection or by the descriptor, and never passes for a clean
 * end. */
TEST_EACH(release_loses_no_error) {
    each_way(peer_resets);
}

static void freed(bool kept) {
    for (unsigned turns = 0; turns < 3; turns++) {
        struct seen s;
        begin(&s, kept);
        we_send(&s, BIG);
        CHECK_GE(kr_step(s.r, 0), 0);
        CHECK_OK(kr_conn_release(s.r, s.conn, released, &s));
        for (unsigned i = 0; i < turns; i++)
            CHECK_GE(kr_step(s.r, 0), 0);
        bool left = s.tells;
        test_reactor_free(s.r);
        CHECK_EQ(s.tells, 1u);
        CHECK_EQ(s.closes, 1u);
        CHECK_EQ(s.what.error, left ? 0 : -ECANCELED);
        CHECK_EQ(s.why, left ? KR_WHY_RELEASED : KR_WHY_REACTOR);
        if (left)
            test_close(s.what.fd);
        test_close(s.fd);
        free(s.unread);
        free(s.unsent);
    }
}

/* Ours: freeing the reactor meanwhile tells so; what had been released stays. */
TEST_EACH(release_and_free) {
    each_way(freed);
}

struct killer {
    kr_conn victim;
    unsigned opens, kills;
    kr_conn conn;
};

static void killer_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct killer *k = user;
    k->opens++;
    k->conn = conn;
}

static size_t killer_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    UNUSED(conn, data);
    struct killer *k = user;
    CHECK_OK(kr_conn_close(r, k->victim, KR_CLOSE_NOW));
    k->kills++;
    return size;
}

/* Ours: closed while its descriptor is on the way, that is closed as well. In one task-run mode the
 * other's bytes are told before the answer. */
TEST_EACH(release_closed_before_the_answer) {
    static const struct kr_conn_ops killer_ops = {.on_open = killer_open, .on_data = killer_data};
    struct killer k = {0};
    struct seen s;
    begin(&s, false);
    int fd = test_connect(test_listen(s.r, NULL, NULL, &killer_ops, &k));
    TEST_UNTIL(s.r, k.opens == 1);
    CHECK_OK(kr_conn_pause(s.r, s.conn));
    test_rest(s.r, (struct test_levels){.conns = 2, .listeners = 2, .paused = 1});
    k.victim = s.conn;
    int before = tap_fd_count();
    CHECK_OK(kr_conn_release(s.r, s.conn, released, &s));
    test_send(NULL, fd, "x", 1);
    TEST_UNTIL(s.r, k.kills == 1 && s.closes == 1);
    CHECK_EQ(s.tells, 1u);
    if (!s.what.error)
        test_close(s.what.fd);
    CHECK_EQ(tap_fd_count(), before - test_slot_cost(s.r));
    CHECK_OK(kr_conn_close(s.r, k.conn, KR_CLOSE_NOW));
    test_close(fd);
    test_close(s.fd);
    free(s.unread);
    free(s.unsent);
    test_reactor_end(s.r, (struct test_levels){.listeners = 2});
}

/* ---- descriptors that are kept ---- */

/* Ours: a kept descriptor may be asked whatever a socket may be asked, the addresses through the
 * library; it keeps nobody from seeing the end, in whichever manner. */
TEST_EACH(kept_descriptor_is_the_connection) {
    for (enum kr_close how = KR_CLOSE_LINGER; how <= KR_CLOSE_RESET; how++) {
        struct seen s;
        int before = tap_fd_count();
        begin(&s, true);
        /* ring, eventfd, and the two ends; slots of the listener and the connection */
        CHECK_EQ(tap_fd_count(), before + 4 + 2 * test_slot_cost(s.r));
        int fd = CHECK_OK(kr_conn_fd(s.r, s.conn));
        int on = 0;
        socklen_t size = sizeof on;
        CHECK_SYS(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &size));
        CHECK_EQ(on, 1);
        struct kr_addr peer, local, own;
        CHECK_OK(kr_conn_peer(s.r, s.conn, &peer));
        CHECK_OK(kr_conn_local(s.r, s.conn, &local));
        own.size = sizeof own.u;
        CHECK_SYS(getsockname(s.fd, &own.u.sa, &own.size));
        CHECK_EQ(kr_addr_port(&peer), kr_addr_port(&own));
        CHECK_EQ(kr_addr_port(&local), s.port);
        s.looks = how >= KR_CLOSE_FLUSH;
        CHECK_OK(kr_conn_close(s.r, s.conn, how));
        if (how == KR_CLOSE_LINGER) {
            CHECK_EQ(test_recv_end(s.r, s.fd, NULL), 0);
            CHECK_SYS(shutdown(s.fd, SHUT_WR));
        }
        TEST_UNTIL(s.r, s.closes == 1);
        if (s.looks)
            CHECK_EQ(s.read_at_close, how == KR_CLOSE_RESET ? -ECONNRESET : TEST_EOF);
        s.tells = 1;
        end(&s);
        CHECK_EQ(tap_fd_count(), before);
    }
}

/* Ours: when descriptors are spent clients wait in the backlog, and are served when there are some
 * again. */
TEST_EACH(kept_descriptors_are_bounded) {
    struct seen s;
    begin(&s, true);
    int waiting = test_connect(s.port);
    struct rlimit limit;
    descriptors_run_out(&limit);
    TEST_UNTIL(s.r, test_stats(s.r).accept_errors >= 1 || s.opens == 2);
    CHECK_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    TEST_UNTIL(s.r, s.opens == 2);
    kr_conn second = s.conn;
    test_send(s.r, waiting, "x", 0);
    CHECK_OK(kr_conn_close(s.r, second, KR_CLOSE_NOW));
    TEST_UNTIL(s.r, s.closes == 1);
    test_close(waiting);
    test_close(s.fd);
    TEST_UNTIL(s.r, s.eofs == 1);
    test_reactor_free(s.r);
}

TAP_MAIN(release, 98)
