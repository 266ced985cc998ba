/* The outside of a case: forks it, reads what it prints, bounds its time, judges its end, prints
 * TAP.
 *
 * Happy path: the cases are expanded by variant into jobs; two processes at a time; each end is
 * noticed by a pidfd; "ok N - label". The plan comes last, so that a suite that dies is seen by its
 * missing plan. Failure modes: a case that overruns gets SIGXCPU (its hooks print), then SIGKILL to
 * its whole group; what left the group comes to us as the subreaper and is killed at the end. */
#include "case.h"
#include "marks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    DEADLINE_DEFAULT_S = 20,
    DEADLINE_GRACE_S = 3, /* for the hooks, after SIGXCPU */
    SLOT_MAX = 16,
    JOB_MAX = 4096,
    OVERRUN_MAX = 6,      /* so many, and the suite gives up, lest it take an hour */
    HEAD_MAX = 24 * 1024, /* of a case's output its beginning and its end are kept */
    TAIL_MAX = 24 * 1024,
};

struct output {
    char head[HEAD_MAX];
    char tail[TAIL_MAX]; /* a circle */
    size_t size;         /* of all that came */
};

struct slot {
    const struct tap_job *job; /* NULL: free */
    struct tap_shared *shared;
    pid_t pid;
    int pidfd;
    int pipe; /* -1 after its end */
    int64_t began_ns;
    int64_t deadline_ns;
    int warned; /* SIGXCPU sent */
    struct output output;
};

static struct {
    const char *name;
    const char *pattern;
    int floor;
    int jobs_at_once;
    bool list, verbose, in_process;
    uint64_t seed;
    double deadline_scale;
    int alone_lock; /* -1: no other suite is known of */

    struct tap_case *cases, **cases_end;
    struct tap_job jobs[JOB_MAX];
    int job_count;
    struct slot slots[SLOT_MAX];
    int printed, ran, failed, skipped, overran;
} suite = {.cases_end = &suite.cases, .jobs_at_once = 2, .deadline_scale = 1};

static volatile sig_atomic_t interrupted;

void tap_add(struct tap_case *c) {
    *suite.cases_end = c;
    suite.cases_end = &c->next;
}

/* Printing. */

/* Each line of text as a diagnostic. */
static void print_lines(const char *text, size_t size) {
    const char *end = text + size;
    while (text < end) {
        const char *line_end = memchr(text, '\n', (size_t)(end - text));
        size_t length = (size_t)((line_end ? line_end : end) - text);
        printf("#   %.*s\n", (int)length, text);
        text += length + 1;
    }
}

static void print_output(const struct output *o) {
    if (o->size <= HEAD_MAX) {
        print_lines(o->head, o->size);
        return;
    }
    print_lines(o->head, HEAD_MAX);
    size_t rest = o->size - HEAD_MAX;
    if (rest > TAIL_MAX)
        printf("#   ... %zu bytes left out ...\n", rest - TAIL_MAX);
    size_t kept = rest < TAIL_MAX ? rest : TAIL_MAX;
    char line[TAIL_MAX];
    for (size_t i = 0; i < kept; i++)
        line[i] = o->tail[(rest - kept + i) % TAIL_MAX];
    print_lines(line, kept);
}

static void print_ok(const char *label, const char *skip_reason) {
    printf("ok %d - %s%s%s\n", ++suite.printed, label, skip_reason ? " # SKIP " : "",
           skip_reason ? skip_reason : "");
}

static void print_not_ok(const char *label, const char *why) {
    suite.failed++;
    printf("not ok %d - %s\n# %s: %s\n", ++suite.printed, label, label, why);
}

/* Running. */

static void output_add(struct output *o, const char *data, size_t size) {
    for (size_t i = 0; i < size; i++, o->size++) {
        if (o->size < HEAD_MAX)
            o->head[o->size] = data[i];
        else
            o->tail[(o->size - HEAD_MAX) % TAIL_MAX] = data[i];
    }
}

/* Takes what is in the pipe now; at its end closes it. */
static void slot_read(struct slot *s) {
    char data[16384];
    for (int i = 0; i < 64 && s->pipe >= 0; i++) {
        ssize_t size = read(s->pipe, data, sizeof(data));
        if (size > 0) {
            output_add(&s->output, data, (size_t)size);
        } else if (size == 0) {
            close(s->pipe);
            s->pipe = -1;
        } else if (errno != EINTR) {
            return;
        }
    }
}

/* In the child. Only descriptors 0, 1 and 2 stay; no core is written, as some cases crash on
 * purpose. */
static void child_setup(int output, pid_t runner) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != runner)
        _exit(1);
    int null = open("/dev/null", O_RDONLY);
    dup2(null, 0);
    dup2(output, 1);
    dup2(output, 2);
    close_range(3, ~0u, 0);
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    setvbuf(stdout, NULL, _IOLBF, 0);
}

static void die(const char *what) {
    printf("Bail out! %s: %s\n", what, strerror(errno));
    exit(99);
}

static void slot_start(struct slot *s, const struct tap_job *job) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        die("pipe2");
    memset(s->shared, 0, sizeof(*s->shared));
    s->output.size = 0;
    s->job = job;
    s->warned = 0;
    s->began_ns = tap_now_ns();
    s->deadline_ns = s->began_ns + (int64_t)job->deadline_s * 1000000000;
    s->pipe = ends[0];
    fflush(stdout);
    pid_t runner = getpid();
    s->pid = fork();
    if (s->pid < 0)
        die("fork");
    if (s->pid == 0) {
        child_setup(ends[1], runner);
        tap_case_run(job, s->shared);
    }
    setpgid(s->pid, s->pid);
    close(ends[1]);
    fcntl(s->pipe, F_SETFL, O_NONBLOCK);
    s->pidfd = pidfd_open(s->pid, 0);
    if (s->pidfd < 0)
        die("pidfd_open");
}

/* Why a case that ended so has failed; NULL if it has not. */
static const char *verdict(const struct slot *s, int status, char *text, size_t size) {
    if (s->warned)
        snprintf(text, size, "not over at its deadline of %d s", s->job->deadline_s);
    else if (WIFSIGNALED(status))
        snprintf(text, size, "killed by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else if (s->shared->outcome == TAP_OUTCOME_PASSED && WEXITSTATUS(status) == 0)
        return NULL;
    else if (s->shared->outcome == TAP_OUTCOME_SKIPPED && WEXITSTATUS(status) == TAP_STATUS_SKIP)
        return NULL;
    else if (s->shared->outcome == TAP_OUTCOME_PASSED)
        snprintf(text, size, "its checks passed, but it exited with status %d",
                 WEXITSTATUS(status));
    else if (WEXITSTATUS(status) == 0)
        snprintf(text, size, "called exit(0) before its end");
    else
        snprintf(text, size, "exited with status %d", WEXITSTATUS(status));
    return text;
}

/* The process is a zombie still, so that its number, and its group's, are nobody else's yet. */
static void slot_end(struct slot *s) {
    kill(-s->pid, SIGKILL);
    int status = 0;
    while (waitpid(s->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    close(s->pidfd);
    slot_read(s);
    if (s->pipe >= 0)
        close(s->pipe);

    char text[160];
    const char *why = verdict(s, status, text, sizeof(text));
    bool was_skipped = !why && s->shared->outcome == TAP_OUTCOME_SKIPPED;
    suite.skipped += was_skipped;
    suite.ran += !was_skipped;
    suite.overran += s->warned > 0;
    if (why) {
        print_not_ok(s->job->label, why);
        printf("# repeat with: --seed %#jx '%s'\n", (uintmax_t)suite.seed, s->job->label);
    } else {
        print_ok(s->job->label, was_skipped ? s->shared->reason : NULL);
    }
    if (suite.verbose)
        printf("# %.3f s\n", (double)(tap_now_ns() - s->began_ns) / 1e9);
    if (why || suite.verbose)
        print_output(&s->output);
    s->job = NULL;
}

static void slot_check_deadline(struct slot *s, int64_t now) {
    if (now < s->deadline_ns)
        return;
    if (s->warned++) {
        kill(-s->pid, SIGKILL);
        s->deadline_ns = INT64_MAX;
        return;
    }
    kill(s->pid, SIGXCPU);
    s->deadline_ns = now + (int64_t)DEADLINE_GRACE_S * 1000000000;
}

static int poll_timeout_ms(void) {
    int64_t until = INT64_MAX;
    for (int i = 0; i < suite.jobs_at_once; i++)
        if (suite.slots[i].job && suite.slots[i].deadline_ns < until)
            until = suite.slots[i].deadline_ns;
    if (until == INT64_MAX)
        return -1;
    int64_t left = until - tap_now_ns();
    return left > 0 ? (int)((left + 999999) / 1000000) : 0;
}

/* Waits until something happens to the running cases, and handles it. */
static void wait_once(void) {
    struct pollfd fds[2 * SLOT_MAX];
    for (int i = 0; i < suite.jobs_at_once; i++) {
        const struct slot *s = &suite.slots[i];
        fds[2 * i] = (struct pollfd){.fd = s->job ? s->pidfd : -1, .events = POLLIN};
        fds[2 * i + 1] = (struct pollfd){.fd = s->job ? s->pipe : -1, .events = POLLIN};
    }
    int rc = poll(fds, 2 * (nfds_t)suite.jobs_at_once, poll_timeout_ms());
    if (rc < 0 && errno != EINTR)
        die("poll");
    int64_t now = tap_now_ns();
    for (int i = 0; i < suite.jobs_at_once; i++) {
        struct slot *s = &suite.slots[i];
        if (!s->job)
            continue;
        if (rc > 0 && fds[2 * i + 1].revents)
            slot_read(s);
        if (rc > 0 && fds[2 * i].revents)
            slot_end(s);
        else
            slot_check_deadline(s, now);
    }
}

static int running(void) {
    int count = 0;
    for (int i = 0; i < suite.jobs_at_once; i++)
        count += suite.slots[i].job != NULL;
    return count;
}

static struct slot *free_slot(void) {
    for (int i = 0; i < suite.jobs_at_once; i++)
        if (!suite.slots[i].job)
            return &suite.slots[i];
    return NULL;
}

/* Kills what cases left behind: their orphans are our children, we being the subreaper. */
static void kill_leftovers(void) {
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
    for (int round = 0; round < 1000; round++) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
            continue;
        FILE *children = fopen(path, "re");
        int pid = 0;
        bool any = false;
        while (children && fscanf(children, "%d", &pid) == 1) {
            any = true;
            kill(pid, SIGKILL);
        }
        if (children)
            fclose(children);
        if (!any)
            return;
        waitpid(-1, NULL, 0);
    }
}

/* Without a plan, so that the suite counts as failed whatever its cases said. */
__attribute__((noreturn)) static void give_up(const char *why) {
    for (int i = 0; i < suite.jobs_at_once; i++)
        if (suite.slots[i].job)
            kill(-suite.slots[i].pid, SIGKILL);
    kill_leftovers();
    printf("Bail out! %s\n", why);
    exit(99);
}

static void run_jobs(bool alone, int at_once) {
    int next = 0;
    for (;;) {
        while (next < suite.job_count && suite.jobs[next].c->alone != alone)
            next++;
        if (interrupted)
            give_up("stopped by a signal");
        if (suite.overran >= OVERRUN_MAX)
            give_up("too many cases overran their deadlines");
        if (next == suite.job_count && running() == 0)
            return;
        if (next < suite.job_count && running() < at_once)
            slot_start(free_slot(), &suite.jobs[next++]);
        else
            wait_once();
    }
}

static bool has_jobs(bool alone) {
    for (int i = 0; i < suite.job_count; i++)
        if (suite.jobs[i].c->alone == alone)
            return true;
    return false;
}

/* Suites that run at the same time share the lock, but for cases that are to run alone. */
static void run_phase(bool alone) {
    if (!has_jobs(alone))
        return;
    while (suite.alone_lock >= 0 && flock(suite.alone_lock, alone ? LOCK_EX : LOCK_SH) < 0)
        if (errno != EINTR || interrupted)
            give_up("cannot have the lock");
    run_jobs(alone, alone ? 1 : suite.jobs_at_once);
    if (suite.alone_lock >= 0)
        flock(suite.alone_lock, LOCK_UN);
}

static void on_interrupt(int sig) {
    interrupted = sig;
}

/* Set-up. */

static uint64_t hash(const char *text) {
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    return h;
}

static void add_job(const struct tap_case *c, const struct tap_variant *v) {
    struct tap_job job = {.c = c, .variant = v};
    snprintf(job.label, sizeof(job.label), "%s%s%s", c->name, c->each ? "/" : "",
             c->each ? v->name : "");
    if (suite.pattern && !strstr(job.label, suite.pattern))
        return;
    if (suite.job_count == JOB_MAX) {
        errno = E2BIG;
        die("cases");
    }
    int deadline_s = c->deadline_s ? c->deadline_s : DEADLINE_DEFAULT_S;
    job.deadline_s = (int)(deadline_s * suite.deadline_scale);
    job.seed = suite.seed ^ hash(job.label);
    suite.jobs[suite.job_count++] = job;
}

static void expand_jobs(void) {
    for (const struct tap_case *c = suite.cases; c; c = c->next) {
        for (size_t i = 0; i < (c->each ? tap_variant_count : 1); i++) {
            if (!(c->needs & ~tap_variants[i].caps_mask))
                add_job(c, &tap_variants[i]);
        }
    }
}

static void usage(void) {
    printf("usage: %s [--list] [-v] [-jN] [--in-process] [--seed N] [part of a case's name]\n"
           "  --list        print the cases\n"
           "  -v            print what passing cases print, and times\n"
           "  -jN           N cases at a time (2)\n"
           "  --in-process  run in this process, for a debugger; a failure aborts\n"
           "  --seed N      the seed that a failure printed\n"
           "TAP_DEADLINE_SCALE in the environment multiplies the deadlines, TAP_ALONE_LOCK is a file\n"
           "that suites which run at the same time lock for cases that are to run alone.\n",
           suite.name);
    exit(2);
}

static void read_arguments(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (strcmp(a, "--list") == 0)
            suite.list = true;
        else if (strcmp(a, "-v") == 0)
            suite.verbose = true;
        else if (strcmp(a, "--in-process") == 0)
            suite.in_process = true;
        else if (strcmp(a, "--seed") == 0 && i + 1 < argc)
            suite.seed = strtoull(argv[++i], NULL, 0);
        else if (strncmp(a, "-j", 2) == 0 && atoi(a + 2) >= 1 && atoi(a + 2) <= SLOT_MAX)
            suite.jobs_at_once = atoi(a + 2);
        else if (a[0] != '-' && !suite.pattern)
            suite.pattern = a;
        else
            usage();
    }
}

static void read_environment(void) {
    const char *scale = getenv("TAP_DEADLINE_SCALE");
    if (scale && atof(scale) >= 1)
        suite.deadline_scale = atof(scale);
    const char *lock = getenv("TAP_ALONE_LOCK");
    suite.alone_lock = lock && *lock ? open(lock, O_RDWR | O_CLOEXEC) : -1;
    if (lock && *lock && suite.alone_lock < 0)
        die(lock);
}

static void *shared_memory(size_t size) {
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    return memory;
}

static void prepare(void) {
    test_marks_share();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGINT, on_interrupt);
    signal(SIGTERM, on_interrupt);
    for (int i = 0; i < suite.jobs_at_once; i++)
        suite.slots[i].shared = shared_memory(sizeof(struct tap_shared));
}

static int list_jobs(void) {
    for (int i = 0; i < suite.job_count; i++)
        printf("%s\n", suite.jobs[i].label);
    return 0;
}

static int debug_jobs(void) {
    struct tap_shared shared;
    for (int i = 0; i < suite.job_count; i++) {
        printf("# %s\n", suite.jobs[i].label);
        tap_case_debug(&suite.jobs[i], &shared);
        print_ok(suite.jobs[i].label, NULL);
    }
    printf("1..%d\n", suite.printed);
    return 0;
}

/* A skipped case is there, and has said what the machine lacks. A filtered run has no floor, but
 * one that matched nothing has failed; so has a suite of which nothing could run. */
static void check_floor(void) {
    int floor = suite.pattern ? 1 : suite.floor;
    char why[80];
    snprintf(why, sizeof(why), "ran %d cases, skipped %d, the floor is %d", suite.ran,
             suite.skipped, floor);
    if (suite.ran + suite.skipped < floor || (suite.ran == 0 && !suite.pattern))
        print_not_ok("floor", why);
    printf("# suite %s: ran %d cases, floor %d, failed %d, skipped %d, seed %#jx\n", suite.name,
           suite.ran, floor, suite.failed, suite.skipped, (uintmax_t)suite.seed);
}

int tap_main(const char *name, int floor, int argc, char **argv) {
    suite.name = name;
    suite.floor = floor;
    suite.seed = (uint64_t)tap_now_ns() ^ ((uint64_t)getpid() << 40);
    setvbuf(stdout, NULL, _IOLBF, 0);
    read_environment();
    read_arguments(argc, argv);
    expand_jobs();
    if (suite.list)
        return list_jobs();
    if (suite.in_process)
        return debug_jobs();
    prepare();
    run_phase(false);
    run_phase(true);
    kill_leftovers();
    check_floor();
    test_marks_print();
    printf("1..%d\n", suite.printed);
    return suite.failed ? 1 : 0;
}
