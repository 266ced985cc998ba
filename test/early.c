/* A peer that answers early and closes, while bytes are still being sent to it: the send fails, and
 * the answer, which lies in the socket, is shown all the same, and told of as what it is.
 *
 * The peer is a client that reads nothing, or little, answers, and closes. It resets thereby, as
 * close(2) does where bytes were left unread, or ends its side first. */
#include "conn/reactor.h"
#include "harness/server.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER 200u
#define UPLOAD ((size_t)2 << 20)

/* How the peer goes. A Unix socket that is closed with bytes unread is a reset, too. */
enum how { TCP_RESET, TCP_END, UNIX_RESET, UNIX_END, HOWS };

static struct test_server s;
static enum how the_how;
static int peer;
static unsigned releases;
static bool keeps; /* on_data consumes nothing, and pauses */
static bool end_in_eof;
static char upload_bytes[UPLOAD];

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    CHECK_EQ(s.eofs, 0u);
    if (keeps) {
        CHECK_OK(kr_conn_pause(r, conn));
        return 0;
    }
    return test_server_data(r, conn, user, data, size);
}

static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    CHECK_EQ(s.bytes, ANSWER);
    test_server_eof(r, conn, user);
    if (end_in_eof)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    CHECK_EQ(conn.bits, s.conn.bits);
    test_server_close(r, conn, user, error, why);
}

static const struct kr_conn_ops ops = {.on_open = test_server_open,
                                       .on_data = on_data,
                                       .on_eof = on_eof,
                                       .on_writable = test_server_drain,
                                       .on_close = on_close};

static bool is_unix(enum how how) {
    return how >= UNIX_RESET;
}

static bool resets(enum how how) {
    return how == TCP_RESET || how == UNIX_RESET;
}

static void begin_with(enum how how, const struct kr_conn_opts *limits) {
    s = (struct test_server){.r = test_reactor(NULL), .stream = 3};
    the_how = how;
    releases = 0;
    keeps = end_in_eof = false;
    if (is_unix(how)) {
        int fds[2];
        CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds));
        CHECK_OK(kr_conn_adopt(s.r, NULL, fds[0], limits, &ops, &s));
        peer = fds[1];
    } else {
        struct kr_listen_opts opts = test_listen_opts();
        opts.backlog = 256;
        if (limits)
            opts.conn = *limits;
        peer = test_connect_sized(test_listen(s.r, NULL, &opts, &ops, &s), 0, 4096);
    }
    TEST_UNTIL(s.r, s.opens == 1);
}

static void begin(enum how how) {
    begin_with(how, NULL);
}

/* More than the socket takes. */
static void upload(void) {
    CHECK_OK(kr_conn_send(s.r, s.conn, upload_bytes, UPLOAD));
    for (unsigned i = 0; i < 4; i++)
        test_step(s.r, "a turn of sending");
    CHECK(kr_conn_queued(s.r, s.conn));
}

static void read_all(void) {
    static char bytes[65536];
    CHECK_SYS(shutdown(peer, SHUT_WR));
    while (test_recv_some(peer, bytes, sizeof bytes) > 0)
        continue;
}

static void answer(void) {
    char bytes[ANSWER];
    test_pattern(bytes, sizeof bytes, 3, 0);
    CHECK_EQ(send(peer, bytes, sizeof bytes, MSG_NOSIGNAL), (ssize_t)sizeof bytes);
    if (!resets(the_how))
        read_all();
    test_close(peer);
}

static bool of_the_peer(int error) {
    return error == -EPIPE || error == -ECONNRESET;
}

static void end(void) {
    TEST_UNTIL(s.r, s.closes == 1);
    CHECK_EQ(s.bytes, ANSWER);
    test_reactor_end(s.r, (struct test_levels){.listeners = !is_unix(the_how)});
}

/* Ours: with more than send_high queued, and reading stopped for that, the answer is shown, and then
 * the connection ends with the error of the send. Sends are refused in between. on_writable tells who
 * waits for room. */
TEST_EACH(early_answer_is_shown) {
    for (enum how how = 0; how < HOWS; how++) {
        begin(how);
        upload();
        answer();
        TEST_UNTIL(s.r, s.bytes || s.closes);
        CHECK_EQ(s.drains, 1u);
        int rc = kr_conn_send(s.r, s.conn, "x", 1);
        CHECK(rc == -EPIPE || rc == -ESTALE);
        CHECK_EQ(kr_conn_queued(s.r, s.conn), 0u);
        end();
        CHECK(of_the_peer(s.error));
        CHECK_EQ(s.why, KR_WHY_ERROR);
    }
}

/* Ours: nor is it lost when the answer and the end come while the reactor is elsewhere, and the next
 * send meets the error before any receive. */
TEST_EACH(early_answer_comes_while_the_loop_is_busy) {
    for (enum how how = 0; how < HOWS; how++) {
        begin(how);
        end_in_eof = true; /* a TCP socket takes the second send, and its reset comes later */
        CHECK_OK(kr_conn_send(s.r, s.conn, "hello", 5));
        TEST_UNTIL(s.r, !kr_conn_queued(s.r, s.conn));
        answer();
        CHECK_OK(kr_conn_send(s.r, s.conn, "hello", 5));
        end();
        CHECK(s.error == 0 || of_the_peer(s.error));
    }
}

/* Ours: a reset is not told as an end of the stream, though the kernel gives its error away once
 * only, to the send. An end is. */
TEST_EACH(early_end_is_told_and_a_reset_is_not) {
    for (enum how how = 0; how < HOWS; how++) {
        begin(how);
        upload();
        answer();
        TEST_UNTIL(s.r, s.closes == 1);
        CHECK_EQ(s.eofs, !resets(how));
        CHECK_EQ(s.error, how == TCP_RESET ? -ECONNRESET : -EPIPE);
        end();
    }
}

/* Ours: what it was lent comes back before on_close, and the first cause is told also to who closes
 * the connection meanwhile. */
static void released(struct kr_reactor *r, void *arg) {
    UNUSED(r, arg);
    CHECK_EQ(s.closes, 0u);
    releases++;
}

TEST_EACH(early_end_gives_back_what_was_lent) {
    for (enum how how = 0; how < HOWS; how++) {
        begin(how);
        end_in_eof = true;
        upload();
        CHECK_OK(kr_conn_send_ref(s.r, s.conn, upload_bytes, UPLOAD, released, NULL));
        answer();
        end();
        CHECK_EQ(releases, 1u);
        CHECK(of_the_peer(s.error));
        CHECK_EQ(s.why, KR_WHY_ERROR);
    }
}

/* Ours: the same of bytes that the kernel refers to still, by zero-copy. */
TEST_EACH(early_end_of_zero_copy_gives_back_what_was_lent) {
    for (enum how how = 0; how < HOWS; how++) {
        struct kr_conn_opts limits = test_conn_opts();
        limits.zerocopy_min = 4096;
        begin_with(how, &limits);
        for (unsigned i = 0; i < 8; i++) {
            CHECK_OK(kr_conn_send_ref(s.r, s.conn, upload_bytes, UPLOAD / 8, released, NULL));
            test_step(s.r, "a turn of sending");
        }
        CHECK(kr_conn_queued(s.r, s.conn));
        answer();
        end();
        CHECK_EQ(releases, 8u);
        CHECK(of_the_peer(s.error));
    }
}

/* Ours: and of a file, also while it is being read. */
static void file_done(struct kr_reactor *r, void *arg, uint64_t sent, int error) {
    UNUSED(r, arg);
    CHECK_EQ(s.closes, 0u);
    CHECK_LT(sent, UPLOAD);
    CHECK_EQ(error, -ECANCELED);
    releases++;
}

TEST_EACH(early_end_gives_back_a_file) {
    int file = CHECK_SYS(memfd_create("upload", MFD_CLOEXEC));
    CHECK_SYS(ftruncate(file, UPLOAD));
    for (unsigned i = 0; i < 2 * HOWS; i++) {
        begin((enum how)(i % HOWS));
        if (i < HOWS) { /* the socket is full, and both chunks */
            CHECK_OK(kr_conn_send_file(s.r, s.conn, file, 0, UPLOAD, file_done, NULL));
            for (unsigned turns = 0; turns < 100; turns++)
                test_step(s.r, "a turn of reading and sending");
        } else {
            upload();
            CHECK_OK(kr_conn_send_file(s.r, s.conn, file, 0, UPLOAD, file_done, NULL));
        }
        answer();
        end();
        CHECK_EQ(releases, 1u);
        CHECK(of_the_peer(s.error));
    }
    test_close(file);
}

/* Ours: bytes that a paused connection has kept, or has yet to receive, wait for the resume. One to
 * which nothing has come ends at once: its user may wait for just that. */
TEST_EACH(early_answer_waits_for_the_resume) {
    for (enum how how = 0; how < HOWS; how++) {
        for (unsigned kept = 0; kept < 2; kept++) {
            begin(how);
            keeps = kept;
            if (!kept)
                CHECK_OK(kr_conn_pause(s.r, s.conn));
            upload();
            CHECK_OK(kr_conn_send_ref(s.r, s.conn, upload_bytes, UPLOAD, released, NULL));
            answer();
            TEST_UNTIL(s.r, kr_conn_send(s.r, s.conn, "x", 1) == -EPIPE);
            for (unsigned i = 0; i < 4; i++)
                test_step(s.r, "a turn while paused");
            CHECK_EQ(s.closes, 0u);
            CHECK_EQ(s.bytes, 0u);
            CHECK_EQ(releases, 1u); /* what was to be sent is not kept that long */
            keeps = false;
            CHECK_OK(kr_conn_resume(s.r, s.conn));
            end();
            CHECK(of_the_peer(s.error));
        }
    }
}

TEST_EACH(early_end_of_a_paused_connection_is_told) {
    for (enum how how = 0; how < HOWS; how++) {
        begin(how);
        CHECK_OK(kr_conn_pause(s.r, s.conn));
        upload();
        if (!resets(how))
            read_all();
        test_close(peer);
        TEST_UNTIL(s.r, s.closes == 1);
        CHECK(of_the_peer(s.error));
        s.bytes = ANSWER;
        end();
    }
}

/* Ours: a receive that fails behind bytes that are kept does not take them along. */
TEST_EACH(early_reset_behind_kept_bytes) {
    for (unsigned i = 0; i < 2; i++) {
        begin(TCP_RESET);
        keeps = i;
        char bytes[ANSWER];
        test_pattern(bytes, sizeof bytes, 3, 0);
        if (!i)
            CHECK_OK(kr_conn_pause(s.r, s.conn));
        CHECK_EQ(send(peer, bytes, sizeof bytes, MSG_NOSIGNAL), (ssize_t)sizeof bytes);
        test_close_reset(peer);
        for (unsigned turns = 0; turns < 4; turns++)
            test_step(s.r, "a turn while paused");
        keeps = false;
        CHECK_EQ(s.closes, 0u);
        CHECK_OK(kr_conn_resume(s.r, s.conn));
        end();
        CHECK_EQ(s.error, -ECONNRESET);
        CHECK_EQ(s.eofs, 0u);
    }
}

/* Ours: one that is being released has nothing to hand over then: the error would be lost with it.
 * What has come is shown. */
static void given_back(struct kr_reactor *r, kr_conn conn, void *user,
                       const struct kr_detached *what) {
    UNUSED(r, conn, user);
    CHECK(of_the_peer(what->error) || what->fd >= 0);
    CHECK_EQ(what->open, what->fd < 0);
    if (what->fd < 0)
        releases++;
    else
        s.bytes = ANSWER;
    if (what->fd >= 0)
        test_close(what->fd);
}

TEST_EACH(early_end_of_one_that_is_being_released) {
    unsigned refused = 0;
    for (unsigned i = 0; i < 40; i++) {
        begin((enum how)(i % HOWS));
        CHECK_OK(kr_conn_send(s.r, s.conn, "hello", 5));
        TEST_UNTIL(s.r, !kr_conn_queued(s.r, s.conn));
        bool receives = i / HOWS % 2; /* the receive in flight meets the error */
        if (!receives)
            CHECK_OK(kr_conn_pause(s.r, s.conn));
        answer();
        if (!receives) {
            CHECK_OK(kr_conn_send(s.r, s.conn, "hello", 5));
            CHECK_OK(kr_step(s.r, 0));
        }
        int rc = kr_conn_detach(s.r, s.conn, given_back, NULL);
        CHECK(rc == 0 || rc == -EPIPE);
        if (rc < 0)
            CHECK_OK(kr_conn_resume(s.r, s.conn));
        end();
        refused += releases;
    }
    /* with DEFER the cancel comes before what waits to be told */
    CHECK(refused || tap_variant()->mode == KR_TASKRUN_DEFER);
}

TAP_MAIN(early, 40)
