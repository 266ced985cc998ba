/* What the parts of the suite door share: the door, and a reactor behind it. See test/door.c. */
#pragma once

#include "harness/server.h"

#include "kernel/probe.h"
#include "roof/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FOR_EVER UINT32_MAX

/* ---- the door ---- */

enum call {
    CALL_NONE,
    RING_OPEN,
    RING_BIND,
    ENTER,
    ENTER_SHORT, /* takes one request of those offered, and does not wait: no error */
    REG_TABLE,
    REG_RANGE,
    REG_BUFS,
    REG_FILE,
    REG_PROBE,
    MAP,
    LISTEN,
    LISTEN_FD,
    PATH_ID,
    PATH_DIR,
    SOCKET,
    CONNECT,
    SOCK_ADDRS,
    DUP,
    FILE_SIZE,
    FILE_READ,
    SOCK_END,
    PIPE_END,
    PIPE_QUIET,
    PIPE_OWN,
    CLOSE,
    WAKE_OPEN,
    WAKE_SEND,
};

enum { OWNED_MAX = 256 };

struct door {
    struct kr__kernel kernel; /* first: the functions are given a pointer to it */
    enum call call;           /* what shall fail ... */
    int error;                /* ... with this ... */
    unsigned skip;            /* ... after so many good ones ... */
    unsigned times;           /* ... so many times */
    unsigned struck;          /* how often it did */
    int held;                 /* rings, mappings, descriptors and blocks not given back */
    bool dials;               /* the sockets whose addresses are asked are of its own making */
    bool owned[OWNED_MAX];    /* the library's descriptors, as far as the door has seen them */
    uint64_t nofile, memlock, as, data;
    bool advice; /* of mappings only those with advice fail */
    int sysctl;
    struct kr_alloc alloc;
};

/* The descriptor, if it is one, is the library's. Those that come through the ring are first seen
 * when they are asked for their addresses, or never. */
int own(struct door *d, int fd);

/* A door through which everything works. Static: rows follow one another in one process. */
struct door *door_open(void);

void door_fail(struct door *d, enum call call, int error, unsigned skip, unsigned times);
void row_begin(const char *call, int error, unsigned skip, unsigned times);

/* ---- a reactor behind it ---- */

struct kr_config small_config(struct door *d);
int make(struct door *d, struct kr_reactor **ret, struct kr_failure *why);

/* What the user of a reactor has seen. */
struct seen {
    unsigned opens, closes, posts, fires;
    kr_conn conn; /* the last */
    int error;    /* of the last close */
};

void seen_post(struct kr_reactor *r, void *arg);
void seen_fire(struct kr_reactor *r, kr_timer timer, void *user);
extern const struct kr_conn_ops seen_ops;
int listen_rc(struct kr_reactor *r, bool addresses, struct seen *seen, uint16_t *port);
void echo_once(struct kr_reactor *r, int fd);

/* A client is served from its first byte to its end. */
void check_serves(struct kr_reactor *r, uint16_t port, struct seen *seen);

void check_works(struct kr_reactor *r);
void free_all(struct door *d, struct kr_reactor *r);

/* How many rows there are of each part. */
extern const unsigned reactor_row_count;

extern const unsigned socket_row_count;

/* What strace watches: a hundred messages, one at a time, beside a timer and posts. Ends with 0 if
 * each came back. */
int straced(enum kr_taskrun taskrun);
