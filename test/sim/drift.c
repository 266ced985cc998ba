/* Does the simulated kernel still behave as the real one? The same scripts run on both; every
 * completion is noted by its shape: verb, sign or errno of the result, flags. A shape that the real
 * kernel shows and that the simulated one shows in none of many seeds of that script fails: whoever
 * believes the simulation would then believe something that is not so. (What only the simulation
 * shows is fine: it is to be worse than life.) */
#include "harness/tap.h"
#include "sim/far.h"
#include "sim/storm.h"

#include "conn/op.h"
#include "conn/reactor.h"
#include "kernel/probe.h"
#include "kernel/sim/world.h"
#include "ring/tag.h"
#include "roof/post.h"
#include "roof/reactor.h"

#include <errno.h>
#include <unistd.h>

#define MS INT64_C(1000000)
#define FARS_MAX 64
#define SHAPES_MAX 256
#define SEEDS 60
#define FLAGS                                                                                      \
    (IORING_CQE_F_BUFFER | IORING_CQE_F_MORE | IORING_CQE_F_SOCK_NONEMPTY | IORING_CQE_F_NOTIF)
#define QUIET 4 /* turns in a row that bring nothing: what was going on is over */

/* ---- shapes ---- */

struct shape {
    uint8_t verb;
    int32_t res; /* 1 for any positive one */
    uint32_t flags;
};

struct shapes {
    struct shape all[SHAPES_MAX];
    unsigned count;
};

static bool shape_in(const struct shapes *set, struct shape s) {
    for (unsigned i = 0; i < set->count; i++) {
        const struct shape *x = &set->all[i];
        if (x->verb == s.verb && x->res == s.res && x->flags == s.flags)
            return true;
    }
    return false;
}

static void shape_add(struct shapes *set, struct shape s) {
    if (shape_in(set, s))
        return;
    CHECK_LT(set->count, SHAPES_MAX);
    set->all[set->count++] = s;
}

static const char *shape_text(struct shape s) {
    static char text[96];
    snprintf(text, sizeof text, "%s %s%s%s%s%s", kr__ops[s.verb].name,
             s.res > 0    ? "+"
             : s.res == 0 ? "0"
                          : kr_errname(s.res),
             s.flags & IORING_CQE_F_BUFFER ? " BUFFER" : "",
             s.flags & IORING_CQE_F_MORE ? " MORE" : "",
             s.flags & IORING_CQE_F_SOCK_NONEMPTY ? " NONEMPTY" : "",
             s.flags & IORING_CQE_F_NOTIF ? " NOTIF" : "");
    return text;
}

/* ---- the recorder: a door whose enter and clock look at the queue ---- */

static struct {
    struct kr__kernel inner;
    struct io_uring *ring;
    unsigned seen;
    struct shapes *into;
} tape;

static void look(void) {
    if (!tape.ring)
        return;
    unsigned tail = __atomic_load_n(tape.ring->cq.ktail, __ATOMIC_ACQUIRE);
    unsigned head = *tape.ring->cq.khead, mask = *tape.ring->cq.kring_mask;
    if ((int)(head - tape.seen) > 0)
        tape.seen = head;
    for (; tape.seen != tail; tape.seen++) {
        const struct io_uring_cqe *cqe = &tape.ring->cq.cqes[tape.seen & mask];
        struct shape s = {.verb = kr__tag_unpack(cqe->user_data).op,
                          .res = cqe->res > 0 ? 1 : cqe->res,
                          .flags = cqe->flags & FLAGS};
        shape_add(tape.into, s);
    }
}

static int tape_enter(const struct kr__kernel *k, struct io_uring *ring, unsigned submit,
                      unsigned wait_for, unsigned flags, const struct kr__getevents_arg *arg) {
    tape.ring = ring;
    int rc = tape.inner.ring.enter(k, ring, submit, wait_for, flags, arg);
    look();
    return rc;
}

static int64_t tape_clock(const struct kr__kernel *k) {
    int64_t now = tape.inner.process.clock(k);
    look();
    return now;
}

static void tape_start(struct kr__kernel *door, struct shapes *into) {
    tape.inner = *door;
    tape.ring = NULL;
    tape.seen = 0;
    tape.into = into;
    door->ring.enter = tape_enter;
    door->process.clock = tape_clock;
}

/* ---- the rig: a reactor and far ends, on either kernel ---- */

struct rig {
    struct kr_sim *sim; /* NULL: the real kernel */
    struct kr_reactor *r;
    kr_listener listener;
    struct kr_listen_opts opts;
    uint16_t port;
    struct far fars[FARS_MAX];
    /* what the server does */
    bool hoards, pauses, floods, keeps;
    int close_at_open; /* an enum kr_close, or -1 */
    kr_conn last;
};

static void turns(struct rig *rig) {
    for (unsigned quiet = 0; quiet < QUIET;) {
        int rc = kr_step(rig->r, 2 * MS);
        CHECK_GE(rc, 0);
        quiet = rc ? 0 : quiet + 1;
        CHECK_GT(tap_remaining_ns(), 0);
    }
}

/* ---- the server ---- */

static void on_open(struct kr_reactor *r, kr_conn conn, void *user) {
    static const char flood[1 << 20];
    struct rig *rig = user;
    rig->last = conn;
    if (rig->pauses)
        CHECK_OK(kr_conn_pause(r, conn));
    for (unsigned i = 0; rig->floods && i < 12; i++)
        CHECK_OK(kr_conn_send(r, conn, flood, sizeof flood));
    if (rig->close_at_open >= 0)
        CHECK_OK(kr_conn_close(r, conn, (enum kr_close)rig->close_at_open));
}

static size_t on_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                      size_t size) {
    struct rig *rig = user;
    if (rig->hoards)
        return 0;
    return kr_conn_send(r, conn, data, size) == -ENOBUFS ? 0 : size;
}

static void on_eof(struct kr_reactor *r, kr_conn conn, void *user) {
    struct rig *rig = user;
    if (!rig->keeps)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_FLUSH));
}

static const struct kr_conn_ops ops = {.on_open = on_open, .on_data = on_data, .on_eof = on_eof};

static void rig_listen(struct rig *rig) {
    struct kr_addr addr;
    CHECK_OK(kr_addr_ip(&addr, "127.0.0.1", 0));
    CHECK_OK(kr_listen(rig->r, &rig->listener, &addr, &rig->opts, &ops, rig));
    CHECK_OK(kr_listener_addr(rig->r, rig->listener, &addr));
    rig->port = kr_addr_port(&addr);
}

static void rig_end(struct rig *rig) {
    for (unsigned i = 0; i < FARS_MAX; i++) {
        if (rig->fars[i].open)
            far_end(&rig->fars[i], false);
    }
    turns(rig);
    CHECK_OK(kr_reactor_free(rig->r));
}

/* ---- the scripts ---- */

static void crowd(struct rig *rig, unsigned count, size_t size) {
    for (unsigned i = 0; i < count; i++)
        far_connect(&rig->fars[i], rig->sim, rig->port);
    turns(rig);
    for (unsigned i = 0; size && i < count; i++)
        far_send(&rig->fars[i], size);
    turns(rig);
}

static void script_echo(struct rig *rig) {
    crowd(rig, 3, 100);
    far_send(&rig->fars[0], 5000);
    turns(rig);
    far_read(&rig->fars[0]);
    far_shutdown(&rig->fars[0]);
    turns(rig);
}

static void script_early(struct rig *rig) {
    far_connect(&rig->fars[0], rig->sim, rig->port);
    far_send(&rig->fars[0], 10);
    far_shutdown(&rig->fars[0]);
    far_connect(&rig->fars[1], rig->sim, rig->port);
    far_end(&rig->fars[1], false);
    far_connect(&rig->fars[2], rig->sim, rig->port);
    far_send(&rig->fars[2], 10);
    far_end(&rig->fars[2], true);
    far_connect(&rig->fars[3], rig->sim, rig->port);
    far_end(&rig->fars[3], true);
    turns(rig);
}

static void script_reset(struct rig *rig) {
    crowd(rig, 3, 0);
    far_end(&rig->fars[0], true);
    far_send(&rig->fars[1], 50);
    far_end(&rig->fars[1], true);
    turns(rig);
    far_send(&rig->fars[2], 3000);
    turns(rig);
    far_end(&rig->fars[2], false); /* unread bytes: RST */
    turns(rig);
}

static void script_half(struct rig *rig) {
    rig->keeps = true;
    crowd(rig, 3, 50);
    far_shutdown(&rig->fars[0]);
    far_end(&rig->fars[1], false);
    turns(rig);
    kr_conn_send(rig->r, rig->last, "late", 4);
    turns(rig);
    far_shutdown(&rig->fars[2]);
    turns(rig);
    far_end(&rig->fars[2], true);
    kr_conn_send(rig->r, rig->last, "late", 4);
    turns(rig);
    kr_conn_close(rig->r, rig->last, KR_CLOSE_NOW);
    turns(rig);
}

/* Our own side ends first, then the peer's; and with a peer that has reset. */
static void script_half_ours(struct rig *rig) {
    rig->keeps = true;
    crowd(rig, 2, 50);
    CHECK_OK(kr_conn_shutdown(rig->r, rig->last));
    turns(rig);
    CHECK_GT(far_read(&rig->fars[1]), 0);
    while (far_read(&rig->fars[1]) == -EAGAIN) /* a worker of the kernel's may be late */
        turns(rig);
    far_shutdown(&rig->fars[1]);
    turns(rig);
    kr_conn_close(rig->r, rig->last, KR_CLOSE_NOW);
    turns(rig);
}

static void script_half_reset(struct rig *rig) {
    rig->pauses = true;
    crowd(rig, 1, 0);
    far_end(&rig->fars[0], true);
    kr_conn_shutdown(rig->r, rig->last);
    turns(rig);
}

static void script_flood(struct rig *rig) {
    rig->floods = true;
    crowd(rig, 4, 0);
    for (unsigned i = 0; i < 6; i++) {
        far_read(&rig->fars[0]);
        turns(rig);
    }
    far_end(&rig->fars[1], true);
    far_end(&rig->fars[2], false);
    turns(rig);
    kr_conn_close(rig->r, rig->last, KR_CLOSE_NOW); /* half sent */
    turns(rig);
}

static void script_flood_reset(struct rig *rig) {
    rig->floods = true;
    crowd(rig, 1, 0);
    kr_conn_close(rig->r, rig->last, KR_CLOSE_RESET);
    turns(rig);
}

static void script_close_now(struct rig *rig) {
    rig->close_at_open = KR_CLOSE_NOW;
    crowd(rig, 4, 10);
}

static void script_close_reset(struct rig *rig) {
    rig->close_at_open = KR_CLOSE_RESET;
    crowd(rig, 4, 10);
}

static void script_close_armed(struct rig *rig) {
    crowd(rig, 2, 10);
    kr_conn_close(rig->r, rig->last, KR_CLOSE_NOW);
    turns(rig);
}

static void script_starve(struct rig *rig) {
    crowd(rig, 12, 3000);
    for (unsigned i = 0; i < 12; i++)
        far_read(&rig->fars[i]);
    turns(rig);
}

static void script_many_pieces(struct rig *rig) {
    crowd(rig, 1, 0);
    far_send(&rig->fars[0], 60000);
    turns(rig);
    far_read(&rig->fars[0]);
    turns(rig);
}

static void script_pause(struct rig *rig) {
    rig->pauses = true;
    crowd(rig, 2, 5000);
    kr_conn_resume(rig->r, rig->last);
    turns(rig);
    kr_conn_pause(rig->r, rig->last);
    turns(rig);
    far_send(&rig->fars[1], 100);
    kr_conn_resume(rig->r, rig->last);
    turns(rig);
}

static void script_overflow(struct rig *rig) {
    for (unsigned i = 0; i < 24; i++)
        far_connect(&rig->fars[i], rig->sim, rig->port);
    turns(rig);
    for (unsigned i = 0; i < 24; i++) {
        far_send(&rig->fars[i], 100);
        far_shutdown(&rig->fars[i]);
    }
    turns(rig);
}

static void script_tight(struct rig *rig) {
    for (unsigned i = 0; i < 8; i++)
        far_connect(&rig->fars[i], rig->sim, rig->port);
    turns(rig);
    for (unsigned i = 0; i < 8; i++) {
        far_end(&rig->fars[i], false);
        turns(rig);
    }
}

static void script_listener(struct rig *rig) {
    crowd(rig, 2, 10);
    CHECK_OK(kr_listener_pause(rig->r, rig->listener));
    turns(rig);
    far_connect(&rig->fars[2], rig->sim, rig->port);
    turns(rig);
    CHECK_OK(kr_listener_resume(rig->r, rig->listener));
    turns(rig);
    CHECK_OK(kr_listener_close(rig->r, rig->listener));
    turns(rig);
}

static void nothing(struct kr_reactor *r, void *arg) {
    (void)r;
    (void)arg;
}

static void wake(struct kr_sim *sim, void *arg) {
    (void)sim;
    CHECK_OK(kr_post(arg, nothing, NULL));
}

/* A post to a reactor that sleeps; on the real kernel by a child of the wake descriptor's. */
static void script_post(struct rig *rig) {
    turns(rig);
    if (rig->sim) {
        CHECK_OK(kr_sim_at(rig->sim, MS, wake, rig->r));
    } else {
        uint64_t one = 1;
        CHECK_EQ(write(rig->r->inbox->wake_fd, &one, sizeof one), (ssize_t)sizeof one);
    }
    turns(rig);
    CHECK_OK(kr_post(rig->r, nothing, NULL));
    turns(rig);
}

struct script {
    const char *name;
    void (*run)(struct rig *rig);
    unsigned conn_max, cq_entries, buf_count;
    size_t buf_size;
    bool addresses;
    unsigned shapes; /* that the real kernel must show at least, or the script shows nothing */
};

static const struct script scripts[] = {
    {"echo", script_echo, 400, 256, 64, 1024, false, 6},
    {"echo with addresses", script_echo, 400, 256, 64, 1024, true, 6},
    {"ended before accepted", script_early, 400, 256, 64, 1024, false, 5},
    {"reset", script_reset, 400, 256, 64, 1024, false, 5},
    {"half closed", script_half, 400, 256, 64, 1024, false, 5},
    {"half closed by us", script_half_ours, 400, 256, 64, 1024, false, 6},
    {"half closed to nobody", script_half_reset, 400, 256, 64, 1024, false, 3},
    {"flood", script_flood, 400, 256, 64, 1024, false, 4},
    {"flood, then reset", script_flood_reset, 400, 256, 64, 1024, false, 4},
    {"closed at open", script_close_now, 400, 256, 64, 1024, false, 3},
    {"reset at open", script_close_reset, 400, 256, 64, 1024, false, 4},
    {"closed while armed", script_close_armed, 400, 256, 64, 1024, false, 4},
    {"few buffers", script_starve, 400, 256, 2, 256, false, 5},
    {"many pieces", script_many_pieces, 400, 4096, 1024, 64, false, 4},
    {"paused", script_pause, 400, 256, 64, 64, false, 5},
    {"overflow", script_overflow, 400, 4, 64, 1024, false, 6},
    {"tight table", script_tight, 3, 256, 64, 1024, false, 4},
    {"tight table with addresses", script_tight, 3, 256, 64, 1024, true, 4},
    {"listener", script_listener, 400, 256, 64, 1024, false, 4},
    {"tight listener", script_listener, 3, 256, 64, 1024, false, 4},
    {"post", script_post, 400, 256, 64, 1024, false, 2},
};

static void run(const struct script *script, const struct kr__kernel *door, struct kr_sim *sim) {
    struct rig rig = {.sim = sim, .close_at_open = -1};
    struct kr_config config;
    kr_config_init(&config);
    config.taskrun = (enum kr_taskrun)tap_variant()->mode;
    config.sq_entries = script->cq_entries < 64 ? script->cq_entries : 64;
    config.cq_entries = script->cq_entries;
    config.conn_max = script->conn_max;
    config.buf_count = script->buf_count;
    config.buf_size = script->buf_size;
    CHECK_OK(kr__reactor_new(&rig.r, &config, NULL, door, tap_variant()->caps_mask));
    kr_listen_opts_init(&rig.opts);
    rig.opts.backlog = 32;
    rig.opts.addresses = script->addresses;
    rig_listen(&rig);
    script->run(&rig);
    rig_end(&rig);
}

static void run_real(const struct script *script, struct shapes *into) {
    struct kr__kernel door = kr__linux;
    tape_start(&door, into);
    run(script, &door, NULL);
}

/* Faults that only a failing host or network brings are left off: the script would not go on. */
static void run_sim(const struct script *script, struct shapes *into, uint64_t seed) {
    static const enum kr_sim_fault mild[] = {
        KR_SIM_TASK_WORK, KR_SIM_OVERTAKE, KR_SIM_SHORT_RECV, KR_SIM_SHORT_SEND, KR_SIM_RECV_END,
        KR_SIM_ACCEPT_END, KR_SIM_CANCEL_LATE, KR_SIM_LATE_FLUSH,
    };
    struct kr_sim *sim;
    CHECK_OK(kr_sim_new(&sim, seed));
    for (unsigned i = 0; i < sizeof mild / sizeof *mild; i++)
        CHECK_OK(kr_sim_fault_set(sim, mild[i], seed % 2 ? (unsigned)kr_sim_random(sim, 200) : 0));
    tape_start(&sim->door, into);
    run(script, &sim->door, sim);
    CHECK_OK(kr_sim_free(sim));
}

static unsigned compare(const struct script *script) {
    struct shapes real = {0}, simulated = {0};
    for (unsigned times = 0; times < 3; times++)
        run_real(script, &real);
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        run_sim(script, &simulated, seed);
    unsigned unknown = 0;
    for (unsigned i = 0; i < real.count; i++) {
        bool known = shape_in(&simulated, real.all[i]);
        tap_note("%s: %s%s", script->name, shape_text(real.all[i]), known ? "" : "   UNKNOWN");
        unknown += !known;
    }
    CHECK_GE(real.count, script->shapes);
    return unknown;
}

/* The kernel's: no completion of a shape that the simulated one does not know. */
TEST_EACH(simulated_kernel_shows_every_shape_of_the_real_one, .deadline_s = 120) {
    unsigned unknown = 0;
    for (unsigned i = 0; i < sizeof scripts / sizeof *scripts; i++)
        unknown += compare(&scripts[i]);
    CHECK_EQ(unknown, 0);
}

/* Ours: the comparison can fail. */
TEST(a_shape_that_is_missing_is_noticed) {
    struct shapes set = {0};
    struct shape seen = {.verb = KR__VERB_recv, .res = 1, .flags = IORING_CQE_F_MORE};
    shape_add(&set, seen);
    CHECK(shape_in(&set, seen));
    seen.flags = 0;
    CHECK(!shape_in(&set, seen));
    seen = (struct shape){.verb = KR__VERB_recv, .res = -ECONNRESET, .flags = IORING_CQE_F_MORE};
    CHECK(!shape_in(&set, seen));
}

TAP_MAIN(drift, 74)
