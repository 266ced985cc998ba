/* A server of the Redis protocol: `resp PORT`. Port 0 lets the kernel choose. */
#include "resp/server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/resource.h>

static struct kr_reactor *reactor;

static void on_signal(int signal) {
    (void)signal;
    kr_stop(reactor);
}

/* Connections are no descriptors, but their table must fit this limit. Without leave there are
 * fewer. */
static void raise_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int fail(const char *what, int error) {
    fprintf(stderr, "resp: %s: %s\n", what, kr_errname(error));
    return EXIT_FAILURE;
}

static int run(uint16_t port) {
    static struct server server;
    struct kr_addr addr;
    uint64_t seed;
    int rc = getrandom(&seed, sizeof seed, 0) < 0 ? -errno : 0;
    if (rc == 0)
        rc = kr_addr_ip(&addr, "127.0.0.1", port);
    if (rc == 0)
        rc = server_start(&server, reactor, &addr, &addr, seed);
    if (rc < 0)
        return fail("listen", rc);
    printf("listening on 127.0.0.1:%u\n", kr_addr_port(&addr));
    fflush(stdout);
    rc = kr_run(reactor);
    kr_reactor_free(reactor);
    server_end(&server);
    return rc < 0 ? fail("run", rc) : EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s PORT\n", argv[0]);
        return EXIT_FAILURE;
    }
    raise_limit();
    struct kr_failure why;
    if (kr_reactor_new(&reactor, NULL, &why) < 0) {
        fprintf(stderr, "resp: %s: %s; %s\n", why.tried, why.cause, why.remedy);
        return EXIT_FAILURE;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    return run((uint16_t)atoi(argv[1]));
}
