/* A TCP echo daemon: `echo PORT`. Port 0 lets the kernel choose. */
#include <kreactor.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static struct kr_reactor *reactor;

static void on_signal(int signal) {
    (void)signal;
    kr_stop(reactor);
}

/* What cannot be sent now is not consumed, and is shown again when the peer has read. */
static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)user;
    return kr_conn_send(r, conn, data, size) == 0 ? size : 0;
}

static const struct kr_conn_ops echo = {.on_data = on_data};

static int fail(const char *what, int error) {
    fprintf(stderr, "echo: %s: %s\n", what, kr_errname(error));
    return EXIT_FAILURE;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s PORT\n", argv[0]);
        return EXIT_FAILURE;
    }
    struct kr_failure why;
    if (kr_reactor_new(&reactor, NULL, &why) < 0) {
        fprintf(stderr, "echo: %s: %s; %s\n", why.tried, why.cause, why.remedy);
        return EXIT_FAILURE;
    }
    struct kr_addr addr;
    kr_listener listener;
    int rc = kr_addr_ip(&addr, "127.0.0.1", (uint16_t)atoi(argv[1]));
    if (rc == 0)
        rc = kr_listen(reactor, &listener, &addr, NULL, &echo, NULL);
    if (rc < 0)
        return fail("listen", rc);
    kr_listener_addr(reactor, listener, &addr);
    printf("listening on port %u\n", kr_addr_port(&addr));
    fflush(stdout);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    rc = kr_run(reactor);
    kr_reactor_free(reactor);
    return rc < 0 ? fail("run", rc) : EXIT_SUCCESS;
}
