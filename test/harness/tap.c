/* The inside of a case: checks, skips, hooks, deadline, and the descriptor count at both ends.
 *
 * A failed check prints, runs the hooks and leaves with _exit(1): neither the rest of the case nor
 * an exit handler runs, so nothing can cover up the first failure. A case that passes leaves with
 * exit(0), so that a leak checker may still object. */
#include "case.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HOOK_MAX = 8, FRAME_MAX = 48, FD_MAX = 65536 };

struct hook {
    void (*fn)(void *);
    void *arg;
};

/* This process runs one case. */
static struct {
    const struct tap_job *job;
    struct tap_shared *shared;
    pid_t pid;
    int64_t deadline_ns;
    uint64_t random;
    struct hook hooks[HOOK_MAX];
    int hook_count;
    bool abort_on_failure;
} self;

int64_t tap_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t tap_remaining_ns(void) {
    int64_t left = self.deadline_ns - tap_now_ns();
    return left > 0 ? left : 0;
}

int tap_remaining_ms(void) {
    return (int)((tap_remaining_ns() + 999999) / 1000000);
}

bool tap_full(void) {
    const char *full = getenv("KR_TEST_FULL");
    return full && strcmp(full, "1") == 0;
}

const struct tap_variant *tap_variant(void) {
    return self.job->variant;
}

/* splitmix64: any seed will do, 0 too. */
uint64_t tap_random(void) {
    uint64_t z = (self.random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t tap_random_below(uint64_t bound) {
    return tap_random() % bound;
}

/* Ending a case. */

void tap_on_fail(void (*fn)(void *), void *arg) {
    if (self.hook_count == HOOK_MAX)
        FAIL("more than %d on-fail hooks", HOOK_MAX);
    self.hooks[self.hook_count++] = (struct hook){.fn = fn, .arg = arg};
}

void tap_on_fail_undo(void (*fn)(void *), void *arg) {
    for (int i = self.hook_count; i-- > 0;) {
        if (self.hooks[i].fn != fn || self.hooks[i].arg != arg)
            continue;
        memmove(&self.hooks[i], &self.hooks[i + 1],
                (size_t)(self.hook_count - i - 1) * sizeof(self.hooks[0]));
        self.hook_count--;
        return;
    }
    FAIL("no such on-fail hook");
}

/* Each hook is taken off before it runs: one that fails in its turn does not come back. */
static void run_hooks(void) {
    if (getpid() != self.pid)
        return;
    while (self.hook_count > 0) {
        struct hook hook = self.hooks[--self.hook_count];
        hook.fn(hook.arg);
    }
}

void tap_note(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stdout, format, args);
    va_end(args);
    fputc('\n', stdout);
    fflush(stdout);
}

void tap_fail(const char *file, int line, const char *format, ...) {
    const char *base = strrchr(file, '/');
    va_list args;
    va_start(args, format);
    flockfile(stdout);
    fprintf(stdout, "%s:%d: failed: ", base ? base + 1 : file, line);
    vfprintf(stdout, format, args);
    fprintf(stdout, "%s\n", getpid() == self.pid ? "" : " (in a forked child)");
    funlockfile(stdout);
    va_end(args);
    fflush(stdout);
    run_hooks();
    fflush(stdout);
    if (self.abort_on_failure)
        abort();
    _exit(1);
}

/* gcov's, in a build that counts (test/coverage/run); it writes at exit, which is not run here. */
__attribute__((weak)) void __gcov_dump(void);

void tap_exit_child(int status) {
    if (__gcov_dump)
        __gcov_dump();
    _exit(status);
}

void tap_skip(const char *format, ...) {
    if (getpid() != self.pid)
        FAIL("tap_skip in a forked child");
    va_list args;
    va_start(args, format);
    vsnprintf(self.shared->reason, sizeof(self.shared->reason), format, args);
    va_end(args);
    self.shared->outcome = TAP_OUTCOME_SKIPPED;
    fflush(stdout);
    _exit(TAP_STATUS_SKIP);
}

/* Names the program's own frames, static functions too, by addr2line. In a child: an exec waits for
 * all requests of the process's rings, and for the notification of a zero-copy send whose peer does
 * not read it waits for ever, where not even SIGKILL ends it (__io_uring_cancel; observed on
 * 6.18). */
static void name_frames(void *const *frames, int count) {
    static char program[512], addresses[FRAME_MAX][32];
    static char *argv[FRAME_MAX + 6] = {"addr2line", "-s", "-f", "-p", "-e", program};
    ssize_t size = readlink("/proc/self/exe", program, sizeof(program) - 1);
    Dl_info here, there;
    int argc = 6;
    if (size <= 0 || !dladdr(&self, &here))
        return;
    for (int i = 0; i < count; i++) {
        if (!dladdr(frames[i], &there) || there.dli_fbase != here.dli_fbase)
            continue;
        size_t offset = (size_t)((char *)frames[i] - (char *)here.dli_fbase);
        snprintf(addresses[argc - 6], sizeof(addresses[0]), "%#zx", offset);
        argv[argc] = addresses[argc - 6];
        argc++;
    }
    pid_t child = fork();
    if (child == 0) {
        execvp(argv[0], argv);
        _exit(1);
    }
    if (child > 0)
        waitpid(child, NULL, 0);
}

/* The runner's word that time is up. What follows is not safe in a signal handler in general, but
 * the case is lost anyway, and the runner kills it if it hangs here. */
static void on_deadline(int sig) {
    (void)sig;
    static const char text[] = "where it is at the deadline (the thread that took the signal):\n";
    void *frames[FRAME_MAX];
    int count = backtrace(frames, FRAME_MAX);
    run_hooks();
    fflush(stdout);
    if (write(STDOUT_FILENO, text, sizeof(text) - 1) > 0)
        name_frames(frames, count);
    _exit(TAP_STATUS_OVERRUN);
}

/* An assertion of the library has failed, or a sanitizer has found something: shows what a failed check
 * would show, and ends as abort(3) does. */
static void on_abort(int sig) {
    signal(sig, SIG_DFL);
    run_hooks();
    fflush(stdout);
    raise(sig);
}

/* Descriptors. */

struct fds {
    int count;
    unsigned char open[FD_MAX]; /* by number; those beyond are counted only */
};

static struct fds fds_before, fds_after;

static void fds_read(struct fds *fds) {
    *fds = (struct fds){0};
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        FAIL("opendir /proc/self/fd: %s", strerror(errno));
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || fd == dirfd(dir))
            continue;
        fds->count++;
        if (fd < FD_MAX)
            fds->open[fd] = 1;
    }
    closedir(dir);
}

int tap_fd_count(void) {
    static struct fds fds;
    fds_read(&fds);
    return fds.count;
}

static void print_fd(int fd) {
    char path[64];
    char target[256] = "?";
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t size = readlink(path, target, sizeof(target) - 1);
    if (size >= 0)
        target[size] = 0;
    printf("descriptor %d is left open: %s\n", fd, target);
}

static void check_fds(void) {
    fds_read(&fds_after);
    if (fds_after.count == fds_before.count &&
        memcmp(fds_after.open, fds_before.open, sizeof(fds_before.open)) == 0)
        return;
    int shown = 0;
    for (int fd = 0; fd < FD_MAX && shown < 20; fd++) {
        if (fds_after.open[fd] == fds_before.open[fd])
            continue;
        shown++;
        if (fds_after.open[fd])
            print_fd(fd);
        else
            printf("descriptor %d was closed, and is not the case's own\n", fd);
    }
    FAIL("descriptors: %d at the start, %d at the end", fds_before.count, fds_after.count);
}

/* The case. */

static void case_begin(const struct tap_job *job, struct tap_shared *shared) {
    self.job = job;
    self.shared = shared;
    self.pid = getpid();
    self.random = job->seed;
    self.deadline_ns = tap_now_ns() + (int64_t)job->deadline_s * 1000000000;
}

void tap_case_run(const struct tap_job *job, struct tap_shared *shared) {
    void *frame;
    backtrace(&frame, 1); /* its first call loads libgcc: not for a signal handler */
    case_begin(job, shared);
    signal(SIGXCPU, on_deadline);
    signal(SIGABRT, on_abort);
    tap_need_caps(job->c->needs);
    fds_read(&fds_before);
    job->c->run();
    if (getpid() != self.pid)
        _exit(TAP_STATUS_FORKED_ON);
    check_fds();
    shared->outcome = TAP_OUTCOME_PASSED;
    exit(0);
}

void tap_case_debug(const struct tap_job *job, struct tap_shared *shared) {
    case_begin(job, shared);
    self.deadline_ns += INT64_C(3600) * 1000000000;
    self.abort_on_failure = true;
    fds_read(&fds_before);
    job->c->run();
    check_fds();
}

/* Values and checks. */

struct tap_value tap_value_s(intmax_t v) {
    return (struct tap_value){.kind = TAP_SIGNED, .s = v};
}

struct tap_value tap_value_u(uintmax_t v) {
    return (struct tap_value){.kind = TAP_UNSIGNED, .u = v};
}

struct tap_value tap_value_d(double v) {
    return (struct tap_value){.kind = TAP_REAL, .d = v};
}

struct tap_value tap_value_p(const volatile void *v) {
    return (struct tap_value){.kind = TAP_POINTER, .p = v};
}

static double value_real(struct tap_value v) {
    if (v.kind == TAP_REAL)
        return v.d;
    return v.kind == TAP_SIGNED ? (double)v.s : (double)v.u;
}

/* A pointer counts as the number it is; a negative number is below every other. */
static int value_compare(struct tap_value a, struct tap_value b) {
    if (a.kind == TAP_REAL || b.kind == TAP_REAL) {
        double x = value_real(a), y = value_real(b);
        return (x > y) - (x < y);
    }
    bool a_negative = a.kind == TAP_SIGNED && a.s < 0;
    bool b_negative = b.kind == TAP_SIGNED && b.s < 0;
    if (a_negative != b_negative)
        return a_negative ? -1 : 1;
    if (a_negative)
        return (a.s > b.s) - (a.s < b.s);
    uintmax_t x = a.kind == TAP_POINTER ? (uintptr_t)a.p : a.u;
    uintmax_t y = b.kind == TAP_POINTER ? (uintptr_t)b.p : b.u;
    return (x > y) - (x < y);
}

static bool order_holds(enum tap_order order, int sign) {
    switch (order) {
    case TAP_EQ:
        return sign == 0;
    case TAP_NE:
        return sign != 0;
    case TAP_LT:
        return sign < 0;
    case TAP_LE:
        return sign <= 0;
    case TAP_GT:
        return sign > 0;
    case TAP_GE:
        return sign >= 0;
    }
    return false;
}

static const char *value_text(struct tap_value v, char *text, size_t size) {
    switch (v.kind) {
    case TAP_SIGNED:
        snprintf(text, size, "%jd", v.s);
        break;
    case TAP_UNSIGNED:
        if (v.u > 0xffff)
            snprintf(text, size, "%ju (0x%jx)", v.u, v.u);
        else
            snprintf(text, size, "%ju", v.u);
        break;
    case TAP_REAL:
        snprintf(text, size, "%g", v.d);
        break;
    case TAP_POINTER:
        snprintf(text, size, "%p", (void *)(uintptr_t)v.p);
        break;
    }
    return text;
}

void tap_check_order(const char *file, int line, const char *expression, enum tap_order order,
                     struct tap_value a, struct tap_value b) {
    if (order_holds(order, value_compare(a, b)))
        return;
    char a_text[64], b_text[64];
    tap_fail(file, line, "CHECK %s: left %s, right %s", expression,
             value_text(a, a_text, sizeof(a_text)), value_text(b, b_text, sizeof(b_text)));
}

void tap_check_str(const char *file, int line, const char *a_text, const char *b_text,
                   const char *a, const char *b) {
    if (a && b && strcmp(a, b) == 0)
        return;
    tap_fail(file, line, "CHECK %s equals %s: left \"%s\", right \"%s\"", a_text, b_text,
             a ? a : "(null)", b ? b : "(null)");
}

void tap_check_mem(const char *file, int line, const char *a_text, const char *b_text,
                   const void *a, const void *b, size_t size) {
    const unsigned char *x = a, *y = b;
    for (size_t i = 0; i < size; i++) {
        if (x[i] != y[i])
            tap_fail(file, line, "CHECK %s equals %s: byte %zu of %zu: left 0x%02x, right 0x%02x",
                     a_text, b_text, i, size, x[i], y[i]);
    }
}

static const char *errno_text(long error) {
    const char *name = error > 0 && error < 4096 ? strerrorname_np((int)error) : NULL;
    return name ? name : "no errno";
}

long tap_check_ok_long(const char *file, int line, const char *expression, long rc) {
    if (rc < 0)
        tap_fail(file, line, "CHECK_OK(%s): %ld (-%s)", expression, rc, errno_text(-rc));
    return rc;
}

int tap_check_ok(const char *file, int line, const char *expression, int rc) {
    return (int)tap_check_ok_long(file, line, expression, rc);
}

void tap_check_err(const char *file, int line, const char *expression, long rc, int error) {
    if (rc != -error)
        tap_fail(file, line, "CHECK_ERR(%s): want -%s, got %ld%s%s", expression, errno_text(error),
                 rc, rc < 0 ? " -" : "", rc < 0 ? errno_text(-rc) : "");
}

long tap_check_sys_long(const char *file, int line, const char *expression, long rc) {
    if (rc == -1)
        tap_fail(file, line, "CHECK_SYS(%s): %s", expression, errno_text(errno));
    return rc;
}

int tap_check_sys(const char *file, int line, const char *expression, int rc) {
    return (int)tap_check_sys_long(file, line, expression, rc);
}
