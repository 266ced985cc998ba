/* Swapping callbacks: a protocol is upgraded in mid-stream, and not a byte falls between the
 * two. */
#include "harness/net.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

struct half { /* what one protocol has seen */
    char bytes[8192];
    size_t size;
    unsigned opens, eofs, drains, closes;
};

struct stage {
    struct half old, new;
    kr_conn conn;
    size_t header;  /* the old one takes so many bytes, then hands over */
    bool in_eof;    /* it hands over when the stream ends */
    bool take_none; /* it takes nothing at all */
};

static const struct kr_conn_ops new_ops;

static void old_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct stage *s = user;
    (void)r;
    s->conn = conn;
    s->old.opens++;
}

static void take(struct half *half, const void *data, size_t size) {
    CHECK_LE(half->size + size, sizeof half->bytes);
    memcpy(half->bytes + half->size, data, size);
    half->size += size;
}

static size_t old_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                       size_t size) {
    struct stage *s = user;
    if (s->take_none || size < s->header)
        return 0;
    take(&s->old, data, s->header ? s->header : size);
    if (!s->header)
        return size;
    CHECK_OK(kr_conn_swap(r, conn, &new_ops, &s->new));
    return s->header;
}

static void old_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct stage *s = user;
    s->old.eofs++;
    if (s->in_eof)
        CHECK_OK(kr_conn_swap(r, conn, &new_ops, &s->new));
}

static void old_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct stage *s = user;
    UNUSED(error, why);
    s->old.closes++;
    CHECK_ERR(kr_conn_swap(r, conn, &new_ops, &s->new), EPIPE);
}

static const struct kr_conn_ops old_ops = {
    .on_open = old_open, .on_data = old_data, .on_eof = old_eof, .on_close = old_close};

static void new_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct half *half = user;
    UNUSED(r, conn);
    half->opens++;
}

static size_t new_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                       size_t size) {
    UNUSED(r, conn);
    take(user, data, size);
    return size;
}

static void new_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct half *half = user;
    half->eofs++;
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static void new_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    struct half *half = user;
    UNUSED(r, conn);
    half->drains++;
}

static void new_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct half *half = user;
    UNUSED(error, why);
    CHECK_EQ(kr_conn_user(r, conn), half);
    half->closes++;
}

static const struct kr_conn_ops new_ops = {.on_open = new_open,
                                           .on_data = new_data,
                                           .on_eof = new_eof,
                                           .on_writable = new_drain,
                                           .on_close = new_close};

static void finish(struct kr_reactor *r, struct stage *s, int fd) {
    test_close(fd);
    TEST_UNTIL(r, s->new.closes == 1);
    CHECK_EQ(s->old.closes, 0u);
    CHECK_EQ(s->new.opens, 0u);
    CHECK_EQ(s->new.eofs, 1u);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: what the old callbacks leave by their return value the new ones are shown, without a
 * further byte of the peer; in whatever pieces the header has come. */
TEST_EACH(swap_within_on_data_hands_over_the_rest) {
    for (size_t first = 1; first <= 100; first += 11) {
        static struct stage s;
        s = (struct stage){.header = 20};
        struct kr_reactor *r = test_reactor(NULL);
        int fd = test_connect(test_listen(r, NULL, NULL, &old_ops, &s));
        char bytes[100];
        test_pattern(bytes, sizeof bytes, 1, 0);
        test_send(r, fd, bytes, first);
        TEST_UNTIL(r, test_stats(r).bytes_in == first);
        test_send(r, fd, bytes + first, sizeof bytes - first);
        TEST_UNTIL(r, s.old.size + s.new.size == sizeof bytes);
        CHECK_EQ(s.old.size, 20u);
        test_pattern_check(s.old.bytes, 20, 1, 0);
        test_pattern_check(s.new.bytes, 80, 1, 20);
        finish(r, &s, fd);
    }
}

/* Ours: kept bytes are shown to the new callbacks, though no byte has come since. */
TEST_EACH(swap_from_outside_shows_kept_bytes) {
    static struct stage s;
    s = (struct stage){.take_none = true};
    struct kr_reactor *r = test_reactor(NULL);
    int fd = test_connect(test_listen(r, NULL, NULL, &old_ops, &s));
    char bytes[700];
    test_pattern(bytes, sizeof bytes, 1, 0);
    test_send(r, fd, bytes, sizeof bytes);
    TEST_UNTIL(r, test_stats(r).bytes_kept == sizeof bytes);
    CHECK_OK(kr_conn_swap(r, s.conn, &new_ops, &s.new));
    CHECK_EQ(s.new.size, 0u);
    TEST_UNTIL(r, s.new.size == sizeof bytes);
    test_pattern_check(s.new.bytes, sizeof bytes, 1, 0);
    finish(r, &s, fd);
}

/* Ours: an end of stream that the old callbacks have heard of the new ones hear too, behind the
 * bytes. */
TEST_EACH(swap_at_the_end_tells_it_again) {
    static struct stage s;
    s = (struct stage){.take_none = true, .in_eof = true};
    struct kr_reactor *r = test_reactor(NULL);
    int fd = test_connect(test_listen(r, NULL, NULL, &old_ops, &s));
    char bytes[300];
    test_pattern(bytes, sizeof bytes, 1, 0);
    test_send(r, fd, bytes, sizeof bytes);
    CHECK_SYS(shutdown(fd, SHUT_WR));
    TEST_UNTIL(r, s.new.eofs == 1);
    CHECK_EQ(s.old.eofs, 1u);
    CHECK_EQ(s.new.size, sizeof bytes);
    test_pattern_check(s.new.bytes, sizeof bytes, 1, 0);
    finish(r, &s, fd);
}

/* Ours: a paused connection shows the new callbacks nothing before it is resumed. */
TEST_EACH(swap_of_a_paused_connection_waits) {
    static struct stage s;
    s = (struct stage){.take_none = true};
    struct kr_reactor *r = test_reactor(NULL);
    int fd = test_connect(test_listen(r, NULL, NULL, &old_ops, &s));
    test_send(r, fd, "held", 4);
    TEST_UNTIL(r, test_stats(r).bytes_kept == 4);
    CHECK_OK(kr_conn_pause(r, s.conn));
    CHECK_OK(kr_conn_swap(r, s.conn, &new_ops, &s.new));
    for (unsigned i = 0; i < 10; i++)
        test_step(r, "nothing");
    CHECK_EQ(s.new.size, 0u);
    CHECK_OK(kr_conn_resume(r, s.conn));
    TEST_UNTIL(r, s.new.size == 4);
    finish(r, &s, fd);
}

/* Ours: on_writable for what the old ones queued runs for the new ones, who send after them in
 * order. */
TEST_EACH(swap_keeps_the_queue) {
    static struct stage s;
    s = (struct stage){.header = 1};
    struct kr_reactor *r = test_reactor(NULL);
    int fd = test_connect_sized(test_listen(r, NULL, NULL, &old_ops, &s), 0, 4096);
    TEST_UNTIL(r, s.old.opens == 1);
    static char bytes[8 << 20], back[8 << 20];
    test_pattern(bytes, sizeof bytes, 3, 0);
    CHECK_OK(kr_conn_send(r, s.conn, bytes, sizeof bytes - 10));
    CHECK_OK(kr_conn_swap(r, s.conn, &new_ops, &s.new));
    CHECK_OK(kr_conn_send(r, s.conn, bytes + sizeof bytes - 10, 10));
    test_recv(r, fd, back, sizeof back);
    test_pattern_check(back, sizeof back, 3, 0);
    TEST_UNTIL(r, s.new.drains == 1);
    finish(r, &s, fd);
}

/* Ours: bad arguments are refused and change nothing. */
TEST_EACH(swap_refuses_bad_arguments) {
    static struct stage s;
    s = (struct stage){.take_none = true};
    struct kr_reactor *r = test_reactor(NULL);
    static const struct kr_conn_ops mute = {.on_open = new_open};
    int fd = test_connect(test_listen(r, NULL, NULL, &old_ops, &s));
    TEST_UNTIL(r, s.old.opens == 1);
    CHECK_ERR(kr_conn_swap(NULL, s.conn, &new_ops, NULL), EINVAL);
    CHECK_ERR(kr_conn_swap(r, s.conn, NULL, NULL), EINVAL);
    CHECK_ERR(kr_conn_swap(r, s.conn, &mute, NULL), EINVAL);
    CHECK_ERR(kr_conn_swap(r, (kr_conn){0}, &new_ops, NULL), ESTALE);
    CHECK_EQ(kr_conn_user(r, s.conn), &s);
    CHECK_OK(kr_conn_close(r, s.conn, KR_CLOSE_NOW));
    CHECK_ERR(kr_conn_swap(r, s.conn, &new_ops, NULL), EPIPE);
    TEST_UNTIL(r, s.old.closes == 1);
    CHECK_ERR(kr_conn_swap(r, s.conn, &new_ops, NULL), ESTALE);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: a connection that does not stand yet may be taken over too; then on_open is the new one's,
 * since the old one's has not run. */
TEST_EACH(swap_before_it_stands) {
    static struct stage s, peer;
    s = peer = (struct stage){.header = 1};
    struct kr_reactor *r = test_reactor(NULL);
    struct kr_addr addr = test_loopback(test_listen(r, NULL, NULL, &old_ops, &peer));
    CHECK_OK(kr_connect(r, &s.conn, &addr, NULL, &old_ops, &s));
    CHECK_OK(kr_conn_swap(r, s.conn, &new_ops, &s.new));
    TEST_UNTIL(r, s.new.opens == 1 && peer.old.opens == 1);
    CHECK_OK(kr_conn_send(r, peer.conn, "hello", 5));
    TEST_UNTIL(r, s.new.size == 5);
    CHECK_OK(kr_conn_close(r, peer.conn, KR_CLOSE_FLUSH));
    TEST_UNTIL(r, s.new.closes == 1 && peer.old.closes == 1);
    CHECK_EQ(s.old.opens + s.old.closes, 0u);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

TAP_MAIN(swap, 7 * 4)
