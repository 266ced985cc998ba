/* What the parts of the suite hostile share: an echo, and a town of good clients and others.
 * See test/hostile.c. */
#pragma once

#include "harness/server.h"

#include "conn/reactor.h"
#include "kernel/kernel.h"
#include "pool/blocks.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the echo that all use ---- */

#define SEND_LOW ((size_t)4096)
#define SEND_HIGH ((size_t)16384)
#define MESSAGE ((size_t)4096)

#define CONNS_MOST 2048
#define TABLES_MOST (64 * CONNS_MOST) /* bytes of tables that grow with the connections */

/* Those whom one listener serves. */
struct guests {
    kr_conn conns[CONNS_MOST]; /* in the order of opening, round and round */
    unsigned opens, closes;
    unsigned eofs;
    unsigned timeouts, errors, aborts; /* of the closes */
};

void guests_open(struct kr_reactor *r, kr_conn conn, void *user);
void guests_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why);

/* Takes messages while the queue may rise, so that it never holds more than one beyond send_high;
 * the cap leaves room for just that. */
size_t echo_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size);

extern const struct kr_conn_ops echo_ops;
struct kr_listen_opts echo_opts(void);

/* ---- a town: a reactor, good clients, and a port for others ---- */

#define GOOD 10u

struct good {
    struct test_echo echo;
    size_t size;    /* of its requests */
    uint64_t asked; /* the turn in which it last asked */
    unsigned crowd; /* so many others were there at a time since */
    unsigned answers;
};

struct town {
    struct kr_reactor *r;
    struct good good[GOOD];
    struct guests friends, others;
    kr_listener friends_listener, others_listener;
    uint16_t port;  /* for others */
    uint64_t worst; /* turns that a good client has waited */
    int fds;
    struct kr_stats before;
};

/* A turn, in which the good go on. */
void town_step(struct town *t, const char *for_what);

#define TOWN_UNTIL(t_, cond_)                                                                      \
    do {                                                                                           \
        while (!(cond_))                                                                           \
            town_step((t_), #cond_);                                                               \
    } while (0)

void town_recv(struct town *t, int fd, void *data, size_t size);

/* Each good client gets `count` more answers. */
void good_get(struct town *t, unsigned count);

/* Its table has room for a multishot accept on both listeners. Buffers: 0 = the defaults. */
struct kr_reactor *town_reactor(const struct kr__kernel *kernel, unsigned buf_count,
                                size_t buf_size);

void town_open(struct town *t, struct kr_reactor *r, const struct kr_listen_opts *opts,
               const struct kr_conn_ops *ops);

/* The others left nothing behind but memory for the next. */
void town_close(struct town *t);

/* A peer on a link of small segments, for which the kernel keeps small buffers (the first window is
 * of ten segments, and loopback's are 64 KiB). */
int connect_tight(uint16_t port);

#define WAVE 64u
