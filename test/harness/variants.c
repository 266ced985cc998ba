/* How each TEST_EACH case is run: both task-run modes, with all that this kernel can do and with
 * what Linux 6.1 could. And which kernel has what beyond 6.1. */
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

const struct tap_cap tap_caps[] = {
    {KR__CAP_NO_SQARRAY, 6, 6},   {KR__CAP_MIN_WAIT, 6, 12},        {KR__CAP_NO_IOWAIT, 6, 15},
    {KR__CAP_FD_INSTALL, 6, 8},   {KR__CAP_ZC_REPORT, 6, 3},        {KR__CAP_QUIET_PIPES, 6, 18},
    {KR__CAP_REFUSES_FDS, 6, 16}, {KR__CAP_ACCEPT_DONTWAIT, 6, 11}, {KR__CAP_FILE_TABLE, 6, 13},
};
/* RESET_TOLD is tried, and has no version: distributions bring the mend to older kernels. */
_Static_assert(sizeof(tap_caps) / sizeof(tap_caps[0]) == KR__CAP_COUNT - 1,
               "each capability but RESET_TOLD names its kernel");
const size_t tap_cap_count = sizeof(tap_caps) / sizeof(tap_caps[0]);
