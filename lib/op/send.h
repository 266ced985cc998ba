/* What the sending verbs have in common. */
#ifndef KR_OP_SEND_H
#define KR_OP_SEND_H

#include "core/reactor.h"

/* Whether `size` more bytes may be queued: 0, -EPIPE, -ENOBUFS. A refusal counts as a rise above send_high, so
 * that a caller who then consumes nothing is shown the same bytes again when there is room. */
int kr__send_admit(struct kr_reactor *r, struct kr__conn *c, size_t size);

#endif
