/* micro: what the parts of the library cost by themselves.
 *
 *     micro [--quick]
 *
 * Prints a JSON object a line: {"micro": name, "mode": coop or defer, "value": median of the
 * trials, "low", "high": their extremes, "unit", "trials"}. Nanoseconds are CPU time of the calling
 * thread (man clock_gettime, CLOCK_THREAD_CPUTIME_ID) unless the name says wall.
 *
 *   empty_turn        kr_step with nothing to do and no wait
 *   nop               a request and its completion, 64 a turn, over the empty turn
 *   timer_start_stop  start and stop, with no other and with 100,000 other timers
 *   timer_fire        a due timer, of 10,000 due at once, with its start
 *   post_own          kr_post and its run, on the reactor's thread, 64 a turn
 *   post_other        the same from another thread, as fast as it can; the reactor's CPU time
 *   post_wake_wall    from kr_post in another thread to the call in a sleeping reactor
 *   echo_allocs       calls of the allocator in the echoes after warm-up, while one connection in a
 *                     thousand echoes is closed and opened anew; must be 0
 */
#include "conn/reactor.h"
#include "roof/nop.h"

#include <kreactor.h>

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TRIALS = 9, BATCH = 64, CROWD = 100000 };

static enum kr_taskrun mode;
static bool quick;

static void die(const char *what, int error) {
    fprintf(stderr, "micro: %s: %s\n", what, kr_errname(error));
    exit(1);
}

static void check(const char *what, int rc) {
    if (rc < 0)
        die(what, rc);
}

static int64_t clock_ns(clockid_t clock) {
    struct timespec ts;
    clock_gettime(clock, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static int64_t cpu_ns(void) {
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const char *name, double *values, unsigned count, const char *unit) {
    qsort(values, count, sizeof(*values), by_value);
    printf("{\"micro\": \"%s\", \"mode\": \"%s\", \"value\": %.1f, \"low\": %.1f, \"high\": %.1f, "
           "\"unit\": \"%s\", \"trials\": %u}\n",
           name, mode == KR_TASKRUN_DEFER ? "defer" : "coop", values[count / 2], values[0],
           values[count - 1], unit, count);
    fflush(stdout);
}

static struct kr_reactor *reactor_make(const struct kr_alloc *alloc) {
    struct kr_config config;
    kr_config_init(&config);
    config.taskrun = mode;
    config.alloc = alloc;
    config.turn_posts = 1u << 16;
    struct kr_reactor *r;
    struct kr_failure why;
    if (kr_reactor_new(&r, &config, &why) < 0) {
        fprintf(stderr, "micro: %s: %s; %s\n", why.tried, why.cause, why.remedy);
        exit(1);
    }
    return r;
}

static void step(struct kr_reactor *r) {
    check("kr_step", kr_step(r, 0));
}

/* One kind of work on a reactor: `count` of it. */
typedef void work_fn(struct kr_reactor *r, unsigned count);

static double cost_ns(struct kr_reactor *r, work_fn *work, unsigned count) {
    work(r, count); /* warm */
    int64_t begin = cpu_ns();
    work(r, count);
    return (double)(cpu_ns() - begin) / count;
}

static void bench(const char *name, struct kr_reactor *r, work_fn *work, unsigned count) {
    double values[TRIALS];
    for (unsigned i = 0; i < TRIALS; i++)
        values[i] = cost_ns(r, work, count);
    print(name, values, TRIALS, "ns");
}

static void empty_turns(struct kr_reactor *r, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        step(r);
}

static void nops(struct kr_reactor *r, unsigned count) {
    uint64_t tag = kr__nop_tag(r);
    for (unsigned i = 0; i < count; i += BATCH) {
        for (unsigned k = 0; k < BATCH; k++)
            check("kr__nop", kr__nop(r, tag, 0));
        step(r);
    }
}

/* What the turns around the NOPs cost is taken off, trial by trial. */
static void bench_nop(struct kr_reactor *r, unsigned count) {
    struct kr_stats before, after;
    kr_stats_read(r, &before, sizeof(before));
    double values[TRIALS];
    for (unsigned i = 0; i < TRIALS; i++)
        values[i] = cost_ns(r, nops, count) - cost_ns(r, empty_turns, count / BATCH) / BATCH;
    kr_stats_read(r, &after, sizeof(after));
    if (after.cqes - before.cqes < (uint64_t)count * TRIALS * 2)
        die("fewer NOP completions than requests", -EIO);
    print("nop", values, TRIALS, "ns");
}

static unsigned fired;

static void on_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)r;
    (void)timer;
    (void)user;
    fired++;
}

static void timer_pairs(struct kr_reactor *r, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        kr_timer timer;
        int64_t in_ns = 1000000000 + (int64_t)(i * 2654435761u % 1000000007u);
        check("kr_timer_start", kr_timer_start(r, &timer, in_ns, 0, on_timer, NULL));
        check("kr_timer_stop", kr_timer_stop(r, timer));
    }
}

static void timer_fires(struct kr_reactor *r, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        check("kr_timer_start", kr_timer_start(r, NULL, 0, 0, on_timer, NULL));
    for (unsigned until = fired + count; fired != until;)
        step(r);
}

static void bench_timers(struct kr_reactor *r, unsigned count) {
    bench("timer_start_stop", r, timer_pairs, count);
    bench("timer_fire", r, timer_fires, 10000);
    for (unsigned i = 0; i < CROWD; i++) {
        int64_t in_ns = 3600000000000 + (int64_t)(i * 2654435761u % 1000000007u) * 1000;
        check("kr_timer_start", kr_timer_start(r, NULL, in_ns, 0, on_timer, NULL));
    }
    bench("timer_start_stop_100000", r, timer_pairs, count);
}

static _Atomic unsigned posts_run;
static _Atomic int64_t post_ran_at;

static void on_post(struct kr_reactor *r, void *arg) {
    (void)r;
    (void)arg;
    atomic_fetch_add_explicit(&posts_run, 1, memory_order_relaxed);
}

/* Posted last; posts of one thread run in their order. */
static void on_post_stop(struct kr_reactor *r, void *arg) {
    (void)arg;
    kr_stop(r);
}

static void on_post_stamp(struct kr_reactor *r, void *arg) {
    (void)r;
    (void)arg;
    atomic_store_explicit(&post_ran_at, clock_ns(CLOCK_MONOTONIC), memory_order_release);
}

static void posts_own(struct kr_reactor *r, unsigned count) {
    unsigned until = atomic_load(&posts_run) + count / BATCH * BATCH;
    for (unsigned i = 0; i < count / BATCH; i++) {
        for (unsigned k = 0; k < BATCH; k++)
            check("kr_post", kr_post(r, on_post, NULL));
        step(r);
    }
    while (atomic_load(&posts_run) != until)
        step(r);
}

struct poster {
    struct kr_reactor *reactor;
    unsigned count;
    double *wake_us;
};

static void post_surely(struct kr_reactor *r, kr_post_fn *fn) {
    int rc;
    while ((rc = kr_post(r, fn, NULL)) == -ENOBUFS)
        sched_yield();
    check("kr_post", rc);
}

static void *post_many(void *arg) {
    struct poster *p = arg;
    for (unsigned i = 0; i < p->count; i++)
        post_surely(p->reactor, on_post);
    post_surely(p->reactor, on_post_stop);
    return NULL;
}

/* The pause lets the reactor go to sleep; it is no wait for an event. */
static void *post_wakes(void *arg) {
    struct poster *p = arg;
    for (unsigned i = 0; i < p->count; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
        atomic_store(&post_ran_at, 0);
        int64_t begin = clock_ns(CLOCK_MONOTONIC), ran;
        post_surely(p->reactor, on_post_stamp);
        while (!(ran = atomic_load_explicit(&post_ran_at, memory_order_acquire)))
            sched_yield();
        p->wake_us[i] = (double)(ran - begin) / 1000;
    }
    post_surely(p->reactor, on_post_stop);
    return NULL;
}

static double run_with(struct poster *p, void *(*thread_fn)(void *)) {
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, thread_fn, p);
    if (rc)
        die("pthread_create", rc);
    int64_t begin = cpu_ns();
    check("kr_run", kr_run(p->reactor));
    int64_t end = cpu_ns();
    pthread_join(thread, NULL);
    return (double)(end - begin) / p->count;
}

static void bench_posts(struct kr_reactor *r, unsigned count) {
    bench("post_own", r, posts_own, count);
    double values[TRIALS];
    for (unsigned i = 0; i < TRIALS; i++) {
        unsigned before = atomic_load(&posts_run);
        values[i] = run_with(&(struct poster){.reactor = r, .count = count}, post_many);
        if (atomic_load(&posts_run) - before != count)
            die("posts were lost", -EIO);
    }
    print("post_other", values, TRIALS, "ns");
    static double wakes[2000];
    unsigned wake_count = quick ? 500 : 2000;
    run_with(&(struct poster){.reactor = r, .count = wake_count, .wake_us = wakes}, post_wakes);
    print("post_wake_wall", wakes, wake_count, "us");
}

/* The allocator that is counted. */
static void *counted_alloc(void *ctx, size_t size) {
    ++*(uint64_t *)ctx;
    return malloc(size);
}

static void counted_free(void *ctx, void *memory, size_t size) {
    ++*(uint64_t *)ctx;
    (void)size;
    free(memory);
}

enum { ECHO_CONNS = 64, ECHO_SIZE = 64, ECHO_LIVES = 1000 };

/* The server's side of echo_allocs. */
struct echo_run {
    uint64_t calls; /* of the allocator, both functions */
    uint64_t bytes;
    uint64_t warm_bytes; /* from here on nothing may be allocated ... */
    uint64_t end_bytes;  /* ... to here */
    uint64_t calls_warm;
    uint64_t calls_end;
    unsigned open;
};

static void on_echo_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    (void)conn;
    ((struct echo_run *)user)->open++;
}

static size_t on_echo_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    struct echo_run *e = user;
    if (kr_conn_send(r, conn, data, size) < 0)
        return 0;
    uint64_t before = e->bytes;
    e->bytes += size;
    if (before < e->warm_bytes && e->bytes >= e->warm_bytes)
        e->calls_warm = e->calls;
    if (before < e->end_bytes && e->bytes >= e->end_bytes)
        e->calls_end = e->calls;
    return size;
}

static void on_echo_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                          enum kr_why why) {
    (void)conn;
    (void)why;
    struct echo_run *e = user;
    if (error < 0)
        die("a connection of echo_allocs", error);
    if (--e->open == 0 && e->bytes >= e->end_bytes)
        kr_stop(r);
}

static const struct kr_conn_ops echo_ops = {
    .on_open = on_echo_open, .on_data = on_echo_data, .on_close = on_echo_close};

static int client_connect(const struct kr_addr *addr) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0 || connect(fd, &addr->u.sa, addr->size) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)
        die("connect", errno);
    return fd;
}

/* Echoes around ECHO_CONNS connections; every ECHO_LIVES echoes one is closed and opened anew. */
static void client_run(const struct kr_addr *addr, uint64_t echoes) {
    int fds[ECHO_CONNS];
    char out[ECHO_SIZE] = "echo", in[ECHO_SIZE];
    for (unsigned i = 0; i < ECHO_CONNS; i++)
        fds[i] = client_connect(addr);
    for (uint64_t done = 0; done < echoes; done += ECHO_CONNS) {
        for (unsigned i = 0; i < ECHO_CONNS; i++)
            if (send(fds[i], out, sizeof(out), MSG_NOSIGNAL) != sizeof(out))
                die("send", errno);
        for (unsigned i = 0; i < ECHO_CONNS; i++)
            if (recv(fds[i], in, sizeof(in), MSG_WAITALL) != sizeof(in) ||
                memcmp(in, out, sizeof(in)))
                die("a wrong echo", -EIO);
        if (done / ECHO_LIVES == (done + ECHO_CONNS) / ECHO_LIVES)
            continue;
        unsigned i = (unsigned)(done / ECHO_LIVES % ECHO_CONNS);
        close(fds[i]);
        fds[i] = client_connect(addr);
    }
}

static pid_t client_fork(const struct kr_addr *addr, uint64_t echoes) {
    pid_t pid = fork();
    if (pid < 0)
        die("fork", errno);
    if (pid > 0)
        return pid;
    alarm(120);
    client_run(addr, echoes);
    _exit(0);
}

static void bench_echo_allocs(uint64_t echoes) {
    uint64_t warm = 50000 / ECHO_CONNS * ECHO_CONNS;
    uint64_t all = warm + (echoes + 2 * ECHO_CONNS - 1) / ECHO_CONNS * ECHO_CONNS;
    struct echo_run e = {.warm_bytes = warm * ECHO_SIZE, .end_bytes = (warm + echoes) * ECHO_SIZE};
    struct kr_alloc alloc = {.alloc = counted_alloc, .free = counted_free, .ctx = &e.calls};
    struct kr_reactor *r = reactor_make(&alloc);
    struct kr_addr addr;
    kr_listener listener;
    check("kr_addr_ip", kr_addr_ip(&addr, "127.0.0.1", 0));
    check("kr_listen", kr_listen(r, &listener, &addr, NULL, &echo_ops, &e));
    check("kr_listener_addr", kr_listener_addr(r, listener, &addr));
    pid_t client = client_fork(&addr, all);
    alarm(120);
    check("kr_run", kr_run(r));
    alarm(0);
    int status;
    if (waitpid(client, &status, 0) < 0 || status != 0)
        die("the client of echo_allocs failed", -EIO);
    check("kr_reactor_free", kr_reactor_free(r));
    double allocs = (double)(e.calls_end - e.calls_warm);
    char name[64];
    snprintf(name, sizeof(name), "echo_allocs_%llu", (unsigned long long)echoes);
    print(name, &allocs, 1, "calls");
}

static void bench_mode(void) {
    unsigned scale = quick ? 1 : 10;
    struct kr_reactor *r = reactor_make(NULL);
    bench("empty_turn", r, empty_turns, 20000 * scale);
    bench_nop(r, 6400 * scale);
    bench_posts(r, 6400 * scale);
    bench_timers(r, 10000 * scale);
    check("kr_reactor_free", kr_reactor_free(r));
    bench_echo_allocs(quick ? 100000 : 1000000);
}

int main(int argc, char **argv) {
    quick = argc > 1 && !strcmp(argv[1], "--quick");
    static const enum kr_taskrun modes[] = {KR_TASKRUN_COOP, KR_TASKRUN_DEFER};
    for (unsigned i = 0; i < 2; i++) {
        mode = modes[i];
        bench_mode();
    }
    return 0;
}
