/* Many seeds, in processes of their own, because a broken promise ends its process. */
#ifndef BATCH_H
#define BATCH_H

#include "harness/marks.h"
#include "sim/storm.h"

struct batch {
    uint64_t first, last;
    const struct scenario *only; /* NULL: each seed its own */
    unsigned jobs;
    unsigned most; /* failures after which no more seeds are begun; 0: 5 */
};

struct tally {
    uint64_t seeds, failed, turns, hash;
    uint64_t faults[KR_SIM_FAULT_COUNT];
    uint64_t marks[MARK_COUNT];
    uint64_t library[KR__MARK_COUNT]; /* the library's own marks, in checked builds */
};

/* Runs the seeds; of each that fails it says on stderr what broke, in how few turns, and how to see
 * that again. */
void batch_run(struct tally *ret, const struct batch *batch);

/* How many fault kinds, marks of the storm, and marks of the library that it is to come by, were
 * never met; each is named on stderr. */
unsigned batch_unmet(const struct tally *tally);

/* A mark of the library (lib/base/mark.h), which only checked builds count, or else of the storm:
 * both have marks of some names. */
bool batch_knows_mark(const char *name);

/* How often the seeds came by it. */
uint64_t batch_mark(const struct tally *tally, const char *name);

/* True when the run fails (dies, or takes longer than a minute) within `steps` turns; 0: at all. */
bool batch_fails(uint64_t seed, const struct scenario *scenario, uint64_t steps, bool quiet);

#endif
