#include "sim/seeds.h"

#include <string.h>

int seed_parse(const char *line, struct kept_seed *ret) {
    char name[32];
    unsigned long long seed;
    int at = 0;
    *ret = (struct kept_seed){0};
    if (line[0] == '#')
        return 0;
    if (sscanf(line, "%31s %llu %47s %n", name, &seed, ret->mark, &at) != 3)
        return -1;
    snprintf(ret->why, sizeof ret->why, "%s", line + at);
    ret->why[strcspn(ret->why, "\n")] = 0;
    ret->seed = seed;
    ret->scenario = scenario_named(name);
    return ret->scenario && batch_knows_mark(ret->mark) ? 1 : -1;
}

int64_t seed_run(const struct kept_seed *kept) {
    struct batch one = {
        .first = kept->seed, .last = kept->seed, .only = kept->scenario, .jobs = 1};
    struct tally tally;
    batch_run(&tally, &one);
    return tally.failed ? -1 : (int64_t)batch_mark(&tally, kept->mark);
}

bool seed_find(struct kept_seed *kept, uint64_t last) {
    for (; kept->seed <= last; kept->seed++) {
        if (seed_run(kept) > 0)
            return true;
    }
    return false;
}
