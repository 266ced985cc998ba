#include "harness/echo.h"

#include <errno.h>

size_t test_echo_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)user;
    int rc = kr_conn_send(r, conn, data, size);
    if (rc == -ENOBUFS)
        return 0;
    CHECK_OK(rc);
    return size;
}

const struct kr_conn_ops test_echo_ops = {.on_data = test_echo_data};

struct kr_config test_buffers(unsigned count, size_t size) {
    struct kr_config config;
    kr_config_init(&config);
    config.buf_count = count;
    config.buf_size = size;
    return config;
}

struct kr_listen_opts test_marks_of(size_t low, size_t high, size_t cap) {
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.conn.send_low = low;
    opts.conn.send_high = high;
    opts.conn.send_cap = cap;
    return opts;
}

void test_conns_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct test_conns *conns = user;
    (void)r;
    CHECK_LT(conns->count, TEST_CONNS_MAX);
    conns->at[conns->count++] = conn;
}

void test_echoes_start(struct test_echo *echoes, unsigned count, uint16_t port, uint64_t total) {
    for (unsigned i = 0; i < count; i++)
        echoes[i] =
            (struct test_echo){.fd = test_connect(port), .seed = tap_random(), .total = total};
}

bool test_echoes_done(const struct test_echo *echoes, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        if (!test_echo_done(&echoes[i]))
            return false;
    }
    return true;
}

void test_echoes_move(struct test_echo *echoes, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        if (tap_random_below(4) == 0)
            continue;
        echoes[i].send_piece = 1 + (size_t)tap_random_below(tap_random_below(2) ? 64 : 8192);
        echoes[i].recv_piece = 1 + (size_t)tap_random_below(tap_random_below(2) ? 64 : 16384);
        test_echo_move(&echoes[i]);
    }
}

void test_echoes_run(struct kr_reactor *r, struct test_echo *echoes, unsigned count) {
    while (!test_echoes_done(echoes, count)) {
        test_step(r, "every client to get its bytes back");
        test_echoes_move(echoes, count);
    }
}

void test_echoes_close(const struct test_echo *echoes, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        test_close(echoes[i].fd);
}
