/* The turn: arm, enter, reap, release, expire, inbox. */
#ifndef KR_ROOF_TURN_H
#define KR_ROOF_TURN_H

#include "conn/reactor.h"

/* One turn, waiting at most `max_wait_ns` (negative: without end). The count of things done, or
 * -errno. */
int kr__loop_turn(struct kr_reactor *r, int64_t max_wait_ns);

/* Handles one completion. The loop's own funnel; tests put completions of their making through
 * it. */
void kr__loop_complete(struct kr_reactor *r, uint64_t user_data, int32_t res, uint32_t flags);

#endif
