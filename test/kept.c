/* Bytes that on_data leaves: kept, shown again with what follows, and bounded. */
#include "harness/echo.h"

#include <errno.h>
#include <string.h>

/* A server that takes whole messages only: two bytes of size, then a part of a pattern. */
struct framing {
    size_t size;      /* of each message, without its head */
    unsigned got;     /* messages */
    size_t last_size; /* of what was shown last and not consumed; 0: nothing was left */
};

static size_t framed_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    struct framing *framing = user;
    const unsigned char *at = data;
    UNUSED(r, conn);
    CHECK_GT(size, framing->last_size); /* shown again only together with more */
    size_t done = 0;
    while (size - done >= 2) {
        size_t length = (size_t)at[done] | (size_t)at[done + 1] << 8;
        CHECK_EQ(length, framing->size);
        if (size - done < 2 + length)
            break;
        test_pattern_check(at + done + 2, length, framing->got++, 0);
        done += 2 + length;
    }
    framing->last_size = size - done;
    return done;
}

static const struct kr_conn_ops framed_ops = {.on_data = framed_data};

static size_t frame(unsigned char *to, size_t size, unsigned number) {
    to[0] = (unsigned char)size;
    to[1] = (unsigned char)(size >> 8);
    test_pattern(to + 2, size, number, 0);
    return 2 + size;
}

/* Ours: a message that arrives in two parts, cut at each of its offsets, is shown whole and
 * contiguous; in buffers of 64 bytes, so that the parts span one, two and many of them. */
TEST_EACH(kept_bytes_are_shown_with_more) {
    struct kr_config config = test_buffers(16, 64);
    struct kr_reactor *r = test_reactor(&config);
    struct framing framing = {.size = 200};
    int fd = test_connect(test_listen(r, NULL, NULL, &framed_ops, &framing));
    unsigned char bytes[202];
    for (unsigned cut = 1; cut < sizeof bytes; cut++) {
        frame(bytes, 200, framing.got);
        unsigned before = framing.got;
        uint64_t in = test_stats(r).bytes_in;
        test_send(r, fd, bytes, cut);
        TEST_UNTIL(r, test_stats(r).bytes_in == in + cut);
        CHECK_EQ(framing.got, before);
        CHECK_EQ(framing.last_size, cut);
        test_send(r, fd, bytes + cut, sizeof bytes - cut);
        TEST_UNTIL(r, framing.got == before + 1);
        CHECK_EQ(framing.last_size, 0u);
    }
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

struct hoard {
    size_t shown;
    unsigned closes;
    int error;
    enum kr_why why;
};

static size_t hoard_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                         size_t size) {
    struct hoard *hoard = user;
    UNUSED(r, conn);
    test_pattern_check(data, size, 5, 0);
    CHECK_GT(size, hoard->shown);
    hoard->shown = size;
    return 0;
}

static void hoard_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                        enum kr_why why) {
    struct hoard *hoard = user;
    UNUSED(r, conn);
    hoard->closes++;
    hoard->error = error;
    hoard->why = why;
}

static const struct kr_conn_ops hoard_ops = {.on_data = hoard_data, .on_close = hoard_close};

/* Ours: a connection that keeps exactly recv_cap bytes goes on; one more ends it with -EMSGSIZE. */
TEST_EACH(kept_bytes_are_bounded) {
    struct kr_config config = test_buffers(16, 100);
    struct kr_reactor *r = test_reactor(&config);
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.recv_cap = 1000;
    struct hoard hoard = {0};
    int fd = test_connect(test_listen(r, NULL, &opts, &hoard_ops, &hoard));
    char bytes[1001];
    test_pattern(bytes, sizeof bytes, 5, 0);
    test_send(r, fd, bytes, 1000);
    TEST_UNTIL(r, hoard.shown == 1000);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .blocks = 1});
    CHECK_EQ(hoard.closes, 0u);
    test_send(r, fd, bytes + 1000, 1);
    TEST_UNTIL(r, hoard.closes == 1);
    CHECK_EQ(hoard.error, -EMSGSIZE);
    CHECK_EQ(hoard.why, KR_WHY_LIMIT);
    test_rest(r, (struct test_levels){.listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

/* Takes nothing before it is shown all. */
static size_t patient_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    UNUSED(r, conn);
    size_t *left = user;
    if (size < *left)
        return 0;
    test_pattern_check(data, size, 5, 0);
    *left = 0;
    return size;
}

static const struct kr_conn_ops patient_ops = {.on_data = patient_data};

/* Ours: unconsumed bytes, however many, are not moved with each receive: 8 MiB of them, received in
 * pieces of 4 KiB at most, take a few dozen blocks. */
TEST_EACH(kept_bytes_grow_in_few_steps) {
    struct kr_config config = test_buffers(256, 4096);
    struct kr_reactor *r = test_reactor(&config);
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.recv_cap = 8 << 20;
    static char bytes[8 << 20];
    size_t left = sizeof bytes;
    int fd = test_connect(test_listen(r, NULL, &opts, &patient_ops, &left));
    TEST_UNTIL(r, test_stats(r).conns == 1);
    uint64_t allocs = test_stats(r).allocs;
    test_pattern(bytes, sizeof bytes, 5, 0);
    test_send(r, fd, bytes, sizeof bytes);
    TEST_UNTIL(r, left == 0);
    CHECK_LE(test_stats(r).allocs - allocs, 36u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1});
    test_close(fd);
    test_reactor_free(r);
}

static size_t greedy_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                          size_t size) {
    size_t *shown = user;
    UNUSED(r, conn);
    test_pattern_check(data, size, 9, *shown);
    *shown += size;
    return SIZE_MAX;
}

static const struct kr_conn_ops greedy_ops = {.on_data = greedy_data};

/* Ours: more than `size` consumed counts as `size`. */
TEST_EACH(consuming_too_much_counts_as_all) {
    struct kr_reactor *r = test_reactor(NULL);
    size_t shown = 0;
    int fd = test_connect(test_listen(r, NULL, NULL, &greedy_ops, &shown));
    char bytes[5000];
    test_pattern(bytes, sizeof bytes, 9, 0);
    for (size_t sent = 0; sent < sizeof bytes; sent += 1000) {
        test_send(r, fd, bytes + sent, 1000);
        TEST_UNTIL(r, shown == sent + 1000);
    }
    test_close(fd);
    test_reactor_free(r);
}

struct shy {
    kr_conn conn;
    unsigned shown;
};

static size_t shy_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                       size_t size) {
    struct shy *shy = user;
    CHECK_EQ(size, 3u);
    CHECK_MEM_EQ(data, "abc", 3);
    shy->conn = conn;
    CHECK_OK(kr_conn_pause(r, conn));
    return shy->shown++ ? size : 0;
}

static const struct kr_conn_ops shy_ops = {.on_data = shy_data};

/* Ours: pauses and resumes do not count: who resumes several times is shown what was kept once. */
TEST_EACH(kept_bytes_are_shown_once_to_who_resumes_twice) {
    struct kr_reactor *r = test_reactor(NULL);
    struct shy shy = {.shown = 0};
    int fd = test_connect(test_listen(r, NULL, NULL, &shy_ops, &shy));
    test_send(r, fd, "abc", 3);
    TEST_UNTIL(r, shy.shown == 1);
    for (unsigned i = 0; i < 3; i++)
        CHECK_OK(kr_conn_resume(r, shy.conn));
    test_step(r, "the kept bytes");
    CHECK_EQ(shy.shown, 2u);
    test_rest(r, (struct test_levels){.conns = 1, .listeners = 1, .paused = 1});
    test_close(fd);
    test_reactor_free(r);
}

TAP_MAIN(kept, 20)
