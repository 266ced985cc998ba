/* Files in send queues: each arrives in its place in the stream, whatever its size and whoever
 * reads it how; its user is told once, in a phase of a turn, before on_close, how much of it went
 * and why no more.
 *
 * A file holds the pattern of a seed, and what stands around it in the stream is of the same
 * pattern: the byte at offset n of the stream is the byte at offset n of the file, so any that is
 * lost, doubled or moved shows. */
#include "harness/net.h"

#include "core/reactor.h"
#include "pool/files.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
#define CHUNK ((uint64_t)KR__CHUNK_SIZE)
#define SENDERS_MAX 16
#define JOBS_MAX 4000

struct sender;

/* A file that was queued. */
struct job {
    struct sender *sender;
    uint64_t size; /* that will have been sent if all goes well */
    uint64_t sent;
    int error;
    unsigned told;
};

/* A connection that sends files. */
struct sender {
    kr_conn conn;
    uint64_t queued; /* of its stream */
    unsigned lent, drains, datas, closes;
    int error;
    enum kr_why why;
    struct job *next; /* to be told, in order */
};

static struct sender senders[SENDERS_MAX];
static unsigned sender_count;
static struct job jobs[JOBS_MAX];
static unsigned job_count;
static bool in_call; /* a public function is being called: no callback may run */

static uint64_t seed;

static void file_done(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    struct job *job = arg;
    CHECK(!in_call && r->in_turn);
    CHECK_EQ(job->sender->closes, 0u);
    CHECK_EQ(job->told, 0u);
    job->told++;
    job->sent = sent;
    job->error = error;
    CHECK_LE(sent, job->size);
    if (error == 0)
        CHECK_EQ(sent, job->size);
    job->sender->lent--;
}

/* A file of so many bytes of the pattern; sparse, if it is long, but for its first bytes. */
static int file_of(uint64_t size) {
    int fd = CHECK_SYS(memfd_create("kreactor-test", MFD_CLOEXEC));
    static char bytes[1 << 16];
    for (uint64_t at = 0; at < size;) {
        size_t part = size - at < sizeof bytes ? (size_t)(size - at) : sizeof bytes;
        test_pattern(bytes, part, seed, at);
        CHECK_EQ(CHECK_SYS(pwrite(fd, bytes, part, (off_t)at)), (ssize_t)part);
        at += part;
    }
    return fd;
}

/* Queues `size` bytes of the file, which are the next of the stream; `asked` may be KR_FILE_END. */
static int send_file_as(struct kr_reactor *r, struct sender *s, int fd, uint64_t size,
                        uint64_t asked) {
    CHECK_LT(job_count, JOBS_MAX);
    struct job *job = &jobs[job_count++];
    *job = (struct job){.sender = s, .size = size};
    in_call = true;
    int rc = kr_conn_send_file(r, s->conn, fd, s->queued, asked, file_done, job);
    in_call = false;
    if (rc < 0) {
        job_count--;
        return rc;
    }
    s->queued += size;
    s->lent++;
    return 0;
}

static int send_file(struct kr_reactor *r, struct sender *s, int fd, uint64_t size) {
    return send_file_as(r, s, fd, size, size);
}

static int send_bytes(struct kr_reactor *r, struct sender *s, size_t size) {
    char *bytes = malloc(size);
    CHECK(bytes != NULL);
    test_pattern(bytes, size, seed, s->queued);
    int rc = kr_conn_send(r, s->conn, bytes, size);
    free(bytes);
    s->queued += rc == 0 ? size : 0;
    return rc;
}

static struct sender *sender_new(kr_conn conn) {
    CHECK_LT(sender_count, SENDERS_MAX);
    struct sender *s = &senders[sender_count++];
    *s = (struct sender){.conn = conn};
    return s;
}

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)user;
    CHECK_OK(kr_conn_set_user(r, conn, sender_new(conn)));
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    UNUSED(r, conn, data);
    ((struct sender *)user)->datas++;
    return size;
}

static void on_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct sender *)user)->drains++;
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct sender *s = user;
    UNUSED(r, conn);
    CHECK_EQ(s->lent, 0u);
    s->closes++;
    s->error = error;
    s->why = why;
}

static const struct kr_conn_ops ops = {
    .on_open = on_open, .on_data = on_data, .on_drain = on_drain, .on_close = on_close};

/* A reactor, a connection, its client. */
struct pair {
    struct kr_reactor *r;
    uint16_t port;
    int fd;
    struct sender *s;
};

static struct pair pair_on(const struct kr__kernel *kernel, const struct kr_listen_opts *opts,
                           int recv_size) {
    seed = tap_random();
    struct pair p = {.r = test_reactor_on(kernel, NULL)};
    p.port = test_listen(p.r, NULL, opts, &ops, NULL);
    p.fd = test_connect_sized(p.port, 0, recv_size);
    TEST_UNTIL(p.r, sender_count == 1);
    p.s = &senders[0];
    return p;
}

static struct pair pair_make(const struct kr_listen_opts *opts, int recv_size) {
    return pair_on(&kr__linux, opts, recv_size);
}

/* Reads on until so much of the stream has come, at most `most` bytes a turn. */
static void read_to(struct pair *p, uint64_t *got, uint64_t to, size_t most) {
    static char bytes[1 << 18];
    while (*got < to) {
        size_t part = to - *got < most ? (size_t)(to - *got) : most;
        long n = test_recv_some(p->fd, bytes, part < sizeof bytes ? part : sizeof bytes);
        CHECK_GE(n, 0);
        test_pattern_check(bytes, (size_t)n, seed, *got);
        *got += (uint64_t)n;
        test_step(p->r, "the stream");
    }
}

static void check_stream(struct pair *p) {
    uint64_t got = 0;
    read_to(p, &got, p->s->queued, 1 << 18);
}

static void check_told(const struct job *job, int error) {
    CHECK_EQ(job->told, 1u);
    CHECK_EQ(job->error, error);
}

static void check_over(struct pair *p, int error, enum kr_why why) {
    TEST_UNTIL(p->r, p->s->closes == 1);
    CHECK_EQ(p->s->error, error);
    CHECK_EQ(p->s->why, why);
}

static void pair_end(struct pair *p) {
    test_close(p->fd);
    TEST_UNTIL(p->r, p->s->closes == 1);
    for (unsigned i = 0; i < job_count; i++)
        CHECK_EQ(jobs[i].told, 1u);
    test_reactor_end(p->r, (struct test_levels){.listeners = 1});
}

/* ---- order and size ---- */

static int send_somehow(struct kr_reactor *r, struct sender *s, int fd, uint64_t total) {
    uint64_t left = total - s->queued, size = 1 + tap_random_below(3000);
    if (tap_random_below(8) == 0)
        size = tap_random_below(300000);
    size = size < left ? size : left;
    if (tap_random_below(2))
        return send_file(r, s, fd, size);
    return size ? send_bytes(r, s, (size_t)size) : 0;
}

/* Ours: files and bytes, many of each, keep their order, however the peers read. */
TEST_EACH(file_goes_in_its_place) {
    seed = tap_random();
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, NULL, &ops, NULL);
    enum { CONNS = 6 };
    uint64_t total = MIB, got[CONNS] = {0};
    int fd = file_of(total);
    struct pair p[CONNS];
    for (unsigned i = 0; i < CONNS; i++)
        p[i] = (struct pair){r, port, test_connect_sized(port, 0, i % 2 ? 4096 : 0), NULL};
    TEST_UNTIL(r, sender_count == CONNS);
    for (bool more = true; more;) {
        more = false;
        for (unsigned i = 0; i < CONNS; i++) {
            p[i].s = &senders[i]; /* one backlog: they stand in the order of connecting */
            while (p[i].s->queued < total && kr_conn_queued(r, p[i].s->conn) < 400000 &&
                   job_count < JOBS_MAX)
                CHECK_OK(send_somehow(r, p[i].s, fd, total));
            uint64_t ready = got[i] + 1 + tap_random_below(60000);
            read_to(&p[i], &got[i], ready < p[i].s->queued ? ready : p[i].s->queued, 20000);
            more |= p[i].s->queued < total || got[i] < p[i].s->queued;
        }
    }
    for (unsigned i = 0; i < job_count; i++)
        check_told(&jobs[i], 0);
    test_rest(r, (struct test_levels){.conns = CONNS, .listeners = 1, .blocks = CONNS});
    for (unsigned i = 0; i < CONNS; i++)
        test_close(p[i].fd);
    test_close(fd);
    test_reactor_free(r);
}

static const uint64_t sizes[] = {0,         1,         4095,          4096,          CHUNK - 1,
                                 CHUNK,     CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK,     2 * CHUNK + 1,
                                 3 * CHUNK, 200001};
#define SIZES (sizeof sizes / sizeof *sizes)

/* Ours: files of all sizes about the chunk's, of a size that was said and up to their end. */
TEST_EACH(file_of_any_size) {
    struct pair p = pair_make(NULL, 0);
    uint64_t got = 0;
    for (unsigned i = 0; i < 2 * SIZES; i++) {
        int fd = file_of(p.s->queued + sizes[i / 2]);
        CHECK_OK(send_bytes(p.r, p.s, 100));
        CHECK_SYS(ftruncate(fd, 0));
        test_close(fd);
        fd = file_of(p.s->queued + sizes[i / 2]);
        CHECK_OK(send_file_as(p.r, p.s, fd, sizes[i / 2], i % 2 ? KR_FILE_END : sizes[i / 2]));
        CHECK_OK(send_bytes(p.r, p.s, 100));
        read_to(&p, &got, p.s->queued, 1 << 18);
        TEST_UNTIL(p.r, jobs[job_count - 1].told);
        check_told(&jobs[job_count - 1], 0);
        test_close(fd);
    }
    CHECK_EQ(kr_conn_queued(p.r, p.s->conn), 0u);
    test_rest(p.r, (struct test_levels){.conns = 1, .listeners = 1, .blocks = 1});
    pair_end(&p);
}

/* Ours: an open end beyond the end of the file is met at once; what the file gains under way is
 * sent. */
TEST_EACH(file_end_is_where_it_is_met) {
    struct pair p = pair_make(NULL, 4096);
    const uint64_t first = 16 * MIB, gain = 100000;
    int fd = file_of(first), longer = file_of(first + gain);
    p.s->queued = first;
    CHECK_OK(send_file_as(p.r, p.s, fd, 0, KR_FILE_END));
    TEST_UNTIL(p.r, jobs[0].told);
    check_told(&jobs[0], 0);
    p.s->queued = 0;
    CHECK_OK(send_file_as(p.r, p.s, fd, first + gain, KR_FILE_END));
    uint64_t got = 0;
    read_to(&p, &got, 10000, 1000);
    static char bytes[100000];
    CHECK_EQ(CHECK_SYS(pread(longer, bytes, gain, (off_t)first)), (ssize_t)gain);
    CHECK_EQ(CHECK_SYS(pwrite(fd, bytes, gain, (off_t)first)), (ssize_t)gain);
    read_to(&p, &got, first + gain, 1 << 18);
    TEST_UNTIL(p.r, jobs[1].told);
    check_told(&jobs[1], 0);
    test_close(fd);
    test_close(longer);
    pair_end(&p);
}

/* Ours: a long file goes through little memory; while its reader rests nothing is read of it. */
TEST_EACH(file_long_in_bounded_memory, .deadline_s = 60) {
    struct pair p = pair_make(NULL, 0);
    uint64_t size = (tap_full() ? 1000 : 100) * MIB;
    int fd = file_of(size);
    uint64_t before = test_stats(p.r).alloc_bytes, most = 0, got = 0;
    CHECK_OK(send_file(p.r, p.s, fd, size));
    while (got < size) {
        read_to(&p, &got, got + 3 * MIB < size ? got + 3 * MIB : size, 1 << 18);
        struct kr_stats stats = test_stats(p.r);
        most = stats.alloc_bytes > most ? stats.alloc_bytes : most;
        CHECK_LE(stats.bytes_read - stats.bytes_out, 2 * CHUNK);
        CHECK_LE(kr_conn_queued(p.r, p.s->conn), 2 * CHUNK);
    }
    CHECK_LE(most - before, 2 * CHUNK + 16384);
    TEST_UNTIL(p.r, jobs[0].told);
    check_told(&jobs[0], 0);
    test_close(fd);
    pair_end(&p);
}

/* Ours: while the kernel takes nothing, no more is read of the file than its two chunks, and no
 * request is made for it. How much it takes before, and when the last of that, is the kernel's. */
TEST_EACH(file_waits_for_its_reader) {
    struct pair p = pair_make(NULL, 4096);
    int fd = file_of(16 * MIB);
    CHECK_OK(send_file(p.r, p.s, fd, 16 * MIB));
    unsigned loud = 0;
    for (bool quiet = false; !quiet; loud += !quiet) {
        struct kr_stats before = test_stats(p.r);
        for (int i = 0; i < 50; i++)
            test_step(p.r, "a time in which nothing is taken");
        struct kr_stats after = test_stats(p.r);
        quiet = after.bytes_out && after.bytes_out == before.bytes_out && after.sqes == before.sqes;
        CHECK_LE(after.bytes_read - after.bytes_out, 2 * CHUNK);
        CHECK_LT(loud, 100u);
    }
    CHECK_LT(test_stats(p.r).bytes_out, 12 * MIB);
    check_stream(&p);
    TEST_UNTIL(p.r, jobs[0].told);
    check_told(&jobs[0], 0);
    test_close(fd);
    pair_end(&p);
}

/* ---- marks and cap ---- */

static struct kr_listen_opts opts_of(size_t low, size_t high, size_t cap) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 64;
    opts.conn.send_low = low;
    opts.conn.send_high = high;
    opts.conn.send_cap = cap;
    return opts;
}

/* Ours: a file counts as what is left of it, 128 KiB at most; an empty queue takes one whatever the
 * cap, and of more it is the cap that tells how many. */
TEST_EACH(file_counts_for_the_cap) {
    struct kr_listen_opts opts = opts_of(100, 1000, 300000);
    struct pair p = pair_make(&opts, 0);
    int fd = file_of(4 * MIB);
    CHECK_OK(send_file(p.r, p.s, fd, 10));
    CHECK_EQ(kr_conn_queued(p.r, p.s->conn), 10u);
    CHECK_OK(send_file(p.r, p.s, fd, MIB));
    CHECK_EQ(kr_conn_queued(p.r, p.s->conn), 10 + 2 * CHUNK);
    CHECK_OK(send_file_as(p.r, p.s, fd, 3 * MIB - 10, KR_FILE_END));
    CHECK_EQ(kr_conn_queued(p.r, p.s->conn), 10 + 4 * CHUNK);
    p.s->queued -= 100000;
    CHECK_ERR(send_file(p.r, p.s, fd, 100000), ENOBUFS);
    p.s->queued += 100000;
    check_stream(&p);
    TEST_UNTIL(p.r, kr_conn_queued(p.r, p.s->conn) == 0);
    CHECK_EQ(p.s->drains, 1u);
    test_close(fd);
    pair_end(&p);
}

/* Ours: a cap below what a file counts leaves room for one at a time. */
TEST_EACH(file_is_taken_by_an_empty_queue) {
    struct kr_listen_opts opts = opts_of(10, 20, 30);
    struct pair p = pair_make(&opts, 0);
    int fd = file_of(MIB);
    CHECK_OK(send_file(p.r, p.s, fd, MIB - 1));
    CHECK_ERR(send_file(p.r, p.s, fd, 1), ENOBUFS);
    CHECK_ERR(kr_conn_send(p.r, p.s->conn, "x", 1), ENOBUFS);
    check_stream(&p);
    TEST_UNTIL(p.r, p.s->drains == 1);
    CHECK_OK(send_file(p.r, p.s, fd, 1));
    uint64_t got = MIB - 1;
    read_to(&p, &got, MIB, 1);
    test_close(fd);
    pair_end(&p);
}

/* Ours: a peer that asks for file after file, and reads none, is read no more until they are
 * through. */
TEST_EACH(file_stops_the_reading) {
    struct kr_listen_opts opts = opts_of(1000, 200000, 1 << 20);
    struct pair p = pair_make(&opts, 4096);
    int fd = file_of(8 * MIB);
    CHECK_OK(send_file(p.r, p.s, fd, 4 * MIB));
    test_send(p.r, p.fd, "a", 1);
    TEST_UNTIL(p.r, p.s->datas == 1); /* one file is below the mark */
    CHECK_OK(send_file(p.r, p.s, fd, 4 * MIB));
    test_send(p.r, p.fd, "b", 1);
    for (int i = 0; i < 20; i++)
        test_step(p.r, "nothing");
    CHECK_EQ(p.s->datas, 1u);
    check_stream(&p);
    TEST_UNTIL(p.r, p.s->datas == 2);
    CHECK_EQ(p.s->drains, 1u);
    test_close(fd);
    pair_end(&p);
}

/* ---- what may go wrong with the file ---- */

/* Ours: a file that loses what was promised ends the connection, and the peer sees it end in
 * pieces. */
TEST_EACH(file_cut_short_resets) {
    struct pair p = pair_make(NULL, 4096);
    int fd = file_of(16 * MIB);
    CHECK_OK(send_file(p.r, p.s, fd, 16 * MIB));
    CHECK_OK(send_file(p.r, p.s, fd, 0));
    CHECK_OK(send_bytes(p.r, p.s, 1000));
    uint64_t got = 0;
    read_to(&p, &got, 100000, 1000);
    CHECK_SYS(ftruncate(fd, 100000));
    CHECK_EQ(test_recv_end(p.r, p.fd, NULL), ECONNRESET);
    check_over(&p, -ENODATA, KR_WHY_FILE);
    check_told(&jobs[0], -ENODATA);
    CHECK_GE(jobs[0].sent, 100000u);
    check_told(&jobs[1], 0);
    test_close(fd);
    pair_end(&p);
}

/* Ours: for a file to its end that is just where it ends. */
TEST_EACH(file_to_its_end_may_shrink) {
    struct pair p = pair_make(NULL, 4096);
    int fd = file_of(64 * MIB);
    CHECK_OK(send_file_as(p.r, p.s, fd, 64 * MIB, KR_FILE_END));
    uint64_t got = 0;
    read_to(&p, &got, 100000, 1000);
    CHECK_SYS(ftruncate(fd, 100000));
    jobs[0].size = 0;
    uint64_t sent = 0;
    while (!jobs[0].told) {
        struct kr_stats stats = test_stats(p.r);
        sent = stats.bytes_read;
        jobs[0].size = sent;
        read_to(&p, &got, got + 1000 < sent ? got + 1000 : sent, 1000);
        if (got == sent)
            test_step(p.r, "the end");
    }
    check_told(&jobs[0], 0);
    CHECK_EQ(p.s->closes, 0u);
    test_close(fd);
    pair_end(&p);
}

/* What the next reads are made to bring: an error, by a NOP in their place
 * (IORING_NOP_INJECT_RESULT, kernel >= 6.10), or that many bytes. */
static int fault;
static unsigned faults, by_workers;

static void falsify(struct io_uring_sqe *sqe) {
    by_workers += sqe->opcode == IORING_OP_READ && sqe->flags & IOSQE_ASYNC;
    if (!faults || sqe->opcode != IORING_OP_READ)
        return;
    faults--;
    if (fault > 0) {
        sqe->len = (uint32_t)fault;
        return;
    }
    uint64_t user_data = sqe->user_data;
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_NOP;
    sqe->rw_flags = KR__NOP_INJECT_RESULT;
    sqe->len = (uint32_t)fault;
    sqe->user_data = user_data;
}

static int failing_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                         unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    for (unsigned i = 0; i < submit; i++)
        falsify(&ring->sq.sqes[(*ring->sq.khead + i) & *ring->sq.kring_mask]);
    return kr__linux.enter(k, ring, submit, wait_for, flags, arg);
}

static struct pair pair_failing(int error, unsigned count) {
    static struct kr__kernel kernel;
    kernel = kr__linux;
    kernel.enter = failing_enter;
    if (error < 0)
        tap_need_kernel(6, 10); /* NOP with a result */
    fault = error;
    faults = by_workers = 0;
    struct pair p = pair_on(&kernel, NULL, 0);
    faults = count;
    return p;
}

/* Ours: an error of a read ends the connection with it, and the peer sees a reset. */
TEST_EACH(file_read_error_resets) {
    static const int errors[] = {-EIO, -EBADF, -ENOMEM, -EOPNOTSUPP};
    for (unsigned i = 0; i < sizeof errors / sizeof *errors; i++) {
        sender_count = job_count = 0;
        struct pair p = pair_failing(errors[i], 1);
        int fd = file_of(2 * MIB);
        CHECK_OK(send_bytes(p.r, p.s, 10));
        CHECK_OK(send_file(p.r, p.s, fd, MIB));
        CHECK_OK(send_bytes(p.r, p.s, 10));
        CHECK_EQ(test_recv_end(p.r, p.fd, NULL), ECONNRESET);
        check_over(&p, errors[i], KR_WHY_FILE);
        check_told(&jobs[0], errors[i]);
        CHECK_EQ(jobs[0].sent, 0u);
        test_close(fd);
        pair_end(&p);
    }
}

/* Ours: a descriptor that is no longer what it was, a real one. */
TEST_EACH(file_swapped_for_a_directory) {
    struct pair p = pair_make(NULL, 4096);
    int fd = file_of(16 * MIB);
    CHECK_OK(send_file(p.r, p.s, fd, 16 * MIB));
    uint64_t got = 0;
    read_to(&p, &got, 100000, 1000);
    int dir = CHECK_SYS(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    CHECK_SYS(dup2(dir, fd));
    CHECK_EQ(test_recv_end(p.r, p.fd, NULL), ECONNRESET);
    check_over(&p, -EISDIR, KR_WHY_FILE);
    check_told(&jobs[0], -EISDIR);
    test_close(fd);
    test_close(dir);
    pair_end(&p);
}

/* Ours: interrupted, or refused because it would have waited, it is read again; by a worker, then,
 * and if that does not help, no more. */
TEST_EACH(file_read_again) {
    static const struct {
        int error;
        unsigned count;
        bool over;
    } cases[] = {{-EINTR, 5, false}, {-EAGAIN, 1, false}, {-EAGAIN, 2, true}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        sender_count = job_count = 0;
        struct pair p = pair_failing(cases[i].error, cases[i].count);
        int fd = file_of(MIB);
        CHECK_OK(send_file(p.r, p.s, fd, MIB));
        if (cases[i].over) {
            check_over(&p, cases[i].error, KR_WHY_FILE);
        } else {
            check_stream(&p);
            TEST_UNTIL(p.r, jobs[0].told);
            check_told(&jobs[0], 0);
        }
        CHECK_EQ(faults, 0u);
        CHECK_EQ(by_workers, cases[i].error == -EAGAIN);
        test_close(fd);
        pair_end(&p);
    }
}

/* Ours: a file that needs a worker, where none can be made, is read all the same, and after it the
 * next; and a read that was refused one for once. (Of a memfd the kernel reads by a worker only.) */
TEST_EACH(file_without_a_worker) {
    for (int i = 0; i < 2; i++) {
        sender_count = job_count = 0;
        struct pair p = i ? pair_failing(-ECANCELED, 1) : pair_make(NULL, 4096);
        int fd = file_of(2 * MIB);
        unsigned before = test_threads();
        test_threads_none();
        CHECK_OK(send_bytes(p.r, p.s, 10));
        CHECK_OK(send_file(p.r, p.s, fd, MIB));
        CHECK_OK(send_bytes(p.r, p.s, 10));
        CHECK_OK(send_file_as(p.r, p.s, fd, 2 * MIB - p.s->queued, KR_FILE_END));
        check_stream(&p);
        TEST_UNTIL(p.r, jobs[0].told && jobs[1].told);
        check_told(&jobs[0], 0);
        check_told(&jobs[1], 0);
        test_threads_again();
        CHECK_EQ(test_threads(), before);
        test_close(fd);
        pair_end(&p);
    }
}

/* Ours: an error of such a read resets as any. */
TEST_EACH(file_without_a_worker_swapped) {
    struct pair p = pair_make(NULL, 4096);
    int fd = file_of(16 * MIB);
    test_threads_none();
    CHECK_OK(send_file(p.r, p.s, fd, 16 * MIB));
    uint64_t got = 0;
    read_to(&p, &got, 100000, 1000);
    int dir = CHECK_SYS(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    CHECK_SYS(dup2(dir, fd));
    CHECK_EQ(test_recv_end(p.r, p.fd, NULL), ECONNRESET);
    check_over(&p, -EISDIR, KR_WHY_FILE);
    check_told(&jobs[0], -EISDIR);
    test_threads_again();
    test_close(fd);
    test_close(dir);
    pair_end(&p);
}

/* Ours: reads that bring less than was asked for are gone on with. */
TEST_EACH(file_short_reads_go_on) {
    struct pair p = pair_failing(1000, 50);
    int fd = file_of(MIB);
    CHECK_OK(send_file(p.r, p.s, fd, MIB));
    check_stream(&p);
    CHECK_EQ(faults, 0u);
    TEST_UNTIL(p.r, jobs[0].told);
    check_told(&jobs[0], 0);
    test_close(fd);
    pair_end(&p);
}

/* ---- how it ends ---- */

/* Ours: whatever the manner, the file's user is told once, and then of the connection. FLUSH and
 * LINGER wait for the file. */
TEST_EACH(file_and_a_close_in_its_middle) {
    for (enum kr_close how = KR_CLOSE_LINGER; how <= KR_CLOSE_RESET; how++) {
        sender_count = job_count = 0;
        struct pair p = pair_make(NULL, 4096);
        int fd = file_of(4 * MIB);
        CHECK_OK(send_bytes(p.r, p.s, 1000));
        CHECK_OK(send_file(p.r, p.s, fd, 3 * MIB));
        CHECK_OK(send_bytes(p.r, p.s, 1000));
        CHECK_OK(send_file(p.r, p.s, fd, 1000));
        uint64_t got = 0;
        read_to(&p, &got, 100000, 1000);
        in_call = true;
        CHECK_OK(kr_conn_close(p.r, p.s->conn, how));
        CHECK_ERR(kr_conn_send_file(p.r, p.s->conn, fd, 0, 1, file_done, NULL), EPIPE);
        in_call = false;
        if (how <= KR_CLOSE_FLUSH)
            read_to(&p, &got, p.s->queued, 1 << 18);
        else
            TEST_UNTIL(p.r, p.s->closes == 1);
        CHECK_EQ(test_recv_end(p.r, p.fd, NULL), how == KR_CLOSE_RESET ? ECONNRESET : 0);
        if (how == KR_CLOSE_LINGER)
            CHECK_SYS(shutdown(p.fd, SHUT_WR));
        check_over(&p, 0, KR_WHY_LOCAL);
        for (unsigned i = 0; i < 2; i++)
            check_told(&jobs[i], how <= KR_CLOSE_FLUSH ? 0 : -ECANCELED);
        CHECK(how <= KR_CLOSE_FLUSH || jobs[0].sent < jobs[0].size);
        test_close(fd);
        pair_end(&p);
    }
}

/* Ours: a close in the turn in which it was queued, when nothing has been read. */
TEST_EACH(file_and_a_close_at_once) {
    for (enum kr_close how = KR_CLOSE_LINGER; how <= KR_CLOSE_RESET; how++) {
        sender_count = job_count = 0;
        struct pair p = pair_make(NULL, 0);
        int fd = file_of(MIB);
        CHECK_OK(send_file(p.r, p.s, fd, MIB));
        CHECK_OK(kr_conn_close(p.r, p.s->conn, how));
        CHECK_EQ(p.s->lent, 1u);
        size_t got = 0;
        CHECK_EQ(test_recv_end(p.r, p.fd, &got), how == KR_CLOSE_RESET ? ECONNRESET : 0);
        CHECK_EQ(got, how <= KR_CLOSE_FLUSH ? MIB : 0);
        if (how == KR_CLOSE_LINGER)
            CHECK_SYS(shutdown(p.fd, SHUT_WR));
        check_over(&p, 0, KR_WHY_LOCAL);
        check_told(&jobs[0], how <= KR_CLOSE_FLUSH ? 0 : -ECANCELED);
        test_close(fd);
        pair_end(&p);
    }
}

/* Ours: this side ends behind the file. */
TEST_EACH(file_before_a_shutdown) {
    struct pair p = pair_make(NULL, 4096);
    int fd = file_of(MIB);
    CHECK_OK(send_file_as(p.r, p.s, fd, MIB, KR_FILE_END));
    CHECK_OK(kr_conn_shutdown(p.r, p.s->conn));
    CHECK_ERR(kr_conn_send_file(p.r, p.s->conn, fd, 0, 1, file_done, NULL), EPIPE);
    check_stream(&p);
    CHECK_EQ(test_recv_end(p.r, p.fd, NULL), 0);
    check_told(&jobs[0], 0);
    test_close(fd);
    pair_end(&p);
}

/* Ours: a peer that resets ends it. */
TEST_EACH(file_to_a_peer_that_resets) {
    struct pair p = pair_make(NULL, 4096);
    int fd = file_of(16 * MIB);
    CHECK_OK(send_file(p.r, p.s, fd, 16 * MIB));
    uint64_t got = 0;
    read_to(&p, &got, 100000, 1000);
    test_close_reset(p.fd);
    TEST_UNTIL(p.r, p.s->closes == 1);
    CHECK_EQ(p.s->why, KR_WHY_ERROR);
    check_told(&jobs[0], -ECANCELED);
    CHECK_GE(jobs[0].sent, 100000u);
    test_close(fd);
    p.fd = dup(STDIN_FILENO);
    pair_end(&p);
}

/* Ours: the write deadline is about a file as it is about bytes: none of it taken for so long ends
 * it. */
TEST_EACH(file_and_the_write_deadline) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.write_ns = 200 * MS;
    struct pair p = pair_make(&opts, 4096);
    int fd = file_of(64 * MIB);
    CHECK_OK(send_file(p.r, p.s, fd, 64 * MIB));
    check_over(&p, -ETIMEDOUT, KR_WHY_TIMEOUT);
    check_told(&jobs[0], -ECANCELED);
    CHECK_EQ(test_recv_end(p.r, p.fd, NULL), ECONNRESET);
    test_close(fd);
    pair_end(&p);
}

/* Ours: a reactor that is freed tells, also one that has never run. */
TEST_EACH(file_and_the_end_of_the_reactor) {
    struct pair p = pair_make(NULL, 4096);
    int fd = file_of(16 * MIB);
    CHECK_OK(send_file(p.r, p.s, fd, 16 * MIB));
    test_step(p.r, "some of it");
    test_reactor_free(p.r);
    CHECK_EQ(p.s->closes, 1u);
    check_told(&jobs[0], -ECANCELED);
    test_close(p.fd);

    sender_count = job_count = 0;
    struct kr_reactor *r = test_reactor(NULL);
    kr_conn conn;
    struct kr_addr addr;
    CHECK_OK(kr_addr_parse(&addr, "127.0.0.1:9"));
    struct sender *s = sender_new((kr_conn){0});
    CHECK_OK(kr_connect(r, &conn, &addr, NULL, &ops, s));
    s->conn = conn;
    CHECK_OK(send_file(r, s, fd, MIB));
    test_reactor_free(r);
    CHECK_EQ(s->closes, 1u);
    check_told(&jobs[0], -ECANCELED);
    test_close(fd);
}

/* ---- with others ---- */

#define CHAIN 50u

static int chain_fd;

static void chain_next(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    struct sender *s = arg;
    CHECK(!error && r->in_turn);
    CHECK_EQ(sent, s->datas % 7);
    if (++s->datas == CHAIN)
        CHECK_OK(kr_conn_close(r, s->conn, KR_CLOSE_FLUSH));
    else
        CHECK_OK(kr_conn_send_file(r, s->conn, chain_fd, 0, s->datas % 7, chain_next, s));
}

/* Ours: when told, one may queue the next, also an empty one, and close. */
TEST_EACH(file_may_follow_from_its_end) {
    struct pair p = pair_make(NULL, 0);
    chain_fd = file_of(100);
    CHECK_OK(kr_conn_send_file(p.r, p.s->conn, chain_fd, 0, 0, chain_next, p.s));
    size_t got = 0, want = 0;
    CHECK_EQ(test_recv_end(p.r, p.fd, &got), 0);
    for (unsigned i = 0; i < CHAIN; i++)
        want += i % 7;
    CHECK_EQ(got, want);
    check_over(&p, 0, KR_WHY_LOCAL);
    test_close(chain_fd);
    pair_end(&p);
}

/* Ours: nobody need be told. */
TEST_EACH(file_without_done) {
    struct pair p = pair_make(NULL, 0);
    int fd = file_of(300000);
    CHECK_OK(kr_conn_send_file(p.r, p.s->conn, fd, 0, 0, NULL, NULL));
    CHECK_OK(kr_conn_send_file(p.r, p.s->conn, fd, 0, 100000, NULL, NULL));
    CHECK_OK(kr_conn_send_file(p.r, p.s->conn, fd, 100000, KR_FILE_END, NULL, NULL));
    p.s->queued = 300000;
    check_stream(&p);
    CHECK_OK(kr_conn_send_file(p.r, p.s->conn, fd, 0, 300000, NULL, NULL));
    CHECK_OK(kr_conn_close(p.r, p.s->conn, KR_CLOSE_NOW));
    check_over(&p, 0, KR_WHY_LOCAL);
    test_close(fd);
    pair_end(&p);
}

struct collector {
    uint64_t got, closes;
};

static size_t collect(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    UNUSED(r, conn);
    struct collector *x = user;
    test_pattern_check(data, size, seed, x->got);
    x->got += size;
    return size;
}

static void collected(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    UNUSED(r, conn);
    CHECK(!error && why == KR_WHY_PEER);
    ((struct collector *)user)->closes++;
}

static const struct kr_conn_ops collector_ops = {.on_data = collect, .on_close = collected};

/* Ours: both ends of the connection in one reactor; the file is queued before it stands. */
TEST_EACH(file_between_two_ends_of_one_reactor) {
    seed = tap_random();
    struct kr_reactor *r = test_reactor(NULL);
    struct collector x = {0, 0};
    uint16_t port = test_listen(r, NULL, NULL, &collector_ops, &x);
    struct kr_addr addr;
    char text[32];
    snprintf(text, sizeof text, "127.0.0.1:%u", port);
    CHECK_OK(kr_addr_parse(&addr, text));
    static const struct kr_conn_ops from = {.on_data = on_data, .on_close = on_close};
    struct sender *s = sender_new((kr_conn){0});
    CHECK_OK(kr_connect(r, &s->conn, &addr, NULL, &from, s));
    int fd = file_of(5 * MIB);
    CHECK_OK(send_file(r, s, fd, 2 * MIB));
    CHECK_OK(send_bytes(r, s, MIB));
    CHECK_OK(send_file_as(r, s, fd, 2 * MIB, KR_FILE_END));
    CHECK_OK(kr_conn_close(r, s->conn, KR_CLOSE_FLUSH));
    TEST_UNTIL(r, x.closes && s->closes);
    CHECK_EQ(x.got, 5 * MIB);
    check_told(&jobs[0], 0);
    check_told(&jobs[1], 0);
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: what is forwarded to a connection comes behind the file in its queue. */
TEST_EACH(file_before_what_is_forwarded) {
    struct pair p = pair_make(NULL, 4096);
    int source = test_connect(p.port);
    TEST_UNTIL(p.r, sender_count == 2);
    int fd = file_of(MIB);
    CHECK_OK(send_file(p.r, p.s, fd, MIB));
    CHECK_OK(kr_conn_forward(p.r, senders[1].conn, p.s->conn, NULL, NULL, NULL));
    static char bytes[100000];
    test_pattern(bytes, sizeof bytes, seed, MIB);
    test_send(p.r, source, bytes, sizeof bytes);
    CHECK_SYS(shutdown(source, SHUT_WR));
    p.s->queued += sizeof bytes;
    check_stream(&p);
    CHECK_EQ(test_recv_end(p.r, p.fd, NULL), 0);
    check_told(&jobs[0], 0);
    test_close(source);
    test_close(fd);
    pair_end(&p);
}

static const struct kr_conn_ops other_ops = {.on_data = on_data, .on_close = on_close};

/* Ours: who takes a connection over takes its queue over; the file's user is told as ever. */
TEST_EACH(file_and_a_swap) {
    struct pair p = pair_make(NULL, 4096);
    int fd = file_of(MIB);
    CHECK_OK(send_file(p.r, p.s, fd, MIB));
    uint64_t got = 0;
    read_to(&p, &got, 10000, 1000);
    CHECK_OK(kr_conn_swap(p.r, p.s->conn, &other_ops, p.s));
    read_to(&p, &got, MIB, 1 << 18);
    check_told(&jobs[0], 0);
    test_close(fd);
    pair_end(&p);
}

/* Ours: a file ends an open reservation, as a send does. */
TEST_EACH(file_ends_the_reservation) {
    struct pair p = pair_make(NULL, 0);
    int fd = file_of(100);
    void *room;
    CHECK_OK(kr_conn_reserve(p.r, p.s->conn, 10, &room));
    CHECK_OK(send_file(p.r, p.s, fd, 100));
    CHECK_ERR(kr_conn_commit(p.r, p.s->conn, 10), EINVAL);
    check_stream(&p);
    test_close(fd);
    pair_end(&p);
}

/* ---- refusals ---- */

static int ask(struct pair *p, int fd, uint64_t offset, uint64_t size) {
    return kr_conn_send_file(p->r, p->s->conn, fd, offset, size, file_done, NULL);
}

/* Ours: what cannot be read at an offset, or has not got the bytes, is refused, and nothing has
 * changed. */
TEST_EACH(file_that_is_none_is_refused) {
    struct pair p = pair_make(NULL, 0);
    int pipes[2];
    CHECK_SYS(pipe2(pipes, O_CLOEXEC));
    CHECK_ERR(ask(&p, pipes[0], 0, 1), ESPIPE);
    CHECK_ERR(ask(&p, p.fd, 0, 1), ESPIPE);
    CHECK_ERR(ask(&p, -1, 0, 1), EBADF);
    CHECK_ERR(ask(&p, 9999, 0, KR_FILE_END), EBADF);
    test_close(pipes[0]);
    test_close(pipes[1]);
    static const struct {
        const char *path;
        int flags, error;
    } paths[] = {
        {"/", O_RDONLY | O_DIRECTORY, EISDIR},
        {"/dev/null", O_RDONLY, ESPIPE},
        {"/proc/self/exe", O_PATH, EBADF},
        {"/proc/self/comm", O_WRONLY, EBADF},
    };
    for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++) {
        int fd = CHECK_SYS(open(paths[i].path, paths[i].flags | O_CLOEXEC));
        CHECK_ERR(ask(&p, fd, 0, KR_FILE_END), paths[i].error);
        test_close(fd);
    }
    int direct = open("/proc/self/exe", O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (direct >= 0) {
        CHECK_ERR(ask(&p, direct, 0, 1), EINVAL);
        test_close(direct);
    }
    int fd = file_of(100);
    CHECK_ERR(ask(&p, fd, 0, 101), ENODATA);
    CHECK_ERR(ask(&p, fd, 200, 1), ENODATA);
    CHECK_ERR(ask(&p, fd, (uint64_t)1 << 63, 1), EINVAL);
    CHECK_ERR(ask(&p, fd, (uint64_t)1 << 63, KR_FILE_END), EINVAL);
    CHECK_ERR(ask(&p, fd, 100, INT64_MAX - 99), EINVAL);
    CHECK_ERR(kr_conn_send_file(p.r, (kr_conn){0}, fd, 0, 1, file_done, NULL), ESTALE);
    CHECK_ERR(kr_conn_send_file(NULL, p.s->conn, fd, 0, 1, file_done, NULL), EINVAL);
    CHECK_EQ(kr_conn_queued(p.r, p.s->conn), 0u);
    test_rest(p.r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    pair_end(&p);
}

struct question {
    struct pair *p;
    int fd, answer;
};

static void *ask_from_thread(void *arg) {
    struct question *q = arg;
    q->answer = ask(q->p, q->fd, 0, 1);
    return NULL;
}

static int from_thread(struct pair *p, int fd) {
    struct question q = {p, fd, 0};
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, ask_from_thread, &q), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    return q.answer;
}

/* Ours: another thread and a forked child are refused; what the child has are copies, and nobody is
 * told. */
TEST_EACH(file_of_others_is_refused) {
    struct pair p = pair_make(NULL, 4096);
    int fd = file_of(16 * MIB);
    CHECK_ERR(from_thread(&p, fd), EPERM);
    CHECK_OK(send_file(p.r, p.s, fd, 16 * MIB));
    test_step(p.r, "some of it");
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        bool good = ask(&p, fd, 0, 1) == -ECHILD && kr_reactor_free(p.r) == 0 && !jobs[0].told;
        tap_exit_child(good ? 0 : 1);
    }
    int status;
    CHECK_SYS(waitpid(child, &status, 0));
    CHECK_EQ(status, 0);
    check_stream(&p);
    test_close(fd);
    pair_end(&p);
}

/* ---- memory ---- */

/* Ours: refused memory is -ENOMEM and nothing has changed, at each allocation that a call makes;
 * what one call was granted no later refusal takes away. */
TEST_EACH(file_without_memory_is_refused) {
    struct pair p = pair_make(NULL, 0);
    int fd = file_of(MIB);
    uint64_t bytes = test_stats(p.r).alloc_bytes;
    unsigned refusals = 0;
    for (int64_t grants = 0;; grants++) {
        test_reactor_refuse_memory(p.r, grants);
        int rc = send_file(p.r, p.s, fd, MIB);
        if (rc == 0)
            break;
        CHECK_EQ(rc, -ENOMEM);
        CHECK_EQ(kr_conn_queued(p.r, p.s->conn), 0u);
        CHECK_LT(refusals++, 10u);
    }
    CHECK_GE(refusals, 3u);
    CHECK_GE(test_stats(p.r).alloc_bytes, bytes);
    test_reactor_refuse_memory(p.r, 0);
    check_stream(&p);
    TEST_UNTIL(p.r, jobs[0].told);
    check_told(&jobs[0], 0);
    test_reactor_refuse_memory(p.r, -1);
    test_close(fd);
    pair_end(&p);
}

/* Ours: with a chunk that is too small for it, a long file goes all the same. */
TEST_EACH(file_in_a_small_chunk) {
    struct pair p = pair_make(NULL, 0);
    int fd = file_of(300000);
    CHECK_OK(send_file(p.r, p.s, fd, 100));
    CHECK_OK(send_file(p.r, p.s, fd, 299900));
    test_reactor_refuse_memory(p.r, 0);
    check_stream(&p);
    TEST_UNTIL(p.r, jobs[1].told);
    test_reactor_refuse_memory(p.r, -1);
    test_close(fd);
    pair_end(&p);
}

/* ---- corks ---- */

static unsigned corks, sends;

static int seeing_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                        unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    for (unsigned i = 0; i < submit; i++) {
        const struct io_uring_sqe *sqe =
            &ring->sq.sqes[(*ring->sq.khead + i) & *ring->sq.kring_mask];
        bool send = sqe->opcode == IORING_OP_SEND || sqe->opcode == IORING_OP_SENDMSG;
        sends += send;
        corks += send && sqe->msg_flags & MSG_MORE;
    }
    return kr__linux.enter(k, ring, submit, wait_for, flags, arg);
}

/* Ours: a head does not leave in a segment of its own, nor does a chunk's end; what nothing follows
 * is not held back. */
TEST_EACH(file_leaves_in_whole_segments) {
    static struct kr__kernel kernel;
    kernel = kr__linux;
    kernel.enter = seeing_enter;
    struct pair p = pair_on(&kernel, NULL, 0);
    int fd = file_of(200000);
    for (unsigned i = 0; i < 2; i++) {
        p.s->queued = 0;
        corks = sends = 0;
        CHECK_OK(send_bytes(p.r, p.s, 100));
        CHECK_OK(send_file_as(p.r, p.s, fd, 199900, i ? KR_FILE_END : 199900));
        check_stream(&p);
        TEST_UNTIL(p.r, jobs[i].told);
        CHECK_GE(sends, 4u);
        CHECK_GE(corks, 2u);
        CHECK_LT(corks, sends);
    }
    test_close(fd);
    pair_end(&p);
}

static int size_of_a_page(const struct kr__kernel *k, int fd, uint64_t *ret) {
    UNUSED(k, fd);
    *ret = 4096;
    return 0;
}

/* Ours: a file that reports more than it holds, as those of sysfs do, does not have its last bytes
 * held back for what never comes. */
TEST_EACH(file_shorter_than_reported_is_not_held_back) {
    static struct kr__kernel kernel;
    kernel = kr__linux;
    kernel.enter = seeing_enter;
    kernel.file_size = size_of_a_page;
    struct pair p = pair_on(&kernel, NULL, 0);
    int fd = file_of(6);
    corks = sends = 0;
    CHECK_OK(send_file_as(p.r, p.s, fd, 6, KR_FILE_END));
    check_stream(&p);
    TEST_UNTIL(p.r, jobs[0].told);
    CHECK_EQ(sends, 1u);
    CHECK_EQ(corks, 0u);
    test_close(fd);
    pair_end(&p);
}

/* Ours: an offset from which no read could be made is refused at the call. */
TEST_EACH(file_offsets_near_the_end_of_all_are_refused) {
    struct pair p = pair_make(NULL, 0);
    int fd = file_of(6);
    static const uint64_t offsets[] = {INT64_MAX, INT64_MAX - 100, (uint64_t)INT64_MAX + 1};
    for (unsigned i = 0; i < 3; i++)
        CHECK_ERR(kr_conn_send_file(p.r, p.s->conn, fd, offsets[i], KR_FILE_END, NULL, NULL),
                  EINVAL);
    test_close(fd);
    pair_end(&p);
}

TAP_MAIN(file, 34 * 4)
