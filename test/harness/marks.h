/* The library's marks (base/mark.h), counted over all processes of a suite. */
#ifndef TEST_MARKS_H
#define TEST_MARKS_H

#include "base/mark.h"

struct test_mark {
    const char *name, *suite;
};

extern const struct test_mark test_marks[KR__MARK_COUNT];

/* From now on this process and all that it forks count in the same place, whatever becomes of them.
 * Again: does nothing. Before there is any reactor. */
void test_marks_share(void);

/* "# marks NAME COUNT NAME COUNT ...", of those that were hit. */
void test_marks_print(void);

#endif
