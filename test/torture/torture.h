/* What the parts of the suite torture share: the allocator, and a world of one run. See
 * test/torture.c. */
#pragma once

#include "harness/server.h"

#define POINTS_MAX 2000

struct torturer {
    struct kr_alloc alloc;
    int64_t calls;
    int64_t refuse_at; /* the call that is refused, counted from 0; -1: none */
    bool for_good;     /* and all after it */
    unsigned refused;  /* how many were */
    int64_t bytes;     /* held */
};

/* ---- the world of one run ---- */

#define CONNS 100

struct world {
    struct kr_reactor *r;
    struct torturer t;
    struct kr_config config;
    kr_listener listener;
    uint16_t port;
    kr_conn conn; /* the last one opened */
    unsigned opens, closes, drains, eofs, timeouts, fires, posts, loans;
    size_t seen; /* bytes consumed */
};

/* True when nothing has been refused, so that nothing may have gone wrong. */
bool whole(const struct world *w);

/* What a call may answer: good, or -ENOMEM if memory was refused. True when good. */
bool good(const struct world *w, int rc);

void world_open(struct kr_reactor *r, kr_conn conn, void *user);
void world_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why);
void world_drain(struct kr_reactor *r, kr_conn conn, void *user);
void world_fire(struct kr_reactor *r, kr_timer timer, void *user);

/* What a user does whose message cannot be sent: the connection is of no use any more. */
bool sent(struct kr_reactor *r, kr_conn conn, const struct world *w, int rc);

size_t data_echo(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size);
extern const struct kr_conn_ops echo_ops;
struct kr_listen_opts small_opts(void);

/* Listens; false when memory was refused. */
bool listens(struct world *w, const struct kr_listen_opts *opts, const struct kr_conn_ops *ops);

/* A client sends `size` bytes and waits for `want`, both of stream 1, or for an end that a refusal
 * excuses. Returns how many it got. */
size_t exchange(struct world *w, int fd, size_t size, size_t want);

/* A client that is served, and leaves. */
void serve_one(struct world *w, size_t size, size_t want);

/* ---- the torture ---- */

typedef void scenario_fn(struct world *w);

void torture(scenario_fn *scenario, const struct kr_config *config, int64_t least);
struct kr_config small_config(void);

/* SCENARIO(name, least, field = value ...) { uses w }: at least so many allocations; fields of the
 * config. */
#define SCENARIO(name_, least_, ...)                                                               \
    static void scenario_##name_(struct world *w);                                                 \
    TEST_EACH(name_, .deadline_s = 40) {                                                           \
        struct kr_config config = small_config();                                                  \
        __VA_ARGS__;                                                                               \
        torture(scenario_##name_, &config, least_);                                                \
    }                                                                                              \
    static void scenario_##name_(struct world *w)

extern const struct kr_conn_ops mixed_ops;
extern const struct kr_conn_ops eof_ops;

/* The near end of a connection to this reactor's own listener: it has said its bytes, and leaves
 * when they have come back. */
struct caller {
    struct world *w;
    size_t want, got;
    bool over;
};
