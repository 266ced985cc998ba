/* A suite whose cases go wrong on purpose, for selftest.c to look at. Its floor cannot be met. */
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

const struct tap_variant tap_variants[] = {
    {.name = "red", .mode = 1, .caps_mask = 1},
    {.name = "blue", .mode = 2, .caps_mask = 2},
};
const size_t tap_variant_count = 2;

const struct tap_cap tap_caps[] = {{.bit = 1, .major = 2, .minor = 6}, {.bit = 2, .major = 99}};
const size_t tap_cap_count = 2;

static void print_arg(void *arg) {
    printf("hook %s ran\n", (const char *)arg);
}

__attribute__((noinline)) static void wait_for_ever(void) {
    for (;;)
        pause();
}

TEST(good) {
    CHECK_EQ(tap_fd_count(), 3);
    CHECK_LT(-1, 1u);
    CHECK_GT(UINT64_MAX, INT64_MIN);
    CHECK_NE(&print_arg, NULL);
    tap_note("note of a good case");
}

TEST_EACH(coloured) {
    tap_note("variant %s %u", tap_variant()->name, tap_variant()->mode);
}

TEST(skipped) {
    tap_need_kernel(2, 6);
    tap_need_kernel(99, 2);
}

/* Not made for red, which may not use it; skipped in blue, where the kernel lacks it. */
TEST_EACH(capability_lacking, .needs = 2) {
    FAIL("it ran");
}

TEST_EACH(capability_there, .needs = 1) {}

TEST(values) {
    tap_on_fail(print_arg, "one");
    tap_on_fail(print_arg, "two");
    tap_on_fail_undo(print_arg, "two");
    int n = -3;
    CHECK_EQ(n, 4u);
}

TEST(refusal) {
    CHECK_ERR(-13, ESRCH);
}

static void *fail_in_thread(void *arg) {
    CHECK(arg == NULL);
    return NULL;
}

TEST(thread) {
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, fail_in_thread, "x"), 0);
    pthread_join(thread, NULL);
}

TEST(hangs, .deadline_s = 1) {
    tap_on_fail(print_arg, "late");
    wait_for_ever();
}

TEST(deaf, .deadline_s = 1) {
    signal(SIGXCPU, SIG_IGN);
    pid_t child = CHECK_SYS(fork());
    if (child > 0)
        tap_note("child %d", (int)child);
    wait_for_ever();
}

TEST(leaks_descriptor) {
    CHECK_SYS(open("/dev/zero", O_RDONLY));
}

TEST(closes_descriptor) {
    CHECK_SYS(close(0));
}

TEST(leaks_memory) {
    static char *volatile lost;
    lost = malloc(4321);
    CHECK(lost);
    lost = NULL;
}

TEST(aborts) {
    tap_on_fail(print_arg, "last");
    abort();
}

TEST(exits) {
    exit(0);
}

TEST(returns_twice) {
    pid_t child = CHECK_SYS(fork());
    int status = 0;
    if (child == 0)
        return;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(WEXITSTATUS(status), 0);
}

TEST(leaves_process) {
    pid_t child = CHECK_SYS(fork());
    if (child == 0)
        wait_for_ever();
    tap_note("left %d", (int)child);
}

TEST(lets_process_escape) {
    int ends[2];
    CHECK_SYS(pipe(ends));
    pid_t child = CHECK_SYS(fork());
    if (child == 0) {
        setsid();
        if (write(ends[1], "x", 1) == 1)
            wait_for_ever();
        _exit(1);
    }
    char byte;
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    close(ends[1]);
    tap_note("left %d", (int)child);
}

TEST(floods) {
    for (int i = 0; i < 100000; i++)
        printf("line %d of a flood\n", i);
    FAIL("the last word");
}

TEST(random) {
    tap_note("random %ju", (uintmax_t)tap_random());
}

TAP_MAIN(victim, 1000)
