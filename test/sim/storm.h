/* The storm: one seed is one run of a reactor in a world in which everything goes wrong that may.
 *
 * storm.c makes the world, drives the reactor and checks after every turn; server.c is the program
 * under the storm, whose callbacks close, pause, send and start things at random; client.c are its
 * peers, each of which checks that it gets back what it sent; scenario.c says what is likely in
 * which scenario.
 *
 * A broken promise ends the process with a message (storm_fail), as the library's own assertions
 * do; who runs seeds therefore runs them in a process of their own (batch.c). */
#ifndef STORM_H
#define STORM_H

#include <kreactor.h>
#include <kreactor/sim.h>

#define CLIENTS_MAX 48
#define TIMERS_MAX 12
#define LEASES_MAX 24
#define LISTENERS_MAX 3
#define CONNS_MAX 512
#define CONNECTS_MAX 8
#define PORT 7
#define GIFT_MAX 4u /* descriptors of one message */

/* Likelihoods are of 1024. */
struct scenario {
    const char *name;
    unsigned clients;      /* at most */
    unsigned bytes;        /* that each sends, at most */
    bool messages;         /* the server consumes whole messages only */
    bool slow;             /* clients read little, and caps are low */
    bool proxy;            /* connections are forwarded to each other, two and two */
    unsigned options;      /* of forwarding; and some connections are served by the server itself */
    unsigned swap;         /* callbacks are swapped for others */
    unsigned close, pause, timers, posts, idle, churn, hoard, lease, drain,
        release; /* what the server's callbacks do */
    unsigned local; /* clients come over a Unix socket, for which there is a listener more */
    /* clients send descriptors, where all come over Unix sockets; the server sends them back */
    unsigned fds;
    unsigned urgent;       /* clients send urgent bytes */
    unsigned half;         /* the server ends its side alone, and closes later */
    unsigned files;        /* what it sends is in a file */
    unsigned rude, lazy;   /* clients that go early; clients that rest */
    unsigned no_memory;    /* the allocator refuses */
    unsigned free_early;   /* the reactor is freed in the middle */
};

extern const struct scenario scenarios[];
extern const unsigned scenario_count;

/* Which one, when none is asked for. */
const struct scenario *scenario_of(uint64_t seed);
const struct scenario *scenario_named(const char *name);

/* Rare paths that a batch of seeds must have come by. */
#define MARKS(X)                                                                                   \
    X(sq_full)                                                                                     \
    X(cq_overflow)                                                                                 \
    X(starved)                                                                                     \
    X(accept_paused)                                                                               \
    X(accept_failed)                                                                               \
    X(accept_in_worker)                                                                            \
    X(accept_many)                                                                                 \
    X(accept_with_address)                                                                         \
    X(overtaken_close)                                                                             \
    X(send_refused)                                                                                \
    X(shown_after_failed_send)                                                                     \
    X(send_several)                                                                                \
    X(send_held)                                                                                   \
    X(lent)                                                                                        \
    X(file_sent)                                                                                   \
    X(file_cancelled)                                                                              \
    X(file_broken)                                                                                 \
    X(reserved)                                                                                    \
    X(drained)                                                                                     \
    X(kept)                                                                                        \
    X(too_much_kept)                                                                               \
    X(idle_timeout)                                                                                \
    X(read_timeout)                                                                                \
    X(life_timeout)                                                                                \
    X(flush_timeout)                                                                               \
    X(close_linger)                                                                                \
    X(close_flush)                                                                                 \
    X(close_now)                                                                                   \
    X(close_reset)                                                                                 \
    X(close_other)                                                                                 \
    X(close_twice)                                                                                 \
    X(close_in_open)                                                                               \
    X(close_in_data)                                                                               \
    X(close_in_eof)                                                                                \
    X(close_in_drain)                                                                              \
    X(close_in_close)                                                                              \
    X(close_in_timer)                                                                              \
    X(close_between)                                                                               \
    X(close_in_shutdown)                                                                           \
    X(drain_begun)                                                                                 \
    X(drain_over)                                                                                  \
    X(half_at_end)                                                                                 \
    X(half_early)                                                                                  \
    X(paused)                                                                                      \
    X(stale_handle)                                                                                \
    X(peer_reset)                                                                                  \
    X(listener_closed)                                                                             \
    X(listener_paused)                                                                             \
    X(backlog_served)                                                                              \
    X(backlog_left)                                                                                \
    X(no_memory)                                                                                   \
    X(post_refused)                                                                                \
    X(post_ran)                                                                                    \
    X(timer_fired)                                                                                 \
    X(timer_restarted)                                                                             \
    X(timer_stopped)                                                                               \
    X(freed_early)                                                                                 \
    X(forwarded)                                                                                   \
    X(forward_cut)                                                                                 \
    X(forward_stopped)                                                                             \
    X(forward_limited)                                                                             \
    X(forward_one_way)                                                                             \
    X(forward_kept_open)                                                                           \
    X(forward_again)                                                                               \
    X(swapped)                                                                                     \
    X(swapped_forwarding)                                                                          \
    X(swapped_after_the_end)                                                                       \
    X(fds_came)                                                                                    \
    X(fds_truncated)                                                                               \
    X(fds_sent)                                                                                    \
    X(fds_back)                                                                                    \
    X(close_in_fds)                                                                                \
    X(leased)                                                                                      \
    X(leased_a_copy)                                                                               \
    X(released)                                                                                    \
    X(released_with_unread)                                                                        \
    X(released_with_unsent)                                                                        \
    X(detach_refused)                                                                              \
    X(detach_cancelled)                                                                            \
    X(adopted_again)                                                                               \
    X(urged)                                                                                       \
    X(nonblock)                                                                                    \
    X(tuned)                                                                                       \
    X(lost_completions)                                                                            \
    X(refused_at_start)

enum mark {
#define X(name) MARK_##name,
    MARKS(X)
#undef X
    MARK_COUNT
};

extern const char *const mark_names[MARK_COUNT];

/* One life of a connection at the server. */
struct session {
    struct storm *storm;
    kr_conn conn;
    bool open, closing, paused, eof, cut;
    struct session *twin; /* the other end, while it is forwarded */
    bool feeds;           /* what it receives is forwarded to the twin */
    bool keeps_open;      /* the pair's ends are not closed when it is over */
    bool alone;           /* in a scenario with a proxy: it is served by the server */
    bool half; /* it sends no more */
    bool broken; /* nor can it: a send has failed */
    bool told; /* of the drain */
    bool releasing;
    unsigned tunings; /* options that were not told of */
    bool hoards; /* consumes nothing, until it is ended for that */
    int closed_with; /* on_close's error */
    int64_t not_before[KR_DEADLINE_FLUSH + 1]; /* by deadline: is not told earlier */
    uint32_t id;     /* of the client, from its first four bytes */
    uint64_t consumed;
    size_t shown;    /* and not consumed */
    unsigned loans;  /* that have not come back */
    int fds[GIFT_MAX]; /* that came with the bytes that are shown next */
    unsigned fd_count;
};

/* A file that the server sends. */
struct shipment {
    struct session *session;
    size_t size;
    int fd;
};

/* Bytes that the server has lent. */
struct loan {
    struct session *session;
    size_t size;
    unsigned char bytes[];
};

struct client {
    struct storm *storm;
    kr_sim_peer peer;
    uint32_t id;
    uint32_t from; /* whose stream it gets: its own, or through a proxy another's */
    bool connected, shut, failed, over, rude;
    bool local;
    bool heard; /* the end of what it gets, while it still sends */
    uint64_t total, sent, got;
    unsigned idle_acts; /* since any client has moved on: it rests longer */
    uint64_t seen_moves;
    unsigned vain_acts; /* since any client has moved on, or the server received bytes */
    uint64_t seen_progress;
    uint64_t quits_at;  /* a rude one: bytes sent */
    int file;           /* what it sends descriptors of; -1: none */
};

struct beat {
    struct storm *storm;
    kr_timer timer;
    bool live;
    int64_t not_before, due_by;
    uint64_t started_in_turn;
};

/* Received bytes kept, and what they must be. */
struct keepsake {
    kr_lease lease;
    bool live;
    uint32_t id;
    uint64_t at;
    size_t size;
};

/* For a buffer, while bytes are there. */
struct wait {
    uint64_t since; /* storm.feeds at the time */
    uint64_t taken; /* bytes that it had got */
    uint32_t life;  /* of the slot */
};

struct storm {
    uint64_t seed;
    const struct scenario *scenario;
    struct kr_sim *sim;
    struct kr_reactor *r;
    unsigned caps; /* of its ring */
    struct kr_config config;
    struct kr_listen_opts opts;
    struct kr_alloc alloc;
    uint64_t held; /* bytes of the allocator */
    unsigned refuse; /* of 1024 allocations */
    kr_listener listeners[LISTENERS_MAX];
    bool listening[LISTENERS_MAX];
    struct session *sessions;
    unsigned session_count, session_room, open;
    struct session *single; /* waits for another to be forwarded to */
    bool closed_any;        /* by itself, or one that is alone for an error */
    struct client clients[CLIENTS_MAX];
    unsigned client_count, over;
    struct beat beats[TIMERS_MAX];
    struct keepsake keepsakes[LEASES_MAX];
    uintptr_t posts_made, posts_ran;
    uint64_t turn, moves, callbacks;
    bool ending, in_callback, draining;
    bool between; /* turns */
    uint64_t marks[MARK_COUNT];
    uint64_t progress;   /* as it was, */
    unsigned vain_turns; /* turns ago */
    struct kr_stats before;
    uint64_t feeds;               /* turns that brought bytes */
    struct wait waits[CONNS_MAX];  /* by slot */
};

struct storm_result {
    uint64_t hash, turns;
    uint64_t faults[KR_SIM_FAULT_COUNT];
    uint64_t marks[MARK_COUNT];
};

/* Runs one seed. `steps` 0: to its end; else at most so many turns, and then the reactor is
 * freed. */
void storm_run(struct storm_result *ret, uint64_t seed, const struct scenario *scenario,
               uint64_t steps, void (*trace)(void *arg, const char *line));

__attribute__((noreturn, format(printf, 3, 4))) void storm_fail(const char *file, int line,
                                                               const char *format, ...);
#define MUST(cond_) ((cond_) ? (void)0 : storm_fail(__FILE__, __LINE__, "not true: %s", #cond_))
#define MUST_NOT_FAIL(rc_) storm_ok(__FILE__, __LINE__, #rc_, (rc_))
void storm_ok(const char *file, int line, const char *what, int64_t rc);

static inline void mark(struct storm *s, enum mark which) {
    s->marks[which]++;
}

/* True in so many of 1024 cases. */
static inline bool likely(struct storm *s, unsigned of_1024) {
    return of_1024 && kr_sim_random(s->sim, 1024) < of_1024;
}

static inline uint64_t below(struct storm *s, uint64_t bound) {
    return kr_sim_random(s->sim, bound);
}

/* 1 to `max`, small numbers as likely as large ones. */
uint64_t some(struct storm *s, uint64_t max);

/* Where the server listens. */
struct kr_addr storm_address(bool local);

/* Whether all come over Unix sockets, or some. */
#define ALWAYS 1024u
static inline bool all_local(const struct storm *s) {
    return s->scenario->local >= ALWAYS;
}
static inline bool some_local(const struct storm *s) {
    return s->scenario->local > 0;
}

/* Byte `at` of what client `id` sends: first its id, then what follows from both. */
unsigned char stream_byte(uint32_t id, uint64_t at);

/* server.c */
void server_listen(struct storm *s, unsigned i);
void server_act(struct storm *s, struct session *self, enum mark closing);
void server_act_between(struct storm *s);
void server_return_leases(struct storm *s);
void server_check_beats(struct storm *s, int64_t since);
void server_post(struct kr_sim *sim, void *arg);

/* storm.c: on_close looks whether the slot's next connection has been told of already. */
void storm_saw_close(struct storm *s, kr_conn conn);

/* client.c */
void clients_start(struct storm *s);
void clients_end(struct storm *s); /* their files */
void clients_check(const struct storm *s); /* when all are over, and the server has noticed */

#endif
