/* One run: a world, a reactor in it, a server and its clients, and after every turn the questions.
 *
 * Checked all the time: each operation ends once and nothing is called after on_close (server.c),
 * bytes come back in order (client.c), none that came is left lying while others are read again and
 * again, buffers are out, published, or free, no request waits in a worker of the kernel, turns
 * bring something on; the library's own audit runs at each wait (KR_CHECKED). Checked at the end:
 * everyone was served or cut off, every level is 0, all memory is back, the world has nothing left
 * of the reactor. */
#include "sim/storm.h"

#include "conn/reactor.h"
#include "kernel/probe.h"
#include "kernel/sim/ring.h"
#include "roof/reactor.h"

#include <signal.h>
#include <stdarg.h>
#include <unistd.h>

#define MS INT64_C(1000000)
#define LONG_NS (INT64_C(3600000) * MS)
#define SESSIONS_A_CLIENT 8
/* turns in which others got bytes, while it waited for a buffer */
#define FEEDS_MAX (8u * CLIENTS_MAX)
#define IDLE_TURNS 64     /* turns in a row that may come to nothing */
#define VAIN_TURNS 4000   /* turns in a row that may bring nothing on */
#define SLEPT_NS 50000
#define TURNS_MAX 4000000u /* a run with one buffer of a few bytes takes a good part of that */
#define REST_TURNS 20000u

void storm_fail(const char *file, int line, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "storm: %s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

void storm_ok(const char *file, int line, const char *what, int64_t rc) {
    if (rc < 0)
        storm_fail(file, line, "%s is %lld (%s)", what, (long long)rc, kr_errname((int)rc));
}

/* Whoever aborts, the library's assertions, too: what the reactor was doing is shown. */
static struct storm *running;

static void aborted(int signal) {
    (void)signal;
    if (running && running->r)
        kr_dump(running->r, STDERR_FILENO);
}

uint64_t some(struct storm *s, uint64_t max) {
    return kr__sim_some(s->sim, max);
}

/* ---- memory of the reactor ---- */

static void *storm_alloc(void *ctx, size_t size) {
    struct storm *s = ctx;
    if (likely(s, s->refuse)) {
        mark(s, MARK_no_memory);
        return NULL;
    }
    s->held += size;
    return malloc(size);
}

static void storm_free(void *ctx, void *memory, size_t size) {
    struct storm *s = ctx;
    MUST(s->held >= size);
    s->held -= size;
    free(memory);
}

/* ---- the start ---- */

static unsigned pick(struct storm *s, unsigned top) {
    return (unsigned)some(s, top);
}

/* Queues, tables and budgets small enough to be full at any time. */
static void plan_reactor(struct storm *s) {
    struct kr_config *c = &s->config;
    kr_config_init(c);
    c->taskrun = likely(s, 512) ? KR_TASKRUN_DEFER : KR_TASKRUN_COOP;
    c->sq_entries = pick(s, 64);
    c->cq_entries = kr__power_of_two(c->sq_entries) * (unsigned)(1 + below(s, 4));
    c->conn_max = likely(s, 300) ? 200 + pick(s, 300) : pick(s, 64);
    c->connect_max = CONNECTS_MAX;
    c->listener_max = LISTENERS_MAX + 1;
    c->buf_count = kr__power_of_two(pick(s, 32));
    c->buf_size = likely(s, 200) ? 4096 + pick(s, 8192) : 1 + some(s, 4095);
    c->post_max = pick(s, 16);
    c->turn_cqes = pick(s, 128);
    c->turn_posts = pick(s, 16);
    c->turn_bytes = pick(s, 16384);
    c->alloc = &s->alloc;
}

static void plan_listener(struct storm *s) {
    struct kr_listen_opts *o = &s->opts;
    kr_listen_opts_init(o);
    o->backlog = pick(s, 32);
    o->turn_accepts = likely(s, 200) ? pick(s, 16) : 0;
    o->reuse_port = true;
    o->addresses = likely(s, 300);
    o->conn_max = likely(s, 200) ? pick(s, 16) : 0;
    o->conn.send_cap = 1 + some(s, s->scenario->slow ? 8192 : 65536);
    o->conn.send_high = 1 + below(s, o->conn.send_cap);
    o->conn.send_low = below(s, o->conn.send_high + 1);
    if (!o->conn.send_low) /* which would be the default */
        o->conn.send_low = 1;
    o->conn.zerocopy_min = likely(s, 400) ? 1 + some(s, 4096) : 0;
    o->conn.recv_cap = s->scenario->proxy ? 1u << 20 : 64 + some(s, 65536);
    o->conn.recv_fds = s->scenario->fds ? 1 + (unsigned)below(s, GIFT_MAX) : 0;
    o->conn.keep_fd = likely(s, s->scenario->release ? 512 : 0);
    o->conn.inline_size = likely(s, 300) ? pick(s, 256) : 0;
    int64_t *const deadlines[] = {&o->conn.idle_ns, &o->conn.read_ns, &o->conn.write_ns,
                                  &o->conn.life_ns};
    for (unsigned i = 0; i < sizeof deadlines / sizeof *deadlines; i++)
        *deadlines[i] = likely(s, s->scenario->idle) ? (int64_t)some(s, (uint64_t)(2000 * MS)) : 0;
    o->conn.flush_ns = likely(s, 512) ? 30000 * MS : (int64_t)some(s, (uint64_t)(500 * MS));
}

struct kr_addr storm_address(bool local) {
    struct kr_addr addr;
    if (local)
        MUST(kr_addr_unix(&addr, "@storm") == 0);
    else
        MUST(kr_addr_ip(&addr, "127.0.0.1", PORT) == 0);
    return addr;
}

/* The reactor is also made while memory is short: it says so, and leaves nothing. */
static void start_reactor(struct storm *s, unsigned caps_mask) {
    s->alloc = (struct kr_alloc){.alloc = storm_alloc, .free = storm_free, .ctx = s};
    s->refuse = likely(s, 200) ? 200 : 0;
    int rc;
    while ((rc = kr__reactor_new(&s->r, &s->config, NULL, &s->sim->door, caps_mask)) < 0) {
        mark(s, MARK_refused_at_start);
        MUST(rc == -ENOMEM && s->refuse && s->held == 0 && s->sim->files == 0);
    }
    s->refuse = 0;
}

/* The swarm, and now and then what needs several faults at once: lost completions, which end a run;
 * an accept that takes a slot and tells of it before the CLOSE that freed it does. */
static void plan_faults(struct storm *s) {
    kr_sim_fault_swarm(s->sim);
    if (likely(s, 30))
        kr_sim_fault_set(s->sim, KR_SIM_LOST, 512);
    if (likely(s, s->scenario->close > 100 ? 500 : 60)) {
        kr_sim_fault_set(s->sim, KR_SIM_ACCEPT_END, 512);
        kr_sim_fault_set(s->sim, KR_SIM_OVERTAKE, 900);
    }
}

static void start(struct storm *s) {
    plan_reactor(s);
    plan_listener(s);
    bool newest = likely(s, 512);
    /* which keeps resets to itself, or not: in each scenario, whatever their count */
    unsigned older = s->seed / scenario_count % 2 ? 12 : 1;
    MUST_NOT_FAIL(kr_sim_linux(s->sim, 6, newest ? 18 : older));
    start_reactor(s, newest ? KR__CAPS_ALL : KR__CAPS_6_1);
    s->caps = s->r->ring.caps;
    unsigned listeners = s->scenario->churn ? LISTENERS_MAX : 1;
    if (some_local(s) && !all_local(s))
        listeners = 2;
    for (unsigned i = 0; i < listeners; i++)
        server_listen(s, i);
    plan_faults(s);
    s->refuse = likely(s, 512) ? s->scenario->no_memory : 0;
    s->session_room = CLIENTS_MAX * SESSIONS_A_CLIENT;
    s->sessions = kr__sim_alloc(s->session_room * sizeof *s->sessions);
    clients_start(s);
    if (s->scenario->posts)
        kr_sim_at(s->sim, 0, server_post, s);
    kr_stats_read(s->r, &s->before, sizeof s->before);
}

/* ---- the questions ---- */

/* Each buffer is out, published, or free. */
static void check_bufs(const struct storm *s) {
    const struct kr__bufs *bufs = &s->r->bufs;
    unsigned out = 0;
    for (unsigned id = 0; id < bufs->count; id++)
        out += bufs->refs[id] > 0;
    MUST(out + bufs->published + bufs->free_count == bufs->count);
}

static const struct kr__sim_file *file_of(const struct storm *s, uint32_t slot) {
    int fd = kr__slots_fd(&s->r->slots, slot);
    const struct kr__sim_ring *ring = kr__sim_ring_of(&s->r->ring.uring);
    return fd >= 0 ? kr__sim_fd_file(s->sim, fd) : kr__sim_slots_file(&ring->slots, slot);
}

/* Whether the kernel holds bytes for a connection which reads, and has given it none. One that rests
 * waits for a time, in which others may well be read that often (conn/rest.c). */
static bool is_waiting(const struct storm *s, const struct kr__conn *c, struct wait *wait) {
    if (!kr__conn_may_receive(c) || c->rests)
        return false;
    const struct kr__sim_file *file = file_of(s, c->owner.slot);
    bool same = file && wait->taken == file->stream.taken && wait->life == c->owner.generation;
    wait->taken = file ? file->stream.taken : 0;
    wait->life = c->owner.generation;
    return same && file->stream.size;
}

/* Nobody is passed over when buffers, or requests, or completions, are short. */
static void check_turns(struct storm *s, const struct kr_stats *now) {
    s->feeds += now->bytes_in != s->before.bytes_in;
    for (const struct kr__conn *c = NULL; (c = kr__conns_next(&s->r->conns, c));) {
        MUST(c->owner.slot < CONNS_MAX);
        struct wait *wait = &s->waits[c->owner.slot];
        if (!is_waiting(s, c, wait))
            wait->since = s->feeds;
        if (s->feeds > wait->since + FEEDS_MAX)
            storm_fail(__FILE__, __LINE__,
                       "slot %u has bytes to read, and others were read %llu times", c->owner.slot,
                       (unsigned long long)(s->feeds - wait->since));
    }
}

void storm_saw_close(struct storm *s, kr_conn conn) {
    if (s->r->conns.table[kr__handle_slot(conn.bits)].successor)
        mark(s, MARK_overtaken_close);
}

static bool came_to_nothing(const struct kr_stats *a, const struct kr_stats *b) {
    return a->cqes == b->cqes && a->sqes == b->sqes && a->waits == b->waits &&
           a->posts == b->posts && a->timer_fires == b->timer_fires;
}

/* What turns are for. A request that is made, refused, and made again is none of it. */
static uint64_t progress_of(const struct storm *s, const struct kr_stats *now) {
    return s->callbacks + now->bytes_in + now->bytes_out + now->bytes_read + now->accepts +
           now->accept_errors + now->closes + now->timer_fires + now->posts + now->connects +
           now->connect_errors + now->cq_overflows;
}

/* Turns that bring nothing on, and pass no time but that of their own calls, are few in a row. */
static void check_vain(struct storm *s, const struct kr_stats *now, int64_t since) {
    uint64_t progress = progress_of(s, now);
    bool slept = kr_sim_now(s->sim) - since >= SLEPT_NS;
    s->vain_turns = progress != s->progress || slept ? 0 : s->vain_turns + 1;
    s->progress = progress;
    if (s->vain_turns > VAIN_TURNS)
        storm_fail(__FILE__, __LINE__, "%u turns brought nothing on", s->vain_turns);
}

/* Nothing that a peer does has a request of ours wait in a worker of the kernel; but accepts of one
 * shot do where the kernel cannot be asked not to wait: of those that wait one may be woken for the
 * client that another one takes as it is submitted. */
static void check_workers(struct storm *s) {
    bool may_wait = !(s->caps & KR__CAP_ACCEPT_DONTWAIT);
    s->marks[MARK_accept_in_worker] += may_wait && s->sim->accept_punts;
    if (s->sim->punts > (may_wait ? s->sim->accept_punts : 0))
        storm_fail(__FILE__, __LINE__, "a request was tried in vain until a worker got it");
}

/* A turn without a wait does something; a few may find only that they were refused. */
static void check_spin(struct storm *s, unsigned *idle, int64_t since) {
    struct kr_stats now;
    kr_stats_read(s->r, &now, sizeof now);
    check_vain(s, &now, since);
    check_workers(s);
    *idle = came_to_nothing(&s->before, &now) ? *idle + 1 : 0;
    MUST(*idle < IDLE_TURNS);
    MUST(s->sim->starved <= 4u * CLIENTS_MAX);
    MUST(now.bytes_out <= now.bytes_in);
    check_turns(s, &now);
    if (now.bufs_out)
        mark(s, MARK_send_held);
    s->before = now;
}

static void mark_stats(struct storm *s) {
    struct kr_stats now;
    kr_stats_read(s->r, &now, sizeof now);
    s->marks[MARK_sq_full] += now.sq_full_turns;
    s->marks[MARK_cq_overflow] += now.cq_overflows;
    s->marks[MARK_starved] += now.starved_waits;
    s->marks[MARK_accept_paused] += now.accept_pauses;
    s->marks[MARK_accept_failed] += now.accept_errors;
    s->marks[MARK_accept_many] += now.accepts > 16;
    s->marks[MARK_kept] += now.bytes_kept;
}

/* A listener that memory or churn has taken is put up again: clients are still to come. Without
 * memory it is tried again at once, since nobody might be there to end the next wait. */
static void relisten(struct storm *s) {
    for (unsigned i = 0; i < LISTENERS_MAX; i++) {
        if (s->listening[i])
            return;
    }
    for (unsigned tries = 0; tries < 16 && !s->listening[0]; tries++)
        server_listen(s, 0);
}

/* How long a turn may wait: mostly as long as it takes, but for when the last client goes
 * meanwhile. */
static int64_t wait_choose(struct storm *s) {
    switch (below(s, 4)) {
    case 0:
        return 0;
    case 1:
        return (int64_t)some(s, (uint64_t)MS);
    default:
        return LONG_NS;
    }
}

/* False: completions were lost, and the reactor can only be freed. */
static bool turn(struct storm *s, unsigned *idle) {
    if (likely(s, 100))
        server_act_between(s);
    s->turn++;
    int64_t since = kr_sim_now(s->sim);
    int rc = kr_step(s->r, wait_choose(s));
    if (rc == -EBADR && kr_sim_fault_hits(s->sim, KR_SIM_LOST)) {
        mark(s, MARK_lost_completions);
        return false;
    }
    MUST_NOT_FAIL(rc);
    kr_sim_note(s->sim, "turn", s->turn, (uint64_t)rc);
    server_check_beats(s, since);
    check_bufs(s);
    check_spin(s, idle, since);
    return true;
}

/* When all clients are over the server notices, and has nothing left. It takes its time where a buffer
 * is two bytes, and a client has left thousands to be read. */
static void rest(struct storm *s, unsigned *idle) {
    uint64_t received = s->r->stats.bytes_in;
    for (unsigned i = 0; s->open; i++) {
        if (s->r->stats.bytes_in != received)
            i = 0;
        received = s->r->stats.bytes_in;
        if (i >= REST_TURNS)
            storm_fail(__FILE__, __LINE__, "a wedge: all clients are over, and %u connections stay",
                       s->open);
        if (!turn(s, idle))
            return;
    }
    server_return_leases(s);
    clients_check(s);
    struct kr_stats now;
    kr_stats_read(s->r, &now, sizeof now);
    MUST(now.bufs_out == 0 && now.sends_out == 0);
}

static bool run(struct storm *s, uint64_t steps) {
    unsigned idle = 0;
    bool early = likely(s, s->scenario->free_early);
    uint64_t most = steps ? steps : early ? some(s, 4000) : TURNS_MAX;
    while (s->over < s->client_count) {
        if (s->turn >= most) {
            MUST(steps || early);
            mark(s, MARK_freed_early);
            return false;
        }
        if (!turn(s, &idle))
            return false;
        relisten(s);
    }
    rest(s, &idle);
    return true;
}

/* ---- the end ---- */

static void end_reactor(struct storm *s) {
    mark_stats(s);
    s->ending = true;
    s->refuse = 0;
    MUST(kr_reactor_free(s->r) == 0);
    s->r = NULL;
    kr_sim_note(s->sim, "freed", 0, 0);
    MUST(s->held == 0);
    check_workers(s);
    bool lost = kr_sim_fault_hits(s->sim, KR_SIM_LOST);
    MUST(s->open == 0 && s->posts_ran == s->posts_made);
    MUST(lost || s->sim->torn == 0);
    MUST(s->sim->requests == 0);
    if (lost) /* a descriptor may have been accepted by a completion that was */
        return;
    clients_end(s);
    MUST(s->sim->files == s->sim->peers.used);
    for (unsigned fd = 0; fd < s->sim->fd_room; fd++)
        MUST(!s->sim->fds[fd]);
}

void storm_run(struct storm_result *ret, uint64_t seed, const struct scenario *scenario,
               uint64_t steps, void (*trace)(void *arg, const char *line)) {
    struct storm *s = kr__sim_alloc(sizeof *s);
    *s = (struct storm){.seed = seed, .scenario = scenario};
    if (kr_sim_new(&s->sim, seed) < 0)
        storm_fail(__FILE__, __LINE__, "no memory");
    kr_sim_trace(s->sim, trace, NULL);
    running = s;
    if (signal(SIGABRT, aborted) == SIG_ERR)
        storm_fail(__FILE__, __LINE__, "signal");
    start(s);
    run(s, steps);
    end_reactor(s);
    running = NULL;
    *ret = (struct storm_result){.hash = kr_sim_hash(s->sim), .turns = s->turn};
    for (unsigned fault = 0; fault < KR_SIM_FAULT_COUNT; fault++)
        ret->faults[fault] = kr_sim_fault_hits(s->sim, fault);
    memcpy(ret->marks, s->marks, sizeof ret->marks);
    MUST(kr_sim_free(s->sim) == 0);
    free(s->sessions);
    free(s);
}
