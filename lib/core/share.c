/* A connection's share of a turn.
 *
 * A multishot receive takes what its socket holds, and a turn lasts until all that was received is
 * handled: beside one that sends as fast as it can, those who ask little wait in each turn for
 * megabytes to be copied in and out. With DEFER a turn takes some 20 completions (kernel >= 6.13),
 * so that an answer that is one of 200 waits so ten times.
 *
 * Happy path: nobody gets more than turn_bytes in a turn, and all that is kept is a sum. One that
 * gets more, or more receives than a share has, beside others that do not, is greedy: its multishot
 * is cancelled, and it receives by requests of one shot, which is a buffer a turn, until it has
 * been calm for a while, or without such others for longer. It is by this that those who are alone,
 * or all of a kind, pay nothing: a buffer a turn costs a lone stream a third more CPU than as many
 * as there are.
 * Failure mode: the turn in which it is found out is a long one.
 *
 * The kernel could end each multishot after so many bytes (sqe->optlen, kernel >= 6.17), and there
 * would be no such turn. But that must be said when it is made, by those who are alone as well. */
#include "core/share.h"

/* What it takes to be let go: 8 receives, one after the other, that did not fill a buffer; or some
 * 256 turns in which nobody modest was served. Counted in kr__conn.calm, by 3 bits. */
#define CALM_ENOUGH 7u
#define CALM_TURNS 32u /* of these, one counts */

void kr__share_init(struct kr_reactor *r) {
    unsigned quarter = r->config.turn_cqes / 4;
    r->share_receives = quarter < KR__SHARE_RECEIVES ? quarter : KR__SHARE_RECEIVES;
}

/* Turns that bring bytes to nobody are not counted. */
static void begin_turn(struct kr_reactor *r) {
    if (r->share_turn == r->stats.turns)
        return;
    r->share_turn_before = r->share_turn;
    r->share_turn = r->stats.turns;
    r->modest_before = r->modest;
    r->modest = 0;
}

void kr__share_begin(struct kr_reactor *r, struct kr__conn *c) {
    begin_turn(r);
    c->was_modest = c->modest && c->turn == (uint16_t)r->share_turn_before;
    c->modest = !c->greedy && c->turn_bytes < r->config.turn_bytes && !kr__share_over(r, c);
    r->modest += c->modest;
    c->turn = (uint16_t)r->stats.turns;
    c->turn_bytes = 0;
    c->turn_receives = 0;
}

static void curb(struct kr_reactor *r, struct kr__conn *c) {
    kr__mark(share_exceeded);
    c->greedy = true;
    c->calm = 0;
    kr__conn_dirty(r, c);
}

static void calm_down(struct kr__conn *c) {
    if (c->calm < CALM_ENOUGH) {
        c->calm++;
        return;
    }
    kr__mark(share_kept_again);
    c->greedy = false;
}

/* A full buffer may be all that it could get by one shot: that is not calm. */
void kr__share_weigh(struct kr_reactor *r, struct kr__conn *c, size_t size) {
    bool beside = r->modest > c->modest || r->modest_before > c->was_modest;
    bool calm = size < r->config.buf_size && !kr__share_over(r, c);
    if (!c->greedy && beside)
        curb(r, c);
    else if (c->greedy && (beside ? calm : c->turn % CALM_TURNS == 0))
        calm_down(c);
    else if (c->greedy && beside)
        c->calm = 0;
}
