/* A reactor whose instructions a message callgrind counts (test/cost/run).
 *
 *     cost CELL BATCHES [coop|defer]
 *
 * CELL is a load of client.h, timers (one is started and stopped), fires (one is started and
 * fires) or posts (a call is posted and runs). A batch is 64 connections with their messages, or
 * 64 timers or posts. The first batches are not counted; BATCHES are. It prints how many messages
 * these had: of the instructions that callgrind has collected, each message had its part. */
#include "client.h"

#include <kreactor.h>

#define THINGS CLIENT_CONNS /* timers or posts of a batch */
#define OTHERS 1000         /* timers that are under way and not due */
#define HOUR_NS INT64_C(3600000000000)

static struct kr_reactor *reactor;
static unsigned called; /* timers or posts */

static void check(int rc, const char *what) {
    if (rc >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(-rc));
    exit(1);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)user;
    return kr_conn_send(r, conn, data, size) == 0 ? size : 0;
}

static const struct kr_conn_ops echo = {.on_data = on_data};

static void on_timer(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)r;
    (void)timer;
    (void)user;
    called++;
}

static void on_post(struct kr_reactor *r, void *arg) {
    (void)r;
    (void)arg;
    called++;
}

static void listen_loopback(void) {
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    struct kr_addr addr;
    kr_listener listener;
    check(kr_addr_ip(&addr, "127.0.0.1", 0), "kr_addr_ip");
    check(kr_listen(reactor, &listener, &addr, &opts, &echo, NULL), "kr_listen");
    check(kr_listener_addr(reactor, listener, &addr), "kr_listener_addr");
    client_aim(kr_addr_port(&addr));
}

static void run_load(void) {
    listen_loopback();
    while (client_goes_on()) {
        cost_begin();
        int rc = kr_step(reactor, -1);
        cost_end();
        check(rc, "kr_step");
    }
}

static void start_others(void) {
    for (int i = 0; i < OTHERS; i++)
        check(kr_timer_start(reactor, NULL, HOUR_NS + i, 0, on_timer, NULL), "kr_timer_start");
}

static int start_and_stop(void) {
    kr_timer timers[THINGS];
    int rc = 0;
    for (int i = 0; i < THINGS; i++)
        rc |= kr_timer_start(reactor, &timers[i], HOUR_NS / 2 + i, 0, on_timer, NULL);
    for (int i = 0; i < THINGS; i++)
        rc |= kr_timer_stop(reactor, timers[i]);
    return rc;
}

static int start_and_fire(void) {
    int rc = 0;
    for (int i = 0; i < THINGS; i++)
        rc |= kr_timer_start(reactor, NULL, 0, 0, on_timer, NULL);
    called = 0;
    return rc | (kr_step(reactor, 0) < 0 || called != THINGS ? -EIO : 0);
}

static int post_and_run(void) {
    int rc = 0;
    for (int i = 0; i < THINGS; i++)
        rc |= kr_post(reactor, on_post, NULL);
    called = 0;
    return rc | (kr_step(reactor, 0) < 0 || called != THINGS ? -EIO : 0);
}

static void run_things(int (*batch)(void)) {
    start_others();
    while (client.batch < client.batches) {
        client.batch++;
        cost_begin();
        int rc = batch();
        cost_end();
        check(rc, "a batch");
    }
}

static int (*thing_of(const char *name))(void) {
    return !strcmp(name, "timers")  ? start_and_stop
           : !strcmp(name, "fires") ? start_and_fire
           : !strcmp(name, "posts") ? post_and_run
                                    : NULL;
}

int main(int argc, char **argv) {
    if (argc < 3 || (!client_init(argv[1], argv[2]) && !thing_of(argv[1]))) {
        fprintf(stderr, "usage: cost CELL BATCHES [coop|defer]\n");
        return 2;
    }
    struct kr_config config;
    kr_config_init(&config);
    config.taskrun = argc > 3 && !strcmp(argv[3], "defer") ? KR_TASKRUN_DEFER : KR_TASKRUN_COOP;
    struct kr_failure why;
    int rc = kr_reactor_new(&reactor, &config, &why);
    if (rc < 0)
        fprintf(stderr, "%s; ", why.cause);
    check(rc, "kr_reactor_new");
    if (client.load)
        run_load();
    else
        run_things(thing_of(argv[1]));
    client_print();
    return 0;
}
