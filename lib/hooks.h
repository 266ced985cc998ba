/* The table of hooks, which a reactor is given. */
#ifndef KR_HOOKS_H
#define KR_HOOKS_H

#include "core/hooks.h"

extern const struct kr__hooks *const kr__hook_rows[KR__ROW_COUNT];

#endif
