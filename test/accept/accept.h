/* What the parts of the suite accept share: clients, many at a time. See test/accept.c. */
#pragma once

#include "harness/server.h"

#include "conn/reactor.h"
#include "kernel/probe.h"
#include "roof/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* One request and its echo: a client connects, says its byte, hears it, and goes. */
struct client {
    int fd; /* -1: has gone */
    bool heard;
};

void serve_all(struct kr_reactor *r, struct client *clients, unsigned count, bool leave);
void connect_all(struct client *clients, unsigned count, uint16_t port);
void leave_all(struct client *clients, unsigned count);
void one_is_served(struct kr_reactor *r, uint16_t port);
void rest_without_conns(struct kr_reactor *r, unsigned listeners);

int listen_on(struct kr_reactor *r, kr_listener *ret, const char *ip, uint16_t port,
              const struct kr_listen_opts *opts, struct test_server *s);
