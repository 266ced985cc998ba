/* What the parts of the suite api share: one connection, and what was seen of it. See test/api.c. */
#pragma once

#include "harness/server.h"

/* The user pointer is itself under test: that of the callbacks is not the server. */
extern struct test_server *the_server;

extern const struct kr_conn_ops seen_ops;
void begin(struct test_server *s, const struct kr_listen_opts *opts);

/* Nothing has been queued or sent, and the client has heard nothing. */
void check_silent(struct test_server *p);
