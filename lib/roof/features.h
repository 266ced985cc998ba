/* The table of hooks, which a reactor is given. */
#ifndef KR_ROOF_FEATURES_H
#define KR_ROOF_FEATURES_H

#include "conn/hooks.h"

extern const struct kr__hooks *const kr__hook_rows[KR__ROW_COUNT];

#endif
