/* kr-sim: runs seeds of the storm.
 *
 *   kr-sim --seeds A..B [--scenario NAME] [--jobs N]      each seed once; all faults and marks must
 *                                                         be met
 *   kr-sim --seeds A..B [--scenario NAME] [--steps N] --trace     what happens, line by line
 *   kr-sim --seeds A..B --hash                            a line a seed, to be compared with
 *                                                         another run
 *
 *   kr-sim --find MARK [--seeds A..B] [--scenario NAME]   the first seeds that come by the mark, in
 *                                                         each scenario or in this one
 *   kr-sim --renew FILE                                   the file of kept seeds, with others for
 *                                                         those that fail or miss their marks
 *
 * Without --scenario a seed has the scenario of its number. With fewer than 9,000 seeds nothing is
 * asked about faults and marks. The status is 0 only if no seed failed and nothing was missed. */
#include "sim/seeds.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define ENOUGH 9000u /* seeds, to have met everything */
#define FIND_LAST 20000u

static void usage(void) {
    fputs("usage: kr-sim --seeds A..B [--scenario NAME] [--jobs N] [--steps N] [--trace | --hash]\n"
          "       kr-sim --find MARK [--seeds A..B] [--scenario NAME]\n"
          "       kr-sim --renew FILE\n"
          "scenarios:",
          stderr);
    for (unsigned i = 0; i < scenario_count; i++)
        fprintf(stderr, " %s", scenarios[i].name);
    fputc('\n', stderr);
    exit(2);
}

static void print_line(void *arg, const char *line) {
    (void)arg;
    puts(line);
}

static double seconds(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* In this very process: what breaks a promise ends it, with the line before it printed. */
static void run_each(const struct batch *b, uint64_t steps, bool trace) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (uint64_t seed = b->first; seed <= b->last; seed++) {
        const struct scenario *scenario = b->only ? b->only : scenario_of(seed);
        struct storm_result one;
        storm_run(&one, seed, scenario, steps, trace ? print_line : NULL);
        printf("seed %llu %s %016llx %llu turns\n", (unsigned long long)seed, scenario->name,
               (unsigned long long)one.hash, (unsigned long long)one.turns);
    }
}

static void print_counts(const struct tally *t) {
    printf("faults:");
    for (unsigned i = 0; i < KR_SIM_FAULT_COUNT; i++)
        printf(" %s %llu", kr_sim_fault_name(i), (unsigned long long)t->faults[i]);
    printf("\nmarks:");
    for (unsigned i = 0; i < MARK_COUNT; i++)
        printf(" %s %llu", mark_names[i], (unsigned long long)t->marks[i]);
    printf("\nmarks of the library:");
    for (unsigned i = 0; KR_CHECKED && i < KR__MARK_COUNT; i++)
        printf(" %s %llu", test_marks[i].name, (unsigned long long)t->library[i]);
    printf("\n");
}

static int run_batch(const struct batch *b) {
    double began = seconds();
    struct tally t;
    batch_run(&t, b);
    double took = seconds() - began;
    print_counts(&t);
    printf("%llu seeds, %llu failed, %llu turns, %.1f s, %.0f seeds/s, hash %016llx\n",
           (unsigned long long)t.seeds, (unsigned long long)t.failed, (unsigned long long)t.turns,
           took, (double)t.seeds / took, (unsigned long long)t.hash);
    unsigned unmet = t.seeds >= ENOUGH && !b->only ? batch_unmet(&t) : 0;
    return t.failed || unmet ? EXIT_FAILURE : EXIT_SUCCESS;
}

static void print_kept(const struct kept_seed *kept) {
    printf("%s %llu %s%s%s\n", kept->scenario->name, (unsigned long long)kept->seed, kept->mark,
           *kept->why ? " " : "", kept->why);
}

static bool find_in(const struct batch *b, const struct scenario *scenario, const char *mark) {
    struct kept_seed kept = {.scenario = scenario, .seed = b->first};
    snprintf(kept.mark, sizeof kept.mark, "%s", mark);
    if (!seed_find(&kept, b->last))
        return false;
    print_kept(&kept);
    return true;
}

static int find(const struct batch *b, const char *mark) {
    if (!batch_knows_mark(mark))
        usage();
    bool found = false;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (unsigned i = 0; i < scenario_count; i++) {
        if (!b->only || b->only == &scenarios[i])
            found |= find_in(b, &scenarios[i], mark);
    }
    return found ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* False: no seed comes by the mark, and the line is left as it was. */
static bool renew_line(const char *line) {
    struct kept_seed kept;
    int is_seed = seed_parse(line, &kept);
    if (is_seed > 0 && seed_run(&kept) <= 0) {
        if (seed_find(&kept, kept.seed + FIND_LAST)) {
            print_kept(&kept);
            return true;
        }
        is_seed = -1;
    }
    if (is_seed < 0)
        fprintf(stderr, "cannot be renewed: %s", line);
    fputs(line, stdout);
    return is_seed >= 0;
}

static int renew(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) {
        perror(path);
        return EXIT_FAILURE;
    }
    char line[SEED_LINE_MAX];
    bool good = true;
    while (fgets(line, sizeof line, file))
        good &= renew_line(line);
    fclose(file);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

static void seeds_read(struct batch *b, const char *text) {
    char *end;
    b->first = strtoull(text, &end, 10);
    b->last = end[0] == '.' && end[1] == '.' ? strtoull(end + 2, &end, 10) : b->first;
    if (*end || b->last < b->first)
        usage();
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"seeds", required_argument, NULL, 's'}, {"scenario", required_argument, NULL, 'n'},
        {"jobs", required_argument, NULL, 'j'},  {"steps", required_argument, NULL, 'p'},
        {"trace", no_argument, NULL, 't'},       {"hash", no_argument, NULL, 'h'},
        {"find", required_argument, NULL, 'f'},  {"renew", required_argument, NULL, 'r'},
        {0},
    };
    struct batch b = {.first = 1, .last = 0, .jobs = 2};
    uint64_t steps = 0;
    bool trace = false, each = false;
    const char *mark = NULL;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 's')
            seeds_read(&b, optarg);
        else if (option == 'n' && !(b.only = scenario_named(optarg)))
            usage();
        else if (option == 'j')
            b.jobs = (unsigned)strtoul(optarg, NULL, 10);
        else if (option == 'p')
            steps = strtoull(optarg, NULL, 10);
        else if (option == 'f')
            mark = optarg;
        else if (option == 'r')
            return renew(optarg);
        trace |= option == 't';
        each |= option == 't' || option == 'h' || option == 'p';
        if (option == '?')
            usage();
    }
    if (mark && !b.last)
        b.last = FIND_LAST;
    if (b.last < b.first || optind != argc)
        usage();
    if (mark)
        return find(&b, mark);
    if (!each)
        return run_batch(&b);
    run_each(&b, steps, trace);
    return EXIT_SUCCESS;
}
