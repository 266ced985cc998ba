/* Random calls: every public function, in any order, on the real kernel.
 *
 * The library's part of it is whatever a user could do by its contract, however odd; see
 * random/random.h for how it is made, and random/calls.c for the table. Checked: no callback runs
 * within a call or within another, or of a connection whose close has begun; on_close and whatever
 * else is owed comes once, in order; all bytes are where they must be; at rest the reactor sleeps; it
 * is left with nothing in use; and kr_reactor_free returns, with all memory and descriptors back.
 * In builds with checks (KR_CHECKED) the library's own audit runs at each wait.
 *
 * A case is as many rounds as there is time for, and as it takes to call every function. A round that fails says its number, and is repeated
 * by KR_TEST_ROUND=NUMBER as far as the kernel does the same again. */
#include "random/random.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define S (1000 * MS)
#define REST_NS (5 * MS)

#if defined(__SANITIZE_ADDRESS__)
#define BUDGET_NS (17 * S)
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BUDGET_NS (17 * S)
#endif
#endif
#ifndef BUDGET_NS
#define BUDGET_NS (12 * S)
#endif
#define FULL_BUDGET_NS (290 * S)
#define ROUNDS_MOST 5000u /* where turns take long, until every function was called */

struct world *world_now;

/* ---- chance: splitmix64 ---- */

uint64_t chance_number(struct world *w, uint64_t bound) {
    uint64_t z = w->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) % bound;
}

uint64_t chance_some(struct world *w, uint64_t most) {
    return 1 + chance_number(w, 1 + chance_number(w, most));
}

void trace(const struct world *w, const char *format, ...) {
    if (!w->traced)
        return;
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

/* ---- links ---- */

struct link *link_new(struct world *w) {
    if (w->link_count == LINKS || w->ending)
        return NULL;
    struct link *l = &w->links[w->link_count];
    *l = (struct link){
        .w = w,
        .index = w->link_count++,
        .in_seed = chance_number(w, UINT32_MAX),
        .out_seed = chance_number(w, UINT32_MAX),
        .fd = -1,
        .listening = -1,
        .slowness = (unsigned)chance_number(w, 1000),
    };
    return l;
}

unsigned links_alive(const struct world *w) {
    unsigned alive = 0;
    for (unsigned i = 0; i < w->link_count; i++)
        alive += w->links[i].known || w->links[i].fd >= 0;
    return alive;
}

struct link *link_pick(struct world *w) {
    for (unsigned tries = 0; w->link_count && tries < 6; tries++) {
        unsigned newest = w->link_count < 40 ? w->link_count : 40;
        struct link *l = &w->links[w->link_count - 1 - chance_number(w, newest)];
        if (l->known)
            return l;
    }
    return NULL;
}

struct link *link_of(struct world *w, kr_conn conn) {
    return kr_conn_user(w->r, conn);
}

/* ---- a round ---- */

/* Small, so that everything is full now and then. */
static void round_begin(struct world *w) {
    struct kr_config config = test_config();
    config.sq_entries = (unsigned)chance_some(w, 16);
    config.cq_entries = 64;
    config.conn_max = 4 + (unsigned)chance_some(w, 28);
    config.connect_max = 4 + (unsigned)chance_some(w, 20);
    config.listener_max = LISTENERS + 1;
    config.buf_count = 1u << chance_number(w, 5);
    config.buf_size = 16 + (size_t)chance_some(w, 4096);
    config.post_max = (unsigned)chance_some(w, 8);
    config.turn_cqes = (unsigned)chance_some(w, 64);
    config.turn_posts = (unsigned)chance_some(w, 8);
    config.turn_bytes = (unsigned)chance_some(w, 65536);
    config.table = w->table = chance(w, 300) ? KR_TABLE_PLAIN : KR_TABLE_AUTO;
    w->r = test_reactor(&config);
    struct kr_conn_opts *o = &w->conn_opts;
    kr_conn_opts_init(o);
    o->send_low = (size_t)chance_some(w, 2000);
    o->send_high = o->send_low + (size_t)chance_number(w, 20000);
    o->send_cap = o->send_high + (size_t)chance_some(w, 60000);
    o->recv_cap = (size_t)chance_some(w, 20000) + 4;
    o->recv_fds = (unsigned)chance_number(w, 5);
    o->keep_fd = chance(w, 300);
    o->inline_size = chance(w, 300) ? (size_t)chance_some(w, 200) : 0;
    o->zerocopy_min = chance(w, 300) ? (size_t)chance_some(w, 4096) : 0;
    o->flush_ns = (int64_t)chance_some(w, 50) * MS;
}

static void report(void *arg) {
    const struct world *w = arg;
    tap_note("round %#llx: repeat with KR_TEST_ROUND=%#llx", (unsigned long long)w->seed,
             (unsigned long long)w->seed);
    if (w->r)
        (void)kr_dump(w->r, STDERR_FILENO);
}

/* Some calls, some doings of the peers, a turn. */
static void round_act(struct world *w) {
    calls_some(w);
    if (chance(w, 300))
        peer_client(w);
    peers_act(w);
    CHECK_OK(kr_step(w->r, chance(w, 256) ? MS / 4 : 0));
}

/* With nothing done to it a reactor comes to sleep: a turn that waits its whole time. Bytes that are
 * on their way come first, and deadlines and timers that are due, which are few. */
static void check_rest(struct world *w) {
    uint64_t moved = 0;
    for (unsigned turns = 0;; turns++) {
        CHECK_LT(turns, 2000u); /* it spins */
        struct kr_stats before = test_stats(w->r);
        if (moved != before.bytes_in + before.bytes_out)
            turns = 0;
        moved = before.bytes_in + before.bytes_out;
        int64_t began = tap_now_ns();
        CHECK_OK(kr_step(w->r, REST_NS));
        struct kr_stats after = test_stats(w->r);
        if (after.waits > before.waits && after.cqes == before.cqes &&
            tap_now_ns() - began >= REST_NS)
            return;
    }
}

/* All peers go, and the program closes what it has: nothing is left. */
static void round_end_quietly(struct world *w) {
    w->ending = true;
    kr_stop(w->r);
    CHECK_OK(kr_run(w->r));
    for (unsigned i = 0; i < TIMERS; i++) {
        if (w->timing[i])
            CHECK_OK(kr_timer_stop(w->r, w->timers[i]));
        w->timing[i] = false;
    }
    if (!w->draining)
        check_rest(w);
    peers_close(w);
    for (unsigned i = 0; i < w->link_count; i++) {
        struct link *l = &w->links[i];
        if (!l->known)
            continue;
        CHECK_OK(kr_conn_close(w->r, l->conn, KR_CLOSE_NOW));
        program_closes(l, KR_CLOSE_NOW);
    }
    for (unsigned i = 0; i < LISTENERS; i++) {
        if (w->listening[i])
            CHECK_OK(kr_listener_close(w->r, w->listeners[i]));
    }
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
    TEST_UNTIL(w->r, !w->draining && w->drains == w->drained);
    TEST_UNTIL(w->r, w->posts_ran == w->posts_made);
    for (unsigned i = 0; i < LEASES; i++) {
        if (w->leased[i])
            CHECK_OK(kr_lease_return(w->r, w->leases[i]));
        w->leased[i] = false;
    }
    struct kr_stats stats = test_stats(w->r);
    CHECK_EQ(stats.bufs_out, 0u);
    CHECK_EQ(stats.sends_out, 0u);
}

static void round_run(struct world *w) {
    uint64_t acts = chance_some(w, 800);
    for (uint64_t i = 0; i < acts; i++)
        round_act(w);
    if (chance(w, 700))
        round_end_quietly(w);
    w->ending = true;
    test_reactor_free(w->r);
    w->r = NULL;
    for (unsigned i = 0; i < w->link_count; i++) {
        CHECK(!w->links[i].known);
        CHECK_EQ(w->links[i].owed, 0u);
    }
    CHECK_EQ(w->posts_ran, w->posts_made);
    CHECK(w->noticed);
    peers_close(w);
}

static int file_make(void) {
    int fd = CHECK_SYS(memfd_create("random", MFD_CLOEXEC));
    static char bytes[FILE_SIZE];
    test_pattern(bytes, sizeof bytes, FILE_SEED, 0);
    CHECK_EQ(write(fd, bytes, sizeof bytes), (ssize_t)sizeof bytes);
    return fd;
}

static void play(uint64_t seed) {
    struct world *w = calloc(1, sizeof *w);
    CHECK(w);
    *w = (struct world){.seed = seed, .random = seed, .traced = getenv("KR_TEST_TRACE") != NULL};
    unsigned pid = (unsigned)getpid();
    snprintf(w->host, sizeof w->host, "127.%u.%u.%u", 1 + pid / 65536 % 200, pid / 256 % 256, pid % 256);
    snprintf(w->name, sizeof w->name, "@kreactor-random-%d", (int)getpid());
    w->notice = (struct kr_notice){.fn = program_noticed, .arg = w};
    w->noticed = true;
    world_now = w;
    tap_on_fail(report, w);
    w->file = file_make();
    w->null = CHECK_SYS(open("/dev/null", O_RDWR | O_CLOEXEC));
    int fds = tap_fd_count();
    round_begin(w);
    round_run(w);
    CHECK_EQ(tap_fd_count(), fds);
    test_close(w->file);
    test_close(w->null);
    tap_on_fail_undo(report, w);
    free(w);
}

static bool all_called(void) {
    for (unsigned i = 0; i < call_count; i++) {
        if (!calls_made[i])
            return false;
    }
    return true;
}

/* Ours: whatever a program may do, in any order, the contract holds. */
TEST_EACH(random_calls, .deadline_s = 360) {
    CHECK_NE(signal(SIGPIPE, SIG_IGN), SIG_ERR);
    const char *one = getenv("KR_TEST_ROUND");
    if (one) {
        play(strtoull(one, NULL, 0));
        return;
    }
    int64_t until = tap_now_ns() + (tap_full() ? FULL_BUDGET_NS : BUDGET_NS);
    unsigned rounds = 0;
    for (; tap_now_ns() < until || (rounds < ROUNDS_MOST && !all_called()); rounds++)
        play(tap_random());
    tap_note("%u rounds", rounds);
    for (unsigned i = 0; i < call_count; i++)
        if (!calls_made[i])
            FAIL("%s was never called", calls[i].name);
}

static bool has_row(const char *name, size_t size) {
    for (unsigned i = 0; i < call_count; i++) {
        if (strlen(calls[i].name) == size && !memcmp(calls[i].name, name, size))
            return true;
    }
    return false;
}

/* The name before the first parenthesis behind each KR_API. */
static unsigned check_header(const char *header) {
    char path[300];
    static char text[100000];
    snprintf(path, sizeof path, "%s/%s", HEADERS, header);
    int fd = CHECK_SYS(open(path, O_RDONLY | O_CLOEXEC));
    ssize_t size = CHECK_SYS(read(fd, text, sizeof text - 1));
    text[size] = 0;
    test_close(fd);
    unsigned found = 0;
    for (const char *at = text; (at = strstr(at, "\nKR_API ")); found++) {
        at = strchr(at, '(');
        CHECK(at);
        const char *end = at;
        while (at[-1] == '_' || (at[-1] >= 'a' && at[-1] <= 'z'))
            at--;
        if (!has_row(at, (size_t)(end - at)))
            FAIL("no row for %.*s of %s", (int)(end - at), at, path);
    }
    return found;
}

/* Ours: the table has a row for every public function but those of the simulated kernel. */
TEST(random_table_has_every_public_function) {
    DIR *dir = opendir(HEADERS);
    CHECK(dir);
    unsigned found = 0;
    for (const struct dirent *entry; (entry = readdir(dir));) {
        if (strstr(entry->d_name, ".h") && strcmp(entry->d_name, "sim.h") != 0)
            found += check_header(entry->d_name);
    }
    closedir(dir);
    CHECK_GE(found, 60u);
}

TAP_MAIN(random, 5)
