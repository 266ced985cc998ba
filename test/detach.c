/* Release: a connection leaves as a plain descriptor, and not a byte of either direction is lost,
 * doubled or moved by that. On kernels that make a descriptor of a slot, and with one that was kept
 * from the start. */
#include "detach/detach.h"

void released(struct kr_reactor *r, kr_conn conn, void *user, const struct kr_detached *what) {
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
    CHECK(what->unread && what->unsent && what->fds && what->unsent_fds); /* also of nothing */
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
        CHECK_OK(kr_conn_detach(r, conn, released, s));
    s->leave_in_data = false;
    return used;
}

static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct seen *)user)->eofs++;
}

static void on_writable(struct kr_reactor *r, kr_conn conn, void *user) {
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

const struct kr_conn_ops ops = {.on_open = on_open,
                                .on_data = on_data,
                                .on_eof = on_eof,
                                .on_writable = on_writable,
                                .on_shutdown = on_shutdown,
                                .on_close = on_close};

void begin_with(struct seen *s, bool kept, struct kr_listen_opts *opts) {
    struct kr_listen_opts defaults = test_listen_opts();
    defaults.backlog = 256;
    opts = opts ? opts : &defaults;
    opts->conn.keep_fd = kept;
    *s = (struct seen){.r = test_reactor(NULL), .kept = kept, .most = SIZE_MAX};
    s->port = test_listen(s->r, &s->listener, opts, &ops, s);
    s->fd = test_connect_sized(s->port, 0, 4096);
    TEST_UNTIL(s->r, s->opens == 1);
}

void begin(struct seen *s, bool kept) {
    begin_with(s, kept, NULL);
}

void end(struct seen *s) {
    TEST_UNTIL(s->r, s->closes == 1);
    CHECK_EQ(s->tells, 1u);
    CHECK_ERR(kr_conn_detach(s->r, s->conn, released, s), ESTALE);
    test_close(s->fd);
    free(s->unread);
    free(s->unsent);
    test_reactor_end(s->r, (struct test_levels){.listeners = 1});
}

void each_way(void (*run)(bool kept)) {
    run(true);
    run(false);
}

void leave(struct seen *s) {
    CHECK_OK(kr_conn_detach(s->r, s->conn, released, s));
    TEST_UNTIL(s->r, s->tells == 1);
}

void check_released(struct seen *s) {
    CHECK_EQ(s->what.error, 0);
    TEST_UNTIL(s->r, s->closes == 1);
    CHECK_EQ(s->error, 0);
    CHECK_EQ(s->why, KR_WHY_DETACHED);
}

void client_sends(struct seen *s, size_t size, uint64_t offset) {
    test_send_pattern(s->r, s->fd, size, IN, offset);
}

void we_send(struct seen *s, size_t size) {
    CHECK_OK(test_queue_pattern(s->r, s->conn, size, OUT, s->sent));
    s->sent += size;
}

void finish_by_fd(struct seen *s, size_t size) {
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

void read_by_fd(struct seen *s, size_t size) {
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
    CHECK_EQ(test_stats(s.r).detaches, 1u);
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
TEST_EACH(detach_gives_a_descriptor) {
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
TEST_EACH(detach_in_on_data_shows_the_rest) {
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
TEST_EACH(detach_shows_kept_bytes) {
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
TEST_EACH(detach_shows_what_is_unsent) {
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
TEST_EACH(detach_shows_borrowed_bytes) {
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
        CHECK_OK(kr_conn_detach(s.r, s.conn, released, &s));
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

/* Ours: at any moment of a busy stream, both ways, nothing is lost or doubled. */
TEST_EACH(detach_in_mid_stream, .deadline_s = 60) {
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
TEST_EACH(detach_tells_of_ends) {
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
TEST_EACH(detach_waits_for_a_shutdown) {
    each_way(shutdown_under_way);
}

TAP_MAIN(detach, 110)
