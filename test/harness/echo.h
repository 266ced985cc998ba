/* What suites that move bytes share: an echo at the server, many clients of it, and configs that
 * are the defaults but for one thing. */
#pragma once

#include "harness/net.h"

/* Sends back what it is shown; what it is refused room for it is shown again. */
size_t test_echo_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size);
extern const struct kr_conn_ops test_echo_ops;

/* The defaults, but for so many receive buffers of this size. */
struct kr_config test_buffers(unsigned count, size_t size);

/* The defaults, but for the marks and the cap of each connection's send queue. */
struct kr_listen_opts test_marks_of(size_t low, size_t high, size_t cap);

/* The connections of a case, in order of opening: `user` of the on_open that fills it. */
#define TEST_CONNS_MAX 64
struct test_conns {
    kr_conn at[TEST_CONNS_MAX];
    bool paused[TEST_CONNS_MAX]; /* the case's own */
    unsigned count;
};
void test_conns_open(struct kr_reactor *r, kr_conn conn, void *conns);

/* Many clients of an echo, each with its own stream of `total` bytes. */
void test_echoes_start(struct test_echo *echoes, unsigned count, uint16_t port, uint64_t total);
bool test_echoes_done(const struct test_echo *echoes, unsigned count);

/* Moves a random part of them, with random sizes: so each pauses at random. */
void test_echoes_move(struct test_echo *echoes, unsigned count);

/* Turns and moves until all are done. */
void test_echoes_run(struct kr_reactor *r, struct test_echo *echoes, unsigned count);
void test_echoes_close(const struct test_echo *echoes, unsigned count);
