/* The op table: what each verb does when a request is made and when it completes.
 *
 * `prep` fills an SQE that is all zeros and returns the tag's operand; the loop sets target, tag
 * and counter afterwards, so that no verb can forget them. `done` handles one completion, when the
 * loop has already counted it: with the verb no longer armed if it was the last. */
#ifndef KR_CONN_OP_H
#define KR_CONN_OP_H

#include "conn/reactor.h"

struct kr__completion {
    int32_t res;
    uint32_t flags; /* IORING_CQE_F_* */
    uint16_t operand;
};

enum kr__target {
    KR__TARGET_NONE,
    KR__TARGET_RAW_FD,
    KR__TARGET_SLOT,
    KR__TARGET_INDEX,
};

struct kr__op {
    const char *name;
    enum kr__target target;
    unsigned traits; /* enum kr__trait */
    uint16_t (*prep)(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe);
    void (*done)(struct kr_reactor *r, struct kr__owner *o, const struct kr__completion *how);
};

extern const struct kr__op kr__ops[KR__VERB_COUNT];

#define X(name, target, traits)                                                                    \
    uint16_t kr__prep_##name(struct kr_reactor *r, struct kr__owner *o, struct io_uring_sqe *sqe); \
    void kr__done_##name(struct kr_reactor *r, struct kr__owner *o,                                \
                         const struct kr__completion *how);
KR__VERBS(X)
#undef X

static inline struct kr__conn *kr__owner_conn(struct kr__owner *o) {
    kr__assert(o->kind == KR__KIND_CONN);
    return kr__container_of(o, struct kr__conn, owner);
}

#endif
