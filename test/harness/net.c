/* See net.h. Reactors that a case has made stand in one list, so that a failure can show them
 * all. */
#include "harness/net.h"

#include "conn/reactor.h"
#include "kernel/kernel.h"
#include "kernel/probe.h"
#include "listen/listener.h"
#include "roof/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- defaults ---- */

struct kr_config test_config(void) {
    struct kr_config config;
    kr_config_init(&config);
    return config;
}

struct kr_conn_opts test_conn_opts(void) {
    struct kr_conn_opts opts;
    kr_conn_opts_init(&opts);
    return opts;
}

struct kr_listen_opts test_listen_opts(void) {
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    return opts;
}

struct kr_connect_opts test_connect_opts(void) {
    struct kr_connect_opts opts;
    kr_connect_opts_init(&opts);
    return opts;
}

/* ---- the counting allocator ---- */

/* One reactor's memory. */
struct memory {
    struct kr_reactor *r;
    struct kr_alloc alloc;
    int64_t bytes;   /* held now */
    int64_t refused; /* allocations still granted before all are refused; -1: no limit */
    struct memory *next;
};

/* Stands before each block; the size must come back with it. Two words of 16 keep the alignment. */
struct block {
    _Alignas(16) size_t size;
    uint64_t mark;
};

#define BLOCK_MARK 0x6b72626c6f636b21u

static pthread_mutex_t memories_lock = PTHREAD_MUTEX_INITIALIZER;
static struct memory *memories;

static void *counted_alloc(void *ctx, size_t size) {
    struct memory *memory = ctx;
    if (memory->refused == 0)
        return NULL;
    if (memory->refused > 0)
        memory->refused--;
    struct block *block = malloc(sizeof *block + size);
    CHECK(block != NULL);
    *block = (struct block){.size = size, .mark = BLOCK_MARK};
    memory->bytes += (int64_t)size;
    return block + 1;
}

static void counted_free(void *ctx, void *bytes, size_t size) {
    struct memory *memory = ctx;
    struct block *block = (struct block *)bytes - 1;
    CHECK_EQ(block->mark, BLOCK_MARK);
    CHECK_EQ(block->size, size);
    block->mark = 0;
    memory->bytes -= (int64_t)size;
    free(block);
}

static struct memory *memory_new(void) {
    struct memory *memory = calloc(1, sizeof *memory);
    CHECK(memory != NULL);
    memory->refused = -1;
    memory->alloc = (struct kr_alloc){.alloc = counted_alloc, .free = counted_free, .ctx = memory};
    return memory;
}

static void memory_free(struct memory *memory) {
    int64_t bytes = memory->bytes;
    free(memory);
    CHECK_EQ(bytes, 0);
}

/* ---- the list of reactors ---- */

/* More of them would bury what failed. */
#define DUMP_CONNS_MOST 64

static void show_reactors(void *unused) {
    (void)unused;
    static const char *const names[] = {
        "turns",           "enters",          "waits",      "sqes",           "cqes",
        "sq_full_turns",   "cq_overflows",    "stale_cqes", "accepts",        "accept_errors",
        "accept_pauses",   "closes",          "conns",      "listeners",      "timers",
        "timer_fires",     "posts",           "bytes_in",   "bytes_out",      "bytes_copied",
        "bytes_kept",      "starved_waits",   "bufs_out",   "sends_out",      "blocks_out",
        "allocs",          "alloc_bytes",     "inflight",   "leases",         "bytes_leased",
        "bytes_forwarded", "bytes_borrowed",  "connects",   "connect_errors", "timeouts",
        "zerocopy_sends",  "zerocopy_copied",
    };
    for (const struct memory *memory = memories; memory; memory = memory->next) {
        struct kr_stats stats;
        if (kr_stats_read(memory->r, &stats, sizeof stats) < 0)
            continue;
        const uint64_t *values = (const uint64_t *)&stats;
        char text[1024];
        size_t used = 0;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, " %s %llu", names[i],
                                     (unsigned long long)values[i]);
        tap_note("reactor:%s", text);
        if (stats.conns <= DUMP_CONNS_MOST)
            kr_dump(memory->r, STDERR_FILENO);
    }
}

static void list_add(struct memory *memory) {
    pthread_mutex_lock(&memories_lock);
    if (!memories)
        tap_on_fail(show_reactors, NULL);
    memory->next = memories;
    memories = memory;
    pthread_mutex_unlock(&memories_lock);
}

/* Takes the reactor's memory off the list; NULL when it has none there. */
static struct memory *list_remove(const struct kr_reactor *r) {
    pthread_mutex_lock(&memories_lock);
    struct memory **at = &memories;
    while (*at && (*at)->r != r)
        at = &(*at)->next;
    struct memory *memory = *at;
    if (memory) {
        *at = memory->next;
        if (!memories)
            tap_on_fail_undo(show_reactors, NULL);
    }
    pthread_mutex_unlock(&memories_lock);
    return memory;
}

/* ---- the reactor ---- */

static int reactor_try(struct kr_reactor **ret, const struct kr__kernel *kernel,
                       const struct kr_config *config, struct kr_failure *why) {
    struct kr_config own;
    kr_config_init(&own);
    if (config)
        own = *config;
    own.taskrun = (enum kr_taskrun)tap_variant()->mode;
    struct memory *memory = memory_new();
    if (!own.alloc)
        own.alloc = &memory->alloc;
    int rc = kr__reactor_new(&memory->r, &own, why, kernel, (unsigned)tap_variant()->caps_mask);
    if (rc < 0) {
        memory_free(memory);
        return rc;
    }
    list_add(memory);
    *ret = memory->r;
    return rc;
}

int test_reactor_try(struct kr_reactor **ret, const struct kr_config *config,
                     struct kr_failure *why) {
    return reactor_try(ret, &kr__linux, config, why);
}

struct kr_reactor *test_reactor_on(const struct kr__kernel *kernel,
                                   const struct kr_config *config) {
    struct kr_failure why;
    struct kr_reactor *r;
    int rc = reactor_try(&r, kernel, config, &why);
    if (rc < 0)
        FAIL("kr_reactor_new: %s: %s: %s (%s)", kr_errname(rc), why.tried, why.cause, why.remedy);
    return r;
}

struct kr_reactor *test_reactor(const struct kr_config *config) {
    return test_reactor_on(&kr__linux, config);
}

int test_slot_cost(const struct kr_reactor *r) {
    if (r)
        return kr_reactor_table(r) == KR_TABLE_PLAIN;
    struct kr_config config;
    kr_config_init(&config);
    config.conn_max = config.connect_max = config.listener_max = config.buf_count = 1;
    struct kr_reactor *any = test_reactor(&config);
    int cost = test_slot_cost(any);
    test_reactor_free(any);
    return cost;
}

void test_reactor_free(struct kr_reactor *r) {
    struct memory *memory = list_remove(r);
    CHECK(memory != NULL);
    CHECK_OK(kr_reactor_free(r));
    memory_free(memory);
}

void test_reactor_refuse_memory(struct kr_reactor *r, int64_t n) {
    pthread_mutex_lock(&memories_lock);
    struct memory *memory = memories;
    while (memory && memory->r != r)
        memory = memory->next;
    pthread_mutex_unlock(&memories_lock);
    CHECK(memory != NULL);
    memory->refused = n;
}

struct kr_stats test_stats(const struct kr_reactor *r) {
    struct kr_stats stats;
    CHECK_OK(kr_stats_read(r, &stats, sizeof stats));
    return stats;
}

/* How many owners of a table hold nothing in flight; *settled falls when one is between two
 * states. */
static unsigned idle_conns(const struct kr_reactor *r, bool *settled) {
    unsigned idle = 0;
    for (const struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));) {
        if (c->state == KR__CONN_FREE)
            continue;
        idle += c->owner.inflight == 0;
        *settled = *settled && c->state == KR__CONN_OPEN && c->owner.inflight <= 1;
    }
    return idle;
}

static unsigned idle_listeners(const struct kr_reactor *r, bool *settled) {
    unsigned idle = 0;
    for (unsigned i = 0; i < r->listeners->max; i++) {
        const struct kr__listener *l = &r->listeners->table[i];
        if (l->state == KR__LISTENER_FREE)
            continue;
        idle += l->owner.inflight == 0;
        *settled =
            *settled && l->state == KR__LISTENER_OPEN && l->owner.inflight <= KR__ACCEPT_ONES;
    }
    return idle;
}

static bool at_rest(const struct kr_reactor *r, const struct test_levels *levels) {
    struct kr_stats stats = test_stats(r);
    bool settled = r->self.inflight == 1 && kr__list_empty(&r->dirty) &&
                   kr__starve_empty(&r->starve) &&
                   r->bufs.published + r->bufs.free_count == r->bufs.count;
    unsigned idle = idle_conns(r, &settled) + idle_listeners(r, &settled);
    return settled && idle == levels->paused && stats.conns == levels->conns &&
           stats.listeners == levels->listeners && stats.timers == levels->timers &&
           stats.bufs_out == 0 && stats.sends_out == 0 && stats.blocks_out == levels->blocks;
}

void test_rest(struct kr_reactor *r, struct test_levels levels) {
    char what[96];
    snprintf(what, sizeof what, "rest with %u connections, %u listeners, %u timers, %u paused",
             levels.conns, levels.listeners, levels.timers, levels.paused);
    test_step(r, what);
    while (!at_rest(r, &levels))
        test_step(r, what);
}

void test_reactor_end(struct kr_reactor *r, struct test_levels levels) {
    test_rest(r, levels);
    test_reactor_free(r);
}

unsigned test_unsure(const struct kr_reactor *r) {
    unsigned count = 0;
    int64_t soon = kr__time_add(r->kernel->process.clock(r->kernel), KR__LOOK_NS);
    for (const struct kr__conn *c = NULL; (c = kr__conns_next(&r->conns, c));) {
        const struct kr__heap_node *node = &c->deadline.node;
        bool due = c->unsure && kr__heap_filed(node) &&
                   kr__heap_at(&r->timers.deadlines, node) <= soon;
        count += c->state == KR__CONN_OPEN && (due || c->looks);
    }
    return count;
}

int test_step(struct kr_reactor *r, const char *for_what) {
    if (tap_remaining_ns() == 0)
        FAIL("still waiting for %s", for_what);
    return CHECK_OK(kr_step(r, 1000000));
}

void test_settle(struct kr_reactor *r) {
    for (unsigned quiet = 0; quiet < 5;)
        quiet = test_step(r, "nothing to do") == 0 ? quiet + 1 : 0;
}

struct test_thread {
    pthread_t thread;
    struct kr_reactor *r;
};

static void *thread_main(void *arg) {
    struct test_thread *thread = arg;
    CHECK_EQ(kr_run(thread->r), 0);
    test_reactor_free(thread->r);
    return NULL;
}

struct test_thread *test_thread_start(struct kr_reactor *r) {
    struct test_thread *thread = calloc(1, sizeof *thread);
    CHECK(thread != NULL);
    thread->r = r;
    CHECK_EQ(pthread_create(&thread->thread, NULL, thread_main, thread), 0);
    return thread;
}

void test_thread_stop(struct test_thread *thread) {
    kr_stop(thread->r);
    CHECK_EQ(pthread_join(thread->thread, NULL), 0);
    free(thread);
}

#define NOBODY 65534u

/* The limit binds whoever has neither CAP_SYS_ADMIN nor CAP_SYS_RESOURCE and is not root (man
 * setrlimit; copy_process, kernel/fork.c); who runs the suites has more than one process. */
void test_threads_none(void) {
    struct rlimit limit;
    CHECK_SYS(getrlimit(RLIMIT_NPROC, &limit));
    limit.rlim_cur = 1;
    CHECK_SYS(setrlimit(RLIMIT_NPROC, &limit));
    if (geteuid() == 0)
        CHECK_SYS(setresuid(NOBODY, NOBODY, 0));
}

void test_threads_again(void) {
    uid_t real, effective, saved;
    CHECK_SYS(getresuid(&real, &effective, &saved));
    if (saved == 0)
        CHECK_SYS(setresuid(0, 0, 0));
    struct rlimit limit;
    CHECK_SYS(getrlimit(RLIMIT_NPROC, &limit));
    limit.rlim_cur = limit.rlim_max;
    CHECK_SYS(setrlimit(RLIMIT_NPROC, &limit));
}

/* proc(5): the number of links of a task directory counts its threads, "." and "..". */
unsigned test_threads(void) {
    struct stat st;
    CHECK_SYS(stat("/proc/self/task", &st));
    return (unsigned)st.st_nlink - 2;
}

/* ---- listening and clients ---- */

uint16_t test_listen(struct kr_reactor *r, kr_listener *ret, const struct kr_listen_opts *opts,
                     const struct kr_conn_ops *ops, void *user) {
    struct kr_listen_opts defaults;
    kr_listen_opts_init(&defaults);
    defaults.backlog = 256;
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 0));
    kr_listener listener;
    CHECK_OK(kr_listen(r, &listener, &addr, opts ? opts : &defaults, ops, user));
    CHECK_OK(kr_listener_addr(r, listener, &addr));
    CHECK_NE(kr_addr_port(&addr), 0);
    if (ret)
        *ret = listener;
    return kr_addr_port(&addr);
}

static void set_size(int fd, int name, int size) {
    if (size)
        CHECK_SYS(setsockopt(fd, SOL_SOCKET, name, &size, sizeof size));
}

/* A window that is much smaller than loopback's segments, which have 64 KiB, is opened and filled by
 * timers of 40 and 200 ms (RFC 9293, 3.8.6.2), so the segments are made small, too. */
#define SMALL_WINDOW 16384

static int begin(uint16_t port, int send_size, int recv_size) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", port));
    int fd = CHECK_SYS(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    set_size(fd, SO_SNDBUF, send_size);
    set_size(fd, SO_RCVBUF, recv_size);
    if (recv_size && recv_size < SMALL_WINDOW)
        CHECK_SYS(setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &(int){536}, sizeof(int)));
    if (connect(fd, &addr.u.sa, addr.size) < 0 && errno != EINPROGRESS)
        FAIL("connect: %s", strerror(errno));
    return fd;
}

/* Waits until one of `events` holds. */
static void wait_ready(int fd, short events) {
    struct pollfd pollfd = {.fd = fd, .events = events};
    if (CHECK_SYS(poll(&pollfd, 1, tap_remaining_ms())) == 0)
        FAIL("still waiting for a client's descriptor to be ready for 0x%x", (unsigned)events);
}

int test_connect_sized(uint16_t port, int send_size, int recv_size) {
    int fd = begin(port, send_size, recv_size);
    wait_ready(fd, POLLOUT);
    int error = 0;
    CHECK_SYS(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error}));
    CHECK_EQ(error, 0);
    return fd;
}

int test_connect(uint16_t port) {
    return test_connect_sized(port, 0, 0);
}

struct kr_addr test_loopback(uint16_t port) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", port));
    return addr;
}

int test_connect_addr(const struct kr_addr *addr, int flags) {
    int fd = CHECK_SYS(socket(addr->u.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
    CHECK_SYS(connect(fd, &addr->u.sa, addr->size));
    return fd;
}

int test_connect_begin(uint16_t port) {
    return begin(port, 0, 0);
}

void test_close(int fd) {
    CHECK_SYS(close(fd));
}

void test_close_reset(int fd) {
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    CHECK_SYS(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    CHECK_SYS(close(fd));
}

static long result_of(ssize_t n) {
    if (n >= 0)
        return (long)n;
    return errno == EAGAIN || errno == ENOTCONN ? 0 : -errno;
}

long test_send_some(int fd, const void *data, size_t size) {
    return result_of(send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT));
}

long test_recv_some(int fd, void *data, size_t size) {
    ssize_t n = recv(fd, data, size, MSG_DONTWAIT);
    return n == 0 ? TEST_EOF : result_of(n);
}

/* Lets others go on, who may then make `fd` ready. */
static void turn_or_wait(struct kr_reactor *r, int fd, short events, const char *for_what) {
    if (r)
        test_step(r, for_what);
    else
        wait_ready(fd, events);
}

void test_send(struct kr_reactor *r, int fd, const void *data, size_t size) {
    for (size_t sent = 0; sent < size;) {
        long n = test_send_some(fd, (const char *)data + sent, size - sent);
        if (n < 0)
            FAIL("send: %s after %zu of %zu bytes", strerror((int)-n), sent, size);
        if (n == 0)
            turn_or_wait(r, fd, POLLOUT, "room to send");
        sent += (size_t)n;
    }
}

void test_recv(struct kr_reactor *r, int fd, void *data, size_t size) {
    for (size_t got = 0; got < size;) {
        long n = test_recv_some(fd, (char *)data + got, size - got);
        if (n == TEST_EOF)
            FAIL("the peer ended after %zu of %zu bytes", got, size);
        if (n < 0)
            FAIL("recv: %s after %zu of %zu bytes", strerror((int)-n), got, size);
        if (n == 0)
            turn_or_wait(r, fd, POLLIN, "bytes to receive");
        got += (size_t)n;
    }
}

int test_recv_end(struct kr_reactor *r, int fd, size_t *got) {
    static _Thread_local char bytes[65536];
    for (size_t sum = 0;;) {
        long n = test_recv_some(fd, bytes, sizeof bytes);
        if (n > 0)
            sum += (size_t)n;
        if (got)
            *got = sum;
        if (n < 0)
            return n == TEST_EOF ? 0 : (int)-n;
        if (n == 0)
            turn_or_wait(r, fd, POLLIN, "the end of the stream");
    }
}

/* ---- bytes that can be told apart ---- */

/* Eight bytes of the stream: the finaliser of splitmix64, in which every bit depends on every
 * bit. */
static uint64_t word_of(uint64_t seed, uint64_t index) {
    uint64_t z = (seed + 1) * 0x9e3779b97f4a7c15u + index;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void test_pattern(void *to, size_t size, uint64_t seed, uint64_t offset) {
    char *at = to;
    while (size > 0) {
        uint64_t word = word_of(seed, offset / 8);
        size_t skip = offset % 8, part = 8 - skip < size ? 8 - skip : size;
        memcpy(at, (const char *)&word + skip, part);
        at += part;
        offset += part;
        size -= part;
    }
}

void test_pattern_check(const void *data, size_t size, uint64_t seed, uint64_t offset) {
    const unsigned char *bytes = data;
    for (size_t done = 0; done < size;) {
        unsigned char want[4096];
        size_t part = size - done < sizeof want ? size - done : sizeof want;
        test_pattern(want, part, seed, offset + done);
        if (memcmp(bytes + done, want, part) != 0) {
            size_t i = 0;
            while (bytes[done + i] == want[i])
                i++;
            FAIL("stream %llu: byte %llu is 0x%02x, not 0x%02x", (unsigned long long)seed,
                 (unsigned long long)(offset + done + i), bytes[done + i], want[i]);
        }
        done += part;
    }
}

static size_t piece_of(uint64_t left, size_t piece, size_t room) {
    size_t size = piece && piece < room ? piece : room;
    return left < size ? (size_t)left : size;
}

static char *room_for(size_t size) {
    char *bytes = malloc(size);
    CHECK(bytes != NULL);
    return bytes;
}

void test_send_pattern(struct kr_reactor *r, int fd, size_t size, uint64_t seed, uint64_t offset) {
    char *bytes = room_for(size);
    test_pattern(bytes, size, seed, offset);
    test_send(r, fd, bytes, size);
    free(bytes);
}

void test_recv_pattern(struct kr_reactor *r, int fd, size_t size, uint64_t seed, uint64_t offset) {
    char *bytes = room_for(size);
    test_recv(r, fd, bytes, size);
    test_pattern_check(bytes, size, seed, offset);
    free(bytes);
}

int test_queue_pattern(struct kr_reactor *r, kr_conn conn, size_t size, uint64_t seed,
                       uint64_t offset) {
    char *bytes = room_for(size);
    test_pattern(bytes, size, seed, offset);
    int rc = kr_conn_send(r, conn, bytes, size);
    free(bytes);
    return rc;
}

bool test_echo_move(struct test_echo *echo) {
    char bytes[16384];
    uint64_t before = echo->sent + echo->got;
    size_t size = piece_of(echo->total - echo->sent, echo->send_piece, sizeof bytes);
    if (size > 0) {
        test_pattern(bytes, size, echo->seed, echo->sent);
        long n = test_send_some(echo->fd, bytes, size);
        if (n < 0)
            FAIL("stream %llu: send: %s", (unsigned long long)echo->seed, strerror((int)-n));
        echo->sent += (uint64_t)n;
    }
    long n = test_recv_some(echo->fd, bytes, piece_of(UINT64_MAX, echo->recv_piece, sizeof bytes));
    if (n < 0)
        FAIL("stream %llu: after %llu of %llu bytes: %s", (unsigned long long)echo->seed,
             (unsigned long long)echo->got, (unsigned long long)echo->total,
             n == TEST_EOF ? "the peer ended" : strerror((int)-n));
    test_pattern_check(bytes, (size_t)n, echo->seed, echo->got);
    echo->got += (uint64_t)n;
    CHECK_LE(echo->got, echo->sent);
    return echo->sent + echo->got != before;
}
