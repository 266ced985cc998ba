/* The echo server of the bench on kreactor: the example's, with the knobs that a cell needs.
 *
 *     server [--mode coop|defer] [--table plain] [--bufs N] [--bufsize BYTES]
 *
 * Without them it runs on the library's defaults. It prints `listening PORT` and ends on SIGTERM.
 * */
#include <kreactor.h>

#include "peer/peer.h"

#include <signal.h>

static struct kr_reactor *reactor;

static void on_signal(int number) {
    (void)number;
    kr_stop(reactor);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)user;
    return kr_conn_send(r, conn, data, size) == 0 ? size : 0;
}

static const struct kr_conn_ops echo = {.on_data = on_data};

static void reactor_make(int argc, char **argv) {
    struct kr_config config;
    kr_config_init(&config);
    for (int i = 1; i + 1 < argc; i++) {
        if (!strcmp(argv[i], "--mode") && !strcmp(argv[i + 1], "defer"))
            config.taskrun = KR_TASKRUN_DEFER;
        if (!strcmp(argv[i], "--table") && !strcmp(argv[i + 1], "plain"))
            config.table = KR_TABLE_PLAIN;
    }
    config.buf_count = peer_option(argc, argv, "--bufs", config.buf_count);
    config.buf_size = peer_option(argc, argv, "--bufsize", (unsigned)config.buf_size);
    config.conn_max = peer_nofile() - config.listener_max;
    struct kr_failure why;
    if (kr_reactor_new(&reactor, &config, &why) == 0)
        return;
    fprintf(stderr, "%s: %s; %s\n", why.tried, why.cause, why.remedy);
    exit(1);
}

static void listen_loopback(void) {
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.backlog = 4096;
    struct kr_addr addr;
    kr_listener listener;
    int rc = kr_addr_ip(&addr, "127.0.0.1", 0);
    if (rc == 0)
        rc = kr_listen(reactor, &listener, &addr, &opts, &echo, NULL);
    if (rc == 0)
        rc = kr_listener_addr(reactor, listener, &addr);
    if (rc < 0)
        peer_die("kr_listen", -rc);
    printf("listening %u\n", kr_addr_port(&addr));
    fflush(stdout);
}

int main(int argc, char **argv) {
    peer_init();
    reactor_make(argc, argv);
    listen_loopback();
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    int rc = kr_run(reactor);
    kr_reactor_free(reactor);
    if (rc < 0)
        peer_die("kr_run", -rc);
    return 0;
}
