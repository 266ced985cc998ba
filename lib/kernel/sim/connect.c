/* CONNECT, so far only the one that disconnects. */
#include "kernel/sim/request.h"
#include "kernel/sim/stream.h"

/* To AF_UNSPEC: disconnects, and TCP sends RST (net/ipv4/af_inet.c, tcp_disconnect in net/ipv4/tcp.c). */
static void connect_run(struct kr__sim_request *req) {
    const struct sockaddr *to = (const struct sockaddr *)(uintptr_t)req->sqe.addr;
    if (to->sa_family != AF_UNSPEC) {
        kr__sim_end(req, -EAFNOSUPPORT, 0);
        return;
    }
    kr__sim_stream_reset(req->file);
    kr__sim_end(req, 0, 0);
}

static int connect_check(struct kr__sim_request *req) {
    return req->file->kind == KR__SIM_STREAM ? 0 : -ENOTSOCK;
}

const struct kr__sim_verb kr__sim_connect = {
    .needs_file = true,
    .check = connect_check,
    .run = connect_run,
};
