/* No request of the library waits in a kernel worker, whatever a peer does.
 *
 * io_uring tries a request that waits for its socket anew whenever the socket is ready for another
 * reason, and after 128 tries in vain (on 6.1 after one) a kernel worker blocks in it: a thread, and
 * for a receive a buffer, of which a peer disposes. Each case is a way by which peers, or those who
 * share a socket, make such reasons. It counts the workers that this process has (they live on for
 * some seconds when they are idle), and checks that everybody else is served meanwhile and that
 * bytes arrive in the end. */
#include "harness/net.h"

#include "conn/reactor.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PEERS 24u
#define ANSWER ((size_t)600 << 10)

/* Threads of this process that the kernel has made for requests: "iou-wrk-" and the number of their
 * owner (io_uring/io-wq.c). */
static unsigned workers(void) {
    unsigned count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks);
    for (struct dirent *task; (task = readdir(tasks));) {
        char path[300], name[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        FILE *file = fopen(path, "re");
        if (!file)
            continue;
        count += fgets(name, sizeof name, file) && strncmp(name, "iou-wrk", 7) == 0;
        fclose(file);
    }
    closedir(tasks);
    return count;
}

/* ---- a server that answers a byte with many, and others as an echo does ---- */

struct house {
    struct kr_reactor *r;
    uint16_t port;
    char name[48]; /* of the Unix listener */
    unsigned opens, closes, eofs, releases;
    int error; /* of the last close that had one */
};

static char answer[ANSWER];

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r, (void)conn;
    ((struct house *)user)->opens++;
}

static void on_release(struct kr_reactor *r, void *arg) {
    (void)r;
    ((struct house *)arg)->releases++;
}

/* 'B' asks for the answer, 'Z' for it without a copy, '.' for nothing. */
static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    const char *byte = data;
    if (*byte == 'B' || *byte == 'Z') {
        CHECK_OK(kr_conn_send_ref(r, conn, answer, ANSWER, on_release, user));
        return size;
    }
    if (*byte == '.')
        return size;
    return kr_conn_send(r, conn, data, size) == 0 ? size : 0;
}

static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct house *h = user;
    h->eofs++;
    if (kr_conn_queued(r, conn) == 0)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

/* The answer is nearly sent: whose peer has ended is closed behind it. */
static void on_writable(struct kr_reactor *r, kr_conn conn, void *user) {
    if (((struct house *)user)->eofs)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    (void)r, (void)conn, (void)why;
    struct house *h = user;
    h->closes++;
    h->error = error ? error : h->error;
}

static const struct kr_conn_ops answers = {.on_open = on_open,
                                           .on_data = on_data,
                                           .on_eof = on_eof,
                                           .on_writable = on_writable,
                                           .on_close = on_close};
static const struct kr_conn_ops serves = {.on_open = on_open, .on_data = on_data,
                                          .on_close = on_close};

static struct kr_listen_opts opts_of(size_t zerocopy_min) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 256;
    opts.conn.zerocopy_min = zerocopy_min;
    opts.conn.send_buf = 16384;
    return opts;
}

static struct house *house_begin(const struct kr_conn_ops *ops, unsigned bufs,
                                 size_t zerocopy_min) {
    static struct house house;
    struct house *h = &house;
    *h = (struct house){.port = 0};
    test_pattern(answer, sizeof answer, 3, 0);
    struct kr_config config = test_config();
    config.buf_count = bufs;
    config.buf_size = 4096;
    h->r = test_reactor(&config);
    struct kr_listen_opts opts = opts_of(zerocopy_min);
    h->port = test_listen(h->r, NULL, &opts, ops, h);
    snprintf(h->name, sizeof h->name, "@kr-workers-%d", (int)getpid());
    struct kr_addr addr;
    CHECK_OK(kr_addr_unix(&addr, h->name));
    if (bufs == 1)
        opts.conn.recv_fds = 0; /* another kind of receive */
    CHECK_OK(kr_listen(h->r, NULL, &addr, &opts, ops, h));
    return h;
}

static int unix_client(const struct house *h) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_unix(&addr, h->name));
    int fd = CHECK_SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    CHECK_SYS(connect(fd, &addr.u.sa, addr.size));
    return fd;
}

enum family { TCP, UNIX, FAMILIES };

static int client(const struct house *h, enum family family) {
    return family == TCP ? test_connect(h->port) : unix_client(h);
}

static void say(int fd, char byte, int flags) {
    CHECK_EQ(send(fd, &byte, 1, flags | MSG_NOSIGNAL), 1);
}

/* Somebody else is served. */
static void check_served(struct house *h, enum family family) {
    int fd = client(h, family);
    test_send(h->r, fd, "hello", 5);
    CHECK_RECV(h->r, fd, "hello");
    test_close(fd);
}

static void turns(struct house *h, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        test_step(h->r, "turns beside the peers");
}

/* They take all of their answers, piece by piece, and check them. */
static void take_answers(struct house *h, const int *fds, unsigned count) {
    static char piece[8192];
    size_t got[PEERS] = {0};
    for (unsigned left = count; left;) {
        left = 0;
        for (unsigned i = 0; i < count; i++) {
            size_t rest = ANSWER - got[i] < sizeof piece ? ANSWER - got[i] : sizeof piece;
            long n = rest ? test_recv_some(fds[i], piece, rest) : 0;
            CHECK_GE(n, 0L);
            test_pattern_check(piece, (size_t)n, 3, got[i]);
            got[i] += (size_t)n;
            left += got[i] < ANSWER;
        }
        test_step(h->r, "the rest of the answers");
    }
}

static void house_end(struct house *h, unsigned max_workers) {
    CHECK_LE(workers(), max_workers);
    test_reactor_free(h->r);
    CHECK_EQ(h->opens, h->closes);
}

/* ---- sends ---- */

/* Each peer asks for the answer, then does what stands for ever, then reads slowly. */
static void slow_readers(enum family family, char ask, bool half_closed, bool urgent) {
    struct house *h = house_begin(&answers, 64, ask == 'Z' ? 4096 : 0);
    int fds[PEERS];
    for (unsigned i = 0; i < PEERS; i++) {
        fds[i] = client(h, family);
        say(fds[i], ask, 0);
    }
    TEST_UNTIL(h->r, h->opens == PEERS);
    for (unsigned i = 0; i < PEERS; i++) {
        if (urgent)
            say(fds[i], '!', MSG_OOB);
        if (half_closed)
            CHECK_SYS(shutdown(fds[i], SHUT_WR));
    }
    turns(h, 100);
    check_served(h, TCP);
    check_served(h, UNIX);
    CHECK_EQ(workers(), 0u);
    take_answers(h, fds, PEERS);
    CHECK_EQ(workers(), 0u);
    for (unsigned i = 0; i < PEERS; i++)
        test_close(fds[i]);
    TEST_UNTIL(h->r, h->closes == h->opens && h->releases == PEERS);
    house_end(h, 0);
}

/* Ours: a peer that has ended its side and reads slowly gets all of its answer. */
TEST_EACH(workers_none_for_half_closed_readers) {
    for (enum family family = TCP; family < FAMILIES; family++)
        slow_readers(family, 'B', true, false);
}

/* Ours: so does one that has sent an urgent byte. */
TEST_EACH(workers_none_for_urgent_readers) {
    for (enum family family = TCP; family < FAMILIES; family++)
        slow_readers(family, 'B', false, true);
}

/* Ours: the same of what is sent without a copy. */
TEST_EACH(workers_none_for_zero_copy) {
    slow_readers(TCP, 'Z', true, true);
}

/* ---- receives ---- */

/* Ours: peers that send nothing but urgent bytes hold neither workers nor buffers, whether their
 * connections receive by multishot, one by one, or wait for a buffer. On a Unix socket each is one
 * try in vain, so it takes more than 128. */
static void urgent_only(enum family family, unsigned bufs) {
    struct house *h = house_begin(&serves, bufs, 0);
    int fds[PEERS];
    for (unsigned i = 0; i < PEERS; i++) {
        fds[i] = client(h, family);
        if (bufs == 1)
            say(fds[i], '.', 0);
    }
    TEST_UNTIL(h->r, h->opens == PEERS);
    turns(h, 20);
    for (unsigned round = 0; round < 140; round++) {
        for (unsigned i = 0; i < PEERS; i++)
            say(fds[i], '.', MSG_OOB);
        turns(h, 3);
        if (round % 35)
            continue;
        turns(h, 50);
        check_served(h, TCP);
        check_served(h, UNIX);
    }
    CHECK_EQ(workers(), 0u);
    uint64_t before = test_stats(h->r).turns;
    CHECK_OK(kr_step(h->r, 20 * INT64_C(1000000)));
    CHECK_OK(kr_step(h->r, 20 * INT64_C(1000000)));
    CHECK_LE(test_stats(h->r).turns - before, 2u);
    for (unsigned i = 0; i < PEERS; i++)
        test_close(fds[i]);
    TEST_UNTIL(h->r, h->closes == h->opens);
    house_end(h, 0);
}

TEST_EACH(workers_none_for_urgent_bytes) {
    for (enum family family = TCP; family < FAMILIES; family++) {
        urgent_only(family, 64);
        urgent_only(family, 1);
    }
}

/* Ours: an urgent byte is a byte of the stream, in its place. */
TEST_EACH(workers_urgent_byte_is_in_the_stream) {
    struct house *h = house_begin(&serves, 8, 0);
    int fd = client(h, TCP);
    test_send(h->r, fd, "he", 2);
    say(fd, 'l', MSG_OOB);
    test_send(h->r, fd, "lo", 2);
    CHECK_RECV(h->r, fd, "hello");
    test_close(fd);
    TEST_UNTIL(h->r, h->closes == 1);
    house_end(h, 0);
}

/* ---- what is adopted ---- */

/* A connection of this end of a pair of sockets or of a pipe. */
static kr_conn adopt(struct house *h, int fd, const struct kr_conn_ops *ops) {
    kr_conn conn;
    CHECK_OK(kr_conn_adopt(h->r, &conn, fd, NULL, ops, h));
    return conn;
}

/* Ours: a socket that was made not to block, with an urgent byte behind it, waits like any other:
 * the reactor sleeps, and all arrives. */
TEST_EACH(workers_none_for_nonblocking_sockets) {
    struct house *h = house_begin(&serves, 8, 0);
    int ends[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
    kr_conn conn = adopt(h, ends[0], &serves);
    TEST_UNTIL(h->r, h->opens == 1);
    say(ends[1], '!', MSG_OOB);
    CHECK_OK(kr_conn_send_ref(h->r, conn, answer, ANSWER / 2, on_release, h));
    CHECK_OK(kr_conn_send_ref(h->r, conn, answer + ANSWER / 2, ANSWER / 2, on_release, h));
    turns(h, 50);
    uint64_t before = test_stats(h->r).turns;
    CHECK_OK(kr_step(h->r, 20 * INT64_C(1000000)));
    CHECK_LE(test_stats(h->r).turns - before, 1u);
    CHECK_EQ(workers(), 0u);
    take_answers(h, &ends[1], 1);
    test_close(ends[1]);
    TEST_UNTIL(h->r, h->closes == 1 && h->releases == 2);
    house_end(h, 0);
}

/* A pipe that has a name, which is gone again when this returns. */
static void named_pipe(int ends[2]) {
    char dir[] = "/tmp/kr-workers-XXXXXX", path[64];
    CHECK(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/fifo", dir);
    CHECK_SYS(mkfifo(path, 0600));
    ends[0] = CHECK_SYS(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    ends[1] = CHECK_SYS(open(path, O_WRONLY | O_CLOEXEC));
    CHECK_SYS(fcntl(ends[0], F_SETFL, 0));
    CHECK_SYS(unlink(path));
    CHECK_SYS(rmdir(dir));
}

static void check_shared_pipe(int ends[2]) {
    struct house *h = house_begin(&serves, 8, 0);
    int other = CHECK_SYS(fcntl(ends[0], F_DUPFD_CLOEXEC, 0));
    adopt(h, ends[0], &serves);
    adopt(h, other, &serves);
    TEST_UNTIL(h->r, h->opens == 2);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t before = test_stats(h->r).bytes_in;
        CHECK_EQ(write(ends[1], ".", 1), 1);
        TEST_UNTIL(h->r, test_stats(h->r).bytes_in > before);
    }
    CHECK_EQ(workers(), 0u);
    test_close(ends[1]);
    TEST_UNTIL(h->r, h->closes == 2);
    house_end(h, 0);
}

/* Ours: of two who read from one pipe, one finds nothing each time, and waits without a worker. */
TEST_EACH(workers_none_for_a_shared_pipe) {
    int ends[2];
    CHECK_SYS(pipe2(ends, O_CLOEXEC));
    check_shared_pipe(ends);
}

/* Ours: the same of a pipe with a name, whose reads cannot be asked not to wait. */
TEST_EACH(workers_none_for_a_shared_named_pipe) {
    int ends[2];
    named_pipe(ends);
    check_shared_pipe(ends);
}

/* ---- the end ---- */

/* Ours: a connection whose send is full and whose peer makes the socket ready for other reasons is
 * closed at once, in each task-run mode: on_close runs, and the reactor is freed. */
TEST_EACH(workers_close_of_a_full_one_ends) {
    for (enum family family = TCP; family < FAMILIES; family++) {
        struct house *h = house_begin(&serves, 8, 0);
        int fd = client(h, family);
        say(fd, 'B', 0);
        TEST_UNTIL(h->r, h->opens == 1 && test_stats(h->r).bytes_out > 0);
        say(fd, '!', MSG_OOB);
        CHECK_SYS(shutdown(fd, SHUT_WR));
        turns(h, 3);
        house_end(h, 0);
        test_close(fd);
    }
}

TAP_MAIN(workers, 9 * 4)
