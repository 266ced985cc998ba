/* The capabilities of connections, a row each. This list yields the bits in a connection's
 * `features`, the places of the hooks' rows and the table of them (roof/features.c). Its order is the order
 * in which hooks are called.
 *
 *   X(name, BIT)   what few connections have: kr__hooks_<name> is called where KR__<BIT> is set
 *   Y(name)        what concerns all: only the hooks for all connections are called */
#ifndef KR_CONN_FEATURES_H
#define KR_CONN_FEATURES_H

#define KR__FEATURES(X)                                                                            \
    X(connect, CONNECTING)   /* not established yet (extra/connect.c) */                           \
    X(forward, PAIRED)       /* an end of a forwarding pair */                                     \
    X(sockopt, SETS_OPTIONS) /* socket options wait to be set (extra/sockopt.c) */                 \
    X(detach, DETACHING)     /* kr_conn_detach was called, and its callback is owed */             \
    X(fds, TAKES_FDS) /* descriptors may come with its bytes, wanted or not (extra/descriptors.c) */

#define KR__CONCERNS(Y)                                                                            \
    Y(accept)                                                                                      \
    Y(drain)

enum {
#define X(name, bit) KR__ROW_##name,
#define Y(name) KR__ROW_##name,
    KR__FEATURES(X) KR__FEATURE_COUNT,
    KR__ROW_BEFORE_CONCERNS = KR__FEATURE_COUNT - 1,
    KR__CONCERNS(Y) KR__ROW_COUNT
#undef X
#undef Y
};
_Static_assert(KR__FEATURE_COUNT <= 8, "a connection has 8 bits of them");

enum {
#define X(name, bit) KR__##bit = 1 << KR__ROW_##name,
    KR__FEATURES(X)
#undef X
};

/* The rows, each in its capability's file. */
struct kr__hooks;
#define X(name, bit) extern const struct kr__hooks kr__hooks_##name;
#define Y(name) extern const struct kr__hooks kr__hooks_##name;
KR__FEATURES(X)
KR__CONCERNS(Y)
#undef X
#undef Y

#endif
