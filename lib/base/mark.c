/* Where marks are counted, unless a test has another place. */
#include "base/mark.h"

static uint64_t here[KR_CHECKED ? KR__MARK_COUNT : 1];

uint64_t *kr__marks = here;
