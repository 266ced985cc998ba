/* One row a verb, from the one list. */
#include "conn/op.h"

const struct kr__op kr__ops[KR__VERB_COUNT] = {
#define X(verb, where, has)                                                                        \
    [KR__VERB_##verb] = {                                                                          \
        .name = #verb,                                                                             \
        .target = KR__TARGET_##where,                                                              \
        .traits = (has),                                                                           \
        .prep = kr__prep_##verb,                                                                   \
        .done = kr__done_##verb,                                                                   \
    },
    KR__VERBS(X)
#undef X
};
