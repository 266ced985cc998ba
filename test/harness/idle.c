/* A suite of which nothing can run on any machine, for selftest.c to look at. */
#include "tap.h"

const struct tap_variant tap_variants[] = {{.name = "only", .caps_mask = ~0u}};
const size_t tap_variant_count = 1;
const struct tap_cap tap_caps[1];
const size_t tap_cap_count = 0;

TEST(skipped_everywhere) {
    tap_need_kernel(99, 0);
}

TAP_MAIN(idle, 1)
