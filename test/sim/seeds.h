/* The file of seeds that are kept: each came by a rare path on which there once was a fault, and
 * must come by its mark still.
 *
 *   SCENARIO SEED MARK the fault
 *
 * When the storm or the simulated kernel changes, a seed is another run; `kr-sim --renew FILE`
 * finds others that come by the same marks. */
#ifndef SEEDS_H
#define SEEDS_H

#include "sim/batch.h"

#include <stdio.h>

#define SEED_LINE_MAX 256

struct kept_seed {
    const struct scenario *scenario;
    uint64_t seed;
    char mark[48];
    char why[SEED_LINE_MAX];
};

/* 1: a kept seed. 0: a comment. -1: neither, or there is no such scenario or mark. */
int seed_parse(const char *line, struct kept_seed *ret);

/* Runs it to its end. Yields how often it came by its mark; -1: it failed, as has been said. */
int64_t seed_run(const struct kept_seed *kept);

/* The first of the seeds from its own to `last` that passes and comes by the mark; false: none. */
bool seed_find(struct kept_seed *kept, uint64_t last);

#endif
