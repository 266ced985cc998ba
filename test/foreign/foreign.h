/* What the parts of the suite foreign share: this side of a connection, and the sockets of
 * others. See test/foreign.c. */
#pragma once

#include "harness/net.h"

#include "kernel/probe.h"
#include "roof/reactor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOURS 10 * 3600
#define BULK ((size_t)1 << 20)

struct seen {
    kr_conn conn; /* the last one */
    kr_conn all[4];
    unsigned opens, eofs, closes, released;
    size_t got;
    int error, fd;
    bool mute; /* answers nothing */
    char bytes[1024];
};

void on_open(struct kr_reactor *r, kr_conn conn, void *user);
size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size);
void on_eof(struct kr_reactor *r, kr_conn conn, void *user);
void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why);
extern const struct kr_conn_ops ops;
struct kr_conn_opts conn_opts(void);
void adopt(struct kr_reactor *r, struct seen *s, int fd, const struct kr_conn_opts *opts);

/* ---- the others ---- */

int set(int fd, int level, int name, int value);
int get(int fd, int level, int name);
void set_linger(int fd, int on, int seconds);

/* A socket of the others that listens, of a name of the kernel's choice. */
int listener_new(bool tcp, struct kr_addr *addr);

/* Two ends of a connection: ends[0] is to be adopted. */
void ends_make(int ends[2], bool tcp);

void nonblocking(int fd);
void check_echo(struct kr_reactor *r, int peer, size_t size, uint64_t seed);
void check_serves(struct kr_reactor *r, struct seen *s, int peer);
extern const enum kr_close hows[4];
