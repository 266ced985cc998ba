/* Connections: the table, what one is made of, what it is asked. */
#ifndef KR_CONN_CONN_H
#define KR_CONN_CONN_H

#include "base/mark.h"
#include "conn/features.h"
#include "conn/options.h"
#include "conn/state.h"
#include "pool/zc_sends.h"
#include "ring/owner.h"
#include "time/timers.h"

#include <kreactor/conn.h>
#include <kreactor/detach.h>

#include <errno.h>
#include <sys/uio.h>

struct kr__listener;
struct kr__forward;
struct kr__sockopt;
struct kr__fds;

struct kr__conn {
    /* ---- identity ---- */
    struct kr__owner owner;

    /* ---- condition: what makes it other than open and plain ----
     * In one word, so that one comparison tells that there is nothing of the kind
     * (kr__conn_is_plain). */
    union {
        uint32_t condition;
        struct {
            uint8_t state : 4; /* enum kr__conn_state */
            /* reasons not to receive (enum kr__reason) */
            bool paused : 1;    /* by the user */
            bool blocked : 1;   /* queued rose above send_high and is not down to send_low yet */
            bool peer_full : 1; /* its pair's other queue is full, or the pair is over */
            bool eof : 1;       /* the peer ended its side */
            uint8_t features;   /* what few have: KR__CONNECTING and so on (conn/features.h) */
            bool starved : 1;   /* waits for a receive buffer, and may not receive yet */
            /* how it receives */
            bool may_try : 1;    /* waits for a buffer, and may receive */
            bool over_share : 1; /* had more than its share of a turn: one shot (conn/fair.c) */
            bool looks : 1; /* its receive is made again, to look at the socket (conn/clock.c) */
            bool recv_waits : 1;   /* nothing was there: first a poll (conn/recv_poll.c) */
            bool recv_by_wake : 1; /* that poll is a multishot */
            bool forwarding : 1;   /* what it receives goes to the other end */
            bool broken : 1;       /* sends nothing more: ends with `error` (conn/error.c) */
            /* how it sends */
            bool half : 1;         /* this side is to end behind the queue; no more is taken */
            bool fin : 1;          /* this side has ended */
            bool send_waits : 1;   /* there was no room: first a poll (conn/send_poll.c) */
            bool send_by_wake : 1; /* that poll is a multishot */
            bool rests : 1;        /* neither sends nor polls for now (conn/rest.c) */
            bool files : 1;        /* there are files in its queue */
            bool zerocopy : 1;     /* has `more`; zero-copy is tried or owed (conn/zerocopy.h) */
        };
    };

    /* ---- life ---- */
    uint8_t why;            /* enum kr_why, for on_close */
    bool announced : 1;     /* its user knows it, so on_close is owed */
    bool local : 1;         /* a Unix socket */
    bool write_only : 1;    /* the writing end of a pipe: as if the peer had ended */
    bool read_only : 1;     /* the reading end of one: as if this side had */
    bool polls_connect : 1; /* connecting: tries at its deadline, and makes no request */
    bool reset : 1;         /* a RESET is owed before the CLOSE */
    bool resets_after : 1;  /* a reset follows the last byte of its queue */
    bool promised : 1;      /* has a place in the timers' heap */
    bool lingers : 1;       /* others may have set SO_LINGER: it goes before the CLOSE */
    bool purges : 1;        /* descriptors may lie unread: they are taken before the CLOSE */
    bool drain_told : 1;    /* its user was told of the drain */
    bool drain_missed : 1;  /* a drain has passed it by, as it was detaching, or an end of a pair */
    bool spared : 1;        /* its flush deadline was put off once (conn/clock.c) */

    /* ---- in ---- */
    bool one_shot : 1; /* receives by requests of one shot only (conn/recv.c) */
    bool streams : 1;  /* its receive in flight, if there is one, is a multishot */
    bool eof_told : 1; /* on_eof was called, or is not to be */
    bool no_eof : 1;   /* what ended its stream was an error, and on_eof is not told of that */
    bool unsure : 1;   /* a multishot has brought bytes, and may hide a reset (conn/clock.c) */
    /* the last receive met nothing, or the last poll something, and reading was not stopped since */
    bool recv_goes_on : 1;
    bool within_share : 1;     /* counted in kr_reactor.within_share, */
    bool was_within_share : 1; /* and in within_share_before */
    uint8_t quiet_turns : 3;   /* quiet turns since it was found to be over its share */

    /* ---- out ---- */
    bool send_room : 1;  /* the poll before the next send had found room */
    bool fd_refused : 1; /* its shutdown could not have a descriptor (conn/shutdown.c) */

    uint8_t turn_receives : 7; /* in: receives that it had in `turn`, 127 at most */
    int16_t error;             /* life: for on_close; the kernel's reach to -4095 */
    uint16_t held;             /* out: receive buffers that its queue and its leases hold */
    uint16_t turn;             /* in: the last one, its low bits, that brought bytes */

    /* ---- life ---- */
    const struct kr_conn_ops *ops;
    void *user;

    /* ---- out ---- */
    struct kr__sendq queue;
    struct kr__vector *vector; /* of the send in flight, if it has several pieces; a block */
    uint32_t queued; /* bytes in the queue, with what its files count; 0 when there are neither */

    /* ---- in ---- */
    uint32_t kept_at, kept_size; /* the unconsumed bytes within `kept` */
    uint32_t kept_room;
    char *kept; /* a block; NULL while nothing is kept */
    /* in the line, or on the list of those to be shown kept bytes, or to be detached */
    struct kr__link wait;

    /* ---- clock ---- */
    struct kr__profile *profile; /* its limits; NULL when it was never served */
    /* from when each deadline counts (conn/clock.c) */
    int64_t idle_from, read_from, write_from, life_from;
    struct kr__deadline deadline; /* filed at the first of them to come, or earlier */

    /* ---- life ---- */
    uint64_t listener;   /* handle of the listener that made it; 0: none */
    uint64_t successor;  /* a listener's: its accept was told before this life's CLOSE */
    void *inline_memory; /* a block, kept with the slot for its next life */
    uint32_t inline_room;
    uint32_t turn_bytes;        /* in: received in `turn` (conn/fair.c) */
    struct kr__conn_more *more; /* a block; NULL while there is nothing to say */
};
/* With its place in the timers' heap, which doubles as it grows, at most 256. */
_Static_assert(sizeof(struct kr__conn) + 2 * sizeof(struct kr__heap_item) <= 256,
               "promised: at most 256 bytes an idle connection");

/* Sending by zero-copy. */
struct kr__zerocopy {
    struct kr__zc_sends zc_sends;
    uint16_t failed; /* the last flight of which nothing was sent */
    bool off;        /* in vain here: the kernel copies all the same, or the socket cannot */
    bool refused;    /* no more memory may be locked for now */
};

/* Options to be set, in order; blocks. */
struct kr__sockopts {
    struct kr__sockopt *head, *tail;
    unsigned count;
};

/* What few connections have. */
struct kr__conn_more {
    struct kr__zerocopy zerocopy;
    struct kr_addr *addrs;       /* peer and local, a block; NULL when they were not asked for */
    struct kr__forward *forward; /* the pair, while it is an end of one; a block */
    struct kr__fds *fds;         /* while it takes descriptors; a block */
    struct kr__files *files;     /* while there are files in its queue */

    int fd; /* its socket: kept, or made to leave by, or needed until it stands; else -1 */

    struct kr__sockopts options;

    /* Of kr_conn_detach. */
    kr_detached_fn *detached;
    void *detached_user;
    int refusal; /* why there is no descriptor */

    /* While it is calling. */
    bool local;   /* this side's address is to be asked */
    bool adopted; /* it stands already, and is only to be told of */

    int pipe_flags;      /* of a pipe's reads and writes: RWF_* */
    unsigned backoff_ms; /* between two tries to connect */
    int64_t until;       /* the deadline; KR__NEVER: none */
};

/* The pieces of one send. More than so many are -EMSGSIZE (UIO_MAXIOV, man sendmsg). */
#define KR__VECTOR_PIECES 1024u
struct kr__vector {
    struct msghdr msg;
    size_t room; /* the block's size */
    struct iovec pieces[];
};

struct kr__conns {
    struct kr__conn *table; /* mapped; pages come into being when first used */
    unsigned accept_max;    /* slots below this are of the kernel's choice: it accepts into them */
    unsigned max;           /* those from there to this are the library's: it connects from them */
    unsigned used, made_used; /* [0, used) and [accept_max, made_used) have ever been used */
    unsigned open;            /* not FREE */
    unsigned accepted;        /* of these, in slots of the kernel's choice */
    unsigned background;      /* of those that are open, the ones a drain does not wait for */
    unsigned promised;        /* free slots that armed accepts may still fill */
};

int kr__conns_init(struct kr__conns *conns, struct kr_reactor *r, unsigned accept_max,
                   unsigned made_max);
void kr__conns_free(struct kr__conns *conns, struct kr_reactor *r);

/* For going through all slots that have ever been used: the one after `c`, or the first (NULL);
 * NULL after the last. */
static inline struct kr__conn *kr__conns_next(const struct kr__conns *conns,
                                              const struct kr__conn *c) {
    unsigned slot = c ? (unsigned)(c - conns->table) + 1 : 0;
    if (slot >= conns->used && slot < conns->accept_max)
        slot = conns->accept_max;
    return slot < conns->made_used ? &conns->table[slot] : NULL;
}

static inline kr_conn kr__conn_handle(const struct kr__conn *c) {
    return (kr_conn){kr__owner_handle(&c->owner)};
}

static inline const struct kr_conn_opts *kr__conn_opts(const struct kr__conn *c) {
    return &c->profile->opts;
}

/* What few connections have, made when it is first needed; NULL when memory is refused. */
struct kr__conn_more *kr__conn_more(struct kr_reactor *r, struct kr__conn *c);

/* The connection stands: its deadlines count from now. */
void kr__conn_stands(struct kr_reactor *r, struct kr__conn *c);

/* What applies of them is filed: it reads and sends again. */
void kr__conn_watch(struct kr_reactor *r, struct kr__conn *c);

/* Its multishot has brought bytes, on a kernel that may then keep a reset to itself: it is made
 * again when nothing has come for KR__LOOK_NS. */
#define KR__LOOK_NS 100000000
void kr__conn_look_later(struct kr_reactor *r, struct kr__conn *c);

/* One of them counts from now: reading goes on, the first byte is queued, the close has begun. */
void kr__conn_count(struct kr_reactor *r, struct kr__conn *c, enum kr_deadline which);

/* The connection of a handle while its handle is good: until on_close has returned. */
struct kr__conn *kr__conn_find(const struct kr_reactor *r, kr_conn conn);

/* A fresh life of a slot, MADE or ACCEPTED: all but its owner and its own memory starts from zero. */
void kr__conn_begin(struct kr_reactor *r, struct kr__conn *c, uint32_t slot,
                    enum kr__conn_event event);

/* Its limits, with a reference that becomes its own. */
void kr__conn_limits(struct kr_reactor *r, struct kr__conn *c, struct kr__profile *profile);

/* What a connection needs that has its limits; `addrs` (peer, local) may be NULL, and is copied.
 * `foreign`: its socket, or the one it was accepted from, was made by others. -ENOMEM. */
int kr__conn_equip(struct kr_reactor *r, struct kr__conn *c, const struct kr_addr *addrs,
                   bool foreign);

/* The kernel has put a new connection of `l` into `slot`; one of a closing listener is closed
 * unannounced. `addrs` (peer, local) may be NULL; copied. `fd` is kept, or closed; -1: there is
 * none. */
void kr__conn_arrive(struct kr_reactor *r, uint32_t slot, struct kr__listener *l,
                     const struct kr_addr *addrs, int fd);

/* Closes its descriptor, if it has one. */
void kr__conn_fd_drop(struct kr_reactor *r, struct kr__conn *c);

/* A connection of this program's own making, OPENING and told to its user, in a slot of the
 * library's that refers to the file of `fd`, which is borrowed for the call. `addrs` (peer, local)
 * is copied. *ret is the connection; -ENOSPC, -ENOMEM, or the kernel's refusal of the slot, with
 * nothing begun. */
struct kr__conn_plan {
    const struct kr_conn_opts *opts;
    const struct kr_conn_ops *ops;
    void *user;
    const struct kr_addr *addrs; /* of a socket */
    bool foreign;                /* others have made it */
    enum kr__pipe { KR__PIPE_NONE, KR__PIPE_READS, KR__PIPE_WRITES } pipe;
    int pipe_flags; /* of its reads or writes: RWF_* */
};
int kr__conn_make(struct kr_reactor *r, const struct kr__conn_plan *plan, int fd,
                  struct kr__conn **ret);

/* Whether callbacks are ones that this library knows, and enough. */
static inline bool kr__ops_good(const struct kr_conn_ops *ops) {
    if (!ops || !ops->on_data)
        return false;
    for (size_t i = 0; i < sizeof ops->reserved / sizeof *ops->reserved; i++) {
        if (ops->reserved[i])
            return false;
    }
    return true;
}

/* What it wants, from its state alone: the one place that decides. */
struct kr__wants kr__conn_wants(const struct kr_reactor *r, const struct kr__conn *c);

/* Reading stops: nothing is shown, no buffer is waited for. It goes on with kr__conn_show_later. */
void kr__conn_hold(struct kr_reactor *r, struct kr__conn *c);

/* What its state says. */
static inline bool kr__conn_is_free(const struct kr__conn *c) {
    return c->state == KR__CONN_FREE;
}

static inline bool kr__conn_is_open(const struct kr__conn *c) {
    return c->state == KR__CONN_OPEN;
}

/* Its user may send, pause and so on: it is open, or about to be. */
static inline bool kr__conn_is_usable(const struct kr__conn *c) {
    return c->state == KR__CONN_OPEN || c->state == KR__CONN_OPENING;
}

static inline bool kr__conn_is_detaching(const struct kr__conn *c) {
    return c->state == KR__CONN_DETACHING;
}

static inline bool kr__conn_is_lingering(const struct kr__conn *c) {
    return c->state == KR__CONN_LINGERING;
}

/* It was closed, and the peer still gets what is queued. */
static inline bool kr__conn_is_flushing(const struct kr__conn *c) {
    return c->state == KR__CONN_LINGERING || c->state == KR__CONN_FLUSHING;
}

/* It is neither free nor does only what is in flight keep it. */
static inline bool kr__conn_is_served(const struct kr__conn *c) {
    return c->state != KR__CONN_FREE && c->state < KR__CONN_JOINING;
}

/* It is open, receives, and does nothing that few do: what most bytes meet. */
static inline bool kr__conn_is_plain(const struct kr__conn *c) {
    return c->condition == (struct kr__conn){.state = KR__CONN_OPEN}.condition;
}

/* Nothing but what is in flight keeps it. */
static inline bool kr__conn_is_ending(const struct kr__conn *c) {
    return c->state >= KR__CONN_JOINING;
}

/* Nothing is in flight but its CLOSE, and what comes before that. */
static inline bool kr__conn_is_closing(const struct kr__conn *c) {
    return c->state == KR__CONN_CLOSING;
}

/* What is received is for its user, be it shown or kept. */
static inline bool kr__conn_is_heard(const struct kr__conn *c) {
    return c->state == KR__CONN_OPEN || c->state == KR__CONN_DETACHING;
}

/* Bytes may be added to its queue. */
static inline bool kr__conn_may_queue(const struct kr__conn *c) {
    return kr__conn_is_usable(c) && !c->half;
}

/* The one change of its state. */
void kr__conn_goes(struct kr__conn *c, enum kr__conn_event event);

/* Why a connection does not receive. What it wants, whether the audit may see it wait, which deadlines
 * apply and what kr_dump says are all read off these. */
#define KR__REASONS(X)                                                                             \
    X(PAUSED, "paused")       /* by its user */                                                    \
    X(BLOCKED, "blocked")     /* its own queue rose above send_high */                             \
    X(PEER_FULL, "peer_full") /* the queue of its pair's other end did, or the pair is over */     \
    X(ENDED, "eof")           /* its peer has ended its side */                                    \
    X(STARVED, "starved")     /* it waits for a receive buffer */                                  \
    X(CLOSED, "closed")       /* its state does not receive */

enum kr__reason {
#define X(name, text) KR__BIT_OF_##name,
    KR__REASONS(X)
#undef X
#define X(name, text) KR__##name = 1 << KR__BIT_OF_##name,
        KR__REASONS(X)
#undef X
    /* These keep received bytes from being shown, too. */
    KR__STOPS = KR__PAUSED | KR__BLOCKED | KR__PEER_FULL,
};

static inline unsigned kr__conn_reasons(const struct kr__conn *c) {
    bool receives = c->state == KR__CONN_OPEN || c->state == KR__CONN_LINGERING;
    return (c->paused ? KR__PAUSED : 0u) | (c->blocked && !c->forwarding ? KR__BLOCKED : 0u) |
           (c->peer_full ? KR__PEER_FULL : 0u) | (c->eof ? KR__ENDED : 0u) |
           (c->starved ? KR__STARVED : 0u) | (receives ? 0u : KR__CLOSED);
}

/* True while received bytes are to be kept rather than shown. */
static inline bool kr__conn_is_stopped(const struct kr__conn *c) {
    return kr__unlikely(!kr__conn_is_plain(c)) && (kr__conn_reasons(c) & KR__STOPS);
}

/* True while the end of its stream is to be told: to its user, or to the other end of a pair, also
 * when its user knows. */
static inline bool kr__conn_owes_eof(const struct kr__conn *c) {
    return c->eof && !c->no_eof && (c->forwarding || !c->eof_told);
}

/* True while bytes are to be received. One that lingers drops them, so that nothing stops it. Of a
 * broken one that is paused it is to be known whether there are any. */
static inline bool kr__conn_may_receive(const struct kr__conn *c) {
    if (kr__likely(kr__conn_is_plain(c)))
        return true;
    unsigned reasons = kr__conn_reasons(c) & ~(unsigned)KR__STARVED;
    unsigned ignored = 0;
    if (c->state == KR__CONN_LINGERING)
        ignored = KR__STOPS;
    else if (c->broken && !c->kept_size)
        ignored = KR__PAUSED | KR__BLOCKED;
    return !(reasons & ~ignored);
}

/* Begins the end, or makes it harder. `error` and `why` are those of the first cause. */
void kr__conn_end(struct kr_reactor *r, struct kr__conn *c, enum kr_close how, int error,
                  enum kr_why why);

/* The kernel refuses to send for it, or to receive: what has come is shown first, where that can be.
 * May run callbacks. */
void kr__conn_send_failed(struct kr_reactor *r, struct kr__conn *c, int error);
void kr__conn_recv_failed(struct kr_reactor *r, struct kr__conn *c, int error);

/* Ends a broken one that has nothing more to receive or to show. */
void kr__conn_broken_step(struct kr_reactor *r, struct kr__conn *c);

/* True while something that has come is yet to be shown: to its user, or to the other end. */
bool kr__conn_has_unshown(const struct kr_reactor *r, const struct kr__conn *c);

/* A request of it has ended: on to the next state if nothing holds it in this one. */
void kr__conn_settle(struct kr_reactor *r, struct kr__conn *c);
void kr__conn_settle_end(struct kr_reactor *r, struct kr__conn *c); /* of one that is not open */

/* The CLOSE is done: on_close, release of all it held, and the slot's next life if it has begun. */
void kr__conn_gone(struct kr_reactor *r, struct kr__conn *c);

/* The CLOSE will never be seen done: on_close all the same. What it held is released with the
 * table. */
void kr__conn_abandon(struct kr_reactor *r, struct kr__conn *c);

/* Its peer is not waited for any longer. */
void kr__conn_give_up(struct kr_reactor *r, struct kr__conn *c);

/* The deadline has been reached, or only the time to look at it again. */
void kr__conn_due(struct kr_reactor *r, struct kr__deadline *d);

/* Gives back the list of pieces of a send, if there is one. */
void kr__conn_vector_put(struct kr_reactor *r, struct kr__conn *c);

/* True of a pipe that cannot be asked not to wait: a poll comes before each read and write. Pipes
 * can since kernel 6.4, but not those with a name (fs/pipe.c: FMODE_NOWAIT; observed on 6.18). */
static inline bool kr__pipe_polls(const struct kr__conn *c) {
    return (c->write_only || c->read_only) && !(c->more->pipe_flags & RWF_NOWAIT);
}

/* A read or write was refused because of RWF_NOWAIT, and is polled for from now on: false if that was
 * not why. */
static inline bool kr__pipe_refuses(struct kr__conn *c, int error) {
    if (error != -EOPNOTSUPP || !(c->write_only || c->read_only) || kr__pipe_polls(c))
        return false;
    c->more->pipe_flags &= ~RWF_NOWAIT;
    return true;
}

/* The verbs by which it receives, or waits for something to receive. */
static inline uint32_t kr__conn_recv_verbs(const struct kr__conn *c) {
    if (kr__likely(!c->recv_waits && !c->recv_by_wake))
        return KR__SET(recv);
    return (c->rests ? 0 : KR__SET(recv_poll)) | (c->recv_waits ? 0 : KR__SET(recv));
}

/* The poll in front of its receives is made once, and tells of each wake-up. */
static inline void kr__recv_by_wake(struct kr__conn *c) {
    kr__mark_if(recv_by_wake, !c->recv_by_wake);
    c->recv_by_wake = true;
}

/* True while its receive is a multishot and shall not be, or shall be another. */
static inline bool kr__conn_ends_multishot(const struct kr__conn *c) {
    return (c->over_share || c->looks) && c->streams && (c->owner.armed & KR__SET(recv));
}

/* Lets go of what files needed once none is in the queue. */
void kr__conn_files_check(struct kr_reactor *r, struct kr__conn *c);

/* Has its kept bytes, or a held-back end of stream, shown in the next turn, if it may be shown
 * any. */
void kr__conn_show_later(struct kr_reactor *r, struct kr__conn *c);

/* Whether a queue that is not empty has requests in flight that bring it on. */
bool kr__conn_queue_moves(const struct kr_reactor *r, const struct kr__conn *c);

/* For the audit at each wait: of all of them; of one, is there something that will move it on? */
void kr__conns_audit(const struct kr_reactor *r);
bool kr__conn_moves(const struct kr_reactor *r, const struct kr__conn *c);

#endif
