/* What the parts of the suite matrix share: the kernel of a cell, its one reactor, and what a cell
 * begins and ends with. See test/matrix.c. */
#pragma once

#include "harness/net.h"

#include "base/poison.h"
#include "conn/op.h"
#include "kernel/probe.h"
#include "pool/files.h"
#include "ring/tag.h"
#include "roof/nop.h"
#include "roof/turn.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MORE IORING_CQE_F_MORE
#define NONEMPTY IORING_CQE_F_SOCK_NONEMPTY
#define BUFFER IORING_CQE_F_BUFFER
#define NOTIF IORING_CQE_F_NOTIF
#define THEFTS 64
#define HELLO "hello"
#define HELLO_SIZE 5

/* ---- the thief ---- */

/* What a case of this suite has: a reactor, the requests stolen from it, and what its user has
 * seen. */
struct world {
    struct kr__kernel kernel; /* first: the functions are given a pointer to it */
    struct kr_reactor *r;
    uint32_t steal;  /* the verbs whose requests are stolen */
    uint32_t inject; /* those whose next request completes with `injected` */
    int32_t injected;
    unsigned injections;
    uint64_t thefts[THEFTS];
    unsigned theft_count;
    unsigned one_shots; /* stolen receives that are no multishot */
    bool deaf;          /* cancels are swallowed: the kernel is just running the request */
    unsigned cancels;   /* that were made */
    uint16_t buf_head;

    kr_listener listener;
    uint16_t port;
    kr_conn conn; /* the last opened */
    int fd;       /* its client */
    unsigned opens, closes, eofs, datas, posts;
    uint64_t flight;   /* the tag of a send by zero-copy */
    unsigned returned; /* loans */
    int error;
    enum kr_why why;
    size_t got;
};

/* Which of the stolen requests has that tag; -1: none. */
int theft_of(const struct world *w, uint64_t user_data);

void drop_theft(struct world *w, int i);

/* The next request of these verbs completes with `result`, by a NOP in its place. */
void inject_next(struct world *w, uint32_t verbs, int32_t result);

/* The tag of a stolen request of that verb and slot; 0: there is none. */
uint64_t stolen(const struct world *w, enum kr__verb verb, uint32_t slot);

/* Completes it. It stays in flight if the flags say so. */
void complete(struct world *w, enum kr__verb verb, uint32_t slot, int32_t res, uint32_t flags);

/* Fills the next buffer, as the kernel does, and returns the flags that say so. */
uint32_t fill(struct world *w, const void *data, size_t size);

void world_open(struct kr_reactor *r, kr_conn conn, void *user);
void world_eof(struct kr_reactor *r, kr_conn conn, void *user);
void world_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why);
extern const struct kr_conn_ops world_ops;

/* ---- a cell ---- */

/* What a cell is about, for the line that tells of its failure. */
void cell_begin(const char *verb, const char *state, int32_t res, uint32_t flags);

/* How a listener of a cell accepts: multishot while the table is large; else it polls, then one by
 * one. */
enum accepting { BY_MULTISHOT, BY_ONES, BY_FD };

struct kr_listen_opts opts_of(enum accepting accepting);

/* A listener, no client yet. Of one world at a time. */
struct world *world_begin_with(enum accepting accepting, uint32_t steal, unsigned bufs);

struct world *world_begin(enum accepting accepting, uint32_t steal);
uint32_t slot_of(kr_conn conn);
uint32_t listener_slot(const struct world *w);
struct kr__conn *conn_of(const struct world *w);
struct kr__listener *listener_of(const struct world *w);

/* The listener's request is there to be completed. */
void await_stolen(struct world *w, enum kr__verb verb, uint32_t slot);

/* A client whose connection is open, with its receive in flight. */
void connect_client(struct world *w);

/* The open connection is served: bytes in, the same bytes out. */
void check_echoes(struct world *w);

void world_end(struct world *w);

/* The connection ends with that error and cause, and its slot is free. */
void check_ended(struct world *w, int error, enum kr_why why);

void end_conn(struct world *w);

/* ---- recv ---- */

/* The states in which a receive can complete. */
enum conn_state { OPEN, PAUSED, LINGERING, JOINING, CONN_STATES };

extern const char *const conn_states[];

/* Brings an open one there. */
void conn_enter(struct world *w, enum conn_state state);

/* Sends what came back to the client, and checks it. */
void check_came(struct world *w, const char *data, int size);

/* How many cells there are of each part. */
extern const unsigned recv_cell_count;

/* ---- send ---- */

enum send_state { SENDING, LINGER_FLUSHING, FLUSHING, ENDING, SEND_STATES };

extern const char *const send_states[];
extern const char digits[];

#define DIGITS 10

/* A connection in that state, whose send of ten digits is in flight: in one piece, or in the pieces
 * of two records. */
struct world *send_begin(enum send_state state, int32_t res, bool pieces);

/* Where the error says that the peer takes nothing more, it is heard to its end first. */
void check_send_failed(struct world *w, enum send_state state, int error);

extern const unsigned send_cell_count;
extern const unsigned read_cell_count;

enum connect_state {
    CALLING,
    CALLING_AND_LINGERING,
    CALLING_AND_DRAINING,
    GIVEN_UP,
    CONNECT_STATES
};

struct leaving {
    unsigned tells;
    struct kr_detached what;
    char unread[HELLO_SIZE];
};

/* A paused connection that is to be released, or one with its receive in flight. */
struct world *leaving_begin(const char *verb, uint32_t steal, int32_t res, struct leaving *l);

extern const unsigned ends_cell_count;

enum listener_state { ACCEPTING, STOPPED, CLOSED, LISTENER_STATES };

extern const unsigned accept_cell_count;
