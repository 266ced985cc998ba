/* What the parts of the suite connect share: a connection's record, and the far end. See
 * test/connect.c. */
#pragma once

#include "harness/server.h"

/* ---- a life ---- */

struct life {
    kr_conn conn;
    bool in_call; /* of kr_connect: nothing may be called back */
    bool closing; /* by this side */
    unsigned opens, datas, eofs, drains, closes;
    size_t bytes;
    int error;
    enum kr_why why;
    int64_t opened_at, closed_at;
};

void life_open(struct kr_reactor *r, kr_conn conn, void *user);
size_t life_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size);
extern const struct kr_conn_ops life_ops;

/* Begins a life; the call must work, and call nothing. */
void dial_as(struct kr_reactor *r, struct life *life, const struct kr_addr *addr,
             const struct kr_connect_opts *opts);

void dial(struct kr_reactor *r, struct life *life, const struct kr_addr *addr);

/* It is over, for this cause. */
void check_over(struct kr_reactor *r, struct life *life, int error, enum kr_why why);

void close_now(struct kr_reactor *r, struct life *life);
void end(struct kr_reactor *r, struct life *life);

/* All have gone: nothing is left in flight, queued or held. */
void over(struct kr_reactor *r);

/* ---- far ends ---- */

struct far {
    struct kr_addr addr;
    int fd;         /* bound, and listening if it was asked to */
    int fillers[8]; /* clients that fill its backlog */
    unsigned filler_count;
    char dir[32]; /* of a path */
};

/* The families of a case that is about all of them. */
enum family { IPV4, IPV6, PATH, ABSTRACT, FAMILIES };

void far_addr(struct far *f, enum family family);

/* A far end; backlog -1: it is bound only. Skips the case where there is no IPv6. */
struct far far_begin(enum family family, int backlog);

void far_end(struct far *f);

/* One that answers nobody until far_accept has made room. */
struct far far_silent(enum family family);

/* The next one who connected to it; the reactor turns meanwhile. */
int far_accept(struct kr_reactor *r, struct far *f);

void send_pattern(struct kr_reactor *r, int fd, size_t size);
void recv_pattern(struct kr_reactor *r, int fd, size_t size);
void queue_pattern(struct kr_reactor *r, kr_conn conn, size_t size);
struct kr_addr loopback(uint16_t port);
extern const enum kr_close manners[];

#define MANNERS 4u
