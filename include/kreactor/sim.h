/* Simulation, for tests: a world with a simulated kernel, a clock that jumps, and peers that a test
 * controls.
 *
 * The author of a daemon runs the daemon's callbacks in such a world. No socket and no thread is
 * used, and no real time passes. Every run of a seed is the same run. A test can make anything
 * happen that a kernel may do to a program.
 *
 *     struct kr_sim *sim;
 *     struct kr_reactor *r;
 *     int rc = kr_sim_new(&sim, 42);
 *     rc = kr_sim_reactor(sim, &r, NULL);               // as kr_reactor_new, but in that world
 *     ... kr_listen(r, ...) on port 7 ...
 *     kr_sim_peer peer;
 *     rc = kr_sim_connect(sim, &peer, 7);
 *     rc = kr_sim_send(sim, peer, "hello", 5);
 *     rc = kr_sim_run_until(sim, r, answered, &state, 5 * SECOND);
 *     kr_reactor_free(r);
 *     kr_sim_free(sim);
 *
 * Link such a test with kreactor_sim instead of kreactor: it has the whole library and the
 * functions of this header.
 *
 * A world simulates the parts of Linux that the library uses: TCP sockets on one host, accepted or
 * connected, with windows, FIN and RST; Unix stream sockets; the file table, the buffer ring, the
 * two queues and their overflow; cancellation, wake-ups and waits. It has no pipes. Ports
 * distinguish TCP sockets; IP addresses do not. Each call into the world takes a little of its
 * time, and its clock jumps to the next event when the reactor waits. Several reactors may live in
 * one world, and run in turn.
 *
 * Errors. A bad argument, for example a NULL world, changes nothing: the function returns -EINVAL,
 * or -ESTALE where it takes a peer. A function without an error to return returns 0 or does
 * nothing.
 *
 * Thread: a world, its reactors and its peers belong to one thread. If the host refuses memory to
 * the world itself, or if the library breaks a rule of the kernel, the process ends with a message:
 * this is for tests. */
#ifndef KREACTOR_SIM_H
#define KREACTOR_SIM_H

#include <kreactor/addr.h>
#include <kreactor/reactor.h>
#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kr_sim;

/* A peer: the far end of a connection of the daemon, either a client of its listeners or the remote
 * side of a connection that the daemon made. It is a value, like all handles. 0 names no peer. */
typedef struct {
    uint64_t bits;
} kr_sim_peer;

/* Makes a world. No fault happens in it until one is set (kr_sim_fault_set). Two worlds with the
 * same `seed` and the same calls behave in the same way. *ret is owned by the caller, who releases
 * it with kr_sim_free. Errors: -EINVAL: `ret` is NULL. -ENOMEM. */
KR_API int kr_sim_new(struct kr_sim **ret, uint64_t seed) KR_MUST_CHECK;

/* Ends the world. Its reactors must have been freed. Peers that are left end with it, and functions
 * that kr_sim_at still holds are not called. Consumes `sim`, except on failure; NULL is allowed.
 * Errors, with nothing done: -EBUSY: a reactor is left. */
KR_API int kr_sim_free(struct kr_sim *sim);

/* kr_reactor_new in this world, with the same config and the same errors. The reactor is used and
 * freed as any other; it is owned by the caller. kr_run and kr_step return -EDEADLK where they
 * would wait without end and nothing can happen any more. */
KR_API int kr_sim_reactor(struct kr_sim *sim, struct kr_reactor **ret,
                          const struct kr_config *config) KR_MUST_CHECK;

/* Makes the world's kernel Linux `major`.`minor`, 6.1 to 6.18, for the reactors that are made from
 * now on. The kernel then refuses features of later versions. A new world has 6.18, the newest
 * known version. 6.12 to 6.17 do not report a reset that came together with bytes, as the first
 * releases of these versions do not. Errors, with nothing done: -EINVAL: the version is not known.
 * -EBUSY: the world has a reactor. */
KR_API int kr_sim_linux(struct kr_sim *sim, unsigned major, unsigned minor);

/* ---- time ---- */

/* Returns the world's monotonic time in nanoseconds. The timers of its reactors use it. It starts
 * at one second. */
KR_API int64_t kr_sim_now(const struct kr_sim *sim);

/* Calls `fn(sim, arg)` once, in `in_ns` nanoseconds (>= 0) of the world's time. It stands for the
 * act of another machine, thread or process, and may come in the middle of any work of the reactor.
 * `fn` may call every function of this header but kr_sim_advance, kr_sim_run_until and kr_sim_free,
 * and those functions of the library that other threads may call: kr_post, kr_notify, kr_stop,
 * kr_stats_read. Functions with equal times are called in the order of their kr_sim_at calls.
 * Errors: -EINVAL: `in_ns` is negative, or `fn` is NULL. */
typedef void kr_sim_fn(struct kr_sim *sim, void *arg);
KR_API int kr_sim_at(struct kr_sim *sim, int64_t in_ns, kr_sim_fn *fn, void *arg);

/* Lets `ns` nanoseconds (>= 0) of the world's time pass while no reactor runs. Functions of
 * kr_sim_at that are due are called. Errors, with nothing done: -EBUSY: the caller is such a
 * function. */
KR_API int kr_sim_advance(struct kr_sim *sim, int64_t ns);

/* Runs turns of `r` (kr_step) until `done(arg)` returns true, or until `max_ns` nanoseconds (>= 0)
 * of the world's time have passed. `done` is called before the first turn and after each turn.
 * `done` NULL: runs turns until the time has passed. Runs the callbacks of the reactor.
 *
 * Returns 0 when `done` has returned true, or without a `done` when the time has passed; otherwise:
 *   -ETIMEDOUT   the time has passed
 *   -EDEADLK     nothing can happen any more
 *   others       the error of kr_step */
KR_API int kr_sim_run_until(struct kr_sim *sim, struct kr_reactor *r, bool (*done)(void *arg),
                            void *arg, int64_t max_ns);

/* ---- peers ---- */

/* Connects a new peer to the listener on `port`. The client's kernel does the handshake, so the
 * peer may send at once, long before the connection is accepted. *ret is the peer. The caller ends
 * it with kr_sim_close or kr_sim_reset; kr_sim_free ends it otherwise. Errors, with nothing done:
 * -ECONNREFUSED: no listener is there. -EAGAIN: its backlog is full. */
KR_API int kr_sim_connect(struct kr_sim *sim, kr_sim_peer *ret, uint16_t port);

/* kr_sim_connect to any address, which is borrowed for the call. A Unix listener is found by its
 * name; of an IP address only the port counts. Errors: as kr_sim_connect; -ENOENT: the path does
 * not exist. A path whose file is still there and whose listener is gone is -ECONNREFUSED. */
KR_API int kr_sim_connect_to(struct kr_sim *sim, kr_sim_peer *ret, const struct kr_addr *addr);

/* Sets the windows of a connection, in bytes, >= 1; the default is 64 KiB.
 *   recv_size  how many bytes the peer accepts without reading them
 *   send_size  how many bytes the daemon's side accepts, so how far the peer can send ahead
 * Bytes that have already arrived stay. */
KR_API int kr_sim_window(struct kr_sim *sim, kr_sim_peer peer, size_t recv_size, size_t send_size);

/* Sends as many of the `size` bytes as can be sent now, and returns their number. `data` is
 * borrowed for the call. Errors, with nothing sent: -EAGAIN: no byte can be sent now. -ECONNRESET,
 * once. -EPIPE: after that, after kr_sim_shutdown, and when the connection is over. */
KR_API int64_t kr_sim_send(struct kr_sim *sim, kr_sim_peer peer, const void *data, size_t size);

/* Sends one urgent byte (MSG_OOB). Returns 1, or an error of kr_sim_send. The byte is received as a
 * byte of the stream if the daemon's socket has SO_OOBINLINE, which this library sets for TCP. On
 * other sockets a receive skips it. */
KR_API int64_t kr_sim_urge(struct kr_sim *sim, kr_sim_peer peer, unsigned char byte);

/* Receives the bytes that are there, at most `size` (>= 1), into `data`. Returns their number; 0 at
 * the end of the stream. Errors: -EAGAIN: there are none now. -ECONNRESET, once, after the bytes
 * that came before the reset. */
KR_API int64_t kr_sim_recv(struct kr_sim *sim, kr_sim_peer peer, void *data, size_t size);

/* Returns the number of bytes that kr_sim_recv would find now. */
KR_API size_t kr_sim_readable(const struct kr_sim *sim, kr_sim_peer peer);

/* Ends the peer's sending side (FIN). The peer can still receive. */
KR_API int kr_sim_shutdown(struct kr_sim *sim, kr_sim_peer peer);

/* Closes the peer. Its handle is stale then. If the peer has unread bytes, the close resets the
 * connection, as in Linux; on a Unix socket the daemon gets -ECONNRESET, as in Linux. */
KR_API int kr_sim_close(struct kr_sim *sim, kr_sim_peer peer);

/* Closes the peer with RST. Its handle is stale then. Unix sockets have no RST; a Unix peer is just
 * closed. */
KR_API int kr_sim_reset(struct kr_sim *sim, kr_sim_peer peer);

/* ---- remote hosts ---- */

/* The answer that the daemon gets when it connects. On a Unix socket KR_SIM_IGNORES is -EAGAIN (the
 * backlog is full), and KR_SIM_NO_HOST and KR_SIM_NO_NET are -ENOENT. */
enum kr_sim_answer {
    KR_SIM_REFUSES = 0, /* -ECONNREFUSED */
    KR_SIM_ACCEPTS = 1, /* the connection is made, and waits for kr_sim_accept */
    KR_SIM_IGNORES = 2, /* silence: -ETIMEDOUT after 131 s */
    KR_SIM_NO_HOST = 3, /* -EHOSTUNREACH */
    KR_SIM_NO_NET = 4,  /* -ENETUNREACH, at once */
};

/* Sets the answer of `port` (> 0) to connections of the daemon from now on.
 *   answer    the answer
 *   after_ns  how long after the daemon's call the answer comes, in nanoseconds; 0: at once, as on
 *             loopback
 * An answer that is set takes precedence over a listener of the world at that port. At a port
 * without a set answer the daemon reaches the world's listener; if there is none, the connection is
 * refused, after 50 us. Connections that wait for kr_sim_accept stay. A fault may change the
 * answer. Errors: -EINVAL. */
KR_API int kr_sim_remote(struct kr_sim *sim, uint16_t port, enum kr_sim_answer answer,
                         int64_t after_ns);

/* Sets *ret to the far end of the oldest connection that was made to the remote `port` and that no
 * kr_sim_accept has taken. It is used and ended as any peer.
 * Errors: -EAGAIN: there is none. -EINVAL: the port never had an answer set. */
KR_API int kr_sim_accept(struct kr_sim *sim, kr_sim_peer *ret, uint16_t port);

/* kr_sim_remote and kr_sim_accept for any address, with a port or of a Unix socket; `addr` is
 * borrowed for the call. A Unix address without a set answer and without a listener is -ENOENT, or
 * -ECONNREFUSED if it is abstract. All Unix addresses answer at once. */
KR_API int kr_sim_remote_at(struct kr_sim *sim, const struct kr_addr *addr,
                            enum kr_sim_answer answer, int64_t after_ns);
KR_API int kr_sim_accept_at(struct kr_sim *sim, kr_sim_peer *ret, const struct kr_addr *addr);

/* ---- descriptors ---- */

/* Descriptors are numbers of the world, as the daemon uses them in it. The process's own
 * descriptors have no meaning in the world, nor the world's in the process. A descriptor that these
 * functions make is owned by the side that made or received it, which releases it with
 * kr_sim_fd_close. */

/* The largest number of descriptors that can go with one message, as in Linux. */
#define KR_SIM_FDS_MAX 253u

/* Opens a file that has a copy of the `size` bytes at `data`, for the daemon to send. Returns its
 * descriptor (>= 0), which the caller owns and releases with kr_sim_fd_close. Errors: -EINVAL. */
KR_API int kr_sim_file(struct kr_sim *sim, const void *data, size_t size);

/* Closes a descriptor. Errors: -EBADF: there is no such descriptor. */
KR_API int kr_sim_fd_close(struct kr_sim *sim, int fd);

/* Returns whether both descriptors refer to the same open file, as a descriptor that was sent and
 * the one that was received do. */
KR_API bool kr_sim_fd_same(const struct kr_sim *sim, int a, int b);

/* kr_sim_send of `size` bytes (>= 1), with which `count` descriptors (1 to KR_SIM_FDS_MAX) go. The
 * caller still owns its descriptors. If only some of the bytes are sent, the descriptors have gone
 * with the first.
 * Errors: as kr_sim_send; -EINVAL also: the peer is not a Unix one. -EBADF: there is no such
 * descriptor. -EPERM: the daemon's side takes none (recv_fds, conn.h). */
KR_API int64_t kr_sim_send_fds(struct kr_sim *sim, kr_sim_peer peer, const void *data, size_t size,
                               const int *fds, unsigned count);

/* kr_sim_recv that also receives descriptors. It ends at the last byte that was sent with
 * descriptors. It puts *count descriptors into `fds`, at most `room`; the caller owns them.
 * Descriptors that find no room are closed. kr_sim_recv closes all. */
KR_API int64_t kr_sim_recv_fds(struct kr_sim *sim, kr_sim_peer peer, void *data, size_t size,
                               int *fds, unsigned room, unsigned *count);

/* ---- faults ---- */

/* Faults: the things that a kernel, a network or a host may do to a program that does nothing
 * wrong. */
enum kr_sim_fault {
    KR_SIM_SHORT_SUBMIT = 0,   /* the kernel takes only some of the requests, or none (-EAGAIN) */
    KR_SIM_BUSY = 1,           /* the kernel takes no request: -EBUSY */
    KR_SIM_INTERRUPT = 2,      /* a signal ends a wait */
    KR_SIM_LATE_FLUSH = 3,     /* completions that had no room come back one by one */
    KR_SIM_TASK_WORK = 4,      /* completions appear in the middle of a callback */
    /* a completion of a multishot request overtakes the last completion of another request */
    KR_SIM_OVERTAKE = 5,
    KR_SIM_SHORT_RECV = 6,     /* a receive brings fewer bytes than there are, down to one */
    /* a send completes short: it takes fewer bytes than there is room for */
    KR_SIM_SHORT_SEND = 7,
    /* a multishot receive ends together with a completion that brings bytes, and more bytes wait */
    KR_SIM_RECV_END = 8,
    KR_SIM_SPURIOUS_WAKE = 9,  /* the kernel looks at a request although nothing has happened */
    /* a multishot accept ends together with a completion that brings a connection */
    KR_SIM_ACCEPT_END = 10,
    KR_SIM_ACCEPT_ABORT = 11,  /* the client is gone before it is accepted: -ECONNABORTED */
    KR_SIM_ACCEPT_EMFILE = 12, /* an accept finds no descriptor: -EMFILE */
    KR_SIM_ACCEPT_ENFILE = 13, /* an accept finds no file left in the system: -ENFILE */
    KR_SIM_CANCEL_BUSY = 14,   /* the request to be cancelled is just running: -EALREADY */
    KR_SIM_CANCEL_LATE = 15,   /* a request that was cancelled completes as if it were not */
    KR_SIM_INSTALL_FAIL = 16,  /* the file table refuses a descriptor: -ENOMEM */
    KR_SIM_NET_TIMEOUT = 17,   /* the network gives up a connection: -ETIMEDOUT */
    KR_SIM_NET_RESET = 18,     /* the network cuts a connection: RST to both ends */
    KR_SIM_LATE_WAIT = 19,     /* a timed wait ends late, by up to 50 us */
    KR_SIM_CLOCK_LEAP = 20,    /* the process does not run for up to a minute */
    KR_SIM_LOST = 21,          /* a completion is lost for want of memory: -EBADR */
    KR_SIM_CONNECT_REFUSED = 22,     /* a connect of the daemon gets -ECONNREFUSED */
    KR_SIM_CONNECT_IGNORED = 23,     /* a connect gets no answer: -ETIMEDOUT after 131 s */
    /* a connect gets -ENETUNREACH at once, or -EHOSTUNREACH later */
    KR_SIM_CONNECT_UNREACHABLE = 24,
    KR_SIM_LATE_WORKER = 25,         /* work of a kernel worker (shutdown) takes up to 5 ms */
    /* there is no worker thread for that work, or for a read that has to wait: -ECANCELED */
    KR_SIM_NO_WORKER = 26,
    /* a zero-copy send is refused: -ENOMEM, and no notification follows */
    KR_SIM_ZC_NO_NOTIF = 27,
    /* the memory of a zero-copy send may not be locked: -ENOMEM, and the notification follows */
    KR_SIM_ZC_NO_MEMORY = 28,
    /* the bytes of a zero-copy send are kept until the peer has read them, or is gone */
    KR_SIM_ZC_HELD = 29,
    /* the notification of a zero-copy send comes up to a second late */
    KR_SIM_ZC_LATE = 30,
    /* there is no room for a descriptor that comes with bytes: MSG_CTRUNC */
    KR_SIM_SCM_EMFILE = 31,
    KR_SIM_READ_WAITS = 32,          /* a read part of a file is not in memory: up to 5 ms */
    KR_SIM_SHORT_READ = 33,          /* a read brings fewer bytes than the file has, down to one */
    KR_SIM_READ_ERROR = 34,          /* the disk has an error: -EIO */
    KR_SIM_READ_CUT = 35,            /* the file ends where it is being read */
    /* there is no descriptor for the file in a slot, which a release needs: -EMFILE */
    KR_SIM_EXPORT_EMFILE = 36,
    KR_SIM_ERROR_QUEUE = 37,         /* a socket's error queue has an entry that nobody reads */
    KR_SIM_FAULT_COUNT = 38,         /* grows with new versions */
};

/* Makes a fault happen in `per_1024` (0 to 1024) of 1024 cases where it can. A new world has 0 for
 * each fault. */
KR_API int kr_sim_fault_set(struct kr_sim *sim, enum kr_sim_fault fault, unsigned per_1024);

/* Sets the rates of all faults by the world's seed, about half of them to 0, so that each seed
 * tests another mixture of faults. KR_SIM_LOST is set to 0. */
KR_API int kr_sim_fault_swarm(struct kr_sim *sim);

/* Returns how often a fault has happened; 0 for an unknown one. */
KR_API uint64_t kr_sim_fault_hits(const struct kr_sim *sim, enum kr_sim_fault fault);

/* Returns the name of a fault, for example "short-submit"; "?" for an unknown number. The string is
 * static. Any thread. */
KR_API const char *kr_sim_fault_name(enum kr_sim_fault fault);

/* ---- replay ---- */

/* Returns a hash of everything that has happened: every completion, every fault, every step of a
 * peer, every kr_sim_note. Two runs that differ in any of these have different hashes, but for a
 * chance of 2^-64. */
KR_API uint64_t kr_sim_hash(const struct kr_sim *sim);

/* Adds an observation of a callback to the hash, and to the trace: the text `what`, which is
 * borrowed for the call, and two numbers. */
KR_API void kr_sim_note(struct kr_sim *sim, const char *what, uint64_t a, uint64_t b);

/* Calls `fn(arg, line)` with a line of text for each thing that happens. `line` is lent until `fn`
 * returns. `fn` NULL ends the trace. */
KR_API void kr_sim_trace(struct kr_sim *sim, void (*fn)(void *arg, const char *line), void *arg);

/* Returns a random number below `bound` (> 0) from the world's seed, for tests that act at random
 * in the world. */
KR_API uint64_t kr_sim_random(struct kr_sim *sim, uint64_t bound);

#ifdef __cplusplus
}
#endif

#endif
