/* The words that every other header uses: handles, results, ownership, threads.
 *
 * Glossary. A *reactor* owns one io_uring ring and belongs to one thread. A *connection* is a
 * stream socket in the reactor's table; a *listener* makes connections. A *turn* is one pass of the
 * loop: make requests of what is wanted, enter the kernel, handle completions, due timers, posted
 * work. A *lent* buffer is the library's own and may be read until the callback returns. `size` is
 * bytes, `count` is things, `_ns` is nanoseconds of the monotonic clock.
 *
 * Ownership, only these words. *Borrows x until y*: the caller keeps x unchanged till y. *Consumes
 * x*: the callee ends x, also on failure. *Owns x*: must release it, by the function named.
 *
 * Results. Functions return 0 or a count, or else a negative errno; on failure nothing has changed
 * and `ret` parameters are untouched. Four errors are common to nearly all functions and are not
 * repeated at each:
 *   -EINVAL  an argument is out of its stated range, or a pointer that must not be NULL is;
 *   -EPERM   the caller is not the reactor's thread (see kr_run in reactor.h);
 *   -ECHILD  the process was forked after the reactor was made, and this is the child (daemon(3)
 *            forks: daemonise first, then make the reactor);
 *   -ESTALE  the handle's object is gone, or belongs to another reactor, or never was.
 *
 * Threads. Only kr_post, kr_notify, kr_stop and kr_stats_read may be called from any thread.
 *
 * Callbacks run only inside kr_run, kr_step and kr_reactor_free, on the reactor's thread, one at a
 * time, never inside any other call. From a callback every function may be called but those
 * three. */
#ifndef KREACTOR_TYPES_H
#define KREACTOR_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KR_API __attribute__((visibility("default")))
#define KR_MUST_CHECK __attribute__((warn_unused_result))
#else
#define KR_API
#define KR_MUST_CHECK
#endif

struct kr_reactor;

/* Handles are values: copy, store, compare, send them to another thread; there is nothing to free.
 * `bits` packs kind, reactor, slot and generation and is opaque, but two handles name the same
 * object exactly when their `bits` are equal, and 0 never names one. A handle whose object is gone,
 * or is another reactor's, is refused with -ESTALE. It comes to name a later object of the same
 * slot only after 2^28 lives of that slot. No two living reactors have the same number; the handle
 * of a freed reactor can fit into another only after 4,095 more have been made. */
typedef struct {
    uint64_t bits;
} kr_conn;

typedef struct {
    uint64_t bits;
} kr_listener;

typedef struct {
    uint64_t bits;
} kr_timer;

typedef struct {
    uint64_t bits;
} kr_lease;

/* Memory, or a descriptor, that was borrowed is its owner's again. Called once a loan, in a phase
 * of a turn of its own, on the reactor's thread; anything may be called from it that may be called
 * from a callback. */
typedef void kr_release_fn(struct kr_reactor *r, void *arg);

/* Why a connection ended, with the `error` that on_close gets beside it. */
enum kr_why {
    KR_WHY_LOCAL = 0,   /* this program called kr_conn_close; error is 0 */
    /* the peer ended its side and there is no on_eof; error is 0, or -ENODATA when it ended behind
     * bytes that on_data had left unconsumed */
    KR_WHY_PEER = 1,
    KR_WHY_ERROR = 2,   /* the kernel reported `error`, for example -ECONNRESET or -EPIPE */
    KR_WHY_TIMEOUT = 3, /* a deadline passed; error is -ETIMEDOUT */
    KR_WHY_LIMIT = 4,   /* unconsumed bytes outgrew recv_cap: -EMSGSIZE; memory refused: -ENOMEM */
    KR_WHY_REACTOR = 5, /* kr_reactor_free closed it; error is 0 */
    /* kr_connect was answered `error`, for example -ECONNREFUSED: it never stood */
    KR_WHY_CONNECT = 6,
    KR_WHY_FILE = 7,    /* a file could not be read on, so that it was reset: -ENODATA, -EIO */
    KR_WHY_RELEASED = 8, /* kr_conn_release gave it back as a descriptor; error is 0 */
};

/* How kr_conn_close ends a connection, from the softest to the hardest. */
enum kr_close {
    /* as FLUSH, but when the peer has ended too; what it sends meanwhile is dropped */
    KR_CLOSE_LINGER = 0,
    KR_CLOSE_FLUSH = 1,  /* after the queued bytes are sent, or none was for flush_ns */
    KR_CLOSE_NOW = 2,    /* at once; queued bytes are dropped */
    KR_CLOSE_RESET = 3,  /* at once and with RST, so that the peer sees an error */
};

/* The deadlines of a connection. */
enum kr_deadline {
    KR_DEADLINE_IDLE = 0,  /* no byte was received or sent for idle_ns */
    KR_DEADLINE_READ = 1,  /* no byte was received for read_ns, in which reading was not stopped */
    KR_DEADLINE_WRITE = 2, /* bytes were queued for write_ns, and none could be sent */
    KR_DEADLINE_LIFE = 3,  /* it has been open for life_ns */
    KR_DEADLINE_FLUSH = 4, /* while closing, the peer took no byte, or did not end, for flush_ns */
};

/* The name of an error, without the minus sign's meaning lost: kr_errname(-EPIPE) and
 * kr_errname(EPIPE) are both "EPIPE". Never NULL: an unknown number gives "E?". The string is
 * static. Any thread. */
KR_API const char *kr_errname(int error);

/* The name of a kr_why in lower case, "peer" for KR_WHY_PEER; "?" for another number. Any
 * thread. */
KR_API const char *kr_whyname(enum kr_why why);

#ifdef __cplusplus
}
#endif

#endif
