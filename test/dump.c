/* kr_dump: the state of a reactor in text, as it is, at any moment, changing nothing. */
#include "harness/net.h"
#include "harness/tap.h"

#include <kreactor.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TEXT_SIZE 65536

static char text[TEXT_SIZE];

/* What a dump says now, read back from a socket pair that is large enough for it. */
static void dump(const struct kr_reactor *r) {
    int pair[2];
    CHECK_SYS(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    CHECK_OK(kr_dump(r, pair[0]));
    close(pair[0]);
    size_t size = 0;
    ssize_t n;
    while ((n = read(pair[1], text + size, sizeof text - 1 - size)) > 0)
        size += (size_t)n;
    CHECK_EQ(n, 0);
    text[size] = 0;
    close(pair[1]);
}

static void check_says(const char *words) {
    if (!strstr(text, words))
        FAIL("the dump does not say \"%s\": %s", words, text);
}

struct seen {
    kr_conn conn;
    bool open, dumped;
};

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct seen *seen = user;
    seen->conn = conn;
    seen->open = true;
    dump(r);
    check_says(" in-turn");
    seen->dumped = true;
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    (void)r;
    (void)conn;
    (void)user;
    (void)data;
    return size - 1;
}

static const struct kr_conn_ops ops = {.on_open = on_open, .on_data = on_data};

static kr_listener listen_here(struct kr_reactor *r, struct seen *seen, struct kr_addr *addr) {
    kr_listener listener;
    CHECK_OK(kr_addr_ip(addr, "127.0.0.1", 0));
    CHECK_OK(kr_listen(r, &listener, addr, NULL, &ops, seen));
    CHECK_OK(kr_listener_addr(r, listener, addr));
    return listener;
}

static int connect_to(const struct kr_addr *addr) {
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_SYS(connect(fd, &addr->u.sa, addr->size));
    return fd;
}

/* Ours: each connection's state, what is armed, bytes kept and queued, and pauses are told as they are. */
TEST_EACH(dump_tells_what_is) {
    struct kr_reactor *r = test_reactor(NULL);
    struct seen seen = {0};
    struct kr_addr addr;
    kr_listener listener = listen_here(r, &seen, &addr);
    dump(r);
    check_says("conns 0 of");

    int fd = connect_to(&addr);
    while (!seen.open)
        CHECK_LE(0, kr_step(r, tap_remaining_ns()));
    CHECK(seen.dumped);
    CHECK_SYS(write(fd, "hello", 5));
    struct kr_stats stats = {0};
    while (stats.bytes_in < 5) {
        CHECK_LE(0, kr_step(r, tap_remaining_ns()));
        CHECK_OK(kr_stats_read(r, &stats, sizeof stats));
    }
    CHECK_OK(kr_conn_send(r, seen.conn, "abc", 3));
    CHECK_OK(kr_conn_pause(r, seen.conn));
    dump(r);
    check_says("conn 0 open life 1 inflight 1 armed:recv");
    check_says("wants:send unwants:recv queued 3 held 0 kept 1");
    check_says(" paused");
    check_says("conns 1 of");
    char where[KR_ADDR_TEXT_SIZE + 32];
    snprintf(where, sizeof where, "open 127.0.0.1:%u", kr_addr_port(&addr));
    check_says(where);
    CHECK(!strstr(text, "STUCK"));

    CHECK_OK(kr_listener_close(r, listener));
    close(fd);
    test_reactor_free(r);
}

/* Ours: an error of the descriptor is the answer, and nothing else comes of it. */
TEST(dump_passes_an_error_on) {
    struct kr_reactor *r = test_reactor(NULL);
    CHECK_ERR(kr_dump(r, -1), EBADF);
    CHECK_ERR(kr_dump(NULL, 2), EINVAL);
    dump(r);
    check_says("kreactor ");
    test_reactor_free(r);
}

TAP_MAIN(dump, 5)
