/* A connection's share of a turn. */
#ifndef KR_CONN_FAIR_H
#define KR_CONN_FAIR_H

#include "conn/reactor.h"

/* Receives that a share is at most, however little they bring: so many the kernel makes of one
 * multishot before it lets others have their turn (MULTISHOT_MAX_RETRY, io_uring/net.c, kernel >=
 * 6.8). */
#define KR__FAIR_RECEIVES 32u
#define KR__FAIR_RECEIVES_MOST 127u /* kr__conn.turn_receives has 7 bits */

/* True when it has had more than a share in its turn. */
static inline bool kr__fair_over(const struct kr_reactor *r, const struct kr__conn *c) {
    return c->turn_bytes > r->config.turn_bytes || c->turn_receives > r->share_receives;
}

void kr__fair_init(struct kr_reactor *r);

/* The first receive of it in this turn. */
void kr__fair_begin(struct kr_reactor *r, struct kr__conn *c);

/* What it received in this turn is more than its share, or it has had that not long ago. */
void kr__fair_weigh(struct kr_reactor *r, struct kr__conn *c, size_t size);

/* A receive has brought it so much. */
static inline void kr__fair_charge(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    if (c->turn != (uint16_t)r->stats.turns)
        kr__fair_begin(r, c);
    c->turn_bytes += (uint32_t)size;
    if (c->turn_receives < KR__FAIR_RECEIVES_MOST)
        c->turn_receives++;
    if (kr__unlikely(c->over_share || kr__fair_over(r, c)))
        kr__fair_weigh(r, c, size);
}

#endif
