/* Hooks: what a capability that few connections have does where all connections pass.
 *
 * A capability is a file of its own and a row of functions, each of which may be NULL. The core of a
 * connection calls a hook only of those capabilities whose bit is set in the connection's `features`
 * (the hooks for all, at the end of a row, are called for every connection). It names none of them,
 * and a connection that has none of them pays for one test. The rows stand in one table (roof/features.c),
 * in the order of the features, which is the order of the calls. */
#ifndef KR_CONN_HOOKS_H
#define KR_CONN_HOOKS_H

#include "conn/reactor.h"

struct kr__hooks {
    /* ---- from state alone ---- */

    /* The verbs that it wants, of those that it would want without this capability. */
    uint32_t (*wants)(const struct kr__conn *c, uint32_t desired);
    /* The same of the verbs by which it sends. */
    uint32_t (*sends)(const struct kr__conn *c, uint32_t desired);
    /* For the audit, of one that waits for this capability: will something bring it on? */
    bool (*moves)(const struct kr_reactor *r, const struct kr__conn *c);
    /* Something that has come is yet to be shown, to its user or elsewhere. */
    bool (*holds)(const struct kr__conn *c);
    /* While it is not read for the sake of this capability: from when its idle deadline counts. */
    int64_t (*idle_from)(const struct kr__conn *c);

    /* ---- receiving ---- */

    /* A receive by one shot is made: where it puts what comes beside the bytes. */
    struct msghdr *(*asks)(struct kr__conn *c);
    /* A receive has completed with that result. May run callbacks. */
    void (*came)(struct kr_reactor *r, struct kr__conn *c, int res);
    /* Reading goes on: what came beside the bytes meanwhile is told of. May run callbacks. */
    void (*shows)(struct kr_reactor *r, struct kr__conn *c);
    /* While `forwarding`: takes received bytes, returns how many; takes the end of the stream. */
    size_t (*data)(struct kr_reactor *r, struct kr__conn *c, const char *data, size_t size);
    void (*eof)(struct kr_reactor *r, struct kr__conn *c);

    /* ---- sending ---- */

    /* The queue has risen above send_high; is down to send_low again (true: its user is not to be
     * told, who has not filled it); has got rid of bytes, or this side has ended. */
    void (*full)(struct kr_reactor *r, struct kr__conn *c);
    bool (*drained)(struct kr_reactor *r, struct kr__conn *c);
    void (*sent)(struct kr_reactor *r, struct kr__conn *c);
    /* It is broken: it sends nothing more, for that reason. */
    void (*breaks)(struct kr_reactor *r, struct kr__conn *c, int error);

    /* ---- deadlines ---- */

    /* Its place in the heap has come up. True: it is this capability's alone. */
    bool (*due)(struct kr_reactor *r, struct kr__conn *c);
    /* A deadline of it is over. True: that is seen to. */
    bool (*overdue)(struct kr_reactor *r, struct kr__conn *c);

    /* ---- its life ---- */

    /* It is being closed; the state is still the one before. */
    void (*closes)(struct kr_reactor *r, struct kr__conn *c, int error);
    /* It goes on to LINGERING or FLUSHING. True: how long that may take is seen to. */
    bool (*flushes)(struct kr_reactor *r, struct kr__conn *c);
    /* Nothing but what is in flight keeps it from now on. */
    void (*joins)(struct kr_reactor *r, struct kr__conn *c);
    /* A request of it has ended, and it is neither open nor to be closed. */
    void (*settles)(struct kr_reactor *r, struct kr__conn *c);
    /* Its on_close is next. May run callbacks. */
    void (*ends)(struct kr_reactor *r, struct kr__conn *c, int error);
    /* Gives back all that it held for this capability. Runs no callback. */
    void (*drop)(struct kr_reactor *r, struct kr__conn *c);

    /* ---- for all connections, whatever their features ---- */

    /* A connection begins, and has its limits. `foreign`: its socket, or the one that it was
     * accepted from, was made by others. 0, or -ENOMEM. */
    int (*begins)(struct kr_reactor *r, struct kr__conn *c, bool foreign);
    /* Its slot is free. May run callbacks, of the slot's next connection. */
    void (*freed)(struct kr_reactor *r, struct kr__conn *c);
    /* Something that it waited for is over: a pair, or leaving. May run callbacks. */
    void (*rejoins)(struct kr_reactor *r, struct kr__conn *c);
};

/* Runs the statement behind it once for each row with such a hook, of the connection's features: `row`
 * is the row. A feature that goes away meanwhile has no more hooks called. */
#define KR__EACH_HOOK(r, c, hook)                                                                  \
    for (unsigned left_ = (c)->features; left_; left_ &= left_ - 1)                                \
        for (const struct kr__hooks *row = (r)->hooks[__builtin_ctz(left_)];                       \
             row && row->hook && (c)->features & left_ & -left_; row = NULL)

/* The same of all rows, whatever its features. */
#define KR__EACH_ROW(r, hook)                                                                      \
    for (unsigned i_ = 0; i_ < KR__ROW_COUNT; i_++)                                                \
        for (const struct kr__hooks *row = (r)->hooks[i_]; row && row->hook; row = NULL)

/* Of a connection with features, at the points that every byte passes. */
uint32_t kr__hooks_want(const struct kr_reactor *r, const struct kr__conn *c, uint32_t desired);
uint32_t kr__hooks_send(const struct kr_reactor *r, const struct kr__conn *c, uint32_t desired);
void kr__hooks_sent(struct kr_reactor *r, struct kr__conn *c);
struct msghdr *kr__hooks_ask(struct kr_reactor *r, struct kr__conn *c);
void kr__hooks_came(struct kr_reactor *r, struct kr__conn *c, int res);

#endif
