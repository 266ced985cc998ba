/* What the parts of the suite detach share: a connection that is released, and what was told
 * of it. See test/detach.c. */
#pragma once

#include "harness/server.h"

#include "conn/reactor.h"
#include "kernel/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define IN 7  /* the stream of the client */
#define OUT 8 /* and ours */
#define BIG ((size_t)4 << 20)

struct seen {
    struct kr_reactor *r;
    kr_listener listener;
    uint16_t port;
    int fd; /* of the client */
    kr_conn conn;
    unsigned opens, drains, eofs, shutdowns, tells, closes, releases;
    size_t shown, got, most; /* of the stream; most: consume no more than that */
    size_t sent;
    bool leave_in_data; /* release from within on_data */
    bool kept;          /* with keep_fd */
    bool looks;         /* what the client reads when on_close runs is noted */
    long read_at_close;
    int error;
    enum kr_why why;
    struct kr_detached what;
    char *unread, *unsent; /* copies */
};

void released(struct kr_reactor *r, kr_conn conn, void *user, const struct kr_detached *what);
extern const struct kr_conn_ops ops;

/* A connection of a client who takes 4 KiB at a time. */
void begin_with(struct seen *s, bool kept, struct kr_listen_opts *opts);

void begin(struct seen *s, bool kept);
void end(struct seen *s);

/* Runs it with a descriptor that was kept, and with one that is made. */
void each_way(void (*run)(bool kept));

void leave(struct seen *s);
void check_released(struct seen *s);
void client_sends(struct seen *s, size_t size, uint64_t offset);
void we_send(struct seen *s, size_t size);

/* The client is sent the rest by the descriptor, and has got the whole stream of `size` then. */
void finish_by_fd(struct seen *s, size_t size);

/* What is unread, and then what the descriptor reads, goes on from what was consumed to `size`. */
void read_by_fd(struct seen *s, size_t size);
