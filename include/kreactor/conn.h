/* Connections: stream sockets whose received bytes arrive by callback and whose sent bytes leave
 * through a queue.
 *
 * Life: on_open runs first, then on_data and the other callbacks, then on_close, exactly once and
 * last. The handle is valid from on_open until on_close has returned; the handle of kr_connect and
 * kr_conn_adopt is valid from the return of that call. Afterwards every call returns -ESTALE.
 *
 * Back-pressure: the library stops reading from a connection while the connection is paused, and
 * while more than `send_high` bytes are queued to a peer that does not take them. Reading goes on
 * when the queue is down to `send_low`. While reading is stopped, the TCP window stops the peer's
 * sending. Bytes that had already arrived are kept and shown later; no byte is lost.
 *
 * Where both peers send more than send_high, plus what the kernel buffers, before they read, each
 * waits for the other to read, and both stand still. A protocol that allows that needs a send_high
 * as high as send_cap, so that sending does not stop reading; or write_ns, which ends such a
 * connection.
 *
 * Thread: all functions belong to the reactor's thread, or before its first kr_run to any one
 * thread at a time. The functions that any thread may call say so.
 *
 * No function of this header runs a callback. The effect of a call comes in a later phase of the
 * same turn or in the next turn. Apart from the allocator's, no function makes a system call,
 * except:
 *   kr_conn_send_fds               one for each descriptor, to duplicate it
 *   kr_conn_peer, kr_conn_local    with keep_fd, for an address that is not known yet
 *   kr_conn_close, and kr_conn_shutdown on the writing end of a pipe
 *                                  to close descriptors that the connection has kept (keep_fd) or
 *                                  received (recv_fds), or that kr_connect still needs */
#ifndef KREACTOR_CONN_H
#define KREACTOR_CONN_H

#include <kreactor/addr.h>
#include <kreactor/types.h>

#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The callbacks of a connection: a constant table.
 *
 * kr_listen and kr_listen_fd borrow the table until the listener has ended and the last of its
 * connections has closed. kr_connect, kr_conn_adopt and kr_conn_swap borrow it until the connection
 * has closed or kr_conn_swap has replaced the table. Each callback but on_data may be NULL.
 *
 * `user` is the pointer given to the function that took the table, or the one set by
 * kr_conn_set_user since. All callbacks run on the reactor's thread. Each of them may close any
 * connection, `conn` included. */
struct kr_conn_ops {
    /* The connection is established. No byte has been received yet. on_open is not called for a
     * connection of kr_connect that was never established. */
    void (*on_open)(struct kr_reactor *r, kr_conn conn, void *user);

    /* `size` bytes (at least 1) at `data` have been received. They are lent until the callback
     * returns.
     *
     * Returns how many of the bytes were consumed, from the front. A return value greater than
     * `size` counts as `size`. The rest is kept and shown again, contiguous with the bytes that
     * follow. If more than recv_cap bytes stay unconsumed, the connection ends with -EMSGSIZE and
     * KR_WHY_LIMIT. While reading is stopped (the connection is paused, or its queue is above
     * send_high), the rest waits without that limit and is shown again when reading goes on. So a
     * program whose kr_conn_send returned -ENOBUFS consumes nothing; back-pressure needs no more.
     *
     * NOTHING ELSE SHOWS THE REST AGAIN. An incomplete message may be left: the bytes that complete
     * it show it again. A complete message that is left, for example one of several requests that
     * came together, waits until the peer sends more, and the peer may never do so. Consume every
     * complete message, or call kr_conn_pause here and kr_conn_resume later. In builds with checks
     * kr_stats counts the calls that leave bytes while reading is not stopped (left_unpaused).
     *
     * An urgent byte (MSG_OOB) of a TCP peer is received as a byte of the stream, in its place. An
     * urgent byte of a peer on a Unix socket is left out. */
    size_t (*on_data)(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size);

    /* The peer has ended its side, and all the bytes it sent were shown. Sending is still possible.
     * The connection stays open until it is closed. Bytes that on_data has left unconsumed stay,
     * too: each kr_conn_resume shows them once more. No other on_data follows.
     *
     * NULL: the library acts as if on_eof had called kr_conn_close(KR_CLOSE_FLUSH), and on_close
     * gets KR_WHY_PEER. Its error is -ENODATA if bytes were left unconsumed, else 0. */
    void (*on_eof)(struct kr_reactor *r, kr_conn conn, void *user);

    /* The queue is down to send_low bytes or fewer, after it was above send_high or after a send
     * returned -ENOBUFS. on_writable runs once for each such rise. The library knows no other marks: a
     * program that has a mark of its own below send_high gets no on_writable for that mark; let it set
     * send_high to the mark instead. */
    void (*on_writable)(struct kr_reactor *r, kr_conn conn, void *user);

    /* The deadline `which` has passed: KR_DEADLINE_IDLE, KR_DEADLINE_READ or KR_DEADLINE_LIFE. It
     * counts anew from this call, unless the callback closes the connection. The other deadlines go
     * on unchanged. NULL: the connection ends with -ETIMEDOUT and KR_WHY_TIMEOUT. KR_DEADLINE_WRITE
     * and KR_DEADLINE_FLUSH are not reported here; they always end the connection. */
    void (*on_timeout)(struct kr_reactor *r, kr_conn conn, void *user, enum kr_deadline which);

    /* The connection has ended, and the kernel refers to nothing of it any more. `error` is 0 or a
     * negative errno; enum kr_why lists the pairs of `error` and `why`. The handle, the user
     * pointer and the inline memory are valid until the callback returns.
     *
     * A send may fail because the peer has closed or reset the connection, although bytes that the
     * peer sent before are still unread. A peer that answers early does that (HTTP 413, an SMTP
     * refusal). The library then does this:
     *   1. It drops the queue. kr_conn_send and its relatives return -EPIPE. on_writable runs once if
     *      the queue had stopped reading.
     *   2. It receives and shows the bytes that the peer has sent. on_eof follows if the peer has
     *      ended its side; after a reset on_eof does not run.
     *   3. on_close runs with the error of the send, also when this program closes the connection
     *      in the meantime.
     * If the connection is paused, received bytes wait for kr_conn_resume; if there are none,
     * on_close runs at once.
     *
     * Some kernels do not report a reset that came together with bytes (observed on 6.12.43,
     * 6.16.3, 6.17.8 and 6.18.5; the library tests the running kernel once a process). On these,
     * on_close runs when nothing has followed the bytes for 100 ms: the library looks at the socket
     * again then. Other kernels report a reset at once. Only after 32 receives in a row that each
     * left more in the socket may any kernel keep a reset back (io_uring/net.c, observed on
     * 6.18.44); the library looks again there, too. */
    void (*on_close)(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why);

    /* kr_drain has begun: the program should finish the work of this connection and close it. A
     * connection that is still open when the time of the drain is over is cut off. on_shutdown of a
     * connection of kr_connect may run before its on_open.
     *
     * NULL: the library acts as if on_shutdown had called kr_conn_close(KR_CLOSE_LINGER). A
     * forwarding pair ends when either end is closed; to let a pair go on to its own end, give both
     * ends an on_shutdown that does nothing (or use `pairs`, drain.h). */
    void (*on_shutdown)(struct kr_reactor *r, kr_conn conn, void *user);

    /* The peer has sent descriptors (SCM_RIGHTS, man unix). Only a Unix socket with recv_fds
     * receives any.
     *   fds        an array of `count` descriptors. The array is lent until the callback returns.
     *              The program owns the descriptors from the call on, also when the connection
     *              ends; it releases each with close(2). They are close-on-exec.
     *   count      0 to recv_fds; 0 only if `truncated` is true.
     *   truncated  there were more descriptors, and they are closed already: more than recv_fds
     *              came with one message, or this process had no room for another (RLIMIT_NOFILE).
     *              Most protocols cannot go on after that. The library does not end the connection;
     *              the program decides.
     *
     * The bytes that the descriptors came with are shown by the next on_data. The kernel ends a
     * receive at the last byte that was sent with descriptors, so the descriptors of two messages
     * come in two calls, in order, with an on_data between them. Bytes that were sent earlier may
     * be shown in the same on_data. While reading is stopped, the descriptors wait as the bytes do.
     * After kr_conn_swap descriptors that wait go to the new callbacks.
     *
     * The library closes descriptors that come while the connection is being closed or forwarded,
     * and all descriptors if on_fds is NULL.
     *
     * Closing the last descriptor of a socket with SO_LINGER may wait for its peer, as long as its
     * sender likes. Before the library closes a received descriptor, it takes an SO_LINGER with a
     * time from that socket. The sender shares the socket if it keeps its descriptor. For
     * descriptors that on_fds gets, the program does this itself: setsockopt before close. Where
     * this process has no room for another descriptor, the kernel closes the surplus, and that may
     * wait. */
    void (*on_fds)(struct kr_reactor *r, kr_conn conn, void *user, const int *fds, unsigned count,
                   bool truncated);

    /* For callbacks of later versions. All must be NULL, as an initialiser leaves them. Otherwise
     * the function that takes the table returns -EINVAL, since this library would not call them. */
    void (*reserved[4])(void);
};

/* The largest number of descriptors that can go with one message (SCM_MAX_FD, net/core/scm.h). */
#define KR_FDS_MAX 253u

/* The limits that a connection starts with. Fill it with kr_conn_opts_init. The options of the
 * functions that make connections contain one of these, filled by their own init function. Here and
 * in all other options a 0 selects the default of a number; for a deadline, or a limit without a
 * default, 0 means none. A value out of its range is -EINVAL. */
struct kr_conn_opts {
    size_t size; /* sizeof(struct kr_conn_opts), set by kr_conn_opts_init */

    /* Socket options. A field that is 0 leaves the system's own value. A TCP listener sets these
     * once, and the sockets it accepts inherit them at no cost. Sockets that a Unix listener
     * accepts inherit nothing, so send_buf, recv_buf and mark are set on each: that costs two
     * system calls a connection and one for each option that is not 0. The options of TCP have no
     * effect on Unix sockets. kr_conn_adopt sets none of these. */
    bool no_delay;            /* TCP_NODELAY. Default true */
    /* SO_KEEPALIVE and TCP_KEEPIDLE: the kernel probes a peer that was silent for so many seconds,
     * 1 to 32767. 0: never. Default 0 */
    unsigned keep_idle_s;
    unsigned keep_every_s;    /* TCP_KEEPINTVL: seconds between probes, 1 to 32767. Default 0: the
                               * system's, usually 75 */
    unsigned keep_probes;     /* TCP_KEEPCNT: number of probes, 1 to 127. Default 0: the system's,
                               * usually 9 */
    /* TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged, in milliseconds, 1 to
     * 2^31 - 1. Default 0: the system's */
    unsigned user_timeout_ms;
    /* SO_SNDBUF, bytes, 1 to 2^31 - 1; a value ends the kernel's own sizing. Default 0 */
    unsigned send_buf;
    unsigned recv_buf;        /* SO_RCVBUF, in the same way. Default 0 */
    unsigned mark;            /* SO_MARK, any value; without CAP_NET_ADMIN: -EPERM. Default 0 */

    /* Bytes queued to a peer. Reading stops when more than `send_high` are queued. It goes on, and
     * on_writable runs, when `send_low` or fewer are. kr_conn_send refuses bytes that would make the
     * queue larger than `send_cap`; one call cannot take more than `send_cap` either.
     * send_low <= send_high <= send_cap <= 2^31 - 1. 0 selects 64 KiB, 256 KiB and 16 MiB, or as
     * much as the fields that were given leave room for; `send_low` is then a quarter of
     * `send_high` at most. Defaults 0. */
    size_t send_low;
    size_t send_high;
    size_t send_cap;

    /* Loans (kr_conn_send_ref) of at least so many bytes, 1 to 2^31 - 1, are sent without a copy in
     * the kernel (MSG_ZEROCOPY). 0: never. Default 0.
     *
     * Such a loan is released when the peer has acknowledged its bytes, also after a close. A
     * closed connection waits for that as long as KR_CLOSE_FLUSH would (flush_ns) at most; then it
     * is reset. kr_reactor_free waits a second, kr_drain waits as long as its grace.
     *
     * The library stops trying where zero-copy gains nothing: on sockets that cannot do it; on a
     * connection for which the kernel copies all the same (kernel >= 6.3 reports that); while no
     * memory may be locked (RLIMIT_MEMLOCK). A process that calls exec meanwhile waits in the
     * kernel for the same acknowledgements and cannot be killed: call kr_reactor_free before exec.
     *
     * The gain is on network cards, with loans of 10 KB and more
     * (Documentation/networking/msg_zerocopy.rst in Linux). For a receiver on the same machine
     * (loopback, containers) the kernel copies after all, late and at 1.3 to 1.7 times the cost,
     * until the library has stopped trying (bench/zerocopy.py). Measure before you set it. */
    size_t zerocopy_min;

    /* The largest number of unconsumed bytes that a connection may keep, 1 to 2^31 - 1; see
     * on_data. 0: 1 MiB. Default 0. */
    size_t recv_cap;

    /* The largest number of descriptors taken with one receive, 0 to KR_FDS_MAX; see on_fds.
     * Default 0: none is taken. A peer that sends some then gets EPERM and its bytes are not sent
     * either (kernel >= 6.16); on older kernels the library closes the descriptors.
     *
     * A Unix connection that may receive descriptors, wanted or not, has 2 KiB of memory for them.
     * When it is closed, unread bytes are received first and dropped, so that its peer sees a clean
     * end. Other sockets than Unix ones receive no descriptors, whatever this field says. */
    unsigned recv_fds;

    /* Deadlines of each connection, in nanoseconds. 0: none. Defaults 0.
     *   idle_ns   no byte was received or sent for so long.
     *   read_ns   no byte was received for so long. Only time in which the connection could receive
     *             counts: not while it is paused, has more than send_high bytes queued, or waits
     *             for a receive buffer, and not after the peer's end.
     *   write_ns  bytes are queued, and the kernel took none for so long. It counts from when the
     *             first byte was queued, and anew from every byte that the kernel takes.
     *   life_ns   counts from the opening. It also counts while a closed connection is being
     *             flushed, and ends that.
     *
     * A byte counts from kr_now of the turn that handles it. A byte that was handled in a turn of
     * more than 1 ms counts for `idle_ns` and `read_ns` from the end of that turn. `idle_ns` counts
     * anew when a connection has waited for a receive buffer. An end of a forwarding pair whose
     * other end's queue is full is not idle while that queue gets shorter.
     *
     * A deadline is judged after everything that had arrived by its time has been read. So a peer
     * that acted while the loop was held up (a long callback, SIGSTOP, a debugger, a frozen cgroup)
     * is not timed out, whatever `taskrun` is. When there is always more to read, a deadline is
     * late by about six times the time that it takes to read the bytes that wait; timers and posts
     * are not late. The time limits of kr_connect and kr_drain are judged in the same way. */
    int64_t idle_ns;
    int64_t read_ns;
    int64_t write_ns;
    int64_t life_ns;

    /* How long KR_CLOSE_FLUSH and KR_CLOSE_LINGER wait for a peer that takes no byte, and how long
     * KR_CLOSE_LINGER waits for a peer that does not end its side, in nanoseconds, >= 1. 0: 30 s.
     * Default 0. */
    int64_t flush_ns;

    /* Bytes of memory in each connection for the user (kr_conn_inline), 0 to 1 MiB. Default 0 */
    size_t inline_size;

    /* Keep a descriptor of the socket beside the entry in the table, for kr_conn_fd. It costs one
     * of RLIMIT_NOFILE a connection, and three system calls to accept one. With no descriptor left,
     * accepting backs off until there is one. A forked child has copies of these descriptors, and
     * the peer sees no end while the child keeps them (kr_reactor_after_fork in roof/reactor.h). Default
     * false. */
    bool keep_fd;

    /* kr_drain does not wait for this connection. It is meant for a pipe or a socket by which the
     * daemon speaks to itself, its workers or its parent. kr_drain closes it when the last of the
     * other connections is gone (drain.h). Default false. */
    bool background;
};

/* Fills `opts` with the defaults. Any thread. `size`: as for kr_config_init_sized. */
KR_API void kr_conn_opts_init_sized(struct kr_conn_opts *opts, size_t size);
#define kr_conn_opts_init(opts_) kr_conn_opts_init_sized((opts_), sizeof *(opts_))

/* Checks options without using them. `opts` (NULL: defaults) is borrowed for the call. Returns 0
 * and clears `why` (roof/reactor.h; may be NULL), or returns the -EINVAL that kr_conn_adopt would return
 * for these options and fills `why`, whose `cause` names the field. kr_listen_opts_check and
 * kr_connect_opts_check do the same for their options, the contained ones included. Any thread. */
struct kr_failure;
KR_API int kr_conn_opts_check(const struct kr_conn_opts *opts, struct kr_failure *why);

/* Queues `size` bytes behind those queued before: all of them or none. `data` is borrowed for the
 * call only. The bytes are copied; but bytes that on_data is being lent may be held in their
 * receive buffer instead, so that an echo costs no copy. Bytes queued in one turn leave together.
 * `size` 0 queues nothing (`data` may be NULL then). A connection of kr_connect may be sent to
 * before it is established. Legal in every callback; in this connection's on_close it returns
 * -EPIPE.
 *
 * Errors, with nothing queued:
 *   -ENOBUFS   the queue would be larger than send_cap. Reading stops, and on_writable runs when the
 *              queue is down to send_low.
 *   -EMSGSIZE  `size` alone is larger than send_cap, so that there will never be room.
 *   -EPIPE     the connection is being closed, whichever side began that, or detached; or
 *              kr_conn_shutdown was called; or a send has failed (on_close); or it is the reading
 *              end of a pipe (kr_conn_adopt).
 *   -ENOMEM */
KR_API int kr_conn_send(struct kr_reactor *r, kr_conn conn, const void *data, size_t size);

/* kr_conn_send of `count` pieces (0 or more) as if they were one: all or nothing. `iov` and the
 * bytes are borrowed for the call. Errors: as kr_conn_send; -EINVAL also when the sum of the sizes
 * overflows. */
KR_API int kr_conn_sendv(struct kr_reactor *r, kr_conn conn, const struct iovec *iov, int count);

/* Queues `size` bytes (0 or more) without a copy, behind those queued before. They leave together
 * with queued bytes of every other kind.
 *
 * Borrows the bytes at `data` until `release(r, arg)`, which is called exactly once, in a later
 * phase of this turn or in a later turn: when the kernel has taken the bytes and holds no reference
 * to them, or when the connection ends first, and then before its on_close. With `size` 0 release
 * is called in the next such phase. `release` NULL: no callback, for bytes that never change, such
 * as constants. A loan costs a record and a callback, as much as copying some hundred bytes; lend
 * only more than that.
 *
 * kr_reactor_free calls every `release` before it returns. In a forked child it calls none: the
 * child's bytes are copies. If the kernel has lost completions (-EBADR from kr_run),
 * kr_reactor_free releases bytes that the kernel may still read, for a connection that it is about
 * to end.
 *
 * Errors: as kr_conn_send. Then nothing is borrowed, and `release` is not called. */
KR_API int kr_conn_send_ref(struct kr_reactor *r, kr_conn conn, const void *data, size_t size,
                            kr_release_fn *release, void *arg);

/* kr_conn_send of `size` bytes (1 or more), with which `count` descriptors (1 to KR_FDS_MAX) go.
 * The bytes and `fds` are borrowed for the call. The descriptors are duplicated, which costs a
 * system call each, so the caller still owns its own and may close them at once. The library closes
 * the duplicates when the kernel has taken the first of the bytes, or when the connection ends.
 *
 * A stream carries descriptors with a byte. The peer receives them with the first of these bytes,
 * in the order of the queue, and not with bytes queued before.
 *
 * The kernel may refuse the descriptors when it takes the bytes. The connection then ends with its
 * error: -ETOOMANYREFS when this user has more descriptors sent and not yet received than
 * RLIMIT_NOFILE; -EINVAL for a descriptor of io_uring; -EPERM when the peer takes no descriptors
 * (kernel >= 6.16).
 *
 * Errors, with nothing queued: as kr_conn_send; -EINVAL also when `size` or `count` is out of its
 * range; -EOPNOTSUPP when the connection is not a Unix socket; -EBADF, -EMFILE, -ENFILE when a
 * descriptor cannot be duplicated. */
KR_API int kr_conn_send_fds(struct kr_reactor *r, kr_conn conn, const void *data, size_t size,
                            const int *fds, unsigned count);

/* Lends `size` bytes (1 to 1 MiB) of the send queue's own memory at *ret, so that a message can be
 * formatted in place. Nothing is queued until kr_conn_commit. The memory is lent until the first
 * of:
 *   - kr_conn_commit on this connection;
 *   - the next send on this connection, in any form;
 *   - the next kr_conn_reserve on any connection;
 *   - the result of an earlier send of this connection, which the kernel may report between two
 *     callbacks of a turn;
 *   - the end of the turn, or the begin of the next one if no turn is running.
 * So call kr_conn_reserve and kr_conn_commit in the same callback.
 *
 * Errors, with nothing lent: as kr_conn_send. */
KR_API int kr_conn_reserve(struct kr_reactor *r, kr_conn conn, size_t size, void **ret);

/* Queues the first `size` bytes of the open reservation and ends it. `size` 0 queues nothing and
 * ends it. Errors: -EINVAL: this connection has no open reservation, or the reservation is smaller
 * than `size` and stays open. -EPIPE: as kr_conn_send. */
KR_API int kr_conn_commit(struct kr_reactor *r, kr_conn conn, size_t size);

/* Returns how many bytes are queued and not yet taken by the kernel. A file counts as file.h says.
 * 0 also for a stale handle, and from another thread. */
KR_API size_t kr_conn_queued(const struct kr_reactor *r, kr_conn conn);

/* kr_conn_pause() stops reading. While a connection is paused, neither on_data nor on_eof runs.
 * Bytes that were received before the call and not consumed are kept, and so are the few bytes that
 * the kernel had already received for the library. While a connection is paused the library does
 * not notice the peer's end, whether FIN or reset. It reports the end after kr_conn_resume. A send
 * that fails and the idle deadline are noticed all the same.
 *
 * kr_conn_resume() ends the pause. Bytes that on_data has left unconsumed are shown again, in a
 * later phase of this turn or in the next turn. It does so also on a connection that is not paused,
 * and after on_eof. Within the on_data of the same connection it does not show them again, because
 * bytes that on_data leaves would be shown for ever.
 *
 * Calls do not nest: one kr_conn_resume() ends any number of pauses.
 *
 * Errors, with nothing done: -EPIPE when the connection is being closed or detached. */
KR_API int kr_conn_pause(struct kr_reactor *r, kr_conn conn);
KR_API int kr_conn_resume(struct kr_reactor *r, kr_conn conn);

/* Ends this side of the connection. When the queue has been sent, the peer sees the end of the
 * stream (FIN). Sends return -EPIPE from the call on. Reading goes on as before, on_eof included. A
 * second call changes nothing and returns 0.
 *
 * When both sides have ended, the connection stays, without a request in flight, until it is
 * closed. Without an on_eof it closes itself at the peer's end, as always. When the peer has ended
 * its side and nothing is being sent, no request watches the socket: a later reset by the peer is
 * noticed only by the next send or by a deadline. If the kernel refuses the shutdown (the peer has
 * reset already), the connection goes on as after a send that failed (on_close).
 *
 * The shutdown needs a descriptor for a moment, except with keep_fd or KR_TABLE_PLAIN. Where no
 * descriptor is left, and on kernels before 6.8, a worker thread of the kernel does it
 * (io_uring/net.c). Where there is no room for a thread either (RLIMIT_NPROC, a pids cgroup), the
 * library tries again until there is. Both ways cost more than a close: to end a whole connection,
 * close it. On the writing end of a pipe this function is kr_conn_close(KR_CLOSE_FLUSH); see
 * kr_conn_adopt.
 *
 * Errors, with nothing done: -EPIPE when the connection is being closed or detached. */
KR_API int kr_conn_shutdown(struct kr_reactor *r, kr_conn conn);

/* Ends the connection in the manner `how` (enum kr_close). on_close runs in a later turn, when the
 * kernel refers to nothing of the connection any more. Until then no other callback of its struct
 * kr_conn_ops runs. Callbacks that it still owes (kr_release_fn, kr_file_fn, kr_sockopt_fn,
 * kr_forward_fn, kr_detached_fn) run before on_close.
 *
 * A connection that is being closed may be closed again in a harder manner (LINGER, FLUSH, NOW,
 * RESET, in this order). A softer manner changes nothing and returns 0.
 *
 * KR_CLOSE_FLUSH sends the queue and then closes. The kernel answers a close with RST when bytes of
 * the peer were left unread or come later (RFC 2525, 2.17), and the RST may cost the peer the last
 * bytes that were sent to it. So KR_CLOSE_FLUSH is for peers that have nothing more to send.
 *
 * KR_CLOSE_LINGER is for all other peers, for example when a request is refused while it is still
 * coming in. It sends the queue, ends this side as kr_conn_shutdown does, and closes when the peer
 * has ended its side. Bytes that come until then are received and dropped, also when the connection
 * is paused.
 *
 * Both wait at most flush_ns for a peer that takes no queued byte, and KR_CLOSE_LINGER waits at
 * most flush_ns for the peer's end. After that the connection ends with -ETIMEDOUT and
 * KR_WHY_TIMEOUT; it is reset if bytes are still queued. A peer that resets while the connection
 * lingers ends it with -ECONNRESET.
 *
 * KR_CLOSE_RESET acts as KR_CLOSE_NOW on a socket that cannot be reset, such as a Unix socket.
 *
 * Errors, with nothing done: -EINVAL: `how` is no enum kr_close. */
KR_API int kr_conn_close(struct kr_reactor *r, kr_conn conn, enum kr_close how);

/* kr_conn_peer() copies the address of the peer to *ret, kr_conn_local() the address of this side.
 * Which addresses are known:
 *   a listener's connection    both, if the listener has `addresses` set
 *   a connection of kr_connect the peer's; this side's with `local_address`, once established
 *   an adopted socket          both
 *   any socket with keep_fd    both: the kernel is asked for an address that is not known
 *
 * Errors: -ENODATA: the address is not known, or the connection is a pipe, or its client had reset
 * before it was accepted from a listener with `addresses` and is served for the bytes that it has
 * left. -ENOTCONN: the kernel was asked, and the peer is gone. */
KR_API int kr_conn_peer(const struct kr_reactor *r, kr_conn conn, struct kr_addr *ret);
KR_API int kr_conn_local(const struct kr_reactor *r, kr_conn conn, struct kr_addr *ret);

/* Returns the descriptor that was kept (keep_fd), for getsockopt, getpeername and the like. The
 * descriptor is lent until the connection is closed. The caller must not read from it, write to it,
 * close it, or give it to another owner. The caller may set options, but not SO_LINGER, which the
 * library takes back before it closes the connection.
 *
 * Errors: -ENODATA: no descriptor was kept, or the connection is being closed. */
KR_API int kr_conn_fd(const struct kr_reactor *r, kr_conn conn);

/* kr_conn_user() returns the user pointer; NULL for a stale handle. kr_conn_set_user() replaces it.
 * The library only hands the pointer to callbacks; it does not own the object. */
KR_API void *kr_conn_user(const struct kr_reactor *r, kr_conn conn);
KR_API int kr_conn_set_user(struct kr_reactor *r, kr_conn conn, void *user);

/* Replaces the callbacks and the user pointer of a connection in mid-stream, for example when a
 * protocol is upgraded. No callback of the old table runs any more, on_close included. on_open of
 * the new table does not run, except when the connection is one of kr_connect or kr_conn_adopt that
 * is not established yet: then it runs when the connection is established.
 *
 * Bytes that were not consumed are shown to the new on_data, in a later phase of this turn or in
 * the next turn. That holds for bytes that were kept and for bytes that a running on_data leaves by
 * its return value. An end of stream that the old callbacks were told of is reported again.
 *
 * `ops` is borrowed until the connection has closed or is swapped again. Legal in every callback
 * but this connection's on_close.
 *
 * Errors, with nothing done: -EINVAL: `ops` is NULL, has no on_data, or has a `reserved` that is
 * not NULL. -EPIPE: the connection is being closed or detached. */
KR_API int kr_conn_swap(struct kr_reactor *r, kr_conn conn, const struct kr_conn_ops *ops,
                        void *user);

/* Returns the connection's own memory of inline_size bytes. It is aligned for any type and zeroed when
 * the connection is made: before on_open, and before kr_connect or kr_conn_adopt returns, so the
 * program may write to it from then on. It is valid until on_close has returned. NULL for a stale handle, and when
 * inline_size is 0. */
KR_API void *kr_conn_inline(const struct kr_reactor *r, kr_conn conn);

/* Sets the deadline `which` of this connection anew: it passes `ns` nanoseconds from now, and that
 * is its limit from then on. `ns` 0 means none. KR_DEADLINE_FLUSH needs at least 1, and counts from
 * the close. The other deadlines go on unchanged. Legal in every callback, on_timeout included, and
 * while the connection is paused; a read deadline then counts from kr_conn_resume. On a connection
 * that is not established yet, the deadline counts from when it is. The first such change gives the
 * connection limits of its own, which takes memory.
 *
 * A connection that a deadline ends while bytes are queued is reset, so that its peer does not take
 * a part for the whole.
 *
 * Errors, with nothing done: -EINVAL: `which` or `ns` is out of range. -EPIPE: the connection is
 * being closed or detached. -ENOMEM. */
KR_API int kr_conn_deadline(struct kr_reactor *r, kr_conn conn, enum kr_deadline which, int64_t ns);

#ifdef __cplusplus
}
#endif

#endif
