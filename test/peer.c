/* Ends of connections by the peer: FIN and RST, early and late, with bytes before them and bytes
 * under way to it; and what this side may still do after the peer's half. */
#include "harness/life.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* Ours: a peer that is gone before its connection was accepted is announced and ends as by any
 * FIN; what it sent with its FIN is shown first. */
TEST_EACH(peer_gone_before_the_accept_is_announced) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    uint16_t port = test_listen(r, NULL, NULL, &house_plain_ops, &house);
    int silent = test_connect(port);
    test_close(silent);
    int brief = test_connect(port);
    test_send(NULL, brief, "farewell", 8);
    test_close(brief);
    TEST_UNTIL(r, house.closed == 2);
    life_check_closed(r, 0, 0, KR_WHY_PEER);
    life_check_closed(r, 1, 0, KR_WHY_PEER);
    CHECK_EQ(house.lives[0].bytes + house.lives[1].bytes, 8u);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: without on_eof, the peer's FIN ends the connection after the queue: an echo's last bytes
 * still arrive, for every size about that of a buffer. */
TEST_EACH(fin_with_data_is_still_answered) {
    struct kr_config config = test_config();
    config.buf_size = 256;
    config.buf_count = 16;
    struct kr_reactor *r = test_reactor(&config);
    house_init();
    house.echo = true;
    uint16_t port = test_listen(r, NULL, NULL, &house_plain_ops, &house);
    char bytes[800], back[800];
    for (unsigned i = 0; i < 80; i++) {
        size_t size = 1 + i * 10;
        int fd = test_connect(port);
        test_pattern(bytes, size, i, 0);
        test_send(NULL, fd, bytes, size);
        CHECK_SYS(shutdown(fd, SHUT_WR));
        test_recv(r, fd, back, size);
        test_pattern_check(back, size, i, 0);
        CHECK_EQ(test_recv_end(r, fd, NULL), 0);
        life_check_closed(r, i, 0, KR_WHY_PEER);
        CHECK_EQ(house.lives[i].bytes, size);
        test_close(fd);
    }
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: after the peer's half-close this side may go on sending as long as it likes; nothing is
 * owed by the kernel meanwhile but the wake-up. The end is told once, also to who pauses and
 * resumes. */
TEST_EACH(half_close_by_the_peer_leaves_this_side) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = house_open_one(r, test_listen(r, NULL, NULL, &house_ops, &house));
    struct life *life = &house.lives[0];
    test_send(r, fd, "question", 8);
    CHECK_SYS(shutdown(fd, SHUT_WR));
    TEST_UNTIL(r, life->events[END] == 1);
    CHECK_EQ(life->bytes, 8u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1});
    for (int i = 0; i < 20; i++) {
        CHECK_OK(kr_conn_send(r, life->conn, "answer", 6));
        CHECK_RECV(r, fd, "answer");
    }
    CHECK_OK(kr_conn_pause(r, life->conn));
    CHECK_OK(kr_conn_resume(r, life->conn));
    test_step(r, "the resumption");
    CHECK_EQ(life->events[END], 1u);
    CHECK_OK(kr_conn_send(r, life->conn, "end", 3));
    life_close(r, life, KR_CLOSE_FLUSH);
    char bytes[3];
    test_recv(r, fd, bytes, 3);
    CHECK_EQ(test_recv_end(r, fd, NULL), 0);
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: a FIN that arrives while the connection is paused is told after resume, after the bytes
 * before it. */
TEST_EACH(fin_while_paused_is_told_later) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = house_open_one(r, test_listen(r, NULL, NULL, &house_ops, &house));
    struct life *life = &house.lives[0];
    CHECK_OK(kr_conn_pause(r, life->conn));
    test_send(r, fd, "abc", 3);
    test_close(fd);
    test_settle(r);
    CHECK_EQ(life->events[DATA] + life->events[END], 0u);
    CHECK_OK(kr_conn_resume(r, life->conn));
    TEST_UNTIL(r, life->events[END] == 1);
    CHECK_EQ(life->bytes, 3u);
    life_close(r, life, KR_CLOSE_NOW);
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_reactor_free(r);
}

/* Ours: bytes that are unconsumed at the peer's FIN are left after on_eof, and the connection
 * lives on. */
TEST_EACH(fin_leaves_unconsumed_bytes) {
    static const struct kr_conn_ops eof_ops = {.on_open = house_open,
                                               .on_data = house_keep_all,
                                               .on_eof = house_eof,
                                               .on_close = house_close};
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = house_open_one(r, test_listen(r, NULL, NULL, &eof_ops, &house));
    test_send(r, fd, "abc", 3);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .blocks = 1});
    CHECK_SYS(shutdown(fd, SHUT_WR));
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1, .blocks = 1});
    CHECK_EQ(house.lives[0].events[END], 1u);
    CHECK_EQ(house.lives[0].events[DATA], 1u);
    life_close(r, &house.lives[0], KR_CLOSE_FLUSH);
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_close(fd);
    test_reactor_free(r);
}

/* Consumes nothing while `holding`, and pauses. */
static bool holding;

static size_t hold_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    struct life *life = user;
    CHECK_MEM_EQ((const char *)data, "farewell", size);
    life_happens(r, conn, life, DATA);
    if (!holding)
        return size;
    CHECK_OK(kr_conn_pause(r, conn));
    return 0;
}

static const struct kr_conn_ops holding_ops = {
    .on_open = house_open, .on_data = hold_data, .on_eof = house_eof, .on_close = house_close};

/* Ours: a FIN in the same batch as the bytes in whose callback the connection is paused waits
 * for resume, and for the bytes that were left: they are shown again first. Client and FIN are
 * there before the first receive. */
TEST_EACH(fin_in_the_batch_of_a_pause) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = test_connect(test_listen(r, NULL, NULL, &holding_ops, &house));
    test_send(NULL, fd, "farewell", 8);
    CHECK_SYS(shutdown(fd, SHUT_WR));
    holding = true;
    struct life *life = &house.lives[0];
    TEST_UNTIL(r, life->events[DATA] == 1);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1, .blocks = 1});
    CHECK_EQ(life->events[END], 0u);
    CHECK_OK(kr_conn_resume(r, life->conn));
    TEST_UNTIL(r, life->events[DATA] == 2);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1, .blocks = 1});
    CHECK_EQ(life->events[END], 0u);
    holding = false;
    CHECK_OK(kr_conn_resume(r, life->conn));
    TEST_UNTIL(r, life->events[END] == 1);
    CHECK_EQ(life->events[DATA], 3u);
    life_close(r, life, KR_CLOSE_NOW);
    life_check_closed(r, 0, 0, KR_WHY_LOCAL);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Ours: RST with data before it: the data is shown if the kernel still has it, then on_close
 * once, -ECONNRESET. */
TEST_EACH(rst_is_told_once) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    uint16_t port = test_listen(r, NULL, NULL, &house_ops, &house);
    int fd = house_open_one(r, port);
    test_send(r, fd, "abc", 3);
    test_close_reset(fd);
    life_check_closed(r, 0, -ECONNRESET, KR_WHY_ERROR);
    CHECK_EQ(house.lives[0].events[END], 0u);
    fd = house_open_one(r, port);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close_reset(fd);
    life_check_closed(r, 1, -ECONNRESET, KR_WHY_ERROR);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

#define VICTIMS 12u

/* What the child may do, and when. */
enum stage { CONNECTING, SERVED, BUSY, RESET_ALL };
static _Atomic int *stage;

/* In user mode all the while, so that no work of the ring is done in this thread. */
static size_t data_while_busy(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                              size_t size) {
    if (*(const char *)data == 'B') {
        *stage = BUSY;
        while (*stage != RESET_ALL)
            continue;
    }
    return house_data(r, conn, user, data, size);
}

static const struct kr_conn_ops busy_ops = {.on_open = house_open,
                                            .on_data = data_while_busy,
                                            .on_eof = house_eof,
                                            .on_close = house_close};

static void await_stage(enum stage wanted) {
    while (*stage != (int)wanted)
        sched_yield();
}

/* Another process, as this thread must not be in the kernel meanwhile. */
static void send_and_reset(uint16_t port) {
    int fds[VICTIMS], busy = test_connect(port);
    for (unsigned i = 0; i < VICTIMS; i++)
        fds[i] = test_connect(port);
    await_stage(SERVED);
    test_send(NULL, busy, "B", 1);
    await_stage(BUSY);
    for (unsigned i = 0; i < VICTIMS; i++) {
        test_send(NULL, fds[i], "hi", 2);
        test_close_reset(fds[i]);
    }
    *stage = RESET_ALL;
    test_close_reset(busy);
    tap_exit_child(0);
}

/* Ours: RST that comes together with bytes, while the reactor is busy, is told. The kernel's: some
 * take both for one wake-up, and keep the reset to themselves (lib/kernel/reset.c); there the
 * receive is made again when nothing has come for a while. */
TEST_EACH(rst_that_comes_with_bytes_is_told) {
    stage = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(stage != MAP_FAILED);
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    uint16_t port = test_listen(r, NULL, NULL, &busy_ops, &house);
    pid_t child = CHECK_SYS(fork());
    if (child == 0)
        send_and_reset(port);
    TEST_UNTIL(r, house.count == VICTIMS + 1);
    test_rest(r, (struct test_levels){.conns = VICTIMS + 1, .listeners = 1});
    *stage = SERVED;
    for (unsigned i = 0; i <= VICTIMS; i++)
        life_check_closed(r, i, -ECONNRESET, KR_WHY_ERROR);
    int status;
    CHECK_SYS(waitpid(child, &status, 0));
    CHECK_EQ(status, 0);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: RST while a send is parked ends it: one on_close, and everything comes back. The peer
 * has unread bytes, so that its plain close is the RST. */
TEST_EACH(rst_ends_a_parked_send) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = house_open_stalled(r, test_listen(r, NULL, NULL, &house_ops, &house));
    test_close(fd);
    TEST_UNTIL(r, house.closed == 1);
    struct life *life = &house.lives[0];
    CHECK(life->error == -ECONNRESET || life->error == -EPIPE);
    CHECK_EQ(life->why, KR_WHY_ERROR);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: to send to a peer that has closed ends the connection with an error, once; no signal. */
TEST_EACH(sending_to_a_closed_peer_ends_it_once) {
    struct kr_reactor *r = test_reactor(NULL);
    house_init();
    int fd = house_open_one(r, test_listen(r, NULL, NULL, &house_ops, &house));
    struct life *life = &house.lives[0];
    test_close(fd);
    TEST_UNTIL(r, life->events[END] == 1);
    while (!life->events[CLOSE]) {
        int rc = kr_conn_send(r, life->conn, "x", 1);
        CHECK(rc == 0 || rc == -EPIPE);
        test_step(r, "the connection to end");
    }
    CHECK(life->error == -EPIPE || life->error == -ECONNRESET);
    CHECK_EQ(life->why, KR_WHY_ERROR);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

TAP_MAIN(peer, 40)
