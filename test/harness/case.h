/* What the runner and the process of one case share. */
#ifndef TAP_CASE_H
#define TAP_CASE_H

#include "tap.h"

#include <stdatomic.h>

enum tap_status { TAP_STATUS_SKIP = 77, TAP_STATUS_OVERRUN = 124, TAP_STATUS_FORKED_ON = 125 };

/* Written by the case, read by the runner when the case has ended. A case has passed only if it
 * says so here: an exit status of 0 alone may come from a stray exit(). */
struct tap_shared {
    enum { TAP_OUTCOME_NONE, TAP_OUTCOME_PASSED, TAP_OUTCOME_SKIPPED } outcome;
    char reason[240]; /* of a skip */
};

struct tap_job {
    const struct tap_case *c;
    const struct tap_variant *variant;
    char label[160]; /* name or name/variant */
    int deadline_s;
    uint64_t seed;
};

/* What the case's options say it needs. */
void tap_need_caps(unsigned caps);

/* Runs the case in this process and ends the process with its status. */
__attribute__((noreturn)) void tap_case_run(const struct tap_job *job, struct tap_shared *shared);

/* The same for a debugger: no deadline, and a failure aborts. Returns when the case has passed. */
void tap_case_debug(const struct tap_job *job, struct tap_shared *shared);

#endif
