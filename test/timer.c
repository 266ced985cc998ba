/* Timers on the real ring: never early, in order, once each, and neither starved by traffic nor
 * starving it; and the idle deadline of a connection, which is a timer of the library's own.
 *
 * Time is only ever compared with lower bounds that the contract gives (kr_now when a timer was
 * set, plus its time), or counted in turns, so that a machine which stalls can not fail a case. */
#include "harness/echo.h"
#include "harness/server.h"

#include <errno.h>
#include <stdlib.h>

#define US 1000ll

/* One timer: what it was set to and what has become of it. */
struct probe {
    kr_timer timer;
    int64_t due;    /* the clock before it was set, plus its time: not due earlier */
    int64_t latest; /* the clock after it was set, plus its time: due by then (the model's) */
    int64_t fired_at;
    unsigned fires;
    unsigned index;
    bool live;
    void *home;
};

static void probe_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    struct probe *p = user;
    CHECK_EQ(timer.bits, p->timer.bits);
    CHECK_GE(kr_now(r), p->due);
    CHECK_GE(tap_now_ns(), p->due);
    p->fired_at = kr_now(r);
    p->fires++;
}

static void probe_start(struct kr_reactor *r, struct probe *p, int64_t in_ns, int64_t every_ns) {
    p->due = kr_now(r) + in_ns;
    CHECK_OK(kr_timer_start(r, &p->timer, in_ns, every_ns, probe_fire, p));
}

static void zero_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    ++*(unsigned *)user;
    CHECK_OK(kr_timer_restart(r, timer, 0, 0));
}

/* Ours: 0 ns is the next turn, not this call and not this turn again. A timer that restarts itself
 * at 0 fires exactly once in each kr_step. */
TEST_EACH(zero_fires_once_in_the_next_turn) {
    struct kr_reactor *r = test_reactor(NULL);
    unsigned fires = 0;
    CHECK_OK(kr_timer_start(r, NULL, 0, 0, zero_fire, &fires));
    CHECK_EQ(fires, 0u);
    for (unsigned i = 1; i <= 100; i++) {
        CHECK_EQ(kr_step(r, 0), 1);
        CHECK_EQ(fires, i);
    }
    CHECK_EQ(test_stats(r).timer_fires, 100u);
    test_reactor_free(r);
}

/* Ours: a wait ends when a timer is due, not before, and without going round idly. */
TEST_EACH(endless_wait_ends_with_the_timer) {
    struct kr_reactor *r = test_reactor(NULL);
    struct probe p = {0};
    CHECK_EQ(kr_step(r, 0), 0);
    probe_start(r, &p, 20 * MS, 0);
    unsigned steps = 0;
    for (; !p.fires; steps++)
        CHECK_OK(kr_step(r, -1));
    CHECK_LE(steps, 3u);
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: with nothing to do, a bounded wait lasts as long as was asked, though a timer is set for
 * later. */
TEST_EACH(bounded_wait_ends_in_time_without_the_timer) {
    struct kr_reactor *r = test_reactor(NULL);
    struct probe p = {0};
    CHECK_EQ(kr_step(r, 0), 0);
    probe_start(r, &p, HOUR, 0);
    int64_t before = tap_now_ns();
    CHECK_EQ(kr_step(r, 3 * MS), 0);
    CHECK_GE(tap_now_ns() - before, 3 * MS);
    CHECK_EQ(p.fires, 0u);
    CHECK_OK(kr_timer_stop(r, p.timer));
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: the end of time is never: no overflow makes a huge timer fire, and no wait is broken by
 * it. */
TEST_EACH(huge_never_fires) {
    struct kr_reactor *r = test_reactor(NULL);
    struct probe huge[3] = {0}, soon = {0};
    for (unsigned i = 0; i < 3; i++)
        CHECK_OK(kr_timer_start(r, &huge[i].timer, INT64_MAX - i, i ? INT64_MAX : 0, probe_fire,
                                &huge[i]));
    probe_start(r, &soon, MS, INT64_MAX);
    TEST_UNTIL(r, soon.fires == 1);
    for (unsigned i = 0; i < 10; i++)
        test_step(r, "nothing");
    CHECK_EQ(huge[0].fires + huge[1].fires + huge[2].fires, 0u);
    CHECK_EQ(soon.fires, 1u);
    CHECK_EQ(test_stats(r).timers, 4u);
    test_reactor_free(r);
}

#define ORDERED 1000

/* Timers started in one callback: those of 0 ns are due at the very same time, of the others it is
 * known between which readings of the clock their time began. */
struct ordered {
    unsigned fired, zeros;
    int64_t last_earliest;
    struct ordered_timer {
        struct ordered *home;
        int64_t in_ns, earliest, latest;
        unsigned index;
    } timers[ORDERED];
};

static void ordered_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    UNUSED(r, timer);
    struct ordered_timer *t = user;
    struct ordered *o = t->home;
    if (t->in_ns == 0) {
        CHECK_EQ(o->fired, o->zeros);
        CHECK_EQ(t->index, o->zeros * 4);
        o->zeros++;
    } else {
        CHECK_LE(o->last_earliest, t->latest);
        o->last_earliest = t->earliest > o->last_earliest ? t->earliest : o->last_earliest;
    }
    o->fired++;
}

static void ordered_start(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    struct ordered *o = user;
    for (unsigned i = 0; i < ORDERED; i++) {
        struct ordered_timer *t = &o->timers[i];
        *t = (struct ordered_timer){.home = o, .index = i};
        t->in_ns = i % 4 ? (int64_t)(1 + tap_random_below(20)) * 200 * US : 0;
        t->earliest = tap_now_ns() + t->in_ns;
        CHECK_OK(kr_timer_start(r, NULL, t->in_ns, 0, ordered_fire, t));
        t->latest = tap_now_ns() + t->in_ns;
    }
}

/* Ours: timers fire in the order of their due times, and of starting among equals. */
TEST_EACH(order_is_that_of_due_times_then_of_starting) {
    static struct ordered o;
    struct kr_reactor *r = test_reactor(NULL);
    CHECK_OK(kr_timer_start(r, NULL, 0, 0, ordered_start, &o));
    TEST_UNTIL(r, o.fired == ORDERED);
    CHECK_EQ(o.zeros, ORDERED / 4u);
    test_reactor_end(r, (struct test_levels){0});
}

static void fire_and_go_on(struct kr_reactor *r, kr_timer timer, void *user) {
    struct probe *p = user;
    p->fires++;
    p->fired_at = kr_now(r);
    if (p->fires < 3) {
        CHECK_OK(kr_timer_restart(r, timer, MS, 0));
        CHECK_OK(kr_timer_restart(r, timer, 0, 0));
    }
}

/* Ours: a one-shot timer is gone when its function has returned, unless that restarted it; the last
 * restart counts, and the handle stays the same. */
TEST_EACH(one_shot_ends_unless_restarted_inside) {
    struct kr_reactor *r = test_reactor(NULL);
    struct probe p = {0};
    CHECK_OK(kr_timer_start(r, &p.timer, 0, 0, fire_and_go_on, &p));
    for (unsigned i = 1; i <= 3; i++) {
        CHECK_EQ(kr_step(r, 0), 1);
        CHECK_EQ(p.fires, i);
    }
    CHECK_ERR(kr_timer_restart(r, p.timer, 0, 0), ESTALE);
    CHECK_ERR(kr_timer_stop(r, p.timer), ESTALE);
    CHECK_EQ(kr_step(r, 0), 0);
    CHECK_EQ(p.fires, 3u);
    test_reactor_end(r, (struct test_levels){0});
}

static void fire_and_stop(struct kr_reactor *r, kr_timer timer, void *user) {
    struct probe *p = user;
    if (++p->fires < p->index)
        return;
    CHECK_OK(kr_timer_stop(r, timer));
    CHECK_ERR(kr_timer_stop(r, timer), ESTALE);
    CHECK_ERR(kr_timer_restart(r, timer, 0, 0), ESTALE);
}

/* Ours: a timer may stop itself, one-shot (at its first firing) and periodic (at its third); the
 * handle is stale at once, and a new timer started in the same slot is not mistaken for it. */
TEST_EACH(stopping_itself_inside_its_callback) {
    struct kr_reactor *r = test_reactor(NULL);
    struct probe once = {.index = 1}, often = {.index = 3}, next = {0};
    CHECK_OK(kr_timer_start(r, &once.timer, 0, 0, fire_and_stop, &once));
    CHECK_OK(kr_timer_start(r, &often.timer, 0, 50 * US, fire_and_stop, &often));
    TEST_UNTIL(r, once.fires == 1 && often.fires == 3);
    test_rest(r, (struct test_levels){0});
    probe_start(r, &next, MS, 0);
    CHECK_ERR(kr_timer_stop(r, once.timer), ESTALE);
    CHECK_ERR(kr_timer_stop(r, often.timer), ESTALE);
    TEST_UNTIL(r, next.fires == 1);
    CHECK_EQ(once.fires, 1u);
    CHECK_EQ(often.fires, 3u);
    test_reactor_free(r);
}

static void fire_and_meddle(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    struct probe *others = user;
    CHECK_OK(kr_timer_stop(r, others[0].timer));
    CHECK_ERR(kr_timer_stop(r, others[0].timer), ESTALE);
    others[1].due = kr_now(r) + MS;
    CHECK_OK(kr_timer_restart(r, others[1].timer, MS, 0));
    others[2].due = kr_now(r);
    CHECK_OK(kr_timer_restart(r, others[2].timer, 0, 0));
    probe_start(r, &others[3], 0, 0);
}

/* Ours: a timer that is due in the same turn as the one whose callback stops it does not fire; one
 * that it restarts fires once, at its new time, and not in this turn even when that is now; neither
 * does one that it starts. */
TEST_EACH(stopping_and_restarting_others_due_in_the_same_turn) {
    struct kr_reactor *r = test_reactor(NULL);
    struct probe others[4] = {0};
    CHECK_OK(kr_timer_start(r, NULL, 0, 0, fire_and_meddle, others));
    for (unsigned i = 0; i < 3; i++)
        probe_start(r, &others[i], 0, 0);
    CHECK_EQ(kr_step(r, 0), 1);
    for (unsigned i = 0; i < 4; i++)
        CHECK_EQ(others[i].fires, 0u);
    CHECK_GE(kr_step(r, 0), 2);
    CHECK_EQ(others[2].fires, 1u);
    CHECK_EQ(others[3].fires, 1u);
    TEST_UNTIL(r, others[1].fires == 1);
    CHECK_EQ(others[0].fires, 0u);
    test_reactor_end(r, (struct test_levels){0});
}

/* The second beat stalls for ten beats and a half, so that the third firing is for the eleventh
 * beat at the least. */
static void fire_and_stall(struct kr_reactor *r, kr_timer timer, void *user) {
    (void)timer;
    struct probe *p = user;
    unsigned beat = p->fires < 2 ? p->fires : p->fires + 9;
    CHECK_GE(kr_now(r), p->due + beat * MS);
    if (++p->fires != 2)
        return;
    int64_t until = tap_now_ns() + 10 * MS + MS / 2;
    while (tap_now_ns() < until)
        ;
}

/* Ours: a periodic timer that is late skips the beats that it missed; it does not fire them in a
 * row. */
TEST_EACH(periodic_skips_missed_beats) {
    struct kr_reactor *r = test_reactor(NULL);
    struct probe p = {0};
    p.due = kr_now(r) + MS;
    CHECK_OK(kr_timer_start(r, &p.timer, MS, MS, fire_and_stall, &p));
    while (p.fires < 8) {
        unsigned before = p.fires;
        CHECK_OK(kr_step(r, -1));
        CHECK_LE(p.fires, before + 1);
    }
    CHECK_OK(kr_timer_stop(r, p.timer));
    test_reactor_end(r, (struct test_levels){0});
}

/* Ours: a periodic timer that is changed to one-shot fires once more; and the other way round. */
TEST_EACH(restart_changes_the_period) {
    struct kr_reactor *r = test_reactor(NULL);
    struct probe p = {0};
    probe_start(r, &p, 0, 100 * US);
    TEST_UNTIL(r, p.fires >= 3);
    p.due = kr_now(r) + MS;
    CHECK_OK(kr_timer_restart(r, p.timer, MS, 0));
    unsigned before = p.fires;
    TEST_UNTIL(r, p.fires > before);
    CHECK_EQ(p.fires, before + 1);
    CHECK_ERR(kr_timer_stop(r, p.timer), ESTALE);

    probe_start(r, &p, HOUR, 0);
    p.due = kr_now(r);
    CHECK_OK(kr_timer_restart(r, p.timer, 0, 100 * US));
    TEST_UNTIL(r, p.fires >= before + 4);
    CHECK_OK(kr_timer_stop(r, p.timer));
    test_reactor_end(r, (struct test_levels){0});
}

#define MANY 100000

/* Ours: a hundred thousand timers, a half of them stopped at random and some set for never: each of
 * the others fires exactly once and not early, and those left over end with the reactor. */
TEST_EACH(hundred_thousand) {
    struct probe *probes = calloc(MANY, sizeof *probes);
    CHECK(probes);
    struct kr_reactor *r = test_reactor(NULL);
    for (unsigned i = 0; i < MANY; i++) {
        int64_t in_ns = i % 100 == 0 ? HOUR : (int64_t)tap_random_below((uint64_t)(50 * MS));
        probe_start(r, &probes[i], in_ns, 0);
        probes[i].live = true;
    }
    CHECK_EQ(test_stats(r).timers, MANY);

    unsigned due = 0, never = 0;
    for (unsigned i = 0; i < MANY; i++) {
        if (tap_random() & 1) {
            CHECK_OK(kr_timer_stop(r, probes[i].timer));
            probes[i].live = false;
        } else if (i % 100 == 0) {
            never++;
        } else {
            due++;
        }
    }
    CHECK_EQ(test_stats(r).timers, due + never);

    TEST_UNTIL(r, test_stats(r).timer_fires >= due);
    test_rest(r, (struct test_levels){.timers = never});
    for (unsigned i = 0; i < MANY; i++)
        CHECK_EQ(probes[i].fires, probes[i].live && i % 100 ? 1u : 0u);
    test_reactor_free(r);
    free(probes);
}

#define MODEL_TIMERS 300

struct model {
    uint64_t ops;
    unsigned live;
    struct probe probes[MODEL_TIMERS];
};

static void model_fire(struct kr_reactor *r, kr_timer timer, void *user);

static int64_t model_time(void) {
    return tap_random_below(4) ? (int64_t)tap_random_below((uint64_t)(2 * MS)) : 0;
}

static void model_set(struct kr_reactor *r, struct probe *p, int64_t in_ns) {
    p->due = kr_now(r) + in_ns;
    if (!p->live) {
        CHECK_OK(kr_timer_start(r, &p->timer, in_ns, 0, model_fire, p));
        p->live = true;
        ((struct model *)p->home)->live++;
    } else {
        CHECK_OK(kr_timer_restart(r, p->timer, in_ns, 0));
    }
    p->latest = tap_now_ns() + in_ns;
}

static void model_shake(struct kr_reactor *r, struct model *m, unsigned ops) {
    for (; ops > 0; ops--, m->ops++) {
        struct probe *p = &m->probes[tap_random_below(MODEL_TIMERS)];
        if (p->live && tap_random_below(3) == 0) {
            CHECK_OK(kr_timer_stop(r, p->timer));
            p->live = false;
            m->live--;
        } else {
            model_set(r, p, model_time());
        }
    }
}

static void model_fire(struct kr_reactor *r, kr_timer timer, void *user) {
    struct probe *p = user;
    struct model *m = p->home;
    CHECK(p->live);
    CHECK_EQ(timer.bits, p->timer.bits);
    CHECK_GE(kr_now(r), p->due);
    if (tap_random() & 1) {
        model_set(r, p, model_time());
    } else {
        p->live = false;
        m->live--;
    }
    model_shake(r, m, (unsigned)tap_random_below(4));
}

/* Ours: whatever is started, stopped and restarted, in callbacks and between turns, each timer
 * fires when the model says so: only while it lives, not early, and in the first turn after it is
 * due. */
TEST_EACH(random_changes_agree_with_a_model) {
    static struct model m;
    struct kr_reactor *r = test_reactor(NULL);
    for (unsigned i = 0; i < MODEL_TIMERS; i++)
        m.probes[i] = (struct probe){.index = i, .home = &m};
    uint64_t ops = tap_full() ? 1000000 : 50000;
    while (m.ops < ops) {
        model_shake(r, &m, (unsigned)tap_random_below(20));
        int64_t before = tap_now_ns();
        test_step(r, "random changes");
        for (unsigned i = 0; i < MODEL_TIMERS; i++)
            CHECK(!m.probes[i].live || m.probes[i].latest >= before);
        CHECK_EQ(test_stats(r).timers, m.live);
    }
    test_reactor_free(r);
}

/* Ours: kr_reactor_free ends timers without firing them, the due ones too. */
TEST_EACH(free_fires_nothing) {
    struct kr_reactor *r = test_reactor(NULL);
    struct probe due = {0}, later = {0};
    CHECK_EQ(kr_step(r, 0), 0);
    probe_start(r, &due, 0, MS);
    probe_start(r, &later, HOUR, 0);
    test_reactor_free(r);
    CHECK_EQ(due.fires + later.fires, 0u);
}

/* Ours: memory that is refused is an error of that call alone; nothing else is disturbed. */
TEST_EACH(refused_memory_refuses_the_timer) {
    static struct probe probes[4096];
    struct kr_reactor *r = test_reactor(NULL);
    unsigned count = 0;
    probe_start(r, &probes[count++], MS, 0);
    test_reactor_refuse_memory(r, 0);
    for (; count < 4096; count++) {
        probes[count].due = kr_now(r) + MS;
        kr_timer kept = {.bits = 7};
        int rc = kr_timer_start(r, &kept, MS, 0, probe_fire, &probes[count]);
        if (rc < 0) {
            CHECK_ERR(rc, ENOMEM);
            CHECK_EQ(kept.bits, 7u);
            break;
        }
        probes[count].timer = kept;
    }
    CHECK_LT(count, 4096u);
    test_reactor_refuse_memory(r, -1);
    CHECK_EQ(test_stats(r).timers, count);
    TEST_UNTIL(r, test_stats(r).timer_fires == count);
    for (unsigned i = 0; i < 4096; i++)
        CHECK_EQ(probes[i].fires, i < count ? 1u : 0u);
    test_reactor_free(r);
}

#define CLIENTS 32

static void crowd_open(struct test_echo *crowd, uint16_t port, uint64_t total) {
    for (unsigned i = 0; i < CLIENTS; i++)
        crowd[i] = (struct test_echo){
            .fd = test_connect(port), .seed = i, .total = total, .send_piece = 512};
}

static bool crowd_done(struct test_echo *crowd) {
    bool done = true;
    for (unsigned i = 0; i < CLIENTS; i++) {
        test_echo_move(&crowd[i]);
        done = done && test_echo_done(&crowd[i]);
    }
    return done;
}

/* Ours: traffic that fills every turn does not keep a timer from firing in the first turn after it
 * is due. turn_cqes is so small that completions are always left over. */
TEST_EACH(traffic_does_not_starve_timers) {
    struct kr_config config = test_config();
    config.turn_cqes = 2;
    struct kr_reactor *r = test_reactor(&config);
    uint16_t port = test_listen(r, NULL, NULL, &test_send_back_ops, NULL);
    static struct test_echo crowd[CLIENTS];
    crowd_open(crowd, port, 64 * 1024);
    struct probe p = {0};
    probe_start(r, &p, 0, 100 * US);
    p.fired_at = p.due;
    while (!crowd_done(crowd)) {
        int64_t before = tap_now_ns();
        unsigned fires = p.fires;
        bool due = before > p.fired_at + 100 * US;
        test_step(r, "echoes beside a timer");
        CHECK(!due || p.fires == fires + 1);
    }
    CHECK_GT(p.fires, 3u);
    CHECK_OK(kr_timer_stop(r, p.timer));
    test_echoes_close(crowd, CLIENTS);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: timers that are due in every turn do not keep the traffic from going on. */
TEST_EACH(timers_do_not_starve_traffic) {
    struct kr_reactor *r = test_reactor(NULL);
    uint16_t port = test_listen(r, NULL, NULL, &test_send_back_ops, NULL);
    static struct test_echo crowd[CLIENTS];
    crowd_open(crowd, port, 64 * 1024);
    unsigned fires = 0;
    for (unsigned i = 0; i < 32; i++)
        CHECK_OK(kr_timer_start(r, NULL, 0, 0, zero_fire, &fires));
    TEST_UNTIL(r, crowd_done(crowd));
    CHECK_GT(fires, 32u);
    test_echoes_close(crowd, CLIENTS);
    TEST_UNTIL(r, test_stats(r).conns == 0);
    test_reactor_free(r);
}

/* What an idle case has seen of its connection. */
struct idle {
    kr_conn conn;
    int64_t opened, active, closed;
    int64_t queued[8]; /* when each byte was given to kr_conn_send */
    unsigned timeouts, beats, sends;
    int error;
    enum kr_why why;
};

static void idle_open(struct kr_reactor *r, kr_conn conn, void *user) {
    struct idle *seen = user;
    seen->conn = conn;
    seen->opened = seen->active = kr_now(r);
}

static size_t idle_data(struct kr_reactor *r, kr_conn conn, void *user, const void *data,
                        size_t size) {
    UNUSED(conn, data);
    ((struct idle *)user)->active = kr_now(r);
    return size;
}

static void idle_close(struct kr_reactor *r, kr_conn conn, void *user, int error, enum kr_why why) {
    (void)conn;
    struct idle *seen = user;
    seen->closed = kr_now(r);
    seen->error = error;
    seen->why = why;
}

static const struct kr_conn_ops idle_ops = {
    .on_open = idle_open, .on_data = idle_data, .on_close = idle_close};

#define IDLE (10 * MS)

static uint16_t idle_listen(struct kr_reactor *r, const struct kr_conn_ops *ops,
                            struct idle *seen) {
    struct kr_listen_opts opts = test_listen_opts();
    opts.conn.idle_ns = IDLE;
    return test_listen(r, NULL, &opts, ops, seen);
}

static void check_timed_out(const struct idle *seen, int64_t since) {
    CHECK_EQ(seen->error, -ETIMEDOUT);
    CHECK_EQ(seen->why, KR_WHY_TIMEOUT);
    CHECK_GE(seen->closed, since + IDLE);
}

/* Ours: without on_timeout a connection that is silent for idle_ns ends with -ETIMEDOUT, not early,
 * and its peer sees the end. */
TEST_EACH(idle_closes_a_silent_connection) {
    struct kr_reactor *r = test_reactor(NULL);
    struct idle seen = {0};
    int fd = test_connect(idle_listen(r, &idle_ops, &seen));
    TEST_UNTIL(r, seen.closed);
    check_timed_out(&seen, seen.opened);
    CHECK_EQ(test_recv_end(r, fd, NULL), 0);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: received bytes put the deadline off. Bytes come for many times idle_ns, each well before
 * it; then none come, and the end follows the last byte, not the opening. */
TEST_EACH(idle_is_deferred_by_received_bytes) {
    struct kr_reactor *r = test_reactor(NULL);
    struct idle seen = {0};
    int fd = test_connect(idle_listen(r, &idle_ops, &seen));
    TEST_UNTIL(r, seen.opened);
    for (unsigned sent = 0; sent < 20 && !seen.closed;) {
        if (tap_now_ns() - seen.active > IDLE / 4) {
            int64_t before = seen.active;
            test_send(r, fd, "x", 1);
            TEST_UNTIL(r, seen.active > before || seen.closed);
            sent++;
        }
        test_step(r, "a quarter of the idle time");
    }
    TEST_UNTIL(r, seen.closed);
    check_timed_out(&seen, seen.active);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

static void idle_send(struct kr_reactor *r, kr_timer timer, void *user) {
    struct idle *seen = user;
    if (!seen->closed && kr_conn_send(r, seen->conn, "x", 1) == 0)
        seen->queued[seen->sends++] = kr_now(r);
    if (++seen->beats == 8)
        CHECK_OK(kr_timer_stop(r, timer));
}

/* Ours: sent bytes put the deadline off as received ones do. Which were sent, and not just queued
 * when the end came, the client knows. */
TEST_EACH(idle_is_deferred_by_sent_bytes) {
    struct kr_reactor *r = test_reactor(NULL);
    struct idle seen = {0};
    int fd = test_connect(idle_listen(r, &idle_ops, &seen));
    TEST_UNTIL(r, seen.opened);
    CHECK_OK(kr_timer_start(r, NULL, IDLE / 4, IDLE / 4, idle_send, &seen));
    TEST_UNTIL(r, seen.closed && seen.beats == 8);
    size_t got;
    int end = test_recv_end(r, fd, &got);
    CHECK(end == 0 || end == ECONNRESET); /* the one if a byte was just queued */
    CHECK_LE(got, seen.sends);
    check_timed_out(&seen, got ? seen.queued[got - 1] : seen.opened);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

static void idle_timeout(struct kr_reactor *r, kr_conn conn, void *user, enum kr_deadline which) {
    struct idle *seen = user;
    CHECK_EQ(which, KR_DEADLINE_IDLE);
    CHECK_GE(kr_now(r), seen->active + IDLE);
    seen->active = kr_now(r);
    if (++seen->timeouts == 4)
        CHECK_OK(kr_conn_close(r, conn, KR_CLOSE_NOW));
}

static const struct kr_conn_ops patient_ops = {
    .on_open = idle_open, .on_data = idle_data, .on_timeout = idle_timeout, .on_close = idle_close};

/* Ours: on_timeout keeps the connection and sets the deadline anew; closed inside it, the
 * connection ends as its owner's own doing. */
TEST_EACH(idle_starts_anew_after_on_timeout) {
    struct kr_reactor *r = test_reactor(NULL);
    struct idle seen = {0};
    int fd = test_connect(idle_listen(r, &patient_ops, &seen));
    TEST_UNTIL(r, seen.closed);
    CHECK_EQ(seen.timeouts, 4u);
    CHECK_EQ(seen.error, 0);
    CHECK_EQ(seen.why, KR_WHY_LOCAL);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

/* Ours: kr_conn_deadline sets the deadline anew and 0 takes it away. The connection whose deadline
 * was taken away is still open when one that was set anew, to twice as long, has ended. */
TEST_EACH(idle_can_be_changed_and_taken_away) {
    struct kr_reactor *r = test_reactor(NULL);
    struct idle without = {0}, twice = {0};
    int fd[2] = {test_connect(idle_listen(r, &idle_ops, &without)),
                 test_connect(idle_listen(r, &idle_ops, &twice))};
    TEST_UNTIL(r, without.opened && twice.opened);
    if (without.closed || twice.closed)
        tap_note("the machine stalled for longer than the first deadline");
    int taken = kr_conn_deadline(r, without.conn, KR_DEADLINE_IDLE, 0);
    int set = kr_conn_deadline(r, twice.conn, KR_DEADLINE_IDLE, 2 * IDLE);
    int64_t since = kr_now(r);
    TEST_UNTIL(r, twice.closed);
    if (set == 0)
        CHECK_GE(twice.closed, since + IDLE);
    if (taken == 0 && set == 0)
        CHECK_EQ(without.closed, 0);
    CHECK_EQ(twice.error, -ETIMEDOUT);
    test_close(fd[0]);
    test_close(fd[1]);
    test_reactor_end(r, (struct test_levels){.listeners = 2});
}

/* Ours: set between turns, the idle deadline counts from the call, not from the last turn, which
 * was a while ago. */
TEST_EACH(idle_set_between_turns_counts_from_then) {
    struct kr_reactor *r = test_reactor(NULL);
    struct idle seen = {0};
    int fd = test_connect(test_listen(r, NULL, NULL, &idle_ops, &seen));
    TEST_UNTIL(r, seen.opened);
    for (int64_t until = tap_now_ns() + IDLE / 2; tap_now_ns() < until;)
        ;
    int64_t since = tap_now_ns();
    CHECK_OK(kr_conn_deadline(r, seen.conn, KR_DEADLINE_IDLE, IDLE));
    TEST_UNTIL(r, seen.closed);
    check_timed_out(&seen, since);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

static void idle_open_paused(struct kr_reactor *r, kr_conn conn, void *user) {
    idle_open(r, conn, user);
    CHECK_OK(kr_conn_pause(r, conn));
}

static const struct kr_conn_ops paused_ops = {
    .on_open = idle_open_paused, .on_data = idle_data, .on_close = idle_close};

/* Ours: the idle deadline ends a paused connection too, whose peer's going would else never be
 * noticed. */
TEST_EACH(idle_closes_a_paused_connection) {
    struct kr_reactor *r = test_reactor(NULL);
    struct idle seen = {0};
    int fd = test_connect(idle_listen(r, &paused_ops, &seen));
    test_send(r, fd, "unread", 6);
    TEST_UNTIL(r, seen.closed);
    check_timed_out(&seen, seen.opened);
    test_close(fd);
    test_reactor_end(r, (struct test_levels){.listeners = 1});
}

TAP_MAIN(timer, 92)
