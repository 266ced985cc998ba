/* The terms that every other header uses: handles, results, ownership, threads.
 *
 * Glossary. A *reactor* owns one io_uring ring and belongs to one thread. A *connection* is a
 * stream socket, or an end of a pipe, in the reactor's table. A *listener* accepts connections. A
 * *turn* is one pass of the loop: it makes requests, enters the kernel, handles completions, and
 * then handles due timers and posted work. A *lent* buffer is the library's own and may be read
 * until the callback returns. A `size` is in bytes, a `count` is a number of things, and a name
 * that ends in `_ns` is in nanoseconds of the monotonic clock.
 *
 * Ownership. Only these words are used:
 *   borrows x until y   the caller keeps x valid and unchanged until y
 *   consumes x          the callee ends x, also on failure
 *   owns x              must release x, by the function named
 *
 * Results. A function returns 0 or a count, or else a negative errno. On failure nothing has
 * changed and `ret` parameters are untouched, unless the function says otherwise. Four errors are
 * common to nearly all functions and are not repeated at each:
 *   -EINVAL  an argument is out of its stated range, or a pointer that must not be NULL is NULL
 *   -EPERM   the caller is not the reactor's thread (see kr_run in roof/reactor.h)
 *   -ECHILD  the process was forked after the reactor was made, and this is the child (daemon(3)
 *            forks: daemonise first, then make the reactor)
 *   -ESTALE  the object of the handle is gone, or belongs to another reactor, or never existed
 *
 * Threads. Of the functions that take a reactor, any thread may call kr_post, kr_notify, kr_stop,
 * kr_stats_read and kr_reactor_table. All others belong to the reactor's thread, unless they say
 * otherwise. Functions that take neither a reactor nor a simulated world (sim.h) may be called from
 * any thread.
 *
 * Callbacks run only within kr_run, kr_step and kr_reactor_free, on the reactor's thread, one at a
 * time, and never within any other call. A callback may call every function but those three.
 *
 * `user` and `arg` pointers are handed to callbacks as they are. The library does not look at
 * them. */
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

/* Handles are values: a program may copy, store and compare them and send them to another thread.
 * There is nothing to free. `bits` packs kind, reactor, slot and generation, and is opaque, but two
 * handles name the same object exactly when their `bits` are equal, and 0 never names an object. A
 * handle whose object is gone, or belongs to another reactor, is refused with -ESTALE. An old
 * handle can name a later object of the same slot only after 2^28 lives of that slot. No two living
 * reactors have the same number. The handle of a freed reactor can fit another reactor only after
 * 4,095 more have been made. */
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

/* A loan of memory is over: the borrowed bytes are the caller's again. Called once for each loan,
 * on the reactor's thread, in a phase of a turn of its own or from kr_reactor_free. Legal:
 * everything that is legal in a callback. */
typedef void kr_release_fn(struct kr_reactor *r, void *arg);

/* Why a connection ended, with the `error` that on_close gets. */
enum kr_why {
    /* this program called kr_conn_close, or the library closed the connection on its behalf
     * (kr_drain, the end of a forwarding pair); error is 0 */
    KR_WHY_LOCAL = 0,
    /* the peer ended its side and there is no on_eof; error is 0, or -ENODATA if on_data had left
     * bytes unconsumed */
    KR_WHY_PEER = 1,
    KR_WHY_ERROR = 2,   /* the kernel reported `error`, for example -ECONNRESET or -EPIPE */
    KR_WHY_TIMEOUT = 3, /* a deadline, or the time of a kr_drain, passed; error is -ETIMEDOUT */
    /* unconsumed bytes exceeded recv_cap: -EMSGSIZE; memory was refused: -ENOMEM */
    KR_WHY_LIMIT = 4,
    KR_WHY_REACTOR = 5, /* kr_reactor_free closed it; error is 0 */
    /* kr_connect got `error`, for example -ECONNREFUSED: the connection was never established */
    KR_WHY_CONNECT = 6,
    /* reading a file failed, so the connection was reset; error is -ENODATA, -EIO ... */
    KR_WHY_FILE = 7,
    KR_WHY_DETACHED = 8, /* kr_conn_detach gave it back as a descriptor; error is 0 */
};

/* How kr_conn_close ends a connection, from the softest manner to the hardest. */
enum kr_close {
    /* after the queued bytes are sent and the peer has ended its side, too; bytes that the peer
     * sends meanwhile are dropped. Waits at most flush_ns as KR_CLOSE_FLUSH does */
    KR_CLOSE_LINGER = 0,
    /* after the queued bytes are sent, or when the peer has taken none for flush_ns */
    KR_CLOSE_FLUSH = 1,
    KR_CLOSE_NOW = 2,    /* at once; queued bytes are dropped */
    KR_CLOSE_RESET = 3,  /* at once and with RST, so that the peer sees an error */
};

/* The deadlines of a connection (struct kr_conn_opts). */
enum kr_deadline {
    KR_DEADLINE_IDLE = 0,  /* no byte was received or sent for idle_ns */
    KR_DEADLINE_READ = 1,  /* no byte was received for read_ns while reading was not stopped */
    KR_DEADLINE_WRITE = 2, /* bytes were queued for write_ns, and the kernel took none */
    KR_DEADLINE_LIFE = 3,  /* the connection has been open for life_ns */
    /* while closing, the peer took no byte, or did not end its side, for flush_ns */
    KR_DEADLINE_FLUSH = 4,
};

/* Returns the name of an error. The sign of `error` does not matter: kr_errname(-EPIPE) and
 * kr_errname(EPIPE) are both "EPIPE". Never NULL: an unknown number gives "E?". The string is
 * static. Any thread. */
KR_API const char *kr_errname(int error);

/* Returns the name of an enum kr_why in lower case, for example "peer" for KR_WHY_PEER; "?" for an
 * unknown number. The string is static. Any thread. */
KR_API const char *kr_whyname(enum kr_why why);

#ifdef __cplusplus
}
#endif

#endif
