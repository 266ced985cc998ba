/* What the suites on the real ring share: a reactor of the running variant, clients on loopback,
 * bytes that can be told apart, and waits that end at the case's deadline.
 *
 * Happy path: test_reactor makes a reactor with the variant's task-run mode and capabilities and
 * with an allocator that counts; test_listen listens on a port that the kernel chose;
 * test_connect makes clients, whose sockets never block; TEST_UNTIL turns the reactor in the
 * case's own thread until a condition holds; test_reactor_free checks that every byte and every
 * level is back at 0.
 *
 * Failure: everything here fails the case by itself, with the reactor's counters shown. */
#pragma once

#include "harness/tap.h"

#include <kreactor.h>

/* Times, in ns. */
#define MS INT64_C(1000000)
#define SECOND (1000 * MS)
#define HOUR (3600 * 1000 * MS)

/* ---- defaults, to be changed ---- */

struct kr_config test_config(void);
struct kr_conn_opts test_conn_opts(void);
struct kr_listen_opts test_listen_opts(void);
struct kr_connect_opts test_connect_opts(void);

/* ---- the reactor ---- */

/* A reactor as `config` says (NULL: defaults), with the variant's task-run mode and
 * capabilities. Unless config->alloc is set, its memory is counted, and each block's size
 * checked when it comes back. */
struct kr_reactor *test_reactor(const struct kr_config *config);

/* The same, which yields the error of a refused reactor (`why` may be NULL). */
int test_reactor_try(struct kr_reactor **ret, const struct kr_config *config,
                     struct kr_failure *why);

/* A reactor on a kernel of the test's making, usually a copy of kr__linux with a function
 * replaced. */
struct kr__kernel;
struct kr_reactor *test_reactor_on(const struct kr__kernel *kernel, const struct kr_config *config);

/* How many descriptors each slot of the reactor's table is: 1 if it is a plain one, else 0. NULL:
 * of a reactor as test_reactor makes it. */
int test_slot_cost(const struct kr_reactor *r);

/* Frees it and checks that its allocator got everything back. Consumes `r`. */
void test_reactor_free(struct kr_reactor *r);

/* Lets the n-th allocation of this reactor from now fail, and all after it; -1: none. 0 = the
 * next. */
void test_reactor_refuse_memory(struct kr_reactor *r, int64_t n);

struct kr_stats test_stats(const struct kr_reactor *r);

/* Turns the reactor until it is at rest, that is until exactly these are open and nothing is
 * queued or held: no receive buffer and no send record is out, nobody waits. Each connection and
 * listener that is not paused then has requests in flight (a connection one), and so has the
 * wake-up. */
struct test_levels {
    unsigned conns, listeners, timers;
    unsigned paused; /* of conns and listeners: those that have nothing in flight */
    unsigned blocks; /* kept bytes, inline memory and addresses of connections, a block each */
};
void test_rest(struct kr_reactor *r, struct test_levels levels);

/* The same, and frees it (test_reactor_free). */
void test_reactor_end(struct kr_reactor *r, struct test_levels levels);

/* How many connections the reactor will have a second look at (conn/clock.c): it is not quiet
 * before. */
unsigned test_unsure(const struct kr_reactor *r);

/* One turn, which waits no longer than 1 ms, so that the case can look at its clients; fails the
 * case at its deadline, saying what it waited `for_what`. Returns kr_step's count. */
int test_step(struct kr_reactor *r, const char *for_what);

/* Turns until five turns in a row have had nothing to do. */
void test_settle(struct kr_reactor *r);

/* Turns until the condition holds. */
#define TEST_UNTIL(r_, cond_)                                                                      \
    do {                                                                                           \
        while (!(cond_))                                                                           \
            test_step((r_), #cond_);                                                               \
    } while (0)

/* A thread that runs kr_run on `r` until test_thread_stop, which stops, joins and checks its
 * result. */
struct test_thread;
struct test_thread *test_thread_start(struct kr_reactor *r);
void test_thread_stop(struct test_thread *thread);

/* From here on this process can make no thread and no process, as RLIMIT_NPROC has it; and, after
 * the second, it can again. Root, whom that limit does not bind, is another user meanwhile. The
 * workers of io_uring are threads. */
void test_threads_none(void);
void test_threads_again(void);

/* How many threads this process has, workers of io_uring among them. */
unsigned test_threads(void);

/* ---- listening and clients: loopback only, ports of the kernel's choice ---- */

/* Listens on 127.0.0.1; *ret may be NULL. Returns the port. `opts` NULL: defaults, but a backlog
 * of 256, which leaves room for multishot accepts in a small table. */
uint16_t test_listen(struct kr_reactor *r, kr_listener *ret, const struct kr_listen_opts *opts,
                     const struct kr_conn_ops *ops, void *user);

struct kr_addr test_loopback(uint16_t port); /* 127.0.0.1 */

/* A connected, nonblocking client. Needs room in the backlog, but no turn of the reactor. The
 * sizes are SO_SNDBUF and SO_RCVBUF, 0 = the system's. */
int test_connect(uint16_t port);
int test_connect_sized(uint16_t port, int send_size, int recv_size);

/* One of whatever address, with SOCK_NONBLOCK or 0. */
int test_connect_addr(const struct kr_addr *addr, int flags);

/* A client that may still be connecting, for when the backlog may be full. */
int test_connect_begin(uint16_t port);

/* close(2), checked. */
void test_close(int fd);

/* Ends the client with RST. */
void test_close_reset(int fd);

/* Sends or receives what goes without waiting. 0 = nothing now; -errno; receiving: TEST_EOF at
 * the end. */
#define TEST_EOF (-100000L)
long test_send_some(int fd, const void *data, size_t size);
long test_recv_some(int fd, void *data, size_t size);

/* All of it, while turning the reactor (NULL: another thread does; then it waits in poll). */
void test_send(struct kr_reactor *r, int fd, const void *data, size_t size);
void test_recv(struct kr_reactor *r, int fd, void *data, size_t size);

/* What comes next is the text, a string literal. */
#define CHECK_RECV(r_, fd_, text_)                                                                 \
    do {                                                                                           \
        char got_[sizeof(text_) - 1];                                                              \
        test_recv((r_), (fd_), got_, sizeof got_);                                                 \
        CHECK_MEM_EQ(got_, (text_), sizeof got_);                                                  \
    } while (0)

/* Reads on to the end and says which: 0 for FIN, ECONNRESET for RST. Bytes that come are counted
 * in *got (NULL ok). */
int test_recv_end(struct kr_reactor *r, int fd, size_t *got);

/* ---- bytes that can be told apart ---- */

/* The bytes of stream `seed` from `offset` on: any lost, doubled or moved byte shows. */
void test_pattern(void *to, size_t size, uint64_t seed, uint64_t offset);

/* Fails the case at the first byte that is not the stream's, saying where. */
void test_pattern_check(const void *data, size_t size, uint64_t seed, uint64_t offset);

/* Sends, receives and checks, or queues at the connection (kr_conn_send's result), `size` bytes of
 * stream `seed` from `offset` on. */
void test_send_pattern(struct kr_reactor *r, int fd, size_t size, uint64_t seed, uint64_t offset);
void test_recv_pattern(struct kr_reactor *r, int fd, size_t size, uint64_t seed, uint64_t offset);
int test_queue_pattern(struct kr_reactor *r, kr_conn conn, size_t size, uint64_t seed,
                       uint64_t offset);

/* A client of an echo: sends `total` bytes of stream `seed` in pieces of at most `piece`, and
 * checks that just these come back. Zeroed and filled by its user; test_echo_move does what goes
 * without waiting. */
struct test_echo {
    int fd;
    uint64_t seed;
    uint64_t total;
    size_t send_piece, recv_piece; /* at most at a time; 0 = 16 KiB */
    uint64_t sent, got;
};
bool test_echo_move(struct test_echo *echo); /* true when any byte moved */
static inline bool test_echo_done(const struct test_echo *echo) {
    return echo->got == echo->total;
}
