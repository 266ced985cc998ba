/* The test runner: a suite is one program, a case is one forked process.
 *
 * Happy path: a suite file defines cases with TEST (once) or TEST_EACH (once a variant) and ends
 * with TAP_MAIN(suite, floor). The program forks a process for each case, two at a time, and prints
 * the Test Anything Protocol: "ok 3 - close_delivers_queued_bytes/defer".
 *
 * A case fails when
 *   - a CHECK fails: file, line, expression and both values are printed, then the on-fail hooks
 *     run;
 *   - it is not over at its deadline (20 s unless the case says otherwise): the hooks run, then its
 *     whole process group is killed;
 *   - it dies of a signal, calls exit, or ends with a status other than 0 (as a leak report does);
 *   - at its end it holds a descriptor it did not have at its start, or lacks one it had.
 * What a failed case wrote to stdout and stderr is shown as diagnostics. A case that needs what
 * the machine lacks (tap_need_...) is skipped. A suite fails when a case fails, when it has fewer
 * cases, skipped ones included, than its floor, or when all were skipped. A suite of which six
 * cases overran gives up without a plan, which counts as a failure.
 *
 * A case starts with descriptors 0, 1 and 2 only, in a process group of its own, single-threaded.
 * A process that a case forks ends with tap_exit_child; CHECK may be used there and in any thread,
 * but tap_need_... only in the case itself. */
#ifndef TAP_H
#define TAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One way to run a case. The mode and the mask mean nothing to the runner: the suite hands them to
 * the library. The table is in variants.c. */
struct tap_variant {
    const char *name;
    unsigned mode;      /* enum kr_taskrun */
    unsigned caps_mask; /* capabilities of the kernel that may be used; all bits set: all */
};

extern const struct tap_variant tap_variants[];
extern const size_t tap_variant_count;

/* The kernel that brought a capability. The table is in variants.c. */
struct tap_cap {
    unsigned bit, major, minor;
};

extern const struct tap_cap tap_caps[];
extern const size_t tap_cap_count;

struct tap_case {
    const char *name;
    void (*run)(void);
    bool each;      /* run once a variant */
    /* no other case runs beside it, of this suite or of one that has the same TAP_ALONE_LOCK: for
     * cases that measure, or keep all processors busy */
    bool alone;
    int deadline_s; /* 0: 20 s */
    /* capabilities: not run in variants that may not use them, skipped on kernels that lack them */
    unsigned needs;
    struct tap_case *next;
};

/* TEST(name) { ... }                     one case
 * TEST(name, .deadline_s = 60) { ... }   with options of struct tap_case
 * TEST_EACH(name) { ... }                one case a variant; tap_variant() tells which */
#define TEST(name_, ...) TAP_CASE(name_, .each = false, ##__VA_ARGS__)
#define TEST_EACH(name_, ...) TAP_CASE(name_, .each = true, ##__VA_ARGS__)

#define TAP_CASE(name_, ...)                                                                       \
    static void test_##name_(void);                                                                \
    static struct tap_case tap_case_##name_ = {                                                    \
        .name = #name_, .run = test_##name_, __VA_ARGS__                                           \
    };                                                                                             \
    __attribute__((constructor)) static void tap_add_##name_(void) {                               \
        tap_add(&tap_case_##name_);                                                                \
    }                                                                                              \
    static void test_##name_(void)

/* The suite's main. Floor: how many cases, counted once a variant, there must be. */
#define TAP_MAIN(suite_, floor_)                                                                   \
    int main(int argc, char **argv) {                                                              \
        return tap_main(#suite_, (floor_), argc, argv);                                            \
    }

void tap_add(struct tap_case *c);
int tap_main(const char *suite, int floor, int argc, char **argv);

/* The variant of the running case; in a TEST case the first of the table. */
const struct tap_variant *tap_variant(void);

/* What the case needs of the machine. The harness looks for it, apart from the library, and ends
 * the case as skipped where it is lacking: "needs kernel 6.8". So what is merely broken fails; and
 * test/run looks once more, in another way, whether the machine explains each skip (explain.sh). */
void tap_need_users(void);  /* the right to become other users */
void tap_need_mounts(void); /* the right to mount, in a namespace of its own (tap_mounts_private) */
void tap_need_ipv6(void);   /* on loopback */
void tap_need_kernel(unsigned major, unsigned minor);
void tap_need_program(const char *name);
void tap_need_descriptors(unsigned count); /* raises the soft limit, and the length of tables */
void tap_need_ss_kill(void);               /* `ss -K` ends TCP sockets from outside */
void tap_need_checked(void);               /* a checked build of the library */

/* Ends the case as skipped for what none of these looks for, by a reason that explain.sh knows. */
__attribute__((noreturn, format(printf, 1, 2))) void tap_skip(const char *format, ...);

/* Whether the case may use these capabilities, and the kernel has them: for what a case expects that
 * differs with them. */
bool tap_has_caps(unsigned caps);

/* Gives the process a mount namespace: what it mounts below /proc is seen by nobody else. */
bool tap_mounts_private(void);

/* Ends the case as failed. CHECK and its kin come here. */
__attribute__((noreturn, format(printf, 3, 4))) void tap_fail(const char *file, int line,
                                                              const char *format, ...);
#define FAIL(...) tap_fail(__FILE__, __LINE__, __VA_ARGS__)

/* A line in the case's output, shown if the case fails or the suite runs with -v. */
__attribute__((format(printf, 1, 2))) void tap_note(const char *format, ...);

/* Runs fn(arg) if the case fails or overruns its deadline, last added first; at most 8 at a time.
 * At a deadline it runs inside a signal handler, in whatever thread took it: it may print, no more.
 * Take it back (same fn and arg) before what arg points to goes away. */
void tap_on_fail(void (*fn)(void *), void *arg);
void tap_on_fail_undo(void (*fn)(void *), void *arg);

/* Time left until the case's deadline, never negative: the bound for any wait in a case. */
int64_t tap_remaining_ns(void);
int tap_remaining_ms(void);

/* CLOCK_MONOTONIC. */
int64_t tap_now_ns(void);

/* True under ./test/run --full: longer runs, larger numbers. */
bool tap_full(void);

/* Random numbers of the running case. The suite's seed is printed with each failure, and --seed
 * repeats it. Not for use by two threads at once. */
uint64_t tap_random(void);
uint64_t tap_random_below(uint64_t bound); /* 0 .. bound - 1; bound > 0 */

/* Ends a process that the case has forked, as _exit does: what the case has not printed yet is not
 * printed twice, and its exit handlers do not run. What the child ran counts as covered. */
__attribute__((noreturn)) void tap_exit_child(int status);

/* How many descriptors this process has open. */
int tap_fd_count(void);

#define COUNT(table_) (sizeof(table_) / sizeof *(table_))

/* What a callback is given and does not look at, up to five. */
#define UNUSED(...)                                                                                \
    UNUSED_PICK(__VA_ARGS__, UNUSED_5, UNUSED_4, UNUSED_3, UNUSED_2, UNUSED_1)(__VA_ARGS__)
#define UNUSED_PICK(a_, b_, c_, d_, e_, name_, ...) name_
#define UNUSED_1(a_) (void)(a_)
#define UNUSED_2(a_, ...) (void)(a_), UNUSED_1(__VA_ARGS__)
#define UNUSED_3(a_, ...) (void)(a_), UNUSED_2(__VA_ARGS__)
#define UNUSED_4(a_, ...) (void)(a_), UNUSED_3(__VA_ARGS__)
#define UNUSED_5(a_, ...) (void)(a_), UNUSED_4(__VA_ARGS__)

#define CHECK(cond_)                                                                               \
    do {                                                                                           \
        if (!(cond_))                                                                              \
            tap_fail(__FILE__, __LINE__, "CHECK(%s)", #cond_);                                     \
    } while (0)

/* Both sides are evaluated once and compared as the numbers they are: -1 is below 1u. Integers,
 * enums, doubles and pointers. */
#define CHECK_EQ(a_, b_) TAP_COMPARE(TAP_EQ, #a_ " == " #b_, a_, b_)
#define CHECK_NE(a_, b_) TAP_COMPARE(TAP_NE, #a_ " != " #b_, a_, b_)
#define CHECK_LT(a_, b_) TAP_COMPARE(TAP_LT, #a_ " < " #b_, a_, b_)
#define CHECK_LE(a_, b_) TAP_COMPARE(TAP_LE, #a_ " <= " #b_, a_, b_)
#define CHECK_GT(a_, b_) TAP_COMPARE(TAP_GT, #a_ " > " #b_, a_, b_)
#define CHECK_GE(a_, b_) TAP_COMPARE(TAP_GE, #a_ " >= " #b_, a_, b_)

#define CHECK_STR_EQ(a_, b_) tap_check_str(__FILE__, __LINE__, #a_, #b_, (a_), (b_))
#define CHECK_MEM_EQ(a_, b_, size_) tap_check_mem(__FILE__, __LINE__, #a_, #b_, (a_), (b_), (size_))

/* The library's way: 0 or a count, else a negative errno. Yields the result. */
#define CHECK_OK(rc_) TAP_BY_WIDTH(rc_, tap_check_ok)(__FILE__, __LINE__, #rc_, (rc_))

/* The library refused, and with this very code: CHECK_ERR(kr_conn_close(...), ESTALE). */
#define CHECK_ERR(rc_, errno_) tap_check_err(__FILE__, __LINE__, #rc_, (rc_), (errno_))

/* The system's way: not -1, else errno. Yields the result: int fd = CHECK_SYS(socket(...)). */
#define CHECK_SYS(rc_) TAP_BY_WIDTH(rc_, tap_check_sys)(__FILE__, __LINE__, #rc_, (rc_))

/* What the macros above need. */
enum tap_order { TAP_EQ, TAP_NE, TAP_LT, TAP_LE, TAP_GT, TAP_GE };

struct tap_value {
    enum { TAP_SIGNED, TAP_UNSIGNED, TAP_REAL, TAP_POINTER } kind;
    union {
        intmax_t s;
        uintmax_t u;
        double d;
        const volatile void *p;
    };
};

struct tap_value tap_value_s(intmax_t v);
struct tap_value tap_value_u(uintmax_t v);
struct tap_value tap_value_d(double v);
struct tap_value tap_value_p(const volatile void *v);

#define TAP_VALUE(v_)                                                                              \
    _Generic((v_),                                                                                 \
        bool: tap_value_u, unsigned char: tap_value_u, unsigned short: tap_value_u,                \
        unsigned: tap_value_u, unsigned long: tap_value_u, unsigned long long: tap_value_u,        \
        char: tap_value_s, signed char: tap_value_s, short: tap_value_s, int: tap_value_s,         \
        long: tap_value_s, long long: tap_value_s, float: tap_value_d, double: tap_value_d,        \
        default: tap_value_p)(v_)

#define TAP_COMPARE(order_, text_, a_, b_)                                                         \
    tap_check_order(__FILE__, __LINE__, text_, order_, TAP_VALUE(a_), TAP_VALUE(b_))

#define TAP_BY_WIDTH(rc_, stem_) _Generic((rc_), int: stem_, default: stem_##_long)

void tap_check_order(const char *file, int line, const char *expression, enum tap_order order,
                     struct tap_value a, struct tap_value b);
void tap_check_str(const char *file, int line, const char *a_text, const char *b_text,
                   const char *a, const char *b);
void tap_check_mem(const char *file, int line, const char *a_text, const char *b_text,
                   const void *a, const void *b, size_t size);
int tap_check_ok(const char *file, int line, const char *expression, int rc);
long tap_check_ok_long(const char *file, int line, const char *expression, long rc);
void tap_check_err(const char *file, int line, const char *expression, long rc, int error);
int tap_check_sys(const char *file, int line, const char *expression, int rc);
long tap_check_sys_long(const char *file, int line, const char *expression, long rc);

#endif
