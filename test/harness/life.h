/* Connections whose lives are written down: for suites about how connections end.
 *
 * Each connection of a case has a record, and the record's own rules are checked at every callback:
 * on_open first, on_close once and last, nothing between a close and on_close. */
#pragma once

#include "harness/net.h"

enum event { OPEN, DATA, END, DRAIN, TIMEOUT, CLOSE, EVENTS };

#define LIVES 600

struct life {
    kr_conn conn;
    unsigned events[EVENTS];
    size_t bytes;
    bool closing; /* by this side */
    int error;
    enum kr_why why;
};

/* What a case's connections do: `user` of a listener with these callbacks. */
struct house {
    struct life lives[LIVES];
    unsigned count;
    int close_in; /* an enum event, or EVENTS for none */
    enum kr_close how;
    bool close_others; /* instead of itself */
    size_t greeting;   /* bytes sent in on_open */
    bool echo;
    unsigned closed;
};

extern struct house house;

extern const struct kr_conn_ops house_ops;

/* Without on_eof and on_timeout: the defaults. */
extern const struct kr_conn_ops house_plain_ops;

/* The callbacks, for ops of a case's own. */
void house_open(struct kr_reactor *r, kr_conn conn, void *house);
size_t house_data(struct kr_reactor *r, kr_conn conn, void *life, const void *data, size_t size);
size_t house_keep_all(struct kr_reactor *r, kr_conn conn, void *life, const void *data,
                      size_t size);
void house_eof(struct kr_reactor *r, kr_conn conn, void *life);
void house_close(struct kr_reactor *r, kr_conn conn, void *life, int error, enum kr_why why);

void house_init(void);

/* The next connection of the house; returns its client. The second has more queued than the peer
 * takes: its send is parked in the kernel. */
int house_open_one(struct kr_reactor *r, uint16_t port);
int house_open_stalled(struct kr_reactor *r, uint16_t port);

/* In a callback of a case's own: this has happened. */
void life_happens(struct kr_reactor *r, kr_conn conn, struct life *life, enum event event);

/* Closes it; nothing can be asked of it from now on. */
void life_close(struct kr_reactor *r, struct life *life, enum kr_close how);

/* The i-th life ends, if it has not yet, for this cause; its handle is stale. */
void life_check_closed(struct kr_reactor *r, unsigned i, int error, enum kr_why why);
