/* What the parts of the suite unix share: places, that is paths in a directory of a case's own.
 * See test/unix.c. */
#pragma once

#include "harness/server.h"

#include "kernel/path.h"
#include "kernel/probe.h"
#include "roof/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- places ---- */

struct place {
    char dir[32];
    char path[64];
    struct kr_addr addr;
};

struct place place_begin(void);
bool is_there(const struct place *p);
void place_end(const struct place *p);
struct kr_listen_opts default_opts(void);
kr_listener listen_at(struct kr_reactor *r, const struct kr_addr *addr,
                      const struct kr_listen_opts *opts, struct test_server *s);

/* Served from its first byte to its end. */
void check_serves(struct kr_reactor *r, const struct kr_addr *addr, struct test_server *s);

int socket_at(const struct kr_addr *addr, int type, int backlog);

mode_t mode_of(const char *path);
