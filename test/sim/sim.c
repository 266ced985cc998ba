/* The storm as a suite: ours, all of it. What is promised is at the head of storm.c. */
#include "conn/conn.h"
#include "harness/tap.h"
#include "sim/seeds.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SEEDS_FILE
#define SEEDS_FILE "test/seeds/kept"
#endif

/* Ours: in no schedule does a connection wedge, a byte go astray, a callback come twice, memory
 * stay. And the storm has come by every fault and every rare path, or it would prove nothing. */
TEST(storm_breaks_no_promise, .deadline_s = 280, .alone = true) {
    uint64_t count = tap_full() ? 200000 : 9000;
    struct batch b = {.first = 1, .last = count, .jobs = 2};
    struct tally t;
    batch_run(&t, &b);
    tap_note("%llu seeds, %llu turns", (unsigned long long)t.seeds, (unsigned long long)t.turns);
    CHECK_EQ(t.failed, 0);
    CHECK_EQ(t.seeds, count);
    CHECK_EQ(batch_unmet(&t), 0);
}

/* Ours: a seed that is new each time, so that what has not been tried yet is. A failure names
 * it. */
TEST(storm_breaks_no_promise_with_fresh_seeds, .deadline_s = 120, .alone = true) {
    uint64_t first = UINT64_C(1000000) + tap_random_below(UINT64_C(1) << 40);
    struct batch b = {.first = first, .last = first + 999, .jobs = 2};
    struct tally t;
    batch_run(&t, &b);
    CHECK_EQ(t.failed, 0);
    CHECK_EQ(t.seeds, 1000);
}

/* Ours: the same seed is the same run. */
TEST(same_seed_same_run, .deadline_s = 120) {
    for (uint64_t seed = 1; seed <= 1000; seed++) {
        struct storm_result one, two;
        storm_run(&one, seed, scenario_of(seed), 0, NULL);
        storm_run(&two, seed, scenario_of(seed), 0, NULL);
        CHECK_EQ(one.hash, two.hash);
        CHECK_EQ(one.turns, two.turns);
    }
}

/* Ours: a different seed is a different run, else the one above would prove nothing. */
TEST(other_seed_other_run) {
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct storm_result one, two;
        storm_run(&one, seed, &scenarios[0], 0, NULL);
        storm_run(&two, seed + 1, &scenarios[0], 0, NULL);
        CHECK_NE(one.hash, two.hash);
    }
}

static void check_kept(const struct kept_seed *kept) {
    int64_t hits = seed_run(kept);
    if (hits < 0)
        FAIL("scenario %s seed %llu fails", kept->scenario->name, (unsigned long long)kept->seed);
    if (hits == 0 && KR_CHECKED)
        FAIL("scenario %s seed %llu does not come by %s any more: kr-sim --renew",
             kept->scenario->name, (unsigned long long)kept->seed, kept->mark);
}

/* Ours: what has once failed is run for ever, by the path on which it failed. */
TEST(kept_seeds_pass, .deadline_s = 60) {
    FILE *file = fopen(SEEDS_FILE, "r");
    CHECK(file != NULL);
    char line[SEED_LINE_MAX];
    unsigned count = 0;
    while (fgets(line, sizeof line, file)) {
        struct kept_seed kept;
        int is_seed = seed_parse(line, &kept);
        if (is_seed < 0)
            FAIL("no scenario, seed and mark: %s", line);
        if (is_seed)
            check_kept(&kept);
        count += is_seed > 0;
    }
    fclose(file);
    CHECK_GE(count, 20u);
}

/* ---- a reset that comes with bytes ---- */

/* A server that only reads, and one peer of it, on a simulated Linux 6.`minor`. */
struct reading {
    struct kr_sim *sim;
    struct kr_reactor *r;
    kr_sim_peer peer;
    unsigned opens, closes;
    size_t bytes;
    int error;
};

static void reading_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    (void)conn;
    ((struct reading *)user)->opens++;
}

static size_t reading_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                           size_t size) {
    (void)r;
    (void)conn;
    (void)data;
    ((struct reading *)user)->bytes += size;
    return size;
}

static void reading_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                          enum kr_why why) {
    (void)r;
    (void)conn;
    (void)why;
    ((struct reading *)user)->closes++;
    ((struct reading *)user)->error = error;
}

static const struct kr_conn_ops reading_ops = {
    .on_open = reading_open, .on_data = reading_data, .on_close = reading_close};

static void reading_begin(struct reading *x, unsigned minor) {
    *x = (struct reading){0};
    CHECK_OK(kr_sim_new(&x->sim, 1));
    CHECK_OK(kr_sim_linux(x->sim, 6, minor));
    CHECK_OK(kr_sim_reactor(x->sim, &x->r, NULL));
    struct kr_addr addr;
    kr_listener listener;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", PORT));
    CHECK_OK(kr_listen(x->r, &listener, &addr, NULL, &reading_ops, x));
    CHECK_OK(kr_sim_connect(x->sim, &x->peer, PORT));
    while (!x->opens)
        CHECK_OK(kr_step(x->r, -1));
    CHECK_OK(kr_step(x->r, 0)); /* its receive is there */
}

static void reading_end(struct reading *x) {
    CHECK_OK(kr_reactor_free(x->r));
    CHECK_OK(kr_sim_free(x->sim));
}

static uint64_t requests(const struct reading *x) {
    struct kr_stats stats;
    kr_stats_read(x->r, &stats, sizeof stats);
    return stats.sqes;
}

/* Ours: both come while the reactor is elsewhere, and the reset is told: at once, or where the
 * kernel keeps it to itself, which the simulated 6.12 to 6.17 do, by a second look. */
TEST(reset_that_comes_with_bytes_is_told) {
    static const unsigned minors[] = {1, 12, 17, 18};
    for (unsigned i = 0; i < sizeof minors / sizeof *minors; i++) {
        struct reading x;
        reading_begin(&x, minors[i]);
        CHECK_EQ(kr_sim_send(x.sim, x.peer, "hi", 2), 2);
        CHECK_OK(kr_sim_reset(x.sim, x.peer));
        int64_t since = kr_sim_now(x.sim);
        while (!x.closes)
            CHECK_OK(kr_step(x.r, -1)); /* -EDEADLK: it never will be */
        int64_t took = kr_sim_now(x.sim) - since;
        bool keeps = minors[i] == 12 || minors[i] == 17;
        CHECK(keeps ? took >= KR__LOOK_NS && took < 2 * KR__LOOK_NS : took < KR__LOOK_NS);
        CHECK_EQ(x.bytes, 2u);
        CHECK_EQ(x.error, -ECONNRESET);
        reading_end(&x);
    }
}

/* Ours: the second look costs a connection nothing while bytes come, a cancel and a receive after a
 * burst of them, and then nothing again. */
TEST(second_look_waits_until_it_is_quiet) {
    struct reading x;
    reading_begin(&x, 12);
    uint64_t before = requests(&x);
    for (unsigned i = 0; i < 100; i++) {
        CHECK_EQ(kr_sim_send(x.sim, x.peer, "hi", 2), 2);
        CHECK_OK(kr_step(x.r, 0));
        CHECK_OK(kr_sim_advance(x.sim, KR__LOOK_NS / 10));
    }
    CHECK_EQ(x.bytes, 200u);
    CHECK_EQ(requests(&x), before);
    for (unsigned i = 0; i < 100; i++)
        CHECK_OK(kr_step(x.r, KR__LOOK_NS / 10));
    CHECK_EQ(requests(&x), before + 2);
    CHECK_EQ(kr_sim_send(x.sim, x.peer, "hi", 2), 2);
    CHECK_OK(kr_step(x.r, -1));
    CHECK_EQ(x.bytes, 202u);
    reading_end(&x);
}

static void nothing(struct kr_sim *sim, void *arg) {
    (void)sim;
    (void)arg;
}

/* Ours: without a world each function says so, or does nothing. */
TEST(no_world_is_an_error) {
    struct kr_reactor *r;
    kr_sim_peer peer = {0};
    CHECK_ERR(kr_sim_new(NULL, 1), EINVAL);
    CHECK_ERR(kr_sim_reactor(NULL, &r, NULL), EINVAL);
    CHECK_ERR(kr_sim_at(NULL, 0, nothing, NULL), EINVAL);
    CHECK_ERR(kr_sim_advance(NULL, 1), EINVAL);
    CHECK_ERR(kr_sim_run_until(NULL, NULL, NULL, NULL, 1), EINVAL);
    CHECK_ERR(kr_sim_connect(NULL, &peer, PORT), EINVAL);
    CHECK_ERR(kr_sim_window(NULL, peer, 1, 1), ESTALE);
    CHECK_ERR(kr_sim_send(NULL, peer, "x", 1), ESTALE);
    CHECK_ERR(kr_sim_urge(NULL, peer, 1), ESTALE);
    CHECK_ERR(kr_sim_recv(NULL, peer, &peer, 1), ESTALE);
    CHECK_ERR(kr_sim_shutdown(NULL, peer), ESTALE);
    CHECK_ERR(kr_sim_close(NULL, peer), ESTALE);
    CHECK_ERR(kr_sim_reset(NULL, peer), ESTALE);
    CHECK_ERR(kr_sim_fault_set(NULL, KR_SIM_BUSY, 1), EINVAL);
    CHECK_ERR(kr_sim_fault_swarm(NULL), EINVAL);
    CHECK_EQ(kr_sim_readable(NULL, peer), 0u);
    CHECK_EQ(kr_sim_fault_hits(NULL, KR_SIM_BUSY), 0u);
    CHECK_EQ(kr_sim_now(NULL), 0);
    CHECK_EQ(kr_sim_hash(NULL), 0u);
    CHECK_EQ(kr_sim_random(NULL, 1), 0u);
    kr_sim_note(NULL, "nothing", 0, 0);
    kr_sim_trace(NULL, NULL, NULL);
    CHECK_EQ(kr_sim_free(NULL), 0);
}

static void abort_at_a_turn(void *arg, const char *line) {
    (void)arg;
    if (strstr(line, " turn "))
        abort();
}

/* Ours: a run that aborts shows what its reactor was doing. */
TEST(failing_seed_shows_its_reactor) {
    int ends[2];
    CHECK_SYS(pipe(ends));
    pid_t pid = CHECK_SYS(fork());
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        struct storm_result one;
        storm_run(&one, 1, &scenarios[0], 0, abort_at_a_turn);
        _exit(EXIT_SUCCESS);
    }
    CHECK_SYS(close(ends[1]));
    char text[16384];
    size_t size = 0;
    ssize_t got;
    while ((got = CHECK_SYS(read(ends[0], text + size, sizeof text - 1 - size))) > 0)
        size += (size_t)got;
    text[size] = 0;
    CHECK_SYS(close(ends[0]));
    int status;
    CHECK_SYS(waitpid(pid, &status, 0));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(strstr(text, "kreactor ") && strstr(text, "\nlistener "));
}

TAP_MAIN(sim, 9)
