/* What may go wrong with the file, and how a connection ends that sends one. */
#include "sendfile/sendfile.h"

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
    return kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
}

static struct pair pair_failing(int error, unsigned count) {
    static struct kr__kernel kernel;
    kernel = kr__linux;
    kernel.ring.enter = failing_enter;
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
