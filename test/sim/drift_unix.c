/* Unix stream sockets on both kernels. */
#include "harness/tap.h"
#include "sim/raw.h"

#include <kreactor.h>

#include <errno.h>

#define SECOND INT64_C(1000000000)
#define COUNT(table_) (sizeof(table_) / sizeof *(table_))

static void shut(struct raw *x, const char *name, int slot, unsigned how) {
    raw_ask(x, name, IORING_OP_SHUTDOWN, slot)->len = how;
    raw_await(x, name, 1);
}

static void reads(struct raw *x) {
    raw_note(x, "far reads", far_read(&x->fars[0]));
}

static void sends(struct raw *x, size_t size) {
    raw_note(x, "far sends", far_send(&x->fars[0], size));
}

static void talk(struct raw *x) {
    raw_bufs(x, 8);
    raw_pair(x, 1, &x->fars[0]);
    raw_recv(x, "recv", 1);
    raw_quiet(x);
    sends(x, 10);
    raw_await(x, "recv", 1);
    sends(x, 150);
    raw_await(x, "recv", 4);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
    reads(x);
    far_shutdown(&x->fars[0]);
    raw_await(x, "recv", 5);
    raw_send(x, "send after", 1, "hello");
    raw_await(x, "send after", 1);
    reads(x);
    far_end(&x->fars[0], false);
    raw_send(x, "send to nobody", 1, "hello");
    raw_await(x, "send to nobody", 1);
    raw_recv(x, "recv after", 1);
    raw_await(x, "recv after", 1);
}

static void data_then_end(struct raw *x) {
    raw_bufs(x, 8);
    raw_pair(x, 1, &x->fars[0]);
    sends(x, 10);
    far_end(&x->fars[0], false);
    raw_recv(x, "recv", 1);
    raw_await(x, "recv", 2);
    raw_pair(x, 2, &x->fars[0]);
    sends(x, 10);
    far_shutdown(&x->fars[0]);
    raw_recv(x, "recv half", 2);
    raw_await(x, "recv half", 2);
}

/* The far end leaves bytes unread. */
static void left_unread(struct raw *x) {
    raw_bufs(x, 8);
    raw_pair(x, 1, &x->fars[0]);
    raw_recv(x, "recv", 1);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
    far_end(&x->fars[0], false);
    raw_await(x, "recv", 1);
    raw_recv(x, "recv again", 1);
    raw_await(x, "recv again", 1);
    raw_send(x, "send after", 1, "hello");
    raw_await(x, "send after", 1);
    raw_pair(x, 2, &x->fars[0]);
    raw_send(x, "send 2", 2, "hello");
    raw_await(x, "send 2", 1);
    far_end(&x->fars[0], false);
    raw_send(x, "send first", 2, "hello");
    raw_await(x, "send first", 1);
}

/* And this one. */
static void leaves_unread(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    sends(x, 10);
    raw_close(x, "close", 1);
    raw_await(x, "close", 1);
    reads(x);
    reads(x);
    sends(x, 10);
}

static void shut_down(struct raw *x) {
    raw_bufs(x, 8);
    raw_pair(x, 1, &x->fars[0]);
    raw_recv(x, "recv", 1);
    raw_quiet(x);
    shut(x, "writing", 1, SHUT_WR);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
    reads(x);
    sends(x, 10);
    raw_await(x, "recv", 1);
    shut(x, "again", 1, SHUT_WR);
    shut(x, "reading", 1, SHUT_RD);
    raw_await(x, "recv", 2);
    sends(x, 10);
    shut(x, "both", 1, SHUT_RDWR);
    far_end(&x->fars[0], false);
    shut(x, "alone", 1, SHUT_RDWR);
    raw_socket(x, 2, AF_UNIX);
    shut(x, "fresh", 2, SHUT_RDWR);
}

static void shut_reading(struct raw *x) {
    raw_bufs(x, 8);
    raw_pair(x, 1, &x->fars[0]);
    sends(x, 10);
    shut(x, "reading", 1, SHUT_RD);
    sends(x, 10);
    raw_recv(x, "recv", 1);
    raw_await(x, "recv", 2);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
    reads(x);
}

/* A send that waits for room, and then for nothing. */
static void full(struct raw *x) {
    raw_pair(x, 1, &x->fars[0]);
    raw_fill(x, 1);
    raw_send(x, "send", 1, "hello");
    raw_quiet(x);
    far_end(&x->fars[0], false);
    raw_await(x, "send", 1);
}

static void fresh(struct raw *x) {
    static const struct sockaddr unspecified = {.sa_family = AF_UNSPEC};
    raw_bufs(x, 8);
    raw_socket(x, 1, AF_UNIX);
    raw_recv(x, "recv", 1);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "recv", 1);
    raw_await(x, "send", 1);
    raw_pair(x, 2, &x->fars[0]);
    struct io_uring_sqe *sqe = raw_ask(x, "disconnect", IORING_OP_CONNECT, 2);
    sqe->addr = (uint64_t)(uintptr_t)&unspecified;
    sqe->off = sizeof unspecified;
    sqe = raw_ask(x, "zero copy", IORING_OP_SEND_ZC, 2);
    sqe->addr = (uint64_t)(uintptr_t)"hello";
    sqe->len = 5;
    raw_quiet(x);
}

static void ask_connect(struct raw *x, const char *name, int slot, const struct kr_addr *addr) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_CONNECT, slot);
    sqe->addr = (uint64_t)(uintptr_t)&addr->u;
    sqe->off = addr->size;
    raw_submit(x);
}

static void connects(struct raw *x) {
    raw_bufs(x, 8);
    const struct kr_addr *server = raw_unix_server(x, 8);
    raw_socket(x, 1, AF_UNIX);
    ask_connect(x, "connect", 1, server);
    raw_await(x, "connect", 1);
    ask_connect(x, "again", 1, server);
    raw_await(x, "again", 1);
    struct kr_addr none;
    CHECK_OK(kr_addr_unix(&none, "@kreactor-nobody"));
    raw_socket(x, 2, AF_UNIX);
    ask_connect(x, "nobody", 2, &none);
    CHECK_OK(kr_addr_unix(&none, "/kreactor/nobody"));
    ask_connect(x, "no file", 2, &none);
    CHECK_OK(kr_addr_ip(&none, "127.0.0.1", 9));
    ask_connect(x, "family", 2, &none);
    raw_quiet(x);
}

static const struct raw_script scripts[] = {
    {.name = "talk", .run = talk},
    {.name = "data, then the end", .run = data_then_end},
    {.name = "left unread", .run = left_unread},
    {.name = "leaves unread", .run = leaves_unread},
    {.name = "shut down", .run = shut_down},
    {.name = "shut reading", .run = shut_reading},
    {.name = "full", .run = full},
    {.name = "fresh", .run = fresh},
    {.name = "connects", .run = connects},
};

/* The kernel's: what the ends of a Unix stream see of each other. */
TEST_EACH(unix_streams_behave_alike, .deadline_s = 60) {
    raw_compare(scripts, COUNT(scripts));
}

/* ---- what only the simulated world can be asked ---- */

static void listens(struct raw *x) {
    struct kr_addr addr, bound, other;
    CHECK_OK(kr_addr_unix(&addr, "/run/here"));
    CHECK_OK(kr_addr_unix(&other, "/run/there"));
    struct kr__listen_plan plan = {.addr = &addr, .backlog = 1};
    raw_install(x, 2, CHECK_OK(x->door->socket.listen(x->door, &plan, &bound)));
    CHECK_ERR(x->door->socket.listen(x->door, &plan, &bound), EADDRINUSE);
    kr_sim_peer peer, second;
    CHECK_ERR(kr_sim_connect_to(x->sim, &peer, &other), ENOENT);
    CHECK_OK(kr_sim_connect_to(x->sim, &peer, &addr));
    CHECK_ERR(kr_sim_connect_to(x->sim, &second, &addr), EAGAIN);
    struct io_uring_sqe *sqe = raw_ask(x, "accept", IORING_OP_ACCEPT, 2);
    sqe->file_index = IORING_FILE_INDEX_ALLOC;
    raw_await(x, "accept", 1);
    CHECK_GE(raw_res(x, "accept"), 0);
    raw_send(x, "send", raw_res(x, "accept"), "hello");
    raw_await(x, "send", 1);
    CHECK_EQ(kr_sim_readable(x->sim, peer), 5);
    CHECK_OK(kr_sim_reset(x->sim, peer));
    CHECK_OK(kr_sim_connect_to(x->sim, &peer, &addr));
    raw_close(x, "close", 2);
    raw_await(x, "close", 1);
    CHECK_ERR(kr_sim_connect_to(x->sim, &second, &addr), ECONNREFUSED);
    CHECK_ERR(x->door->socket.listen(x->door, &plan, &bound), EADDRINUSE);
    plan.replace = true;
    raw_install(x, 2, CHECK_OK(x->door->socket.listen(x->door, &plan, &bound)));
    CHECK_OK(kr_sim_close(x->sim, peer));
    CHECK_OK(kr_sim_connect_to(x->sim, &peer, &addr));
    CHECK_OK(kr_sim_close(x->sim, peer));
    CHECK_ERR(x->door->socket.listen(x->door, &plan, &bound), EADDRINUSE);
    x->door->socket.path_remove(x->door, &addr, NULL, -1);
    CHECK_ERR(kr_sim_connect_to(x->sim, &second, &addr), ENOENT);
}

/* Ours: a Unix listener of the world is found by its name. */
TEST(unix_listeners_are_found_by_name) {
    raw_simulate(6, 18, listens);
}

static void crowded(struct raw *x) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_unix(&addr, "/run/crowded"));
    CHECK_OK(kr_sim_remote_at(x->sim, &addr, KR_SIM_IGNORES, 0));
    raw_socket(x, 1, AF_UNIX);
    ask_connect(x, "connect", 1, &addr);
    CHECK_OK(kr_sim_advance(x->sim, SECOND));
    raw_submit(x);
    CHECK_EQ(raw_count(x, "connect"), 0);
    kr_sim_peer peer;
    CHECK_ERR(kr_sim_accept_at(x->sim, &peer, &addr), EAGAIN);
    CHECK_OK(kr_sim_remote_at(x->sim, &addr, KR_SIM_ACCEPTS, 0));
    raw_await(x, "connect", 1);
    CHECK_EQ(raw_res(x, "connect"), 0);
    CHECK_OK(kr_sim_accept_at(x->sim, &peer, &addr));
    CHECK_OK(kr_sim_close(x->sim, peer));
    CHECK_OK(kr_sim_remote_at(x->sim, &addr, KR_SIM_IGNORES, 0));
    raw_socket(x, 3, AF_UNIX);
    ask_connect(x, "cancelled", 3, &addr);
    raw_cancel(x, "cancel", "cancelled");
    raw_await(x, "cancelled", 1);
    CHECK_EQ(raw_res(x, "cancelled"), -ECANCELED);
}

/* The kernel's: a request that finds a full backlog waits for room; here without its worker. */
TEST(unix_connect_waits_for_room_in_the_backlog) {
    raw_simulate(6, 18, crowded);
}

/* ---- the library in that world ---- */

struct call {
    struct kr_sim *sim;
    struct kr_addr addr;
    kr_sim_peer peer;
    bool met, open;
    size_t got;
    int error;
    enum kr_why why;
    bool closed;
};

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct call *call = user;
    call->open = true;
    CHECK_OK(kr_conn_send(r, conn, "hello", 5));
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)r;
    (void)conn;
    (void)data;
    ((struct call *)user)->got += size;
    return size;
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    (void)r;
    (void)conn;
    struct call *call = user;
    call->closed = true;
    call->error = error;
    call->why = why;
}

static const struct kr_conn_ops ops = {
    .on_open = on_open, .on_data = on_data, .on_close = on_close};

/* The peer answers what it is sent, and closes. */
static bool is_over(void *arg) {
    struct call *call = arg;
    char bytes[8];
    if (!call->met)
        call->met = kr_sim_accept_at(call->sim, &call->peer, &call->addr) == 0;
    if (call->met && kr_sim_readable(call->sim, call->peer) == 5) {
        CHECK_EQ(kr_sim_recv(call->sim, call->peer, bytes, 5), 5);
        CHECK_EQ(kr_sim_send(call->sim, call->peer, bytes, 5), 5);
        CHECK_OK(kr_sim_close(call->sim, call->peer));
    }
    return call->closed;
}

static void answer_later(struct kr_sim *sim, void *arg) {
    const struct call *call = arg;
    CHECK_OK(kr_sim_remote_at(sim, &call->addr, KR_SIM_ACCEPTS, 1000));
}

static void call_once(struct call *call, const char *to, enum kr_sim_answer answer, uint64_t seed) {
    *call = (struct call){0};
    struct kr_reactor *r;
    CHECK_OK(kr_sim_new(&call->sim, seed));
    CHECK_OK(kr_sim_reactor(call->sim, &r, NULL));
    CHECK_OK(kr_addr_parse(&call->addr, to));
    CHECK_OK(kr_sim_remote_at(call->sim, &call->addr, answer, 1000));
    CHECK_OK(kr_sim_at(call->sim, SECOND, answer_later, call));
    CHECK_OK(kr_connect(r, NULL, &call->addr, NULL, &ops, call));
    CHECK_OK(kr_sim_run_until(call->sim, r, is_over, call, 1000 * SECOND));
    CHECK_OK(kr_reactor_free(r));
    CHECK_OK(kr_sim_free(call->sim));
}

/* Ours: kr_connect meets in the world what was said. */
TEST(library_connects_in_the_world) {
    static const char *const whom[] = {"10.0.0.1:80", "[::1]:80", "unix:/run/x", "unix:@x"};
    struct call call;
    for (unsigned i = 0; i < COUNT(whom); i++) {
        call_once(&call, whom[i], KR_SIM_ACCEPTS, i);
        CHECK_EQ(call.got, 5);
        CHECK_EQ(call.error, 0);
        call_once(&call, whom[i], KR_SIM_REFUSES, i);
        CHECK_EQ(call.error, -ECONNREFUSED);
        CHECK_EQ(call.why, KR_WHY_CONNECT);
        call_once(&call, whom[i], KR_SIM_NO_HOST, i);
        CHECK_EQ(call.error, i < 2 ? -EHOSTUNREACH : -ENOENT);
        call_once(&call, whom[i], KR_SIM_IGNORES, i);
        CHECK_EQ(call.error, i < 2 ? -ETIMEDOUT : 0); /* at a Unix socket it waits for room */
    }
}
