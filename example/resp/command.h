/* Commands: a request in, its answer out. */
#ifndef RESP_COMMAND_H
#define RESP_COMMAND_H

#include "parse.h"
#include "reply.h"
#include "server.h"

struct call {
    struct server *server;
    struct reply *reply;
    const struct resp_arg *argv; /* argc of them, at least 1 */
    uint32_t argc;
    int64_t now_ms;
    bool quit; /* set by a command that ends the connection */
};

/* Runs one, and replies once. */
void command_run(struct call *call);

#endif
