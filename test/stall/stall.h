/* What the parts of the suite stall share: a clock that stands still, and a crowd of
 * connections. See test/stall.c. */
#pragma once

#include "harness/server.h"

#include "conn/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CROWD 400u

extern unsigned crowd_size;

#define LIMIT 100 /* of the deadline, ns */
#define LATER (100 * LIMIT)

struct still {
    struct kr__kernel kernel;
    int64_t now, wait_ns;
};

extern struct still still;
struct kr_config small_turns(void);
struct kr_reactor *still_reactor(const struct kr_config *config);

/* ---- a crowd of connections ---- */

struct crowd {
    struct kr_reactor *r;
    kr_listener listener;
    uint16_t port;
    kr_conn conns[CROWD + 1];
    int fds[CROWD + 1];
    unsigned opens, closes, timeouts;
    size_t bytes;
    /* the client of a connection sends again whenever it was heard: from this one on; 0: none */
    unsigned talkers;
    bool drained;
    unsigned cut_off;
};

extern struct crowd crowd;
void on_open(struct kr_reactor *r, kr_conn conn, void *user);
size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size);
void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why);
extern const struct kr_conn_ops ops;
struct kr_conn_opts no_deadlines(void);

/* One after the other, so that connection and client of an index belong together. */
void crowd_gather_on(const struct kr_config *config, const struct kr_conn_opts *opts);

void crowd_gather(const struct kr_conn_opts *opts);
int adopt_as(const struct kr_conn_opts *opts, const struct kr_conn_ops *as);
int adopt_one(const struct kr_conn_opts *opts);

/* The same on Unix sockets. */
void crowd_adopts_on(const struct kr_config *config, const struct kr_conn_opts *opts);

void crowd_adopts(const struct kr_conn_opts *opts);
const struct kr__conn *conn_at(unsigned i);

typedef void gather_fn(const struct kr_conn_opts *opts);

void crowd_turns(void);
void crowd_speaks(void);
void crowd_hangs_up(void);
void read_all(int fd);
void crowd_end(void);

/* Nobody is timed out who has acted; and everybody who has not, afterwards. */
void check_heard_then_silent(void);

void check_read(gather_fn *gather);
