/* Connections, and the sweep.
 *
 * Happy path: on_data runs each request that is whole, in order, and queues the answers.
 * Failure modes: a request is cut (the parser keeps what it needs; the rest is shown again with
 * what follows); the peer does not read its answers (the rest of its requests wait, and so, by the
 * TCP window, does the peer); a request makes no sense (it is told so, and hung up on, as Redis
 * does); memory is refused for an answer (the connection ends: what the client would be missing it
 * could not know). */
#include "server.h"

#include "ahead.h"
#include "command.h"
#include "parse.h"
#include "reply.h"

#define SECOND INT64_C(1000000000)
#define SWEEP_NS (SECOND / 10)
#define SWEEP_SOON_NS (SECOND / 1000)
#define SWEEP_COUNT 64u

int64_t server_now_ms(const struct server *server) {
    return kr_now(server->reactor) / 1000000;
}

/* ---- the sweep ---- */

static void sweep_in(struct server *server, int64_t in_ns);

/* Bounded, and rare as long as it finds little; while there is nothing that expires it does not
 * run. */
static void sweep(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)r;
    (void)timer;
    struct server *server = user;
    unsigned removed = store_sweep(&server->store, server_now_ms(server), SWEEP_COUNT);
    server->sweeping = false;
    if (server->store.expiring)
        sweep_in(server, removed > SWEEP_COUNT / 4 ? SWEEP_SOON_NS : SWEEP_NS);
}

/* Without memory for a timer the sweep waits for the next command that has something expire; what
 * has expired is not seen meanwhile either. */
static void sweep_in(struct server *server, int64_t in_ns) {
    server->sweeping = kr_timer_start(server->reactor, NULL, in_ns, 0, sweep, server) == 0;
}

void server_sweep_soon(struct server *server) {
    if (!server->sweeping)
        sweep_in(server, SWEEP_NS);
}

/* ---- connections ---- */

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    (void)conn;
    struct server *server = user;
    server->clients++;
    server->connections++;
}

/* Runs the request at the front of the bytes; false when there is none, or shall be no more. */
static bool serve(struct call *call, struct resp_parser *parser, const char *data, size_t size,
                  size_t *used) {
    switch (resp_parse(parser, data + *used, size - *used, used)) {
    case RESP_MORE:
        return false;
    case RESP_ERROR:
        reply_error(call->reply, "ERR Protocol error: %s", parser->error);
        call->quit = true;
        return false;
    case RESP_COMMAND:
        call->argv = parser->argv;
        call->argc = parser->argc;
        if (call->argc)
            command_run(call);
        resp_forget(parser);
        return !call->quit;
    }
    return false;
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct server *server = user;
    struct resp_parser *parser = kr_conn_inline(r, conn);
    struct reply reply;
    reply_open(&reply, r, conn, size);
    struct call call = {.server = server, .reply = &reply, .now_ms = server_now_ms(server)};
    size_t used = 0;
    unsigned seen = 0; /* of the requests to come, by look_ahead */
    while (used < size && reply_ready(&reply)) {
        if (!seen)
            seen = look_ahead(&server->store, (const char *)data + used, size - used);
        if (!serve(&call, parser, data, size, &used))
            break;
        seen -= seen > 0;
    }
    reply_close(&reply);
    if (!reply.error && !call.quit)
        return used;
    kr_conn_close(r, conn, reply.error ? KR_CLOSE_NOW : KR_CLOSE_FLUSH);
    return size;
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    (void)error;
    (void)why;
    struct server *server = user;
    server->clients--;
    resp_parser_end(kr_conn_inline(r, conn));
}

static const struct kr_conn_ops ops = {
    .on_open = on_open, .on_data = on_data, .on_close = on_close};

/* ---- start and end ---- */

int server_start(struct server *server, struct kr_reactor *r, const struct kr_addr *addr,
                 struct kr_addr *bound, uint64_t seed) {
    *server = (struct server){.reactor = r};
    store_init(&server->store, seed);
    server->started_ms = server_now_ms(server);
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.backlog = 4096;
    opts.conn.inline_size = sizeof(struct resp_parser);
    opts.conn.send_high = REPLY_HIGH;
    opts.conn.send_cap = REPLY_CAP;
    kr_listener listener;
    int rc = kr_listen(r, &listener, addr, &opts, &ops, server);
    return rc < 0 ? rc : kr_listener_addr(r, listener, bound);
}

void server_end(struct server *server) {
    store_clear(&server->store);
}
