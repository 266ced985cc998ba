/* What the parts of the suite zerocopy share: a connection that lends, and a client with a
 * small window. See test/zerocopy.c. */
#pragma once

#include "harness/lender.h"

#include "conn/reactor.h"
#include "conn/zerocopy.h"
#include "kernel/kernel.h"
#include "kernel/probe.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define CONNS_MAX 8
#define LARGE 10000u

struct kr_listen_opts zero_opts(int64_t flush_ns);

struct pair {
    struct kr_reactor *r;
    int fd;
    struct lender *lender;
};

/* A client with a small window, which closes soon if it does not read. With a much smaller one the
 * kernel drops segments for want of room, and sends them again ever more slowly. */
struct pair pair_of(const struct kr__kernel *kernel, const struct kr_listen_opts *opts);

struct pair pair_on(const struct kr__kernel *kernel, int64_t flush_ns);
struct pair pair_make(int64_t flush_ns);
void check_stream(struct pair *p, uint64_t from, size_t size);
void check_over(struct pair *p, int error, enum kr_why why);
void pair_end(struct pair *p);
struct kr__conn *conn_of(const struct pair *p);

/* The kernel has taken all that is queued, and still refers to a part of it. */
void await_flight(struct pair *p);
