/* Runs of bytes in both directions, of pauses and of ends. */
#include "torture/torture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- bytes ---- */

/* Ours: bytes that are copied. */
SCENARIO(echo, 2) {
    if (listens(w, NULL, &echo_ops))
        serve_one(w, 100, 100);
}

/* Ours: bytes that are held where they were received, many records at a time. */
SCENARIO(echo_of_whole_buffers, 4) {
    if (listens(w, NULL, &echo_ops))
        serve_one(w, 100000, 100000);
}

static size_t data_records(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    size_t whole_records = size / 1000 * 1000;
    if (whole_records)
        sent(r, conn, user, kr_conn_send(r, conn, data, whole_records));
    return whole_records;
}

static const struct kr_conn_ops record_ops = {
    .on_open = world_open, .on_data = data_records, .on_close = world_close};

/* Ours: what is not consumed is kept, and shown with what follows. */
SCENARIO(unconsumed_bytes, 4) {
    if (listens(w, NULL, &record_ops))
        serve_one(w, 20500, 20000);
}

static size_t data_at_once(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    if (size < 30000)
        return 0;
    sent(r, conn, user, kr_conn_send(r, conn, data, size));
    return size;
}

static const struct kr_conn_ops at_once_ops = {
    .on_open = world_open, .on_data = data_at_once, .on_close = world_close};

/* Ours: kept bytes grow from block to block. */
SCENARIO(kept_bytes_that_grow, 7) {
    if (listens(w, NULL, &at_once_ops))
        serve_one(w, 30000, 30000);
}

static size_t data_pieces(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    struct iovec iov[3] = {
        {(void *)(uintptr_t)data, size / 3},
        {NULL, 0},
        {(char *)(uintptr_t)data + size / 3, size - size / 3},
    };
    sent(r, conn, user, kr_conn_sendv(r, conn, iov, 3));
    return size;
}

static const struct kr_conn_ops piece_ops = {
    .on_open = world_open, .on_data = data_pieces, .on_close = world_close};

/* Ours: sends of pieces. */
SCENARIO(send_of_pieces, 4) {
    if (listens(w, NULL, &piece_ops))
        serve_one(w, 10000, 10000);
}

static size_t data_formatted(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                             size_t size) {
    void *room;
    int rc = kr_conn_reserve(r, conn, size + 100, &room);
    if (!sent(r, conn, user, rc) || rc < 0)
        return size;
    memcpy(room, data, size);
    CHECK_OK(kr_conn_commit(r, conn, size));
    return size;
}

static const struct kr_conn_ops format_ops = {
    .on_open = world_open, .on_data = data_formatted, .on_close = world_close};

/* Ours: messages formatted in place. */
SCENARIO(reserve_and_commit, 4) {
    if (listens(w, NULL, &format_ops))
        serve_one(w, 10000, 10000);
}

static size_t data_half_meant(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                              size_t size) {
    void *room;
    for (size_t want = 1000; want < 100000; want *= 3)
        sent(r, conn, user, kr_conn_reserve(r, conn, want, &room));
    return data_echo(r, conn, user, data, size);
}

static const struct kr_conn_ops half_meant_ops = {
    .on_open = world_open, .on_data = data_half_meant, .on_close = world_close};

/* Ours: reservations that come to nothing. */
SCENARIO(reserve_and_forget, 7) {
    if (listens(w, NULL, &half_meant_ops))
        serve_one(w, 100, 100);
}

/* The echo of a part is held, the rest is copied: two records and the list of them, a message. */
static size_t data_mixed(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    size_t held = size > 1100 ? 1100 : size;
    if (sent(r, conn, user, kr_conn_send(r, conn, data, held)) && size > held) {
        char copy[2048];
        memcpy(copy, (const char *)data + held, size - held);
        sent(r, conn, user, kr_conn_send(r, conn, copy, size - held));
    }
    return size;
}

const struct kr_conn_ops mixed_ops = {
    .on_open = world_open, .on_data = data_mixed, .on_close = world_close};

/* Ours: many records in one send; without memory for their list, the first goes alone. */
SCENARIO(records_of_both_kinds, 5) {
    if (listens(w, NULL, &mixed_ops))
        serve_one(w, 20000, 20000);
}

static void loan_end(struct kr_reactor *r, void *arg) {
    (void)r;
    struct world *w = arg;
    CHECK_GT(w->loans, 0u);
    w->loans--;
}

/* A loan before and behind a copy: three records. */
static void open_lending(struct kr_reactor *r, kr_conn conn, void *user) {
    static char bytes[300000];
    struct world *w = user;
    world_open(r, conn, user);
    test_pattern(bytes, sizeof bytes, 1, 0);
    for (size_t at = 0; at < sizeof bytes; at += 30000) {
        int rc = kr_conn_send_ref(r, conn, bytes + at, 14000, loan_end, w);
        w->loans += rc == 0;
        if (!sent(r, conn, w, rc) ||
            !sent(r, conn, w, kr_conn_send(r, conn, bytes + at + 14000, 2000)))
            return;
        rc = kr_conn_send_ref(r, conn, bytes + at + 16000, 14000, loan_end, w);
        w->loans += rc == 0;
        if (!sent(r, conn, w, rc))
            return;
    }
}

static void close_lending(struct kr_reactor *r, kr_conn conn, void *user, int error,
                          enum kr_why why) {
    CHECK_EQ(((struct world *)user)->loans, 0u);
    world_close(r, conn, user, error, why);
}

static const struct kr_conn_ops lending_ops = {
    .on_open = open_lending, .on_data = data_echo, .on_close = close_lending};

/* Ours: bytes that are lent, thirty records of them in a send; each loan comes back. */
SCENARIO(loans, 20) {
    if (listens(w, NULL, &lending_ops))
        serve_one(w, 0, 300000);
    CHECK_EQ(w->loans, 0u);
}

/* More than the largest block that is kept. */
static void open_huge(struct kr_reactor *r, kr_conn conn, void *user) {
    world_open(r, conn, user);
    size_t size = (size_t)3 << 20;
    sent(r, conn, user, test_queue_pattern(r, conn, size, 1, 0));
}

static const struct kr_conn_ops huge_ops = {
    .on_open = open_huge, .on_data = data_echo, .on_close = world_close};

/* Ours: one send of three mebibytes. */
SCENARIO(send_of_a_huge_message, 2) {
    if (listens(w, NULL, &huge_ops))
        serve_one(w, 0, (size_t)3 << 20);
}

static size_t data_in_parts(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                            size_t size) {
    size_t done = 0;
    while (done < size) {
        size_t part = size - done < 700 ? size - done : 700;
        int rc = kr_conn_send(r, conn, (const char *)data + done, part);
        if (rc == -ENOBUFS || !sent(r, conn, user, rc))
            break;
        done += part;
    }
    return done;
}

static const struct kr_conn_ops part_ops = {.on_open = world_open,
                                            .on_data = data_in_parts,
                                            .on_writable = world_drain,
                                            .on_close = world_close};

/* Ours: a send queue that rises above its mark, blocks the reading, and drains. */
SCENARIO(blocked_and_drained, 4) {
    struct kr_listen_opts opts = small_opts();
    opts.conn.send_low = 1000;
    opts.conn.send_high = 4000;
    opts.conn.send_cap = 8000;
    if (!listens(w, &opts, &part_ops))
        return;
    int fd = test_connect_sized(w->port, 0, 4096);
    exchange(w, fd, 60000, 60000);
    CHECK(w->drains || !whole(w));
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* ---- pauses, ends ---- */

static void open_paused(struct kr_reactor *r, kr_conn conn, void *user) {
    world_open(r, conn, user);
}

static size_t data_then_pause(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                              size_t size) {
    struct world *w = user;
    sent(r, conn, w, kr_conn_send(r, conn, data, size));
    w->seen += size;
    int rc = kr_conn_pause(r, conn);
    CHECK(rc == 0 || rc == -EPIPE);
    return size;
}

static void fire_resume(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    struct world *w = user;
    int rc = kr_conn_resume(r, w->conn);
    CHECK(rc == 0 || rc == -EPIPE || rc == -ESTALE);
}

static const struct kr_conn_ops pausing_ops = {
    .on_open = open_paused, .on_data = data_then_pause, .on_close = world_close};

/* Ours: bytes that come while the connection is paused are kept, again and again. */
SCENARIO(pause_and_resume, 5) {
    kr_timer timer;
    if (!good(w, kr_timer_start(w->r, &timer, 0, MS / 10, fire_resume, w)))
        return;
    if (listens(w, NULL, &pausing_ops))
        serve_one(w, 30000, 30000);
    CHECK_OK(kr_timer_stop(w->r, timer));
}

static void eof_close(struct kr_reactor *r, kr_conn conn, void *user) {
    ((struct world *)user)->eofs++;
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

const struct kr_conn_ops eof_ops = {
    .on_open = world_open, .on_data = test_keep_all, .on_eof = eof_close, .on_close = world_close};

/* Ours: the end of a stream of which nothing was consumed. */
SCENARIO(end_with_kept_bytes, 4) {
    if (!listens(w, NULL, &eof_ops))
        return;
    int fd = test_connect(w->port);
    char bytes[9000] = {0};
    test_send(w->r, fd, bytes, sizeof bytes);
    CHECK_SYS(shutdown(fd, SHUT_WR));
    int end = test_recv_end(w->r, fd, NULL);
    CHECK(end == 0 || !whole(w));
    CHECK(w->eofs == 1 || !whole(w));
    test_close(fd);
}

static enum kr_close manner;

static size_t data_close(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    (void)data;
    static const char bytes[5000];
    sent(r, conn, user, kr_conn_send(r, conn, bytes, sizeof bytes));
    sent(r, conn, user, kr_conn_send(r, conn, bytes, sizeof bytes));
    CHECK_OK(kr_conn_close(r, conn, manner));
    return size;
}

static const struct kr_conn_ops close_ops = {
    .on_open = world_open, .on_data = data_close, .on_close = world_close};

static void close_in_manner(struct world *w, enum kr_close how, size_t want, int want_end) {
    manner = how;
    if (!listens(w, NULL, &close_ops))
        return;
    int fd = test_connect(w->port);
    CHECK_EQ(test_send_some(fd, "x", 1), 1);
    size_t got;
    int end = test_recv_end(w->r, fd, &got);
    CHECK(!whole(w) || (end == want_end && got == want));
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* Ours: a close with bytes queued, in each manner. */
SCENARIO(close_after_the_queue, 4) {
    close_in_manner(w, KR_CLOSE_FLUSH, 10000, 0);
}

/* The client ends when it has all: before, nothing ends it but a refusal. */
SCENARIO(close_that_lingers, 4) {
    manner = KR_CLOSE_LINGER;
    if (!listens(w, NULL, &close_ops))
        return;
    int fd = test_connect(w->port);
    CHECK_EQ(test_send_some(fd, "x", 1), 1);
    size_t got;
    int end = test_recv_end(w->r, fd, &got);
    CHECK(!whole(w) || (end == 0 && got == 10000));
    CHECK(!whole(w) || !w->closes);
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

SCENARIO(close_now, 3) {
    close_in_manner(w, KR_CLOSE_NOW, 0, 0);
}

SCENARIO(close_with_reset, 3) {
    close_in_manner(w, KR_CLOSE_RESET, 0, ECONNRESET);
}

static size_t data_half(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    struct world *w = user;
    static const char bytes[5000];
    (void)data;
    if (!w->seen)
        sent(r, conn, w, kr_conn_send(r, conn, bytes, sizeof bytes));
    w->seen += size;
    int rc = kr_conn_shutdown(r, conn);
    CHECK(rc == 0 || rc == -EPIPE);
    return size;
}

static const struct kr_conn_ops half_ops = {
    .on_open = world_open, .on_data = data_half, .on_close = world_close};

/* Ours: this side ends, the other one goes on, and ends. */
SCENARIO(half_and_half, 3) {
    if (!listens(w, NULL, &half_ops))
        return;
    int fd = test_connect(w->port);
    CHECK_EQ(test_send_some(fd, "x", 1), 1);
    size_t got;
    int end = test_recv_end(w->r, fd, &got);
    CHECK((end == 0 && got == 5000) || !whole(w));
    test_send_some(fd, "yz", 2);
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
    CHECK(w->seen == 3 || !whole(w));
}

static int file_fd;

static void file_done(struct kr_reactor *r, void *arg, uint64_t bytes, int error) {
    struct world *w = arg;
    (void)r;
    CHECK(error ? !whole(w) : bytes == 100000);
    w->seen++;
}

static void open_file(struct kr_reactor *r, kr_conn conn, void *user) {
    struct world *w = user;
    world_open(r, conn, w);
    sent(r, conn, w, kr_conn_send(r, conn, "head", 4));
    for (int i = 0; i < 2; i++)
        sent(r, conn, w,
             kr_conn_send_file(r, conn, file_fd, 0, i ? KR_FILE_END : 100000, file_done, w));
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static const struct kr_conn_ops file_ops = {
    .on_open = open_file, .on_data = data_echo, .on_close = world_close};

/* Ours: a file is refused or sent whole, and its user told as often as it was not. */
SCENARIO(files_of_two_chunks, 3) {
    if (!listens(w, NULL, &file_ops))
        return;
    file_fd = CHECK_SYS(memfd_create("torture", MFD_CLOEXEC));
    CHECK_SYS(ftruncate(file_fd, 100000));
    int fd = test_connect(w->port);
    size_t got;
    int end = test_recv_end(w->r, fd, &got);
    CHECK((end == 0 && got == 200004 && w->seen == 2) || !whole(w));
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
    test_close(file_fd);
}

static void open_close(struct kr_reactor *r, kr_conn conn, void *user) {
    world_open(r, conn, user);
    sent(r, conn, user, kr_conn_send(r, conn, "bye", 3));
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static const struct kr_conn_ops bye_ops = {
    .on_open = open_close, .on_data = data_echo, .on_close = world_close};

/* Ours: a connection that is closed as it opens. */
SCENARIO(close_in_on_open, 2) {
    if (!listens(w, NULL, &bye_ops))
        return;
    for (int i = 0; i < 3; i++) {
        int fd = test_connect(w->port);
        size_t got;
        test_recv_end(w->r, fd, &got);
        CHECK(got == 3 || !whole(w));
        test_close(fd);
    }
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* Ours: peers that reset while bytes are on their way in both directions. */
SCENARIO(peers_that_reset, 4) {
    if (!listens(w, NULL, &echo_ops))
        return;
    for (int i = 0; i < 3; i++) {
        int fd = test_connect(w->port);
        char bytes[6000] = {0};
        test_send_some(fd, bytes, sizeof bytes);
        test_step(w->r, "bytes");
        test_close_reset(fd);
    }
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}
