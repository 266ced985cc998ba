/* Connections on their way out as plain descriptors. */
#ifndef KR_EXTRA_DETACH_H
#define KR_EXTRA_DETACH_H

#include "conn/conn.h"

/* The kernel has made a descriptor for it, or refused. */
void kr__detach_answered(struct kr_reactor *r, struct kr__conn *c, int res);

/* Hands over those that are ready. A phase of the turn. */
void kr__detach_settle(struct kr_reactor *r);

#endif
