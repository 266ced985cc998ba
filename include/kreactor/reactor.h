/* The reactor: made, run, stopped, freed.
 *
 * A daemon's whole life with it:
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
 * Kernel >= 6.1. Everything newer that is used is asked of the running kernel first. */
#ifndef KREACTOR_REACTOR_H
#define KREACTOR_REACTOR_H

#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* When the kernel runs the second half of an operation (man io_uring_setup). Results are the same;
 * the cost is not. */
enum kr_taskrun {
    /* at the reactor's next transition into the kernel, whichever call it is */
    KR_TASKRUN_COOP = 0,
    /* only when the reactor waits; the kernel then takes 20 or so at a time */
    KR_TASKRUN_DEFER = 1,
};

/* Where the files of connections and listeners are. Results are the same. */
enum kr_table {
    /* a registered table where that works, from Linux 6.13 on; else plain descriptors */
    KR_TABLE_AUTO = 0,
    /* The kernel's registered table: no descriptors, and less to do a request. Before Linux 6.13 it
     * does not let go of what is closed while other requests are under way: peers see no end, and
     * ports stay taken. */
    KR_TABLE_REGISTERED = 1,
    /* A descriptor for each connection and listener. They are close-on-exec; a forked child has
     * copies, and while it keeps them peers of connections that the parent closes see no end
     * (kr_reactor_after_fork). */
    KR_TABLE_PLAIN = 2,
};

/* Memory other than the page-aligned tables (rings, connection table, receive buffers), which are
 * mapped. `alloc` returns memory aligned for any type or NULL; `free` gets back the pointer and the
 * very size it was made with. Both are called on the reactor's thread and by kr_reactor_new and
 * kr_reactor_free, and must not call back into the library. After warm-up neither is called on the
 * paths of accept, data, send, timers and posts. */
struct kr_alloc {
    void *(*alloc)(void *ctx, size_t size);
    void (*free)(void *ctx, void *memory, size_t size);
    void *ctx;
};

/* What kr_reactor_new makes. Fill it with kr_config_init, then change what you need. Every field
 * has a working default, and 0 means the default. Every queue that a field bounds is really
 * bounded: reaching the bound is a result or a pause, never a crash, a spin or a silent loss. */
struct kr_config {
    size_t size; /* sizeof(struct kr_config), set by kr_config_init */

    enum kr_taskrun taskrun; /* default KR_TASKRUN_COOP */

    /* Requests made between two entries into the kernel, 1 to 32768, rounded up to a power of two.
     * More wishes than that wait for the next turn. Default 512 (32 KiB). */
    unsigned sq_entries;

    /* Completions that wait to be handled, at least sq_entries, at most 65536, rounded up to a
     * power of two. More than that are kept by the kernel at some cost. Default 4096 (64 KiB). */
    unsigned cq_entries;

    /* Accepted connections at a time, at least 1. Listeners pause below it; nobody is dropped. The
     * table of all connections and files, conn_max + connect_max + file_max, is at most 1048576
     * long and must fit RLIMIT_NOFILE (soft), although the entries of a registered table are no
     * descriptors. Those of a plain one are, beside the others that the process has and one more for
     * each connection with keep_fd: when none is left accepts wait, and kr_connect answers -EMFILE.
     * Default: what of that limit connect_max and file_max leave, less a 16th of the limit (at most
     * 1024, and half of what is left) for the rest of the process; at most 16384. */
    unsigned conn_max;

    /* Connections that this program makes itself (kr_connect) or is given (kr_conn_adopt), at a time.
     * A worker whose connections are all handed to it has conn_max 1 and this as high as it likes: the
     * kernel chooses the places of accepted ones, so that the two kinds cannot share theirs. Default: a
     * quarter of what the limit has room for, or what conn_max leaves of it if that is less; at most
     * 1024. */
    unsigned connect_max;

    /* Listeners and other files of the library's own, 1 to 65536. Default 64. */
    unsigned file_max;

    enum kr_table table; /* default KR_TABLE_AUTO */

    /* Receive buffers, shared by all connections: their number, a power of two from 1 to 32768, and
     * the size of each, 1 to 1 MiB. They take memory only where bytes were received into them. When
     * all are in use, connections wait in turn. Default 1024 of 65536 bytes. */
    unsigned buf_count;
    size_t buf_size;

    /* Calls of kr_post that wait to be run, 1 to 65536, rounded up to a power of two. Default
     * 1024. */
    unsigned post_max;

    /* At most so many completions, and so many posted calls, are handled before due timers get
     * their turn; 1 to 2^31 - 1. Defaults 1024 and 256. */
    unsigned turn_cqes;
    unsigned turn_posts;

    /* A connection's share of a turn: bytes that it receives, 1 to 2^31 - 1. One that gets more, or
     * gets them by more than 32 receives (or a quarter of turn_cqes), beside others that do not,
     * receives one buffer (buf_size) a turn from then on, until 8 receives in a row have not filled
     * one, or some 256 turns have served no such others. Those that are alone, or all alike, have
     * no limit. Default 65536. */
    unsigned turn_bytes;

    const struct kr_alloc *alloc; /* borrowed until kr_reactor_free; NULL = malloc and free */
};

/* Fills `config` with the defaults. Any thread. `size` is the program's own sizeof(struct kr_config):
 * no more than that is written here, or read by kr_reactor_new. To an older program's smaller struct
 * the defaults of later fields apply; a newer one's larger struct is refused, by kr_reactor_new and by
 * name. All structs of options are guarded so. */
KR_API void kr_config_init_sized(struct kr_config *config, size_t size);
#define kr_config_init(config_) kr_config_init_sized((config_), sizeof *(config_))

/* What refused, when kr_reactor_new fails. */
enum kr_refusal {
    KR_REFUSED_NOTHING = 0,
    KR_REFUSED_CONFIG = 1,  /* a field of the config is out of range; `cause` names it */
    KR_REFUSED_KERNEL = 2,  /* the kernel has no io_uring, or is older than 6.1 */
    KR_REFUSED_SYSCTL = 3,  /* kernel.io_uring_disabled forbids it to this process */
    KR_REFUSED_SECCOMP = 4, /* a system call filter (a container's profile) or LSM forbids it */
    KR_REFUSED_MEMLOCK = 5, /* RLIMIT_MEMLOCK, which all of a user's rings share, is spent */
    KR_REFUSED_NOFILE = 6,  /* RLIMIT_NOFILE is too low for the table, or no descriptor is left */
    KR_REFUSED_MEMORY = 7,  /* no memory */
    KR_REFUSED_OTHER = 8,   /* none of these; `error` is the kernel's word */
};

/* Why kr_reactor_new failed, for a log line. The strings end with 0. */
struct kr_failure {
    int error;               /* the negative errno that was returned */
    enum kr_refusal refused; /* which of the known causes */
    char tried[48];          /* what was being done, for example "io_uring_setup" */
    char cause[160];         /* the likely cause, with figures */
    char remedy[160];        /* what the operator can do */
};

/* Makes a reactor. `config` NULL means all defaults; it is borrowed for the call, config->alloc
 * until kr_reactor_free. On success *ret is owned by the caller, who ends it with kr_reactor_free.
 * On failure `why`, if not NULL, is filled; on success it is cleared.
 *
 * Errors: -EINVAL (config), -ENOSYS, -EPERM or -EACCES (forbidden), -ENOMEM, -EMFILE, -ENFILE,
 * -EUSERS (4,095 reactors live in this process); `why` tells them apart. Nothing is left behind.
 *
 * Any thread; the reactor is bound to a thread only by its first kr_run or kr_step. It is not to be
 * made before a fork: neither daemon(3) nor any other fork leaves the child a reactor that it can
 * use (-ECHILD), so a daemon forks first and makes it then. What is to be told to whoever starts
 * the daemon goes through a pipe, or is tried before: a reactor made and freed, a socket bound and
 * handed to kr_listen_fd. Uses two descriptors (ring, eventfd), and with KR_TABLE_PLAIN one
 * for each connection and listener. Raises no limit and prints nothing. */
KR_API int kr_reactor_new(struct kr_reactor **ret, const struct kr_config *config,
                          struct kr_failure *why) KR_MUST_CHECK;

/* Which table the reactor has: KR_TABLE_REGISTERED or KR_TABLE_PLAIN; KR_TABLE_AUTO for NULL. Any
 * thread. */
KR_API enum kr_table kr_reactor_table(const struct kr_reactor *r);

/* Runs turns until kr_stop. The first kr_run or kr_step binds the reactor to the calling thread for
 * good (the kernel lets a ring have one submitter, man io_uring_setup on
 * IORING_SETUP_SINGLE_ISSUER); until then any one thread at a time may set it up. Runs all
 * callbacks. Returns 0 after kr_stop.
 *
 * Errors: -EBUSY from within a callback; -EBADR when the kernel had no memory to keep completions
 * and some are lost: every connection is then unsafe, free the reactor; other kernel errors
 * unaltered. */
KR_API int kr_run(struct kr_reactor *r);

/* Runs one turn, waiting for something to do for at most `max_wait_ns` (0 = do not wait, negative =
 * as long as it takes). Returns the count of completions, timers and posted calls handled; 0 when
 * the time passed, a signal arrived, or kr_stop was called. Errors and thread as for kr_run. */
KR_API int kr_step(struct kr_reactor *r, int64_t max_wait_ns);

/* Makes kr_run return 0 after the turn it is in, or, when none is running, the next one before it
 * waits. One stop ends one run; more of them before that run ends are the same one, and one that is
 * left when kr_reactor_free begins means nothing any more. Never fails, however many posts wait. Any
 * thread, and signal handlers. */
KR_API void kr_stop(struct kr_reactor *r);

/* The monotonic time in nanoseconds at which this turn began to handle completions, in all callbacks
 * of the turn; in those of a reactor that is freed and never ran, at which they began; outside a
 * turn, the time now. A timer does not fire before kr_now has reached its time. 0 from another thread. */
KR_API int64_t kr_now(const struct kr_reactor *r);

/* Closes every connection at once (on_close runs for each, with KR_WHY_REACTOR), listener and
 * timer, runs what kr_post and kr_notify accepted, waits for the kernel to let go of everything, and
 * frees. Timers do not fire. What on_close starts is ended too. Consumes `r`; NULL is allowed.
 *
 * No other thread may call anything with `r` any more; a kr_stop, kr_post or kr_notify that began
 * before may still be on its way out, and is waited for. In a forked child it only gives the
 * child's copies back, as kr_reactor_after_fork does, and their memory: no callback runs and the
 * parent is not disturbed; returns 0. There it is legal in a callback, too; the memory is given
 * back when the callback has returned, and kr_run returns -ECHILD. (Where another thread forked in
 * the middle of a turn, the memory stays.)
 *
 * When the thread that ran the reactor has ended, whoever has joined it may free the reactor: main
 * makes reactors, threads run them, main joins the threads and frees. The callbacks then run on the
 * thread that frees. Any other call goes on to answer -EPERM, but for kr_post, kr_notify, kr_stop
 * and kr_stats_read. Until the reactor is freed its listeners keep their ports and peers see no
 * end: the kernel lets go of the sockets when the ring is closed, which is the last thing done
 * here. To have queued bytes sent, drain on the thread that runs it. What was sent by zero-copy and
 * not acknowledged may be read by the kernel for some time after its release callback.
 *
 * Errors, with nothing done: -EPERM from another thread than the one that ran it while that lives,
 * -EBUSY from within a callback (call kr_stop and free after kr_run), and for ever when the thread
 * has ended within one (pthread_exit), which is not allowed. */
KR_API int kr_reactor_free(struct kr_reactor *r);

/* In a forked child: closes the child's copies of the reactor's descriptors. As long as it has them
 * it keeps every connection and listener of the parent open, also when the parent closes them, has
 * ended, or was killed: peers see no end, and the port stays taken. A child that executes a program
 * need not call it, all descriptors are close-on-exec; a child that goes on does, for each reactor:
 *
 *     static void in_child(void) { kr_reactor_after_fork(reactor); }
 *     ... pthread_atfork(NULL, NULL, in_child);
 *
 * Calls close(2) only, so that it is legal in such a handler also when the process has other
 * threads, in callbacks, and again. What keep_fd (conn.h) has kept is closed too, unless another
 * thread than the reactor's own has forked; descriptors that wait in a queue (kr_conn_send_fds) are
 * closed by kr_reactor_free. All calls still answer -ECHILD, and a callback that has forked may
 * return: kr_run, kr_step or kr_reactor_free then ends with -ECHILD (the last with 0), soon and
 * without having touched what is the parent's.
 *
 * Errors, with nothing done: -EPERM: this is no forked child. */
KR_API int kr_reactor_after_fork(struct kr_reactor *r);

#ifdef __cplusplus
}
#endif

#endif
