/* CONNECT on both kernels. */
#include "harness/tap.h"
#include "sim/raw.h"

#include <kreactor.h>

#include <errno.h>

#define SECOND INT64_C(1000000000)
#define COUNT(table_) (sizeof(table_) / sizeof *(table_))

static void disconnect(struct raw *x, const char *name, int slot) {
    static const struct sockaddr unspecified = {.sa_family = AF_UNSPEC};
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_CONNECT, slot);
    sqe->addr = (uint64_t)(uintptr_t)&unspecified;
    sqe->off = sizeof unspecified;
}

/* ---- the scripts ---- */

static void succeeds(struct raw *x) {
    raw_join(x, 1, &x->fars[0]);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    raw_connect(x, "again", 1, x->port);
    raw_await(x, "again", 1);
}

static void refused(struct raw *x) {
    raw_socket(x, 1, AF_INET);
    uint16_t closed = raw_closed_port(x);
    raw_connect(x, "refused", 1, closed);
    raw_await(x, "refused", 1);
    raw_bufs(x, 4);
    raw_recv(x, "recv after", 1);
    raw_send(x, "send after", 1, "hello");
    raw_await(x, "recv after", 1);
    raw_await(x, "send after", 1);
    raw_connect(x, "refused again", 1, closed);
    raw_await(x, "refused again", 1);
    raw_server(x);
    raw_connect(x, "elsewhere", 1, x->port);
    raw_await(x, "elsewhere", 1);
    raw_accept(x, &x->fars[0]);
}

/* Two at a time: the second finds the first on its way, or already there. */
static void twice(struct raw *x) {
    raw_server(x);
    raw_socket(x, 1, AF_INET);
    raw_connect(x, "first", 1, x->port);
    raw_connect(x, "second", 1, x->port);
    raw_await(x, "first", 1);
    raw_await(x, "second", 1);
    raw_connect(x, "third", 1, x->port);
    raw_await(x, "third", 1);
    raw_accept(x, &x->fars[0]);
}

static void silent(struct raw *x) {
    raw_silent_server(x);
    raw_socket(x, 1, AF_INET);
    raw_connect(x, "connect", 1, x->port);
    raw_quiet(x);
    raw_connect(x, "second", 1, x->port);
    raw_await(x, "second", 1);
    raw_bufs(x, 4);
    raw_recv(x, "recv", 1);
    raw_send(x, "send", 1, "hello");
    raw_quiet(x);
    raw_cancel(x, "cancel", "connect");
    raw_await(x, "connect", 1);
    raw_await(x, "cancel", 1);
    raw_connect(x, "still calling", 1, x->port);
    raw_await(x, "still calling", 1);
    raw_cancel(x, "cancel recv", "recv");
    raw_cancel(x, "cancel send", "send");
    raw_await(x, "recv", 1);
    raw_await(x, "send", 1);
    disconnect(x, "disconnect", 1);
    raw_await(x, "disconnect", 1);
    raw_recv(x, "recv after", 1);
    raw_await(x, "recv after", 1);
}

/* The send is made before there is a connection, and waits for it. */
static void send_early(struct raw *x) {
    raw_server(x);
    raw_bufs(x, 4);
    raw_socket(x, 1, AF_INET);
    raw_connect(x, "connect", 1, x->port);
    raw_send(x, "send", 1, "hello");
    raw_recv(x, "recv", 1);
    raw_await(x, "connect", 1);
    raw_await(x, "send", 1);
    raw_accept(x, &x->fars[0]);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    far_send(&x->fars[0], 7);
    raw_await(x, "recv", 1);
    far_end(&x->fars[0], false);
    raw_await(x, "recv", 2);
}

/* A cancel in the same submission: before the handshake is over, or after. */
static void cancelled(struct raw *x) {
    raw_server(x);
    raw_socket(x, 1, AF_INET);
    raw_connect(x, "connect", 1, x->port);
    raw_cancel(x, "cancel", "connect");
    raw_await(x, "connect", 1);
    raw_await(x, "cancel", 1);
}

static void cancelled_then_closed(struct raw *x) {
    raw_silent_server(x);
    raw_socket(x, 1, AF_INET);
    raw_connect(x, "connect", 1, x->port);
    raw_cancel(x, "cancel", "connect");
    raw_close(x, "close", 1);
    raw_await(x, "connect", 1);
    raw_await(x, "close", 1);
}

static void no_way(struct raw *x) {
    raw_socket(x, 1, AF_INET);
    struct io_uring_sqe *sqe = raw_ask(x, "connect", IORING_OP_CONNECT, 1);
    sqe->addr = (uint64_t)(uintptr_t)raw_no_way(x);
    sqe->off = sizeof(struct sockaddr_in);
    raw_await(x, "connect", 1);
}

static void fresh(struct raw *x) {
    raw_bufs(x, 4);
    raw_socket(x, 1, AF_INET);
    raw_recv(x, "recv", 1);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "recv", 1);
    raw_await(x, "send", 1);
    disconnect(x, "disconnect", 1);
    raw_await(x, "disconnect", 1);
}

static void ill_formed(struct raw *x) {
    raw_socket(x, 1, AF_INET);
    uint16_t closed = raw_closed_port(x);
    raw_connect(x, "length", 1, closed);
    struct io_uring_sqe *sqe = raw_ask(x, "len", IORING_OP_CONNECT, 1);
    sqe->len = 16;
    sqe = raw_ask(x, "too long", IORING_OP_CONNECT, 1);
    sqe->addr = (uint64_t)(uintptr_t)raw_address(9);
    sqe->off = 1000;
    sqe = raw_ask(x, "too short", IORING_OP_CONNECT, 1);
    sqe->addr = (uint64_t)(uintptr_t)raw_address(9);
    sqe->off = 8;
    static const struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
    sqe = raw_ask(x, "family", IORING_OP_CONNECT, 1);
    sqe->addr = (uint64_t)(uintptr_t)&in6;
    sqe->off = sizeof in6;
    raw_connect(x, "no file", 3, closed);
    raw_wake(x, 2);
    raw_connect(x, "no socket", 2, closed);
    raw_quiet(x);
}

/* A connection that is taken down by a connect to no address. */
static void disconnected(struct raw *x) {
    raw_bufs(x, 4);
    raw_join(x, 1, &x->fars[0]);
    raw_recv(x, "armed recv", 1);
    raw_quiet(x);
    disconnect(x, "disconnect", 1);
    raw_await(x, "disconnect", 1);
    raw_quiet(x);
    raw_note(x, "far reads", far_read(&x->fars[0]));
    raw_recv(x, "recv", 1);
    raw_await(x, "recv", 1);
    raw_recv(x, "recv again", 1);
    raw_await(x, "recv again", 1);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
    raw_connect(x, "anew", 1, x->port);
    raw_await(x, "anew", 1);
    CHECK_EQ(raw_res(x, "anew"), 0);
    raw_accept(x, &x->fars[1]);
}

static void disconnected_idle(struct raw *x) {
    raw_bufs(x, 4);
    raw_join(x, 1, &x->fars[0]);
    disconnect(x, "disconnect", 1);
    raw_await(x, "disconnect", 1);
    raw_connect(x, "anew", 1, x->port);
    raw_await(x, "anew", 1);
    raw_send(x, "send", 1, "hello");
    raw_await(x, "send", 1);
    raw_accept(x, &x->fars[1]);
}

/* The far end goes at once. */
static void short_lived(struct raw *x) {
    raw_bufs(x, 4);
    raw_join(x, 1, &x->fars[0]);
    far_send(&x->fars[0], 5);
    far_end(&x->fars[0], true);
    raw_recv(x, "recv", 1);
    raw_quiet(x);
    raw_connect(x, "connect", 1, x->port);
    raw_await(x, "connect", 1);
}

static void given_up(struct raw *x) {
    raw_silent_server(x);
    raw_bufs(x, 4);
    raw_impatient_socket(x, 1);
    raw_connect(x, "connect", 1, x->port);
    raw_await(x, "connect", 1);
    raw_recv(x, "recv", 1);
    raw_await(x, "recv", 1);
}

static const struct raw_script scripts[] = {
    {.name = "succeeds", .run = succeeds},
    {.name = "refused", .run = refused},
    {.name = "twice", .run = twice, .loose = true},
    {.name = "silent", .run = silent},
    {.name = "send early", .run = send_early},
    {.name = "cancelled", .run = cancelled, .loose = true},
    {.name = "cancelled, then closed", .run = cancelled_then_closed},
    {.name = "given up", .run = given_up, .slow = true},
    {.name = "no way", .run = no_way},
    {.name = "fresh", .run = fresh},
    {.name = "ill-formed", .run = ill_formed},
    {.name = "disconnected", .run = disconnected},
    {.name = "disconnected idle", .run = disconnected_idle},
    {.name = "short-lived", .run = short_lived},
};

/* The kernel's: what becomes of a connect, and of the socket then. */
TEST_EACH(connect_is_answered_alike, .deadline_s = 60) {
    raw_compare(scripts, COUNT(scripts));
}

/* ---- what only the simulated world can be asked ---- */

static void answered(struct raw *x, enum kr_sim_answer answer, int64_t after_ns, int32_t error,
                     int64_t takes_ns) {
    CHECK_OK(kr_sim_remote(x->sim, 80, answer, after_ns));
    raw_socket(x, 1, AF_INET);
    int64_t began = kr_sim_now(x->sim);
    char name[24];
    snprintf(name, sizeof name, "answer %d", answer);
    raw_connect(x, name, 1, 80);
    raw_await(x, name, 1);
    CHECK_EQ(raw_res(x, name), error);
    int64_t took = kr_sim_now(x->sim) - began;
    CHECK_GE(took, takes_ns);
    CHECK_LT(took, takes_ns + SECOND / 100);
}

static void each_answer(struct raw *x) {
    answered(x, KR_SIM_REFUSES, SECOND, -ECONNREFUSED, SECOND);
    answered(x, KR_SIM_IGNORES, SECOND, -ETIMEDOUT, 131 * SECOND);
    answered(x, KR_SIM_NO_HOST, 3 * SECOND, -EHOSTUNREACH, 3 * SECOND);
    answered(x, KR_SIM_NO_NET, 3 * SECOND, -ENETUNREACH, 0);
    answered(x, KR_SIM_ACCEPTS, SECOND, 0, SECOND);
    answered(x, KR_SIM_ACCEPTS, 0, 0, 0);
    kr_sim_peer peers[2];
    CHECK_OK(kr_sim_accept(x->sim, &peers[0], 80));
    CHECK_OK(kr_sim_accept(x->sim, &peers[1], 80));
    CHECK_ERR(kr_sim_accept(x->sim, &peers[1], 80), EAGAIN);
    char byte;
    CHECK_EQ(kr_sim_recv(x->sim, peers[0], &byte, 1), 0); /* its far end was replaced in the slot */
    CHECK_ERR(kr_sim_recv(x->sim, peers[1], &byte, 1), EAGAIN);
    CHECK_OK(kr_sim_close(x->sim, peers[0]));
    CHECK_OK(kr_sim_close(x->sim, peers[1]));
}

/* Ours: a remote host answers as was said, and when. */
TEST(remote_hosts_answer_as_told) {
    raw_simulate(6, 18, each_answer);
}

static void listen_in_world(struct raw *x, unsigned backlog) {
    struct kr_addr addr, bound;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 7));
    struct kr__listen_plan plan = {.addr = &addr, .backlog = backlog};
    raw_install(x, 2, CHECK_OK(x->door->socket.listen(x->door, &plan, &bound)));
}

static void ask_accept(struct raw *x, const char *name) {
    struct io_uring_sqe *sqe = raw_ask(x, name, IORING_OP_ACCEPT, 2);
    sqe->file_index = IORING_FILE_INDEX_ALLOC;
}

static void own_listener(struct raw *x) {
    listen_in_world(x, 1);
    raw_socket(x, 1, AF_INET);
    raw_socket(x, 3, AF_INET);
    raw_connect(x, "first", 1, 7);
    raw_await(x, "first", 1);
    raw_connect(x, "second", 3, 7);
    CHECK_OK(kr_sim_advance(x->sim, 10 * SECOND));
    raw_submit(x);
    CHECK_EQ(raw_count(x, "second"), 0); /* the backlog is full */
    ask_accept(x, "accept");
    raw_await(x, "accept", 1);
    raw_await(x, "second", 1);
    CHECK_EQ(raw_res(x, "first"), 0);
    CHECK_EQ(raw_res(x, "second"), 0);
    ask_accept(x, "accept again");
    raw_await(x, "accept again", 1);
    CHECK_GE(raw_res(x, "accept again"), 0);
}

/* Ours: both ends of a connection may be the world's. */
TEST(listener_of_the_same_world_is_reached) {
    raw_simulate(6, 18, own_listener);
}

static void by_fault(struct raw *x, enum kr_sim_fault fault, const char *name) {
    CHECK_OK(kr_sim_remote(x->sim, 80, KR_SIM_ACCEPTS, 0));
    CHECK_OK(kr_sim_fault_set(x->sim, fault, 1024));
    raw_socket(x, 1, AF_INET);
    raw_connect(x, name, 1, 80);
    raw_await(x, name, 1);
    CHECK_OK(kr_sim_fault_set(x->sim, fault, 0));
    CHECK_EQ(kr_sim_fault_hits(x->sim, fault), 1);
}

static void each_fault(struct raw *x) {
    by_fault(x, KR_SIM_CONNECT_REFUSED, "refused");
    CHECK(raw_res(x, "refused") == -ECONNREFUSED || raw_res(x, "refused") == -ECONNRESET);
    by_fault(x, KR_SIM_CONNECT_IGNORED, "ignored");
    CHECK(raw_res(x, "ignored") == -ETIMEDOUT || raw_res(x, "ignored") == -ECONNRESET);
    by_fault(x, KR_SIM_CONNECT_UNREACHABLE, "unreachable");
    int32_t res = raw_res(x, "unreachable");
    CHECK(res == -EHOSTUNREACH || res == -ENETUNREACH || res == -ECONNRESET);
}

/* Ours: each fault of connect happens when it is asked for. */
TEST(faults_of_connect_happen) {
    raw_simulate(6, 18, each_fault);
}

static void refused_with(struct raw *x, int32_t error, int32_t then) {
    raw_bufs(x, 1);
    raw_socket(x, 1, AF_INET);
    raw_connect(x, "connect", 1, 9);
    raw_await(x, "connect", 1);
    CHECK_EQ(raw_res(x, "connect"), error);
    raw_recv(x, "recv", 1);
    raw_await(x, "recv", 1);
    CHECK_EQ(raw_res(x, "recv"), then);
}

static void refused_6_1(struct raw *x) {
    refused_with(x, -ECONNREFUSED, -ENOTCONN);
}

static void refused_6_15(struct raw *x) {
    refused_with(x, -ECONNRESET, -ECONNREFUSED);
}

static void refused_6_18(struct raw *x) {
    refused_with(x, -ECONNREFUSED, 0);
}

/* The kernel's: three ways to tell of a refusal, by version. */
TEST(old_kernels_tell_of_a_refusal_in_their_way) {
    raw_simulate(6, 1, refused_6_1);
    raw_simulate(6, 15, refused_6_15);
    raw_simulate(6, 18, refused_6_18);
}

/* Ours: what the header says is refused. */
TEST(remote_refuses_bad_arguments) {
    struct kr_sim *sim;
    kr_sim_peer peer;
    CHECK_OK(kr_sim_new(&sim, 1));
    CHECK_ERR(kr_sim_remote(NULL, 80, KR_SIM_ACCEPTS, 0), EINVAL);
    CHECK_ERR(kr_sim_remote(sim, 0, KR_SIM_ACCEPTS, 0), EINVAL);
    CHECK_ERR(kr_sim_remote(sim, 80, (enum kr_sim_answer)5, 0), EINVAL);
    CHECK_ERR(kr_sim_remote(sim, 80, KR_SIM_ACCEPTS, -1), EINVAL);
    CHECK_ERR(kr_sim_accept(sim, &peer, 80), EINVAL);
    CHECK_OK(kr_sim_remote(sim, 80, KR_SIM_ACCEPTS, 0));
    CHECK_ERR(kr_sim_accept(sim, NULL, 80), EINVAL);
    CHECK_ERR(kr_sim_accept(sim, &peer, 80), EAGAIN);
    CHECK_ERR(kr_sim_linux(sim, 6, 0), EINVAL);
    CHECK_ERR(kr_sim_linux(sim, 6, 19), EINVAL);
    CHECK_OK(kr_sim_linux(sim, 6, 1));
    struct kr_reactor *r;
    CHECK_OK(kr_sim_reactor(sim, &r, NULL));
    CHECK_ERR(kr_sim_linux(sim, 6, 18), EBUSY);
    CHECK_OK(kr_reactor_free(r));
    CHECK_OK(kr_sim_free(sim));
}
