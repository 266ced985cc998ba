/* What the parts of the suite pipe share: pipes with one end adopted. See test/pipe.c. */
#pragma once

#include "harness/server.h"

#include "conn/op.h"
#include "kernel/probe.h"
#include "ring/tag.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LARGE ((size_t)4 << 20)

struct seen {
    kr_conn conn;
    unsigned opens, eofs, closes, drains;
    int error;
    enum kr_why why;
    size_t got;
    uint64_t seed;  /* of the bytes that come; 0: any */
    bool hesitates; /* consumes only whole 1000s, and the rest at the end */
    size_t shown;
};

size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size);
void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why);
extern const struct kr_conn_ops ops;

/* On a kernel, or a variant, that cannot write without it. */
void hush(void);

enum { IN, OUT }; /* which end is adopted */

void adopt_fd(struct kr_reactor *r, struct seen *s, int fd, const struct kr_conn_opts *opts);

/* Adopts one end of a new pipe; returns the other, which never blocks. */
int begin(struct kr_reactor *r, struct seen *s, int end, int flags,
          const struct kr_conn_opts *opts);

void finish(struct kr_reactor *r);
void write_all(struct kr_reactor *r, int fd, const char *data, size_t size);
