/* The runner's own test: runs victim.c, whose cases go wrong on purpose, and reads what is said.
 *
 * The same for tally.awk, by which ./test/run counts. The build gives the paths VICTIM and
 * TALLY. */
#include "tap.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define LEAKS_ARE_SEEN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LEAKS_ARE_SEEN 1
#endif
#endif

const struct tap_variant tap_variants[] = {{.name = "only", .caps_mask = ~0u}};
const size_t tap_variant_count = 1;
const struct tap_cap tap_caps[1];
const size_t tap_cap_count = 0;

struct report {
    int status;
    char text[256 * 1024];
};

/* Runs the program to its end. */
static struct report *run_program(const char *program, const char *arguments) {
    static struct report report;
    char command[512];
    snprintf(command, sizeof(command), "TAP_DEADLINE_SCALE=1 exec %s %s", program, arguments);
    FILE *out = popen(command, "re");
    CHECK(out);
    size_t size = fread(report.text, 1, sizeof(report.text) - 1, out);
    report.text[size] = 0;
    CHECK(feof(out));
    int status = pclose(out);
    CHECK(WIFEXITED(status));
    report.status = WEXITSTATUS(status);
    return &report;
}

static struct report *run_victim(const char *a, const char *b, const char *c) {
    char arguments[256];
    snprintf(arguments, sizeof(arguments), "%s %s %s", a ? a : "", b ? b : "", c ? c : "");
    return run_program(VICTIM, arguments);
}

static void expect(const struct report *report, const char *text) {
    if (!strstr(report->text, text))
        FAIL("not said: \"%s\"; said:\n%s", text, report->text);
}

static void expect_not(const struct report *report, const char *text) {
    if (strstr(report->text, text))
        FAIL("said: \"%s\"; in:\n%s", text, report->text);
}

/* The one case of that name fails, alone, and the text is in its diagnostics. */
static void expect_failure(const char *name, const char *text) {
    const struct report *report = run_victim(name, NULL, NULL);
    char line[128];
    snprintf(line, sizeof(line), "not ok 1 - %s\n", name);
    expect(report, line);
    expect(report, text);
    expect(report, "\n1..1\n");
    expect(report, "# repeat with: --seed ");
    CHECK_EQ(report->status, 1);
}

/* The number after the text. */
static long number_after(const struct report *report, const char *text) {
    expect(report, text);
    return atol(strstr(report->text, text) + strlen(text));
}

/* The process is gone or will be: a killed one may be a zombie for a moment, but no longer runs. */
static bool is_dead(pid_t pid) {
    char path[64], state = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *stat = fopen(path, "re");
    if (!stat)
        return true;
    int fields = fscanf(stat, "%*d (%*[^)]) %c", &state);
    fclose(stat);
    return fields != 1 || state == 'Z' || state == 'X';
}

TEST(good_case_passes_quietly) {
    const struct report *report = run_victim("good", NULL, NULL);
    expect(report, "ok 1 - good\n");
    expect_not(report, "not ok");
    expect_not(report, "note of a good case");
    CHECK_EQ(report->status, 0);
}

TEST(verbose_shows_notes) {
    expect(run_victim("-v", "good", NULL), "#   note of a good case\n");
}

TEST(each_variant_is_a_case) {
    const struct report *report = run_victim("-v", "coloured", NULL);
    expect(report, " - coloured/red\n");
    expect(report, " - coloured/blue\n");
    expect(report, "variant red 1\n");
    expect(report, "variant blue 2\n");
    expect(report, "\n1..2\n");
}

TEST(list_names_every_case) {
    const struct report *report = run_victim("--list", NULL, NULL);
    CHECK_EQ(strncmp(report->text, "good\ncoloured/red\ncoloured/blue\n", 31), 0);
    CHECK_EQ(report->status, 0);
}

TEST(skip_is_no_pass_and_gives_its_reason) {
    const struct report *report = run_victim("skipped", NULL, NULL);
    expect(report, "ok 1 - skipped # SKIP needs kernel 99.2\n");
    expect(report, "ran 0 cases, floor 1, failed 0, skipped 1");
    CHECK_EQ(report->status, 0);
}

TEST(capability_that_the_kernel_lacks_skips) {
    const struct report *report = run_victim("capability", NULL, NULL);
    expect(report, " - capability_lacking/blue # SKIP needs kernel 99.0\n");
    expect(report, " - capability_there/red\n");
    expect(report, "\n1..2\n");
    CHECK_EQ(report->status, 0);
}

TEST(check_prints_place_expression_and_values) {
    expect_failure("values", "CHECK n == 4u: left -3, right 4\n");
    const struct report *report = run_victim("values", NULL, NULL);
    expect(report, "#   victim.c:");
    expect(report, "hook one ran");
    expect_not(report, "hook two ran");
}

TEST(errors_are_named) {
    expect_failure("refusal", "CHECK_ERR(-13): want -ESRCH, got -13 -EACCES");
}

TEST(check_in_a_thread_ends_the_case) {
    expect_failure("thread", "CHECK(arg == NULL)");
}

TEST(deadline_ends_a_case_and_runs_its_hooks) {
    expect_failure("hangs", "hangs: not over at its deadline of ");
    const struct report *report = run_victim("hangs", NULL, NULL);
    expect(report, "hook late ran");
    expect(report, "wait_for_ever at victim.c:");
}

/* A case that ignores the signal, and its child, are killed. */
TEST(deadline_kills_the_whole_group, .deadline_s = 40) {
    const struct report *report = run_victim("deaf", NULL, NULL);
    expect(report, "not ok 1 - deaf\n");
    expect(report, "not over at its deadline of ");
    CHECK(is_dead((pid_t)number_after(report, "child ")));
}

TEST(left_descriptor_fails_the_case) {
    expect_failure("leaks_descriptor", "descriptor 3 is left open: /dev/zero\n");
}

TEST(foreign_descriptor_closed_fails_the_case) {
    expect_failure("closes_descriptor", "descriptor 0 was closed, and is not the case's own\n");
}

#ifdef LEAKS_ARE_SEEN
TEST(left_memory_fails_the_case) {
    expect_failure("leaks_memory", "4321 byte(s) leaked");
    expect_failure("leaks_memory", "its checks passed, but it exited with status ");
}
#endif

TEST(crash_fails_the_case) {
    expect_failure("aborts", "aborts: killed by signal 6 (Aborted)");
}

TEST(early_exit_fails_the_case) {
    expect_failure("exits", "exits: called exit(0) before its end");
}

TEST(forked_child_that_returns_fails_the_case) {
    expect_failure("returns_twice", "CHECK WEXITSTATUS(status) == 0: left 125, right 0");
}

TEST(process_left_behind_is_killed) {
    CHECK(is_dead((pid_t)number_after(run_victim("-v", "leaves_process", NULL), "left ")));
}

TEST(process_that_left_its_group_is_killed) {
    CHECK(is_dead((pid_t)number_after(run_victim("-v", "lets_process_escape", NULL), "left ")));
}

TEST(flood_is_cut_but_its_end_is_kept) {
    const struct report *report = run_victim("floods", NULL, NULL);
    expect(report, "line 0 of a flood");
    expect(report, "bytes left out");
    expect(report, "the last word");
    CHECK_LT(strlen(report->text), 100000);
}

TEST(seed_repeats_the_random_numbers) {
    long first = number_after(run_victim("-v", "--seed 7", "random"), "random ");
    CHECK_EQ(number_after(run_victim("-v", "--seed 7", "random"), "random "), first);
    CHECK_NE(number_after(run_victim("-v", "--seed 8", "random"), "random "), first);
}

/* The whole suite: every kind of end is counted right, and the floor is missed. */
TEST(too_few_cases_fail_the_suite, .deadline_s = 60) {
    const struct report *report = run_victim(NULL, NULL, NULL);
    expect(report, " - floor\n# floor: ran 19 cases, skipped 2, the floor is 1000\n");
#ifdef LEAKS_ARE_SEEN
    expect(report, "# suite victim: ran 19 cases, floor 1000, failed 13, skipped 2,");
#else
    expect(report, "# suite victim: ran 19 cases, floor 1000, failed 12, skipped 2,");
#endif
    expect(report, "\n1..22\n");
    CHECK_EQ(report->status, 1);
}

TEST(filter_that_matches_nothing_fails) {
    const struct report *report = run_victim("no_such_case", NULL, NULL);
    expect(report, "not ok 1 - floor\n");
    CHECK_EQ(report->status, 1);
}

TEST(suite_of_which_nothing_ran_fails) {
    const struct report *report = run_program(IDLE, "");
    expect(report, "# floor: ran 0 cases, skipped 1, the floor is 1\n");
    CHECK_EQ(report->status, 1);
}

/* The second look at a reason to skip: 0 if the machine lacks what it names. */
static int explain(const char *reason) {
    char command[512];
    snprintf(command, sizeof(command), "exec " EXPLAIN " '%s'", reason);
    int status = system(command);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST(reason_that_the_machine_explains) {
    CHECK_EQ(explain("needs kernel 99.0"), 0);
    CHECK_EQ(explain("needs the program no-such-program"), 0);
    CHECK_EQ(explain("needs the header no/such/header.h"), 0);
    CHECK_EQ(explain("needs 4000000000 descriptors"), 0);
    CHECK_EQ(explain("limits are of gcc 1.0"), 0);
    CHECK_EQ(explain("limits are of liburing 0.1"), 0);
}

TEST(reason_that_the_machine_does_not_explain) {
    CHECK_EQ(explain("needs kernel 2.6"), 1);
    CHECK_EQ(explain("needs kernel 6.1"), 1);
    CHECK_EQ(explain("needs the program sh"), 1);
    CHECK_EQ(explain("needs the header stdio.h"), 1);
    CHECK_EQ(explain("needs 3 descriptors"), 1);
    CHECK_EQ(explain("needs a checked build"), 1); /* test/run makes no other */
    CHECK_EQ(explain("needs luck"), 1);
    CHECK_EQ(explain(""), 1);
}

/* What tally.awk makes of a suite that printed this text (with printf's escapes) and ended so. */
static void expect_tally(const char *text, int status, const char *tally) {
    char command[1024], said[1024];
    snprintf(command, sizeof(command), "printf '%s' | awk -v status=%d -f " TALLY, text, status);
    FILE *out = popen(command, "re");
    CHECK(out);
    size_t size = fread(said, 1, sizeof(said) - 1, out);
    said[size] = 0;
    CHECK_EQ(pclose(out), 0);
    CHECK_STR_EQ(said, tally);
}

TEST(tally_counts_each_kind) {
    expect_tally("ok 1 - a\\nnot ok 2 - b\\n# ok 9\\nok 3 - c # SKIP no\\n1..3\\n", 1, "1 1 1\n");
}

TEST(tally_fails_a_suite_that_died) {
    expect_tally("ok 1 - a\\n", 139,
                 "1 1 0\nit printed 0 plans: it died, or is no suite\n"
                 "it ended with status 139 and reported no failure\n");
    expect_tally("", 0, "0 1 0\nit printed 0 plans: it died, or is no suite\n");
}

TEST(tally_fails_a_wrong_plan) {
    expect_tally("ok 1 - a\\n1..2\\n", 0, "1 1 0\nit planned 2 cases and reported 1\n");
    expect_tally("1..0\\n", 0, "0 1 0\nit has no cases\n");
}

TEST(tally_fails_a_status_that_contradicts) {
    expect_tally("ok 1 - a\\n1..1\\n", 66,
                 "1 1 0\nit ended with status 66 and reported no failure\n");
    expect_tally("not ok 1 - a\\n1..1\\n", 0,
                 "0 2 0\nit reported failures and ended with status 0\n");
}

TEST(tally_fails_a_suite_that_bailed_out) {
    expect_tally("ok 1 - a\\nBail out! fork\\n1..1\\n", 0, "1 1 0\nit bailed out: fork\n");
}

TAP_MAIN(selftest, 30)
