/* Files in send queues: each arrives in its place in the stream, whatever its size and whoever
 * reads it how; its user is told once, in a phase of a turn, before on_close, how much of it went
 * and why no more.
 *
 * A file holds the pattern of a seed, and what stands around it in the stream is of the same
 * pattern: the byte at offset n of the stream is the byte at offset n of the file, so any that is
 * lost, doubled or moved shows. */
#include "sendfile/sendfile.h"

struct sender;

struct sender senders[SENDERS_MAX];
unsigned sender_count;
struct job jobs[JOBS_MAX];
unsigned job_count;
bool in_call; /* a public function is being called: no callback may run */

uint64_t seed;

void file_done(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
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

int file_of(uint64_t size) {
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

int send_file_as(struct kr_reactor *r, struct sender *s, int fd, uint64_t size, uint64_t asked) {
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

int send_file(struct kr_reactor *r, struct sender *s, int fd, uint64_t size) {
    return send_file_as(r, s, fd, size, size);
}

int send_bytes(struct kr_reactor *r, struct sender *s, size_t size) {
    int rc = test_queue_pattern(r, s->conn, size, seed, s->queued);
    s->queued += rc == 0 ? size : 0;
    return rc;
}

struct sender *sender_new(kr_conn conn) {
    CHECK_LT(sender_count, SENDERS_MAX);
    struct sender *s = &senders[sender_count++];
    *s = (struct sender){.conn = conn};
    return s;
}

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)user;
    CHECK_OK(kr_conn_set_user(r, conn, sender_new(conn)));
}

size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    UNUSED(r, conn, data);
    ((struct sender *)user)->datas++;
    return size;
}

static void on_writable(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct sender *)user)->drains++;
}

void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct sender *s = user;
    UNUSED(r, conn);
    CHECK_EQ(s->lent, 0u);
    s->closes++;
    s->error = error;
    s->why = why;
}

const struct kr_conn_ops ops = {
    .on_open = on_open, .on_data = on_data, .on_writable = on_writable, .on_close = on_close};

struct pair pair_on(const struct kr__kernel *kernel, const struct kr_listen_opts *opts,
                    int recv_size) {
    seed = tap_random();
    struct pair p = {.r = test_reactor_on(kernel, NULL)};
    p.port = test_listen(p.r, NULL, opts, &ops, NULL);
    p.fd = test_connect_sized(p.port, 0, recv_size);
    TEST_UNTIL(p.r, sender_count == 1);
    p.s = &senders[0];
    return p;
}

struct pair pair_make(const struct kr_listen_opts *opts, int recv_size) {
    return pair_on(&kr__linux, opts, recv_size);
}

void read_to(struct pair *p, uint64_t *got, uint64_t to, size_t most) {
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

void check_stream(struct pair *p) {
    uint64_t got = 0;
    read_to(p, &got, p->s->queued, 1 << 18);
}

void check_told(const struct job *job, int error) {
    CHECK_EQ(job->told, 1u);
    CHECK_EQ(job->error, error);
}

void check_over(struct pair *p, int error, enum kr_why why) {
    TEST_UNTIL(p->r, p->s->closes == 1);
    CHECK_EQ(p->s->error, error);
    CHECK_EQ(p->s->why, why);
}

void pair_end(struct pair *p) {
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

static const uint64_t sizes[] = {0,         1,         4095,          4096,      CHUNK - 1,
                                 CHUNK,     CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1,
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

TAP_MAIN(sendfile, 140)
