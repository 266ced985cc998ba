/* Each worker takes every n-th seed and writes what it does to memory that is shared with the
 * parent. When one dies, the parent looks up its seed, finds the shortest prefix that fails, and
 * starts another worker behind it. */
#include "sim/batch.h"

#include "harness/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define JOBS_MAX 16u
#define SEED_S 60u /* a run takes milliseconds; more than this hangs */

struct worker {
    pid_t pid;
    uint64_t seed; /* the one that it is at */
    bool busy, done;
    struct tally tally;
};

static const struct scenario *scenario_for(const struct batch *b, uint64_t seed) {
    return b->only ? b->only : scenario_of(seed);
}

static void add(struct tally *to, const struct storm_result *one) {
    to->seeds++;
    to->turns += one->turns;
    to->hash ^= one->hash;
    for (unsigned i = 0; i < KR_SIM_FAULT_COUNT; i++)
        to->faults[i] += one->faults[i];
    for (unsigned i = 0; i < MARK_COUNT; i++)
        to->marks[i] += one->marks[i];
}

static void join(struct tally *to, const struct tally *one) {
    struct storm_result sum = {.hash = one->hash, .turns = one->turns};
    for (unsigned i = 0; i < KR_SIM_FAULT_COUNT; i++)
        sum.faults[i] = one->faults[i];
    for (unsigned i = 0; i < MARK_COUNT; i++)
        sum.marks[i] = one->marks[i];
    add(to, &sum);
    to->seeds += one->seeds - 1;
}

static void work(const struct batch *b, struct worker *w) {
    for (uint64_t seed = w->seed; seed <= b->last; seed += b->jobs) {
        w->seed = seed;
        alarm(SEED_S);
        struct storm_result one;
        storm_run(&one, seed, scenario_for(b, seed), 0, NULL);
        add(&w->tally, &one);
    }
    alarm(0);
    w->done = true;
}

static void worker_start(const struct batch *b, struct worker *w, uint64_t seed) {
    w->seed = seed;
    w->busy = seed <= b->last;
    if (!w->busy)
        return;
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        perror("fork");
        exit(EXIT_FAILURE);
    }
    if (pid == 0) {
        work(b, w);
        fflush(NULL);
        tap_exit_child(EXIT_SUCCESS);
    }
    w->pid = pid; /* the memory is shared: only the parent writes it */
}

static void hush(void) {
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        dup2(fd, STDERR_FILENO);
}

bool batch_fails(uint64_t seed, const struct scenario *scenario, uint64_t steps, bool quiet) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (quiet)
            hush();
        alarm(SEED_S);
        struct storm_result one;
        storm_run(&one, seed, scenario, steps, NULL);
        tap_exit_child(EXIT_SUCCESS);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    return status != 0;
}

/* Doubling finds an end that fails, halving the shortest one. 0: no prefix fails, only the
 * whole. */
static uint64_t shortest(uint64_t seed, const struct scenario *scenario) {
    uint64_t works = 0, fails = 1;
    while (!batch_fails(seed, scenario, fails, true)) {
        works = fails;
        fails *= 2;
        if (fails > UINT64_C(1) << 20)
            return 0;
    }
    while (fails - works > 1) {
        uint64_t middle = works + (fails - works) / 2;
        if (batch_fails(seed, scenario, middle, true))
            fails = middle;
        else
            works = middle;
    }
    return fails;
}

static void report(const struct batch *b, const struct worker *w) {
    const struct scenario *scenario = scenario_for(b, w->seed);
    uint64_t steps = shortest(w->seed, scenario);
    fprintf(stderr,
            "FAILED seed %llu scenario %s; shortest prefix: %llu turns (0: only as a whole)\n",
            (unsigned long long)w->seed, scenario->name, (unsigned long long)steps);
    fprintf(stderr, "  see it: kr-sim --seeds %llu..%llu --scenario %s --steps %llu --trace\n",
            (unsigned long long)w->seed, (unsigned long long)w->seed, scenario->name,
            (unsigned long long)steps);
}

static struct worker *worker_of(struct worker *workers, unsigned jobs, pid_t pid) {
    for (unsigned i = 0; i < jobs; i++) {
        if (workers[i].busy && workers[i].pid == pid)
            return &workers[i];
    }
    return NULL;
}

/* One worker has ended. False: there was none. */
static bool reap(struct tally *total, const struct batch *b, struct worker *workers) {
    pid_t pid = waitpid(-1, NULL, 0);
    if (pid < 0)
        return errno == EINTR;
    struct worker *w = worker_of(workers, b->jobs, pid);
    if (!w)
        return true;
    w->busy = false;
    if (w->done)
        return true;
    report(b, w);
    total->failed++;
    total->seeds++;
    if (total->failed < b->most)
        worker_start(b, w, w->seed + b->jobs);
    return true;
}

void batch_run(struct tally *ret, const struct batch *batch) {
    struct batch b = *batch;
    b.most = b.most ? b.most : 5;
    b.jobs = b.jobs < 1 ? 1 : b.jobs > JOBS_MAX ? JOBS_MAX : b.jobs;
    size_t size = JOBS_MAX * sizeof(struct worker);
    struct worker *workers =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (workers == MAP_FAILED) {
        perror("mmap");
        exit(EXIT_FAILURE);
    }
    test_marks_share();
    uint64_t before[KR__MARK_COUNT];
    memcpy(before, kr__marks, sizeof before);
    *ret = (struct tally){0};
    for (unsigned i = 0; i < b.jobs; i++)
        worker_start(&b, &workers[i], b.first + i);
    while (reap(ret, &b, workers)) {}
    for (unsigned i = 0; i < b.jobs; i++)
        join(ret, &workers[i].tally);
    munmap(workers, size);
    for (unsigned i = 0; i < KR__MARK_COUNT; i++)
        ret->library[i] = kr__marks[i] - before[i];
}

/* The counter of a mark; NULL: there is none of that name. */
static const uint64_t *counter(const struct tally *tally, const char *name) {
    for (unsigned i = 0; i < KR__MARK_COUNT; i++) {
        if (!strcmp(test_marks[i].name, name))
            return &tally->library[i];
    }
    for (unsigned i = 0; i < MARK_COUNT; i++) {
        if (!strcmp(mark_names[i], name))
            return &tally->marks[i];
    }
    return NULL;
}

bool batch_knows_mark(const char *name) {
    static const struct tally none;
    return counter(&none, name) != NULL;
}

uint64_t batch_mark(const struct tally *tally, const char *name) {
    const uint64_t *count = counter(tally, name);
    return count ? *count : 0;
}

/* What the server of the storm does not do cannot go wrong in it. The scripts of raw requests come
 * by. */
static bool is_beyond(unsigned fault) {
    switch (fault) {
    case KR_SIM_CONNECT_REFUSED:
    case KR_SIM_CONNECT_IGNORED:
    case KR_SIM_CONNECT_UNREACHABLE:
    case KR_SIM_SCM_EMFILE:
        return true;
    default:
        return false;
    }
}

unsigned batch_unmet(const struct tally *tally) {
    unsigned unmet = 0;
    for (unsigned i = 0; i < KR_SIM_FAULT_COUNT; i++) {
        if (tally->faults[i] || is_beyond(i))
            continue;
        fprintf(stderr, "never happened: fault %s\n", kr_sim_fault_name(i));
        unmet++;
    }
    for (unsigned i = 0; i < MARK_COUNT; i++) {
        /* so many seeds are too few for this one: kept seeds come by it */
        if (tally->marks[i] || i == MARK_overtaken_close)
            continue;
        fprintf(stderr, "never happened: %s\n", mark_names[i]);
        unmet++;
    }
    for (unsigned i = 0; KR_CHECKED && i < KR__MARK_COUNT; i++) {
        if (tally->library[i] || strcmp(test_marks[i].suite, "sim"))
            continue;
        fprintf(stderr, "never happened in the library: %s\n", test_marks[i].name);
        unmet++;
    }
    return unmet;
}
