/* Catching up: what has come is read before a deadline is judged. */
#ifndef KR_TIME_CATCHUP_H
#define KR_TIME_CATCHUP_H

#include "base/util.h"

struct kr_reactor;

struct kr__catchup {
    int64_t until; /* deadlines up to this time may be judged: all that had come by then is read */
    int64_t asked; /* when the passes under way were asked for; KR__NEVER: none are */
    unsigned passes; /* left of them */
    unsigned turns;  /* after so many more, all that waited when this pass began has been run */
    bool marked;
    unsigned mark; /* when marked: a place in the CQ, behind the completions of all that */
    /* The longest turn of late: its time, and when its callbacks had returned. */
    int64_t held_from, held_to;
};

void kr__catchup_init(struct kr__catchup *catchup);

/* A deadline is due. Called when the turn's completions have been handled: moves `until` to now, or
 * begins passes. */
void kr__catchup_due(struct kr_reactor *r);

/* To be called after each enter while passes are under way: `until` moves when the last is over. */
void kr__catchup_pass(struct kr_reactor *r);

/* A turn has taken so long that what was handled in it counts from its end. */
#define KR__HELD_UP_NS 1000000
void kr__catchup_held_up(struct kr_reactor *r, int64_t from, int64_t to);

static inline bool kr__catchup_passes(const struct kr__catchup *catchup) {
    return catchup->asked != KR__NEVER;
}

#endif
