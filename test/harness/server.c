#include "harness/server.h"

void test_server_open(struct kr_reactor *r, kr_conn conn, void *server) {
    struct test_server *s = server;
    s->conn = conn;
    s->opens++;
    s->opened_at = kr_now(r);
    if (++s->open > s->most)
        s->most = s->open;
    if (s->in_open)
        s->in_open(s, conn);
}

size_t test_server_data(struct kr_reactor *r, kr_conn conn, void *server, const void *data,
                        size_t size) {
    (void)r;
    struct test_server *s = server;
    if (s->stream)
        test_pattern_check(data, size, s->stream, s->bytes);
    s->datas++;
    s->bytes += size;
    if (s->in_data)
        s->in_data(s, conn);
    return size;
}

size_t test_server_echo(struct kr_reactor *r, kr_conn conn, void *server, const void *data,
                        size_t size) {
    size_t taken = test_send_back(r, conn, NULL, data, size);
    return taken ? test_server_data(r, conn, server, data, taken) : 0;
}

void test_server_eof(struct kr_reactor *r, kr_conn conn, void *server) {
    (void)r;
    struct test_server *s = server;
    s->eofs++;
    if (s->in_eof)
        s->in_eof(s, conn);
}

void test_server_eof_close(struct kr_reactor *r, kr_conn conn, void *server) {
    test_server_eof(r, conn, server);
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

void test_server_drain(struct kr_reactor *r, kr_conn conn, void *server) {
    UNUSED(r, conn);
    ((struct test_server *)server)->drains++;
}

void test_server_timeout(struct kr_reactor *r, kr_conn conn, void *server, enum kr_deadline which) {
    struct test_server *s = server;
    CHECK(which == KR_DEADLINE_IDLE || which == KR_DEADLINE_READ || which == KR_DEADLINE_LIFE);
    s->told[which]++;
    s->which = which;
    s->told_at = kr_now(r);
    if (s->in_timeout)
        s->in_timeout(s, conn);
}

void test_server_close(struct kr_reactor *r, kr_conn conn, void *server, int error,
                       enum kr_why why) {
    (void)r;
    struct test_server *s = server;
    s->open--;
    s->closes++;
    s->error = error;
    s->why = why;
    if (s->in_close)
        s->in_close(s, conn);
}

const struct kr_conn_ops test_server_echo_ops = {
    .on_open = test_server_open, .on_data = test_server_echo, .on_close = test_server_close};
const struct kr_conn_ops test_server_echo_eof_ops = {.on_open = test_server_open,
                                                     .on_data = test_server_echo,
                                                     .on_eof = test_server_eof_close,
                                                     .on_close = test_server_close};

void test_server_listen(struct test_server *s, const struct kr_listen_opts *opts,
                        const struct kr_conn_ops *ops) {
    if (!s->r)
        s->r = test_reactor(NULL);
    s->port = test_listen(s->r, &s->listener, opts, ops, s);
}

void test_server_begin(struct test_server *s, const struct kr_listen_opts *opts,
                       const struct kr_conn_ops *ops) {
    test_server_listen(s, opts, ops);
    s->fd = test_connect_sized(s->port, 0, s->recv_size);
    TEST_UNTIL(s->r, s->opens == 1);
}

void test_server_end(struct test_server *s) {
    test_close(s->fd);
    TEST_UNTIL(s->r, test_stats(s->r).conns == 0);
    CHECK_EQ(s->closes, s->opens);
    CHECK_EQ(s->open, 0u);
    test_rest(s->r, (struct test_levels){.listeners = (unsigned)test_stats(s->r).listeners});
    test_reactor_free(s->r);
}

size_t test_take_all(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                     size_t size) {
    UNUSED(r, conn, user, data);
    return size;
}

size_t test_keep_all(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                     size_t size) {
    UNUSED(r, conn, user, data, size);
    return 0;
}

size_t test_send_back(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)user;
    return kr_conn_send(r, conn, data, size) < 0 ? 0 : size;
}

const struct kr_conn_ops test_take_all_ops = {.on_data = test_take_all};
const struct kr_conn_ops test_send_back_ops = {.on_data = test_send_back};

void test_ignore_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn, user);
}

void test_count_call(struct kr_reactor *r, void *count) {
    (void)r;
    ++*(unsigned *)count;
}

void test_count_fire(struct kr_reactor *r, kr_timer timer, void *count) {
    UNUSED(r, timer);
    ++*(unsigned *)count;
}
