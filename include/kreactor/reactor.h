/* The reactor: how it is made, run, stopped and freed.
 *
 * The whole life of a daemon with it:
 *
 *     struct kr_config config;
 *     kr_config_init(&config);
 *     struct kr_reactor *r;
 *     struct kr_failure why;
 *     int rc = kr_reactor_new(&r, &config, &why);       // rc < 0: `why` says what to do about it
 *     ... kr_listen(r, ...), kr_timer_start(r, ...) ...
 *     rc = kr_run(r);                                   // until kr_stop(r)
 *     kr_reactor_free(r);
 *
 * Kernel >= 6.1. Before the library uses a newer feature it asks the running kernel for it. */
#ifndef KREACTOR_REACTOR_H
#define KREACTOR_REACTOR_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* When the kernel runs the second half of an operation (man io_uring_setup). Results are the same;
 * the cost differs. */
enum kr_taskrun {
    /* at the next transition of the reactor's thread into the kernel, by any system call */
    KR_TASKRUN_COOP = 0,
    /* only when the reactor waits; the kernel then takes about 20 operations at a time */
    KR_TASKRUN_DEFER = 1,
};

/* Where the files of connections and listeners are kept. Results are the same. */
enum kr_table {
    /* a registered table where it works properly (kernel >= 6.13), else plain descriptors */
    KR_TABLE_AUTO = 0,
    /* The kernel's registered table: no descriptors, and less work a request. Before Linux 6.13 the
     * kernel does not let go of a closed file while other requests are in flight: peers see no end,
     * and ports stay taken. */
    KR_TABLE_REGISTERED = 1,
    /* A descriptor for each connection and listener. They are close-on-exec. A forked child has
     * copies, and while it keeps them, peers of connections that the parent closes see no end
     * (kr_reactor_after_fork). */
    KR_TABLE_PLAIN = 2,
};

/* The allocator for all memory but the page-aligned tables (rings, connection table, receive
 * buffers), which are mapped. `alloc` returns `size` bytes aligned for any type, or NULL. `free`
 * gets the pointer and the exact size it was allocated with. `ctx` is handed to both. Both are
 * called on the reactor's thread, and by kr_reactor_new and kr_reactor_free; neither may call the
 * library. After warm-up neither is called on the paths of accept, data, send, timers and posts. */
struct kr_alloc {
    void *(*alloc)(void *ctx, size_t size);
    void (*free)(void *ctx, void *memory, size_t size);
    void *ctx;
};

/* The parameters of kr_reactor_new. Fill it with kr_config_init, then change what you need. Every
 * field has a working default, and 0 selects it. Every queue that a field bounds is really bounded:
 * reaching the bound gives a result or a pause, never a crash, a spin or a silent loss. */
struct kr_config {
    size_t size; /* sizeof(struct kr_config), set by kr_config_init */

    enum kr_taskrun taskrun; /* default KR_TASKRUN_COOP */

    /* Requests made between two entries into the kernel, 1 to 32768, rounded up to a power of two.
     * Requests beyond that are made in the next turn. Default 512 (32 KiB). */
    unsigned sq_entries;

    /* Completions that wait to be handled, at least sq_entries, at most 65536, rounded up to a
     * power of two. The kernel keeps completions beyond that, at some cost. Default 4096 (64
     * KiB). */
    unsigned cq_entries;

    /* Accepted connections at a time, at least 1. At this limit listeners pause and clients wait in
     * the backlog; no client is dropped. Default 0, see below.
     *
     * The table of all connections and files has conn_max + connect_max + listener_max entries, at most
     * 1048576. It must fit RLIMIT_NOFILE (soft), although the entries of a registered table are no
     * descriptors. The entries of a plain table are descriptors. They share the limit with the
     * other descriptors of the process and, with keep_fd, one more for each connection. When no
     * descriptor is left, accepts wait, and kr_connect returns -EMFILE.
     *
     * The default is what connect_max and listener_max leave of RLIMIT_NOFILE, less a spare for the
     * rest of the process, and at most 16384. The spare is a 16th of RLIMIT_NOFILE, at most 1024
     * and at most half of what is left. */
    unsigned conn_max;

    /* Connections at a time that this program makes itself (kr_connect) or is given
     * (kr_conn_adopt). The kernel chooses the entries of accepted connections, so the two kinds
     * cannot share theirs. Accepting does not look at this: a proxy that makes a connection for
     * each one it accepts sets both to the same number, or kr_connect answers -ENOSPC for some that
     * it has accepted. A worker whose connections are all handed to it has conn_max 1 and this
     * as high as it needs. Default: a quarter of the room that the limit and listener_max leave, or
     * what conn_max leaves of that room if it is less; at most 1024. */
    unsigned connect_max;

    /* Listeners and other files of the library's own, 1 to 65536. Default 64. The default does not
     * shrink with RLIMIT_NOFILE: under a limit of less than about 100 it has to be lowered. */
    unsigned listener_max;

    enum kr_table table; /* default KR_TABLE_AUTO */

    /* Receive buffers, shared by all connections: their number, a power of two from 1 to 32768, and
     * the size of each in bytes, 1 to 1 MiB. A buffer takes memory only where bytes were received
     * into it. When all are in use, connections wait in turn. Default 1024 of 65536 bytes. */
    unsigned buf_count;
    size_t buf_size;

    /* Calls of kr_post that wait to be run, 1 to 65536, rounded up to a power of two. Default
     * 1024. */
    unsigned post_max;

    /* The largest number of completions, and of posted calls, that a turn handles before due timers
     * get their turn; 1 to 2^31 - 1. Defaults 1024 and 256. */
    unsigned turn_cqes;
    unsigned turn_posts;

    /* A connection's share of a turn: received bytes, 1 to 2^31 - 1. Default 65536.
     *
     * A connection exceeds its share if it receives more bytes in a turn, or makes more than 32
     * receives in a turn (or more than a quarter of turn_cqes, if that is less). If other
     * connections stay within theirs, it then receives one buffer (buf_size) a turn. It gets its
     * full share back when 8 receives in a row have not filled a buffer, or when about 256 turns
     * have served no connection that stays within its share. A connection that is alone, or
     * connections that all exceed their share, have no limit. */
    unsigned turn_bytes;

    const struct kr_alloc *alloc; /* borrowed until kr_reactor_free; NULL: malloc and free */
};

/* Fills `config` with the defaults. Any thread. `size` is the program's own sizeof(struct
 * kr_config): the library writes no more than that here, and reads no more than that in
 * kr_reactor_new. A program with older headers has a smaller struct; the defaults of the later
 * fields apply to it. A larger struct, of newer headers, is refused with -EINVAL by kr_reactor_new,
 * which names the struct in `why`. All structs of options work in this way. */
KR_API void kr_config_init_sized(struct kr_config *config, size_t size);
#define kr_config_init(config_) kr_config_init_sized((config_), sizeof *(config_))

/* The cause of a failed kr_reactor_new. */
enum kr_refusal {
    KR_REFUSED_NOTHING = 0,
    KR_REFUSED_CONFIG = 1,  /* a field of the config is out of range; `cause` names it */
    KR_REFUSED_KERNEL = 2,  /* the kernel has no io_uring, or is older than 6.1 */
    KR_REFUSED_SYSCTL = 3,  /* kernel.io_uring_disabled forbids io_uring to this process */
    KR_REFUSED_SECCOMP = 4, /* a system call filter (a container's profile) or an LSM forbids it */
    KR_REFUSED_MEMLOCK = 5, /* RLIMIT_MEMLOCK, which all rings of a user share, is used up */
    KR_REFUSED_NOFILE = 6,  /* RLIMIT_NOFILE is too low for the table, or no descriptor is left */
    KR_REFUSED_MEMORY = 7,  /* no memory */
    KR_REFUSED_OTHER = 8,   /* none of these; `error` is the kernel's own */
};

/* Why kr_reactor_new failed, for a log line. The strings end with a 0 byte. */
struct kr_failure {
    int error;               /* the negative errno that was returned */
    enum kr_refusal refused; /* the cause, if it is a known one */
    char tried[48];          /* the step that failed, for example "io_uring_setup" */
    char cause[160];         /* the likely cause, with figures */
    char remedy[160];        /* what the operator can do */
};

/* Makes a reactor.
 *   ret     on success *ret is owned by the caller, who releases it with kr_reactor_free
 *   config  NULL: all defaults. Borrowed for the call; config->alloc until kr_reactor_free
 *   why     filled on failure, cleared on success. May be NULL
 *
 * Errors; nothing is left behind, and `why` says more:
 *   -EINVAL            `ret` is NULL, a field of `config` is out of range, or the kernel is older
 *                      than 6.1
 *   -ENOSYS            the kernel has no io_uring, or a filter says so
 *   -EPERM, -EACCES    io_uring is forbidden to this process
 *   -ENOMEM            no memory, or RLIMIT_MEMLOCK is used up
 *   -EMFILE, -ENFILE   no descriptor is left, or RLIMIT_NOFILE is too low for the table
 *   -EUSERS            4,095 reactors live in this process
 *   others             the kernel's own, unaltered
 *
 * Any thread. Only its first kr_run or kr_step binds the reactor to a thread.
 *
 * Do not make a reactor before a fork. Neither daemon(3) nor any other fork leaves the child a
 * reactor that it can use (-ECHILD), so a daemon forks first and makes its reactor in the child. To
 * report a failure to the process that starts the daemon, use a pipe, or try before the fork: make
 * and free a reactor, or bind a socket that kr_listen_fd takes later.
 *
 * A reactor uses two descriptors (ring, eventfd), and with KR_TABLE_PLAIN one for each connection
 * and listener. The library raises no limit and prints nothing. */
KR_API int kr_reactor_new(struct kr_reactor **ret, const struct kr_config *config,
                          struct kr_failure *why) KR_MUST_CHECK;

/* Returns the kind of table that the reactor has: KR_TABLE_REGISTERED or KR_TABLE_PLAIN.
 * KR_TABLE_AUTO if `r` is NULL. Any thread. */
KR_API enum kr_table kr_reactor_table(const struct kr_reactor *r);

/* Runs turns until kr_stop. Runs all callbacks. Returns 0 after kr_stop.
 *
 * The first kr_run or kr_step binds the reactor to the calling thread for good: the kernel allows a
 * ring one submitter (man io_uring_setup on IORING_SETUP_SINGLE_ISSUER). Until then any one thread
 * at a time may set the reactor up.
 *
 * Errors:
 *   -EBUSY   the caller is within a callback; nothing is done
 *   -EBADR   the kernel had no memory to keep completions, and some are lost. Every connection is
 *            unsafe then: free the reactor
 *   -ECHILD  also: a callback has forked, and this is the child
 *   others   the kernel's own, unaltered */
KR_API int kr_run(struct kr_reactor *r);

/* Runs one turn. It waits for an event for at most `max_wait_ns` nanoseconds: 0 means it does not
 * wait, a negative value that it waits without end. Returns the number of events handled:
 * completions, release callbacks, timers and deadlines, posted calls, connections told of a drain.
 * Returns 0 when the time has passed or a signal has arrived. If a kr_stop is pending at the call,
 * kr_step consumes it and returns 0 without running a turn. Errors and thread as for kr_run. */
KR_API int kr_step(struct kr_reactor *r, int64_t max_wait_ns);

/* Makes kr_run return 0 after its current turn. When no kr_run is running, the next one returns 0
 * at once. One kr_stop ends one run; further calls before that run has ended count as the same. A
 * kr_stop that is pending when kr_reactor_free begins has no effect. Never fails, however many
 * posts wait. Any thread, and signal handlers. */
KR_API void kr_stop(struct kr_reactor *r);

/* Returns monotonic time (CLOCK_MONOTONIC) in nanoseconds. Within a turn: the time at which the
 * turn began to handle completions, the same in all its callbacks. In callbacks of kr_reactor_free
 * on a reactor that never ran: the time at which these callbacks began. Outside a turn: the current
 * time. A timer does not fire before kr_now has reached its time. Returns 0 from another thread. */
KR_API int64_t kr_now(const struct kr_reactor *r);

/* Closes every connection (on_close runs for each, with KR_WHY_REACTOR), every listener and every
 * timer at once. Runs the calls that kr_post and kr_notify have accepted, waits until the kernel
 * has let go of everything, and frees the reactor. Timers do not fire. Whatever an on_close starts
 * is ended, too. Consumes `r`; NULL is allowed. Returns 0.
 *
 * No other thread may begin a call with `r` any more. A kr_stop, kr_post or kr_notify that began
 * earlier may still be running; kr_reactor_free waits for it.
 *
 * Forked child: kr_reactor_free only releases the child's copies, as kr_reactor_after_fork does,
 * and their memory. No callback runs, and the parent is not disturbed. Returns 0. In a child it is
 * legal within a callback, too; the memory is released when the callback has returned, and kr_run
 * returns -ECHILD. (If another thread forked in the middle of a turn, the memory stays.)
 *
 * Thread: the one that runs the reactor, or any one thread if none does yet. When the thread that
 * ran the reactor has ended, the thread that has joined it may free the reactor: main makes
 * reactors, threads run them, main joins the threads and frees. The callbacks then run on the
 * thread that frees. Every other call from there still returns -EPERM, except kr_post, kr_notify,
 * kr_stop and kr_stats_read. Until the reactor is freed, its listeners keep their ports and peers
 * see no end: the kernel lets go of the sockets when the ring is closed, which kr_reactor_free does
 * last. To have queued bytes sent, drain on the thread that runs the reactor. Bytes that were sent
 * by zero-copy and not acknowledged may be read by the kernel for some time after their release
 * callback.
 *
 * Errors, with nothing done:
 *   -EPERM  the caller is another thread, and the thread that ran the reactor lives
 *   -EBUSY  the caller is within a callback: call kr_stop, and free after kr_run has returned. If
 *           the thread has ended within a callback (pthread_exit), which is not allowed, this stays
 *           so for ever */
KR_API int kr_reactor_free(struct kr_reactor *r);

/* In a forked child: closes the child's copies of the reactor's descriptors. While the child has
 * them, every connection and listener of the parent stays open, also when the parent closes it, has
 * ended, or was killed: peers see no end, and the port stays taken.
 *
 * A child that executes a program need not call this function, since all descriptors are
 * close-on-exec. A child that goes on calls it for each reactor:
 *
 *     static void in_child(void) { kr_reactor_after_fork(reactor); }
 *     ... pthread_atfork(NULL, NULL, in_child);
 *
 * It calls close(2) only. So it is legal in such a handler, also when the process has other
 * threads; it is legal in callbacks, and any number of times. It also closes the descriptors that
 * keep_fd (conn.h) has kept, unless another thread than the reactor's own has forked.
 * kr_reactor_free closes descriptors that wait in a queue (kr_conn_send_fds).
 *
 * All other calls still return -ECHILD in the child. A callback that has forked may return there:
 * kr_run and kr_step then return -ECHILD, and kr_reactor_free returns 0, soon and without having
 * touched anything of the parent's.
 *
 * Any thread of the child. Errors, with nothing done: -EPERM: this process is no forked child. */
KR_API int kr_reactor_after_fork(struct kr_reactor *r);

#ifdef __cplusplus
}
#endif

#endif
