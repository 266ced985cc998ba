/* Marks: the rare paths, by name, counted wherever they are taken, so that tests can tell whether they have
 * come by. A path without which the tests would be as green as before is tested by luck.
 *
 *   X(name, suite)
 *
 * suite   the one that must come by it: `sim` in the seeds of its storm, others in their cases.
 *         test/marks.py holds what the suites have counted against this list.
 *
 * Checked builds only; in others nothing is left of a mark. The counters are those of the process, over all
 * reactors, and relaxed atomics; a test may have its processes share them. */
#ifndef KR_BASE_MARK_H
#define KR_BASE_MARK_H

#include "base/util.h"

#define KR__MARKS(X)                                                                               \
    /* loop.c */                                                                                   \
    X(sq_full, sim)                                                                                \
    X(cq_overflow, sim)                                                                            \
    X(lost, sim)

enum kr__mark {
#define X(name, suite) KR__MARK_##name,
    KR__MARKS(X)
#undef X
    KR__MARK_COUNT
};

/* Where they are counted, KR__MARK_COUNT of them; a place of the library's own until a test sets another,
 * before there is any reactor. */
extern uint64_t *kr__marks;

#define kr__mark(name)                                                                             \
    do {                                                                                           \
        if (KR_CHECKED)                                                                            \
            __atomic_fetch_add(&kr__marks[KR__MARK_##name], 1, __ATOMIC_RELAXED);                  \
    } while (0)

/* For a path that is none of its own: `cond` has no side effects. */
#define kr__mark_if(name, cond)                                                                    \
    do {                                                                                           \
        if (KR_CHECKED && (cond))                                                                  \
            kr__mark(name);                                                                        \
    } while (0)

#endif
