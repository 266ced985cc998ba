/* The verbs: what can be asked of the kernel, a row each. This list yields the enum, the op table,
 * the names and the sets; a verb's own file is lib/op/<verb>.c.
 *
 *   X(name, target, traits)
 *
 * target   what the SQE's descriptor is.
 *   SLOT     the owner's slot, as a fixed file
 *   INDEX    the same slot as a file index: CLOSE of a direct descriptor must not carry the
 *            fixed-file flag (io_uring/openclose.c)
 *   RAW_FD   `prep` sets it
 *   NONE     none
 * traits   what the engine and the owners decide by; nobody else names a verb for that.
 *   ALONE     none of the following
 *   UNCOUNTED it is not in flight for its owner: a cancel is about another request, and leaves no
 *             completion when it succeeds
 *   MANY      several of one owner may be in flight; `done` then clears the armed bit itself
 *   AWAITED   it ends by itself and soon: where it is not wanted any more it is not cancelled
 *   RUNS_ON   a worker that has begun it goes on to its end, and a cancel is not made again
 *   NUMBERED  the tag's operand tells its requests apart, and a cancel does not find them
 *   SENDS     it sends bytes of the queue; of a stream one such is in flight at a time
 *   RECEIVES  it receives, or waits for something to receive */
#ifndef KR_RING_VERBS_H
#define KR_RING_VERBS_H

enum kr__trait {
    KR__ALONE = 0,
    KR__UNCOUNTED = 1 << 0,
    KR__MANY = 1 << 1,
    KR__AWAITED = 1 << 2,
    KR__RUNS_ON = 1 << 3,
    KR__NUMBERED = 1 << 4,
    KR__SENDS = 1 << 5,
    KR__RECEIVES = 1 << 6,
};

#define KR__VERBS(X)                                                                               \
    X(nop, NONE, KR__UNCOUNTED | KR__MANY)                                                         \
    X(wake, RAW_FD, KR__ALONE)                                                                     \
    X(accept, SLOT, KR__ALONE)                                                                     \
    X(accept_one, SLOT, KR__MANY)                                                                  \
    X(accept_fd, SLOT, KR__MANY)                                                                   \
    X(accept_poll, SLOT, KR__ALONE)                                                                \
    X(install, NONE, KR__MANY | KR__AWAITED | KR__NUMBERED)                                        \
    X(connect, SLOT, KR__ALONE)                                                                    \
    X(sockopt, SLOT, KR__AWAITED)                                                                  \
    X(recv, SLOT, KR__RECEIVES)                                                                    \
    X(recv_poll, SLOT, KR__RECEIVES)                                                               \
    X(send, SLOT, KR__SENDS)                                                                       \
    X(send_poll, SLOT, KR__ALONE)                                                                  \
    X(read, RAW_FD, KR__RUNS_ON)                                                                   \
    X(send_zc, SLOT, KR__SENDS | KR__MANY | KR__AWAITED | KR__NUMBERED)                            \
    X(shutdown, SLOT, KR__AWAITED | KR__NUMBERED)                                                  \
    X(export, SLOT, KR__AWAITED)                                                                   \
    X(reset, SLOT, KR__AWAITED)                                                                    \
    X(unlinger, SLOT, KR__AWAITED)                                                                 \
    X(purge, SLOT, KR__AWAITED)                                                                    \
    X(close, INDEX, KR__AWAITED)                                                                   \
    X(cancel, NONE, KR__UNCOUNTED | KR__MANY)

enum kr__verb {
#define X(name, target, traits) KR__VERB_##name,
    KR__VERBS(X)
#undef X
        KR__VERB_COUNT
};
_Static_assert(KR__VERB_COUNT <= 31, "a set of verbs is 32 bits, and an enumerator an int");

/* A set of verbs. */
#define KR__SET(name) (1u << KR__VERB_##name)

/* The sets of all verbs that have a trait. */
enum {
#define X(name, target, traits) | ((traits)&KR__AWAITED ? 1 << KR__VERB_##name : 0)
    KR__VERBS_AWAITED = 0 KR__VERBS(X),
#undef X
#define X(name, target, traits) | ((traits)&KR__MANY ? 1 << KR__VERB_##name : 0)
    KR__VERBS_OF_MANY = 0 KR__VERBS(X),
#undef X
#define X(name, target, traits) | ((traits)&KR__RUNS_ON ? 1 << KR__VERB_##name : 0)
    KR__VERBS_THAT_RUN_ON = 0 KR__VERBS(X),
#undef X
#define X(name, target, traits) | ((traits)&KR__SENDS ? 1 << KR__VERB_##name : 0)
    KR__VERBS_THAT_SEND = 0 KR__VERBS(X),
#undef X
#define X(name, target, traits) | ((traits)&KR__RECEIVES ? 1 << KR__VERB_##name : 0)
    KR__VERBS_THAT_RECEIVE = 0 KR__VERBS(X),
#undef X
};

/* A cancel is made by a tag whose operand is 0. */
#define X(name, target, traits)                                                                    \
    _Static_assert(!((traits)&KR__NUMBERED) || (traits)&KR__AWAITED,                               \
                   #name ": what a cancel does not find is awaited");
KR__VERBS(X)
#undef X

#endif
