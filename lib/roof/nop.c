/* NOP. Happy path: nothing happens, once. IORING_NOP_INJECT_RESULT: liburing test/nop.c. */
#include "roof/nop.h"

#include "conn/op.h"

uint16_t kr__prep_nop(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe) {
    (void)r;
    (void)o;
    io_uring_prep_nop(sqe);
    return 0;
}

void kr__done_nop(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how) {
    (void)r;
    (void)o;
    (void)how;
}

uint64_t kr__nop_tag(const struct kr_reactor *r) {
    return kr__tag_pack((struct kr__tag){
        .op = KR__VERB_nop, .slot = KR__SLOT_SELF, .generation = (uint16_t)r->self.generation});
}

int kr__nop(struct kr_reactor *r, uint64_t user_data, int32_t result) {
    struct io_uring_sqe *sqe = kr__ring_sqe(&r->ring);
    if (!sqe)
        return -EAGAIN;
    kr__prep_nop(r, &r->self, sqe);
    if (result) {
        sqe->rw_flags = KR__NOP_INJECT_RESULT;
        sqe->len = (uint32_t)result;
    }
    sqe->user_data = user_data;
    kr__count(&r->stats.sqes, 1);
    return 0;
}
