/* The server of bench/zerocopy.py: to each connection it lends 1 MiB and at least two loans ahead,
 * all of one size, without end, and what it receives it drops.
 *
 *     lender [--host ADDRESS] [--size BYTES] [--zerocopy BYTES] [--insist]
 *
 * --zerocopy is kr_conn_opts.zerocopy_min. With --insist the library is not told that the kernel
 * copies all the same, as on a kernel older than 6.3, and so goes on. The loans are taken in turn
 * from 64 MiB, so that what is sent is no more in the cache than a file would be. Prints `listening
 * PORT`, ends on SIGTERM, and then says how many sends went by zero-copy and how many of these the
 * kernel copied. */
#include <kreactor.h>

#include "conn/reactor.h"
#include "kernel/probe.h"
#include "peer/peer.h"

#include <stdint.h>

#define STORE ((size_t)64 << 20)
#define AHEAD ((size_t)1 << 20)

static struct kr_reactor *reactor;
static char *store;
static size_t loan_size, next;

static void on_signal(int number) {
    (void)number;
    kr_stop(reactor);
}

/* Handles are values: what is lent knows its connection by the handle's bits. */
static void lend(struct kr_reactor *r, kr_conn conn);

static void on_release(struct kr_reactor *r, void *arg) {
    lend(r, (kr_conn){(uint64_t)(uintptr_t)arg});
}

/* A connection that has ended takes no more: -ESTALE or -EPIPE, and the loan is none. */
static void lend(struct kr_reactor *r, kr_conn conn) {
    next = next + 2 * loan_size <= STORE ? next + loan_size : 0;
    kr_conn_send_ref(r, conn, store + next, loan_size, on_release, (void *)(uintptr_t)conn.bits);
}

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)user;
    size_t ahead = AHEAD / loan_size;
    for (size_t i = 0; i < (ahead > 2 ? ahead : 2); i++)
        lend(r, conn);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)r;
    (void)conn;
    (void)user;
    (void)data;
    return size;
}

static const struct kr_conn_ops ops = {.on_open = on_open, .on_data = on_data};

static const char *host_of(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], "--host"))
            return argv[i + 1];
    return "127.0.0.1";
}

static void reactor_make(bool insist) {
    struct kr_config config;
    kr_config_init(&config);
    struct kr_failure why;
    if (kr_reactor_new(&reactor, &config, &why) < 0) {
        fprintf(stderr, "%s: %s; %s\n", why.tried, why.cause, why.remedy);
        exit(1);
    }
    if (insist)
        reactor->ring.caps &= ~KR__CAP_ZC_REPORT;
}

static void listen_on(const char *host, size_t zerocopy_min) {
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.conn.zerocopy_min = zerocopy_min;
    struct kr_addr addr;
    kr_listener listener;
    int rc = kr_addr_ip(&addr, host, 0);
    if (rc == 0)
        rc = kr_listen(reactor, &listener, &addr, &opts, &ops, NULL);
    if (rc == 0)
        rc = kr_listener_addr(reactor, listener, &addr);
    if (rc < 0)
        peer_die("kr_listen", -rc);
    printf("listening %u\n", kr_addr_port(&addr));
    fflush(stdout);
}

int main(int argc, char **argv) {
    peer_init();
    loan_size = peer_option(argc, argv, "--size", 65536);
    if (!loan_size || loan_size > STORE / 4 || !(store = malloc(STORE)))
        peer_die("--size", EINVAL);
    memset(store, 'l', STORE);
    reactor_make(peer_switch(argc, argv, "--insist"));
    listen_on(host_of(argc, argv), peer_option(argc, argv, "--zerocopy", 0));
    signal(SIGTERM, on_signal);
    int rc = kr_run(reactor);
    struct kr_stats stats;
    kr_stats_read(reactor, &stats, sizeof stats);
    printf("zerocopy %llu copied %llu\n", (unsigned long long)stats.zerocopy_sends,
           (unsigned long long)stats.zerocopy_copied);
    kr_reactor_free(reactor);
    if (rc < 0)
        peer_die("kr_run", -rc);
    return 0;
}
