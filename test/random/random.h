/* Random calls against the real kernel: what the parts of the suite share.
 *
 * A round is one reactor from its making to its end, in a world of peers that the case plays itself:
 * clients, servers that connections are made to, socket pairs, pipes. The program (program.c) is
 * what a user would write, but for its calls, which are drawn from a table (calls.c). What passes a
 * connection is a pattern in which each byte's place shows (stream.c), so that both sides know what
 * must come next. */
#pragma once

#include "harness/net.h"

#define LINKS 160   /* of a round */
#define ALIVE_MAX 24 /* of these, at a time */
#define SPANS 64
#define LEASES 16
#define TIMERS 8
#define LISTENERS 3
#define FILE_SIZE 100000u
#define FILE_SEED 77u

/* A piece of what a peer is to receive: `size` bytes of a pattern. */
struct span {
    uint64_t seed, from, size;
    bool grows; /* it is being forwarded, `size` is not known yet */
};

/* A connection and its peer. */
struct link {
    struct world *w;
    unsigned index;
    kr_conn conn;
    bool known;    /* the program has its handle, and on_close is owed */
    bool was_open; /* on_close has run, and the handle is stale */
    bool stands;   /* on_open has run, if it is to */
    bool stranger; /* accepted, and has not yet said whose it is */
    bool closing, flushing, releasing, paused, eof, half, local, reads, writes, urgent;
    bool told_to_end; /* by a drain */
    unsigned owed;    /* callbacks that must come before on_close */

    struct link *twin; /* while a pair stands */
    bool feeds;
    bool keeps_open; /* the ends of the pair stay open when it is over */

    /* What the peer has sent, and how much of it was shown, and consumed. */
    uint64_t in_seed, in_sent, in_shown, in_taken;
    /* What it is to receive. */
    struct span spans[SPANS];
    unsigned span_count;
    uint64_t span_got; /* of the first */
    uint64_t out_seed, out_at;
    bool got_end, delivered; /* the peer has read a clean end; everything was flushed */

    int fd, listening; /* the peer's; -1 */
    bool peer_shut, peer_failed;
    unsigned slowness; /* of 1024: how rarely it reads */
};

struct loan {
    struct link *link;
    char *bytes;
    size_t size;
};

struct world {
    uint64_t seed, random;
    struct kr_reactor *r;
    bool traced;
    bool deep;       /* in a callback */
    bool in_call;    /* no callback may run */
    bool ending;     /* the program makes no more of anything */
    bool draining;
    struct link links[LINKS];
    unsigned link_count;
    kr_listener listeners[LISTENERS];
    struct kr_addr addrs[LISTENERS];
    bool listening[LISTENERS];
    kr_timer timers[TIMERS];
    bool timing[TIMERS];
    kr_lease leases[LEASES];
    bool leased[LEASES];
    uint64_t lease_seed[LEASES], lease_from[LEASES];
    uintptr_t posts_made, posts_ran;
    struct kr_notice notice;
    bool noticed; /* told of since it was last made */
    unsigned drains, drained, closes;
    int file, null;
    enum kr_table table; /* as it was asked for */
    struct kr_conn_opts conn_opts;
    char name[48]; /* of the Unix listener */
    char host[16]; /* an address of loopback that no other process has: ports are used again at once */
};

/* ---- chance ---- */

/* The world of the running round: a post brings a number only. */
extern struct world *world_now;

uint64_t chance_number(struct world *w, uint64_t bound); /* 0 to bound - 1 */
uint64_t chance_some(struct world *w, uint64_t most);    /* 1 to most, small ones as likely */
static inline bool chance(struct world *w, unsigned of_1024) {
    return chance_number(w, 1024) < of_1024;
}

/* What happens, on stderr, if KR_TEST_TRACE is set. */
__attribute__((format(printf, 2, 3))) void trace(const struct world *w, const char *format, ...);

/* ---- links ---- */

struct link *link_new(struct world *w);
unsigned links_alive(const struct world *w);

/* Any that the program knows; NULL: there is none, or chance has it so. */
struct link *link_pick(struct world *w);

/* The link of a handle; NULL when it is stale. */
struct link *link_of(struct world *w, kr_conn conn);

/* ---- what passes (stream.c) ---- */

/* Fills `data` with what is sent next; after it was taken, the peer awaits it. */
void stream_next(struct link *l, void *data, size_t size);
void stream_sent(struct link *l, size_t size);
void stream_add(struct link *l, struct span span);
bool stream_may_send(const struct link *l);

/* A pair begins, and is over after so many bytes. */
void stream_forward(struct link *from, struct link *to);
void stream_forwarded(struct link *from, struct link *to, uint64_t moved);

/* What the program is shown, and what a peer has received, are what they must be. */
void stream_shown(struct link *l, const void *data, size_t size);
void stream_received(struct link *l, const void *data, size_t size);

/* A connection that was flushed without an error has lost nothing for a peer that read to the
 * end. */
void stream_check_whole(const struct link *l);

/* ---- peers (peer.c): clients, servers, and the other ends ---- */

void peers_act(struct world *w);
void peer_client(struct world *w);
void peers_close(struct world *w);

/* ---- the program (program.c) ---- */

/* Made by this program; the same with what may be left out left out; accepted. */
extern const struct kr_conn_ops program_ops, program_bare_ops, program_accept_ops;
const struct kr_conn_ops *program_any_ops(struct world *w);
void program_closes(struct link *l, enum kr_close how); /* its own state, after kr_conn_close */
kr_listener_end_fn program_listener_ends;
kr_detached_fn program_released;
kr_forward_fn program_forwarded;
kr_sockopt_fn program_tuned;
kr_drained_fn program_drained;
kr_file_fn program_file_done;
kr_release_fn program_loan_back;
kr_timer_fn program_timer, program_resume;
kr_post_fn program_posted, program_noticed;

/* ---- the calls (calls.c) ---- */

/* One public function: `make` calls it with arguments of chance, from within a callback (w->deep)
 * or between turns, and checks its answer. */
struct call {
    const char *name;
    void (*make)(struct world *w);
    unsigned weight; /* how likely it is beside the others */
};

extern const struct call calls[];
extern const unsigned call_count;
extern uint64_t calls_made[];

void calls_some(struct world *w); /* a few of them, or none */

/* `rc` of a call is 0 or more, or one of the errors. */
#define ALLOW(rc_, ...)                                                                            \
    do {                                                                                           \
        int got_ = (rc_);                                                                          \
        const int may_[] = {__VA_ARGS__};                                                          \
        bool ok_ = got_ >= 0;                                                                      \
        for (unsigned i_ = 0; i_ < sizeof may_ / sizeof *may_; i_++)                               \
            ok_ = ok_ || got_ == -may_[i_];                                                        \
        if (!ok_)                                                                                  \
            FAIL("%s is %d (%s)", #rc_, got_, kr_errname(got_));                                   \
    } while (0)
