/* Connections: stream sockets whose bytes arrive by callback and leave by queue.
 *
 * Life: on_open, then on_data and the others as things happen, then on_close, exactly once and
 * last. The handle is good from on_open (of kr_connect: from its return) until on_close has
 * returned; afterwards every call answers -ESTALE.
 *
 * Back-pressure: reading stops while the connection is paused, and while more than `send_high`
 * bytes are queued to a peer that does not take them; it goes on at `send_low`. The peer's own
 * sending then stops, through the TCP window. What had already arrived is kept and shown later;
 * nothing is lost.
 *
 * All functions: the reactor's thread, or before its first kr_run any one thread at a time. None of
 * them runs a callback, nor (but for what keep_fd is for) enters the kernel; the effect comes later
 * in the same turn or the next. */
#ifndef KREACTOR_CONN_H
#define KREACTOR_CONN_H

#include <kreactor/addr.h>
#include <kreactor/types.h>

#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a connection tells its owner. A constant table, borrowed from kr_listen until the last of
 * its connections has closed, and from kr_connect until that one has. All but on_data may be NULL.
 * `user` is the pointer given to kr_listen or kr_connect, or the one set by kr_conn_set_user. From
 * any of them, anything may be closed, also `conn`. */
struct kr_conn_ops {
    /* The connection is there. No byte has been read. Not called for one of kr_connect that never
     * stood. */
    void (*on_open)(struct kr_reactor *r, kr_conn conn, void *user);

    /* `size` (at least 1) bytes at `data` have come and are lent until the return. Returns how many
     * of them were consumed, from the front (more than `size` counts as `size`). The rest is kept
     * and shown again, contiguous, with the bytes that follow. If more than recv_cap bytes stay
     * unconsumed, the connection ends with -EMSGSIZE; but while reading is stopped (paused, or
     * above send_high) the rest waits, and is shown again when reading goes on. So after -ENOBUFS
     * from kr_conn_send, consume nothing: that is the whole of back-pressure.
     *
     * NOTHING ELSE SHOWS THE REST AGAIN. What is left for another reason than that it is not
     * complete, as one of several requests that have come together, waits until the peer sends
     * more, which it may never do. Consume all that is complete, or kr_conn_pause here and
     * kr_conn_resume later. In builds with checks kr_stats counts the calls that leave bytes while
     * reading is not stopped (left_unpaused).
     *
     * An urgent byte (MSG_OOB) of a TCP peer is a byte of the stream, in its place; one of a peer on a
     * Unix socket is left out. */
    size_t (*on_data)(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size);

    /* The peer ended its side, and all that it sent was shown. Sending is still possible, and the
     * connection stays until it is closed. Bytes that on_data has left unconsumed stay, too:
     * kr_conn_resume shows them once more; no other on_data follows. NULL: as if it called
     * kr_conn_close(KR_CLOSE_FLUSH), with KR_WHY_PEER; if bytes were left, on_close gets
     * -ENODATA. */
    void (*on_eof)(struct kr_reactor *r, kr_conn conn, void *user);

    /* After more than send_high bytes were queued, send_low or fewer are. Once for each such
     * rise, and after -ENOBUFS. A mark of the program's own below send_high brings none: set
     * send_high to it. */
    void (*on_drain)(struct kr_reactor *r, kr_conn conn, void *user);

    /* A deadline passed: IDLE, READ or LIFE. It counts anew from this call, unless that closes the
     * connection; the other deadlines go on as they were. NULL: the connection ends with
     * -ETIMEDOUT. WRITE and FLUSH are not reported here, they end it. */
    void (*on_timeout)(struct kr_reactor *r, kr_conn conn, void *user, enum kr_deadline which);

    /* The connection is gone and the kernel holds nothing of it. `error` is 0 or a negative errno,
     * see enum kr_why. The handle, the user pointer and the inline memory are good until the
     * return.
     * A send may fail because the peer has closed, or reset, though what it sent before is unread: a
     * peer that answers early does that (HTTP 413, an SMTP refusal). The queue is dropped then,
     * kr_conn_send and the like answer -EPIPE, and on_drain runs once if more than send_high bytes
     * were queued. What the peer has sent is received and shown first, then its end (on_eof) if it
     * has ended its side rather than reset. on_close follows with the error of the send, also when
     * this program closes the connection meanwhile. Of a paused connection what was received waits
     * for the resume; if nothing was, on_close runs at once.
     * A peer's reset that came together with bytes is told 100 ms after them on kernels
     * that keep it to themselves (6.12.43, 6.16.3, 6.17.8 and 6.18.5 do; others tell at once). */
    void (*on_close)(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why);

    /* kr_drain has begun: finish what is under way, and close; one that does not is cut off when
     * the drain's time is over. For a connection of kr_connect it may come before on_open. NULL: as
     * if it called kr_conn_close(KR_CLOSE_LINGER). A pair that is being forwarded ends with a close
     * of either end: to let it go on to its own end, have one in both that does nothing. */
    void (*on_shutdown)(struct kr_reactor *r, kr_conn conn, void *user);

    /* `count` descriptors, of those the peer has sent (SCM_RIGHTS, man unix), came with bytes that
     * the next on_data shows; only a Unix socket with recv_fds brings any. They are close-on-exec,
     * and yours from the call on: to use, keep and close, whatever becomes of the connection. The
     * array is lent until the return.
     * `truncated`: there were more, which are closed already; more than recv_fds came with one
     * message, or this process has no room for another (RLIMIT_NOFILE). `count` may be 0 then. Most
     * protocols cannot go on after that; to end the connection is yours to decide.
     *
     * The kernel lets no receive go beyond the bytes with which descriptors were sent, so those of
     * two messages come in two calls, in order, with an on_data between them; bytes that were sent
     * before may be shown together with theirs. While reading is stopped they wait, as the bytes
     * do. Nobody is told of those that come while the connection is being closed or forwarded, nor
     * of any if this is NULL: they are closed. After kr_conn_swap those that wait go to the new
     * callbacks.
     *
     * Whoever closes the last descriptor of a socket with SO_LINGER may wait for its peer, as long
     * as the sender likes. For those that nobody is told of the library sees to that: SO_LINGER with
     * a time is taken from such a socket, which its sender, if that keeps it, shares. Of those that
     * you are told of it is yours to see to: setsockopt before close. Where this process has no room
     * for another descriptor the kernel closes the surplus, and may wait. */
    void (*on_fds)(struct kr_reactor *r, kr_conn conn, void *user, const int *fds, unsigned count,
                   bool truncated);

    /* For callbacks of later versions: NULL, as an initialiser leaves them, or it is -EINVAL where
     * the table is given, since this library would not call them. */
    void (*reserved[4])(void);
};

/* Descriptors that can go with one message (SCM_MAX_FD, net/core/scm.h). */
#define KR_FDS_MAX 253u

/* The limits that a connection starts with. Fill it with kr_conn_opts_init; the options of whatever
 * makes connections contain one, filled by their own init. In these and in all other options 0
 * means the default of a number, and none where a deadline or a limit has none. */
struct kr_conn_opts {
    size_t size; /* sizeof(struct kr_conn_opts), set by kr_conn_opts_init */

    /* Of the socket; what 0 leaves is the system's own. A listener hands these to what it accepts,
     * at no cost; a Unix listener sets the buffer sizes and the mark of each socket, at that of two
     * system calls and one for each. Those of TCP mean nothing to Unix sockets. */
    bool no_delay;            /* TCP_NODELAY. Default true */
    /* SO_KEEPALIVE: probe a peer that is silent so long, 1 to 32767; 0: never. Default 0 */
    unsigned keep_idle_s;
    unsigned keep_every_s;    /* and so often after that, 1 to 32767. Default 0: 75 s as a rule */
    unsigned keep_probes;     /* and so many times, 1 to 127. Default 0: 9 as a rule */
    /* TCP_USER_TIMEOUT: sent bytes may stay unacknowledged so long. Default 0 */
    unsigned user_timeout_ms;
    unsigned send_buf;        /* SO_SNDBUF, bytes; ends the kernel's own sizing. Default 0 */
    unsigned recv_buf;        /* SO_RCVBUF, the same. Default 0 */
    unsigned mark;            /* SO_MARK; needs CAP_NET_ADMIN, else -EPERM. Default 0 */

    /* Bytes queued to a peer: reading stops above `send_high` and goes on at `send_low`, when
     * on_drain runs; kr_conn_send refuses above `send_cap`. low <= high <= cap <= 2^31 - 1.
     * `send_cap` also bounds what one kr_conn_send may take. 0: 64 KiB, 256 KiB, 16 MiB, or what
     * the others leave room for; `send_low` is then a quarter of `send_high` at most. Defaults
     * 0. */
    size_t send_low;
    size_t send_high;
    size_t send_cap;

    /* Loans (kr_conn_send_ref) of so many bytes or more are sent without a copy in the kernel
     * (MSG_ZEROCOPY); 0 = never. They come back when the peer has acknowledged them, also after a
     * close: it then waits for that at most as long as KR_CLOSE_FLUSH would, and then resets the
     * connection; kr_reactor_free waits a second, kr_drain as long as its grace. Where it is in
     * vain the library stops trying: on sockets that cannot, on a connection that the kernel copies
     * for all the same (on kernels >= 6.3, which tell), while no memory may be locked
     * (RLIMIT_MEMLOCK). A process that replaces itself (exec) meanwhile waits for the same in the
     * kernel, and cannot be killed: free the reactor first. What there is to gain is gained on
     * network cards, by loans of 10 KB and more (Documentation/networking/msg_zerocopy.rst in
     * Linux); for a receiver on the same machine (loopback, containers) the kernel copies, late and
     * at 1.3 to 1.7 times the cost, until the library has stopped (bench/zerocopy.py). Measure
     * before you set it. Default 0. */
    size_t zerocopy_min;

    size_t recv_cap; /* unconsumed bytes a connection may keep, 1 to 2^31 - 1; 0: 1 MiB. Default 0 */

    /* Descriptors to be taken with one receive at most, 0 to KR_FDS_MAX; see on_fds. 0: who sends any
     * is refused (EPERM, and the bytes are not sent either), on kernels >= 6.16; on older ones they
     * are closed. A connection to which descriptors may come, wanted or not, has 2 KiB of memory
     * for that, and what lies unread when it is closed is received first and dropped, so that its
     * peer sees a clean end. Other sockets than Unix ones bring none, whatever is asked for.
     * Default 0. */
    unsigned recv_fds;

    /* Deadlines of each connection, 0 = none, which is their default. A byte counts from kr_now of
     * the turn that handles it. What `read_ns` counts is time in which the connection could
     * receive: not while it is paused, has more than send_high queued, or waits for a buffer, and
     * not after the peer's end. `write_ns` counts from when the first byte was queued, and anew
     * from every byte that the kernel takes. `life_ns` goes on while a closed connection is
     * flushed, and ends that.
     *
     * A deadline is judged when all has been read that had come by its time: peers that acted while
     * the loop was held up (a long callback, SIGSTOP, a debugger, a frozen cgroup) are not timed
     * out, whatever `taskrun` is. When there is always more to read a deadline is late, by the time
     * that it takes to read some six times what waits; timers and posts are not. A byte that was
     * handled in a turn of more than 1 ms counts for `idle_ns` and `read_ns` from the end of that
     * turn. `idle_ns` counts anew when a connection has waited for a receive buffer, and an end of a
     * pair whose other end's queue is full is not idle while that queue gets shorter. The time of
     * kr_connect and of kr_drain is judged in the same way. */
    int64_t idle_ns;
    int64_t read_ns;
    int64_t write_ns;
    int64_t life_ns;

    /* How long KR_CLOSE_FLUSH and KR_CLOSE_LINGER wait for a peer that takes nothing, and the
     * latter for one that does not end, >= 1; 0: 30 s. Default 0. */
    int64_t flush_ns;

    size_t inline_size; /* bytes of memory in each connection for the user, 0 to 1 MiB. Default 0 */

    /* Keep a descriptor of the socket beside the entry in the table: for kr_conn_fd. Costs one of
     * RLIMIT_NOFILE a connection, and accepting one three system calls; with none left, accepting
     * backs off until there is. A forked child has copies of them, and the peer sees no end while it
     * keeps them (kr_reactor_after_fork in reactor.h). Default false. */
    bool keep_fd;

    /* kr_drain does not wait for it: for a pipe or a socket by which the daemon speaks to itself, its
     * workers or its parent. It is closed when the last of the others is gone (drain.h). Default
     * false. */
    bool background;
};

/* Fills `opts` with the defaults. Any thread. `size`: as for kr_config_init_sized. */
KR_API void kr_conn_opts_init_sized(struct kr_conn_opts *opts, size_t size);
#define kr_conn_opts_init(opts_) kr_conn_opts_init_sized((opts_), sizeof *(opts_))

/* Says why kr_conn_adopt would answer -EINVAL to these options (NULL: defaults): fills `why`
 * (reactor.h; NULL ok), whose `cause` names the field, and returns -EINVAL; or clears it and
 * returns 0. kr_listen_opts_check and kr_connect_opts_check do the same for theirs, with these in
 * them. Any thread. */
struct kr_failure;
KR_API int kr_conn_opts_check(const struct kr_conn_opts *opts, struct kr_failure *why);

/* Queues `size` bytes behind those queued before; all or nothing. The bytes are copied, except that
 * a part of what on_data is being lent may be held in its buffer instead (an echo costs no copy);
 * either way the caller's `data` is borrowed for the call only. Queued bytes of one turn leave
 * together. size 0 does nothing. Legal in on_open, on_data, on_eof, on_drain, on_timeout, timers,
 * posts.
 *
 * Errors, with nothing taken: -ENOBUFS when more than send_cap bytes would be queued, and on_drain
 * tells when there is room; -EMSGSIZE when `size` alone is more than send_cap, so that there never
 * will be; -EPIPE once the connection is being closed, by either side, after kr_conn_shutdown, and
 * after a send that failed (on_close); -ENOMEM. */
KR_API int kr_conn_send(struct kr_reactor *r, kr_conn conn, const void *data, size_t size);

/* kr_conn_send of `count` pieces, 0 or more, as if they were one; `iov` and the bytes are borrowed
 * for the call. All or nothing. Errors as kr_conn_send; -EINVAL when the sizes' sum overflows. */
KR_API int kr_conn_sendv(struct kr_reactor *r, kr_conn conn, const struct iovec *iov, int count);

/* Queues `size` bytes without a copy: behind those queued before, and leaving together with them,
 * be they copied or borrowed. Borrows the bytes at `data` until `release(r, arg)`, which is called
 * exactly once, in a later phase of this turn or in a later turn: when the kernel has taken them
 * and holds no reference, or when the connection ends first, and then before its on_close. Bytes of
 * size 0 are released in the next such phase. `release` NULL: nobody need be told, as with
 * constants. What is worth lending: a record and a callback cost as much as copying some hundred
 * bytes.
 *
 * kr_reactor_free releases all before it returns; only a forked child releases nothing, what it has
 * are copies. If the kernel has lost completions (-EBADR from kr_run), what kr_reactor_free
 * releases may still be read by the kernel for a connection that it is about to end.
 *
 * Errors as kr_conn_send; then nothing is borrowed and `release` is not called. */
KR_API int kr_conn_send_ref(struct kr_reactor *r, kr_conn conn, const void *data, size_t size,
                            kr_release_fn *release, void *arg);

/* kr_conn_send of `size` bytes, 1 or more, with which `count` descriptors go, 1 to KR_FDS_MAX. They
 * are duplicated (which costs a system call each), so what becomes of the caller's own matters not;
 * the duplicates are closed when the kernel has taken the first of the bytes, or the connection
 * ends. A stream carries descriptors with a byte: they come to the peer with the first of these, in
 * the order of the queue, and not with bytes queued before. Where they are refused as the kernel
 * takes them, the connection ends with its error: -ETOOMANYREFS when this user has more descriptors
 * under way, sent and not yet received, than RLIMIT_NOFILE; -EINVAL for a descriptor of io_uring.
 *
 * Errors as kr_conn_send, also with nothing taken: -EINVAL; -EOPNOTSUPP when it is no Unix socket;
 * -EBADF, -EMFILE, -ENFILE when a descriptor cannot be duplicated. */
KR_API int kr_conn_send_fds(struct kr_reactor *r, kr_conn conn, const void *data, size_t size,
                            const int *fds, unsigned count);

/* Lends `size` bytes (1 to 1 MiB) of the send queue's own memory at *ret, for a message to be
 * formatted in place. Nothing is queued until kr_conn_commit; the memory is lent until that, until
 * the next send on this connection or reserve on any, or until the turn ends, whichever is first.
 * Errors as kr_conn_send. */
KR_API int kr_conn_reserve(struct kr_reactor *r, kr_conn conn, size_t size, void **ret);

/* Queues the first `size` bytes of the open reservation (0 = none of it) and ends it. -EINVAL:
 * there is none open, or it is smaller. -EPIPE as kr_conn_send. */
KR_API int kr_conn_commit(struct kr_reactor *r, kr_conn conn, size_t size);

/* Bytes queued and not yet taken by the kernel. As a size: 0 also for a stale handle. */
KR_API size_t kr_conn_queued(const struct kr_reactor *r, kr_conn conn);

/* Stops, and lets go on, the reading. While paused no on_data and no on_eof runs; a few bytes that
 * the kernel had already received are kept. While paused the end of the peer goes unnoticed, be it
 * a FIN or a reset, but for the idle deadline and for sends that fail: it is told after the resume.
 * Calls do not nest: two pauses need one resume.
 *
 * kr_conn_resume has the bytes that on_data left shown again in the turn that follows, also of a
 * connection that was not paused, and after on_eof. Within that connection's own on_data it does
 * not: what that leaves would be shown for ever. -EPIPE once the connection is being closed. */
KR_API int kr_conn_pause(struct kr_reactor *r, kr_conn conn);
KR_API int kr_conn_resume(struct kr_reactor *r, kr_conn conn);

/* Ends this side: when what is queued has been sent the peer sees the end of the stream (FIN).
 * Sends answer -EPIPE from now on; reading goes on as before, on_eof included. With both sides
 * ended the connection stays, without any request in flight, until it is closed; without on_eof it
 * closes itself at the end of the peer, as ever. Where the peer has ended its side and nothing is
 * being sent, nobody listens to the socket any more: that the peer resets later is noticed by the
 * next send only, or by a deadline. A second call changes nothing and returns 0.
 * Should the kernel refuse (the peer has reset already), it is as when a send fails (on_close).
 *
 * It takes a descriptor for a moment, unless the connection has kept one (keep_fd). Where none is
 * left, and on kernels before 6.8, the kernel does it in a worker thread of its own
 * (io_uring/net.c); should there be no room for a thread either (RLIMIT_NPROC, a pids cgroup), it
 * is tried until there is. Both cost more than a close: to end a connection as a whole, close it.
 * The writing end of a pipe is closed by this (kr_conn_adopt). -EPIPE once the connection is being
 * closed. */
KR_API int kr_conn_shutdown(struct kr_reactor *r, kr_conn conn);

/* Ends the connection in the given manner. on_close runs in a later turn, when the kernel has let
 * go; until then no other callback of this connection runs. A closing connection may be closed
 * again in a harder manner (LINGER, FLUSH, NOW, RESET, in this order); a softer one changes nothing
 * and returns 0.
 *
 * KR_CLOSE_FLUSH waits for the queue, but not for a peer that takes no byte for flush_ns. The
 * kernel answers a close with RST when bytes of the peer were left unread or come later (RFC 2525,
 * 2.17), and that may cost the peer the last bytes sent: it is for peers that have said all they
 * had to say. KR_CLOSE_LINGER is for the others, as when a request is refused while it is still
 * coming in. It sends the queue, ends this side as kr_conn_shutdown does, and closes when the peer
 * has ended its side; what comes until then is received and dropped, paused or not. A peer that
 * takes longer than flush_ns for that, or takes no queued byte for so long, ends it: -ETIMEDOUT;
 * one that resets: -ECONNRESET. RESET on a socket that cannot be reset, as Unix sockets, is as
 * NOW. */
KR_API int kr_conn_close(struct kr_reactor *r, kr_conn conn, enum kr_close how);

/* The peer's, and this side's, address. Known for connections of a listener with `addresses` set;
 * of kr_connect the peer's, and with `local_address` this side's once it stands; with keep_fd the
 * kernel is asked for what is not known (-ENOTCONN: the peer is gone); others answer -ENODATA, as
 * does, of a listener with `addresses`, one whose client had reset before it was accepted and is
 * served for the bytes that it has left. */
KR_API int kr_conn_peer(const struct kr_reactor *r, kr_conn conn, struct kr_addr *ret);
KR_API int kr_conn_local(const struct kr_reactor *r, kr_conn conn, struct kr_addr *ret);

/* The descriptor that was kept (keep_fd), for getsockopt, getpeername and the like: lent until the
 * connection is closed. It must be neither read nor written, nor closed, nor made another's. Options
 * may be set, but SO_LINGER, which is taken back before the connection is closed.
 * -ENODATA: none was kept, or the connection is on its way out. */
KR_API int kr_conn_fd(const struct kr_reactor *r, kr_conn conn);

/* The user pointer; NULL for a stale handle. */
KR_API void *kr_conn_user(const struct kr_reactor *r, kr_conn conn);
KR_API int kr_conn_set_user(struct kr_reactor *r, kr_conn conn, void *user);

/* Other callbacks and another user pointer take the connection over in mid-stream, as when a
 * protocol is upgraded. No callback of the old ones runs any more, on_close included, and on_open
 * of the new ones does not run. Bytes that were not consumed are shown to the new on_data: those
 * that were kept in a turn that follows, those that a running on_data leaves by its return value
 * with them; an end of stream that the old ones have heard of is told again. Of a connection of
 * kr_connect or kr_conn_adopt that does not stand yet the on_open of the new ones runs, when it
 * does. `ops` is borrowed as by kr_listen. Legal in any callback but on_close. -EPIPE once the
 * connection is being closed or released. */
KR_API int kr_conn_swap(struct kr_reactor *r, kr_conn conn, const struct kr_conn_ops *ops,
                        void *user);

/* The connection's own memory of inline_size bytes, aligned for any type, zeroed
 * before on_open; good until on_close has returned. NULL for a stale handle and when the size is
 * 0. */
KR_API void *kr_conn_inline(const struct kr_reactor *r, kr_conn conn);

/* Sets a deadline of this connection anew: `ns` from now, or none (0; not for KR_DEADLINE_FLUSH,
 * which counts from the close). The others go on as they were. Legal in any callback, on_timeout
 * included, and while paused: a read deadline then counts from the resume. The first such change
 * gives the connection limits of its own.
 *
 * A connection that a deadline ends while bytes are queued is reset, so that its peer does not take
 * a part for the whole. -EPIPE once it is being closed; -ENOMEM. */
KR_API int kr_conn_deadline(struct kr_reactor *r, kr_conn conn, enum kr_deadline which, int64_t ns);

#ifdef __cplusplus
}
#endif

#endif
