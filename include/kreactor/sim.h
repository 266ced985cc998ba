/* A world of its own for tests: a simulated kernel, a clock that jumps, peers that do as they are
 * told.
 *
 * A daemon's author runs the daemon's callbacks in it: no socket, no thread and no second is spent,
 * every run of a seed is the same run, and whatever a kernel may do to a program can be made to
 * happen.
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
 * Link such a test with kreactor_sim instead of kreactor: it is the whole library and this header.
 *
 * What is simulated is what the library asks of Linux: TCP sockets on one host, accepted or
 * connected, with windows, FIN and RST; Unix stream sockets; the file table, the buffer ring, the
 * two queues and their overflow; cancel, wake-ups, waits. Addresses do not matter, ports do. Time
 * passes by little at each call into the world, and jumps to the next event when the reactor waits.
 * Several reactors may live in one world, run in turn.
 *
 * Bad arguments, a NULL world among them, change nothing: -EINVAL, or -ESTALE where a peer is
 * named; a function that has no error to return returns 0 or does nothing.
 *
 * All of it belongs to one thread. Memory that the host refuses to the world itself, and a rule of
 * the kernel that the library breaks, end the process with a message: this is for tests. */
#ifndef KREACTOR_SIM_H
#define KREACTOR_SIM_H

#include <kreactor/addr.h>
#include <kreactor/reactor.h>
#include <kreactor/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kr_sim;

/* The far end of a connection of the daemon's: a client of its listeners, or whom it has connected
 * to. A value, like all handles; 0 is none. */
typedef struct {
    uint64_t bits;
} kr_sim_peer;

/* Makes a world, in which no fault happens until one is asked for. Two worlds of one seed to which
 * the same is done are alike in all. The caller owns *ret, and ends it with kr_sim_free. -EINVAL:
 * `ret` is NULL; -ENOMEM. */
KR_API int kr_sim_new(struct kr_sim **ret, uint64_t seed) KR_MUST_CHECK;

/* Ends the world, when its reactors have been freed; peers that are left end with it, and what
 * kr_sim_at still holds is not called. Consumes `sim`; NULL is allowed. -EBUSY, with nothing done:
 * a reactor is left. */
KR_API int kr_sim_free(struct kr_sim *sim);

/* kr_reactor_new in this world: same config, same errors. The reactor is used and freed as any
 * other. A wait without end in which nothing can ever happen returns -EDEADLK from kr_run and
 * kr_step. */
KR_API int kr_sim_reactor(struct kr_sim *sim, struct kr_reactor **ret,
                          const struct kr_config *config) KR_MUST_CHECK;

/* Makes the world's kernel as old as Linux `major`.`minor`, 6.1 at least, for the reactors made
 * from now on: what came later is refused. It is the newest known, 6.18, from the start. 6.12 to
 * 6.17 keep a reset to themselves that came together with bytes, as they did at first. -EINVAL:
 * not known; -EBUSY: a reactor is there. */
KR_API int kr_sim_linux(struct kr_sim *sim, unsigned major, unsigned minor);

/* ---- time ---- */

/* The world's monotonic time, which its reactors' timers are measured by; starts at one second. */
KR_API int64_t kr_sim_now(const struct kr_sim *sim);

/* Has `fn(sim, arg)` called in `in_ns` (>= 0) of the world's time: the act of another machine,
 * thread or process, in the middle of whatever the reactor is doing. It may use everything of this
 * header but kr_sim_advance, kr_sim_run_until and kr_sim_free, and of the library what other
 * threads may: kr_post, kr_stop, kr_stats_read. Equal times are called in the order of asking. */
typedef void kr_sim_fn(struct kr_sim *sim, void *arg);
KR_API int kr_sim_at(struct kr_sim *sim, int64_t in_ns, kr_sim_fn *fn, void *arg);

/* Lets `ns` (>= 0) pass while no reactor runs. -EBUSY from within kr_sim_at's call. */
KR_API int kr_sim_advance(struct kr_sim *sim, int64_t ns);

/* Runs turns of `r` until `done(arg)` is true or `max_ns` of the world's time are over. Returns 0
 * when done; -ETIMEDOUT; -EDEADLK when nothing can happen any more and it is not done; otherwise
 * what kr_step returned. `done` is asked before the first turn and after each; NULL: just let the
 * time pass. */
KR_API int kr_sim_run_until(struct kr_sim *sim, struct kr_reactor *r, bool (*done)(void *arg),
                            void *arg, int64_t max_ns);

/* ---- peers ---- */

/* Connects to the listener on `port`, as a client whose kernel does the handshake: it may send at
 * once, long before the connection is accepted. -ECONNREFUSED: nobody listens; -EAGAIN: the backlog
 * is full. */
KR_API int kr_sim_connect(struct kr_sim *sim, kr_sim_peer *ret, uint16_t port);

/* The same for any address: that of a Unix listener, by its name; of others the port matters.
 * -ENOENT: no such path; one whose listener is gone, but not its file, is -ECONNREFUSED. */
KR_API int kr_sim_connect_to(struct kr_sim *sim, kr_sim_peer *ret, const struct kr_addr *addr);

/* Bytes that the peer lets come without reading them (>= 1; default 64 KiB), and bytes that the
 * daemon's side lets come, which is what the peer can send ahead. What has come already stays. */
KR_API int kr_sim_window(struct kr_sim *sim, kr_sim_peer peer, size_t recv_size, size_t send_size);

/* Sends what goes now; returns how many of the `size` bytes. -EAGAIN: none goes now; -ECONNRESET
 * (told once); -EPIPE after that, after kr_sim_shutdown, and when the connection is over. */
KR_API int64_t kr_sim_send(struct kr_sim *sim, kr_sim_peer peer, const void *data, size_t size);

/* Sends one urgent byte (MSG_OOB); returns 1, or as kr_sim_send. It is a byte of the stream where the
 * daemon's socket has SO_OOBINLINE, which this library sets for TCP; elsewhere a receive skips it. */
KR_API int64_t kr_sim_urge(struct kr_sim *sim, kr_sim_peer peer, unsigned char byte);

/* Receives what is there, at most `size` bytes; 0 at the end of the stream. -EAGAIN: nothing now;
 * -ECONNRESET (told once) after what came before the reset. */
KR_API int64_t kr_sim_recv(struct kr_sim *sim, kr_sim_peer peer, void *data, size_t size);

/* Bytes that kr_sim_recv would find now. */
KR_API size_t kr_sim_readable(const struct kr_sim *sim, kr_sim_peer peer);

/* Ends the peer's sending (FIN); it can still receive. */
KR_API int kr_sim_shutdown(struct kr_sim *sim, kr_sim_peer peer);

/* Closes the peer; the handle is stale then. With unread bytes that resets, as in Linux; a Unix
 * peer has the daemon told -ECONNRESET, as there. */
KR_API int kr_sim_close(struct kr_sim *sim, kr_sim_peer peer);

/* Closes the peer with RST; the handle is stale then. A Unix peer has none, and just closes. */
KR_API int kr_sim_reset(struct kr_sim *sim, kr_sim_peer peer);

/* ---- remote hosts ---- */

/* What the daemon meets when it connects. */
enum kr_sim_answer {
    KR_SIM_REFUSES = 0, /* -ECONNREFUSED */
    KR_SIM_ACCEPTS = 1, /* the connection is made, and waits for kr_sim_accept */
    KR_SIM_IGNORES = 2, /* silence: -ETIMEDOUT after 131 s */
    KR_SIM_NO_HOST = 3, /* -EHOSTUNREACH */
    KR_SIM_NO_NET = 4,  /* -ENETUNREACH, at once */
};
/* Of a Unix socket: IGNORES is -EAGAIN, its backlog is full; NO_HOST and NO_NET are -ENOENT. */

/* Says what the daemon meets at `port` (> 0) from now on, and how long after its call; 0: at once,
 * as on loopback. It goes before a listener of the world at that port, which is reached where
 * nothing was said; a port of which nothing was said and at which nobody listens refuses, after 50
 * us. Connections that wait for kr_sim_accept stay. Faults may make something else of it.
 * -EINVAL. */
KR_API int kr_sim_remote(struct kr_sim *sim, uint16_t port, enum kr_sim_answer answer,
                         int64_t after_ns);

/* The far end of the oldest connection that was made to a remote `port` and not taken yet; it is
 * used and ended as any peer. -EAGAIN: there is none; -EINVAL: nothing was ever said of the
 * port. */
KR_API int kr_sim_accept(struct kr_sim *sim, kr_sim_peer *ret, uint16_t port);

/* The same for any address, with a port or of a Unix socket. One of those of which nothing was said
 * and at which nobody listens is -ENOENT, or if it is abstract -ECONNREFUSED; all answer at
 * once. */
KR_API int kr_sim_remote_at(struct kr_sim *sim, const struct kr_addr *addr,
                            enum kr_sim_answer answer, int64_t after_ns);
KR_API int kr_sim_accept_at(struct kr_sim *sim, kr_sim_peer *ret, const struct kr_addr *addr);

/* ---- descriptors ---- */

/* Descriptors are numbers of the world, as the daemon has them in it: what a process's own are mean
 * nothing here, and the other way round. Those made by these functions belong to whoever made or
 * received them. */

#define KR_SIM_FDS_MAX 253u /* that go with one message, as in Linux */

/* Opens a file of these bytes, of which a copy is made; the daemon may send it. Returns its
 * descriptor (>= 0), which is ended with kr_sim_fd_close. -EINVAL. */
KR_API int kr_sim_file(struct kr_sim *sim, const void *data, size_t size);

/* -EBADF: there is no such descriptor. */
KR_API int kr_sim_fd_close(struct kr_sim *sim, int fd);

/* Whether both lead to the same open file, as one that was sent and the one that was received
 * do. */
KR_API bool kr_sim_fd_same(const struct kr_sim *sim, int a, int b);

/* kr_sim_send of `size` bytes (>= 1), with which `count` (1 to KR_SIM_FDS_MAX) descriptors go; they
 * stay the caller's. If less than all bytes go, the descriptors have gone with the first. -EINVAL
 * also: the peer is no Unix one; -EBADF: there is no such descriptor. */
KR_API int64_t kr_sim_send_fds(struct kr_sim *sim, kr_sim_peer peer, const void *data, size_t size,
                               const int *fds, unsigned count);

/* kr_sim_recv, which ends behind what descriptors were sent with: *count of them are in `fds`, at
 * most `room`, and are the caller's; those that find no room are closed, as all are by
 * kr_sim_recv. */
KR_API int64_t kr_sim_recv_fds(struct kr_sim *sim, kr_sim_peer peer, void *data, size_t size,
                               int *fds, unsigned room, unsigned *count);

/* ---- faults ---- */

/* What a kernel, a network or a host may do to a program that does nothing wrong. */
enum kr_sim_fault {
    KR_SIM_SHORT_SUBMIT = 0,   /* takes only some of the requests, or none (-EAGAIN) */
    KR_SIM_BUSY = 1,           /* takes no request: -EBUSY */
    KR_SIM_INTERRUPT = 2,      /* a wait is ended by a signal */
    KR_SIM_LATE_FLUSH = 3,     /* completions that had no room come back one by one */
    KR_SIM_TASK_WORK = 4,      /* completions appear in the middle of a callback */
    KR_SIM_OVERTAKE = 5,       /* a multishot's completion overtakes another request's last one */
    KR_SIM_SHORT_RECV = 6,     /* brings fewer bytes than there are, down to one */
    /* a send completes short: it takes fewer bytes than there is room for */
    KR_SIM_SHORT_SEND = 7,
    KR_SIM_RECV_END = 8,       /* a multishot receive ends, with data and data left */
    KR_SIM_SPURIOUS_WAKE = 9,  /* a request is looked at although nothing has happened */
    KR_SIM_ACCEPT_END = 10,    /* a multishot accept ends, with a connection */
    KR_SIM_ACCEPT_ABORT = 11,  /* the client is gone before it is accepted: -ECONNABORTED */
    KR_SIM_ACCEPT_EMFILE = 12, /* no descriptor: -EMFILE */
    KR_SIM_ACCEPT_ENFILE = 13, /* no file in the system: -ENFILE */
    KR_SIM_CANCEL_BUSY = 14,   /* what is to be cancelled is just running: -EALREADY */
    KR_SIM_CANCEL_LATE = 15,   /* what is cancelled completes as if it were not */
    KR_SIM_INSTALL_FAIL = 16,  /* a descriptor is refused by the table: -ENOMEM */
    KR_SIM_NET_TIMEOUT = 17,   /* a connection is given up by the network: -ETIMEDOUT */
    KR_SIM_NET_RESET = 18,     /* a connection is cut by the network: RST to both */
    KR_SIM_LATE_WAIT = 19,     /* a timed wait ends late, by up to 50 us */
    KR_SIM_CLOCK_LEAP = 20,    /* the process does not run for up to a minute */
    KR_SIM_LOST = 21,          /* a completion is lost for want of memory: -EBADR */
    KR_SIM_CONNECT_REFUSED = 22,     /* the daemon's connect meets -ECONNREFUSED */
    KR_SIM_CONNECT_IGNORED = 23,     /* nobody answers it: -ETIMEDOUT after 131 s */
    KR_SIM_CONNECT_UNREACHABLE = 24, /* -ENETUNREACH at once, or -EHOSTUNREACH later */
    KR_SIM_LATE_WORKER = 25,         /* what a kernel worker does (shutdown) takes up to 5 ms */
    /* there is no thread for it, or for a read that has to wait: -ECANCELED */
    KR_SIM_NO_WORKER = 26,
    KR_SIM_ZC_NO_NOTIF = 27,         /* a zero-copy send is refused: -ENOMEM, and nothing follows */
    /* its memory may not be locked: -ENOMEM, and the notification */
    KR_SIM_ZC_NO_MEMORY = 28,
    /* its bytes are kept until the peer has read them, or is gone */
    KR_SIM_ZC_HELD = 29,
    KR_SIM_ZC_LATE = 30,             /* the notification comes up to a second late */
    /* a descriptor that comes with bytes finds no room: MSG_CTRUNC */
    KR_SIM_SCM_EMFILE = 31,
    KR_SIM_READ_WAITS = 32,          /* what is read of a file is not in memory: up to 5 ms */
    KR_SIM_SHORT_READ = 33,          /* a read brings fewer bytes than the file has, down to one */
    KR_SIM_READ_ERROR = 34,          /* the disk has an error: -EIO */
    KR_SIM_READ_CUT = 35,            /* the file ends where it is being read */
    KR_SIM_EXPORT_EMFILE = 36,       /* there is no descriptor for what is in a slot: -EMFILE */
    KR_SIM_ERROR_QUEUE = 37,         /* a socket's error queue has what nobody reads */
    KR_SIM_FAULT_COUNT = 38,         /* grows with new versions */
};

/* Makes a fault happen in `per_1024` (0 to 1024) of the cases where it could. 0 is the start. */
KR_API int kr_sim_fault_set(struct kr_sim *sim, enum kr_sim_fault fault, unsigned per_1024);

/* Sets all but KR_SIM_LOST by the world's seed, about half of them to 0: each seed another
 * climate. */
KR_API int kr_sim_fault_swarm(struct kr_sim *sim);

/* How often it has happened. 0 for an unknown one. */
KR_API uint64_t kr_sim_fault_hits(const struct kr_sim *sim, enum kr_sim_fault fault);

/* "short-submit" and so on; "?" for another number. The string is static. */
KR_API const char *kr_sim_fault_name(enum kr_sim_fault fault);

/* ---- replay ---- */

/* A number that differs, but for a chance of 2^-64, when anything has happened differently: any
 * completion, fault, or step of a peer, or what was noted with kr_sim_note. */
KR_API uint64_t kr_sim_hash(const struct kr_sim *sim);

/* Adds what a callback saw to the hash and, as `what` and the two numbers, to the trace. `what` is
 * borrowed for the call. */
KR_API void kr_sim_note(struct kr_sim *sim, const char *what, uint64_t a, uint64_t b);

/* Has a line of text for each thing that happens handed to `fn`; NULL ends that. */
KR_API void kr_sim_trace(struct kr_sim *sim, void (*fn)(void *arg, const char *line), void *arg);

/* A random number below `bound` (> 0) of the world's seed, for tests that act at random in it. */
KR_API uint64_t kr_sim_random(struct kr_sim *sim, uint64_t bound);

#ifdef __cplusplus
}
#endif

#endif
