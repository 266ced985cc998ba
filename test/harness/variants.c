/* How each TEST_EACH case is run: both task-run modes, with all that this kernel can do and with
 * what Linux 6.1 could. */
#include "tap.h"

#include "kernel/probe.h"

#include <kreactor/reactor.h>

const struct tap_variant tap_variants[] = {
    {.name = "coop", .mode = KR_TASKRUN_COOP, .caps_mask = KR__CAPS_ALL},
    {.name = "defer", .mode = KR_TASKRUN_DEFER, .caps_mask = KR__CAPS_ALL},
    {.name = "coop-6.1", .mode = KR_TASKRUN_COOP, .caps_mask = KR__CAPS_6_1},
    {.name = "defer-6.1", .mode = KR_TASKRUN_DEFER, .caps_mask = KR__CAPS_6_1},
};
const size_t tap_variant_count = sizeof(tap_variants) / sizeof(tap_variants[0]);
