/* What the parts of the suite forward share: a pair of connections, and what passes it. See
 * test/forward.c. */
#pragma once

#include "harness/net.h"

#include "conn/reactor.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct pair {
    struct kr_reactor *r;
    struct kr_forward_opts opts;
    bool by_hand; /* the case calls kr_conn_forward */
    kr_conn ends[2];
    unsigned opened, closed, overs;
    int errors[2]; /* of on_close */
    enum kr_why whys[2];
    struct kr_forwarded what;
    unsigned closed_when_over;
    uint64_t closed_in_turn; /* the last of them */
    char seen[2][4096];      /* by on_data */
    size_t seen_size[2];
    unsigned eofs[2];
    size_t header; /* bytes of ends[0] that on_data takes before it forwards */
    bool again;    /* when over, forward once more */
    bool stays;    /* open at the end of the peer */
    int fds[2];
};

void over(struct kr_reactor *r, kr_conn a, kr_conn b, void *user, const struct kr_forwarded *what);
void pair_up(struct pair *p);
size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data, size_t size);
void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why);
extern const struct kr_conn_ops ops;
void begin_with(struct pair *p, const struct kr_config *config, const struct kr_listen_opts *opts,
                int recv_size);
void begin(struct pair *p);
void finish(struct pair *p);
void shut(int fd);

/* One direction of a pair as its two clients see it. */
struct flow {
    int from, to;
    uint64_t seed, total, sent, got;
    size_t piece;
};

/* Both, whatever has become of the first. */
bool flows_move(struct flow *a, struct flow *b);

void flow_run(struct kr_reactor *r, struct flow *f);

/* Sends to a peer that does not read until nothing moves any more, and the proxy's queue is not
 * empty. */
void fill(struct pair *p, struct flow *f);
