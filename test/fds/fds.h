/* What the parts of the suite fds share: descriptors, a plain peer, and this end. See
 * test/fds.c. */
#pragma once

#include "harness/server.h"

#include "kernel/probe.h"
#include "roof/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define GIFTS 1024u
#define FDS_MOST 4096u

/* ---- descriptors ---- */

/* A new file with one descriptor. */
int file_new(void);

ino_t file_of(int fd);

void files_new(int *fds, unsigned count);
void close_all(const int *fds, unsigned count);

/* What goes of `size` bytes without waiting, with the descriptors; 0: nothing; -EPERM: they are
 * refused. */
long peer_give(int fd, const void *data, size_t size, const int *fds, unsigned count);

void peer_send(int fd, const char *text, const int *fds, unsigned count);

/* What is there; -EAGAIN: nothing. */
long peer_take(int fd, void *data, size_t size, int *fds, unsigned *count);

/* ---- this end ---- */

struct gift {
    size_t at, to;  /* bytes shown before, and with what was shown next */
    unsigned first; /* of `fds` */
    unsigned count;
    bool truncated;
};

struct end {
    kr_conn conn;
    unsigned opens, eofs, closes;
    int error;
    enum kr_why why;
    struct gift gifts[GIFTS];
    unsigned gift_count;
    int fds[FDS_MOST];
    unsigned fd_count;
    bool told; /* and not yet shown the bytes */
    size_t got;
    uint64_t seed;                     /* of the bytes that are to come; 0: any */
    const struct kr_conn_ops *swap_to; /* in on_fds */
    bool close_in_fds, pause_in_fds;
    unsigned at_close; /* descriptors of this process in on_close */
};

extern const struct kr_conn_ops ops;
extern const struct kr_conn_ops deaf_ops;
void adopt(struct kr_reactor *r, struct end *e, int fd, unsigned recv_fds,
           const struct kr_conn_ops *how);

/* A connection, and its peer. */
int begin(struct kr_reactor *r, struct end *e, unsigned recv_fds);

/* What came last is these files; they are closed. */
void check_came(struct end *e, const int *fds, unsigned count);

void end_of(struct kr_reactor *r, struct end *e, int peer);
extern struct end one;
extern struct end two;

/* The highest descriptor in use, and room for `more` beyond it. */
struct rlimit leave_room_for(unsigned more);

/* Received in one turn with a byte of another connection, whose callback comes first and pauses this
 * one. */
void send_then_pause(struct kr_reactor *r, int peer, int file);

/* Each of them with exactly its byte: the peer reads one at a time. */
void read_singly(int peer, size_t total, const size_t *at, const int *files, unsigned most);
