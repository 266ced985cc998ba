/* Memory refused: whichever allocation fails, nothing crashes, nothing leaks, and the reactor lives
 * on.
 *
 * A scenario is run once to count the calls of the allocator; then again and again, with the first
 * of them refused, the second, and so on, and then with all refused from the first on, from the
 * second on ... Each of these runs is a point. After each, memory is there again, and the same
 * reactor has to serve a new listener's client, a timer and a post; then it is freed, and its
 * allocator must have all back.
 *
 * A scenario is written so that it ends either way: its client goes on until it has what it wanted
 * or until the connection ends, and only a refusal excuses the latter. */
#include "torture/torture.h"

#include "roof/reactor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- the allocator ---- */

/* Stands before each block; the size must come back with it. */
struct block {
    _Alignas(16) size_t size;
};

static void *torturer_alloc(void *ctx, size_t size) {
    struct torturer *t = ctx;
    int64_t call = t->calls++;
    if (t->refuse_at >= 0 && (call == t->refuse_at || (t->for_good && call > t->refuse_at))) {
        t->refused++;
        return NULL;
    }
    struct block *block = malloc(sizeof *block + size);
    CHECK(block);
    block->size = size;
    t->bytes += (int64_t)size;
    return memset(block + 1, 0xa5, size); /* whoever takes it for zeroed is found out */
}

static void torturer_free(void *ctx, void *memory, size_t size) {
    struct torturer *t = ctx;
    struct block *block = (struct block *)memory - 1;
    CHECK_EQ(block->size, size);
    t->bytes -= (int64_t)size;
    free(block);
}

/* ---- the world of one run ---- */

bool whole(const struct world *w) {
    return w->t.refused == 0;
}

bool good(const struct world *w, int rc) {
    if (rc == -ENOMEM && !whole(w))
        return false;
    CHECK_OK(rc);
    return true;
}

void world_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct world *w = user;
    w->opens++;
    w->conn = conn;
}

void world_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    UNUSED(r, conn, why);
    struct world *w = user;
    w->closes++;
    CHECK(error != -ENOMEM || !whole(w));
}

void world_drain(struct kr_reactor *r, kr_conn conn, void *user) {
    UNUSED(r, conn);
    ((struct world *)user)->drains++;
}

void world_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    UNUSED(r, timer);
    ((struct world *)user)->fires++;
}

static void world_post(struct kr_reactor *r, void *arg) {
    (void)r;
    ((struct world *)arg)->posts++;
}

bool sent(struct kr_reactor *r, kr_conn conn, const struct world *w, int rc) {
    if (rc == -EPIPE || good(w, rc))
        return true;
    CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_RESET));
    return false;
}

size_t data_echo(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size) {
    int rc = kr_conn_send(r, conn, data, size);
    if (rc == -ENOBUFS)
        return 0;
    sent(r, conn, user, rc);
    return size;
}

const struct kr_conn_ops echo_ops = {
    .on_open = world_open,
    .on_data = data_echo,
    .on_writable = world_drain,
    .on_close = world_close,
};

struct kr_listen_opts small_opts(void) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.backlog = 4;
    return opts;
}

bool listens(struct world *w, const struct kr_listen_opts *opts, const struct kr_conn_ops *ops) {
    struct kr_listen_opts defaults = small_opts();
    struct kr_addr addr = test_loopback(0);
    if (!good(w, kr_listen(w->r, &w->listener, &addr, opts ? opts : &defaults, ops, w)))
        return false;
    CHECK_OK(kr_listener_addr(w->r, w->listener, &addr));
    w->port = kr_addr_port(&addr);
    return true;
}

size_t exchange(struct world *w, int fd, size_t size, size_t want) {
    static char bytes[8192];
    size_t done = 0, got = 0;
    while (got < want) {
        size_t part = size - done < sizeof bytes ? size - done : sizeof bytes;
        test_pattern(bytes, part, 1, done);
        long n = part ? test_send_some(fd, bytes, part) : 0;
        if (n < 0) {
            CHECK(!whole(w));
            break;
        }
        done += (size_t)n;
        n = test_recv_some(fd, bytes, sizeof bytes);
        if (n < 0) {
            CHECK(!whole(w));
            break;
        }
        test_pattern_check(bytes, (size_t)n, 1, got);
        got += (size_t)n;
        test_step(w->r, "an exchange with a client");
    }
    return got;
}

void serve_one(struct world *w, size_t size, size_t want) {
    int fd = test_connect(w->port);
    exchange(w, fd, size, want);
    test_close(fd);
    TEST_UNTIL(w->r, test_stats(w->r).conns == 0);
}

/* ---- the torture ---- */

static void world_begin(struct world *w, const struct kr_config *config, int64_t refuse_at,
                        bool for_good) {
    *w = (struct world){.config = *config};
    w->t = (struct torturer){.alloc = {torturer_alloc, torturer_free, &w->t}, .refuse_at = -1};
    w->config.alloc = &w->t.alloc;
    w->r = test_reactor(&w->config);
    test_step(w->r, "the first turn");
    w->t.calls = 0;
    w->t.refuse_at = refuse_at;
    w->t.for_good = for_good;
}

/* The reactor is as good as new. */
static void check_usable(struct world *w) {
    w->t.refuse_at = -1;
    w->t.refused = 0;
    unsigned fires = w->fires, posts = w->posts;
    CHECK(listens(w, NULL, &echo_ops));
    int fd = test_connect(w->port);
    CHECK_EQ(exchange(w, fd, 3000, 3000), 3000u);
    test_close(fd);
    CHECK_OK(kr_timer_start(w->r, NULL, 0, 0, world_fire, w));
    CHECK_OK(kr_post(w->r, world_post, w));
    TEST_UNTIL(w->r, w->fires > fires && w->posts > posts);
}

/* All points of all cases, which are processes of their own. */
static int64_t *points_run;

static void points_add(int64_t points) {
    __atomic_fetch_add(points_run, points, __ATOMIC_RELAXED);
}

/* One run; returns how many calls there were, and whether one was refused. */
static int64_t run(scenario_fn *scenario, const struct kr_config *config, int64_t refuse_at,
                   bool for_good, bool *refused) {
    static struct world w;
    world_begin(&w, config, refuse_at, for_good);
    scenario(&w);
    int64_t calls = w.t.calls;
    *refused = w.t.refused > 0;
    check_usable(&w);
    test_reactor_free(w.r);
    CHECK_EQ(w.opens, w.closes);
    CHECK_EQ(w.t.bytes, 0);
    return calls;
}

static struct {
    int64_t at;
    bool for_good;
} point;

static void point_show(void *unused) {
    (void)unused;
    tap_note("refused: allocation %lld%s", (long long)point.at,
             point.for_good ? " and all after it" : "");
}

/* Refuses the first, the second ... until a run has no such allocation. Returns how many there
 * were. */
static int64_t refuse_each(scenario_fn *scenario, const struct kr_config *config, bool for_good) {
    bool refused = true;
    int64_t at = 0;
    for (; at < POINTS_MAX; at++) {
        point.at = at;
        point.for_good = for_good;
        run(scenario, config, at, for_good, &refused);
        if (!refused)
            return at;
    }
    FAIL("more than %d allocations", POINTS_MAX);
}

void torture(scenario_fn *scenario, const struct kr_config *config, int64_t least) {
    int fds = tap_fd_count();
    tap_on_fail(point_show, NULL);
    bool refused;
    point.at = -1;
    int64_t calls = run(scenario, config, -1, false, &refused);
    CHECK_GE(calls, least); /* or the scenario tests nothing any more */
    int64_t points = refuse_each(scenario, config, false) + refuse_each(scenario, config, true);
    CHECK_GE(points, 2 * least);
    CHECK_EQ(tap_fd_count(), fds);
    points_add(points);
    tap_note("%lld allocations, %lld points", (long long)calls, (long long)points);
}

struct kr_config small_config(void) {
    struct kr_config config = test_config();
    config.sq_entries = 32;
    config.cq_entries = 128;
    config.conn_max = 16;
    config.listener_max = 8;
    config.buf_count = 16;
    config.buf_size = 2048;
    return config;
}

/* ---- making a reactor ---- */

/* Ours: whichever allocation of a set-up is refused, it is explained as memory, and nothing is
 * left. */
TEST_EACH(make) {
    struct kr_config config = small_config();
    config.taskrun = (enum kr_taskrun)tap_variant()->mode;
    int fds = tap_fd_count();
    int64_t at = 0;
    for (int rc = -ENOMEM; rc < 0; at++) {
        struct torturer t = {
            .alloc = {torturer_alloc, torturer_free, &t}, .refuse_at = at, .for_good = at % 2};
        config.alloc = &t.alloc;
        struct kr_reactor *r = NULL;
        struct kr_failure why;
        rc = kr__reactor_new(&r, &config, &why, &kr__linux, (unsigned)tap_variant()->caps_mask);
        if (rc == 0) {
            CHECK_EQ(t.refused, 0u);
            CHECK_OK(kr_reactor_free(r));
        } else {
            CHECK_EQ(rc, -ENOMEM);
            CHECK(!r);
            CHECK_EQ(why.refused, KR_REFUSED_MEMORY);
        }
        CHECK_EQ(t.bytes, 0);
        CHECK_EQ(tap_fd_count(), fds);
    }
    CHECK_GE(at, 5);
    points_add(at - 1);
}

int main(int argc, char **argv) {
    points_run =
        mmap(NULL, sizeof *points_run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (points_run == MAP_FAILED)
        return 1;
    int rc = tap_main("torture", 172, argc, argv);
    if (*points_run)
        printf("# %lld points at which memory was refused\n", (long long)*points_run);
    return rc;
}
