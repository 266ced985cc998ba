/* A test of one's own callbacks on the simulated kernel: no socket, no thread, no second is spent.
 *
 * The daemon under test answers each line "ping" with "pong", hangs up on anything else, and drops
 * who says nothing for ten seconds. It is compiled as it stands; only the reactor is made in a
 * world. Link with kreactor_sim. */
#include <kreactor.h>
#include <kreactor/sim.h>

#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SECOND INT64_C(1000000000)
#define PORT 7000

/* ---- the daemon ---- */

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    (void)user;
    size_t used = 0;
    const char *end;
    while ((end = memchr((const char *)data + used, '\n', size - used))) {
        const char *line = (const char *)data + used;
        if (end - line != 4 || memcmp(line, "ping", 4)) {
            kr_conn_close(r, conn, KR_CLOSE_FLUSH);
            return size;
        }
        if (kr_conn_send(r, conn, "pong\n", 5) < 0)
            return used; /* shown again when the peer has read */
        used += 5;
    }
    return used;
}

static const struct kr_conn_ops pinger = {.on_data = on_data};

static int daemon_start(struct kr_reactor *r) {
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.conn.idle_ns = 10 * SECOND;
    struct kr_addr addr;
    int rc = kr_addr_ip(&addr, "127.0.0.1", PORT);
    return rc < 0 ? rc : kr_listen(r, NULL, &addr, &opts, &pinger, NULL);
}

/* ---- its tests ---- */

struct world {
    struct kr_sim *sim;
    struct kr_reactor *r;
    kr_sim_peer peer;
    size_t wanted;
};

static struct world begin(uint64_t seed) {
    struct world w = {0};
    int rc = kr_sim_new(&w.sim, seed);
    assert(rc == 0);
    rc = kr_sim_reactor(w.sim, &w.r, NULL);
    assert(rc == 0);
    rc = daemon_start(w.r);
    assert(rc == 0);
    rc = kr_sim_connect(w.sim, &w.peer, PORT);
    assert(rc == 0);
    return w;
}

static void end(struct world *w) {
    int rc = kr_reactor_free(w->r);
    assert(rc == 0);
    rc = kr_sim_free(w->sim);
    assert(rc == 0);
}

static bool has_answer(void *arg) {
    struct world *w = arg;
    return kr_sim_readable(w->sim, w->peer) >= w->wanted;
}

static bool is_over(void *arg) {
    struct kr_stats stats;
    return kr_stats_read(arg, &stats, sizeof stats) == 0 && stats.closes == 1;
}

static void expect(struct world *w, const char *said, const char *answer) {
    int64_t sent = kr_sim_send(w->sim, w->peer, said, strlen(said));
    assert(sent == (int64_t)strlen(said));
    w->wanted = strlen(answer);
    int rc = kr_sim_run_until(w->sim, w->r, has_answer, w, SECOND);
    assert(rc == 0);
    char got[64];
    int64_t size = kr_sim_recv(w->sim, w->peer, got, sizeof got);
    assert(size == (int64_t)w->wanted && !memcmp(got, answer, w->wanted));
}

static void answers_each_line(void) {
    struct world w = begin(1);
    expect(&w, "ping\n", "pong\n");
    expect(&w, "ping\nping\nping\n", "pong\npong\npong\n");
    end(&w);
}

/* Whatever the kernel cuts the bytes into, on two hundred seeds. */
static void answers_lines_in_any_pieces(void) {
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct world w = begin(seed);
        kr_sim_fault_set(w.sim, KR_SIM_SHORT_RECV, 1024);
        kr_sim_fault_set(w.sim, KR_SIM_SHORT_SEND, 512);
        kr_sim_fault_set(w.sim, KR_SIM_RECV_END, 256);
        expect(&w, "ping\nping\nping\n", "pong\npong\npong\n");
        end(&w);
    }
}

static void hangs_up_on_nonsense(void) {
    struct world w = begin(1);
    expect(&w, "ping\nhello\n", "pong\n");
    int rc = kr_sim_run_until(w.sim, w.r, is_over, w.r, SECOND);
    assert(rc == 0);
    char byte;
    assert(kr_sim_recv(w.sim, w.peer, &byte, 1) == 0);
    end(&w);
}

/* Ten seconds that take no time. */
static void drops_who_says_nothing(void) {
    struct world w = begin(1);
    int rc = kr_sim_run_until(w.sim, w.r, is_over, w.r, 9 * SECOND);
    assert(rc == -ETIMEDOUT);
    rc = kr_sim_run_until(w.sim, w.r, is_over, w.r, 2 * SECOND);
    assert(rc == 0);
    end(&w);
}

int main(void) {
    puts("1..4"); /* TAP, which meson and many others read */
    answers_each_line();
    puts("ok 1 - answers_each_line");
    answers_lines_in_any_pieces();
    puts("ok 2 - answers_lines_in_any_pieces");
    hangs_up_on_nonsense();
    puts("ok 3 - hangs_up_on_nonsense");
    drops_who_says_nothing();
    puts("ok 4 - drops_who_says_nothing");
    return 0;
}
