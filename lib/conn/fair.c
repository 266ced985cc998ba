/* A connection's share of a turn.
 *
 * A multishot receive takes all that its socket holds, and a turn lasts until all that was received
 * is handled. Beside a connection that sends as fast as it can, others that ask for little wait in
 * each turn for megabytes to be copied in and out. With DEFER a turn takes some 20 completions
 * (kernel >= 6.13), so that an answer that is one of 200 waits so ten times.
 *
 * Happy path: no connection gets more than turn_bytes in a turn, and all that is kept is a sum. One
 * that gets more bytes, or more receives than a share has, beside others that keep to their share, is
 * over its share. Its multishot is cancelled, and it receives by requests of one shot, which is one
 * buffer a turn, until it has been quiet for a while, or has been without such others for longer. So
 * a connection that is alone, or one of many of the same kind, pays nothing: a buffer a turn costs a
 * lone stream a third more CPU than as many as there are.
 * Failure mode: the turn in which it is found out is a long one.
 *
 * The kernel could end each multishot after so many bytes (sqe->optlen, kernel >= 6.17), and there
 * would be no such turn. But that must be said when it is made, by those who are alone as well. */
#include "conn/fair.h"

/* What it takes to be let go: 8 receives, one after the other, that did not fill a buffer; or some
 * 256 turns in which no connection within its share was served. Counted in kr__conn.quiet_turns. */
#define QUIET_ENOUGH 7u
#define QUIET_TURNS 32u /* of these, one counts */

void kr__fair_init(struct kr_reactor *r) {
    unsigned quarter = r->config.turn_cqes / 4;
    r->share_receives = quarter < KR__FAIR_RECEIVES ? quarter : KR__FAIR_RECEIVES;
}

/* Turns that bring bytes to nobody are not counted. */
static void begin_turn(struct kr_reactor *r) {
    if (r->share_turn == r->stats.turns)
        return;
    r->share_turn_before = r->share_turn;
    r->share_turn = r->stats.turns;
    r->within_share_before = r->within_share;
    r->within_share = 0;
}

void kr__fair_begin(struct kr_reactor *r, struct kr__conn *c) {
    begin_turn(r);
    c->was_within_share = c->within_share && c->turn == (uint16_t)r->share_turn_before;
    c->within_share =
        !c->over_share && c->turn_bytes < r->config.turn_bytes && !kr__fair_over(r, c);
    r->within_share += c->within_share;
    c->turn = (uint16_t)r->stats.turns;
    c->turn_bytes = 0;
    c->turn_receives = 0;
}

static void end_multishot(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark(share_exceeded);
    c->over_share = true;
    c->quiet_turns = 0;
    kr__conn_dirty(r, c);
}

static void quiet_turn(struct kr__conn *c) {
    if (c->quiet_turns < QUIET_ENOUGH) {
        c->quiet_turns++;
        return;
    }
    kr__mark(share_kept_again);
    c->over_share = false;
}

/* A full buffer may be all that it could get by one shot: such a turn is not quiet. */
void kr__fair_weigh(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    bool beside = r->within_share > c->within_share || r->within_share_before > c->was_within_share;
    bool quiet_turns = size < r->config.buf_size && !kr__fair_over(r, c);
    if (!c->over_share && beside)
        end_multishot(r, c);
    else if (c->over_share && (beside ? quiet_turns : c->turn % QUIET_TURNS == 0))
        quiet_turn(c);
    else if (c->over_share && beside)
        c->quiet_turns = 0;
}
