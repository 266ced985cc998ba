/* Files beside others: neighbours, refusals, memory, corks. */
#include "sendfile/sendfile.h"

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
    return kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
}

/* Ours: a head does not leave in a segment of its own, nor does a chunk's end; what nothing follows
 * is not held back. */
TEST_EACH(file_leaves_in_whole_segments) {
    static struct kr__kernel kernel;
    kernel = kr__linux;
    kernel.ring.enter = seeing_enter;
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
    kernel.ring.enter = seeing_enter;
    kernel.file.size = size_of_a_page;
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
