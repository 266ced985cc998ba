/* A proxy for TCP and Unix sockets: `proxy PORT HOST:PORT`, with `unix:PATH` or `unix:@NAME` on
 * either side. Port 0 lets the kernel choose.
 *
 * Each client gets a connection to the server of its own, and from then on the library forwards:
 * bytes in the buffers in which they came, back-pressure, the end of either direction by itself,
 * and resets. What is left to do here is to say who belongs to whom, and what to do about those who
 * do not answer. */
#include <kreactor.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_NS (10 * INT64_C(1000000000))

struct proxy {
    struct kr_addr server;
    struct kr_connect_opts connect;
    unsigned long failures; /* to reach the server */
};

static struct kr_reactor *reactor;

static void on_signal(int signal) {
    (void)signal;
    kr_stop(reactor);
}

/* Never called: what either side receives is forwarded. */
static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)r;
    (void)conn;
    (void)user;
    (void)data;
    return size;
}

/* The client follows its server, with a reset if that could not be reached. */
static void on_server_close(struct kr_reactor *r, kr_conn conn, void *user, int error,
                            enum kr_why why) {
    struct proxy *proxy = user;
    (void)r;
    (void)conn;
    if (why != KR_WHY_CONNECT && why != KR_WHY_TIMEOUT)
        return;
    if (proxy->failures++ == 0)
        fprintf(stderr, "proxy: the server cannot be reached: %s\n", kr_errname(error));
}

static const struct kr_conn_ops server_ops = {.on_data = on_data, .on_close = on_server_close};

/* What the client sends meanwhile is queued until the server's connection stands. */
static void on_client(struct kr_reactor *r, kr_conn client, void *user) {
    struct proxy *proxy = user;
    kr_conn server;
    int rc = kr_connect(r, &server, &proxy->server, &proxy->connect, &server_ops, proxy);
    if (rc == 0)
        rc = kr_conn_forward(r, client, server, NULL, NULL, NULL);
    if (rc == 0)
        return;
    fprintf(stderr, "proxy: connect: %s\n", kr_errname(rc));
    kr_conn_close(r, client, KR_CLOSE_RESET);
}

static const struct kr_conn_ops client_ops = {.on_open = on_client, .on_data = on_data};

/* A bare number is a port of this machine. */
static int addr_of(struct kr_addr *ret, const char *text) {
    if (strspn(text, "0123456789") == strlen(text))
        return kr_addr_ip(ret, "127.0.0.1", (uint16_t)atoi(text));
    return kr_addr_parse(ret, text);
}

static int proxy_listen(struct kr_reactor *r, struct proxy *proxy, struct kr_addr *addr) {
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    kr_listener listener;
    int rc = kr_listen(r, &listener, addr, &opts, &client_ops, proxy);
    return rc < 0 ? rc : kr_listener_addr(r, listener, addr);
}

/* As many connections to servers as there may be clients. */
static int reactor_make(void) {
    struct kr_config config;
    kr_config_init(&config);
    config.conn_max = config.connect_max = 400;
    struct kr_failure why;
    int rc = kr_reactor_new(&reactor, &config, &why);
    if (rc < 0)
        fprintf(stderr, "proxy: %s: %s; %s\n", why.tried, why.cause, why.remedy);
    return rc;
}

int main(int argc, char **argv) {
    struct proxy proxy = {0};
    struct kr_addr addr;
    if (argc != 3 || addr_of(&addr, argv[1]) < 0 || addr_of(&proxy.server, argv[2]) < 0) {
        fprintf(stderr, "usage: %s PORT|ADDRESS:PORT|unix:PATH ADDRESS:PORT|unix:PATH\n", argv[0]);
        return EXIT_FAILURE;
    }
    kr_connect_opts_init(&proxy.connect);
    proxy.connect.timeout_ns = CONNECT_NS;
    if (reactor_make() < 0)
        return EXIT_FAILURE;
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    int rc = proxy_listen(reactor, &proxy, &addr);
    if (rc == 0) {
        char text[KR_ADDR_TEXT_SIZE];
        kr_addr_text(&addr, text, sizeof text);
        printf("listening on %s\n", text);
        fflush(stdout);
        rc = kr_run(reactor);
    }
    kr_reactor_free(reactor);
    if (rc < 0)
        fprintf(stderr, "proxy: %s\n", kr_errname(rc));
    return rc < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
