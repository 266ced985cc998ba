/* The verbs: what can be asked of the kernel, one line each. This list yields the enum, the op
 * table and the names; a verb's own file is lib/op/<verb>.c.
 *
 *   X(name, target, counted, many)
 *
 * target what the SQE's descriptor is: the owner's SLOT as a fixed file; INDEX, the same slot as a
 * file
 *          index (CLOSE of a direct descriptor must not carry the fixed-file flag,
 *          io_uring/openclose.c); RAW_FD, set by `prep`; NONE.
 * counted whether it counts as in flight for its owner. A cancel does not: it is about another
 * request
 *          and leaves no completion when it succeeds.
 * many whether several of one owner may be in flight; then `done` keeps the armed bit itself. */
#ifndef KR_CORE_VERBS_H
#define KR_CORE_VERBS_H

#define KR__VERBS(X)                                                                               \
    X(nop, NONE, false, true)                                                                      \
    X(wake, RAW_FD, true, false)                                                                   \
    X(accept, SLOT, true, false)                                                                   \
    X(accept_one, SLOT, true, true)                                                                \
    X(accept_fd, SLOT, true, true)                                                                 \
    X(accept_poll, SLOT, true, false)                                                              \
    X(install, NONE, true, true)                                                                   \
    X(connect, SLOT, true, false)                                                                  \
    X(sockopt, SLOT, true, false)                                                                  \
    X(recv, SLOT, true, false)                                                                     \
    X(recv_poll, SLOT, true, false)                                                                \
    X(send, SLOT, true, false)                                                                     \
    X(send_poll, SLOT, true, false)                                                                \
    X(read, RAW_FD, true, false)                                                                   \
    X(send_zc, SLOT, true, true)                                                                   \
    X(shutdown, SLOT, true, false)                                                                 \
    X(export, SLOT, true, false)                                                                   \
    X(reset, SLOT, true, false)                                                                    \
    X(unlinger, SLOT, true, false)                                                                 \
    X(purge, SLOT, true, false)                                                                    \
    X(close, INDEX, true, false)                                                                   \
    X(cancel, NONE, false, true)

enum kr__verb {
#define X(name, target, counted, many) KR__VERB_##name,
    KR__VERBS(X)
#undef X
    KR__VERB_COUNT
};
_Static_assert(KR__VERB_COUNT <= 32, "a set of verbs is 32 bits");

/* A set of verbs. */
#define KR__SET(name) (1u << KR__VERB_##name)

/* Of a stream, of which one is in flight at a time. */
#define KR__SENDS (KR__SET(send) | KR__SET(send_zc))

/* By which a connection receives, or waits for something to receive. */
#define KR__RECEIVES (KR__SET(recv) | KR__SET(recv_poll))

#endif
