/* Connections on their way out as plain descriptors. */
#ifndef KR_CORE_RELEASE_H
#define KR_CORE_RELEASE_H

#include "core/conn.h"

/* Something of one that is being released has come back. It is to be told of when nothing is in
 * flight and it has its descriptor; or when it has been refused one, and only zero-copy sends are
 * in flight, at most. */
void kr__release_step(struct kr_reactor *r, struct kr__conn *c);

/* True while it has no descriptor to leave by, and has not been refused one. */
static inline bool kr__release_lacks_fd(const struct kr__conn *c) {
    return c->more->fd < 0 && !c->more->refusal;
}

/* What was sent by zero-copy has not been acknowledged in time. */
void kr__release_overdue(struct kr_reactor *r, struct kr__conn *c);

/* The kernel has made a descriptor for it, or refused. */
void kr__release_answered(struct kr_reactor *r, struct kr__conn *c, int res);

/* It ends before it could be released. */
void kr__release_fails(struct kr_reactor *r, struct kr__conn *c, int error);

/* For the audit: will something bring it further? */
bool kr__release_moves(const struct kr__conn *c);

/* Hands over those that are ready. A phase of the turn. */
void kr__releases_settle(struct kr_reactor *r);

#endif
