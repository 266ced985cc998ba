/* Bytes through the real ring: each arrives once and in order, whatever the sizes and ways of
 * sending, and whatever the kernel is in a mood for. */
#include "harness/echo.h"

#include "kernel/kernel.h"

#include <errno.h>
#include <string.h>

/* Ours: every byte comes back once and in order, under random sizes and pauses of 64 clients, in
 * buffers smaller than the messages. */
TEST_EACH(echo_returns_every_byte) {
    struct kr_config config = test_buffers(64, 1000);
    struct kr_reactor *r = test_reactor(&config);
    struct test_echo clients[TEST_CONNS_MAX];
    test_echoes_start(clients, 64, test_listen(r, NULL, NULL, &test_echo_ops, NULL),
                  tap_full() ? 4 << 20 : 60000);
    test_echoes_run(r, clients, 64);
    test_rest(r, (struct test_levels){.conns = 64, .listeners = 1});
    struct kr_stats stats = test_stats(r);
    CHECK_EQ(stats.bytes_in, stats.bytes_out);
    CHECK_EQ(stats.bytes_in, 64 * clients[0].total);
    test_echoes_close(clients, 64);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: the same when every send is short: the client's receive buffer holds less than a
 * message, and the reactor's socket too (its send buffer is inherited from no one, so messages
 * of 64 KiB are used). */
TEST_EACH(echo_survives_short_sends) {
    struct kr_config config = test_buffers(32, 65536);
    struct kr_reactor *r = test_reactor(&config);
    struct test_echo clients[8];
    uint16_t port = test_listen(r, NULL, NULL, &test_echo_ops, NULL);
    for (unsigned i = 0; i < 8; i++)
        clients[i] = (struct test_echo){
            .fd = test_connect_sized(port, 1 << 20, 2304), .seed = tap_random(), .total = 1 << 20};
    test_echoes_run(r, clients, 8);
    test_rest(r, (struct test_levels){.conns = 8, .listeners = 1});
    test_echoes_close(clients, 8);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Echoes by a random way of sending, random parts of what it is shown. */
static size_t mixed_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    (void)user;
    const char *bytes = data;
    size_t done = 0;
    while (done < size && tap_random_below(20)) {
        size_t part = 1 + (size_t)tap_random_below(size - done);
        char copy[2048];
        void *room;
        struct iovec iov[3] = {{(char *)(uintptr_t)bytes + done, part / 2}, {NULL, 0}, {NULL, 0}};
        int rc;
        switch (tap_random_below(4)) {
        case 0: /* lent */
            rc = kr_conn_send(r, conn, bytes + done, part);
            break;
        case 1: /* copied */
            part = part < sizeof copy ? part : sizeof copy;
            memcpy(copy, bytes + done, part);
            rc = kr_conn_send(r, conn, copy, part);
            memset(copy, 0, sizeof copy);
            break;
        case 2: /* gathered: lent, then copied */
            part = part < sizeof copy ? part : sizeof copy;
            memcpy(copy, bytes + done, part);
            iov[0].iov_len = part / 2;
            iov[2] = (struct iovec){copy + part / 2, part - part / 2};
            rc = kr_conn_sendv(r, conn, iov, 3);
            memset(copy, 0, sizeof copy);
            break;
        default: /* formatted in place, in more room than needed */
            rc = kr_conn_reserve(r, conn, part + (size_t)tap_random_below(100), &room);
            if (rc == 0) {
                memcpy(room, bytes + done, part);
                rc = kr_conn_commit(r, conn, part);
            }
        }
        if (rc == -ENOBUFS)
            break;
        CHECK_OK(rc);
        done += part;
    }
    return done;
}

/* A beat that makes kept bytes be shown again: bytes unconsumed are only shown with more. */
static void resume_all(struct kr_reactor *r, const kr_conn *conns, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        CHECK_OK(kr_conn_pause(r, conns[i]));
        CHECK_OK(kr_conn_resume(r, conns[i]));
    }
}

static const struct kr_conn_ops mixed_ops = {.on_open = test_conns_open, .on_data = mixed_data};

/* Ours: send, sendv, reserve/commit, of lent and of own bytes, in any mixture, keep the order; a
 * caller may overwrite its bytes at once. Consumption stops at random offsets. */
TEST_EACH(echo_mixtures_of_sends_keep_order) {
    struct kr_config config = test_buffers(64, 3000);
    struct kr_reactor *r = test_reactor(&config);
    struct test_echo clients[16];
    struct test_conns conns = {.count = 0};
    test_echoes_start(clients, 16, test_listen(r, NULL, NULL, &mixed_ops, &conns), 200000);
    while (!test_echoes_done(clients, 16)) {
        test_step(r, "every client to get its bytes back");
        resume_all(r, conns.at, conns.count);
        test_echoes_move(clients, 16);
    }
    test_rest(r, (struct test_levels){.conns = 16, .listeners = 1});
    test_echoes_close(clients, 16);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Sends `count` numbered words, every way in turn. */
static void send_words(struct kr_reactor *r, kr_conn conn, uint32_t *next, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        uint32_t word = (*next)++;
        void *room;
        switch (i % 3) {
        case 0:
            CHECK_OK(kr_conn_send(r, conn, &word, sizeof word));
            break;
        case 1:
            CHECK_OK(
                kr_conn_sendv(r, conn, (struct iovec[]){{&word, 1}, {(char *)&word + 1, 3}}, 2));
            break;
        default:
            CHECK_OK(kr_conn_reserve(r, conn, 64, &room));
            memcpy(room, &word, sizeof word);
            CHECK_OK(kr_conn_commit(r, conn, sizeof word));
        }
    }
}

struct words {
    kr_conn conn;
    uint32_t next;
    unsigned fires;
};

static void words_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct words *words = user;
    words->conn = conn;
    send_words(r, conn, &words->next, 10);
}

static size_t words_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    struct words *words = user;
    (void)data;
    send_words(r, conn, &words->next, 100);
    return size;
}

static void words_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    struct words *words = user;
    (void)timer;
    words->fires++;
    send_words(r, words->conn, &words->next, 10);
}

static void words_post(struct kr_reactor *r, void *user) {
    struct words *words = user;
    words->fires++;
    send_words(r, words->conn, &words->next, 10);
}

static const struct kr_conn_ops words_ops = {.on_open = words_open, .on_data = words_data};

/* Ours: writes from on_open, on_data, timers, posts and from between turns leave in the order of
 * the calls. */
TEST_EACH(echo_writes_keep_order_across_callbacks) {
    struct kr_reactor *r = test_reactor(NULL);
    struct words words = {.next = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &words_ops, &words));
    TEST_UNTIL(r, words.conn.bits != 0);
    for (unsigned round = 0; round < 100; round++) {
        test_send(r, fd, "x", 1);
        CHECK_OK(kr_timer_start(r, NULL, 0, 0, words_timer, &words));
        CHECK_OK(kr_post(r, words_post, &words));
        send_words(r, words.conn, &words.next, 10);
        TEST_UNTIL(r, words.fires == 2 * (round + 1));
    }
    for (uint32_t want = 0; want < 10 + 100 * 130; want++) {
        uint32_t word;
        test_recv(r, fd, &word, sizeof word);
        CHECK_EQ(word, want);
    }
    CHECK_EQ(words.next, 10u + 100 * 130);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* A piece that is large enough to be held where it was received. */
#define HELD 1024u

/* Echoes in pieces no two of which share a record: one that is held, a byte that is copied, and so
 * on. Counts the pieces of the call that made most of them. */
static size_t shredded_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                            size_t size) {
    const char *bytes = data;
    unsigned pieces = 0, *most = user;
    for (size_t i = 0; i < size; pieces++) {
        size_t part = pieces % 2 == 0 && size - i >= HELD ? HELD : 1;
        char own = bytes[i];
        CHECK_OK(kr_conn_send(r, conn, part == 1 ? &own : bytes + i, part));
        i += part;
    }
    *most = pieces > *most ? pieces : *most;
    return size;
}

static const struct kr_conn_ops shredded_ops = {.on_data = shredded_data};

/* Ours: many pieces that lie apart go out in order. The client's bytes are there before the first
 * turn, so that the first receive brings many. */
TEST_EACH(echo_of_pieces_that_lie_apart) {
    struct kr_config config = test_buffers(1024, 1 << 17);
    struct kr_reactor *r = test_reactor(&config);
    struct test_echo client = {.seed = 8, .total = 1 << 20, .send_piece = 1 << 17};
    unsigned most = 0;
    client.fd = test_connect(test_listen(r, NULL, NULL, &shredded_ops, &most));
    test_echo_move(&client);
    while (!test_echo_done(&client)) {
        test_step(r, "the bytes back");
        test_echo_move(&client);
    }
    CHECK_GT(most, 64u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(client.fd);
    test_reactor_free(r);
}

/* A kernel in bad temper: one enter in three is interrupted, refused for want of memory, or
 * takes but one of the requests that it is given (io_uring/io_uring.c: a short submit). */
static unsigned moods;
static bool moody; /* from when the reactor is there */

static int moody_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                       unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    static const int refusals[] = {-EINTR, -EAGAIN, -EBUSY};
    uint64_t mood = moody ? tap_random_below(12) : 12;
    moods += mood < 4;
    if (mood < 3)
        return refusals[mood];
    if (mood == 3 && submit > 1)
        return kr__linux.ring.enter(k, ring, 1, 0, flags, NULL);
    return kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
}

/* Ours: interrupted, refused and short enters lose no request and no byte. */
TEST_EACH(echo_survives_a_moody_kernel) {
    struct kr__kernel kernel = kr__linux;
    kernel.ring.enter = moody_enter;
    struct kr_config config = test_buffers(8, 1000);
    struct kr_reactor *r = test_reactor_on(&kernel, &config);
    moody = true;
    struct test_echo clients[16];
    test_echoes_start(clients, 16, test_listen(r, NULL, NULL, &test_echo_ops, NULL), 50000);
    test_echoes_run(r, clients, 16);
    test_rest(r, (struct test_levels){.conns = 16, .listeners = 1});
    test_echoes_close(clients, 16);
    test_rest(r, (struct test_levels){.listeners = 1});
    CHECK_GT(moods, 20u);
    test_reactor_free(r);
}

static bool losing;

static int losing_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                        unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    if (!losing)
        return kr__linux.ring.enter(k, ring, submit, wait_for, flags, arg);
    losing = false;
    return -EBADR;
}

/* Ours: that the kernel has lost completions (-EBADR, man io_uring_enter) is told by kr_step and
 * kr_run, unaltered; the reactor can still be freed. */
TEST_EACH(echo_lost_completions_are_told) {
    struct kr__kernel kernel = kr__linux;
    kernel.ring.enter = losing_enter;
    struct kr_reactor *r = test_reactor_on(&kernel, NULL);
    struct test_echo client = {.seed = 1, .total = 100};
    client.fd = test_connect(test_listen(r, NULL, NULL, &test_echo_ops, NULL));
    while (!test_echo_done(&client)) {
        test_step(r, "the bytes back");
        test_echo_move(&client);
    }
    losing = true;
    CHECK_ERR(kr_step(r, 0), EBADR);
    losing = true;
    CHECK_ERR(kr_run(r), EBADR);
    test_close(client.fd);
    test_reactor_free(r);
}

static size_t careful_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    (void)user;
    static char own[40000];
    int rc = kr_conn_send(r, conn, data, size);
    CHECK(rc == 0 || rc == -ENOBUFS || rc == -ENOMEM);
    if (rc == 0 && size > 10) {
        rc = kr_conn_send(r, conn, own, sizeof own);
        CHECK(rc == 0 || rc == -ENOBUFS || rc == -ENOMEM);
    }
    return size > 10 ? size - 5 : size;
}

static const struct kr_conn_ops careful_ops = {.on_data = careful_data};

/* Ours: refused memory is an error or the end of that connection, never a crash, a leak or a
 * byte out of order: refused from the n-th allocation on, for each n until nothing is refused. */
TEST_EACH(echo_survives_refused_memory) {
    for (int64_t n = 0; n < 40; n++) {
        struct kr_config config = test_buffers(4, 512);
        struct kr_reactor *r = test_reactor(&config);
        uint16_t port = test_listen(r, NULL, NULL, &careful_ops, NULL);
        test_step(r, "the listener");
        test_reactor_refuse_memory(r, n);
        int fds[4];
        char bytes[4096];
        for (int i = 0; i < 4; i++) {
            fds[i] = test_connect(port);
            test_send(r, fds[i], bytes, sizeof bytes);
        }
        for (int i = 0; i < 20; i++) {
            test_step(r, "nothing");
            for (int k = 0; k < 4; k++)
                test_recv_some(fds[k], bytes, sizeof bytes);
        }
        for (int i = 0; i < 4; i++)
            test_close(fds[i]);
        test_reactor_end(r, (struct test_levels){.listeners = 1});
    }
}

TAP_MAIN(echo, 32)
