/* NOP: a request that only completes. For measuring the way through the ring, and for tests that
 * want a completion of their making to come through the real queue. */
#ifndef KR_ROOF_NOP_H
#define KR_ROOF_NOP_H

#include "conn/reactor.h"
#include "ring/tag.h"

/* The tag of a NOP that means nothing. */
uint64_t kr__nop_tag(const struct kr_reactor *r);

/* Makes a NOP that completes with `user_data` and `result` (other than 0: kernel >= 6.10). Nobody
 * counts it, so the tag must be of no living owner's counted verb. Between turns or in a callback;
 * -EAGAIN: the SQ is full. */
int kr__nop(struct kr_reactor *r, uint64_t user_data, int32_t result);

#endif
