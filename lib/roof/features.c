/* The capabilities of connections: their rows of hooks, in the order of the list. */
#include "roof/features.h"

const struct kr__hooks *const kr__hook_rows[KR__ROW_COUNT] = {
#define X(name, bit) [KR__ROW_##name] = &kr__hooks_##name,
#define Y(name) [KR__ROW_##name] = &kr__hooks_##name,
    KR__FEATURES(X) KR__CONCERNS(Y)
#undef X
#undef Y
};
