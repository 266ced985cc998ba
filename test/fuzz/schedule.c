/* An echo server and its clients in the simulated world; the input is the world's schedule.
 *
 * First the sizes of queues, tables and buffers and the likelihood of each fault, then, until the
 * input ends, what happens next: an act of a client, a turn, time. The server's callbacks take
 * their choices from the same tape. Then the faults end, the clients go, and the server must come
 * to rest.
 *
 * Checked: each client gets back a prefix of what it sent; at rest every level is 0; after the end
 * all memory is back and the world has nothing left of the reactor. The library's assertions and
 * its audit of each wait are on (KR_CHECKED). */
#include "fuzz/fuzz.h"
#include "fuzz/lost.h"

#include "kernel/sim/world.h"

#include <kreactor.h>
#include <kreactor/sim.h>

#include <errno.h>
#include <string.h>

#define MS INT64_C(1000000)
#define PORT 7
#define PEERS_MAX 8
#define PIECE_MAX 4096u
#define CONNECTS_MAX 128u
#define TURNS_MAX 4096u /* and what is left of the input is not looked at */
#define REST_NS (INT64_C(3600000) * MS)

struct peer {
    kr_sim_peer handle;
    bool live;
    unsigned id;
    uint64_t sent, got;
};

struct world {
    struct tape tape;
    struct kr_sim *sim;
    struct kr_reactor *r;
    kr_listener listener;
    struct kr_alloc alloc;
    size_t held;
    struct peer peers[PEERS_MAX];
    unsigned connects, turns, open;
    bool ending, lost;
};

/* ---- memory ---- */

static void *memory_get(void *ctx, size_t size) {
    struct world *w = ctx;
    void *memory = malloc(size);
    w->held += memory ? size : 0;
    return memory;
}

static void memory_put(void *ctx, void *memory, size_t size) {
    struct world *w = ctx;
    MUST(w->held >= size);
    w->held -= size;
    free(memory);
}

/* ---- the server ---- */

static uint8_t choose(struct world *w) {
    return w->ending ? 0 : tape_byte(&w->tape);
}

static void resume(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    kr_conn conn = {(uint64_t)(uintptr_t)user};
    int rc = kr_conn_resume(r, conn);
    MUST(rc == 0 || rc == -EPIPE || rc == -ESTALE);
}

static void pause_for_a_while(struct world *w, kr_conn conn) {
    int rc = kr_conn_pause(w->r, conn);
    MUST(rc == 0 || rc == -EPIPE);
    int64_t in_ns = choose(w) * MS;
    MUST(kr_timer_start(w->r, NULL, in_ns, 0, resume, (void *)(uintptr_t)conn.bits) == 0);
}

static void act_on(struct world *w, kr_conn conn) {
    switch (choose(w)) {
    case 1:
        pause_for_a_while(w, conn);
        break;
    case 2:
    case 3:
    case 4:
        MUST(kr_conn_close(w->r, conn, (enum kr_close)(choose(w) % 4)) == 0);
        break;
    case 5: {
        int rc = kr_conn_deadline(w->r, conn, KR_DEADLINE_IDLE, choose(w) * MS);
        MUST(rc == 0 || rc == -EPIPE);
        break;
    }
    default:
        break;
    }
}

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    struct world *w = user;
    w->open++;
    act_on(w, conn);
}

/* Sends through the queue's own memory instead of a copy of the bytes. */
static int send_reserved(struct kr_reactor *r, kr_conn conn, const void *data, size_t size) {
    void *room;
    int rc = kr_conn_reserve(r, conn, size, &room);
    if (rc < 0)
        return rc;
    memcpy(room, data, size);
    return kr_conn_commit(r, conn, size);
}

static int send_in_two(struct kr_reactor *r, kr_conn conn, const void *data, size_t size) {
    struct iovec pieces[] = {
        {.iov_base = (void *)(uintptr_t)data, .iov_len = size / 2},
        {.iov_base = (char *)(uintptr_t)data + size / 2, .iov_len = size - size / 2},
    };
    return kr_conn_sendv(r, conn, pieces, 2);
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct world *w = user;
    uint8_t choice = choose(w);
    size_t take = choice >> 4 ? 1 + (size - 1) * (choice >> 4) / 16 : size;
    int rc = choice % 4 == 1   ? send_reserved(r, conn, data, take)
             : choice % 4 == 2 ? send_in_two(r, conn, data, take)
                               : kr_conn_send(r, conn, data, take);
    /* EMSGSIZE: more than send_cap, kept; EPIPE: a send has failed, and this is what came before */
    MUST(rc == 0 || rc == -ENOBUFS || rc == -EMSGSIZE || rc == -EPIPE);
    act_on(w, conn);
    return rc == 0 ? take : 0;
}

static void on_writable(struct kr_reactor *r, kr_conn conn, void *user) {
    (void)r;
    act_on(user, conn);
}

static void on_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    struct world *w = user;
    MUST(error <= 0 && why <= KR_WHY_REACTOR);
    MUST(kr_conn_queued(r, conn) <= SIZE_MAX / 2);
    MUST(w->open > 0);
    w->open--;
}

static const struct kr_conn_ops ops = {
    .on_open = on_open,
    .on_data = on_data,
    .on_writable = on_writable,
    .on_close = on_close,
};

/* ---- the clients ---- */

static unsigned char byte_of(unsigned id, uint64_t at) {
    return (unsigned char)(id * 31u + at * 7u + (at >> 8));
}

static void peer_connect(struct world *w, struct peer *p) {
    if (p->live || w->connects >= CONNECTS_MAX)
        return;
    kr_sim_peer handle;
    int rc = kr_sim_connect(w->sim, &handle, PORT);
    MUST(rc == 0 || rc == -EAGAIN);
    if (rc == 0)
        *p = (struct peer){.handle = handle, .live = true, .id = ++w->connects};
}

static void peer_send(struct world *w, struct peer *p) {
    unsigned char piece[PIECE_MAX];
    size_t size = 1 + tape_below(&w->tape, PIECE_MAX);
    for (size_t i = 0; i < size; i++)
        piece[i] = byte_of(p->id, p->sent + i);
    int64_t sent = kr_sim_send(w->sim, p->handle, piece, size);
    MUST(sent <= (int64_t)size);
    if (sent > 0)
        p->sent += (uint64_t)sent;
}

static void peer_recv(struct world *w, struct peer *p) {
    unsigned char piece[PIECE_MAX];
    int64_t got = kr_sim_recv(w->sim, p->handle, piece, 1 + tape_below(&w->tape, PIECE_MAX));
    for (int64_t i = 0; i < got; i++)
        MUST(piece[i] == byte_of(p->id, p->got++));
    MUST(p->got <= p->sent);
}

static void peer_over(struct world *w, struct peer *p, bool reset) {
    MUST((reset ? kr_sim_reset(w->sim, p->handle) : kr_sim_close(w->sim, p->handle)) == 0);
    p->live = false;
}

static void peer_window(struct world *w, struct peer *p) {
    size_t recv_size = 1 + tape_below(&w->tape, 65536);
    size_t send_size = 1 + tape_below(&w->tape, 65536);
    MUST(kr_sim_window(w->sim, p->handle, recv_size, send_size) == 0);
}

static void peer_act(struct world *w, unsigned act) {
    struct peer *p = &w->peers[tape_below(&w->tape, PEERS_MAX)];
    if (!p->live) {
        peer_connect(w, p);
        return;
    }
    switch (act) {
    case 0:
    case 1:
        peer_send(w, p);
        break;
    case 2:
    case 3:
        peer_recv(w, p);
        break;
    case 4:
        MUST(kr_sim_shutdown(w->sim, p->handle) == 0);
        break;
    case 5:
        peer_window(w, p);
        break;
    default:
        peer_over(w, p, act == 7);
    }
}

/* ---- the world ---- */

static void turn(struct world *w, int64_t wait_ns) {
    w->turns++;
    int rc = kr_step(w->r, wait_ns);
    w->lost = rc == -EBADR && kr_sim_fault_hits(w->sim, KR_SIM_LOST);
    MUST(rc >= 0 || w->lost);
}

static void make_reactor(struct world *w) {
    struct tape *t = &w->tape;
    w->alloc = (struct kr_alloc){.alloc = memory_get, .free = memory_put, .ctx = w};
    struct kr_config config;
    kr_config_init(&config);
    unsigned sq_bits = tape_below(t, 7);
    config.taskrun = tape_below(t, 2) ? KR_TASKRUN_DEFER : KR_TASKRUN_COOP;
    config.sq_entries = 1u << sq_bits;
    config.cq_entries = 1u << (sq_bits + tape_below(t, 4));
    config.conn_max = 1 + tape_below(t, 64);
    config.listener_max = 2;
    config.buf_count = 1u << tape_below(t, 6);
    config.buf_size = 1 + tape_below(t, 8192);
    config.post_max = 4;
    config.turn_cqes = 1 + tape_below(t, 64);
    config.alloc = &w->alloc;
    MUST(kr_sim_reactor(w->sim, &w->r, &config) == 0);
}

static void make_listener(struct world *w) {
    struct tape *t = &w->tape;
    struct kr_listen_opts opts;
    kr_listen_opts_init(&opts);
    opts.backlog = 1 + tape_below(t, 16);
    opts.addresses = tape_below(t, 4) == 1;
    opts.conn_max = tape_below(t, 8);
    opts.conn.send_cap = 1 + tape_below(t, 16384);
    opts.conn.send_high = opts.conn.send_cap / (1 + tape_below(t, 8));
    opts.conn.send_low = opts.conn.send_high / (1 + tape_below(t, 8));
    opts.conn.recv_cap = 1 + tape_below(t, 65536);
    opts.conn.idle_ns = tape_byte(t) * MS;
    struct kr_addr addr;
    MUST(kr_addr_ip(&addr, "127.0.0.1", PORT) == 0);
    MUST(kr_listen(w->r, &w->listener, &addr, &opts, &ops, w) == 0);
}

static void set_faults(struct world *w) {
    for (unsigned fault = 0; fault < KR_SIM_FAULT_COUNT; fault++) {
        unsigned weight = 4u * tape_byte(&w->tape);
        MUST(kr_sim_fault_set(w->sim, (enum kr_sim_fault)fault, weight > 900 ? 900 : weight) == 0);
    }
}

static void clear_faults(struct world *w) {
    for (unsigned fault = 0; fault < KR_SIM_FAULT_COUNT; fault++)
        MUST(kr_sim_fault_set(w->sim, (enum kr_sim_fault)fault, 0) == 0);
}

static void play(struct world *w) {
    while (w->tape.left && w->turns < TURNS_MAX && !w->lost) {
        uint8_t act = tape_byte(&w->tape);
        if (act & 8)
            turn(w, (act & 0x10) ? (act >> 5) * MS : 0);
        else
            peer_act(w, act & 7);
    }
}

static bool at_rest(void *arg) {
    struct world *w = arg;
    struct kr_stats now;
    MUST(kr_stats_read(w->r, &now, sizeof now) == 0);
    return !now.conns && !now.listeners && !now.timers && !now.bufs_out && !now.sends_out &&
           !now.blocks_out;
}

static void come_to_rest(struct world *w) {
    w->ending = true;
    clear_faults(w);
    for (unsigned i = 0; i < PEERS_MAX; i++) {
        if (w->peers[i].live)
            peer_over(w, &w->peers[i], false);
    }
    if (w->lost)
        return;
    MUST(kr_listener_close(w->r, w->listener) == 0);
    int rc = kr_sim_run_until(w->sim, w->r, at_rest, w, REST_NS);
    w->lost = rc == -EBADR && kr_sim_fault_hits(w->sim, KR_SIM_LOST);
    MUST(rc == 0 || w->lost);
    MUST(w->lost || w->open == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct world w = {.tape = {data, size}};
    MUST(kr_sim_new(&w.sim, tape_number(&w.tape, 2)) == 0);
    make_reactor(&w);
    make_listener(&w);
    set_faults(&w);
    play(&w);
    come_to_rest(&w);
    MUST(kr_reactor_free(w.r) == 0);
    MUST(w.held == 0 && w.open == 0);
    MUST(w.sim->requests == 0);
    close_what_was_lost(w.sim);
    MUST(w.sim->files == 0);
    MUST(kr_sim_free(w.sim) == 0);
    return 0;
}
