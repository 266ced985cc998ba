/* The server: a store, and the connections that ask for it. */
#ifndef RESP_SERVER_H
#define RESP_SERVER_H

#include "store.h"

#include <kreactor.h>

struct server {
    struct kr_reactor *reactor;
    struct store store;
    bool sweeping; /* a timer is set that will look for what has expired */
    int64_t started_ms;
    uint64_t clients; /* now */
    uint64_t connections;
    uint64_t commands;
    uint64_t hits;
    uint64_t misses;
};

/* Listens on `addr`, where *bound says (both may be the same). `seed` is a number that clients
 * cannot know. `server` is the reactor's until that is freed. Errors are those of kr_listen;
 * nothing is left behind. */
int server_start(struct server *server, struct kr_reactor *r, const struct kr_addr *addr,
                 struct kr_addr *bound, uint64_t seed);

/* Gives the store back, after kr_reactor_free. */
void server_end(struct server *server);

/* The server's clock. */
int64_t server_now_ms(const struct server *server);

/* Something in the store expires now that did not before. */
void server_sweep_soon(struct server *server);

#endif
