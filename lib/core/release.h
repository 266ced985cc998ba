/* Connections on their way out as plain descriptors. */
#ifndef KR_CORE_RELEASE_H
#define KR_CORE_RELEASE_H

#include "core/conn.h"

/* One that is being released has nothing in flight: if it has its descriptor, or has been refused one, it is to
 * be told of. */
void kr__release_step(struct kr_reactor *r, struct kr__conn *c);

/* The kernel has made a descriptor for it, or refused. */
void kr__release_answered(struct kr_reactor *r, struct kr__conn *c, int res);

/* It ends before it could be released. */
void kr__release_fails(struct kr_reactor *r, struct kr__conn *c, int error);

/* Hands over those that are ready. A phase of the turn. */
void kr__releases_settle(struct kr_reactor *r);

#endif
