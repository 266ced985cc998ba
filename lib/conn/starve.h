/* Connections that wait for a receive buffer, in a line, in the order in which they came.
 *
 * While none waits the line is empty, and a connection that receives pays for one look at it. From
 * the first -ENOBUFS on all take turns. The first in the line, as many as there are buffers, may
 * try, by a receive of one shot each. A connection that has received goes to the end if it reads on;
 * so does one whose receive was armed before there was a line, and that receive is cancelled; one
 * that would begin to receive comes in at the end. So none is served twice before one that waits,
 * except by requests that had been armed before.
 *
 * When there are more buffers than connections in the line, as many as there are more may receive
 * without coming in, by a receive of one shot. Otherwise a line of connections that always have
 * something to receive would never end. */
#ifndef KR_CONN_STARVE_H
#define KR_CONN_STARVE_H

#include "base/list.h"

struct kr_reactor;
struct kr__conn;

struct kr__starve {
    struct kr__list list; /* of kr__conn.wait */
    unsigned starved;     /* of them, those that may not receive yet */
    unsigned may_try;     /* of them, those that may; what comes of it is not known yet */
    unsigned passing;     /* others that may receive, since the line last moved */
    bool marked;
    /* when marked: a place in the CQ, behind all that was to come of those who try */
    unsigned mark;
    int64_t
        retry_at; /* when no buffer is at hand that a completion would tell of; else KR__NEVER */
};

void kr__starve_init(struct kr__starve *line);

static inline bool kr__starve_empty(const struct kr__starve *line) {
    return kr__list_empty(&line->list);
}

/* Its requests are about to be made: nobody begins to receive before those who wait for a buffer,
 * unless there are enough. */
void kr__starve_up(struct kr_reactor *r, struct kr__conn *c);

/* It wants to receive while there is a line: in at the end, unless it is in already. */
void kr__starve_join(struct kr_reactor *r, struct kr__conn *c);

/* True when one that would begin to receive need not come in; it is counted. */
bool kr__starve_pass(struct kr_reactor *r);

/* Out, wherever it stands; nothing if it is not in. */
void kr__starve_leave(struct kr_reactor *r, struct kr__conn *c);

/* There was no buffer for it: it waits, in its place if it has one. */
void kr__starve_refused(struct kr_reactor *r, struct kr__conn *c);

/* It has received, in its turn or out of it. */
void kr__starve_served(struct kr_reactor *r, struct kr__conn *c);

/* To be called after each enter while some try. */
void kr__starve_mark(struct kr_reactor *r);

/* To be called after each reap, when buffers have been published: the next ones may try. */
void kr__starve_move(struct kr_reactor *r);

#endif
