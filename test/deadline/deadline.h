/* What the parts of the suite deadline share: a clock that stands still, and a connection on
 * it. See test/deadline.c. */
#pragma once

#include "harness/server.h"

#include "conn/reactor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BIG ((size_t)8 << 20)
#define KINDS (KR_DEADLINE_FLUSH + 1)

struct still {
    struct kr__kernel kernel;
    int64_t now;
};

extern struct still still;
extern const struct kr_conn_ops ops;
extern const struct kr_conn_ops ops_without_timeout;
struct kr_listen_opts no_deadlines(void);
void begin_on(struct test_server *s, const struct kr__kernel *kernel, const struct kr_conn_ops *of,
              const struct kr_listen_opts *opts);
void begin(struct test_server *s, const struct kr_conn_ops *of, const struct kr_listen_opts *opts);
void end(struct test_server *s);

/* ---- moving the clock ---- */

unsigned told_all(const struct test_server *s);

/* Nothing is told and nothing ends up to `at`. */
void quiet_until(struct test_server *s, int64_t at);

/* Told at `at`, and not before. */
void told_at(struct test_server *s, enum kr_deadline which, int64_t at);

void client_sends(struct test_server *s, size_t size);
void client_gets(struct test_server *s, size_t size);

/* With the turn in which it reads again. */
void resume(struct test_server *s);

void we_send(struct test_server *s, size_t size);

/* More than the client and both kernels take: the rest stays. */
void stall(struct test_server *s);
