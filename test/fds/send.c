/* Sending descriptors, and the end with some in the queue. */
#include "fds/fds.h"

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

void read_singly(int peer, size_t total, const size_t *at, const int *files, unsigned most) {
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
        *sqe = (struct io_uring_sqe){.opcode = IORING_OP_NOP,
                                     .rw_flags = KR__NOP_INJECT_RESULT,
                                     .len = (uint32_t)f->result,
                                     .user_data = sqe->user_data};
        f->result = 0;
    }
    return kr__linux.ring.enter(&kr__linux, ring, submit, wait_for, flags, arg);
}

/* Ours: an error of the send ends the connection, also that of too many under way; one that passes
 * has it sent again, with its descriptors. */
TEST_EACH(fds_when_the_send_fails) {
    static const int results[] = {-ETOOMANYREFS, -EBADF, -ENOMEM,   -EPIPE,
                                  -EAGAIN,       -EINTR, -ECANCELED};
    tap_need_kernel(6, 10); /* NOP with a result */
    for (unsigned i = 0; i < COUNT(results); i++) {
        struct refuser refuser = {.kernel = kr__linux, .result = results[i]};
        refuser.kernel.ring.enter = refuser_enter;
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
