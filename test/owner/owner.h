/* What the parts of the suite owner share: a reactor with one of each thing, and threads. See
 * test/owner.c. */
#pragma once

#include "harness/server.h"

#include "conn/reactor.h"
#include "roof/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* Waits for a forked child and checks that it ended well. */
void child_join(pid_t child);

struct things {
    struct kr_reactor *r;
    kr_conn conn;
    kr_listener listener;
    kr_timer timer;
    uint16_t port;
    int fd;
    unsigned opens, closes;
    int error; /* of the last close */
    enum kr_why why;
};

extern const struct kr_conn_ops things_ops;
void never(struct kr_reactor *r, kr_timer timer, void *user);
void nothing(struct kr_reactor *r, void *arg);
void echo_once(struct things *t, const char *text);
void things_make(struct things *t);
void things_check_unharmed(struct things *t);
void things_end(struct things *t);
void check_refused(const struct things *t, int error);
void small_config(struct kr_config *config);

/* A reactor of the running variant, over a kernel of the case's own, with malloc for its
 * allocator. */
struct kr_reactor *variant_reactor(const struct kr_config *config, const struct kr__kernel *kernel);

/* Whether nobody listens there. A listener that goes just then resets whom it has in its backlog, maybe
 * before connect(2) has returned. */
bool port_refuses(uint16_t port);
