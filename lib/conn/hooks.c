/* The hooks at the points that every byte passes: apart from them, so that a connection without
 * features pays for one test and no more. */
#include "conn/hooks.h"

uint32_t kr__hooks_want(const struct kr_reactor *r, const struct kr__conn *c, uint32_t desired) {
    KR__EACH_HOOK (r, c, wants)
        desired = row->wants(c, desired);
    return desired;
}

uint32_t kr__hooks_send(const struct kr_reactor *r, const struct kr__conn *c, uint32_t desired) {
    KR__EACH_HOOK (r, c, sends)
        desired = row->sends(c, desired);
    return desired;
}

void kr__hooks_sent(struct kr_reactor *r, struct kr__conn *c) {
    KR__EACH_HOOK (r, c, sent)
        row->sent(r, c);
}

struct msghdr *kr__hooks_ask(struct kr_reactor *r, struct kr__conn *c) {
    KR__EACH_HOOK (r, c, asks)
        return row->asks(c);
    return NULL;
}

void kr__hooks_came(struct kr_reactor *r, struct kr__conn *c, int res) {
    KR__EACH_HOOK (r, c, came)
        row->came(r, c, res);
}
